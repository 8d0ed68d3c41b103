"""Every usable attack of the toolbox as a recipe that runs on any model."""
