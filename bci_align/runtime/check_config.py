"""What a configuration of the live system must not say, found out before anything is started."""

from __future__ import annotations

from bci_align.alignment.gates import Gates
from bci_align.config import LiveConfig
from bci_align.errors import ConfigError


def check_config(config: LiveConfig) -> None:
    """Refuse at the start what could only fail after a whole calibration; :class:`ConfigError` names the keys."""
    for key, found, known in (
        ("align.moves", config.align.moves, ("read-in",)),
        ("align.registration", config.align.registration, ("auto", "identity")),
    ):
        if config.recalibrations and found not in known:
            raise ConfigError(
                f"{key}: expected {' or '.join(known)}, for a running decoder takes nothing but a read-in for its own channels, "
                f"found {found}; 'bci-align recalibrate' can do it between sessions"
            )
    for key, least in (("gate.min_trials", config.gate.min_trials), ("align.min_trials", config.align.min_trials)):
        if config.recalibrations and config.calibration_trials < least:
            raise ConfigError(
                f"calibration_trials: expected at least {key} ({least}), found {config.calibration_trials}; "
                "no candidate could ever be accepted"
            )
    if config.recalibrations:
        Gates(config.gates)
