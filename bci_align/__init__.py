"""bci_align: label-free online recalibration of brain-computer interface decoders."""

__version__ = "0.1.0"
