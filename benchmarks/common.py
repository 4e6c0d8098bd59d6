"""What all benchmarks share: where the data lie, the machine, spread, acceptance rows."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bci_align.cli.common import plain, table
from bci_align.config import load
from bci_align.errors import SessionError
from bci_align.session.importing import import_file
from bci_align.session.importmap import ImportMap
from bci_align.session.types import Session

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Row:
    """One acceptance row: what was asked for, what was found."""

    name: str
    value: float | str
    goal: str
    met: bool


def arguments(description: str | None, parts: Sequence[str] = ()) -> argparse.Namespace:
    """Parse ``--quick`` and ``--json``, and ``--only`` where a benchmark has ``parts``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed: shows that it runs, proves less")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output and nothing else there")
    if parts:
        parser.add_argument("--only", choices=parts, help="this part alone, and acceptance rows of no other")
    return parser.parse_args()


def data(name: str) -> Path:
    """Path of a real recording: $BCI_ALIGN_DATA, or shared/data beside the repository."""
    path = Path(os.environ.get("BCI_ALIGN_DATA") or ROOT.parent / "shared" / "data") / name
    if not path.is_file():
        raise SessionError(f"{path}: no such recording; set BCI_ALIGN_DATA to the directory that holds it")
    return path


def isometric(day: int) -> Session:
    """Import one of the real isometric days."""
    return import_file(data(f"isometric_day{day}.npz"), load(ImportMap, ROOT / "configs" / "import" / "isometric.yaml"))


def centerout(which: str, kinematics: str) -> Session:
    """Import ``source`` or ``target`` of the real centre-out pair with ``position`` or ``velocity`` as its kinematics."""
    path = ROOT / "configs" / "import" / f"centerout_{kinematics}.yaml"
    return import_file(data(f"centerout_{which}.npz"), load(ImportMap, path))


def machine() -> str:
    """Describe the machine that the timings were taken on."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def spread(values: Sequence[float]) -> str:
    """Mean +- standard deviation over seeds."""
    return f"{np.mean(values):.1f} +- {np.std(values, ddof=1) if len(values) > 1 else 0.0:.1f}"


def finish(result: dict[str, Any], acceptance: Sequence[Row], as_json: bool) -> int:
    """Print the acceptance rows, or everything as JSON; gives the exit status: 1 when a row is not met."""
    if as_json:
        print(json.dumps(plain(result | {"acceptance": [asdict(r) for r in acceptance]}), allow_nan=False))
    else:
        rows = [("acceptance", "value", "goal", "met")]
        rows += [
            (r.name, f"{r.value:.4g}" if isinstance(r.value, float) else r.value, r.goal, "yes" if r.met else "NO")
            for r in acceptance
        ]
        print("\n" + table(rows))
    return 0 if all(r.met for r in acceptance) else 1


def say(text: str) -> None:
    """Tell on standard error what is going on."""
    print(text, file=sys.stderr, flush=True)
