"""The toolbox's defences and InverTune, each as a recipe that gives back a model or numbers."""
