"""The recorder process: reads the tape and writes it down. Decoding goes on whatever becomes of it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bci_align import __version__
from bci_align.bundle import manifest as mf
from bci_align.config import LiveConfig
from bci_align.errors import RuntimeFault
from bci_align.runtime import audit, process
from bci_align.runtime.recording import About, Writer
from bci_align.runtime.reports import Pipe, fault, send
from bci_align.runtime.sealed import SealedReader
from bci_align.runtime.shared import Cell, Layout, Shared

_SLEEP_S = 0.02
_MOST = 4096
_QUIET_S = 0.2
"""Silence of the tape after which nothing more is expected of a decoder that was told to stop."""

_DRAIN_S = 3.0
_MB = 1e6


def main(layout: Layout, config: LiveConfig, pipe: Pipe) -> None:
    """Run the process until it is told to stop, its parent is gone or the disk will take no more.

    Reports ``ready`` (path), ``missed`` (records: the tape overran), ``record_failed`` (reason: recording has ended, which is
    no reason to start it again) and ``finished`` (path, records).
    """
    process.ignore_interrupts()
    # Not the lowest priority: it computes little, and on a busy machine the last second has to be on the disk all the same.
    if config.supervisor.background_cores:
        process.keep_on(config.supervisor.background_cores)
    try:
        shared = Shared.attach(layout)
        try:
            recorder = _Recorder(shared, config, pipe)
            if recorder.run():
                # HDF5 would try to write the rest once nobody holds the file any more, and crash over it.
                os._exit(0)
        finally:
            shared.close()
    except Exception as e:
        send(pipe, fault(e))
        raise SystemExit(1) from None


class _Recorder:
    """One recording."""

    def __init__(self, shared: Shared, config: LiveConfig, pipe: Pipe) -> None:
        self._shared, self._config, self._pipe = shared, config, pipe
        self._out = Path(config.out)
        self._log = self._out / audit.NAME
        self._logged = self._log.stat().st_size if self._log.exists() else 0
        # A recorder that is started anew goes on where the tape still reaches.
        self._reader = SealedReader(shared.tape)
        self._parent = process.ParentWatch()
        self._rows: list[NDArray[np.uint8]] = []
        self._path = free_path(self._out, datetime.now(UTC))
        self._about = about(Path(config.bundle))
        self._writer: Writer | None = None

    def run(self) -> bool:
        """Record; whether it ended in the middle of a write."""
        try:
            self._check_room()
            self._writer = Writer(self._path, self._about)
            send(self._pipe, {"report": "ready", "path": str(self._path)})
            self._record(self._writer)
            self._writer.close()
        except (OSError, RuntimeError, ValueError) as e:  # what h5py raises when HDF5 cannot write
            self._fail(f"cannot be written any more ({_short(e)})")
            return True
        except RuntimeFault as e:
            self._fail(str(e))
            if self._writer is not None:
                self._writer.close()
            return False
        self._finish()
        return False

    def _record(self, writer: Writer) -> None:
        due, ending, quiet = 0.0, 0.0, 0.0
        while True:
            now = time.monotonic()
            self._shared.beat(Cell.BEAT_RECORDER)
            if self._take():
                quiet = now
            if not ending and (self._shared.get(Cell.STOP) or self._parent.gone()):
                ending = quiet = now
            over = bool(ending) and (now - quiet > _QUIET_S or now - ending > _DRAIN_S)
            if now >= due or over:
                self._flush(writer)
                due = now + self._config.record.flush_s / 2
            if over:
                return
            time.sleep(_SLEEP_S)

    def _take(self) -> bool:
        """Read what is new on the tape; whether there was anything."""
        missed, rows = self._reader.take(_MOST)
        if missed:
            send(self._pipe, {"report": "missed", "records": missed})
        self._rows += rows
        return bool(rows)

    def _flush(self, writer: Writer) -> None:
        """Write down what has come; what is on the disk afterwards survives everything."""
        self._check_room()
        writer.write(self._rows, self._decisions())
        self._rows = []

    def _check_room(self) -> None:
        """Leave the last of the disk to what matters more."""
        left, least = shutil.disk_usage(self._out).free / _MB, self._config.record.leave_mb
        if left < least:
            what = "free on the disk, for generations and decisions"
            raise RuntimeFault(f"expected {least:g} MB {what}, found {left:.1f} MB")

    def _decisions(self) -> bytes:
        """Whole lines that the audit log has grown by; the log is only ever appended to, but for a line without its end."""
        if not self._log.exists():
            return b""
        with self._log.open("rb") as f:
            f.seek(self._logged)
            new = f.read()
        new = new[: new.rfind(b"\n") + 1]
        self._logged += len(new)
        return new

    def _fail(self, why: str) -> None:
        reason = f"{self._path}: recording ended after {self._written()} records: {why}"
        send(self._pipe, {"report": "record_failed", "reason": reason})
        self._finish()

    def _finish(self) -> None:
        send(self._pipe, {"report": "finished", "path": str(self._path), "records": self._written()})

    def _written(self) -> int:
        return 0 if self._writer is None else self._writer.records


def about(bundle: Path) -> About:
    """What a recording that begins now with ``bundle`` says of itself."""
    m, identity = mf.BUNDLE.read_manifest(bundle)
    started = datetime.now(UTC).isoformat(timespec="milliseconds")
    where = str(bundle.resolve()).encode(errors="replace").decode()
    return About(m.channels, m.outputs, m.units, m.bin_s, where, identity, started, versions())


def versions() -> str:
    """What the bytes of a decoded output depend on beside bundle and calls."""
    parts = {"bci_align": __version__, "onnxruntime": ort.__version__, "numpy": np.__version__}
    return ", ".join([*(f"{k} {v}" for k, v in parts.items()), f"{sys.platform} {platform.machine()}"])


def free_path(out: Path, now: datetime) -> Path:
    """Where a recording that begins ``now`` goes: its name is the time in UTC, with a number where that is taken."""
    stem, n = f"recording-{now:%Y%m%dT%H%M%SZ}", 1
    path = out / f"{stem}.h5"
    while path.exists():
        n += 1
        path = out / f"{stem}-{n}.h5"
    return path


def _short(error: Exception) -> str:
    """The reason within HDF5's many words."""
    text = str(error)
    at = text.find("error message = '")
    return text[at + 17 :].split("'")[0] if at >= 0 else text
