"""Reports over a socket whose other end may be slow, stuck or gone."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import numpy as np
import pytest

from bci_align.errors import MismatchError, RuntimeFault
from bci_align.runtime import reports
from bci_align.runtime.reports import Reader, Writer, as_error, fault, send

pytestmark = pytest.mark.computes

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_there_and_back(pair: Pair) -> None:
    reader, writer = Reader(pair[0]), Writer(pair[1])
    assert reader.read() == []
    writer.send({"report": "a", "value": np.float64(1.5), "text": "one\ntwo"})
    writer.send({"report": "b"})
    assert reader.read() == [{"report": "a", "value": 1.5, "text": "one\ntwo"}, {"report": "b"}]
    assert not reader.ended


def test_a_parent_that_does_not_read_never_stops_the_writer(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket fills, then what is kept; the rest is counted. What was sent comes whole and in order once somebody reads."""
    monkeypatch.setattr(reports, "MOST_WAITING", 50_000)
    reader, writer = Reader(pair[0]), Writer(pair[1])
    for k in range(20_000):
        writer.send({"report": "n", "k": k, "ballast": "x" * 50})
    assert writer.unsent > 0
    found = []
    for _ in range(1000):
        found += [r["k"] for r in reader.read()]
        writer.push()
    assert found == list(range(20_000 - writer.unsent))
    writer.send({"report": "again"})
    assert reader.read() == [{"report": "again"}]


def test_a_line_without_its_end_is_nothing(pair: Pair) -> None:
    reader = Reader(pair[0])
    pair[1].sendall(b'{"report": "whole"}\n{"report": "ha')
    pair[1].close()
    assert reader.read() == [{"report": "whole"}]
    assert reader.ended


def test_a_parent_that_is_gone(pair: Pair) -> None:
    writer = Writer(pair[1])
    pair[0].close()
    writer.send({"report": "a"})
    writer.finish(0.1)
    assert writer.unsent == 0
    pair[1].setblocking(True)
    send(pair[1], {"report": "b"})


def test_the_last_words_are_waited_for_no_longer_than_said(pair: Pair) -> None:
    writer = Writer(pair[1])
    for _ in range(20_000):
        writer.send({"report": "n", "ballast": "x" * 50})
    writer.finish(0.05)


def test_faults_come_back_as_what_they_were() -> None:
    assert isinstance(as_error(fault(MismatchError("no")), "decoder"), MismatchError)
    defect = as_error(fault(ZeroDivisionError("by zero")), "decoder")
    assert isinstance(defect, RuntimeFault)
    assert str(defect) == "the decoder failed: ZeroDivisionError: by zero"
