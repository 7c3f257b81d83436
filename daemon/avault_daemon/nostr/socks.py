"""Dialling through a SOCKS5 proxy that resolves the names (RFC 1928), which is what Tor offers."""

from __future__ import annotations

from functools import partial
from ipaddress import ip_address

import trio

from .relay import Dial, explain
from .uris import parse_proxy

_REPLIES = (
    "done", "general failure", "forbidden by its rules", "network unreachable", "no such host, or unreachable",
    "connection refused", "connection timed out", "command not known", "kind of address not known",
)  # fmt: skip
_MAX_NAME = 255


def through(proxy: str) -> Dial:
    """Return what dials through *proxy*, ``HOST:PORT``, and never otherwise. BadRequestError if that is none.

    OSErrors say that it is the proxy that cannot be reached, will not, or could not.
    """
    return partial(_dial, *parse_proxy(proxy))


async def _dial(proxy: str, proxy_port: int, host: str, port: int) -> trio.abc.Stream:
    request = _request(host, port)
    try:
        stream = await trio.open_tcp_stream(proxy, proxy_port)
    except OSError as error:
        raise OSError(0, f"the proxy cannot be reached: {explain(error)}") from None
    try:
        await stream.send_all(b"\5\1\0")  # version 5, one method: no authentication
        if await _exactly(stream, 2) != b"\5\0":
            raise OSError(0, "the proxy speaks no SOCKS5 without a password")
        await stream.send_all(request)
        await _take_reply(stream)
    except trio.BrokenResourceError:
        await trio.aclose_forcefully(stream)
        raise OSError(0, "the proxy closed the connection") from None
    except BaseException:  # cancelled, too: half a handshake is of no use
        await trio.aclose_forcefully(stream)
        raise
    return stream


def _request(host: str, port: int) -> bytes:
    return b"\5\1\0" + _address(host) + port.to_bytes(2, "big")


def _address(host: str) -> bytes:
    """Return *host* as the proxy takes it; a name as it is, so that nobody but the proxy looks it up."""
    try:
        address = ip_address(host)
    except ValueError:
        name = host.encode("ascii")
        if len(name) > _MAX_NAME:
            raise OSError(0, "a name that is too long for a proxy") from None
        return bytes((3, len(name))) + name
    return bytes((1 if address.version == 4 else 4,)) + address.packed


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
