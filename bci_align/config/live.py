"""Settings of the live system."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bci_align.config.alignment import AlignConfig, GateConfig, Gates
from bci_align.config.base import Strict
from bci_align.config.runtime import ControlConfig, DriftConfig, PromotionConfig, RecordConfig, SupervisorConfig
from bci_align.config.signal import ChecksConfig, SafetyConfig
from bci_align.config.streams import SinkConfig, SourceConfig


class LiveConfig(Strict):
    """The live system: ``bci-align run CONFIG.yaml``."""

    bundle: str = Field(description="directory of the bundle to decode with")
    source: SourceConfig = SourceConfig()
    sink: SinkConfig = SinkConfig()
    align: AlignConfig = AlignConfig()
    gate: GateConfig = GateConfig()
    gates: Gates = ("standard",)
    checks: ChecksConfig = ChecksConfig()
    safety: SafetyConfig = SafetyConfig()
    promotion: PromotionConfig = PromotionConfig()
    drift: DriftConfig = DriftConfig()
    supervisor: SupervisorConfig = SupervisorConfig()
    control: ControlConfig = ControlConfig()
    record: RecordConfig = RecordConfig()
    calibration_trials: int = Field(40, ge=1, description="rewarded trials to collect before aligning")
    recalibrations: int = Field(1, ge=0, description="how many times to align in one run; 0 never aligns")
    successful_only: bool = Field(True, description="calibrate on rewarded trials only")
    out: str = Field("sessions", description="directory for new generations, the audit log, receipts and recordings")
    seed: int = Field(0, description="seed of the alignment")
    stale_s: float = Field(0.0, ge=0, description="seconds without a bin after which the run ends; 0 waits for ever")
    log: Literal["quiet", "normal"] = Field("normal", description="how much to print")
