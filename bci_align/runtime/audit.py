"""The log of decisions: JSON lines of which each holds the hash of the one before, only ever appended to.

A line is ``{"n": 1, "time": ..., "decision": ..., ..., "prev": hash, "hash": hash}``: ``n`` counts lines from 1, ``hash`` is the
SHA-256 of the line's bytes before it. Beside ``audit.jsonl`` lies ``audit.anchor``, the number and hash of the last line, so that
a log whose end was cut off is seen. Whoever can write both files and knows this can forge them; the log finds damage, mistakes
and edits, not a forger.

Several processes append, one at a time (a lock on the file). One that is killed over it leaves at most one line without its
end: the next append puts that aside as ``audit.torn-N`` and says so in a line of its own, decision ``torn``. Any other damage
that an append meets is written down as a line ``broken``, and :func:`verify` never passes that log again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bci_align.atomic import TEMPORARY, sync_directory, write_file
from bci_align.errors import AuditError, RuntimeFault
from bci_align.runtime.reports import Report, dumps

NAME = "audit.jsonl"
ANCHOR = "audit.anchor"
TORN = "audit.torn-{}"
GENESIS = "0" * 64
"""``prev`` of the first line."""

_HASH = b', "hash": "'
_END = re.compile(rb', "hash": "([0-9a-f]{64})"\}\Z')
_ANCHOR = re.compile(rb"([1-9][0-9]*) ([0-9a-f]{64})\n")
_OWN = ("n", "time", "decision", "prev", "hash")
_BLOCK = 2**16
_BEHIND = 2
"""Most lines that one append writes and that the anchor may not know of: one, and one on what was torn."""


@dataclass(frozen=True)
class Entry:
    """A line of the log: its number ``n``, ``decision``, ``content`` with everything, and ``hash``."""

    n: int
    decision: str
    content: dict[str, Any]
    hash: str


@dataclass(frozen=True)
class Verified:
    """What :func:`verify` found: ``entries``, the last line's ``hash``, and ``notes``, sentences on lines that were torn."""

    entries: list[Entry]
    hash: str
    notes: list[str]


def append(out: Path, decision: str, content: Report) -> int:
    """Append one ``decision`` to ``out/audit.jsonl`` and have it on the disk before returning; gives its number.

    :class:`RuntimeFault` when the disk will not take it; nothing of it is left in the log then.
    """
    if wrong := sorted(set(content) & set(_OWN)):
        raise ValueError(f"audit: the log's own keys in the content of {decision}: {wrong}")
    path = out / NAME
    try:
        with _locked(path) as handle:
            end = _recover(out, handle)
            n, previous, data = end.n, end.hash, b""
            for said, what in [*end.first, (decision, content)]:
                n += 1
                line, previous = _line(n, previous, said, what)
                data += line
            with _written(handle, data):
                if not end.n:
                    sync_directory(out)
                with write_file(out / ANCHOR, overwrite=True, error=RuntimeFault) as temporary:
                    temporary.write_bytes(f"{n} {previous}\n".encode())
            return n
    except OSError as e:
        raise RuntimeFault(f"{path}: cannot be written ({e.strerror})") from None


def verify(out: Path) -> Verified:
    """Check every line, their order and the end; :class:`AuditError` names the first line that is not as it was.

    A last line without its end is no fault but a note, for that is what a process leaves that is killed while it writes.
    """
    path = out / NAME
    try:
        if not path.exists() and (out / ANCHOR).exists():
            raise AuditError(f"{path}: line 1: is missing, with all that followed: {out / ANCHOR} is there and the log is not")
        with path.open("rb") as f:
            fcntl.flock(f, fcntl.LOCK_SH)  # neither log nor anchor moves meanwhile
            data, anchor = f.read(), _read_anchor(out)
    except OSError as e:
        raise AuditError(f"{path}: cannot be read ({e.strerror})") from None
    *lines, rest = data.split(b"\n")
    entries: list[Entry] = []
    previous = GENESIS
    for n, line in enumerate(lines, 1):
        entry = _parse(line)
        if entry is None:
            raise AuditError(f"{path}: line {n}: was changed: its hash is not that of its content")
        if entry.n != n:
            raise AuditError(f"{path}: line {n}: expected entry {n}, found entry {entry.n}; a line is missing, added or moved")
        if entry.content["prev"] != previous:
            raise AuditError(f"{path}: line {n}: does not follow on line {n - 1}; one of them was replaced")
        if entry.decision == "broken":
            raise AuditError(f"{path}: line {n}: the log was found broken when this was written: {entry.content.get('reason')}")
        entries.append(entry)
        previous = entry.hash
    _check_anchor(path, anchor, [GENESIS, *(e.hash for e in entries)])
    notes = [f"line {e.n}: {e.content.get('reason')}" for e in entries if e.decision == "torn"]
    if rest:
        notes.append(f"line {len(lines) + 1}: has no end: a process was killed while it wrote it")
    return Verified(entries, previous, notes)


def _check_anchor(path: Path, anchor: tuple[int, str] | None, hashes: list[str]) -> None:
    """Hold the end of the log to its anchor, which is behind where a process was killed between the two."""
    n = len(hashes) - 1
    count, told = anchor or (0, GENESIS)
    if count > n:
        raise AuditError(f"{path}: line {n + 1}: is missing: {path.parent / ANCHOR} says that there were {count} lines")
    if hashes[count] != told:
        raise AuditError(f"{path}: line {count}: is not the one that {path.parent / ANCHOR} was written for")
    if n - count > _BEHIND:
        raise AuditError(f"{path.parent / ANCHOR}: expected the hash of line {n}, found that of line {count}")


def _recover(out: Path, handle: int) -> _End:
    """Find the end of the log, and what has to be said before anything else; a line without its end is put aside."""
    for left in out.glob(f"{TEMPORARY}*-{ANCHOR}"):  # of one that was killed; nobody else writes while we do
        left.unlink()
    data = _read(handle)
    *lines, rest = data.split(b"\n")
    n = len(lines)
    first: list[tuple[str, Report]] = []
    torn = out / TORN.format(n + 1)
    if rest:
        with write_file(torn, overwrite=True, error=RuntimeFault) as temporary:
            temporary.write_bytes(rest)
        os.ftruncate(handle, len(data) - len(rest))
    if torn.exists():  # also where one that tried before was killed over it
        kept = torn.read_bytes()
        reason = f"a process was killed while it wrote this line; its {len(kept)} bytes are in {torn.name}"
        first.append(("torn", {"reason": reason, "kept": torn.name, "sha256": hashlib.sha256(kept).hexdigest()}))
    hashes = [GENESIS, *map(_claimed, lines)]
    try:
        if n and _parse(lines[-1]) is None:
            raise AuditError(f"line {n}: was changed: its hash is not that of its content")
        _check_anchor(out / NAME, _read_anchor(out), hashes)
    except AuditError as e:
        first.append(("broken", {"reason": str(e)}))
    return _End(n, hashes[-1], first)


@dataclass(frozen=True)
class _End:
    """Where a log ends: number and hash of the last line; ``first``: what has to be said before anything else."""

    n: int
    hash: str
    first: list[tuple[str, Report]]


def _claimed(line: bytes) -> str:
    """The hash that a line says it has."""
    found = _END.search(line)
    return found[1].decode() if found else hashlib.sha256(line).hexdigest()


def _line(n: int, previous: str, decision: str, content: Report) -> tuple[bytes, str]:
    """A whole line, and its hash."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    body = dumps({"n": n, "time": now, "decision": decision} | content | {"prev": previous})[:-1]
    found = hashlib.sha256(body).hexdigest()
    return body + _HASH + found.encode() + b'"}\n', found


def _parse(line: bytes) -> Entry | None:
    """An entry, or None for a line whose hash is not that of its content."""
    found = _END.search(line)
    if found is None or hashlib.sha256(line[: found.start()]).hexdigest().encode() != found[1]:
        return None
    try:
        content = json.loads(line)
        return Entry(content["n"], content["decision"], content, content["hash"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The log, open to append and ours alone; a process that dies lets go of it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def _read(handle: int) -> bytes:
    os.lseek(handle, 0, os.SEEK_SET)
    parts = []
    while part := os.read(handle, _BLOCK):
        parts.append(part)
    return b"".join(parts)


@contextmanager
def _written(handle: int, data: bytes) -> Iterator[None]:
    """Append ``data`` and have it on the disk; after a fault here or in the body it goes again: nobody was told of it."""
    before = os.fstat(handle).st_size
    try:
        written = os.write(handle, data)
        if written < len(data):
            os.write(handle, data[written:])  # says why
        os.fsync(handle)
        yield
    except Exception:
        os.ftruncate(handle, before)
        raise


def _read_anchor(out: Path) -> tuple[int, str] | None:
    path = out / ANCHOR
    if not path.exists():
        return None
    found = _ANCHOR.fullmatch(path.read_bytes())
    if found is None:
        raise AuditError(f"{path}: expected the number and the hash of a line, found something else")
    return int(found[1]), found[2].decode()
