"""Velocity decoders behind one protocol: Wiener, Kalman, recurrent."""

from bci_align.decoders.kalman import Kalman
from bci_align.decoders.protocol import Arrays, Decoder, Floats, run
from bci_align.decoders.recurrent import Recurrent
from bci_align.decoders.wiener import Wiener

KINDS: dict[str, type[Wiener] | type[Kalman] | type[Recurrent]] = {c.kind: c for c in (Wiener, Kalman, Recurrent)}

__all__ = ["KINDS", "Arrays", "Decoder", "Floats", "Kalman", "Recurrent", "Wiener", "run"]
