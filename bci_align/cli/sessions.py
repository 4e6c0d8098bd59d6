"""``import`` and ``inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bci_align.cli.common import as_json, emit
from bci_align.config import load as load_config
from bci_align.runtime.recording import is_recording
from bci_align.session import io
from bci_align.session.describe import describe
from bci_align.session.importing import import_file
from bci_align.session.importmap import ImportMap


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--map", "map_path", type=click.Path(path_type=Path), help="Mapping file; examples in configs/import/. Recordings need none."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Session file to write (.h5).")
@click.option("--name", default=None, help="Name of the session; default: the file's.")
@click.option("--force", is_flag=True, help="Replace an existing session file.")
@as_json
def import_command(file: Path, map_path: Path | None, out: Path, name: str | None, force: bool, as_json: bool) -> None:
    """Bring a foreign recording FILE (.npz), or a recording of the live system (.h5), into a session file.

    The mapping file says which array holds the counts, the kinematics and the trial events; no code is written per data set.
    """
    if map_path is None:
        if not is_recording(file):
            raise click.UsageError("Missing option '--map'.")
        from bci_align.runtime.recorded_session import as_session

        session = as_session(file, name)
    else:
        session = import_file(file, load_config(ImportMap, map_path), name)
    io.save(session, out, overwrite=force)
    result = describe(session) | {"session": str(out)}
    emit(result, as_json, lambda: f"{out}: written\n{_lines(result)}")


@click.command("inspect")
@click.argument("path", type=click.Path(path_type=Path))
@as_json
def inspect_command(path: Path, as_json: bool) -> None:
    """Show what a session file, a bundle directory or a recording of the live system holds."""
    if path.is_dir():
        result = _bundle(path)
    elif is_recording(path):
        from bci_align.runtime.recording_contents import contents

        result = contents(path)
    else:
        result = describe(io.load(path))
    emit(result, as_json, lambda: f"{path}\n{_lines(result)}")


def _bundle(path: Path) -> dict[str, Any]:
    """Facts of a bundle; loading it also verifies every hash."""
    from bci_align.bundle.store import load_bundle

    bundle = load_bundle(path)
    m = bundle.manifest
    result = m.model_dump(mode="json", exclude={"files", "channels", "source_channels", "training", "alignment", "clamp"})
    result["channels"] = len(m.channels)
    result["source_channels"] = len(m.source_channels)
    result["source_trials"] = len(bundle.source_trials())
    result["identity"] = bundle.identity
    result["training"] = {k: v for k, v in m.training.items() if k not in ("validation_trials", "prior_loss", "config")}
    if m.alignment is not None:
        result["alignment"] = {k: v for k, v in m.alignment.items() if k != "config"}
    return result


def _lines(facts: dict[str, Any], indent: int = 2) -> str:
    """Facts as indented ``name: value`` lines."""
    out = []
    for name, value in facts.items():
        if isinstance(value, dict):
            out += [f"{' ' * indent}{name}:", _lines(value, indent + 2)] if value else []
        elif isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
            out += [f"{' ' * indent}{name}:"]
            out += [f"{' ' * (indent + 2)}{', '.join(f'{k} {v}' for k, v in item.items())}" for item in value]
        else:
            shown = f"{value:.6g}" if isinstance(value, float) else value
            out.append(f"{' ' * indent}{name}: {shown}")
    return "\n".join(out)
