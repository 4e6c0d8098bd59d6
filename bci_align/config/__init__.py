"""One frozen configuration tree, read from YAML. Every field has a unit and says what it does; unknown keys are refused.

YAML examples lie in ``configs/``. ``load(Model, path)`` turns every fault of a file into one sentence that names the key.
"""

from bci_align.config.alignment import AlignConfig, GateConfig, RecalibrateConfig
from bci_align.config.augmentation import AugmentConfig, RetrainConfig
from bci_align.config.base import Strict, explain, load, read_yaml
from bci_align.config.interpretation import BehaviourConfig, ExplainConfig, FactorConfig, FilmConfig
from bci_align.config.live import LiveConfig
from bci_align.config.runtime import ControlConfig, DriftConfig, PromotionConfig, RecordConfig, SupervisorConfig
from bci_align.config.signal import ChecksConfig, Policy, SafetyConfig
from bci_align.config.streams import CurveConfig, EventNames, SinkConfig, SourceConfig
from bci_align.config.training import TrainConfig

__all__ = [
    "AlignConfig",
    "AugmentConfig",
    "BehaviourConfig",
    "ChecksConfig",
    "ControlConfig",
    "CurveConfig",
    "DriftConfig",
    "EventNames",
    "ExplainConfig",
    "FactorConfig",
    "FilmConfig",
    "GateConfig",
    "LiveConfig",
    "Policy",
    "PromotionConfig",
    "RecalibrateConfig",
    "RecordConfig",
    "RetrainConfig",
    "SafetyConfig",
    "SinkConfig",
    "SourceConfig",
    "Strict",
    "SupervisorConfig",
    "TrainConfig",
    "explain",
    "load",
    "read_yaml",
]
