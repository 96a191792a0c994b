"""Small services for the rest: files, logs, metrics, processes."""
