"""The diffusion room."""
