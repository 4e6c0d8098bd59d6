"""Registration: how today's channels relate to the source day's, found without labels, before any refinement."""

from bci_align.alignment.registration.choice import Choice, activity, candidates, choose
from bci_align.alignment.registration.rotation import rotation, rotations
from bci_align.alignment.registration.types import Registration
from bci_align.alignment.registration.units import by_features, identity, order_preserving

__all__ = [
    "Choice",
    "Registration",
    "activity",
    "by_features",
    "candidates",
    "choose",
    "identity",
    "order_preserving",
    "rotation",
    "rotations",
]
