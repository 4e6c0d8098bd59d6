"""Transports by name: entry points for sources and sinks, so that a plug-in is found as soon as it is installed."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, cast

from bci_align.config import SinkConfig, SourceConfig
from bci_align.errors import ConfigError
from bci_align.streams.contract import RigInlet, RigOutlet, Sink, Source

_RIGS = {
    "lsl": ("bci_align.streams.lsl", "LslRigOutlet", "LslRigInlet"),
    "zmq": ("bci_align.streams.zmq", "ZmqRigOutlet", "ZmqRigInlet"),
}


def make_source(config: SourceConfig) -> Source:
    """The source that ``config.kind`` names, not yet open; :class:`ConfigError` lists the kinds there are."""
    return cast(Source, _load("bci_align.sources", "source.kind", config.kind)(config))


def make_sink(config: SinkConfig) -> Sink:
    """The sink that ``config.kind`` names, not yet open; :class:`ConfigError` lists the kinds there are."""
    return cast(Sink, _load("bci_align.sinks", "sink.kind", config.kind)(config))


def make_rig(kind: str, source: SourceConfig, sink: SinkConfig) -> tuple[RigOutlet, RigInlet]:
    """Both ends of a rig that talks to a decoder with this ``source`` and ``sink``; not yet open."""
    if kind not in _RIGS:
        raise ConfigError(f"rig kind: expected one of {', '.join(sorted(_RIGS))}, found {kind!r}")
    module, outlet, inlet = _RIGS[kind]
    found = import_module(module)
    return cast(RigOutlet, getattr(found, outlet)(source)), cast(RigInlet, getattr(found, inlet)(sink))


def _load(group: str, key: str, kind: str) -> Any:
    """The class behind entry point ``kind`` of ``group``."""
    known = entry_points(group=group)
    matches = [e for e in known if e.name == kind]
    if not matches:
        raise ConfigError(f"{key}: expected one of {', '.join(sorted({e.name for e in known})) or '(none)'}, found {kind!r}")
    if len({e.value for e in matches}) > 1:
        raise ConfigError(f"{key}: {kind!r} is claimed by more than one plug-in: {', '.join(e.value for e in matches)}")
    try:
        return matches[0].load()
    except (ImportError, AttributeError) as e:
        raise ConfigError(f"{key}: {kind!r} is installed ({matches[0].value}) but cannot be loaded: {e}") from None
