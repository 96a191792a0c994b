"""Published settings, written down from the facts of each system, for `tests/config/test_published_recipes.py`."""
