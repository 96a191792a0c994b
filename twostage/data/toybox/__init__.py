"""A procedural open-vocabulary world of textured stuff and things named by attribute, colour and shape."""
