"""The map of a foreign file: which array means what. ``configs/import/`` holds examples."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bci_align.config import Strict
from bci_align.errors import ConfigError


class CountsMap(Strict):
    """Where the spike counts are."""

    array: str = Field(description="array of spike counts, (bins, channels), or (trials, bins, channels) with layout 'trials'")
    scale: float = Field(1.0, gt=0, description="factor that makes counts of what is stored, e.g. 13 for a mean over 13 bins")


class ChannelsMap(Strict):
    """What the channels are called: the array's values, or numbers from 1 where there is none, each after ``prefix``."""

    array: str | None = Field(None, description="array of channel labels, one per column of the counts")
    prefix: str = Field("", description="text before each label or number")


class ZeroMap(Strict):
    """Which rest defines the zero of the kinematics; what was subtracted is written into the session's meta."""

    event: str = Field(description="array of event times in seconds, one per trial")
    before_s: float = Field(gt=0, description="seconds of rest that end at the event")
    statistic: Literal["median"] = Field("median", description="statistic over those bins of all trials, per output")


class KinematicsMap(Strict):
    """Where the behaviour is."""

    array: str | tuple[str, ...] = Field(
        description="array (bins, outputs), or (trials, bins, outputs) with layout 'trials'; of several the columns side by side"
    )
    names: tuple[str, ...] = Field(description="one name per output")
    units: tuple[str, ...] = Field(description="one unit per output")
    zero: ZeroMap | None = Field(None, description="subtract the level at rest; none keeps the values as they are")
    difference: bool = Field(
        False, description="take the difference to the bin before, divided by the bin width: velocity from position"
    )


class SuccessMap(Strict):
    """Which trials were rewarded."""

    array: str = Field(description="array with one entry per trial")
    equals: bool | int | float | str = Field(description="its value in rewarded trials")


class TrialsMap(Strict):
    """Where the trial events are: arrays of times in seconds from the start of bin 0.

    With layout 'trials' every row is a trial and only ``target`` may be told.
    """

    start: str | None = Field(None, description="array of trial starts")
    go: str | None = Field(None, description="array of go cues; none where the task has no go cue")
    end: str | None = Field(None, description="array of trial ends")
    success: SuccessMap | Literal["all"] | None = Field(None, description="which trials were rewarded, or 'all'")
    target: str | None = Field(None, description="array (trials, D) or (trials,) of targets, for scoring only")


class ImportMap(Strict):
    """What the arrays of a foreign file mean: ``bci-align import --map MAP.yaml``."""

    format: str = Field(description="kind of file: npz")
    layout: Literal["continuous", "trials"] = Field(
        "continuous", description="one recording of bins, or trials cut out of it: a row each, all of the same length"
    )
    counts: CountsMap
    bin_s: str | float = Field(description="bin width: seconds, or the array that holds it")
    channels: ChannelsMap = ChannelsMap()
    kinematics: KinematicsMap | None = None
    trials: TrialsMap = TrialsMap()
    name: str | None = Field(None, description="name of the session; none takes the file's")
    subject: str | None = Field(None, description="who was recorded")
    meta: dict[str, str] = Field(default_factory=dict, description="free text to keep with the session: origin, citation")

    def check_layout(self) -> None:
        """Refuse (:class:`ConfigError`) keys that the layout cannot use, and the lack of those that it needs."""
        told = {key: getattr(self.trials, key) for key in ("start", "end", "success", "go")}
        if self.layout == "continuous":
            for key in ("start", "end", "success"):
                if told[key] is None:
                    raise ConfigError(f"missing key 'trials.{key}'; only with layout 'trials' there is none")
            return
        for key, value in told.items():
            if value is not None and (key, value) != ("success", "all"):
                raise ConfigError(f"key 'trials.{key}': expected none with layout 'trials', where every row is a trial")
        if self.kinematics is not None and self.kinematics.zero is not None:
            raise ConfigError("key 'kinematics.zero': expected none with layout 'trials', where no event has a time of its own")
