"""``keys``: CURVE keys for sockets that are to be reached from other machines."""

from __future__ import annotations

from pathlib import Path

import click

from bci_align.cli.common import as_json, emit
from bci_align.streams.curve import create_keys


@click.command("keys")
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("names", nargs=-1)
@as_json
def keys_command(directory: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Write a pair of CURVE keys into DIRECTORY for each of NAMES (by default: decoder rig operator).

    NAME.key is public and goes to whoever talks to NAME; NAME.key_secret stays with NAME. No file is written over.
    """
    files = create_keys(directory, names or ("decoder", "rig", "operator"))
    emit({"files": files}, as_json, lambda: "\n".join(f"{f}: written" for f in files))
