"""socks: what goes over the wire to a proxy, and every way in which it may say no."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio

from avault_daemon.nostr.socks import through
from avault_protocol import BadRequestError

GRANTED = b"\5\0\0\1\0\0\0\0\0\0"
NAME = b"relay.example"
REQUEST = b"\5\1\0\3" + bytes([len(NAME)]) + NAME + b"\x01\xbb"


class Proxy:
    """Says *greeting* and *reply*, then echoes; remembers what it was asked."""

    def __init__(self, greeting: bytes, reply: bytes) -> None:
        self._greeting, self._reply = greeting, reply
        self.asked: list[bytes] = []

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            self.asked.append(await stream.receive_some())
            await stream.send_all(self._greeting)
            if self._greeting == b"\5\0":
                self.asked.append(await stream.receive_some())
                for byte in self._reply:  # as small as a network may cut it
                    await stream.send_all(bytes([byte]))
            if self._reply[1:2] == b"\0":
                await stream.send_all(await stream.receive_some())


@asynccontextmanager
async def proxy(reply: bytes, greeting: bytes = b"\5\0") -> AsyncGenerator[tuple[Proxy, str], None]:
    made = Proxy(greeting, reply)
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, made.serve, [listener])
        yield made, f"socks5h://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "reply", [GRANTED, b"\5\0\0\4" + bytes(18), b"\5\0\0\3\3abc\0\0"], ids=["IPv4", "IPv6", "name"]
)
async def test_the_proxy_resolves_the_name(reply: bytes) -> None:
    async with proxy(reply) as (made, address):
        async with await through(address)("relay.example", 443) as stream:
            await stream.send_all(b"hello")
            assert await stream.receive_some(64) == b"hello"
        assert made.asked == [b"\5\1\0", REQUEST]


@pytest.mark.parametrize(
    ("greeting", "reply", "words"),
    [
        (b"\5\xff", b"", "speaks no SOCKS5 without a password"),
        (b"HT", b"", "speaks no SOCKS5"),
        (b"\5", b"", "closed the connection"),
        (b"\5\0", b"\5\5\0\1", "the proxy says: connection refused"),
        (b"\5\0", b"\5\4\0\1", "no such host"),
        (b"\5\0", b"\5\xf2\0\1", "error 242"),
        (b"\5\0", b"\5", "closed the connection"),
    ],
)
async def test_a_proxy_that_does_not(greeting: bytes, reply: bytes, words: str) -> None:
    async with proxy(reply, greeting) as (_, address):
        with pytest.raises(OSError, match=words):
            await through(address)("relay.example", 443)


@pytest.mark.parametrize(
    "address",
    ["", "socks5://127.0.0.1:9050", "socks5h://127.0.0.1", "socks5h://:9050", "socks5h://a:b@c:1", "socks5h://a:1/x", "socks5h://a:x"],
)  # fmt: skip
def test_no_proxy(address: str) -> None:
    with pytest.raises(BadRequestError, match="no proxy"):
        through(address)
