"""Orders from outside: one JSON object over a ZeroMQ REP socket, one JSON object back.

Request ``{"v": 1, "order": NAME}``; reply ``{"v": 1, "ok": true, ...}`` or ``{"v": 1, "ok": false, "error": SENTENCE}``. Whatever
comes, there is a reply, and nothing but an order has an effect.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from bci_align.config import ControlConfig
from bci_align.errors import BciAlignError, RuntimeFault, StreamError
from bci_align.runtime.reports import dumps
from bci_align.streams.curve import Gatekeeper, guard_client, guard_server
from bci_align.streams.zmq_address import checked

ORDERS = ("status", "freeze", "resume", "align", "promote", "rollback", "stop")
"""``status`` tells how things are; ``freeze`` and ``resume`` the output; ``align`` now, with the trials held; ``promote`` the
candidate now; ``rollback`` to the generation before; ``stop`` the run."""

VERSION = 1
MOST_BYTES = 4096
"""Longest request; a longer one ends the connection before it is allocated."""

_MOST_REPLY = 2**20
_LOOK_MS = 100

Reply = dict[str, Any]


def parse(frames: Sequence[bytes]) -> str:
    """The order in one message; :class:`StreamError` says in one sentence what is wrong with any other."""
    if len(frames) != 1:
        raise StreamError(f"order: expected a message of one part, found {len(frames)}")
    if len(frames[0]) > MOST_BYTES:
        raise StreamError(f"order: expected at most {MOST_BYTES} bytes, found {len(frames[0])}")
    try:
        content = json.loads(frames[0])
    except (ValueError, RecursionError):
        raise StreamError("order: expected a JSON object, found something else") from None
    if not isinstance(content, dict):
        raise StreamError(f"order: expected a JSON object, found {type(content).__name__}")
    if content.get("v") != VERSION or isinstance(content.get("v"), bool):
        raise StreamError(f"order: expected v {VERSION}, found {_short(content.get('v'))}")
    order = content.get("order")
    if not isinstance(order, str) or order not in ORDERS:
        raise StreamError(f"order: expected one of {', '.join(ORDERS)}, found {_short(order)}")
    if extra := set(content) - {"v", "order"}:
        raise StreamError(f"order: expected v and order alone, found {_short(min(extra))} too")
    return order


def answer(frames: Sequence[bytes], obey: Callable[[str], Reply]) -> bytes:
    """The reply to one message; ``obey`` is called with the order, if it is one, and raises what speaks against it."""
    reply: Reply
    try:
        reply = {"v": VERSION, "ok": True} | obey(parse(frames))
    except BciAlignError as e:
        reply = {"v": VERSION, "ok": False, "error": str(e)}
    return dumps(reply)


class ControlServer:
    """Answers at ``config.address`` in a thread of its own until :meth:`close`; :class:`StreamError` if it cannot be bound."""

    def __init__(self, config: ControlConfig, obey: Callable[[str], Reply]) -> None:
        assert config.address is not None
        where = checked(config.address, config.curve is not None)
        self._obey = obey
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.REP)
        self._gatekeeper: Gatekeeper | None = None
        self._socket.setsockopt(zmq.MAXMSGSIZE, MOST_BYTES)
        self._socket.setsockopt(zmq.RCVHWM, 16)
        self._socket.setsockopt(zmq.IPV6, 1)
        try:
            if config.curve is not None:
                self._gatekeeper = guard_server(self._socket, self._context, config.curve, "control.curve")
            self._socket.bind(where)
        except zmq.ZMQError as e:
            self._release(linger_ms=0)
            why = "the address is in use: is another run going?" if e.errno == zmq.EADDRINUSE else str(e)
            raise StreamError(f"control.address {config.address!r}: cannot be bound: {why}") from None
        except BciAlignError:
            self._release(linger_ms=0)
            raise
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="bci-align control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering and give the address back; harmless when called twice."""
        self._stop.set()
        self._thread.join()
        self._release(linger_ms=200)  # for the reply to an order to stop

    def _release(self, linger_ms: int) -> None:
        if self._gatekeeper is not None:
            self._gatekeeper.close()
        self._context.destroy(linger=linger_ms)

    def _serve(self) -> None:
        while not self._stop.is_set():
            if self._socket.poll(_LOOK_MS):
                frames = self._socket.recv_multipart()
                self._socket.send(answer(frames, self._obey))


def ask(config: ControlConfig, order: str, timeout_s: float = 5.0) -> Reply:
    """Send one order to the run at ``config.address`` and give its reply.

    :class:`StreamError` if nobody answers, :class:`RuntimeFault` with the run's own sentence if it does not do it.
    """
    if config.address is None:
        raise StreamError("control.address: expected an address, found none: such a run takes no orders")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        socket = context.socket(zmq.REQ)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IPV6, 1)
        socket.setsockopt(zmq.MAXMSGSIZE, _MOST_REPLY)
        if config.curve is not None:
            guard_client(socket, config.curve, "control.curve")
        socket.connect(checked(config.address, config.curve is not None))
        socket.send(dumps({"v": VERSION, "order": order}))
        if not socket.poll(int(timeout_s * 1e3)):
            raise StreamError(f"control.address {config.address!r}: no reply within {timeout_s:g} s; is a run going there?")
        try:
            reply = json.loads(socket.recv())
        except (ValueError, RecursionError):
            reply = None
    finally:
        context.destroy(linger=0)
    if not isinstance(reply, dict) or reply.get("v") != VERSION:
        raise StreamError(f"control.address {config.address!r}: expected a reply with v {VERSION}, found something else")
    if not reply.get("ok"):
        raise RuntimeFault(str(reply.get("error")))
    return reply


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
