"""Source-day training: from a session to a bundle of generation 0."""

from bci_align.training.train import source_split, train_bundle

__all__ = ["source_split", "train_bundle"]
