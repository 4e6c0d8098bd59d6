"""What an LSL counts stream says of itself, and what it must say."""

from __future__ import annotations

import math
from typing import Any

from bci_align.errors import WrongStream
from bci_align.streams import lsl_common as common
from bci_align.streams.contract import StreamSpec


def describe(info: Any, stream: str) -> tuple[StreamSpec, bool]:
    """What a counts stream says of itself, and whether its last channel is ``seq``; every omission is a :class:`WrongStream`."""

    def fail(field: str, expected: str, found: object) -> WrongStream:
        return WrongStream(f"LSL stream {stream!r}: {field}: expected {expected}, found {found}")

    if info.channel_format() not in common.SEQ_MODULUS:
        raise fail("channel format", "float32, int16, int32 or double64", format_name(info.channel_format()))
    rows = common.labels_of(info)
    if len(rows) != info.channel_count():
        raise fail("desc/channels", f"{info.channel_count()} channels with a label each", f"{len(rows)}")
    has_seq = rows[-1][1] == common.SEQ
    labels = tuple(label for label, _ in rows[: len(rows) - has_seq])
    if not labels:
        raise fail("desc/channels", "at least one channel of counts", "only 'seq'")
    if "" in labels:
        raise fail("desc/channels", "a label for every channel", f"none for channel {labels.index('')}")
    if len(set(labels)) != len(labels):
        raise fail("desc/channels", "unique labels", f"{next(x for x in labels if labels.count(x) > 1)!r} more than once")
    binning = info.desc().child("binning")
    text = binning.child_value("bin_ms")
    try:
        bin_s = float(text) / 1e3
    except ValueError:
        bin_s = math.nan
    if not (math.isfinite(bin_s) and bin_s > 0):
        raise fail("desc/binning/bin_ms", "the bin width in milliseconds", repr(text) if text else "none")
    if binning.child_value("stamp") != "end":
        raise fail("desc/binning/stamp", "'end' (bins stamped with their end)", repr(binning.child_value("stamp")))
    rate = info.nominal_srate()
    if not math.isclose(rate * bin_s, 1.0, rel_tol=1e-3):
        raise fail("nominal rate", f"{1 / bin_s:g} Hz, one sample per bin of {bin_s * 1e3:g} ms", f"{rate:g} Hz")
    return StreamSpec(labels, bin_s, info.name(), info.uid(), format_name(info.channel_format())), has_seq


def format_name(fmt: int) -> str:
    """What LSL calls a channel format."""
    names = ("undefined", "float32", "double64", "string", "int32", "int16", "int8", "int64")
    return names[fmt] if 0 <= fmt < len(names) else f"format {fmt}"
