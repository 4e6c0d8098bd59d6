"""ZeroMQ addresses: which ones a socket without keys may have."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from bci_align.errors import StreamError


def checked(address: str, secured: bool = False) -> str:
    """``address`` in the form that ZeroMQ can bind: ``ipc://``, or ``tcp://`` on the loopback interface only.

    Without CURVE (``secured``) a socket is neither authenticated nor encrypted: :class:`StreamError` for every other host.
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
    if host == "localhost":
        host = "127.0.0.1"
    if not (secured or _is_loopback(host)):
        raise StreamError(
            f"ZeroMQ address {address!r}: expected a loopback host (127.0.0.1, ::1 or localhost), found {host!r}; "
            "a socket without CURVE keys stays on this machine"
        )
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
