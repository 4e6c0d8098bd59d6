"""The committed generation by name and hash: written whole, and never followed out of its root."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bci_align.bundle.store import Bundle, save_generation
from bci_align.errors import BundleError, RuntimeFault
from bci_align.runtime import committed

from .fakes import read_in

pytestmark = pytest.mark.computes


@pytest.fixture
def out(bundle: Bundle, tmp_path: Path) -> Path:
    committed.write(tmp_path, bundle.path, bundle.path)
    return tmp_path


def change(out: Path, **more: Any) -> None:
    path = out / committed.NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def test_the_bundle_and_then_a_generation_in_out(bundle: Bundle, out: Path) -> None:
    assert committed.load(out, bundle.path).identity == bundle.identity
    made = save_generation(bundle, read_in(1, 24, bundle.manifest.hidden), out / "gen-0007", {}, generation=7)
    committed.write(out, bundle.path, made.path)
    found = committed.load(out, bundle.path)
    assert (found.identity, found.manifest.generation) == (made.identity, 7)
    assert [p.name for p in out.iterdir() if p.name.startswith(".")] == []


def test_another_bundle_in_its_place_is_refused(bundle: Bundle, out: Path) -> None:
    first = save_generation(bundle, read_in(1, 24, bundle.manifest.hidden), out / "a", {})
    committed.write(out, bundle.path, first.path)
    shutil.rmtree(first.path)
    save_generation(bundle, read_in(2, 24, bundle.manifest.hidden), out / "a", {})
    with pytest.raises(BundleError, match="expected the generation that was committed"):
        committed.load(out, bundle.path)


@pytest.mark.parametrize("path", ["..", "../elsewhere", "/etc", "a/../../b", "a\0b"])
def test_a_path_that_leaves_its_root_is_refused(bundle: Bundle, out: Path, path: str) -> None:
    for root in ("out", "bundle"):
        change(out, root=root, path=path)
        with pytest.raises(BundleError, match="path: expected one inside"):
            committed.load(out, bundle.path)


def test_a_link_out_of_its_root_is_refused(bundle: Bundle, out: Path) -> None:
    (out / "link").symlink_to(bundle.path)
    change(out, root="out", path="link")
    with pytest.raises(BundleError, match="path: expected one inside"):
        committed.load(out, bundle.path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "expected JSON"),
        (b"\xff\xfe", "expected JSON"),
        (b"[" * 10_000, "expected JSON"),
        (b"[]", "committed.json"),
        (b'{"v": 2}', "committed.json"),
        (b" " * 100_000, "at most 65536 bytes"),
    ],
)
def test_damage_is_one_sentence(bundle: Bundle, out: Path, content: bytes, sentence: str) -> None:
    (out / committed.NAME).write_bytes(content)
    with pytest.raises(BundleError, match=sentence):
        committed.load(out, bundle.path)


def test_no_file_and_no_such_generation(bundle: Bundle, out: Path) -> None:
    change(out, root="out", path="gen-0001")
    with pytest.raises(BundleError, match="no such bundle"):
        committed.load(out, bundle.path)
    (out / committed.NAME).unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        committed.load(out, bundle.path)


def test_a_generation_elsewhere_is_not_written_down(bundle: Bundle, out: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = (out / committed.NAME).read_bytes()
    other = shutil.copytree(bundle.path, tmp_path_factory.mktemp("x") / "other")
    with pytest.raises(RuntimeFault, match="expected a generation in"):
        committed.write(out, bundle.path, other)
    assert (out / committed.NAME).read_bytes() == before
