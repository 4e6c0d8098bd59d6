"""Names of its own, so that a manifest is read without torch."""

from typing import Literal

Layers = Literal["both", "spatial", "temporal"]
"""Which attention layers a block has: ``both``, or one of ERDiff's two ablations ("w/o T" has only the spatial ones)."""

Head = Literal["diagonal", "full", "none"]
"""How behaviours hang on the factors of a :class:`~bci_align.models.factor_vae.FactorVAE`."""
