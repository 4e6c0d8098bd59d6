"""What is checked on every bin, and what the output may do."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bci_align.config.base import Strict

Policy = Literal["hold", "decay", "zero", "fill"]
"""What a faulty bin does: ``hold``: the last good counts stand in (for a fault that leaves the counts usable: they are used as
they are); ``fill``: the channels at fault, or the bins that are missing, take the read-in's mean; ``decay``: the encoder does not
see the bin and the output falls towards zero; ``zero``: the encoder does not see it and the output is zero at once. Where a bin
has several faults, ``zero`` goes before ``decay``, ``decay`` before last good counts, and those before ``fill``."""

UsedOrNot = Literal["hold", "decay", "zero"]
"""The same for a fault of the whole bin, in which there is nothing to fill."""


class ChecksConfig(Strict):
    """Named faults of a bin, how each is recognised and what is done. Duplicates and bins out of order are always left out."""

    gap: Policy = Field("hold", description="bins before this one never arrived; fill: the encoder sees the mean for each")
    fill_most: int = Field(25, ge=0, description="most missing bins that fill stands in for; beyond, the state starts anew")
    time_jump: UsedOrNot = Field("hold", description="time stamps moved otherwise than the bins' numbers say")
    time_jump_bins: float = Field(1.5, gt=0, description="difference that counts as a jump, bins")
    non_finite: Policy = Field("hold", description="counts that are NaN or infinite")
    negative: Policy = Field("hold", description="counts below zero")
    implausible: Policy = Field("hold", description="counts beyond most_hz on any channel, or flooded")
    most_hz: float = Field(1e6, gt=0, description="largest spike rate of a channel that is believed, spikes per second")
    flooded: float = Field(
        0.5, gt=0, le=1, description="share of channels that may be above flood_sd at once; more is an artefact: implausible"
    )
    flood_sd: float = Field(20.0, gt=0, description="what counts as flooded, standard deviations of the read-in's normaliser")
    silent: Policy = Field("hold", description="channels that spoke on the source day and say nothing, dead or newly so")
    silent_s: float = Field(10.0, gt=0, description="silence after which a channel counts as silent, at least, seconds")
    saturated: Policy = Field("hold", description="channels that sit at one count above zero")
    saturated_bins: int = Field(50, ge=2, description="bins in a row at one count above zero that count as saturated")
    late: UsedOrNot = Field("hold", description="bins that arrive later than late_bins after they should have")
    late_bins: float = Field(1.0, gt=0, description="lateness that counts, against the earliest arrivals, bins")
    stale: UsedOrNot = Field("decay", description="no bin has come for stale_s; hold: the last output stands")
    stale_s: float = Field(
        0.1, ge=0, description="silence of the stream after which samples are published without a bin, seconds; 0 never does"
    )


class SafetyConfig(Strict):
    """What may leave the decoder, whatever the network says."""

    max_speed: float | None = Field(None, gt=0, description="largest norm of the output, its own units; none: the bundle's clamp")
    max_acceleration: float | None = Field(
        None, gt=0, description="largest change of the output's norm, its own units per second; none: unlimited"
    )
    decay_s: float = Field(0.1, gt=0, description="time constant of the decay to zero, seconds")
    settle_bins: int = Field(0, ge=0, description="bins of zero output after the encoder's state has started anew")
