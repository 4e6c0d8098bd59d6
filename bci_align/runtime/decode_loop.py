"""The decode loop without any input or output: bins and candidates in, decoded samples out, swaps between two bins.

It has no clock of its own and asks nobody: the same calls with the same arguments give the same bytes.

====================  ==================================================================================================
what comes            what it does
====================  ==================================================================================================
a bin                 is checked (:mod:`bci_align.signal.checks`); the leader may change before it
                      (:mod:`bci_align.runtime.promotion`); it is decoded, held, decayed or zeroed as the checks' policies say;
                      the output is limited (:mod:`bci_align.signal.safety`)
no bin                after ``stale_s``, samples at the bin rate that hold, decay or are zero, until the next bin (``tick``)
the stream is lost    those samples are flagged LOST
another stream        zero at the bin rate, at once, until the right stream is back (MISMATCH)
the stream is back    every state starts anew with its next bin (RESTARTED); of another sender, numbers and times, too, and
                      nothing is promoted before its first trial mark: a trial may be running
freeze, resume        the output is zero; states go on, so that the first bin after ``resume`` is decoded as if nothing had been
====================  ==================================================================================================
"""

from __future__ import annotations

from math import isfinite, nan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bci_align.config import ChecksConfig, PromotionConfig, SafetyConfig
from bci_align.models.read_in import ReadIn
from bci_align.runtime.fault_log import FaultLog
from bci_align.runtime.marks import TrialClock
from bci_align.runtime.promotion import Promoter, Promotion
from bci_align.runtime.slots import Floats, Seen, Slot, Stepper, finite_all, rehearse
from bci_align.signal.checks import Checks
from bci_align.signal.safety import Safety
from bci_align.signal.stale import Silence, tick
from bci_align.signal.stuck import Counts
from bci_align.streams.contract import Bin, Decoded, Flags, Link, TrialEvent

_BAD, _CLAMPED, _IN_TRIAL = int(Flags.BAD_COUNTS), int(Flags.CLAMPED), int(Flags.IN_TRIAL)
_STALE, _LOST, _MISMATCH = int(Flags.STALE), int(Flags.LOST), int(Flags.MISMATCH)
_FROZEN, _BLENDING, _RESTARTED, _MALFORMED = int(Flags.FROZEN), int(Flags.BLENDING), int(Flags.RESTARTED), int(Flags.MALFORMED)
_USUAL = {f: Flags(f) for f in (0, _IN_TRIAL, _CLAMPED, _IN_TRIAL | _CLAMPED)}
"""Made once: to look a flag up in its class costs as much as a check of all channels."""


class DecodeLoop:
    """Decodes with one generation while the next one warms up, proves itself, leads, and can be taken back.

    Parameters
    ----------
    pipeline
        Steps every generation: only the read-in differs.
    read_in, generation
        What decodes from the first bin.
    bin_s
        Bin width, seconds.
    scale
        (K,) source-day standard deviation of the outputs, physical units.
    checks, safety, promotion
        What counts as a fault and what is done; limits of the output; from candidate to commit.
    """

    def __init__(
        self,
        pipeline: Stepper,
        read_in: ReadIn,
        generation: int,
        bin_s: float,
        *,
        scale: ArrayLike,
        checks: ChecksConfig | None = None,
        safety: SafetyConfig | None = None,
        promotion: PromotionConfig | None = None,
    ) -> None:
        self._pipeline, self._bin_s = pipeline, bin_s
        self._config, limits, promotion = checks or ChecksConfig(), safety or SafetyConfig(), promotion or PromotionConfig()
        source_sd: Floats = np.asarray(scale, np.float64)
        slot = Slot(read_in, generation, pipeline.state0(), Checks(read_in, bin_s, self._config))
        self.promoter = Promoter(pipeline, slot, source_sd, promotion)
        self._checked = slot.checks.state0()
        self._safety = Safety(len(source_sd), bin_s, limits)
        self._values = self._safety.state0()
        self._settle_bins, self._settle = limits.settle_bins, limits.settle_bins
        self._ramp_bins, self._ramp = promotion.blend_bins, 0
        self._trial, self._log = TrialClock(bin_s), FaultLog(bin_s)
        self._inside = self._unsure = False  # unsure: a trial may be running that nobody has told of
        self.faults, self.episodes = self._log.faults, self._log.episodes
        """Faulty bins, and how often each fault began, by flag bit (32,); of GAP the bins that are missing."""
        self._now = 0
        self._seq: int | None = None
        self._t, self._arrived = 0.0, nan
        self._pending = 0
        self._lost = self._mismatch = self._frozen = self._renew = False
        self._silence: Silence | None = None  # made of the last bin's arrival when it is asked for
        self._news: list[dict[str, Any]] = []
        self.gaps = 0
        """Bins that never arrived."""
        self.bad = 0
        """Bins whose counts were not usable, or for which the network gave nothing finite."""

    @property
    def incumbent(self) -> Slot:
        """The generation that decodes."""
        return self.promoter.leader

    @property
    def warming(self) -> bool:
        """Whether a candidate (or a generation on its way back) has still to catch up; one in shadow has."""
        return self.promoter.warming

    @property
    def state(self) -> Promotion:
        """Where the promotion stands; see :mod:`bci_align.runtime.promotion`."""
        return self.promoter.state

    @property
    def frozen(self) -> bool:
        """Whether the operator has frozen the output."""
        return self._frozen

    def on_event(self, event: TrialEvent) -> bool:
        """Take in a trial event, before the bin that holds it where possible; whether it starts or ends a trial."""
        mark = self._trial.add(event)
        self._unsure = self._unsure and not mark
        return mark

    def on_bin(self, item: Bin) -> Decoded | None:
        """Decode one bin; None for one that is no news: it is counted, and flagged on the next sample."""
        promoter, before, seq = self.promoter, self._checked, item.seq
        self._checked, checked = promoter.leader.checks.step(before, item)
        flags, counts, t, left_out, zero, missing, fill, anew, culprits = checked  # at once: by name, each is a call
        self._now += 1
        if left_out:
            self._pending |= flags
            self._log.add(flags, self._now, seq)
            return None
        self._seq, self._t, self._arrived, self._silence = seq, t, item.arrived, None
        if flags & _RESTARTED:
            self._new_sender()
        if anew:
            self._anew()
        if self._renew:
            self._renew, flags = False, flags | _RESTARTED
        trial = self._trial
        self._inside = inside = trial.inside(item if t == item.t else Bin(seq, t, item.counts))
        if inside:
            flags |= _IN_TRIAL
        flags |= promoter.boundary(seq, (trial.between or not inside) and not self._unsure)
        if counts is None or self._mismatch:
            values = self._safety.zero() if zero or self._mismatch else self._safety.decay(self._values)
        else:
            values, more = self._decode(seq, counts, fill, before.good)
            flags |= more
        if self._lost or self._mismatch:
            flags |= _MISMATCH if self._mismatch else _LOST
        if self._frozen:
            values, flags = self._safety.zero(), flags | _FROZEN
        self._values = values
        if flags & ~_IN_TRIAL:
            if flags & _BAD:
                self.bad += 1
            self.gaps += missing
            self._log.add(flags, self._now, seq, culprits, missing=missing)
        if self._pending:
            flags, self._pending = flags | self._pending, 0
        return Decoded(seq, t, values, promoter.leader.generation, _USUAL[flags] if flags in _USUAL else Flags(flags))

    def tick(self, now: float) -> Decoded | None:
        """What to publish while no bin comes, None for nothing; ``now`` in seconds of ``time.monotonic``, as ``Bin.arrived``."""
        if self._seq is None or not (self._mismatch or self._config.stale_s):
            return None
        wait_s = 0.0 if self._mismatch else self._config.stale_s
        self._silence, silent_s = tick(self._silence or Silence(self._arrived), now, wait_s, self._bin_s)
        if silent_s is None:
            return None
        flags = _STALE | (_LOST if self._lost else 0) | (_MISMATCH if self._mismatch else 0) | (_IN_TRIAL if self._inside else 0)
        if self._frozen:
            flags |= _FROZEN
        if self._mismatch or self._frozen or self._config.stale == "zero":
            self._values = self._safety.zero()
        elif self._config.stale == "decay":
            self._values = self._safety.decay(self._values)
        self._now += 1
        self._log.add(flags, self._now, self._seq)
        flags, self._pending = flags | self._pending, 0
        return Decoded(self._seq, self._t + silent_s, self._values, self.promoter.leader.generation, Flags(flags))

    def keep_warm(self) -> None:
        """Take a step that leads nowhere, so that the next bin finds in the caches what it needs; nothing is changed by it."""
        if self._seq is not None and not self._mismatch:
            item = Bin(self._seq + 1, self._t + self._bin_s, self._checked.good, self._arrived + self._bin_s)
            rehearse(self._pipeline, self.promoter.leader, self._checked, item)
            self._safety.step(self._values, self._values)

    def on_link(self, link: Link) -> None:
        """Take in news of the connection."""
        self._lost, self._mismatch = link.state == "lost", link.state == "mismatch"
        if link.state == "back":
            self._anew()
            self._renew = True
            checks = self.promoter.leader.checks
            self._checked = checks.renumbered(self._checked) if link.restarted else checks.reconnected(self._checked)
            if link.restarted:
                self._new_sender()
            return
        bit = _LOST if self._lost else _MISMATCH
        self._log.add(bit, self._now, -1 if self._seq is None else self._seq, sentence=link.sentence)

    def restarted(self) -> None:
        """Note that another process decoded until now: the next sample says so, and a trial may be running."""
        self._renew = self._unsure = True

    def malformed(self, n: int) -> None:
        """Note ``n`` messages that a source could not understand."""
        if n > 0:
            self._pending |= _MALFORMED
            self._log.add(_MALFORMED, self._now, -1 if self._seq is None else self._seq, times=n)

    def offer(self, read_in: ReadIn, generation: int) -> None:
        """Take in an accepted candidate; it replaces one that does not lead yet."""
        checks = Checks(read_in, self._bin_s, self._config)
        self.promoter.offer(Slot(read_in, generation, self._pipeline.state0(), checks))

    def idle(self, steps: int) -> bool:
        """Step those who follow the leader by at most ``steps`` bins; false if nobody does, so that nothing has changed."""
        return self.promoter.idle(steps)

    def promote(self) -> bool:
        """Let the candidate lead once it has passed its shadow; whether there is one."""
        return self.promoter.promote()

    def rollback(self) -> bool:
        """Bring the generation before back, between two trials; whether there is one."""
        return self.promoter.rollback()

    def freeze(self) -> None:
        """Set the output to zero until :meth:`resume`."""
        if not self._frozen:
            self._frozen = True
            self._news.append({"report": "frozen", "bin": self._seq})

    def resume(self) -> None:
        """Let the output move again: over ``blend_bins`` from zero, and within the limit of acceleration."""
        if self._frozen:
            self._frozen, self._ramp = False, self._ramp_bins
            self._news.append({"report": "resumed", "bin": self._seq})

    def news(self) -> list[dict[str, Any]]:
        """Reports of what happened since the last call, as dictionaries; faults come first."""
        own, self._news = self._news, []
        return [*self._log.news(), *own, *self.promoter.news()]

    def _decode(self, seq: int, counts: Counts, fill: int, before: Counts) -> tuple[Floats, int]:
        """Step the leader over ``counts`` (C,), and over ``fill`` bins of its mean first: output (K,), flags.

        ``before`` is what it saw last: that stands in for later bins where this one has to be forgotten.
        """
        promoter = self.promoter
        for k in range(seq - fill, seq) if fill else ():
            self._step(k, promoter.leader.checks.mean)
        stepped = self._step(seq, counts)
        if stepped is None:
            self._checked = self._checked._replace(good=before)
            promoter.failed()
            return self._safety.zero(), _BAD
        values, flags = stepped[0], _CLAMPED if stepped[1] else 0
        if promoter.fade and (blended := promoter.blend(values)) is not None:
            values, flags = blended, flags | _BLENDING
        if self._settle:
            self._settle -= 1
            return self._safety.zero(), flags
        if self._ramp and not self._frozen:
            values, flags = values * (1.0 - self._ramp / (self._ramp_bins + 1)), flags | _BLENDING
            self._ramp -= 1
        if not self._safety.limits:  # finite they are
            return values, flags
        values, cut = self._safety.step(self._values, values)
        return values, flags | _CLAMPED if cut else flags

    def _step(self, seq: int, counts: Counts) -> tuple[Floats, bool] | None:
        """Step the leader and tell those who follow; None for a state that is not finite: it would never become so again."""
        leader = self.promoter.leader
        if leader.from_seq is None:
            leader.from_seq = seq
        state, values, clamped = self._pipeline.step(leader.state, counts, leader.read_in)
        if not (all(map(isfinite, values.tolist())) and finite_all(state)):
            return None
        leader.state = state
        self.promoter.seen(Seen(seq, counts, values, clamped))
        return values, clamped

    def _anew(self) -> None:
        """Start every state anew with the next bin."""
        self.promoter.anew()
        self._settle = self._settle_bins

    def _new_sender(self) -> None:
        """Forget the trial: a sender that was started anew may be in the middle of one."""
        self._trial, self._inside, self._unsure = TrialClock(self._bin_s), False, True
