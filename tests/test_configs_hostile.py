"""Configuration files that are no configuration: one sentence each, in bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bci_align import config
from bci_align.comparison.pairs import PairsFile
from bci_align.config.base import MAX_FILE
from bci_align.errors import ConfigError
from bci_align.session.importmap import ImportMap

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
MODELS = (config.LiveConfig, config.TrainConfig, config.RecalibrateConfig, ImportMap, PairsFile)
fuzzed = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
anything = st.recursive(
    scalars, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), x, max_size=3)
)


def attempt(path: Path) -> None:
    for model in MODELS:
        try:
            config.load(model, path)
        except ConfigError as e:
            assert str(e).startswith(f"{path}: ") and "\n" not in str(e) and len(str(e)) < len(str(path)) + 1500


@given(data=st.binary(max_size=200) | st.text(alphabet="-:{}[]&*!|>%@'\"#, \n\tab01.~?<", max_size=60).map(str.encode))
@fuzzed
def test_arbitrary_bytes_only_raise_our_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(data)
    attempt(path)


def branches(tree: dict[str, Any], at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every key of a tree, as the way to it."""
    found = []
    for key, value in tree.items():
        found.append((*at, key))
        if isinstance(value, dict):
            found += branches(value, (*at, key))
    return found


LIVE = config.LiveConfig(bundle="b").model_dump(mode="json")


@given(at=st.sampled_from(branches(LIVE)), value=anything, new=st.none() | st.text(max_size=8))
@fuzzed
def test_any_value_at_any_key_only_raises_our_error(tmp_path: Path, at: tuple[str, ...], value: object, new: str | None) -> None:
    content = config.LiveConfig(bundle="b").model_dump(mode="json")
    place = content
    for key in at[:-1]:
        place = place[key]
    place[at[-1] if new is None else new] = value
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    attempt(path)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (LAUGHS, "more than 20000 values"),
        (MERGES, "more than 20000 values"),
        ("epochs: &a [*a]", "a value that holds itself"),
        ("[" * 500, "nested too deeply"),
        ("bundle: " + "x" * MAX_FILE, f"expected at most {MAX_FILE} bytes"),
        ("epochs: " + "9" * 10_000, "not valid YAML"),
        ("epochs: 2024-13-45", "not valid YAML"),
        ("epochs: 0x_", "not valid YAML"),
        ("epochs: !!timestamp x", "not valid YAML"),
        ("epochs: !!bool x", "not valid YAML"),
        ("epochs: !!int ''", "not valid YAML"),
        ("epochs: !!python/name:os.system", "not valid YAML"),
        ("epochs: !!python/object/apply:os.system [true]", "not valid YAML"),
        ("epochs: [" + "x, " * 3000 + "]", "key 'epochs'"),
        ("k" * 1000 + ": 1", "unknown key 'kkk"),
        ("\0", "not valid YAML"),
        ("3: 1", "key '3': Keys should be strings"),
    ],
    ids=lambda v: v[:12] if isinstance(v, str) else None,
)
def test_what_a_file_can_do_to_a_parser(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError) as e:
            config.load(config.TrainConfig, path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sentence in str(e.value) and len(str(e.value)) < len(str(path)) + 1500
    assert peak < 300 * len(text) + 2**24


def test_a_file_without_end_is_not_read_to_it() -> None:
    with pytest.raises(ConfigError, match="expected at most"):
        config.load(config.TrainConfig, Path("/dev/zero"))


@pytest.mark.parametrize("make", [Path.mkdir, lambda p: p.symlink_to(p)], ids=["directory", "link to itself"])
def test_what_is_no_file(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "mine.yaml"
    make(path)
    with pytest.raises(ConfigError, match=r"mine\.yaml: cannot be read"):
        config.load(config.TrainConfig, path)
