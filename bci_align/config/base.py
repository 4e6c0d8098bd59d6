"""What every configuration is made of: a frozen model that knows its keys, and reading one from YAML in one sentence or less."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from bci_align.errors import ConfigError

MAX_FILE = 2**18
"""Bytes of the largest YAML file that is read; the examples take some thousands."""

MAX_VALUES = 20_000
"""Values of the largest configuration, every alias written out."""

_SCALARS = (ValueError, LookupError, AttributeError, TypeError, OverflowError)


class Strict(BaseModel):
    """Base of every configuration: frozen, and no key that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


M = TypeVar("M", bound=BaseModel)


def _values(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Count the values of a document with its aliases (``*name``) written out: a page of them can name gigabytes."""
    if (n := known.get(id(node), 0)) is None:
        raise yaml.composer.ComposerError(None, None, "a value that holds itself", node.start_mark)
    if n:
        return n
    known[id(node)] = None
    below = node.value if isinstance(node, yaml.CollectionNode) else ()
    n = 1 + sum(_values(part, known) for item in below for part in (item if isinstance(item, tuple) else (item,)))
    if n > MAX_VALUES:
        raise yaml.composer.ComposerError(None, None, f"more than {MAX_VALUES} values", node.start_mark)
    known[id(node)] = n
    return n


def read_yaml(path: Path) -> object:
    """Parse one YAML file of at most :data:`MAX_FILE` bytes; :class:`ConfigError` names the file and the line."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
        text = data.decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: cannot be read as text ({e})") from None
    if len(data) > MAX_FILE:
        raise ConfigError(f"{path}: expected at most {MAX_FILE} bytes, found more")
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _values(node, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as e:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(e).split()):.400})") from None
    except RecursionError:
        raise ConfigError(f"{path}: not valid YAML (nested too deeply)") from None
    except _SCALARS as e:  # PyYAML's own constructors let these through: a 13th month, a number without digits
        raise ConfigError(f"{path}: not valid YAML (a value that is not what it says: {e!s:.80})") from None


def load(model: type[M], path: Path) -> M:
    """Read ``path`` into ``model``; a misspelt key is answered with the nearest known one."""
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values, found {type(data).__name__}")
    try:
        return model.model_validate(data)
    except ValidationError as e:
        raise ConfigError(f"{path}: {explain(model, e)}") from None


def explain(model: type[BaseModel], error: ValidationError) -> str:
    """The first fault of a validation as one sentence."""
    first = error.errors()[0]
    where = ".".join(str(p)[:80] for p in first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1])[:80], _keys(model), n=1, cutoff=0.0)
        return f"unknown key {where!r}; the nearest known key is {near[0]!r}" if near else f"unknown key {where!r}"
    if first["type"] == "missing":
        return f"missing key {where!r}"
    return f"key {where!r}: {first['msg'].removeprefix('Value error, '):.400}, found {first['input']!r:.200}"


def _keys(model: type[BaseModel]) -> list[str]:
    """Every key of the tree below ``model``, optional branches (``X | None``) included."""
    keys: list[str] = []
    for name, f in model.model_fields.items():
        keys.append(name)
        for kind in (f.annotation, *get_args(f.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                keys += _keys(kind)
    return keys
