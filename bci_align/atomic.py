"""Write a file or a directory whole or not at all.

What is written goes to a temporary name beside the target, is flushed to the disk, and takes the target's name in one
rename. A fault, Ctrl-C or a full disk removes the temporary and leaves the old target as it was; a process killed outright
may leave a ``.tmp-*`` entry behind, never a half-written target.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bci_align.errors import BciAlignError

TEMPORARY = ".tmp-"
"""Prefix of temporary names; the target's own name follows, so that writers that look at the suffix see the right one."""


@contextmanager
def write_file(path: str | Path, *, overwrite: bool = False, error: type[BciAlignError] = BciAlignError) -> Iterator[Path]:
    """Give a temporary path in ``path``'s directory to write to; on leaving, make it durable and rename it to ``path``.

    Without ``overwrite`` an existing ``path`` is refused, before the body runs and again before the rename. Faults of the
    file system are raised as ``error``; an exception of the body passes through unchanged, with nothing left behind.
    """
    path = Path(path)
    check_file(path, overwrite=overwrite, error=error)
    temporary = _beside(path, TEMPORARY)
    try:
        yield temporary
        try:
            _sync(temporary)
            _check_target(path, overwrite, error)
            temporary.replace(path)
            sync_directory(path.parent)
        except OSError as e:
            raise error(f"{path}: cannot be written ({e.strerror or e})") from e
    finally:
        # After a rename the temporary is gone; after anything else, Ctrl-C included, it must go.
        temporary.unlink(missing_ok=True)


def check_file(path: Path, *, overwrite: bool = False, error: type[BciAlignError] = BciAlignError) -> None:
    """Refuse at the start what :func:`write_file` would refuse after minutes of work."""
    _check_target(path, overwrite, error)
    if path.is_dir():
        raise error(f"{path}: expected a file to write to, found a directory")


def claim_directory(path: str | Path, *, error: type[BciAlignError] = BciAlignError) -> Path:
    """Refuse at the start what :func:`write_directory` would refuse after hours of work, and make the parents of ``path``."""
    path = Path(path)
    if path.exists() or path.is_symlink():
        raise error(f"{path}: already exists and is never overwritten")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise error(f"{path}: its directory cannot be made ({e.strerror or e})") from None
    if not os.access(path.parent, os.W_OK):
        raise error(f"{path}: its directory {path.parent} cannot be written to")
    return path


@contextmanager
def write_directory(path: str | Path, *, overwrite: bool = False, error: type[BciAlignError] = BciAlignError) -> Iterator[Path]:
    """Give an empty temporary directory beside ``path`` to fill; on leaving, flush every file and rename it to ``path``.

    With ``overwrite`` the old directory steps aside first (two renames, as no portable call exchanges directories): a
    process killed between the two leaves it whole under ``.old-*`` beside the target. Otherwise as :func:`write_file`.
    """
    path = Path(path)
    _check_target(path, overwrite, error)
    if path.exists() and not path.is_dir():
        raise error(f"{path}: expected a directory to write to, found a file")
    temporary = _beside(path, TEMPORARY)
    try:
        temporary.mkdir()
    except OSError as e:
        raise error(f"{path}: cannot be written ({e.strerror or e})") from e
    try:
        yield temporary
        try:
            _sync_tree(temporary)
            _check_target(path, overwrite, error)
            _move_in(temporary, path)
            sync_directory(path.parent)
        except OSError as e:
            raise error(f"{path}: cannot be written ({e.strerror or e})") from e
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)


def _check_target(path: Path, overwrite: bool, error: type[BciAlignError]) -> None:
    if not path.parent.is_dir():
        raise error(f"{path}: cannot be written, because its directory {path.parent} does not exist")
    if not overwrite and os.path.lexists(path):
        raise error(f"{path}: already exists and is not overwritten unless told to (--force)")


def _beside(path: Path, prefix: str) -> Path:
    return path.with_name(f"{prefix}{secrets.token_hex(4)}-{path.name}")


def _move_in(temporary: Path, path: Path) -> None:
    """Rename a directory into place; an old one steps aside, and comes back if the second rename fails."""
    if not path.exists():
        temporary.rename(path)
        return
    old = _beside(path, ".old-")
    path.rename(old)
    try:
        temporary.rename(path)
    except BaseException:
        # An interrupt may come just after the rename: then the new directory is in place and the old one is not wanted.
        if not path.exists():
            old.rename(path)
        raise
    shutil.rmtree(old)


def _sync_tree(top: Path) -> None:
    for folder, _, files in os.walk(top):
        for name in files:
            _sync(Path(folder) / name)
        sync_directory(Path(folder))


def _sync(path: Path) -> None:
    with path.open("rb+") as f:
        os.fsync(f.fileno())


def sync_directory(path: Path) -> None:
    """Make a rename durable. Only POSIX lets a directory be flushed; elsewhere the rename itself must do."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
