"""Artefacts on disk: a directory that is written once, and read only if the seal and every hash in its manifest agree.

A bundle, a model of trials and a factor model are such directories. Each is a few files of fixed names, a manifest in JSON with
the SHA-256 of every one of them, and the manifest's own digest in a file beside it, so that an edited or damaged manifest is seen
as any other file is. Names never come out of a manifest, nothing is unpickled, and what is read has a bound.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import Field, ValidationError

from bci_align.atomic import write_directory
from bci_align.config import Strict, explain
from bci_align.errors import BciAlignError

MAX_FILE = 256 * 2**20
"""Bytes. The largest file are a bundle's source trials: 1000 trials of 100 bins and 1024 channels take 100 MB, 96 take 10."""
MAX_MANIFEST = 4 * 2**20
"""The same for a manifest, which is parsed; 1024 channels and a long record of an alignment take a tenth."""


class Sealed(Strict):
    """What every manifest holds, beside ``format`` and ``version``, which have the one value that is understood."""

    files: dict[str, str] = Field(description="SHA-256 of every file")


M = TypeVar("M", bound=Sealed)


def digest(data: bytes) -> str:
    """SHA-256 as hexadecimal."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Artefact(Generic[M]):
    """One kind of artefact.

    ``manifest``: the type of its manifest; ``name``: its file's; ``what``: the artefact in words, for sentences; ``error``: the
    family of its faults; ``files`` names the files that a manifest must list; ``fault`` says what else of a manifest contradicts
    itself, None if nothing does; ``sort_keys``: equal manifests are equal bytes, False where the order of names says something.
    """

    manifest: type[M]
    name: str
    what: str
    error: type[BciAlignError]
    files: Callable[[M], tuple[str, ...]]
    fault: Callable[[M], str | None] = lambda _: None
    sort_keys: bool = True

    @property
    def seal(self) -> str:
        """Name of the file that holds the manifest's digest."""
        return f"{Path(self.name).stem}.sha256"

    def write(self, path: Path, manifest: M, files: Mapping[str, bytes]) -> None:
        """Write the directory ``path``, which must not exist, whole or not at all; the manifest's ``files`` are filled in."""
        manifest = manifest.model_copy(update={"files": {name: digest(data) for name, data in files.items()}})
        text = json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=self.sort_keys, allow_nan=False) + "\n"
        with write_directory(path, error=self.error) as temporary:
            try:
                for name, data in files.items():
                    (temporary / name).write_bytes(data)
                (temporary / self.name).write_bytes(text.encode())
                (temporary / self.seal).write_bytes(_sealed(text.encode()))
            except OSError as e:
                raise self.error(f"{path}: cannot be written ({e.strerror})") from None

    def read(self, path: Path) -> tuple[M, str, dict[str, bytes]]:
        """Manifest, identity (its SHA-256) and verified files of ``path``; faults name what is missing, altered or malformed."""
        manifest, identity = self.read_manifest(path)
        files = {}
        for name, told in manifest.files.items():
            files[name] = self.bounded(path / name)
            if digest(files[name]) != told:
                raise self.error(f"{path / name}: expected SHA-256 {told[:12]}..., found {digest(files[name])[:12]}...")
        return manifest, identity, files

    def read_manifest(self, path: Path) -> tuple[M, str]:
        """Manifest and identity alone."""
        if not path.is_dir():
            raise self.error(
                f"{path}: is a file, not a {self.what} directory" if path.exists() else f"{path}: no such {self.what} directory"
            )
        where, data = path / self.name, self.bounded(path / self.name, MAX_MANIFEST)
        try:
            content = json.loads(data)
        except (ValueError, RecursionError) as e:
            raise self.error(f"{where}: expected JSON, found something else ({e})") from None
        kind, version = (self.manifest.model_fields[name].default for name in ("format", "version"))
        if not isinstance(content, dict) or content.get("format") != kind:
            raise self.error(f"{where}: expected format {kind!r}, found {_short(content)}")
        if content.get("version") != version:
            raise self.error(
                f"{where}: expected version {version}, found {content.get('version')!r:.80};"
                f" a {self.what} of another version of bci_align has to be trained again"
            )
        try:
            manifest = self.manifest.model_validate(content)
        except ValidationError as e:
            raise self.error(f"{where}: {explain(self.manifest, e)}") from None
        self._check(path, manifest, data)
        return manifest, digest(data)

    def _check(self, path: Path, manifest: M, data: bytes) -> None:
        where, wanted = path / self.name, self.files(manifest)
        if set(manifest.files) != set(wanted):
            found = ", ".join(sorted(manifest.files)) or "none"
            raise self.error(f"{where}: files: expected {', '.join(wanted)}, found {found:.200}")
        if fault := self.fault(manifest):
            raise self.error(f"{where}: {fault}")
        seal = self.bounded(path / self.seal, MAX_MANIFEST)
        expected = seal.decode(errors="replace").strip()
        if expected == digest(data) and seal != _sealed(data):
            raise self.error(f"{path / self.seal}: expected a SHA-256 and the end of a line, found {seal[-4:]!r} at its end")
        if expected != digest(data):
            raise self.error(f"{where}: expected SHA-256 {expected[:12]}... as in {self.seal}, found {digest(data)[:12]}...")

    def bounded(self, path: Path, most: int = MAX_FILE) -> bytes:
        """Read a whole file that must exist, be a plain file (no link out of the artefact) and have at most ``most`` bytes."""
        try:
            if path.is_symlink() or not path.is_file():
                found = "a link" if path.is_symlink() else "nothing"
                raise self.error(f"{path}: expected a plain file of the {self.what}, found {found}")
            if path.stat().st_size > most:
                raise self.error(f"{path}: expected at most {most} bytes, found {path.stat().st_size}")
            return path.read_bytes()
        except OSError as e:
            raise self.error(f"{path}: cannot be read ({e.strerror})") from None


def _sealed(data: bytes) -> bytes:
    """The seal of a manifest's bytes, to the last byte: what differs from it anywhere is damaged."""
    return f"{digest(data)}\n".encode("ascii")


def _short(content: Any) -> str:
    """Describe unexpected JSON briefly."""
    return f"{content.get('format')!r:.80}" if isinstance(content, dict) else type(content).__name__
