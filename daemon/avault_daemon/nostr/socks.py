"""Dialling through a SOCKS5 proxy that resolves the names (RFC 1928), which is what Tor offers."""

from __future__ import annotations

from functools import partial
from urllib.parse import urlsplit

import trio

from avault_protocol import BadRequestError

from .relay import Dial

_REPLIES = (
    "done", "general failure", "forbidden by its rules", "network unreachable", "no such host, or unreachable",
    "connection refused", "connection timed out", "command not known", "kind of address not known",
)  # fmt: skip


def through(proxy: str) -> Dial:
    """Return what dials through *proxy*, ``socks5h://HOST:PORT``. BadRequestError if that is none."""
    parts = urlsplit(proxy)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if parts.scheme != "socks5h" or not host or not port or parts.path or "@" in parts.netloc:
        raise BadRequestError(f"{proxy[:80]}: no proxy: socks5h://HOST:PORT is one")
    return partial(_dial, host, port)


async def _dial(proxy: str, proxy_port: int, host: str, port: int) -> trio.abc.Stream:
    stream = await trio.open_tcp_stream(proxy, proxy_port)
    try:
        await stream.send_all(b"\5\1\0")  # version 5, one method: no authentication
        if await _exactly(stream, 2) != b"\5\0":
            raise OSError(0, "the proxy speaks no SOCKS5 without a password")
        await stream.send_all(_request(host, port))
        await _take_reply(stream)
    except BaseException:  # cancelled, too: half a handshake is of no use
        await trio.aclose_forcefully(stream)
        raise
    return stream


def _request(host: str, port: int) -> bytes:
    name = host.encode("idna")
    return b"\5\1\0\3" + bytes((len(name),)) + name + port.to_bytes(2, "big")


async def _take_reply(stream: trio.SocketStream) -> None:
    _, reply, _, kind = await _exactly(stream, 4)
    if reply:
        why = _REPLIES[reply] if reply < len(_REPLIES) else f"error {reply}"
        raise OSError(0, f"the proxy says: {why}")
    length = {1: 4, 4: 16}.get(kind) or (await _exactly(stream, 1))[0]
    await _exactly(stream, length + 2)


async def _exactly(stream: trio.SocketStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await stream.receive_some(size - len(data))
        if not more:
            raise OSError(0, "the proxy closed the connection")
        data += more
    return data
