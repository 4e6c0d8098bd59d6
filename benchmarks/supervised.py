"""A live system in a process of its own, so that its supervisor can be killed: ``python -m benchmarks.supervised CONFIG.json``.

It aligns as :data:`benchmarks.misbehave.QUICK` does, and says on standard output, one JSON object a line, every report and,
whenever they have changed, the process numbers of all and which of them are up.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from bci_align.config import LiveConfig
from bci_align.errors import BciAlignError
from bci_align.runtime.live import LiveSystem
from benchmarks.common import ROOT
from benchmarks.misbehave import QUICK

ROLES = ("decoder", "standby", "aligner", "recorder")
_LOOK_S = 0.02


def processes(live: LiveSystem) -> dict[str, Any]:
    """Process numbers by role of those that are ``up``, and of ``all``."""
    found = live.status()["processes"]
    up = {who: found[who]["pid"] if found.get(who, {}).get("state") == "up" else None for who in ROLES}
    return {"up": up | {"standby": live.standby_pid}, "all": [p["pid"] for p in found.values() if p["pid"]]}


def main(path: Path) -> int:
    """Run until told to end."""
    config = LiveConfig.model_validate_json(path.read_text(encoding="utf-8"))
    told: dict[str, Any] = {}
    try:
        with LiveSystem(config, QUICK) as live:
            while live.decoding:
                for report in live.poll(_LOOK_S):
                    say({"report": report})
                if live.decoding and (now := processes(live)) != told:
                    told = now
                    say(now)
    except BciAlignError as e:
        sys.stderr.write(f"{e}\n")
        return e.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def say(what: dict[str, Any]) -> None:
    """One line on standard output."""
    sys.stdout.write(json.dumps(what | {"at": time.monotonic()}, default=str) + "\n")
    sys.stdout.flush()


class Supervised:
    """Such a process as its parent sees it."""

    def __init__(self, config: LiveConfig, path: Path) -> None:
        path.write_text(config.model_dump_json(), encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.supervised", str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        self.up: dict[str, int | None] = dict.fromkeys(ROLES)
        """Who is at work now."""
        self.everybody: set[int] = set()
        """Every process that there ever was."""
        self.reports: list[tuple[float, dict[str, Any]]] = []
        self._thread = threading.Thread(target=self._read, name="supervised", daemon=True)
        self._thread.start()

    def reported(self, kind: str, since: float = 0.0) -> list[tuple[float, dict[str, Any]]]:
        """Reports of one kind since a moment (seconds of ``time.monotonic``)."""
        return [(t, r) for t, r in list(self.reports) if r["report"] == kind and t >= since]

    def close(self) -> None:
        """End it, by force if it takes long; harmless when it has ended."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        self._thread.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            if "up" in said:
                self.up = said["up"]
                self.everybody |= set(said["all"])
            else:
                self.reports.append((said["at"], said["report"]))


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
