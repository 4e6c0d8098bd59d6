"""Alignment without labels: re-normalisation, ERDiff refinement of the read-in, and the gate."""
