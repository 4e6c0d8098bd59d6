from __future__ import annotations

import math
import subprocess
import sys
import time

import numpy as np
import pylsl
import pytest

from bci_align.config import SourceConfig
from bci_align.errors import StreamError
from bci_align.streams import lsl_common as common
from bci_align.streams.contract import START, Bin, TrialEvent
from bci_align.streams.lsl import LslRigInlet, LslSource
from bci_align.streams.lsl_describe import describe
from bci_align.streams.lsl_presence import ANSWER_S, SILENT_S

from .rigs import PATIENCE_S, bins_of, collect, configs, events_of, opened


def counts_info(source_id: str, labels: tuple[str, ...] = ("a", "b"), seq: bool = False, **changes: object) -> pylsl.StreamInfo:
    """Another maker's counts stream; ``changes`` break it."""
    n = len(labels) + seq
    rate, fmt = changes.get("rate", 100.0), changes.get("fmt", pylsl.cf_int16)
    info = pylsl.StreamInfo("foreign", common.COUNTS, n, rate, fmt, source_id)
    rows = [{"label": x, "unit": "count"} for x in labels] + [{"label": "seq", "type": "seq"}] * seq
    common.add_channels(info, rows[: int(changes.get("rows", n))])
    binning = info.desc().append_child("binning")
    for key, value in {"bin_ms": "10", "stamp": "end", **changes.get("binning", {})}.items():
        binning.append_child_value(key, value)
    return info


def markers(source_id: str, fmt: int = pylsl.cf_string) -> pylsl.StreamOutlet:
    return pylsl.StreamOutlet(pylsl.StreamInfo("foreign events", common.MARKERS, 1, 0.0, fmt, source_id), 1, 360)


def test_a_stream_that_never_appears_says_what_was_seen() -> None:
    source_config, _ = configs("lsl")
    decoy = pylsl.StreamOutlet(pylsl.StreamInfo("decoy", "EEG", 1, 100.0, pylsl.cf_float32, f"decoy-{source_config.stream}"))
    source = LslSource(source_config)
    with pytest.raises(StreamError) as e:
        source.open(1.0)
    text = str(e.value)
    assert f"'{source_config.stream}' and type 'SpikeCounts' did not appear within 1 s" in text
    assert f"name 'decoy' type 'EEG' source_id 'decoy-{source_config.stream}'" in text
    source.close()
    del decoy


def test_counts_without_markers_are_no_trial_events() -> None:
    config, _ = configs("lsl")
    outlet = pylsl.StreamOutlet(counts_info(config.stream))
    with pytest.raises(StreamError, match=rf"^no trial events: .*'{config.markers}' and type 'Markers'"):
        LslSource(config).open(0.5)
    del outlet


def test_markers_must_be_strings() -> None:
    config, _ = configs("lsl")
    outlets = pylsl.StreamOutlet(counts_info(config.stream)), markers(config.markers, pylsl.cf_int32)
    with pytest.raises(StreamError, match=r"expected one channel of strings, found 1 channel\(s\) of int32"):
        LslSource(config).open(PATIENCE_S)
    del outlets


def test_two_streams_of_one_source_id_are_refused() -> None:
    config, _ = configs("lsl")
    outlets = [pylsl.StreamOutlet(counts_info(config.stream)) for _ in range(2)]
    deadline = time.monotonic() + PATIENCE_S
    while len(pylsl.resolve_byprop("source_id", config.stream, 2, 1.0)) < 2 and time.monotonic() < deadline:
        pass
    with pytest.raises(StreamError, match="expected one stream of type 'SpikeCounts', found 2"):
        for _ in range(20):  # which answers first is chance: both must be in for the fault to be seen
            common.find(config.stream, common.COUNTS, time.monotonic() + 1.0, 1.0)
    del outlets


def test_one_source_id_may_serve_counts_and_markers() -> None:
    me = configs("lsl")[0].stream
    config = SourceConfig(stream=me, markers=me)
    outlets = pylsl.StreamOutlet(counts_info(me)), markers(me)
    source = LslSource(config)
    assert source.open(PATIENCE_S).channels == ("a", "b")
    source.close()
    del outlets


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"fmt": pylsl.cf_int8}, "channel format: expected float32, int16, int32 or double64, found int8"),
        ({"rows": 0}, "desc/channels: expected 2 channels with a label each, found 0"),
        ({"rows": 1}, "desc/channels: expected 2 channels with a label each, found 1"),
        ({"labels": ("a", "")}, "desc/channels: expected a label for every channel, found none for channel 1"),
        ({"labels": ("a", "a")}, "desc/channels: expected unique labels, found 'a' more than once"),
        ({"labels": (), "seq": True}, "at least one channel of counts, found only 'seq'"),
        ({"binning": {"bin_ms": ""}}, "desc/binning/bin_ms: expected the bin width in milliseconds, found none"),
        ({"binning": {"bin_ms": "ten"}}, "desc/binning/bin_ms: expected the bin width in milliseconds, found 'ten'"),
        ({"binning": {"bin_ms": "nan"}}, "desc/binning/bin_ms: expected the bin width in milliseconds, found 'nan'"),
        ({"binning": {"stamp": "start"}}, "desc/binning/stamp: expected 'end' (bins stamped with their end), found 'start'"),
        ({"binning": {"stamp": ""}}, "desc/binning/stamp: expected 'end' (bins stamped with their end), found ''"),
        ({"rate": 50.0}, "nominal rate: expected 100 Hz, one sample per bin of 10 ms, found 50 Hz"),
        ({"rate": 0.0}, "nominal rate: expected 100 Hz, one sample per bin of 10 ms, found 0 Hz"),
    ],
)
def test_what_a_description_lacks_is_named(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(StreamError) as e:
        describe(counts_info("x", **changes), "x")
    assert str(e.value).startswith("LSL stream 'x': ") and sentence in str(e.value)


def test_a_fault_of_the_description_shows_when_the_source_opens() -> None:
    config, _ = configs("lsl")
    outlets = pylsl.StreamOutlet(counts_info(config.stream, rate=50.0)), markers(config.markers)
    with pytest.raises(StreamError, match="nominal rate"):
        LslSource(config).open(PATIENCE_S)
    del outlets


def test_another_makers_int16_stream_without_seq() -> None:
    config, _ = configs("lsl")
    outlet, events = pylsl.StreamOutlet(counts_info(config.stream)), markers(config.markers)
    source = LslSource(config)
    try:
        assert source.open(PATIENCE_S).bin_s == 0.01
        assert outlet.wait_for_consumers(PATIENCE_S) and events.wait_for_consumers(PATIENCE_S)
        for k in range(30):
            outlet.push_sample([k, 300], 1.0 + 0.01 * k)
        found = bins_of(collect(source, 30, 0))
        assert [b.seq for b in found] == list(range(30))
        assert [b.counts.tolist() for b in found] == [[k, 300] for k in range(30)]
        assert all(b.counts.dtype == np.float32 for b in found)
    finally:
        source.close()


def test_bad_markers_are_counted_and_decoding_goes_on() -> None:
    config, _ = configs("lsl")
    outlet, events = pylsl.StreamOutlet(counts_info(config.stream)), markers(config.markers)
    source = LslSource(config)
    try:
        source.open(PATIENCE_S)
        assert outlet.wait_for_consumers(PATIENCE_S) and events.wait_for_consumers(PATIENCE_S)
        for marker in (b"\xff\xfe", "{", "start_time"):
            events.push_sample([marker], 2.0)
        assert events_of(collect(source, 0, 1)) == [TrialEvent(2.0, START)]
        assert source.events.malformed == 2
    finally:
        source.close()


@pytest.mark.parametrize(
    "fmt, start, sent",
    [
        (pylsl.cf_int16, 32766, [32766, 32767, 0, 1, 5]),
        (pylsl.cf_int16, 32766, [32766, 32767, -32768, -32767, -32763]),
        (pylsl.cf_float32, 2**24 - 2, [2**24 - 2, 2**24 - 1, 0, 1, 5]),
        (pylsl.cf_double64, 2**40, [2**40, 2**40 + 1, 2**40 + 2, 2**40 + 3, 2**40 + 7]),
    ],
    ids=["int16 modulo", "int16 overflow", "float32", "double64"],
)
def test_seq_goes_on_when_its_channel_wraps(fmt: int, start: int, sent: list[int]) -> None:
    config, _ = configs("lsl")
    outlet, events = pylsl.StreamOutlet(counts_info(config.stream, seq=True, fmt=fmt)), markers(config.markers)
    source = LslSource(config)
    try:
        assert source.open(PATIENCE_S).channels == ("a", "b")
        assert outlet.wait_for_consumers(PATIENCE_S) and events.wait_for_consumers(PATIENCE_S)
        for k, seq in enumerate(sent):
            outlet.push_sample([0, 1, seq], 1.0 + 0.01 * k)
        assert [b.seq - start for b in bins_of(collect(source, 5, 0))] == [0, 1, 2, 3, 7]
        for seq in (sent[4], sent[0], sent[2]):  # again, earlier, and on from there: for the checks to name
            outlet.push_sample([0, 1, seq], 2.0)
        assert [b.seq - start for b in bins_of(collect(source, 3, 0))] == [7, 0, 2]
        assert source.malformed_bins == 0
    finally:
        source.close()


@pytest.mark.parametrize("raw", [math.nan, math.inf, -1.0, 0.5, 2.0**24, 1e30])
def test_a_seq_that_is_no_number_of_a_bin_is_left_out(raw: float) -> None:
    config, _ = configs("lsl")
    outlet, events = pylsl.StreamOutlet(counts_info(config.stream, seq=True, fmt=pylsl.cf_float32)), markers(config.markers)
    source = LslSource(config)
    try:
        source.open(PATIENCE_S)
        assert outlet.wait_for_consumers(PATIENCE_S) and events.wait_for_consumers(PATIENCE_S)
        for seq, t in ((7.0, 1.0), (raw, 2.0), (9.0, math.inf), (9.0, math.nan), (8.0, 3.0)):
            outlet.push_sample([0, 1, seq], t)
        assert [(b.seq, b.t) for b in bins_of(collect(source, 2, 0))] == [(7, 1.0), (8, 3.0)]
        assert source.malformed_bins == 3
        assert source.last_malformed == f"LSL stream {config.stream!r}: time stamp: expected finite seconds, found nan"
    finally:
        source.close()


def test_a_count_that_starts_again_within_a_connection_comes_through() -> None:
    with opened("lsl") as (outlet, source, _):
        for seq in (100_000, 100_001, 0, 1, 2):
            outlet.push(Bin(seq, 1.0, np.zeros(4, np.float32)))
        assert [b.seq for b in bins_of(collect(source, 5, 0))] == [100_000, 100_001, 0, 1, 2]


def test_a_rig_that_pauses_is_not_lost() -> None:
    with opened("lsl") as (outlet, source, _):
        outlet.push(Bin(0, 1.0, np.zeros(4, np.float32)))
        assert len(collect(source, 1, 0)) == 1
        stop = time.monotonic() + 3 * (SILENT_S + ANSWER_S)
        while time.monotonic() < stop:
            assert source.read(0.05) == []
        outlet.push(Bin(1, 1.01, np.zeros(4, np.float32)))
        assert len(collect(source, 1, 0)) == 1


def test_our_outlet_wraps_seq_where_float32_ends() -> None:
    with opened("lsl") as (outlet, source, _):
        for k in range(4):
            outlet.push(Bin(2**24 - 2 + k, 1.0 + 0.01 * k, np.zeros(4, np.float32)))
        assert [b.seq for b in bins_of(collect(source, 4, 0))] == [2**24 - 2 + k for k in range(4)]


def test_an_output_without_its_tail_is_refused() -> None:
    _, config = configs("lsl")
    info = pylsl.StreamInfo("foreign", common.VELOCITY, 2, 100.0, pylsl.cf_double64, config.stream)
    common.add_channels(info, [{"label": "vx"}, {"label": "vy"}])
    outlet = pylsl.StreamOutlet(info)
    with pytest.raises(StreamError, match="expected outputs and then seq_in, generation, flags, found vx, vy"):
        LslRigInlet(config).open(PATIENCE_S)
    del outlet


def test_liblsl_keeps_quiet() -> None:
    code = (
        "import pylsl\n"
        "from bci_align.config import SourceConfig\n"
        "from bci_align.errors import StreamError\n"
        "from bci_align.streams.lsl import LslSource\n"
        "try: LslSource(SourceConfig(stream='nobody-has-this')).open(0.1)\n"
        "except StreamError as e: print(e)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "nobody-has-this" in done.stdout
    assert done.stderr == ""
