"""Sessions: the recorded day as a type, on disk, and brought in from foreign files."""
