"""Weights by name: where published files lie, how they come here whole, and how a changed one is noticed."""
