"""BeNeDiff, between sessions: which factor carries which behaviour, whether an alignment kept it, and a film of it."""
