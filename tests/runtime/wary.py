"""Quick stand-ins, but only on days that the real drift score, which brings torch, calls worth it."""

from __future__ import annotations

from bci_align.alignment.drift_score import score
from bci_align.runtime.aligner_process import Methods

from .fakes import accept, quick_align

WARY = Methods(quick_align, accept, score)
