"""Pictures of predictions and the report page."""
