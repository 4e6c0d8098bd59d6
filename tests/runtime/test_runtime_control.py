"""Orders over a real socket: whatever comes is answered, and nothing but an order has an effect."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from bci_align.config import ControlConfig, CurveConfig
from bci_align.errors import RuntimeFault, StreamError
from bci_align.runtime.control import MOST_BYTES, ORDERS, ControlServer, answer, ask, parse
from bci_align.runtime.replay import _free_ports
from bci_align.streams.curve import create_keys

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


def obey(order: str) -> dict[str, Any]:
    if order == "stop":
        raise RuntimeFault("stop: not now")
    return {"order": order}


@pytest.fixture
def server() -> Iterator[ControlConfig]:
    config = ControlConfig(address=_free_ports(1)[0])
    control = ControlServer(config, obey)
    try:
        yield config
    finally:
        control.close()
        control.close()


@given(st.lists(st.binary(max_size=200), max_size=3))
def test_no_bytes_are_more_than_a_sentence(frames: list[bytes]) -> None:
    reply = json.loads(answer(frames, obey))
    assert reply["v"] == 1
    assert not reply["ok"]
    assert len(reply["error"]) < 300
    assert "\n" not in reply["error"]


@given(st.dictionaries(st.sampled_from(["v", "order", "more"]), json_values) | json_values)
def test_no_json_is_more_than_a_sentence(content: Any) -> None:
    done: list[str] = []
    reply = json.loads(answer([json.dumps(content).encode()], lambda order: done.append(order) or {}))
    assert reply["ok"] == bool(done)
    assert len(json.dumps(reply)) < 1000


@pytest.mark.parametrize(
    ("frames", "sentence"),
    [
        ([b"{}", b"{}"], "one part, found 2"),
        ([b" " * (MOST_BYTES + 1)], "at most 4096 bytes, found 4097"),
        ([b"[" * 4000], "expected a JSON object"),
        ([b'{"v": true, "order": "stop"}'], "expected v 1, found True"),
        ([b'{"v": 1, "order": "fly"}'], "expected one of status, .*found 'fly'"),
        ([b'{"v": 1, "order": ["stop"]}'], "expected one of"),
        ([b'{"v": 1, "order": "stop", "now": 1}'], "found 'now' too"),
    ],
)
def test_what_is_wrong_is_named(frames: list[bytes], sentence: str) -> None:
    with pytest.raises(StreamError, match=sentence):
        parse(frames)


def test_every_order_is_understood() -> None:
    for order in ORDERS:
        assert parse([json.dumps({"v": 1, "order": order}).encode()]) == order


def test_there_and_back(server: ControlConfig) -> None:
    assert ask(server, "freeze") == {"v": 1, "ok": True, "order": "freeze"}
    with pytest.raises(RuntimeFault, match=r"^stop: not now$"):
        ask(server, "stop")
    with pytest.raises(RuntimeFault, match="order: expected one of"):
        ask(server, "fly")
    assert ask(server, "status")["ok"]


def test_a_message_of_megabytes_and_raw_noise_do_not_end_it(server: ControlConfig) -> None:
    assert server.address is not None
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    big = context.socket(zmq.REQ)
    big.setsockopt(zmq.LINGER, 0)
    big.connect(server.address)
    big.send(b"x" * 2**22)
    with socket.create_connection(("127.0.0.1", int(server.address.rsplit(":", 1)[1]))) as raw:
        raw.sendall(bytes(range(256)) * 100)
        time.sleep(0.05)
    assert not big.poll(100)
    context.destroy(linger=0)
    assert ask(server, "status")["ok"]


def test_nobody_there_and_nobody_wanted() -> None:
    with pytest.raises(StreamError, match=r"no reply within 0\.2 s; is a run going there"):
        ask(ControlConfig(address=_free_ports(1)[0]), "status", 0.2)
    with pytest.raises(StreamError, match="takes no orders"):
        ask(ControlConfig(address=None), "status")


def test_an_address_in_use_and_one_off_this_machine(server: ControlConfig) -> None:
    with pytest.raises(StreamError, match=r"control\.address .*is another run going"):
        ControlServer(server, obey)
    with pytest.raises(StreamError, match="loopback"):
        ControlServer(ControlConfig(address="tcp://0.0.0.0:5573"), obey)


def test_keys_decide_who_gives_orders(tmp_path: Path) -> None:
    create_keys(tmp_path, ("decoder", "operator", "stranger"))

    def keys(own: str, peer: str) -> CurveConfig:
        return CurveConfig(secret=str(tmp_path / f"{own}.key_secret"), peers=str(tmp_path / f"{peer}.key"))

    address = _free_ports(1)[0].replace("127.0.0.1", "0.0.0.0")  # every interface of this machine
    here = address.replace("0.0.0.0", "127.0.0.1")
    control = ControlServer(ControlConfig(address=address, curve=keys("decoder", "operator")), obey)
    try:
        assert ask(ControlConfig(address=here, curve=keys("operator", "decoder")), "freeze")["ok"]
        for nobody in (None, keys("stranger", "decoder")):
            with pytest.raises(StreamError, match="no reply"):
                ask(ControlConfig(address=here, curve=nobody), "freeze", 0.5)
    finally:
        control.close()
