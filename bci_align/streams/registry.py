"""Transports by name: entry points for sources and sinks, so that a plug-in is found as soon as it is installed."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from bci_align.config import SinkConfig, SourceConfig
from bci_align.errors import ConfigError
from bci_align.plugins import load_entry_point
from bci_align.streams.contract import RigInlet, RigOutlet, Sink, Source

_RIGS = {
    "lsl": ("bci_align.streams.lsl", "LslRigOutlet", "LslRigInlet"),
    "zmq": ("bci_align.streams.zmq", "ZmqRigOutlet", "ZmqRigInlet"),
}


def make_source(config: SourceConfig) -> Source:
    """The source that ``config.kind`` names, not yet open; :class:`ConfigError` lists the kinds there are."""
    return cast(Source, load_entry_point("bci_align.sources", "source.kind", config.kind)(config))


def make_sink(config: SinkConfig) -> Sink:
    """The sink that ``config.kind`` names, not yet open; :class:`ConfigError` lists the kinds there are."""
    return cast(Sink, load_entry_point("bci_align.sinks", "sink.kind", config.kind)(config))


def make_rig(kind: str, source: SourceConfig, sink: SinkConfig) -> tuple[RigOutlet, RigInlet]:
    """Both ends of a rig that talks to a decoder with this ``source`` and ``sink``; not yet open."""
    if kind not in _RIGS:
        raise ConfigError(f"rig kind: expected one of {', '.join(sorted(_RIGS))}, found {kind!r}")
    module, outlet, inlet = _RIGS[kind]
    found = import_module(module)
    return cast(RigOutlet, getattr(found, outlet)(source)), cast(RigInlet, getattr(found, inlet)(sink))
