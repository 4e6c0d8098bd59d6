from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bci_align.config import EventNames
from bci_align.errors import ConfigError, StreamError
from bci_align.streams.contract import END, GO, START, TrialEvent
from bci_align.streams.events import MAX_MARKER, EventReader, format_event

pytestmark = pytest.mark.computes

NAMES = EventNames()


def reader(**names: object) -> EventReader:
    return EventReader(EventNames(**names))


def test_bare_markers() -> None:
    r = reader()
    assert r.parse(1.0, "start_time") == TrialEvent(1.0, START)
    assert r.parse(1.5, " go_cue_time\n") == TrialEvent(1.5, GO)
    assert r.parse(2.0, "end_time") == TrialEvent(2.0, END, False)
    assert r.malformed == 0


@pytest.mark.parametrize("value, expected", [(True, True), (False, False), (1, True), (0, False)])
def test_success_in_the_end_event(value: object, expected: bool) -> None:
    r = reader()
    event = r.parse(2.0, json.dumps({"event": "end_time", "trial_success": value}))
    assert event == TrialEvent(2.0, END, expected)
    assert event is not None and isinstance(event.value, bool)
    assert r.malformed == 0


def test_bare_success_marks_the_running_trial_only() -> None:
    r = reader()
    r.parse(0.0, "start_time")
    assert r.parse(0.5, "trial_success") is None
    assert r.parse(1.0, "end_time") == TrialEvent(1.0, END, True)
    r.parse(2.0, "start_time")
    assert r.parse(3.0, "end_time") == TrialEvent(3.0, END, False)
    r.parse(3.5, "trial_success")  # between trials: forgotten at the next start
    r.parse(4.0, "start_time")
    assert r.parse(5.0, "end_time") == TrialEvent(5.0, END, False)


def test_assumed_success_gives_way_to_what_is_said() -> None:
    r = reader(assume_success=True)
    assert r.parse(1.0, "end_time") == TrialEvent(1.0, END, True)
    assert r.parse(1.0, '{"event": "end_time", "trial_success": false}') == TrialEvent(1.0, END, False)
    r.parse(1.1, "start_time")
    r.parse(1.2, '{"event": "trial_success", "value": false}')
    assert r.parse(1.3, "end_time") == TrialEvent(1.3, END, False)


def test_an_unreadable_success_is_counted_and_never_rewarded() -> None:
    r = reader(assume_success=True)
    assert r.parse(1.0, '{"event": "end_time", "trial_success": "yes"}') == TrialEvent(1.0, END, False)
    assert r.malformed == 1


@pytest.mark.parametrize("text", ["", "reward_on", "42", '"start_time"', '{"event": "reward"}', "START_TIME"])
def test_unknown_markers_are_ignored(text: str) -> None:
    r = reader()
    assert r.parse(1.0, text) is None
    assert r.malformed == 0


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"event": "start_time"',
        '{"event": 3}',
        "{}",
        '{"a":' * 20000,
        "x" * (MAX_MARKER + 1),
        '{"event": "start_time", "x": ' + "9" * 5000 + "}",
    ],
    ids=["brace", "cut", "number", "empty", "deep", "long", "huge integer"],
)
def test_malformed_markers_are_counted_and_ignored(text: str) -> None:
    r = reader()
    assert r.parse(1.0, text) is None
    assert r.malformed == 1


def test_a_stamp_that_is_no_number_is_malformed() -> None:
    r = reader()
    assert r.parse(float("nan"), "start_time") is None
    assert r.malformed == 1


@pytest.mark.parametrize(
    "names", [{"start": "x", "end": "x"}, {"go": ""}, {"go": " go"}, {"start": "{s"}, {"success": "value"}, {"success": "event"}]
)
def test_unusable_names_are_refused(names: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"^events\.(start|go|end|success): "):
        reader(**names)


@pytest.mark.parametrize(
    "event", [TrialEvent(1.0, "reward"), TrialEvent(1.0, END, 0.5), TrialEvent(1.0, GO, float("nan"))], ids=["name", "end", "nan"]
)
def test_events_that_no_marker_can_carry(event: TrialEvent) -> None:
    with pytest.raises(StreamError):
        format_event(event, NAMES)


values = st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)


@given(t=st.floats(0, 1e9), name=st.sampled_from([START, GO]), value=values, success=st.booleans())
@settings(deadline=None)
def test_round_trip(t: float, name: str, value: float | bool | None, success: bool) -> None:
    for event in (TrialEvent(t, name, value), TrialEvent(t, END, success)):
        assert EventReader(NAMES).parse(t, format_event(event, NAMES)) == event


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
payloads = st.fixed_dictionaries(
    {},
    optional={
        "event": st.sampled_from(["start_time", "go_cue_time", "end_time", "trial_success"]) | json_values,
        "trial_success": json_values,
        "value": json_values,
    },
)


@given(texts=st.lists(st.text() | st.text().map(lambda s: "{" + s) | payloads.map(json.dumps), max_size=8), t=st.floats())
@settings(deadline=None)
def test_nothing_a_rig_sends_raises(texts: list[str], t: float) -> None:
    r = EventReader(NAMES)
    for text in texts:
        event = r.parse(t, text)
        assert event is None or event.name in (START, GO, END)
        assert event is None or event.name != END or isinstance(event.value, bool)
