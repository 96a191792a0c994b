"""Parts that upstream keeps in its `projects` folder."""
