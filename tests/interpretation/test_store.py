import json
import shutil
from pathlib import Path

import pytest
import torch

from bci_align.bundle.artefact import digest
from bci_align.errors import InterpretationError
from bci_align.interpretation.store import DAY, FACTORS, FILM, KIND, NAME, FactorModel, load_model


@pytest.fixture
def copy(factor_model: FactorModel, tmp_path: Path) -> Path:
    path = tmp_path / "copy"
    shutil.copytree(factor_model.path, path)
    return path


def test_it_reads_back_as_it_was(factor_model: FactorModel, copy: Path) -> None:
    again = load_model(copy)
    assert again.identity == factor_model.identity
    assert again.manifest.factors == ("vx", "vy", "grip", "free 1")
    assert again.manifest.channels[0] == "ch00"
    assert again.manifest.bin_s == 0.05
    assert (again.day.counts == factor_model.day.counts).all()
    assert (again.day.behaviours == factor_model.day.behaviours).all()
    assert again.filming is not None and factor_model.filming is not None
    for mine, theirs in ((again.network, factor_model.network), (again.filming, factor_model.filming)):
        a, b = mine.state_dict(), theirs.state_dict()
        assert all(torch.equal(a[k], b[k]) for k in b)


@pytest.mark.parametrize("name", [FACTORS, DAY, FILM, NAME])
def test_a_flipped_bit_is_named(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(bytes(data))
    with pytest.raises(InterpretationError, match=name.replace(".", r"\.")):
        load_model(copy)


@pytest.mark.parametrize("name", [FACTORS, DAY, FILM, NAME, KIND.seal])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(InterpretationError, match=rf"{name}: expected a plain file of the factor model, found nothing"):
        load_model(copy)


def _edit(path: Path, **changes: object) -> None:
    """Change the manifest and seal it anew: an edit that no hash tells."""
    content = json.loads((path / NAME).read_text()) | changes
    data = json.dumps(content).encode()
    (path / NAME).write_bytes(data)
    (path / KIND.seal).write_text(f"{digest(data)}\n")


def test_a_manifest_of_something_else_is_named(copy: Path) -> None:
    _edit(copy, format="bci_align.bundle")
    with pytest.raises(InterpretationError, match=r"expected format 'bci_align\.factors', found 'bci_align\.bundle'"):
        load_model(copy)


@pytest.mark.parametrize("version", [1, 2])
def test_a_model_from_before_is_refused(copy: Path, version: int) -> None:
    """Version 1 had no dropout, which its configuration would now say it had; version 2 weighed a film's factors otherwise."""
    _edit(copy, version=version)
    with pytest.raises(InterpretationError, match=f"version.*{version}"):
        load_model(copy)


def test_an_unknown_key_is_named(copy: Path) -> None:
    _edit(copy, chanels=["a"])
    with pytest.raises(InterpretationError, match="unknown key 'chanels'; the nearest known key is 'channels'"):
        load_model(copy)


def test_arrays_that_do_not_fit_the_manifest_are_named(copy: Path) -> None:
    _edit(copy, channels=["a", "b"])
    with pytest.raises(
        InterpretationError,
        match=r"factors\.safetensors: .*tensor '.+': expected float32 of shape \(2,\), found float32 of shape \(24,\)",
    ):
        load_model(copy)


def test_no_such_model(tmp_path: Path) -> None:
    with pytest.raises(InterpretationError, match="no such factor model"):
        load_model(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(InterpretationError, match="is a file, not a factor model directory"):
        load_model(tmp_path / "file")


def test_an_unknown_factor_is_one_sentence(factor_model: FactorModel) -> None:
    with pytest.raises(InterpretationError, match="factor: expected one of vx, vy, grip, free 1, found 'jaw'"):
        factor_model.factor("jaw")
