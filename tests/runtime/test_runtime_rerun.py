"""A recording decodes again to the same bytes, whatever happened in it, and tells what another bundle would have done."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bci_align.bundle.store import Bundle, save_generation
from bci_align.cli.main import main
from bci_align.config import ChecksConfig, LiveConfig, PromotionConfig, SafetyConfig
from bci_align.errors import AlignmentError, BundleError, MismatchError, SessionError
from bci_align.models.read_in import ReadIn
from bci_align.runtime import audit
from bci_align.runtime.aligner_process import Methods
from bci_align.runtime.calls import Begin, Call
from bci_align.runtime.recorded_session import as_session
from bci_align.runtime.recorder_process import about
from bci_align.runtime.recording import Recording, Writer
from bci_align.runtime.rerun import build, verify
from bci_align.runtime.sealed import SealedReader
from bci_align.runtime.tape import Op, Tape, TapedLoop
from bci_align.runtime.whatif import rerun, summary
from bci_align.session import io
from bci_align.session.types import Session, unlabelled
from bci_align.streams.contract import Bin, Flags, Link

from .fakes import QUICK, REFUSING, stream

pytestmark = pytest.mark.computes

LENIENT = PromotionConfig(shadow_bins=20, blend_bins=5, probation_bins=30, spread=(1e-6, 1e6), most_clamped=1.0, most_jump=1e6)


def scaled(read_in: ReadIn, factor: float) -> ReadIn:
    return replace(read_in, gain=read_in.gain * np.float32(factor))


class Live:
    """A decoder as the live system runs it, on a tape in this process."""

    def __init__(self, bundle: Bundle, tape: Tape, config: LiveConfig) -> None:
        begin = Begin.of(bundle, config)
        self.loop = TapedLoop(build(begin, bundle), tape, begin.pack())
        self.now = 100.0

    def feed(self, items: list[Any]) -> None:
        for item in items:
            if isinstance(item, Bin):
                self.now += 0.05
                self.loop.on_bin(Bin(item.seq, item.t, item.counts, self.now))
                self.loop.idle(4)
            else:
                self.loop.on_event(item)
            for _ in range(2):
                self.loop.tick(self.now + 0.01)
                self.loop.idle(4)
            self.loop.news()


def record(path: Path, tape: Tape, bundle: Bundle, skip: tuple[int, int] = (0, 0)) -> None:
    rows = SealedReader(tape).take(10**6)[1]
    writer = Writer(path, about(bundle.path))
    writer.write(rows[: skip[0]] + rows[skip[1] :])
    writer.close()


def tape_of(bundle: Bundle) -> Tape:
    shape = len(bundle.manifest.channels), len(bundle.manifest.outputs)
    return Tape(bytearray(Tape.nbytes(*shape, 20000)), *shape, 20000)


def other_core(bundle: Bundle, path: Path) -> Bundle:
    """A bundle of the same shape whose core is another."""
    source, _ = bundle.models()
    with torch.no_grad():
        source.core.gru.weight_hh_l0 *= 1.1
    return save_generation(bundle, bundle.read_in, path, {}, encoder=source)


@pytest.fixture(scope="module")
def eventful(bundle: Bundle, days: tuple[Session, Session], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Session]:
    """Everything that can happen to a loop, twice: the second decoder begins after the first one was killed."""
    tape, config = tape_of(bundle), LiveConfig(bundle=str(bundle.path), promotion=LENIENT)
    items = list(stream(days[1], t0=7.0, late=2))[:1500]
    first = Live(bundle, tape, config)
    first.feed(items[:100])
    bad = items[100:140]
    for k, fault in ((3, np.nan), (9, -1.0), (14, 1e9), (20, np.inf)):
        if isinstance(item := bad[k], Bin):
            counts = item.counts.copy()
            counts[5] = fault
            bad[k] = replace(item, counts=counts)
    first.feed([*bad, bad[-1], *items[150:300]])  # twice the same, then a gap
    first.loop.offer(scaled(bundle.read_in, 1.3), 1)
    first.feed(items[300:600])
    for k in range(40):
        first.loop.tick(first.now + 0.02 * k)
    first.now += 0.8
    first.loop.on_link(Link("lost", "the stream is gone"))
    first.loop.on_link(Link("back", "the stream is back"))
    first.feed(items[600:700])
    first.loop.malformed(2)
    first.loop.freeze()
    first.feed(items[700:720])
    first.loop.resume()
    first.feed(items[720:760])
    first.loop.rollback()
    first.feed(items[760:900])
    second = Live(bundle, tape, config)
    second.loop.restarted()
    second.feed(items[905:1000])
    second.loop.offer(scaled(bundle.read_in, 0.8), 1)
    second.loop.promote()
    second.feed(items[1000:1400])
    path = tmp_path_factory.mktemp("recording") / "recording-1.h5"
    record(path, tape, bundle)
    return path, days[1]


def test_a_recording_decodes_again_to_the_same_bytes(eventful: tuple[Path, Session]) -> None:
    found = verify(eventful[0])
    assert found.difference is None
    assert found.holes == []
    assert found.decoders == 2 and found.bins > 1000 and found.samples > found.bins - 10
    assert [s.split(" from")[0] for s in found.swaps] == ["generation 1", "generation 1"]
    with Recording(eventful[0]) as r:
        seen = {c.op for c in r.calls() if not hasattr(c, "why")}
    assert seen == set(Op) - {Op.PART, Op.ODD}


def flipped(path: Path, to: Path, bundle: Bundle, number: int, **change: Any) -> Path:
    """The recording with one record that says something else, under a good seal."""
    tape = tape_of(bundle)
    with Recording(path) as r:
        rows = np.stack(list(r.rows()))
    records = rows.view(tape.dtype)[:, 0]
    for name, value in change.items():
        records[name][number] = value
    tape.commit_all(rows)
    record(to, tape, bundle)
    return to


def test_the_first_bit_that_differs_is_named(eventful: tuple[Path, Session], bundle: Bundle, tmp_path: Path) -> None:
    with Recording(eventful[0]) as r:
        calls = [c for c in r.calls() if not hasattr(c, "why") and c.op == Op.BIN and c.gave is not None]
    call = calls[500]
    assert call.gave is not None
    values = call.gave.values.copy()
    values[1] = np.nextafter(values[1], np.inf)
    path = flipped(eventful[0], tmp_path / "a.h5", bundle, call.number, values=values)
    said = verify(path).difference
    assert said is not None and said.startswith(f"bin {call.argument.seq}: values: recorded ")
    counts = call.argument.counts.copy()
    counts[2] += 1  # another input: from here on the outputs are others
    path = flipped(eventful[0], tmp_path / "b.h5", bundle, call.number, counts=counts)
    assert str(verify(path).difference).startswith(f"bin {call.argument.seq}: values")
    for name in ("flags", "generation", "t_out", "seq_in"):
        path = flipped(eventful[0], tmp_path / f"{name}.h5", bundle, call.number, **{name: 77})
        assert verify(path).difference is not None


def test_a_hole_is_said_and_what_follows_up_to_the_next_decoder(
    eventful: tuple[Path, Session], bundle: Bundle, tmp_path: Path
) -> None:
    tape = tape_of(bundle)
    with Recording(eventful[0]) as r:
        tape.commit_all(np.stack(list(r.rows())))
    record(tmp_path / "r.h5", tape, bundle, skip=(400, 450))
    found = verify(tmp_path / "r.h5")
    assert found.difference is None and found.decoders == 2
    assert found.holes == [
        "50 records from number 400 on were missed by the recorder: what follows cannot be verified up to the next decoder"
    ]
    assert 100 < found.unverified < verify(eventful[0]).bins - found.bins <= found.unverified + 50


def test_the_bundle_must_be_the_one(eventful: tuple[Path, Session], bundle: Bundle, tmp_path: Path) -> None:
    generation = save_generation(bundle, scaled(bundle.read_in, 1.1), tmp_path / "gen-0001", {})
    assert verify(eventful[0], generation.path).difference is None  # the same core: the read-in is in the recording
    with pytest.raises(MismatchError, match="whose core or decoder is another"):
        verify(eventful[0], other_core(bundle, tmp_path / "other").path)
    with pytest.raises(BundleError, match="no such bundle"):
        verify(eventful[0], tmp_path / "moved")


def test_the_same_bundle_and_settings_do_the_same(eventful: tuple[Path, Session], bundle: Bundle) -> None:
    found = rerun(eventful[0], None, LiveConfig(bundle="", promotion=LENIENT))
    s = summary(found)
    assert s["identical"] == s["samples"] == len(found.seq) > 1000
    assert s["flags_differ"] == 0 and s["notes"] == []
    assert found.decisions[0] == json.loads(json.dumps(found.decisions[1], default=float))


def test_other_settings_decide_otherwise(eventful: tuple[Path, Session]) -> None:
    strict = LENIENT.model_copy(update={"spread": (0.9999, 1.0001)})
    found = rerun(eventful[0], None, LiveConfig(bundle="", promotion=strict))
    kinds = [{d["report"] for d in decisions} for decisions in found.decisions]
    assert "swapped" in kinds[0] and "swapped" not in kinds[1] and "shadow" in kinds[1]
    s = summary(found)
    assert set(s["velocity"]) == {"all", "generation 0", "generation 1"}
    apart = s["velocity"]["generation 1"]
    assert all(apart[n]["rms_difference"] > 0 and 0 < apart[n]["correlation"] < 1 for n in found.names)
    lead = int(np.flatnonzero(found.generations[0] == 1)[0])
    assert (found.before[: lead - 10] == found.after[: lead - 10]).all()
    held = rerun(eventful[0], None, LiveConfig(bundle="", promotion=LENIENT, checks=ChecksConfig(non_finite="zero")))
    faulty = (held.flags[0] & Flags.NON_FINITE) != 0
    assert faulty.sum() == 2 and (held.after[faulty] == 0).all() and (held.before[faulty] != 0).any()
    slow = rerun(eventful[0], None, LiveConfig(bundle="", promotion=LENIENT, safety=SafetyConfig(max_speed=1e-9)))
    assert np.abs(slow.after).max() <= 1e-9


def test_another_bundle_decodes_the_same_bins(eventful: tuple[Path, Session], bundle: Bundle, tmp_path: Path) -> None:
    other = save_generation(bundle, scaled(bundle.read_in, 1.3), tmp_path / "gen-0001", {})
    found = rerun(eventful[0], other, None)
    assert set(found.generations[1]) == {1}
    assert summary(found)["notes"] == [
        "2 candidates of the recording were left out: they were made for another bundle or other settings"
    ]
    # What the live system swapped to was this very read-in: once the states have met, the outputs are the same.
    led = np.flatnonzero((found.generations[0] == 1) & (found.flags[0] == found.flags[1]) & (np.arange(len(found.seq)) < 700))
    assert len(led) > 50 and np.allclose(found.before[led[-20:]], found.after[led[-20:]], atol=1e-3)
    apart = rerun(eventful[0], other_core(bundle, tmp_path / "other"), None)
    assert summary(apart)["identical"] < 100
    renamed = save_generation(bundle, bundle.read_in, tmp_path / "renamed", {}, tuple(c + "x" for c in bundle.manifest.channels))
    with pytest.raises(MismatchError, match=r"does not fit .*: channels"):
        rerun(eventful[0], renamed, None)


def test_aligning_again_is_judged_again(eventful: tuple[Path, Session], bundle: Bundle) -> None:
    """The trials are cut out of the recording as the aligner cuts them out of the ring."""
    config = LiveConfig(bundle="", promotion=LENIENT, calibration_trials=5, recalibrations=2)
    found = rerun(eventful[0], None, config, methods=QUICK)
    now = found.decisions[1]
    assert [d["report"] for d in now if d["report"] in ("accepted", "refused")] == ["accepted", "accepted"]
    assert {d["generation"] for d in now if d["report"] == "swapped"} <= {1, 2}
    assert {1} <= set(found.generations[1]) and "2 candidates of the recording were left out" in found.notes[0]
    refused = rerun(eventful[0], None, config, methods=REFUSING)
    assert [d["report"] for d in refused.decisions[1]] == ["refused", "refused"]
    assert refused.decisions[1][0]["reason"] == "spread of vx is 9, expected 0.5 to 2"
    assert set(refused.generations[1]) == {0}
    failing = Methods(no_align, QUICK.judge)
    assert rerun(eventful[0], None, config, methods=failing).decisions[1][0]["reason"] == "too short"
    calm = rerun(eventful[0], None, config, methods=Methods(no_align, QUICK.judge, no_drift)).decisions[1]
    assert [d["reason"] for d in calm] == ["the day has not drifted"] * 2


def test_the_audit_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for k in range(3):
        audit.append(tmp_path, "committed", {"generation": k})
    assert main(["audit", "verify", str(tmp_path)]) == 0
    assert "3 entries, the chain is whole (3 committed)" in capsys.readouterr().out
    assert main(["audit", "verify", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["decisions"] == {"committed": 3}
    log = tmp_path / audit.NAME
    log.write_text(log.read_text().replace('"generation": 1', '"generation": 2'))
    assert main(["audit", "verify", str(tmp_path)]) == 4
    assert "audit.jsonl: line 2: was changed" in capsys.readouterr().err


def no_drift(*args: Any) -> Any:
    return SimpleNamespace(verdict="do not align", sentence="the day has not drifted")


def no_align(*args: Any) -> Any:
    raise AlignmentError("too short")


def test_a_recording_becomes_a_session(eventful: tuple[Path, Session], bundle: Bundle, tmp_path: Path) -> None:
    """Its whole trials hold the very counts of the day's."""
    path, day = eventful
    session = as_session(path)
    io.save(session, tmp_path / "session.h5")
    assert io.load(tmp_path / "session.h5").fingerprint() == session.fingerprint()
    assert session.channels == day.channels and session.breaks
    ours = unlabelled(session, np.arange(len(session.trials)), 0).counts
    theirs = {
        c.tobytes(): bool(ok)
        for c, ok in zip(unlabelled(day, np.arange(len(day.trials)), 0).counts, day.trials.success, strict=True)
    }
    assert len(ours) > 5
    assert [theirs[c.tobytes()] for c in ours] == session.trials.success.tolist()
    empty = tape_of(bundle)
    Live(bundle, empty, LiveConfig(bundle=""))
    record(tmp_path / "empty.h5", empty, bundle)
    with pytest.raises(SessionError, match="expected decoded bins, found none"):
        as_session(tmp_path / "empty.h5")


def test_a_recording_is_inspected(
    eventful: tuple[Path, Session], bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = eventful[0]
    assert main(["inspect", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    with Recording(path) as recording:
        calls = [c for c in recording.calls() if isinstance(c, Call)]
    assert found["bins"] == sum(c.op == Op.BIN for c in calls)
    assert found["samples"] == sum(c.gave is not None for c in calls) > found["bins"] - 10
    assert (found["decoders"], found["generations"], found["missing"]) == (2, [0, 1], 0)
    reports = [d["report"] for d in found["decisions"]]
    assert reports.count("swapped") == 2 and {"frozen", "resumed", "rolled_back"} <= set(reports)
    assert found["flags"]["NON_FINITE"] == 2 and found["flags"]["STALE"] > 10
    assert found["trials"] >= found["successful_trials"] > 0
    tape = tape_of(bundle)
    with Recording(path) as recording:
        tape.commit_all(np.stack(list(recording.rows())))
    record(tmp_path / "holed.h5", tape, bundle, skip=(400, 450))
    assert main(["inspect", str(tmp_path / "holed.h5")]) == 0
    said = capsys.readouterr().out
    assert "kind: recording of the live system" in said and "missing: 50" in said


def test_the_commands(eventful: tuple[Path, Session], bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(eventful[0])
    assert main(["replay", path, "--verify"]) == 0
    out = capsys.readouterr().out
    assert "every byte is the same" in out and "swap: generation 1 from bin" in out
    assert main(["replay", path, "--verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["identical"] is True
    bad = flipped(Path(path), tmp_path / "bad.h5", bundle, 700, values=np.ones(len(bundle.manifest.outputs)))
    assert main(["replay", str(bad), "--verify"]) == 4
    assert "values: recorded [1.0, 1.0], now " in capsys.readouterr().err
    other = save_generation(bundle, scaled(bundle.read_in, 2.0), tmp_path / "gen-0001", {})
    assert main(["replay", path, "--with", str(other.path), "--out", str(tmp_path / "again")]) == 0
    out = capsys.readouterr().out
    assert "- swapped: generation 1" in out and "RMS difference of" in out
    assert (tmp_path / "again" / "recording-1-again.png").stat().st_size > 10000
    assert main(["replay", path, "--with", str(other.path), "--align"]) == 2
    assert "--align: expected --config" in capsys.readouterr().err
    assert main(["replay", path]) == 2
    assert "expected either --verify, or --with or --config" in capsys.readouterr().err
    assert main(["import", path, "--out", str(tmp_path / "session.h5")]) == 0
    capsys.readouterr()
    assert main(["replay", str(tmp_path / "session.h5"), "--bundle", str(bundle.path), "--verify"]) == 2
    assert "are for recordings of the live system" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "session.h5"), "--out", str(tmp_path / "again.h5")]) == 2
    assert "Missing option '--map'" in capsys.readouterr().err
