"""Comparisons inside BackdoorBox: recipes, models and the grid of its attacks and defences."""
