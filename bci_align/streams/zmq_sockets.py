"""The two ZeroMQ sockets that all four ZeroMQ classes are made of: one that publishes and greets, one that listens."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Sequence

import zmq
from zmq.utils.monitor import recv_monitor_message

from bci_align.config import CurveConfig
from bci_align.errors import BciAlignError, StreamError
from bci_align.streams.curve import Gatekeeper, guard_client, guard_server
from bci_align.streams.zmq_address import checked

__all__ = ["Publisher", "Subscriber", "checked", "guard_client", "guard_server"]

HIGH_WATER = 2**17
"""Messages that either end queues. At its mark ZeroMQ drops the NEWEST messages without a word, so it is set to several
times a 20,000-bin replay at full speed: some 70 MB of 96-channel bins, and only if the listener stands still."""

MAX_MESSAGE = 2**20
"""Largest frame that is received at all, in bytes; a longer one ends the connection before it is allocated."""

MAX_FRAMES = 8
"""Frames of one message that are kept; ours have three."""

MAX_SUBSCRIPTION = 4096
"""Longest message that a listener may send us, in bytes: a topic."""

HEARTBEAT_MS, DEAD_MS = 200, 700
"""A listener asks its sender for a sign of life so often, and takes it for gone after so long without one. TCP alone says
nothing of a sender whose machine or cable is gone."""

LISTENER_HEARTBEAT_MS, LISTENER_DEAD_MS = 1000, 5000
"""The same the other way round, for listeners to a sink: its messages queue for one until it is taken for gone."""

HELLO_S = 1.0
_SERVE_S = 0.05
_SERVE_MOST = 64
_MOST_TOPICS = 1024
_BATCH = 1024
_LINGER_MS = 1000
_REFUSED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH


class Publisher:
    """An XPUB socket that knows its subscribers and greets them with a ``hello`` message.

    A thread of its own serves subscribers while nothing is sent: ZeroMQ does so only inside calls on the socket, and a
    decoder has nothing to send before its first bin. The lock makes the socket safe to share.
    ``lossless``: a send that a listener has no room for is a :class:`StreamError` rather than a lost message.
    ``curve``: keys, and who may listen; ``key`` names that setting in errors.
    """

    def __init__(
        self, address: str, hello: Sequence[bytes], *, lossless: bool, curve: CurveConfig | None = None, key: str = "curve"
    ) -> None:
        self._address = address
        self._hello = list(hello)
        self._hello_at = -math.inf
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._topics: set[bytes] = set()
        where = checked(address, curve is not None)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self._gatekeeper: Gatekeeper | None = None
        self._socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
        self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)  # tell of every new subscriber, not of the first to a topic only
        self._socket.setsockopt(zmq.XPUB_NODROP, int(lossless))
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_SUBSCRIPTION)
        if not lossless:  # else a listener may be slow: one whose queue is full reads no heartbeats, and is not gone
            self._socket.setsockopt(zmq.HEARTBEAT_IVL, LISTENER_HEARTBEAT_MS)
            self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, LISTENER_DEAD_MS)
        self._socket.setsockopt(zmq.IPV6, 1)
        try:
            if curve is not None:
                self._gatekeeper = guard_server(self._socket, self._context, curve, key)
            self._socket.bind(where)
        except zmq.ZMQError as e:
            self._release(linger_ms=0)
            why = "the address is in use" if e.errno == zmq.EADDRINUSE else str(e)
            raise StreamError(f"ZeroMQ address {address!r}: cannot be bound: {why}") from None
        except BciAlignError:
            self._release(linger_ms=0)
            raise
        self._thread = threading.Thread(target=self._attend, name=f"greeter {address}", daemon=True)
        self._thread.start()

    def send(self, frames: Sequence[bytes]) -> None:
        """Send one message to whoever subscribes; never blocks."""
        with self._lock:
            self._serve()
            try:
                self._socket.send_multipart(frames, flags=zmq.NOBLOCK)
            except zmq.Again:
                raise StreamError(
                    f"ZeroMQ address {self._address!r}: a listener has fallen {HIGH_WATER} messages behind"
                ) from None

    def wait_for(self, topics: Sequence[str], timeout_s: float) -> None:
        """Block until every topic has a subscriber; :class:`StreamError` names those that have none."""
        deadline = time.monotonic() + timeout_s
        while True:
            with self._lock:
                self._serve()
                missing = [t for t in topics if t.encode() not in self._topics]
            if not missing:
                return
            if time.monotonic() >= deadline:
                raise StreamError(
                    f"ZeroMQ address {self._address!r}: no decoder subscribed to {', '.join(map(repr, missing))} "
                    f"within {timeout_s:g} s"
                )
            time.sleep(0.005)

    def close(self) -> None:
        """Send what is queued (for at most a second) and unbind."""
        self._stop.set()
        self._thread.join()
        self._release(_LINGER_MS)

    def _release(self, linger_ms: int) -> None:
        if self._gatekeeper is not None:
            self._gatekeeper.close()
        self._context.destroy(linger=linger_ms)

    def _attend(self) -> None:
        while not self._stop.wait(_SERVE_S):
            with self._lock:
                self._serve()

    def _serve(self) -> None:
        """Take in subscriptions, and greet when there is a new one or when the last greeting is a second old.

        A few subscriptions at a time: whoever sends them without end must not keep a sample waiting.
        """
        new = False
        for _ in range(_SERVE_MOST):
            if not _ready(self._socket):
                break
            message = self._socket.recv(zmq.NOBLOCK)
            if message[:1] == b"\x01":
                new = True
                if len(self._topics) < _MOST_TOPICS:
                    self._topics.add(message[1:])
            else:
                self._topics.discard(message[1:])
        now = time.monotonic()
        if new or now - self._hello_at >= HELLO_S:
            self._hello_at = now
            with contextlib.suppress(zmq.Again):  # full: the next greeting is a second away
                self._socket.send_multipart(self._hello, flags=zmq.NOBLOCK)


class Subscriber:
    """A SUB socket that notices when its sender goes: ZeroMQ alone would reconnect to whoever comes, without a word.

    A second socket that subscribes to nothing feels the sender's pulse. Heartbeats on the first one would end the process in an
    assertion of libzmq (4.3.5 and before) when its queue is full: they go unread, and the connection is made anew too soon.
    ``curve``: our keys and the sender's; ``key`` names that setting in errors.
    """

    def __init__(self, address: str, topics: Sequence[str], curve: CurveConfig | None = None, key: str = "curve") -> None:
        self._address = address
        self._topics = [t.encode() for t in topics]
        where = checked(address, curve is not None)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, HIGH_WATER)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
        for topic in self._topics:
            self._socket.setsockopt(zmq.SUBSCRIBE, topic)
        self._pulse = self._context.socket(zmq.SUB)
        self._pulse.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        self._pulse.setsockopt(zmq.HEARTBEAT_TIMEOUT, DEAD_MS)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | _REFUSED)
        self._pulse_monitor = self._pulse.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._poller = zmq.Poller()
        for watched in (self._socket, self._monitor, self._pulse_monitor):
            self._poller.register(watched, zmq.POLLIN)
        self._connected = self._dropped = self._refused = self._beats = False
        self._rest: deque[list[bytes]] | None = None
        try:
            for socket in (self._socket, self._pulse):
                socket.setsockopt(zmq.IPV6, 1)
                socket.setsockopt(zmq.RECONNECT_IVL, 50)
                if curve is not None:
                    guard_client(socket, curve, key)
                socket.connect(where)
        except zmq.ZMQError as e:
            self.close()
            raise StreamError(f"ZeroMQ address {address!r}: cannot be connected to: {e}") from None
        except BciAlignError:
            self.close()
            raise

    def await_hello(self, topic: str, timeout_s: float) -> list[bytes]:
        """The first message on ``topic``; what comes before it is of no use and is dropped.

        :class:`StreamError` after ``timeout_s`` says whether anyone was there, and on which topics.
        """
        start = time.monotonic()
        deadline, listen_at = start + timeout_s, start + timeout_s / 2
        heard: set[bytes] | None = None
        while (now := time.monotonic()) < deadline:
            if heard is None and now >= listen_at:  # the usual mistake is a wrong topic: hear which ones there are
                heard = set()
                self._socket.setsockopt(zmq.SUBSCRIBE, b"")
            step = (deadline if heard is not None else listen_at) - now
            self._dropped = False  # a sender that went before it greeted us; the next one may
            for frames in self._receive(step, 1):
                if heard is not None and len(heard) < 16:
                    heard.add(frames[0])
                if frames[0] == topic.encode():
                    if heard is not None:
                        self._socket.setsockopt(zmq.UNSUBSCRIBE, b"")
                    return frames
        seen = ", ".join(sorted(repr(t.decode(errors="replace"))[:80] for t in heard or ())) or "nothing"
        if self._connected:
            found = f"connected, and heard {seen}"
        elif self._refused:
            found = "somebody answers there, but the keys do not fit: one side has none, or does not accept the other's"
        else:
            found = "nobody answers there"
        raise StreamError(f"ZeroMQ address {self._address!r}: no message on topic {topic!r} within {timeout_s:g} s; {found}")

    def receive(self, timeout_s: float) -> list[list[bytes]]:
        """Messages that have arrived, waiting at most ``timeout_s``; :class:`StreamError` once the sender is gone.

        Only after its last message was given, and before the first one of a sender that has taken its place.
        """
        if self._rest is None:
            messages = self._receive(timeout_s, _BATCH)
            if not self._dropped:
                return messages
            # At once: ZeroMQ connects again in its own time, and then the next sender's messages stand behind these.
            self._rest = deque(messages)
            while _ready(self._socket):
                self._rest.append(_message(self._socket))
        if self._rest:
            return [self._rest.popleft() for _ in range(min(_BATCH, len(self._rest)))]
        raise StreamError(f"ZeroMQ address {self._address!r}: the stream was lost: its sender is gone")

    def close(self) -> None:
        """Disconnect and release the socket."""
        for socket, monitor in ((self._socket, self._monitor), (self._pulse, self._pulse_monitor)):
            socket.disable_monitor()
            monitor.close(linger=0)
        self._context.destroy(linger=0)

    def _receive(self, timeout_s: float, most: int) -> list[list[bytes]]:
        deadline = time.monotonic() + timeout_s
        messages: list[list[bytes]] = []
        self._watch()
        while True:
            while len(messages) < most and _ready(self._socket):
                messages.append(_message(self._socket))
            left = deadline - time.monotonic()
            if messages or self._dropped or left <= 0:
                return messages
            if any(socket is not self._socket for socket, _ in self._poller.poll(math.ceil(left * 1e3))):
                self._watch()

    def _watch(self) -> None:
        while _ready(self._pulse_monitor):
            event = recv_monitor_message(self._pulse_monitor, zmq.NOBLOCK)["event"]
            self._dropped = self._dropped or (self._beats and event == zmq.EVENT_DISCONNECTED)
            self._beats = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
        while _ready(self._monitor):
            event = recv_monitor_message(self._monitor, zmq.NOBLOCK)["event"]
            self._connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            self._dropped = self._dropped or event == zmq.EVENT_DISCONNECTED
            self._refused = not self._connected and (self._refused or bool(event & _REFUSED))


def _message(socket: zmq.Socket[bytes]) -> list[bytes]:
    """One message that is there, without the frames beyond :data:`MAX_FRAMES`: nobody's message has so many."""
    frames = [socket.recv(zmq.NOBLOCK)]
    while socket.getsockopt(zmq.RCVMORE):
        frame = socket.recv(zmq.NOBLOCK)
        if len(frames) < MAX_FRAMES:
            frames.append(frame)
    return frames


def _ready(socket: zmq.Socket[bytes]) -> bool:
    return bool(int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)
