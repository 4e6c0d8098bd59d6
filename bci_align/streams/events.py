"""Trial events as a rig writes them: a bare marker (``start_time``) or a JSON object (``{"event": "end_time", ...}``)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from bci_align.config import EventNames
from bci_align.errors import ConfigError, StreamError
from bci_align.streams.contract import END, GO, START, TrialEvent

MAX_MARKER = 64 * 1024
"""Longest marker, in characters, that is parsed at all; a trial event takes less than a hundred."""


class EventReader:
    """Turns the rig's markers into canonical trial events; remembers a success marker until the trial's end.

    A marker that is no trial event gives None. One that cannot be understood also gives None and counts in
    ``malformed``: a rig's slip must not stop the decoder, and must not go unseen either.
    """

    def __init__(self, names: EventNames) -> None:
        check_names(names)
        self._names = names
        self._kinds = {names.start: START, names.go: GO, names.end: END}
        self._success: bool | None = None
        self.malformed = 0
        """Markers so far that were too long, not valid JSON, or carried a payload of the wrong kind."""

    def parse(self, t: float, text: str) -> TrialEvent | None:
        """Read one marker ``text`` that was stamped ``t`` seconds on the sender's clock."""
        if len(text) > MAX_MARKER:
            self.reject()
            return None
        text = text.strip()
        if not text.startswith("{"):
            return self.read(t, {"event": text})
        try:
            payload = json.loads(text)
        except (ValueError, RecursionError):  # deep nesting overflows the stack before the parser finds fault
            self.reject()
            return None
        return self.read(t, payload)

    def read(self, t: float, payload: Mapping[str, object]) -> TrialEvent | None:
        """Read one marker that is already an object with the key ``event``, stamped ``t`` seconds."""
        event = payload.get("event")
        if not isinstance(event, str) or not math.isfinite(t):
            self.reject()
            return None
        success = self._names.success
        if event == success:
            self._success = self._truth(payload.get(success, payload.get("value", True)))
            return None
        kind = self._kinds.get(event)
        if kind is None:
            return None
        if kind == END:
            return TrialEvent(t, END, self._outcome(payload))
        if kind == START:
            self._success = None
        value = payload.get("value")
        if value is None or isinstance(value, bool):
            return TrialEvent(t, kind, value)
        try:
            number = float(value) if isinstance(value, (int, float)) else math.nan
        except OverflowError:  # JSON knows integers that a float does not
            number = math.nan
        if not math.isfinite(number):
            self.reject()  # the event itself is clear: deliver it without the payload
            return TrialEvent(t, kind)
        return TrialEvent(t, kind, number)

    def reject(self) -> None:
        """Count one malformed marker (also for the transports, which see faults before the text does)."""
        self.malformed += 1

    def _outcome(self, payload: Mapping[str, object]) -> bool:
        """Success of the trial that ends: what the end says, else the marker before it, else the configured guess."""
        marked, self._success = self._success, None
        if self._names.success in payload:
            return self._truth(payload[self._names.success])
        return self._names.assume_success if marked is None else marked

    def _truth(self, value: object) -> bool:
        """True/False of a payload; anything else is malformed and counts as no success, so that it is never trained on."""
        if isinstance(value, (bool, int, float)) and value in (0, 1):
            return bool(value)
        self.reject()
        return False


def check_names(names: EventNames) -> None:
    """Refuse names that a marker could not carry, or that two events share; :class:`ConfigError` names the field."""
    taken: dict[str, str] = {}
    for field in ("start", "go", "end", "success"):
        name = getattr(names, field)
        if not name or name != name.strip() or name.startswith("{"):
            raise ConfigError(f"events.{field}: expected a name without outer blanks or '{{', found {name!r}")
        if name in taken:
            raise ConfigError(f"events.{field}: expected a name of its own, found {name!r}, which is also events.{taken[name]}")
        taken[name] = field
    for field, reserved in (("success", "event"), ("success", "value")):
        if getattr(names, field) == reserved:
            raise ConfigError(f"events.{field}: {reserved!r} is a key of every event and cannot mean success")


def event_payload(event: TrialEvent, names: EventNames) -> dict[str, object]:
    """The object that a rig sends for ``event``; :class:`StreamError` for a name or value that no marker can carry."""
    rig_names = {START: names.start, GO: names.go, END: names.end}
    if event.name not in rig_names:
        raise StreamError(f"trial event: expected one of {', '.join(rig_names)}, found {event.name!r}")
    payload: dict[str, object] = {"event": rig_names[event.name]}
    if event.value is None:
        return payload
    if event.name == END:
        if event.value not in (0, 1):
            raise StreamError(f"trial event 'end': expected the success as true or false, found {event.value!r}")
        payload[names.success] = bool(event.value)
    elif math.isfinite(event.value):
        payload["value"] = event.value
    else:
        raise StreamError(f"trial event {event.name!r}: expected a finite value, found {event.value!r}")
    return payload


def format_event(event: TrialEvent, names: EventNames) -> str:
    """The marker text that a rig sends for ``event``: a bare name, or JSON where there is something to add."""
    payload = event_payload(event, names)
    return str(payload["event"]) if len(payload) == 1 else json.dumps(payload)
