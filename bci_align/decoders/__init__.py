"""The decoders room."""
