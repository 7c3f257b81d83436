"""A whole daemon inside the test: every part real, on real sockets; only scrypt is cheap.

A `Peer` is a client that we wrote for tests alone: it speaks the protocol by hand, so that it can also break it.
"""

from __future__ import annotations

import array
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import trio

from avault_daemon.core import Core
from avault_daemon.keyring.oskeyring import Keyring
from avault_daemon.main import assemble, wake
from avault_daemon.nostr.relay import NETWORK, Network
from avault_daemon.places import Places
from avault_daemon.serving.server import Server
from avault_daemon.settings import Settings
from avault_protocol import (
    AvaultError,
    Extent,
    Notification,
    Response,
    Scanner,
    pack_request,
    unpack_head,
)

PASSPHRASE = b"correct horse battery staple"
LOG_N = 1
PATIENCE = 60.0


@dataclass
class Peer:
    """One connection to a daemon."""

    sock: trio.socket.SocketType
    patience: float = PATIENCE
    notifications: list[Notification] = field(default_factory=list[Notification])
    _buffer: bytes = b""
    _last: int = 0

    async def call(
        self,
        method: str,
        params: Mapping[str, object] | None = None,
        value: bytes | None = None,
        fds: tuple[int, ...] = (),
    ) -> Any:
        """Ask and return the result, or (result, value) where a value came; raise the error that came."""
        request = await self.ask(method, params, value, fds)
        response, came = await self.answer()
        assert response.id == request
        if response.error is not None:
            raise response.error
        return response.result if came is None else (response.result, came)

    async def ask(
        self,
        method: str,
        params: Mapping[str, object] | None = None,
        value: bytes | None = None,
        fds: tuple[int, ...] = (),
    ) -> int:
        """Send a request and return its id."""
        self._last += 1
        head = pack_request(self._last, method, dict(params or {}), None if value is None else len(value))
        data = head + (value or b"")
        if fds:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
            data = data[await self.sock.sendmsg([data[:1]], [rights]) :]
        await self.send(data)
        return self._last

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        while data:
            data = data[await self.sock.send(data) :]

    async def answer(self) -> tuple[Response, bytes | None]:
        """Return the next response with its value; notifications before it are kept."""
        while True:
            message = await self.message()
            if isinstance(message, Notification):
                self.notifications.append(message)
                continue
            return message

    async def notified(self, method: str) -> Notification:
        """Return the next notification *method*, from those kept or to come."""
        while True:
            for notification in self.notifications:
                if notification.method == method:
                    self.notifications.remove(notification)
                    return notification
            message = await self.message()
            assert isinstance(message, Notification), message
            self.notifications.append(message)

    async def message(self) -> Notification | tuple[Response, bytes | None]:
        """Return the next message; EOFError at the end of the stream."""
        extent: Extent | None = None
        with trio.fail_after(self.patience):
            while (extent := Scanner().scan(self._buffer, 0, len(self._buffer))) is None or extent.end > len(
                self._buffer
            ):
                data = await self.sock.recv(65536)
                if not data:
                    raise EOFError
                self._buffer += data
        head = unpack_head(self._buffer[: extent.head_end], extent.has_value)
        value = self._buffer[extent.head_end : extent.end] if extent.has_value else None
        self._buffer = self._buffer[extent.end :]
        if isinstance(head, Notification):
            return head
        assert isinstance(head, Response)
        return head, value

    async def closed(self) -> AvaultError | None:
        """Wait until the daemon closes the connection; return the last error that it told, if any."""
        error: AvaultError | None = None
        try:
            while True:
                message = await self.message()
                if not isinstance(message, Notification):
                    error = message[0].error
        except (EOFError, ConnectionResetError):
            return error

    def close(self) -> None:
        self.sock.close()


@dataclass
class House:
    """A daemon in this process."""

    core: Core
    server: Server
    nursery: trio.Nursery
    peers: list[Peer] = field(default_factory=list[Peer])
    patience: float = PATIENCE
    """Seconds to wait for an answer; infinite where a test turns the clock by hand."""

    async def connect(self, path: Path) -> Peer:
        sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        await sock.connect(str(path))
        self.peers.append(Peer(sock, self.patience))
        return self.peers[-1]

    async def operator(self, *, proven: bool = True) -> Peer:
        """Connect to the operator's socket, and prove."""
        peer = await self.connect(self.core.places.operator_socket)
        if proven:
            await peer.call("prove", {}, PASSPHRASE)
        return peer

    async def agent(
        self, plugin: str = "telegram", secrets: tuple[str, ...] = ("TOKEN",), agent: str | None = "cobot"
    ) -> Peer:
        """Connect as a plugin and say hello."""
        peer = await self.connect(self.core.places.agent_socket)
        params: dict[str, object] = {"protocol": 1, "plugin": plugin, "secrets": list(secrets)}
        if agent is not None:
            params["agent"] = agent
        await peer.call("hello", params)
        return peer

    async def init(self) -> Peer:
        """Make the vault; return the proven connection that did."""
        peer = await self.operator(proven=False)
        await peer.call("init", {"log_n": LOG_N}, PASSPHRASE)
        return peer

    async def put(self, peer: Peer, **secrets: bytes) -> None:
        items = [{"name": name, "size": len(value), "encoding": "text"} for name, value in secrets.items()]
        await peer.call("put", {"items": items, "replace": True}, b"".join(secrets.values()))


def places_in(folder: Path, service: str = "user") -> Places:
    """Return places below *folder*."""
    return Places(
        home=folder / "home",
        state_dir=folder / "state",
        runtime_dir=folder / "run",
        config=folder / "config.toml",
        service=cast("Any", service),
    )


@asynccontextmanager
async def open_house(
    folder: Path,
    settings: Settings | None = None,
    *,
    service: str = "user",
    network: Network = NETWORK,
    keyring: Keyring | None = None,
    credentials: Path | None = None,
    bus: socket.socket | str | None = None,
    moment: float = 0,
) -> AsyncGenerator[House]:
    """Run a daemon in *folder* for as long as the block lasts.

    *network* is how it reaches relays, if it may, *keyring* a keyring, *credentials* where a service manager's would be, *bus* the
    system bus. *moment* is what agents are served for before others: 0 is one round, which depends on no clock.
    """
    places = replace(places_in(folder, service), credentials_dir=credentials)
    places.make()
    chosen = replace(settings or Settings(), log_n=LOG_N)
    core = assemble(chosen, places, "nothing", min_log_n=LOG_N, network=network, keyring=keyring, bus=bus)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(core.record.run)
            server = Server(core, nursery, moment=moment)
            server.start()
            nursery.start_soon(core.locker.run)
            nursery.start_soon(wake, core)
            house = House(core, server, nursery)
            try:
                yield house
            finally:
                for peer in house.peers:
                    peer.close()
            nursery.cancel_scope.cancel()
    finally:
        core.close()
