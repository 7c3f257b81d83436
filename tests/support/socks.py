"""A small real SOCKS5 proxy on loopback (RFC 1928): it resolves names by a table of its own, and says what it was asked."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address

import trio

Serve = Callable[[trio.abc.Stream], Awaitable[None]]
"""What talks to a client behind the proxy."""
_DONE, _UNREACHABLE = 0, 4


class Proxy:
    """Leads to *hosts* and nowhere else; with *password* it wants one of everybody."""

    def __init__(self, hosts: dict[str, Serve], *, password: bool = False) -> None:
        self.hosts = hosts
        self.password = password
        self.asked: list[tuple[str, int]] = []  # "name" or "address" and the host, in one text; the port
        self.address = ""

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            _, count = await self._read(stream, 2)
            methods = await self._read(stream, count)
            if self.password or 0 not in methods:
                await stream.send_all(b"\5\xff" if 2 not in methods else b"\5\2")
                return
            await stream.send_all(b"\5\0")
            host = await self._host(stream)
            if host not in self.hosts:
                await stream.send_all(bytes((5, _UNREACHABLE, 0, 1)) + bytes(6))
                return
            await stream.send_all(bytes((5, _DONE, 0, 1)) + bytes(6))
            await self.hosts[host](stream)

    async def _host(self, stream: trio.SocketStream) -> str:
        version, command, _, kind = await self._read(stream, 4)
        assert (version, command) == (5, 1)
        if kind == 3:
            (size,) = await self._read(stream, 1)
            shown, host = "name", (await self._read(stream, size)).decode()
        else:
            shown, host = "address", str(ip_address(await self._read(stream, {1: 4, 4: 16}[kind])))
        self.asked.append((f"{shown} {host}", int.from_bytes(await self._read(stream, 2), "big")))
        return host

    async def _read(self, stream: trio.SocketStream, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = await stream.receive_some(size - len(data))
            assert more, "the client left in the middle"
            data += more
        return data


@asynccontextmanager
async def socks_proxy(hosts: dict[str, Serve], *, password: bool = False) -> AsyncGenerator[Proxy]:
    """Run a proxy for as long as the block lasts; ``address`` is HOST:PORT."""
    proxy = Proxy(hosts, password=password)
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        proxy.address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.start_soon(trio.serve_listeners, proxy.serve, [listener])
        yield proxy
        nursery.cancel_scope.cancel()
