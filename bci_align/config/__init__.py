"""One frozen configuration tree, read from YAML. Every field has a unit and says what it does; unknown keys are refused.

YAML examples lie in ``configs/``. ``load(Model, path)`` turns every fault of a file into one sentence that names the key.
"""

from bci_align.config.alignment import AlignConfig, GateConfig, RecalibrateConfig
from bci_align.config.base import Strict, explain, load, read_yaml
from bci_align.config.live import LiveConfig
from bci_align.config.streams import EventNames, SinkConfig, SourceConfig
from bci_align.config.training import TrainConfig

__all__ = [
    "AlignConfig",
    "EventNames",
    "GateConfig",
    "LiveConfig",
    "RecalibrateConfig",
    "SinkConfig",
    "SourceConfig",
    "Strict",
    "TrainConfig",
    "explain",
    "load",
    "read_yaml",
]
