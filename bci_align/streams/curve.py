"""CURVE: who may talk to a ZeroMQ socket beyond this machine. Keys lie in certificate files as pyzmq writes them."""

from __future__ import annotations

import os
import stat
import struct
import threading
from pathlib import Path

import zmq
import zmq.auth
from zmq.utils import z85

from bci_align.config import CurveConfig
from bci_align.errors import ConfigError, StreamError

MAX_CERTIFICATE = 64 * 1024
"""Bytes of the largest certificate file that is read; pyzmq writes some 400."""

_DOMAIN = "bci_align"
_KEY = 40  # characters of a Z85 key
_WAKE_MS = 100


class Gatekeeper:
    """Answers libzmq's question who may come in (ZAP): the clients of ``allowed`` and nobody else.

    A thread of its own, which must run before the socket binds; ``close`` it before its context goes. Should it ever end, libzmq
    lets nobody in (``ZAP_ENFORCE_DOMAIN``).
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], allowed: frozenset[bytes]) -> None:
        self._allowed = allowed
        self._stop = threading.Event()
        self._socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVTIMEO, _WAKE_MS)
        self._socket.bind("inproc://zeromq.zap.01")
        self._thread = threading.Thread(target=self._serve, name="ZeroMQ gatekeeper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering; harmless when called twice."""
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._stop.is_set():
            try:
                version, request, domain, _, _, mechanism, *credentials = self._socket.recv_multipart()
            except zmq.Again:
                continue
            known = (version, domain, mechanism) == (b"1.0", _DOMAIN.encode(), b"CURVE")
            welcome = known and len(credentials) == 1 and z85.encode(credentials[0]) in self._allowed
            verdict = [b"200", b"OK"] if welcome else [b"400", b"this key may not connect"]
            self._socket.send_multipart([version, request, *verdict, b"", b""])


def guard_server(socket: zmq.Socket[bytes], context: zmq.Context[zmq.Socket[bytes]], curve: CurveConfig, key: str) -> Gatekeeper:
    """Let only ``curve.peers`` connect to ``socket``, which is to be bound afterwards; ``key`` names the setting in errors.

    :class:`ConfigError` names the key file that is missing or malformed. The keys are read now: later changes need a new start.
    """
    public, secret = own_keys(curve, key)
    allowed = frozenset(public_key(p, f"{key}.peers") for p in _peer_files(curve, key))
    gatekeeper = Gatekeeper(context, allowed)
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
    socket.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN.encode())
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    return gatekeeper


def guard_client(socket: zmq.Socket[bytes], curve: CurveConfig, key: str) -> None:
    """Let ``socket``, which is to be connected afterwards, talk only to the side whose key ``curve.peers`` is."""
    public, secret = own_keys(curve, key)
    files = _peer_files(curve, key)
    if len(files) != 1:
        raise ConfigError(f"{key}.peers: {curve.peers}: expected the one key of the side that binds, found {len(files)} keys")
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
    socket.setsockopt(zmq.CURVE_SERVERKEY, public_key(files[0], f"{key}.peers"))


def own_keys(curve: CurveConfig, key: str) -> tuple[bytes, bytes]:
    """Our public and secret key (40 characters of Z85 each) out of ``curve.secret``."""
    path, where = Path(curve.secret), f"{key}.secret"
    public, secret = _certificate(path, where)
    if secret is None:
        raise ConfigError(f"{where}: {path}: expected a secret key, found a public one alone; NAME.key_secret holds both")
    if os.name == "posix" and (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
        raise ConfigError(f"{where}: {path}: expected a file that only its owner can read (chmod 600), found mode {mode:o}")
    if zmq.curve_public(secret) != public:
        raise ConfigError(f"{where}: {path}: expected two keys that belong together, found a public key of another secret one")
    return public, secret


def public_key(path: Path, where: str) -> bytes:
    """The public key (40 characters of Z85) in one certificate file."""
    return _certificate(path, where)[0]


def create_keys(directory: Path, names: tuple[str, ...]) -> list[Path]:
    """Write NAME.key and NAME.key_secret (readable by its owner alone) for each of ``names``; none of them may exist yet."""
    if not zmq.has("curve"):
        raise StreamError("keys: expected a libzmq with CURVE, found one that was built without it")
    files = [directory / f"{name}{suffix}" for name in names for suffix in (".key", ".key_secret")]
    for name in names:
        if not name or Path(name).name != name or name.startswith("."):
            raise ConfigError(f"keys: expected a plain name, found {name!r}")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in files:
            if path.exists():
                raise ConfigError(f"{path}: exists already; keys are never written over")
        for name, secret_file in zip(names, files[1::2], strict=True):
            # Before a secret is in it: pyzmq writes with whatever permissions new files get.
            os.close(os.open(secret_file, os.O_CREAT | os.O_EXCL, 0o600))
            zmq.auth.create_certificates(directory, name)
    except OSError as e:
        raise ConfigError(f"{e.filename or directory}: keys cannot be written there ({e.strerror})") from None
    return files


def _peer_files(curve: CurveConfig, key: str) -> list[Path]:
    path = Path(curve.peers)
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.key"))
    if not files:
        raise ConfigError(f"{key}.peers: {path}: expected a directory with public keys (NAME.key), found none in it")
    return files


def _certificate(path: Path, where: str) -> tuple[bytes, bytes | None]:
    """Public and secret key of one file; every fault is a :class:`ConfigError` that never shows what is in it."""
    if not zmq.has("curve"):
        raise ConfigError(f"{where}: expected a libzmq with CURVE, found one that was built without it")
    try:
        if not path.is_file():
            raise ConfigError(f"{where}: {path}: expected a key file, found {'no file' if path.exists() else 'nothing'} there")
        if path.stat().st_size > MAX_CERTIFICATE:
            raise ConfigError(f"{where}: {path}: expected a key file of at most {MAX_CERTIFICATE} bytes, found a larger one")
        public, secret = zmq.auth.load_certificate(path)
    except OSError as e:
        raise ConfigError(f"{where}: {path}: cannot be read ({e.strerror})") from None
    except (ValueError, IndexError):  # no public key; a line without '='
        raise ConfigError(f"{where}: {path}: expected a certificate with a line 'public-key = ...', found none") from None
    for name, value in (("public-key", public), ("secret-key", secret)):
        if value is not None and not _is_key(value):
            raise ConfigError(f"{where}: {path}: {name}: expected {_KEY} characters of Z85, found something else")
    return public, secret


def _is_key(text: bytes) -> bool:
    try:
        return len(text) == _KEY and len(z85.decode(text)) == _KEY * 4 // 5
    except (ValueError, KeyError, struct.error):  # a character that is not Z85's, or five that say more than four bytes hold
        return False
