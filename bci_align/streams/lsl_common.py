"""What the LSL classes share: the one import of pylsl, finding a stream, and reading its description."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pylsl

from bci_align.errors import StreamError, WrongStream

COUNTS, MARKERS, VELOCITY = "SpikeCounts", "Markers", "DecodedVelocity"
"""LSL stream types."""

SEQ = "seq"
"""Type and label of the counts stream's last channel, which numbers the bins."""

TAIL = ("seq_in", "generation", "flags")
"""Last channels of the velocity stream, after the outputs."""

SEQ_MODULUS = {pylsl.cf_float32: 2**24, pylsl.cf_int16: 2**15, pylsl.cf_int32: 2**31, pylsl.cf_double64: 2**53}
"""Channel formats a counts stream may have, and the modulus its ``seq`` channel counts by: the largest that the format
holds exactly. For integers it divides the range, so a sender that lets its counter overflow is read correctly too."""

BUFFER_SAMPLES = 2**17
"""Depth of every LSL buffer, in samples. LSL drops the OLDEST sample of a full buffer without a word, so the buffers hold
several times a 20,000-bin replay at full speed; a slot costs 16 bytes until it is used."""

POLL_S = 0.02


def _be_quiet() -> None:
    """Keep liblsl's log off stderr, where it would bury the one sentence an error prints.

    liblsl reads a content set here INSTEAD of a configuration file, so this stands back where the user has one (it may
    carry known peers or a session id); those are the places that liblsl itself looks in.
    """
    places = [Path("lsl_api.cfg"), Path("~/lsl_api/lsl_api.cfg").expanduser(), Path("/etc/lsl_api/lsl_api.cfg")]
    if "LSLAPICFG" in os.environ or any(p.exists() for p in places):
        return
    with contextlib.suppress(AttributeError, NotImplementedError):  # older than 1.17.7: noisy, no worse
        pylsl.set_config_content("[log]\nlevel = -3\n")


_be_quiet()


def new_info(name: str, kind: str, channels: int, rate_hz: float, fmt: int, source_id: str) -> Any:
    """Describe a stream of ours; :class:`StreamError` without a ``source_id``, by which the other side looks for it."""
    if not source_id:
        raise StreamError(f"LSL stream of type {kind!r}: expected a source_id to announce it by, found an empty one")
    return pylsl.StreamInfo(name, kind, channels, rate_hz, fmt, source_id)


def buffer_length(rate_hz: float) -> int:
    """:data:`BUFFER_SAMPLES` in LSL's unit: seconds at the nominal rate, or hundreds of samples without one."""
    return math.ceil(BUFFER_SAMPLES / (rate_hz or 100.0))


def find(source_id: str, kind: str, deadline: float, timeout_s: float) -> Any:
    """The stream with this ``source_id`` and type, by ``deadline`` (``time.monotonic``); else an error that says what was seen.

    Every stream of the network is watched rather than the one, so that the error needs no second search.
    """
    resolver = pylsl.ContinuousResolver()
    while True:
        seen = {info.uid(): info for info in resolver.results()}
        matches = [i for i in seen.values() if i.source_id() == source_id and i.type() == kind]
        if len(matches) > 1:
            hosts = ", ".join(i.hostname() for i in matches)
            raise WrongStream(
                f"LSL source_id {source_id!r}: expected one stream of type {kind!r}, found {len(matches)} (on {hosts})"
            )
        if matches:
            return matches[0]
        if time.monotonic() >= deadline:
            break
        time.sleep(POLL_S)
    listing = "; ".join(f"name {i.name()!r} type {i.type()!r} source_id {i.source_id()!r}" for i in seen.values())
    raise StreamError(
        f"LSL stream with source_id {source_id!r} and type {kind!r} did not appear within {timeout_s:g} s; "
        f"seen on the network: {listing or 'no stream at all'}"
    )


def connect(found: Any, deadline: float, timeout_s: float) -> tuple[Any, Any]:
    """An open inlet on ``found`` and the stream's full description.

    Without recovery: liblsl's own neither reports a loss nor notices a restarted sender. No time-stamp post-processing:
    it would smooth gaps away.
    """
    what = f"LSL stream {found.source_id()!r}"
    inlet = pylsl.StreamInlet(found, max_buflen=buffer_length(found.nominal_srate()), recover=False)
    try:
        with lost_means(what):
            info = inlet.info(timeout=max(deadline - time.monotonic(), 0.1))
            inlet.open_stream(timeout=max(deadline - time.monotonic(), 0.1))
    except pylsl.util.TimeoutError:
        raise StreamError(f"{what} was announced by {found.hostname()!r} but gave no data within {timeout_s:g} s") from None
    return inlet, info


@contextlib.contextmanager
def lost_means(what: str) -> Iterator[None]:
    """Turn liblsl's faults into one sentence about ``what``; its TimeoutError is the caller's to explain."""
    try:
        yield
    except pylsl.util.LostError:
        raise StreamError(f"{what} was lost: its sender is gone") from None
    except (pylsl.util.InternalError, pylsl.util.InvalidArgumentError) as e:
        raise StreamError(f"{what} failed: {e}") from None


def labels_of(info: Any) -> list[tuple[str, str]]:
    """``(label, type)`` of every channel in ``desc/channels``; an absent one is an empty string."""
    out: list[tuple[str, str]] = []
    channel = info.desc().child("channels").child("channel")
    while not channel.empty() and len(out) <= info.channel_count():
        out.append((channel.child_value("label"), channel.child_value("type")))
        channel = channel.next_sibling("channel")
    return out


def add_channels(info: Any, rows: Sequence[dict[str, str]]) -> None:
    """Write ``desc/channels``, one row of ``{field: text}`` per channel."""
    channels = info.desc().append_child("channels")
    for row in rows:
        channel = channels.append_child("channel")
        for key, value in row.items():
            channel.append_child_value(key, value)


def stamp(t: float, what: str) -> float:
    """``t`` as LSL can carry it: 0.0 would mean "now" and -1.0 "one after the last", so those two move by a nanosecond."""
    if not math.isfinite(t):
        raise StreamError(f"{what}: expected a finite time stamp, found {t!r}")
    return t + 1e-9 if t in (0.0, -1.0) else t
