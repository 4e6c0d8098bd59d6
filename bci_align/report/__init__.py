"""Reports: figures and pages of a streamed day."""
