"""Plug-ins by name: entry points of installed packages, found without any list of ours."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from bci_align.errors import ConfigError


def load_entry_point(group: str, key: str, name: str) -> Any:
    """What entry point ``name`` of ``group`` stands for, imported.

    :class:`ConfigError` begins with ``key``, the setting that named it: an unknown name (the known ones are listed), one that
    two packages claim, or one that cannot be imported.
    """
    known = entry_points(group=group)
    matches = [e for e in known if e.name == name]
    if not matches:
        raise ConfigError(f"{key}: expected one of {', '.join(sorted({e.name for e in known})) or '(none)'}, found {name!r}")
    if len({e.value for e in matches}) > 1:
        raise ConfigError(f"{key}: {name!r} is claimed by more than one plug-in: {', '.join(e.value for e in matches)}")
    try:
        return matches[0].load()
    except (ImportError, AttributeError) as e:
        raise ConfigError(f"{key}: {name!r} is installed ({matches[0].value}) but cannot be loaded: {e}") from None
