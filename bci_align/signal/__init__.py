"""The signal room."""
