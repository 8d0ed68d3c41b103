"""Cells of a grid: clean models, victims, repairs and searches, and how they are measured."""
