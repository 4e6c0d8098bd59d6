"""``replay`` of a recording of the live system, and ``audit``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bci_align.cli.common import as_json, emit, staged_progress, table
from bci_align.errors import ConfigError, Differs
from bci_align.runtime import audit


def replay_recording(
    path: Path,
    bundle: Path | None,
    *,
    verify: bool,
    other: Path | None,
    config: Path | None,
    align: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Decode a recording again, to the same bytes (``verify``) or otherwise (``other``, ``config``)."""
    otherwise = other is not None or config is not None
    if verify == otherwise:
        what = f"{path}: is a recording: expected either --verify, or --with or --config"
        raise ConfigError(f"{what}, found {'both' if verify else 'neither'}")
    if align and config is None:
        raise ConfigError("--align: expected --config, which says how to align and how to judge, found none")
    if verify:
        _verify(path, bundle, as_json)
    else:
        _otherwise(path, bundle, other, config, align, out, as_json)


def _verify(path: Path, bundle: Path | None, as_json: bool) -> None:
    from bci_align.runtime.rerun import verify

    with staged_progress(as_json) as progress:
        found = verify(path, bundle, lambda done, total: progress("decoding again", done, total))
    verdict = "every byte is the same" if found.difference is None else f"differs: {found.difference}"
    complete = found.difference is None and not found.holes
    result = {"recording": str(path), "identical": complete, "verdict": verdict} | found.__dict__
    if found.difference is not None:
        error = Differs(f"{path}: {found.difference}; {found.bins} bins were compared")
        error.details = result
        raise error

    def text() -> str:
        lines = [f"{found.bins} bins, {found.samples} samples of {found.decoders} decoders compared: {verdict}"]
        lines += [f"swap: {s}" for s in found.swaps] + [f"not verified: {h}" for h in found.holes]
        return "\n".join(lines + ([f"{found.unverified} bins could not be compared"] if found.unverified else []))

    if found.holes:
        error = Differs(f"{path}: {found.unverified} bins could not be verified: {'; '.join(found.holes)}")
        error.details = result
        if not as_json:
            click.echo(text())
        raise error
    emit(result, as_json, text)


def _otherwise(
    path: Path, where: Path | None, other: Path | None, config: Path | None, align: bool, out: Path | None, as_json: bool
) -> None:
    from bci_align.bundle.store import load_bundle
    from bci_align.config import LiveConfig, load
    from bci_align.runtime.aligner_process import standard_methods
    from bci_align.runtime.whatif import rerun, summary

    bundle = load_bundle(other) if other is not None else None
    settings = load(LiveConfig, config) if config is not None else None
    with staged_progress(as_json) as progress:
        methods = standard_methods((settings or LiveConfig(bundle="")).gates) if align else None
        found = rerun(path, bundle, settings, lambda done, total: progress("decoding again", done, total), methods, where)
    label = f"{other}" if other is not None else f"{config}"
    result = {"recording": str(path), "with": label} | summary(found)
    if out is not None and len(found.seq):
        from bci_align.report.rerun import two_outputs

        out.mkdir(parents=True, exist_ok=True)
        figure = out / f"{path.stem}-again.png"
        two_outputs(found.names, found.units, found.bin_s, found.before, found.after, Path(label).name).savefig(figure, dpi=150)
        result["figure"] = str(figure)
    emit(result, as_json, lambda: _otherwise_text(result, found.names, found.units))


def _otherwise_text(r: dict[str, Any], names: tuple[str, ...], units: tuple[str, ...]) -> str:
    rows = [
        (
            "velocity",
            "samples",
            *(f"RMS difference of {n} ({u})" for n, u in zip(names, units, strict=True)),
            *(f"correlation of {n}" for n in names),
        )
    ]
    for part, found in r["velocity"].items():
        rms = [f"{found[n]['rms_difference']:.4g}" for n in names]
        rows.append(
            (
                part,
                str(found["samples"]),
                *rms,
                *("-" if found[n]["correlation"] is None else f"{found[n]['correlation']:.4f}" for n in names),
            )
        )
    lines = [
        f"{r['samples']} samples, {r['identical']} of them the same to the bit, flags differ on {r['flags_differ']}",
        table(rows),
    ]
    recorded, now = ([_decision(d) for d in r["decisions"][k]] for k in ("recorded", "now"))
    lines += [f"- {d}" for d in recorded if d not in now] + [f"+ {d}" for d in now if d not in recorded]
    lines.append(
        f"decisions: {len(recorded)} recorded (-), {len(now)} now (+), {len([d for d in now if d in recorded])} the same"
    )
    return "\n".join(lines + [f"note: {n}" for n in r["notes"]] + ([f"figure: {r['figure']}"] if "figure" in r else []))


def _decision(report: dict[str, Any]) -> str:
    """A decision in one line, without the measured numbers, in which any two reruns differ."""
    rest = {k: v for k, v in report.items() if k not in ("report", "checks", "warm_from_seq")}
    return f"{report['report']}: {', '.join(f'{k} {v}' for k, v in rest.items())}"


@click.group("audit")
def audit_command() -> None:
    """Check the log of decisions of a live session."""


@audit_command.command("verify")
@click.argument("out", type=click.Path(path_type=Path))
@as_json
def audit_verify(out: Path, as_json: bool) -> None:
    """Check that no line of OUT/audit.jsonl was changed, removed, added or moved."""
    found = audit.verify(out)
    count = {d: sum(e.decision == d for e in found.entries) for d in dict.fromkeys(e.decision for e in found.entries)}
    result = {"out": str(out), "entries": len(found.entries), "decisions": count, "hash": found.hash, "notes": found.notes}

    def text() -> str:
        kinds = ", ".join(f"{n} {d}" for d, n in count.items())
        return "\n".join([f"{out / audit.NAME}: {len(found.entries)} entries, the chain is whole ({kinds})", *found.notes])

    emit(result, as_json, text)
