"""Registration: how today's channels relate to the source day's, found without labels, before any refinement."""

from bci_align.alignment.registration.choice import Choice, choose, combined
from bci_align.alignment.registration.rotation import rotation, rotations
from bci_align.alignment.registration.types import Registration
from bci_align.alignment.registration.units import identity, order_preserving

__all__ = [
    "Choice",
    "Registration",
    "choose",
    "combined",
    "identity",
    "order_preserving",
    "rotation",
    "rotations",
]
