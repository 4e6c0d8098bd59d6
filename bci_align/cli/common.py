"""What all commands share: JSON output, progress bars, trial ranges, tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bci_align.errors import ConfigError
from bci_align.session.types import Session

F = TypeVar("F", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output and nothing else there.")
seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Seed of everything random."
)
trials_option = click.option(
    "--trials",
    "trials",
    metavar="A:B",
    default=":",
    show_default="all",
    help="Which rewarded trials to use, in order of time, as a Python slice: 0:120 the first 120, 120: all later ones.",
)


def emit(result: dict[str, Any], as_json: bool, text: Callable[[], str]) -> None:
    """Print ``result`` as one JSON object, or as ``text()``."""
    click.echo(json.dumps(plain(result), allow_nan=False) if as_json else text())


def plain(value: Any) -> Any:
    """Turn NumPy scalars, arrays, paths and NaN into what JSON knows (NaN becomes null)."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def parse_trials(text: str, session: Session) -> NDArray[np.intp]:
    """Indices of the rewarded trials that the slice ``text`` names; :class:`ConfigError` when malformed or empty."""
    rewarded = session.rewarded()
    parts = text.split(":")
    try:
        if len(parts) != 2:
            raise ValueError
        chosen = rewarded[slice(*(int(p) if p.strip() else None for p in parts))]
    except ValueError:
        raise ConfigError(f"--trials: expected a slice such as 0:120 or 120:, found {text!r}") from None
    if len(chosen) == 0:
        raise ConfigError(
            f"--trials: expected at least one of the session's {len(rewarded)} rewarded trials, found none in {text!r}"
        )
    return chosen


@contextmanager
def staged_progress(hidden: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Give ``progress(stage, done, total)`` that draws one bar per stage on standard error."""
    bar: tqdm[Any] | None = None
    stage_now = ""

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal bar, stage_now
        if bar is None or stage != stage_now:
            if bar is not None:
                bar.close()
            bar, stage_now = tqdm(total=total, desc=f"{stage:16}", file=sys.stderr, disable=hidden or None, leave=True), stage
        bar.update(done - bar.n)

    try:
        yield progress
    finally:
        if bar is not None:
            bar.close()


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Align ``rows`` in columns: the first to the left, the others to the right."""
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))) for r in rows
    )
