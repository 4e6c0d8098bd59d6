"""``benchmark``: compare methods on a user's own days."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from bci_align.alignment.rivals import RIVALS
from bci_align.atomic import claim_directory, write_directory
from bci_align.cli.common import as_json, emit, plain, staged_progress, table
from bci_align.comparison import table as rows_of
from bci_align.comparison.figures import figures
from bci_align.comparison.methods import RENORMALISE, ours
from bci_align.comparison.pairs import find_pairs
from bci_align.comparison.run import Seed, run
from bci_align.comparison.statistics import DRAWS
from bci_align.comparison.summary import Summary, summarise
from bci_align.comparison.summary import as_json as plainly
from bci_align.errors import BciAlignError, ConfigError
from bci_align.report.page import png

QUICK_DRAWS = 200


@click.group("benchmark")
def benchmark_command() -> None:
    """Compare methods on days of your own, in one run and on the same trials.

    Every benchmark prints tables, or with --json one JSON object.
    """


@benchmark_command.command("alignment")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Directory of the recordings.")
@click.option(
    "--pairs",
    type=click.Path(path_type=Path),
    default=None,
    help="YAML of day pairs, e.g. configs/benchmark/real.yaml; default: pairs.yaml in the data directory, or all its .h5 files.",
)
@click.option("--seeds", type=click.IntRange(1, 1000), default=5, show_default=True, help="Seeds 0 to N - 1.")
@click.option(
    "--jobs", type=click.IntRange(1, 1024), default=None, help="Worker processes of one thread each; default: one per CPU core."
)
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Directory for JSON and figures; must not exist.")
@click.option(
    "--rivals",
    default=",".join(RIVALS),
    show_default=True,
    help=f"Rivals to compare with, comma-separated; {RENORMALISE} is always among them.",
)
@click.option("--quick", is_flag=True, help="One seed and a coarse bootstrap: shows that it runs, proves less.")
@as_json
def alignment_command(
    data: Path, pairs: Path | None, seeds: int, jobs: int | None, out: Path | None, rivals: str, quick: bool, as_json: bool
) -> None:
    """Compare alignment methods on pairs of days: ours, every rival, supervised refitting.

    A bundle is trained on each source day, every method gets the same unlabelled trials of the target day, and the later trials
    are scored once. Without kinematics on the target day the scores are label-free ones. Without a pairs file the session files
    of the data directory, in order of name: the first is the source day, every other one a target day.
    """
    chosen = _rivals(rivals)
    found = find_pairs(data, pairs)
    if out is not None:
        claim_directory(out, error=ConfigError)
    with staged_progress(as_json) as progress:
        done = run(found, ours(), 1 if quick else seeds, jobs or os.cpu_count() or 1, progress, rivals=chosen)
    summaries = [summarise(pair, done, QUICK_DRAWS if quick else DRAWS) for pair in found]
    result: dict[str, Any] = {"pairs": [plainly(s) for s in summaries], "seeds": 1 if quick else seeds, "quick": quick}
    if all(s.failed is not None for s in done):
        fault = BciAlignError(f"benchmark: no pair worked with any seed; {summaries[0].pair}: {summaries[0].failures[0]}")
        fault.details = result
        raise fault
    text = "\n\n".join(_text(s) for s in summaries)
    if out is not None:
        _write(out, result, text, summaries, done)
        result["out"] = str(out)
    emit(result, as_json, lambda: text + (f"\n\n{out}: written" if out is not None else ""))


def _rivals(text: str) -> list[str]:
    """Names of rivals in the order of the package's list; what share of a gain was recovered needs re-normalisation."""
    told = {name for part in text.split(",") if (name := part.strip())}
    unknown = sorted(told - set(RIVALS))
    if unknown:
        raise ConfigError(f"--rivals: expected some of {', '.join(RIVALS)}, found {unknown[0]!r}")
    return [name for name in RIVALS if name in told or name == RENORMALISE]


def _text(s: Summary) -> str:
    parts = [table(rows) for rows in (rows_of.main(s), rows_of.headlines(s), rows_of.curve(s)) if rows]
    failed = ["failed:\n" + "\n".join(f"  {line}" for line in s.failures)] if s.failures else []
    return "\n\n".join([rows_of.title(s), *parts, *failed])


def _write(out: Path, result: dict[str, Any], text: str, summaries: list[Summary], done: list[Seed]) -> None:
    """Tables, numbers, every per-trial sum and the figures; whole or not at all."""
    with write_directory(out, error=ConfigError) as folder:
        (folder / "benchmark.json").write_text(json.dumps(plain(result), allow_nan=False, indent=1) + "\n", encoding="utf-8")
        every = [
            vars(s) | {"truth": s.truth and vars(s.truth), "outcomes": [vars(o) for o in s.outcomes], "latents": None}
            for s in done
        ]
        (folder / "outcomes.json").write_text(json.dumps(plain(every), allow_nan=False) + "\n", encoding="utf-8")
        (folder / "tables.txt").write_text(text + "\n", encoding="utf-8")
        for s in summaries:
            latents = next((d.latents for d in done if d.pair == s.pair and d.latents), {})
            for name, figure in figures(s, latents).items():
                (folder / f"{name}.png").write_bytes(png(figure))
