import json
import math
import socket
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import replace

import numpy as np
import pytest

from bci_align.config import SinkConfig, SourceConfig
from bci_align.errors import StreamError
from bci_align.session.io import save
from bci_align.session.types import bin_of
from bci_align.streams.contract import END, GO, START, Bin, Decoded, TrialEvent
from bci_align.streams.registry import make_sink, make_source
from bci_align_sim.closed_loop import ClosedLoop
from bci_align_sim.day import simulate_days, simulate_tunings
from bci_align_sim.rig import main, parse
from bci_align_sim.rig_loop import Listener, Pacer, play_closed_loop, play_session, session_events
from bci_align_sim.task import record_day
from bci_align_sim.tuning import Tuning

TUNING = Tuning.draw(8, 0)


@pytest.fixture(scope="module")
def day():
    return record_day(TUNING, trials=4, seed=1)


class Tape:
    """An outlet that keeps what it is given."""

    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)


class Echo:
    """A decoder that answers each bin of a tape at once; ``fail_at`` loses the connection on that read."""

    def __init__(self, tape, names=("vx", "vy"), fail_at=None):
        self.tape, self.names, self.fail_at = tape, names, fail_at
        self.read_so_far = self.reads = self.opened = 0

    def open(self, timeout_s):
        self.opened += 1
        return self.names

    def read(self, timeout_s):
        self.reads += 1
        if self.reads == self.fail_at:
            raise StreamError("gone")
        time.sleep(0.0005)
        new, self.read_so_far = self.tape.items[self.read_so_far :], len(self.tape.items)
        return [Decoded(b.seq, b.t, np.array([1.0, 2.0]), 0) for b in new if isinstance(b, Bin)]

    def close(self):
        pass


class FakeTime:
    def __init__(self):
        self.now = 100.0

    def sleep(self, s):
        self.now += s + 0.003  # a sleep that always overruns


def test_pacing_does_not_pass_lateness_on():
    t = FakeTime()
    pacer = Pacer(2.0, lambda: t.now, t.sleep)
    for k in range(1000):
        pacer.until((k + 1) * 0.02)
    assert t.now - 100.0 == pytest.approx(1000 * 0.02 / 2.0 + 0.003)
    assert max(pacer.late_s) < 0.0031


def test_without_speed_limit_nothing_waits():
    pacer = Pacer(math.inf, lambda: 0.0, lambda s: pytest.fail("slept"))
    pacer.until(1e6)


def test_a_session_is_sent_whole_and_events_before_their_bin_ends(day):
    tape = Tape()
    sent = play_session(day, tape, Pacer(math.inf), 50.0)
    bins = [i for i in tape.items if isinstance(i, Bin)]
    np.testing.assert_array_equal(np.stack([b.counts for b in bins]), day.counts)
    assert [b.seq for b in bins] == list(range(day.bins)) and bins[0].counts.dtype == np.float32
    np.testing.assert_allclose([b.t for b in bins], 50.0 + 0.02 * (1 + np.arange(day.bins)))
    assert (sent.bins, sent.events) == (day.bins, 12)
    done = 0
    for item in tape.items:
        if isinstance(item, TrialEvent):
            assert bin_of(item.t - 50.0, 0.02) == done
        else:
            done += 1


def test_events_of_a_session(day):
    events = session_events(day)
    assert [e.name for e in events] == [START, GO, END] * 4
    assert [e.value for e in events if e.name == END] == [bool(s) for s in day.trials.success]
    no_cue = replace(day, trials=replace(day.trials, go_s=np.full(4, np.nan)))
    assert [e.name for e in session_events(no_cue)] == [START, END] * 4


def test_an_event_at_the_very_end_is_still_sent(day):
    end = day.trials.end_s.copy()
    end[-1] = day.bins * day.bin_s
    tape = Tape()
    play_session(replace(day, trials=replace(day.trials, end_s=end)), tape, Pacer(math.inf), 0.0)
    assert isinstance(tape.items[-1], TrialEvent) and tape.items[-1].name == END


def test_closed_loop_in_lockstep_is_deterministic():
    counts = []
    for _ in range(2):
        tape, loop = Tape(), ClosedLoop(TUNING, seed=1)
        listener = Listener(Echo(tape))
        listener.start(2.0)
        sent = play_closed_loop(loop, 1, tape, listener, Pacer(math.inf), 0.0, lockstep=True)
        listener.close()
        bins = [i for i in tape.items if isinstance(i, Bin)]
        counts.append(np.stack([b.counts for b in bins]))
        assert (sent.bins, sent.events) == (len(bins), 3)
        assert len(loop.attempts) == 1 and np.isfinite([b.t for b in bins]).all()
    np.testing.assert_array_equal(*counts)


def test_events_of_the_closed_loop_are_sent_before_their_bin():
    tape = Tape()
    listener = Listener(Echo(tape))
    listener.start(2.0)
    play_closed_loop(ClosedLoop(TUNING, seed=1), 1, tape, listener, Pacer(math.inf), 10.0, lockstep=True)
    listener.close()
    for k, item in enumerate(tape.items):
        if isinstance(item, TrialEvent):
            after = next(i for i in tape.items[k:] if isinstance(i, Bin))
            assert after.t - 0.02 - 1e-9 <= item.t < after.t


def test_listener_connects_again_after_a_loss():
    tape = Tape()
    echo = Echo(tape, fail_at=3)
    listener = Listener(echo)
    listener.start(2.0)
    deadline = time.monotonic() + 5
    while echo.opened < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    tape.push(Bin(7, 0.0, np.zeros(8, np.float32)))
    assert listener.wait_for(7, 2.0) and not listener.wait_for(8, 0.01)
    listener.close()
    assert (listener.losses, listener.latest().seq_in) == (1, 7)


def test_outputs_that_are_no_velocity_are_refused():
    listener = Listener(Echo(Tape(), names=("fx", "fy")))
    listener.start(2.0)
    with pytest.raises(StreamError, match="expected vx, vy, found fx, fy"):
        listener.columns(("vx", "vy"))
    listener.close()


@pytest.mark.parametrize(
    "bad",
    [
        ["--simulate", "--speed", "0"],
        ["--simulate", "--trials", "0"],
        ["--simulate", "--drift", "2"],
        ["--session", "x", "--closed-loop"],
        ["--simulate", "--closed-loop", "--speed", "inf"],
        ["--simulate", "--heard", "/no/such/folder/x.npz"],
        [],
    ],
)
def test_command_lines_that_make_no_sense_are_refused(bad, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(bad)
    assert (stop.value.code == 2 and "expected" in capsys.readouterr().err) or not bad


def test_a_missing_session_is_one_sentence(tmp_path, capsys, restore_sigterm):
    assert main(["--session", str(tmp_path / "none.h5")]) == 2
    err = capsys.readouterr().err
    assert "none.h5" in err and err.count("\n") == 1


@pytest.fixture
def restore_sigterm():
    import signal

    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def free_address() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{s.getsockname()[1]}"


class Live:
    """A rig in its own process, and the decoder's ends in this one."""

    def __init__(self, kind: str, *args: str) -> None:
        tag = uuid.uuid4().hex[:8]
        self.source_config = SourceConfig(kind=kind, stream=f"c{tag}", markers=f"e{tag}", address=free_address())
        self.sink_config = SinkConfig(kind=kind, stream=f"v{tag}", address=free_address())
        a, b = self.source_config, self.sink_config
        ids = ["--source-id", a.stream, "--markers-id", a.markers, "--velocity-id", b.stream]
        where = ["--address", a.address, "--velocity-address", b.address]
        self.command = [sys.executable, "-m", "bci_align_sim.rig", "--over", kind, *ids, *where, *args]

    def run(self, decode):
        """Answer every bin with ``decode(counts)``; items received, and the rig's report."""
        sink, source = make_sink(self.sink_config), make_source(self.source_config)
        rig = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        items, hung = [], threading.Timer(60.0, rig.kill)
        hung.start()
        try:
            sink.open(("vx", "vy"), ("cm/s", "cm/s"), 50.0)
            spec = source.open(20.0)
            while rig.poll() is None:
                try:
                    new = source.read(0.05)
                except StreamError:  # the rig has closed its streams, as it does at its end
                    break
                items += new
                for b in new:
                    if isinstance(b, Bin):
                        sink.write(Decoded(b.seq, b.t, decode(b.counts), 3))
            out, err = rig.communicate(timeout=20)
        finally:
            hung.cancel()
            rig.kill()
            rig.wait()
            source.close()
            sink.close()
        assert rig.returncode == 0, err
        return spec, items, json.loads(out)


def check_received(items, day):
    bins = [i for i in items if isinstance(i, Bin)]
    np.testing.assert_array_equal(np.stack([b.counts for b in bins]), day.counts)
    start = bins[0].t - day.bin_s
    np.testing.assert_allclose([b.t - start for b in bins], day.bin_s * (1 + np.arange(day.bins)), atol=1e-6)
    events = [i for i in items if isinstance(i, TrialEvent)]
    expected = session_events(day)
    assert [(e.name, e.value) for e in events] == [(e.name, e.value) for e in expected]
    np.testing.assert_allclose([e.t - start for e in events], [e.t for e in expected], atol=1e-6)


@pytest.mark.parametrize("kind", ["zmq", "lsl"])
def test_a_session_streamed_from_another_process_arrives_whole(kind, day, tmp_path):
    save(day, tmp_path / "day.h5")
    live = Live(kind, "--session", str(tmp_path / "day.h5"), "--speed", "20", "--heard", str(tmp_path / "heard.npz"))
    spec, items, report = live.run(lambda counts: np.array([counts.sum(), -1.0]))
    assert spec.channels == day.channels and spec.bin_s == pytest.approx(day.bin_s)
    check_received(items, day)
    assert report["bins"] == report["heard"]["bins"] == day.bins and report["events"] == 12
    with np.load(tmp_path / "heard.npz", allow_pickle=False) as file:
        heard = dict(file)
    np.testing.assert_array_equal(heard["seq_in"], np.arange(day.bins))
    np.testing.assert_array_equal(heard["values"][:, 0], day.counts.sum(1))
    assert list(heard["names"]) == ["vx", "vy"] and set(heard["generation"]) == {3}


def test_closed_loop_over_a_live_stream_reaches_its_targets(wiener):
    tuning, _ = simulate_tunings(4)
    decoder = wiener.fit(record_day(tuning, trials=48, seed=1)).online()
    live = Live("zmq", "--simulate", "day0", "--seed", "4", "--closed-loop", "--lockstep", "--speed", "inf", "--trials", "4")
    _, items, report = live.run(decoder)
    assert report["closed_loop"]["success_rate"] >= 0.75
    assert report["events"] == sum(isinstance(i, TrialEvent) for i in items) == 12


def test_simulated_days_of_the_rig_are_those_of_the_package():
    args = parse(["--simulate", "dayK", "--trials", "2", "--seed", "3"])
    from bci_align_sim.rig import _content

    np.testing.assert_array_equal(_content(args).counts, simulate_days(3, (2, 2))[1].counts)
