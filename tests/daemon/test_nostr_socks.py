"""socks: what goes over the wire to a proxy, and every way in which it may say no."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from avault_daemon.memory.arena import Arena
from avault_daemon.nostr.socks import through
from avault_daemon.nostr.uris import parse_proxy
from avault_daemon.settings import Settings
from avault_protocol import BadRequestError, RequestTimeoutError
from support.house import Peer, open_house
from support.relays import fault_relay
from support.rig import free_port
from support.socks import Proxy, socks_proxy
from support.telephone import Telephone

GRANTED = b"\5\0\0\1\0\0\0\0\0\0"
NAME = b"relay.example"
REQUEST = b"\5\1\0\3" + bytes([len(NAME)]) + NAME + b"\x01\xbb"


class Scripted:
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
async def proxy(reply: bytes, greeting: bytes = b"\5\0") -> AsyncGenerator[tuple[Scripted, str], None]:
    made = Scripted(greeting, reply)
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, made.serve, [listener])
        yield made, f"127.0.0.1:{listener.socket.getsockname()[1]}"
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
    ("host", "sent"),
    [
        ("192.0.2.7", b"\1\xc0\0\2\7"),
        ("2001:db8::7", b"\4\x20\1\x0d\xb8" + bytes(11) + b"\7"),
        ("a" * 255, b"\3\xff" + b"a" * 255),
    ],
)
async def test_addresses_are_sent_as_such(host: str, sent: bytes) -> None:
    async with proxy(GRANTED) as (made, address):
        async with await through(address)(host, 80):
            pass
        assert made.asked[1] == b"\5\1\0" + sent + b"\0\x50"


async def test_a_name_that_no_proxy_takes() -> None:
    async with proxy(GRANTED) as (made, address):
        with pytest.raises(OSError, match="too long for a proxy"):
            await through(address)("a" * 256, 80)
        assert made.asked == []


async def test_a_proxy_that_is_not_there() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(OSError, match="the proxy cannot be reached: connection refused"):
        await through(f"127.0.0.1:{port}")("relay.example", 443)


async def test_a_proxy_that_hangs_up_in_the_middle() -> None:
    async def reset(stream: trio.SocketStream) -> None:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, reset, [listener])
        with pytest.raises(OSError, match=r"the proxy closed the connection"):
            await through(f"127.0.0.1:{listener.socket.getsockname()[1]}")("relay.example", 443)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("address", "parsed"), [("a:1", ("a", 1)), ("[::1]:65535", ("::1", 65535))])
def test_parse_proxy(address: str, parsed: tuple[str, int]) -> None:
    assert parse_proxy(address) == parsed


@pytest.mark.parametrize(
    "address",
    ["", "a", ":1", "a:", "a:0", "a:65536", "a:x", "a:1/x", "u:p@a:1", "socks5h://a:1", "::1:1", "a b:1", "a:1?x", "a:1#x", "a:1\n"],
)  # fmt: skip
def test_no_proxy(address: str) -> None:
    with pytest.raises(BadRequestError, match="HOST:PORT"):
        through(address)


# --- relays by way of a proxy ----------------------------------------------------------------------------------------


class Nobody(trio.abc.HostnameResolver):
    """Looks up nothing: a name that is looked up here has left the machine."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    async def getaddrinfo(self, host: Any, *more: Any, **named: Any) -> Any:
        self.asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "nobody knows")

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise AssertionError


@asynccontextmanager
async def paired_by(proxy: Proxy, folder: Path, url: str) -> AsyncGenerator[tuple[Peer, Telephone]]:
    """A daemon that knows the world by *proxy* alone, and the bunker of a phone on *url*."""
    settings = Settings(network=True, plain_relays=("relay.onion",), socks=proxy.address)
    async with fault_relay() as relay, open_house(folder, settings) as house:
        phone = Telephone(Arena(kind="mlock"), relay, url=url)
        proxy.hosts["relay.onion"] = relay.serve_stream
        yield await house.init(), phone
        phone.close()


async def test_relays_are_reached_through_the_proxy_alone(tmp_path: Path) -> None:
    """The name goes to the proxy, and to nobody else; what listens at the relay's port here is not disturbed."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nobody = Nobody()
    before = trio.socket.set_custom_hostname_resolver(nobody)
    try:
        async with (
            socks_proxy({}) as proxy,
            paired_by(proxy, tmp_path, "ws://relay.onion:7777") as (operator, phone),
        ):
            await operator.call("phone_pair", {"bunker": phone.bunker})
            await operator.call("phone_confirm")
            assert set(proxy.asked) == {("name relay.onion", 7777)}
            port = listener.socket.getsockname()[1]
            phone.url = f"ws://127.0.0.1:{port}"
            with pytest.raises(RequestTimeoutError):
                await operator.call("phone_pair", {"bunker": phone.bunker, "timeout": 1})
            assert proxy.asked[-1] == ("address 127.0.0.1", port)
            with trio.move_on_after(0.1) as scope:
                await listener.accept()
            assert scope.cancelled_caught
    finally:
        trio.socket.set_custom_hostname_resolver(before)
        await listener.aclose()
    assert nobody.asked == []


@pytest.mark.parametrize("fault", ["password", "stopped"])
async def test_without_the_proxy_nothing_is_reached(tmp_path: Path, fault: str) -> None:
    words = {"password": "the proxy speaks no SOCKS5 without a password", "stopped": "cannot be reached"}
    async with socks_proxy({}, password=fault == "password") as proxy:
        if fault == "stopped":
            proxy.address = f"127.0.0.1:{free_port()}"
        async with paired_by(proxy, tmp_path, "ws://relay.onion") as (operator, phone):
            with pytest.raises(RequestTimeoutError, match=f"ws://relay.onion: .*{words[fault]}"):
                await operator.call("phone_pair", {"bunker": phone.bunker, "timeout": 1})
            lost = [note.params for note in operator.notifications if note.params.get("stage") == "lost"]
            assert words[fault] in str(lost[0]["text"])
            assert proxy.asked == []
