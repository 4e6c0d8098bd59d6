"""CURVE keys over real sockets: who has the right ones hears everything, who has not hears nothing at all."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import zmq

from bci_align.config import CurveConfig
from bci_align.errors import ConfigError, StreamError
from bci_align.streams.contract import Decoded
from bci_align.streams.curve import create_keys, guard_client, guard_server, own_keys, public_key
from bci_align.streams.zmq import ZmqRigInlet, ZmqRigOutlet, ZmqSink, ZmqSource

from .rigs import PATIENCE_S, SPEC, assert_same, collect, configs, events_of, session


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("curve") / "keys"
    create_keys(directory, ("decoder", "rig", "stranger"))
    return directory


def curve(keys: Path, own: str, peer: str) -> CurveConfig:
    return CurveConfig(secret=str(keys / f"{own}.key_secret"), peers=str(keys / f"{peer}.key"))


def everywhere(address: str) -> str:
    """The address to bind for all interfaces at the port of a loopback address."""
    return address.replace("127.0.0.1", "0.0.0.0")


def test_rig_and_decoder_with_keys_on_all_interfaces(keys: Path) -> None:
    source_config, sink_config = configs("zmq")
    at = everywhere(source_config.address)
    outlet = ZmqRigOutlet(source_config.model_copy(update={"address": at, "curve": curve(keys, "rig", "decoder")}))
    source = ZmqSource(source_config.model_copy(update={"curve": curve(keys, "decoder", "rig")}))
    at = everywhere(sink_config.address)
    sink = ZmqSink(sink_config.model_copy(update={"address": at, "curve": curve(keys, "decoder", "rig")}))
    inlet = ZmqRigInlet(sink_config.model_copy(update={"curve": curve(keys, "rig", "decoder")}))
    sent = session(100)
    try:
        outlet.open(SPEC)
        assert source.open(PATIENCE_S).channels == SPEC.channels
        outlet.wait_for_decoder(PATIENCE_S)
        for item in sent:
            outlet.push(item)
        assert_same(collect(source, 100, len(events_of(sent))), sent, exact=False)
        sink.open(("vx",), ("m/s",), 100.0)
        assert inlet.open(PATIENCE_S) == ("vx",)
        sink.write(Decoded(3, 1.0, np.array([0.5]), 0))
        assert [d.seq_in for d in inlet.read(PATIENCE_S)] == [3]
    finally:
        for end in (source, outlet, inlet, sink):
            end.close()
    assert not [t for t in threading.enumerate() if t.name == "ZeroMQ gatekeeper"]


@pytest.mark.parametrize("own, peer", [(None, None), ("stranger", "rig"), ("decoder", "stranger")])
def test_without_the_right_keys_nothing_is_heard(keys: Path, own: str | None, peer: str | None) -> None:
    """No keys; keys that the rig does not know; keys that take the rig for somebody else."""
    config, _ = configs("zmq")
    outlet = ZmqRigOutlet(config.model_copy(update={"curve": curve(keys, "rig", "decoder")}))
    theirs = None if own is None or peer is None else curve(keys, own, peer)
    source = ZmqSource(config.model_copy(update={"curve": theirs}))
    raw = zmq.Context()
    try:
        outlet.open(SPEC)
        listener = raw.socket(zmq.SUB)
        listener.subscribe(b"")
        if theirs is not None:
            guard_client(listener, theirs, "curve")
        listener.connect(config.address)
        with pytest.raises(StreamError, match="somebody answers there, but the keys do not fit"):
            source.open(1.5)
        for item in session(20):
            outlet.push(item)
        assert not listener.poll(300)
        with pytest.raises(StreamError, match="no decoder subscribed"):
            outlet.wait_for_decoder(0.1)
    finally:
        raw.destroy(linger=0)
        source.close()
        outlet.close()


def test_keys_where_the_rig_has_none(keys: Path) -> None:
    """A decoder that has been told to trust one rig alone must not take another one's counts."""
    config, _ = configs("zmq")
    outlet, source = ZmqRigOutlet(config), ZmqSource(config.model_copy(update={"curve": curve(keys, "decoder", "rig")}))
    try:
        outlet.open(SPEC)
        with pytest.raises(StreamError, match="the keys do not fit"):
            source.open(1.0)
    finally:
        source.close()
        outlet.close()


def test_several_listeners_are_a_directory_of_keys(keys: Path, tmp_path: Path) -> None:
    _, config = configs("zmq")
    for name in ("rig", "stranger"):
        (tmp_path / f"{name}.key").write_bytes((keys / f"{name}.key").read_bytes())
    both = CurveConfig(secret=str(keys / "decoder.key_secret"), peers=str(tmp_path))
    sink = ZmqSink(config.model_copy(update={"curve": both}))
    inlets = [ZmqRigInlet(config.model_copy(update={"curve": curve(keys, own, "decoder")})) for own in ("rig", "stranger")]
    try:
        sink.open(("vx",), ("m/s",), 100.0)
        for inlet in inlets:
            assert inlet.open(PATIENCE_S) == ("vx",)
    finally:
        for inlet in inlets:
            inlet.close()
        sink.close()


def test_a_server_whose_gatekeeper_is_gone_lets_nobody_in(keys: Path) -> None:
    """A request socket, as the control has: guarded by the same two functions, and closed when nobody checks keys."""
    _, config = configs("zmq")
    context = zmq.Context()
    server = context.socket(zmq.REP)
    gatekeeper = guard_server(server, context, curve(keys, "decoder", "rig"), "control.curve")
    try:
        server.bind(config.address)
        clients: list[zmq.Socket[bytes]] = []

        def ask() -> bool:
            client = context.socket(zmq.REQ)
            guard_client(client, curve(keys, "rig", "decoder"), "control.curve")
            client.connect(config.address)
            client.send(b"status")
            clients.append(client)
            return bool(server.poll(1000))

        assert ask()
        assert server.recv() == b"status"
        server.send(b"well")
        gatekeeper.close()
        assert not ask()
    finally:
        gatekeeper.close()
        context.destroy(linger=0)


def test_beyond_this_machine_keys_are_demanded(keys: Path) -> None:
    config, _ = configs("zmq")
    outlet = ZmqRigOutlet(config.model_copy(update={"address": everywhere(config.address)}))
    with pytest.raises(StreamError, match=r"found '0\.0\.0\.0'; a socket without CURVE keys stays on this machine"):
        outlet.open(SPEC)


def fault(keys: Path, tmp_path: Path, what: str) -> tuple[CurveConfig, str]:
    good = curve(keys, "decoder", "rig")
    path = tmp_path / "x"
    own, peer = Path(good.secret).read_text(), Path(good.peers).read_text()
    secret_line = next(line for line in own.splitlines() if "secret-key" in line)
    stranger = next(line for line in (keys / "stranger.key").read_text().splitlines() if "public-key" in line)
    public_line = next(line for line in own.splitlines() if "public-key" in line)
    texts = {
        "public only": peer,
        "readable": own,
        "no pair": own.replace(public_line, stranger),
        "cut": own.replace(secret_line, secret_line[:-5]),
        "not z85": own.replace(secret_line, f'    secret-key = "{"~" * 40}"'),
        "too large a number": own.replace(secret_line, f'    secret-key = "{"#" * 40}"'),
        "no equals": own.replace(secret_line, "    secret-key"),
        "empty": "",
        "huge": own + "#" * 70_000,
    }
    if what in texts:
        path.write_text(texts[what])
        path.chmod(0o644 if what == "readable" else 0o600)
        return good.model_copy(update={"secret": str(path)}), str(path)
    if what == "bytes":
        path.write_bytes(bytes(range(256)))
        path.chmod(0o600)
        return good.model_copy(update={"secret": str(path)}), str(path)
    if what == "a directory":
        return good.model_copy(update={"secret": str(tmp_path)}), str(tmp_path)
    if what == "no peer":
        return good.model_copy(update={"peers": str(path)}), str(path)
    return good.model_copy(update={"peers": str(tmp_path)}), str(tmp_path)


@pytest.mark.parametrize(
    "what, sentence",
    [
        ("public only", "secret: {}: expected a secret key, found a public one alone"),
        ("readable", "secret: {}: expected a file that only its owner can read (chmod 600), found mode 644"),
        ("no pair", "secret: {}: expected two keys that belong together"),
        ("cut", "secret: {}: secret-key: expected 40 characters of Z85"),
        ("not z85", "secret: {}: secret-key: expected 40 characters of Z85"),
        ("too large a number", "secret: {}: secret-key: expected 40 characters of Z85"),
        ("no equals", "secret: {}: expected a certificate with a line 'public-key = ...'"),
        ("empty", "secret: {}: expected a certificate with a line 'public-key = ...'"),
        ("huge", "secret: {}: expected a key file of at most 65536 bytes"),
        ("bytes", "secret: {}: expected a certificate with a line"),
        ("a directory", "secret: {}: expected a key file, found no file there"),
        ("no peer", "peers: {}: expected a key file, found nothing there"),
        ("no peers", "peers: {}: expected a directory with public keys (NAME.key), found none in it"),
    ],
)
def test_every_fault_of_a_key_file_has_its_sentence(keys: Path, tmp_path: Path, what: str, sentence: str) -> None:
    config, path = fault(keys, tmp_path, what)
    source_config, sink_config = configs("zmq")
    source = ZmqSource(source_config.model_copy(update={"curve": config}))
    sink = ZmqSink(sink_config.model_copy(update={"curve": config}))
    secrets = {
        line.split('"')[1] for p in keys.glob("*.key_secret") for line in p.read_text().splitlines() if "secret-key" in line
    }
    for opening, where in ((lambda: source.open(0.1), "source.curve"), (lambda: sink.open(("v",), ("1",), 1.0), "sink.curve")):
        with pytest.raises(ConfigError) as e:
            opening()
        assert str(e.value).startswith(f"{where}.{sentence.format(path)}")
        assert not any(secret in str(e.value) for secret in secrets)


def test_a_client_has_one_server(keys: Path, tmp_path: Path) -> None:
    for name in ("rig", "stranger"):
        (tmp_path / f"{name}.key").write_bytes((keys / f"{name}.key").read_bytes())
    config, _ = configs("zmq")
    two = CurveConfig(secret=str(keys / "decoder.key_secret"), peers=str(tmp_path))
    with pytest.raises(ConfigError, match="expected the one key of the side that binds, found 2 keys"):
        ZmqSource(config.model_copy(update={"curve": two})).open(0.1)


def test_keys_are_written_for_their_owner_alone_and_never_over_others(tmp_path: Path) -> None:
    files = create_keys(tmp_path / "a" / "keys", ("decoder",))
    assert [p.name for p in files] == ["decoder.key", "decoder.key_secret"]
    assert files[1].stat().st_mode & 0o777 == 0o600
    before = files[1].read_bytes()
    with pytest.raises(ConfigError, match=r"decoder\.key: exists already"):
        create_keys(tmp_path / "a" / "keys", ("rig", "decoder"))
    assert files[1].read_bytes() == before and not (tmp_path / "a" / "keys" / "rig.key").exists()
    public, _ = own_keys(CurveConfig(secret=str(files[1]), peers=""), "x")
    assert public == public_key(files[0], "x")
    for name in ("../rig", "", ".rig", "a/b"):
        with pytest.raises(ConfigError, match="expected a plain name"):
            create_keys(tmp_path, (name,))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written there"):
        create_keys(tmp_path / "file", ("rig",))
