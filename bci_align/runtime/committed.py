"""Which generation a decoder starts with when another one has died: the last that was committed, by name and by hash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from bci_align.atomic import write_file
from bci_align.bundle import manifest as mf
from bci_align.bundle.store import Bundle, load_bundle
from bci_align.config import Strict, explain
from bci_align.errors import BundleError, RuntimeFault

NAME = "committed.json"
_MOST_BYTES = 2**16


class Committed(Strict):
    """The content of ``out/committed.json``."""

    v: Literal[1] = 1
    root: Literal["bundle", "out"] = Field(description="what the path is relative to: the run's bundle, or its directory OUT")
    path: str = Field(max_length=255, description="directory of the generation, relative to root")
    identity: str = Field(max_length=128, description="SHA-256 of its manifest")
    generation: int = Field(ge=0, description="its number")


def write(out: Path, bundle: Path, committed: Path) -> None:
    """Name the generation in the directory ``committed``, which is the run's ``bundle`` or lies in ``out``.

    Replaces what was there in one rename; :class:`RuntimeFault` if that cannot be, :class:`BundleError` if it is no generation.
    """
    manifest, identity = mf.BUNDLE.read_manifest(committed)
    if committed.resolve() == bundle.resolve():
        found = Committed(root="bundle", path=".", identity=identity, generation=manifest.generation)
    elif (path := committed.resolve()).is_relative_to(out.resolve()):
        name = path.relative_to(out.resolve()).as_posix()
        found = Committed(root="out", path=name, identity=identity, generation=manifest.generation)
    else:
        raise RuntimeFault(f"{committed}: expected a generation in {out}, found one elsewhere")
    with write_file(out / NAME, overwrite=True, error=RuntimeFault) as temporary:
        try:
            temporary.write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
        except OSError as e:
            raise RuntimeFault(f"{out / NAME}: cannot be written ({e.strerror})") from None


def load(out: Path, bundle: Path) -> Bundle:
    """Load and verify the generation that ``out/committed.json`` names.

    :class:`BundleError` if the file or the generation is missing, damaged, another one than was committed, or leads elsewhere.
    """
    where = out / NAME
    try:
        with where.open("rb") as f:
            data = f.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise BundleError(f"{where}: expected at most {_MOST_BYTES} bytes, found more")
        named = Committed.model_validate(json.loads(data))
    except OSError as e:
        raise BundleError(f"{where}: cannot be read ({e.strerror})") from None
    except ValidationError as e:
        raise BundleError(f"{where}: {explain(Committed, e)}") from None
    except (ValueError, RecursionError) as e:
        raise BundleError(f"{where}: expected JSON, found something else ({e})") from None
    root = (bundle if named.root == "bundle" else out).resolve()
    path = (root / named.path).resolve() if "\0" not in named.path else root.parent
    if not path.is_relative_to(root):
        raise BundleError(f"{where}: path: expected one inside {root}, found {named.path!r}")
    found = load_bundle(path)
    if found.identity != named.identity:
        raise BundleError(
            f"{path}: expected the generation that was committed, {named.identity[:12]}..., found {found.identity[:12]}..."
        )
    return found
