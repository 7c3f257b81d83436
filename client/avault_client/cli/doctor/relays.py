"""Relays: whether this command reaches them. The daemon is confined otherwise, and may be behind other firewalls."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from .finding import Finding, ok, warn

TIMEOUT = 5.0  # seconds for each
PORTS = {"ws": 80, "wss": 443}


def findings(phone: Mapping[str, Any], timeout: float = TIMEOUT) -> Iterator[Finding]:
    """Yield whether the relays that *phone* of `status` names can be connected to; nothing is sent to them.

    Behind a proxy only that is tried: to look up a relay's name here would tell it to others.
    """
    if not phone["network"]:
        unreached = f"{phone['slots']} paired, but " if phone["slots"] else ""
        level = warn if phone["slots"] else ok
        yield level("relays", f"{unreached}avaultd may not use the network (network = false)")
    elif not phone["relays"]:
        yield ok("relays", "no phone is paired")
    elif phone["proxy"]:
        yield _tried(f"proxy {phone['proxy']}", *address(f"socks5://{phone['proxy']}"), None, timeout)
    else:
        for url in map(str, phone["relays"]):
            secure = ssl.create_default_context() if urlsplit(url).scheme == "wss" else None
            yield _tried(url, *address(url), secure, timeout)


def address(url: str) -> tuple[str, int]:
    """Return host and port of *url*."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or PORTS[parts.scheme]


def _tried(what: str, host: str, port: int, secure: ssl.SSLContext | None, timeout: float) -> Finding:
    try:
        with socket.create_connection((host, port), timeout) as sock:
            if secure is not None:
                secure.wrap_socket(sock, server_hostname=host).close()
    except OSError as error:  # those of ssl are such, too
        reason = (error.strerror or str(error)).lower()
        return warn("relays", f"{what} is not reached by this command: {reason}")
    return ok("relays", f"{what} is reached by this command")
