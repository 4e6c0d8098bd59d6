"""A source that outlives its connection: what is lost is looked for, checked, and opened anew, while reads go on returning."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable

from bci_align.errors import ClockError, MismatchError, StreamError, WrongStream
from bci_align.streams.contract import Bin, Link, Source, StreamSpec, TrialEvent

ATTEMPT_S = 2.0
"""Longest attempt to open the stream again; ``close`` waits for the one that is under way."""

AGAIN_S = 0.1
"""Pause between two attempts."""

RESTART_BINS = 20
"""So many bins with rising numbers, all below one that came before, are no bins out of order: the sender counts anew."""


class Reconnecting:
    """Reads the source that ``make`` gives, and another one like it whenever a connection is lost.

    Like a :class:`~bci_align.streams.contract.Source`, except that a loss is no error but news: ``Link("lost")``, then
    ``Link("back")`` as soon as a stream is open that passes ``check`` and is what it was before (channels, bin width, format).
    ``Link("mismatch")`` tells of one that is not, once for every finding that differs from the last one told; the search goes
    on. It happens in a thread, which inherits the reader's scheduler, as the connections that it opens do.

    Parameters
    ----------
    make
        Gives a source that is not open yet.
    check
        Raises :class:`~bci_align.errors.MismatchError` for a stream that is not to be decoded.
    timeout_s
        Longest attempt to open the stream again, seconds; at most :data:`ATTEMPT_S`.
    """

    def __init__(self, make: Callable[[], Source], check: Callable[[StreamSpec], None], timeout_s: float) -> None:
        self._make, self._check = make, check
        self._attempt_s = min(timeout_s, ATTEMPT_S)
        self._source: Source | None = None
        self._spec: StreamSpec | None = None
        self._search: _Search | None = None
        self._count = _Count()
        self._before = (0, 0)  # bins and events that earlier connections left out
        self._last_malformed = ""

    @property
    def malformed_bins(self) -> int:
        """Bins and other messages of the counts stream that could not be understood, over all connections."""
        return self._before[0] + (self._source.malformed_bins if self._source is not None else 0)

    @property
    def malformed_events(self) -> int:
        """The same for trial events."""
        return self._before[1] + (self._source.malformed_events if self._source is not None else 0)

    @property
    def last_malformed(self) -> str:
        """One sentence on the last bin that was left out; empty as long as none was."""
        now = self._source.last_malformed if self._source is not None else ""
        return now or self._last_malformed

    def open(self, timeout_s: float) -> StreamSpec:
        """Open the stream for the first time: :class:`StreamError` without it, :class:`MismatchError` for another one."""
        self.close()
        source = self._make()
        try:
            spec = source.open(timeout_s)
            self._check(spec)
        except BaseException:
            source.close()
            raise
        self._source, self._spec, self._count = source, spec, _Count()
        return spec

    def read(self, timeout_s: float) -> list[Bin | TrialEvent | Link]:
        """Everything that has arrived, waiting at most ``timeout_s`` for the first item; empty when nothing came.

        :class:`~bci_align.errors.ClockError` for events that are not on the bins' clock: no other connection would mend it.
        """
        if self._search is not None:
            return self._await(self._search, timeout_s)
        if self._source is None:
            raise StreamError("counts stream: expected an open stream, found a closed one")
        try:
            items = self._source.read(timeout_s)
        except ClockError:
            raise
        except StreamError as e:
            lost = Link("lost", str(e))
        else:
            return self._numbered(items)
        self._search = _Search(self._let_go(), self._make, self._fits, self._attempt_s)
        return [lost]

    def close(self) -> None:
        """Release every handle; harmless when called twice."""
        if self._search is not None:
            self._search.end()
            self._search = None
        if self._source is not None:
            self._let_go().close()

    def _let_go(self) -> Source:
        assert self._source is not None
        self._before = (self.malformed_bins, self.malformed_events)
        self._last_malformed = self.last_malformed
        source, self._source = self._source, None
        return source

    def _await(self, search: _Search, timeout_s: float) -> list[Bin | TrialEvent | Link]:
        """What the search has to tell."""
        try:
            news = search.news.get(timeout=timeout_s) if timeout_s > 0 else search.news.get_nowait()
        except queue.Empty:
            return []
        if isinstance(news, Link):
            return [news]
        if isinstance(news, BaseException):
            search.news.put(news)  # every later read says the same
            raise news
        assert self._spec is not None
        self._source, spec = news
        restarted = spec.uid != self._spec.uid
        self._spec, self._search, self._count = spec, None, _Count()
        how = "from a sender that was started anew" if restarted else "from the same sender"
        return [Link("back", f"stream {spec.name!r} is back, {how}", restarted)]

    def _fits(self, spec: StreamSpec) -> None:
        """Pass a stream that may take the place of the one that was lost."""
        self._check(spec)
        assert self._spec is not None
        if other := _difference(self._spec, spec):
            raise WrongStream(f"stream {spec.name!r} is not the one that was lost: {other}")

    def _numbered(self, items: list[Bin | TrialEvent]) -> list[Bin | TrialEvent | Link]:
        """``items``, and before the bin from which on a sender counts anew within its connection, that news."""
        out: list[Bin | TrialEvent | Link] = []
        for item in items:
            if isinstance(item, Bin):
                newest = self._count.newest
                if self._count.anew(item.seq):
                    assert self._spec is not None
                    why = f"stream {self._spec.name!r}: its bins count anew: after number {newest} it has come to {item.seq}"
                    out.append(Link("back", why, restarted=True))
            out.append(item)
        return out


class _Search(threading.Thread):
    """Closes ``old``, looks for its successor. ``news``: mismatches; at last the open source and its spec, or a fault of ours."""

    def __init__(self, old: Source, make: Callable[[], Source], check: Callable[[StreamSpec], None], attempt_s: float) -> None:
        super().__init__(name="stream search", daemon=True)
        self.news: queue.SimpleQueue[Link | tuple[Source, StreamSpec] | BaseException] = queue.SimpleQueue()
        self._old, self._make, self._check, self._attempt_s = old, make, check, attempt_s
        self._told = ""
        self._stop_now = threading.Event()
        self.start()

    def run(self) -> None:
        """Look until the stream is there."""
        try:
            self._old.close()
            while not self._stop_now.is_set() and not self._attempt():
                self._stop_now.wait(AGAIN_S)
        except BaseException as e:  # whatever it is, the reader must hear of it
            self.news.put(e)

    def end(self) -> None:
        """Stop looking; closes what was found and not fetched."""
        self._stop_now.set()
        self.join()
        while not self.news.empty():
            news = self.news.get()
            if isinstance(news, tuple):
                news[0].close()

    def _attempt(self) -> bool:
        source = self._make()
        try:
            spec = source.open(self._attempt_s)
            self._check(spec)
        except MismatchError as e:  # before StreamError: a WrongStream is both
            source.close()
            if str(e) != self._told:
                self._told = str(e)
                self.news.put(Link("mismatch", self._told))
        except StreamError:  # not there yet
            source.close()
        except BaseException:
            source.close()
            raise
        else:
            self.news.put((source, spec))
            return True
        return False


def _difference(was: StreamSpec, found: StreamSpec) -> str:
    """The first thing in which the stream ``found`` is another one than it ``was``; empty when bins look the same."""
    if len(was.channels) != len(found.channels):
        return f"expected {len(was.channels)} channels, found {len(found.channels)}"
    for i, (a, b) in enumerate(zip(was.channels, found.channels, strict=True)):
        if a != b:
            return f"channel {i}: expected label {a!r}, found {b!r}"
    if not math.isclose(was.bin_s, found.bin_s, rel_tol=1e-6):
        return f"expected bins of {was.bin_s * 1e3:g} ms, found {found.bin_s * 1e3:g} ms"
    if was.format != found.format:
        return f"expected counts as {was.format or 'any type'}, found {found.format or 'any type'}"
    return ""


class _Count:
    """Tells a sender that counts anew from bins that are out of order."""

    def __init__(self) -> None:
        self.newest: int | None = None
        self._last, self._behind = 0, 0

    def anew(self, seq: int) -> bool:
        """Take the next bin's number; True for the :data:`RESTART_BINS`-th that rises below the newest."""
        if self.newest is None or seq > self.newest:
            self.newest, self._behind = seq, 0
        else:
            self._behind = self._behind + 1 if self._behind and seq > self._last else 1
        self._last = seq
        if self._behind < RESTART_BINS:
            return False
        self.newest, self._behind = seq, 0
        return True
