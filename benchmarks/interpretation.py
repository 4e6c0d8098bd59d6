"""Factors and films: ablations of the factor VAE, films by an independent tracker, destroyed factors, cost. 5 seeds.

Sets: a synthetic day of mixed selectivity (40 channels, 3 independent behaviours and 2 processes without a label, 1000
trials of 25 bins), isometric day 0 (two force axes, their speed, three groups of muscles) and the centre-out source session
(two velocities, their speed). A share of the trials, drawn by seed, trains nothing; every number is of those. Settings were
chosen on synthetic days of other seeds; dropout, and what factors begin with, on another split of isometric day 0, too.
Films: 3 fresh synthetic days, 24 clips per factor; and isometric day 0, 12 clips per factor. Destroyed factors: 5 simulated
subjects, 4 alignments of each kind, 60 trials aligned on without labels and 80 later ones scored: the alignment itself,
where the velocity decoder loses no output by more than 5 points by it, and one damaged on purpose.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch

from benchmarks import interpretation_factors as factors
from benchmarks import interpretation_film as film
from benchmarks import interpretation_kept as kept
from benchmarks import interpretation_pixels as pixels
from benchmarks import interpretation_real as real
from benchmarks.common import Row, finish, machine

PARTS = ("factors", "film", "real", "kept", "pixels")
MOST_FACTORS_S, MOST_DIFFUSION_S, MOST_FILM_S = 60.0, 180.0, 20.0


def cost(tables: dict[str, Any], films: list[dict[str, Any]]) -> list[Row]:
    """Cost rows in CPU seconds, the most of all runs."""
    rows = []
    if tables:
        most = max(f["cpu_s"] for found in tables.values() for f in found[factors.OURS])
        rows.append(Row("cost: factor VAE, CPU s, most", most, f"<= {MOST_FACTORS_S:g}", most <= MOST_FACTORS_S))
    if films:
        most = max(f["training"]["film_cpu_s"] for f in films)
        rows.append(
            Row("cost: codec and clip diffusion, CPU s, most", most, f"<= {MOST_DIFFUSION_S:g}", most <= MOST_DIFFUSION_S)
        )
        most = max(f["film_cpu_s"] for f in films)
        rows.append(Row("cost: one film (all four ways, 2 clips), CPU s, most", most, f"<= {MOST_FILM_S:g}", most <= MOST_FILM_S))
    return rows


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, short trainings: shows that it runs, proves less")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output and nothing else there")
    parser.add_argument("--only", help=f"some of {', '.join(PARTS)}, comma-separated (default: all)")
    args = parser.parse_args()
    parts = tuple(args.only.split(",")) if args.only else PARTS
    if set(parts) - set(PARTS):
        parser.error(f"--only: expected some of {', '.join(PARTS)}, found {args.only}")
    torch.set_num_threads(1)
    rows: list[Row] = []
    tables: dict[str, Any] = {}
    films: list[dict[str, Any]] = []
    arm: dict[str, Any] | None = None

    def tell(text: str) -> None:
        """Print what is known as soon as it is."""
        if not args.json:
            print(text, flush=True)

    tell(machine())
    if "factors" in parts:
        for name in factors.SETS:
            short = (factors.VANILLA, factors.OURS) if args.quick else None
            tables[name] = factors.run(name, 1 if args.quick else 5, 30 if args.quick else None, short)
            tell(factors.show(name, tables[name]))
            rows += factors.acceptance(name, tables[name])
    if "film" in parts:
        films = film.run(1 if args.quick else 3, args.quick)
        tell(film.show(films))
        rows += film.acceptance(films)
    if "real" in parts:
        arm = real.run(args.quick)
        tell(real.show(arm))
        rows += real.acceptance(arm)
    cases = kept.run(1, 1) if args.quick and "kept" in parts else kept.run(5, 4) if "kept" in parts else []
    if cases:
        rows += kept.acceptance(cases)
    rows += cost(tables, films)
    if "pixels" in parts:
        rows += pixels.acceptance()
    result = {"machine": machine(), "quick": args.quick, "factors": tables, "films": films, "real": arm, "cases": cases}
    return finish(result, rows, args.json)


if __name__ == "__main__":
    sys.exit(main())
