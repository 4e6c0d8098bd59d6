"""A recorded day through the live system: the rig's part is played, everything else is what runs in the laboratory."""

from __future__ import annotations

import math
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bci_align.config import ControlConfig, LiveConfig
from bci_align.errors import ConfigError, MismatchError, RuntimeFault, SessionError, StreamError
from bci_align.runtime.aligner_process import Methods
from bci_align.runtime.live import LiveSystem
from bci_align.runtime.player import PATIENCE_S, Player
from bci_align.runtime.reports import Report
from bci_align.session.types import Session
from bci_align.streams.contract import Decoded, RigInlet, StreamSpec
from bci_align.streams.registry import make_rig

_READY_S = 60.0
"""Longest start-up, seconds: on a busy machine most of it is the import of torch."""

_LISTEN_S = 0.02
_TELL_S = 0.2


@dataclass
class ReplayResult:
    """What came back from one replay; rows are the session's bins.

    ``outputs`` (T, K) float64 in ``units``, NaN where nothing came back; ``generation`` (T,) int64, -1 there; ``flags`` (T,)
    int64 of :class:`~bci_align.streams.contract.Flags`. ``swaps`` are dictionaries with ``bin`` (first one decoded by the new
    generation), ``generation``, ``warm_from_seq``, ``path`` and ``verdict``; ``refusals`` those with ``generation`` and
    ``reason``. ``generations`` are the new bundles, swapped in or not; ``notes`` are sentences on what did not come to
    its end; ``reports`` is all that the live system said.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    outputs: NDArray[np.float64]
    generation: NDArray[np.int64]
    flags: NDArray[np.int64]
    bins_in: int = 0
    swaps: list[Report] = field(default_factory=list)
    refusals: list[Report] = field(default_factory=list)
    generations: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)

    @property
    def bins_out(self) -> int:
        """Bins that came back."""
        return int((self.generation >= 0).sum())

    @property
    def lost(self) -> list[int]:
        """Bins that were sent and never came back."""
        return [int(k) for k in np.flatnonzero(self.generation[: self.bins_in] < 0)]


def replay(
    session: Session,
    config: LiveConfig,
    over: str,
    speed: float | None = None,
    progress: Callable[[Report], None] | None = None,
    methods: Methods | None = None,
) -> ReplayResult:
    """Play ``session`` to a live system of its own over ``lsl`` or ``zmq`` and collect what it decodes.

    ``speed`` is recorded seconds per second; None is as fast as it goes, where the player waits for the aligner, so that every
    run gives the same result. Streams and ports are this run's own: those of ``config`` are not used. ``progress`` is called
    with every report, and with ``playing`` (done, total).
    """
    if speed is not None and not speed > 0:
        raise ConfigError(f"speed: expected a positive number, found {speed:g}")
    if session.breaks:
        raise SessionError(
            f"session {session.name!r}: breaks: expected a recording without gaps to replay, found {len(session.breaks)} breaks"
        )
    me = uuid.uuid4().hex[:12]
    ports = _free_ports(2)
    source = config.source.model_copy(
        update={"kind": over, "stream": f"counts-{me}", "markers": f"events-{me}", "address": ports[0]}
    )
    sink = config.sink.model_copy(update={"kind": over, "stream": f"velocity-{me}", "address": ports[1]})
    config = _for_replay(config).model_copy(update={"source": source, "sink": sink})
    with ExitStack() as stack:
        outlet, inlet = make_rig(over, source, sink)
        stack.callback(outlet.close)
        outlet.open(StreamSpec(session.channels, session.bin_s, session.name, me))
        live = stack.enter_context(LiveSystem(config, methods))
        stack.callback(inlet.close)
        live.wait_ready(_READY_S)
        outlet.wait_for_decoder(config.source.connect_timeout_s)
        names = inlet.open(config.source.connect_timeout_s)
        m = live.bundle.manifest
        if names != m.outputs:
            raise MismatchError(f"output stream: expected {', '.join(m.outputs)}, found {', '.join(names)}")
        bins = session.bins
        result = ReplayResult(
            names,
            m.units,
            np.full((bins, len(names)), np.nan),
            np.full(bins, -1, np.int64),
            np.zeros(bins, np.int64),
        )
        player = Player(session, outlet, live, speed)
        stack.callback(player.stop)
        player.start()
        _collect(player, inlet, live, result, progress or (lambda report: None))
        if player.error is not None:
            raise player.error
        result.bins_in = player.sent
        # To the very last word: a swap in the last bins is reported after they were answered.
        result.reports += live.poll(0.0) + live.stop()
    _summarise(result)
    return result


def _collect(player: Player, inlet: RigInlet, live: LiveSystem, result: ReplayResult, progress: Callable[[Report], None]) -> None:
    """Listen until the player is done and its last bin has been answered, or nothing comes any more."""
    told, last = 0.0, time.monotonic()
    while True:
        playing = player.is_alive()
        try:
            samples = inlet.read(_LISTEN_S)
        except StreamError:
            live.poll(1.0)  # the output is gone because the decoder is: its own words come first
            raise
        for sample in samples:
            _place(sample, result)
            player.heard(sample.seq_in)
            last = time.monotonic()
        for report in live.poll(0.0):
            result.reports.append(report)
            progress(report)
        if not live.decoding:
            raise RuntimeFault(f"replay: the decoder ended after {result.bins_out} of {len(result.generation)} bins")
        now = time.monotonic()
        if now - told > _TELL_S:
            told = now
            progress({"from": "replay", "report": "playing", "done": player.sent, "total": len(result.generation)})
        if not playing and (player.sent == 0 or result.generation[player.sent - 1] >= 0 or now - last > PATIENCE_S):
            return


def _place(sample: Decoded, result: ReplayResult) -> None:
    """Put one sample into its bin; a second one for the same bin is a defect of ours and must not pass."""
    k = sample.seq_in
    if not 0 <= k < len(result.generation) or result.generation[k] >= 0:
        raise RuntimeFault(f"replay: expected one answer per bin, found another for bin {k}")
    result.outputs[k], result.generation[k], result.flags[k] = sample.values, sample.generation, int(sample.flags)


def _summarise(result: ReplayResult) -> None:
    """Pick swaps, refusals and what did not come to its end out of the reports."""
    verdicts: dict[int, Report] = {}
    aligning: int | None = None
    for r in result.reports:
        kind = r["report"]
        if kind == "aligning":
            aligning = r["generation"]
        elif kind == "verdict":
            aligning = None
            if r["accepted"]:
                verdicts[r["generation"]] = r
                result.generations.append(Path(r["path"]))
            else:
                result.refusals.append(r)
        elif kind == "dropped":
            result.refusals.append(r)
        elif kind == "rolled_back":
            result.notes.append(f"generation {r['generation']} was taken back at bin {r['bin']}: {r['reason']}")
        elif kind == "swapped":
            verdict = verdicts[r["generation"]]
            swap = {k: r[k] for k in ("bin", "generation", "warm_from_seq")}
            result.swaps.append(swap | {"path": verdict["path"], "verdict": verdict})
        elif kind == "died":
            aligning = None if r["who"] == "aligner" else aligning
            result.notes.append(f"the {r['who']} died ({r['reason']}); decoding went on")
        elif kind in ("missed", "log_failed"):
            result.notes.append(f"{kind}: {r.get('records', r.get('reason'))}")
    if aligning is not None:
        result.notes.append(f"the recording ended while generation {aligning} was still being aligned: no swap")
    settled = {s["generation"] for s in result.swaps} | {r["generation"] for r in result.refusals}
    for generation in sorted(set(verdicts) - settled):
        result.notes.append(f"the recording ended before generation {generation}, which was accepted, could be swapped in")


def _for_replay(config: LiveConfig) -> LiveConfig:
    """``config`` without what a recording knows nothing of.

    While the player waits for the aligner no bins come, and at another speed than the rig's they come as they never did: neither
    is a fault of the stream. Nobody gives orders, and nothing is recorded that is a recording already. A decoder that dies is
    a fault to be seen, for the bins that it missed are not played again.
    """
    checks = config.checks.model_copy(update={"stale_s": 0.0, "late_bins": math.inf})
    supervisor = config.supervisor.model_copy(update={"standby": False})
    return config.model_copy(
        update={
            "checks": checks,
            "supervisor": supervisor,
            "control": ControlConfig(address=None),
            "record": config.record.model_copy(update={"enabled": False}),
            "stale_s": 0.0,
        }
    )


def _free_ports(n: int) -> list[str]:
    """Addresses of ``n`` ports that nobody uses."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [f"tcp://127.0.0.1:{s.getsockname()[1]}" for s in sockets]
