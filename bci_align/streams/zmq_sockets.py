"""The two ZeroMQ sockets that all four ZeroMQ classes are made of: one that publishes and greets, one that listens."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import zmq
from zmq.utils.monitor import recv_monitor_message

from bci_align.errors import StreamError

HIGH_WATER = 2**17
"""Messages that either end queues. At its mark ZeroMQ drops the NEWEST messages without a word, so it is set to several
times a 20,000-bin replay at full speed: some 70 MB of 96-channel bins, and only if the listener stands still."""

MAX_MESSAGE = 2**20
"""Largest frame that is received at all, in bytes; a longer one ends the connection before it is allocated."""

HELLO_S = 1.0
_SERVE_S = 0.05
_BATCH = 1024
_LINGER_MS = 1000
_LOOPBACK = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1", "::1": "[::1]"}


def checked(address: str) -> str:
    """``address`` in the form that ZeroMQ can bind: ``ipc://``, or ``tcp://`` on the loopback interface only.

    These sockets are neither authenticated nor encrypted, so :class:`StreamError` for every other host.
    """
    if address.startswith("ipc://") and len(address) > len("ipc://"):
        return address
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme != "tcp" or not host or not port or parts.path:
        raise StreamError(f"ZeroMQ address: expected tcp://127.0.0.1:PORT or ipc://PATH, found {address!r}")
    if host not in _LOOPBACK:
        raise StreamError(
            f"ZeroMQ address {address!r}: expected a loopback host (127.0.0.1, ::1 or localhost), found {host!r}; "
            "these sockets have no authentication and stay on this machine"
        )
    return f"tcp://{_LOOPBACK[host]}:{port}"


class Publisher:
    """An XPUB socket that knows its subscribers and greets them with a ``hello`` message.

    A thread of its own serves subscribers while nothing is sent: ZeroMQ does so only inside calls on the socket, and a
    decoder has nothing to send before its first bin. The lock makes the socket safe to share.
    ``lossless``: a send that a listener has no room for is a :class:`StreamError` rather than a lost message.
    """

    def __init__(self, address: str, hello: Sequence[bytes], *, lossless: bool) -> None:
        self._address = address
        self._hello = list(hello)
        self._hello_at = -math.inf
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._topics: set[bytes] = set()
        where = checked(address)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
        self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)  # tell of every new subscriber, not of the first to a topic only
        self._socket.setsockopt(zmq.XPUB_NODROP, int(lossless))
        self._socket.setsockopt(zmq.IPV6, 1)
        try:
            self._socket.bind(where)
        except zmq.ZMQError as e:
            self._context.destroy(linger=0)
            why = "the address is in use" if e.errno == zmq.EADDRINUSE else str(e)
            raise StreamError(f"ZeroMQ address {address!r}: cannot be bound: {why}") from None
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
        self._context.destroy(linger=_LINGER_MS)

    def _attend(self) -> None:
        while not self._stop.wait(_SERVE_S):
            with self._lock:
                self._serve()

    def _serve(self) -> None:
        """Take in subscriptions, and greet when there is a new one or when the last greeting is a second old."""
        new = False
        while _ready(self._socket):
            message = self._socket.recv(zmq.NOBLOCK)
            if message[:1] == b"\x01":
                self._topics.add(message[1:])
                new = True
            else:
                self._topics.discard(message[1:])
        now = time.monotonic()
        if new or now - self._hello_at >= HELLO_S:
            self._hello_at = now
            with contextlib.suppress(zmq.Again):  # full: the next greeting is a second away
                self._socket.send_multipart(self._hello, flags=zmq.NOBLOCK)


class Subscriber:
    """A SUB socket that notices when its sender goes: ZeroMQ alone would reconnect to whoever comes, without a word."""

    def __init__(self, address: str, topics: Sequence[str]) -> None:
        self._address = address
        self._topics = [t.encode() for t in topics]
        where = checked(address)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, HIGH_WATER)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
        self._socket.setsockopt(zmq.IPV6, 1)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 50)
        for topic in self._topics:
            self._socket.setsockopt(zmq.SUBSCRIBE, topic)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._connected = False
        self._dropped = False
        self._socket.connect(where)

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
        raise StreamError(
            f"ZeroMQ address {self._address!r}: no message on topic {topic!r} within {timeout_s:g} s; "
            + (f"connected, and heard {seen}" if self._connected else "nobody answers there")
        )

    def receive(self, timeout_s: float) -> list[list[bytes]]:
        """Messages that have arrived, waiting at most ``timeout_s``; :class:`StreamError` once the sender is gone."""
        messages = self._receive(timeout_s, _BATCH)
        if not messages and self._dropped:
            raise StreamError(f"ZeroMQ address {self._address!r}: the stream was lost: its sender is gone")
        return messages

    def close(self) -> None:
        """Disconnect and release the socket."""
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._context.destroy(linger=0)

    def _receive(self, timeout_s: float, most: int) -> list[list[bytes]]:
        deadline = time.monotonic() + timeout_s
        messages: list[list[bytes]] = []
        while True:
            while len(messages) < most and _ready(self._socket):
                messages.append(self._socket.recv_multipart(zmq.NOBLOCK))
            left = deadline - time.monotonic()
            if messages or self._dropped or left <= 0:
                return messages
            for socket, _ in self._poller.poll(math.ceil(left * 1e3)):
                if socket is self._monitor:
                    self._watch()

    def _watch(self) -> None:
        while _ready(self._monitor):
            event = recv_monitor_message(self._monitor, zmq.NOBLOCK)["event"]
            self._connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            self._dropped = self._dropped or not self._connected


def _ready(socket: zmq.Socket[bytes]) -> bool:
    return bool(int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)
