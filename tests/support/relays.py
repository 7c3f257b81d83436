"""A relay of our own, in memory, that does what a test tells it to: each fault is a function of what a client sends."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, cast

import trio
import trio.testing
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.trio.server import Server, ServerConnection

from avault_daemon.nostr.event import Event

HOST = "relay"
Message = list[Any]


class Session:
    """One client's connection, as the relay has it."""

    def __init__(self, relay: FaultRelay, socket: ServerConnection) -> None:
        self.relay = relay
        self.socket = socket
        self.subscriptions: dict[str, dict[str, Any]] = {}

    async def say(self, *message: object) -> None:
        await self.raw(json.dumps(message))

    async def raw(self, text: str | bytes) -> None:
        await self.socket.send(text)

    async def deliver(self, event: Event) -> None:
        """Hand on an event to each subscription that wants it."""
        addressed = {tag[1] for tag in event.tags if tag[0] == "p"}
        for name, wanted in self.subscriptions.items():
            if event.kind in wanted["kinds"] and addressed.intersection(wanted["#p"]):
                await self.say("EVENT", name, event.to_wire())


Handler = Callable[[Session, Message], Awaitable[None]]


async def serve(session: Session, message: Message) -> None:
    """Do what a good relay does, ephemeral events and all."""
    match message:
        case ["REQ", name, wanted]:
            session.subscriptions[name] = wanted
            await session.say("EOSE", name)
        case ["EVENT", fields]:
            event = Event.from_wire(fields)
            session.relay.take(event)
            await session.say("OK", event.id, True, "")
            await session.relay.deliver(event)
        case _:
            pass


class FaultRelay:
    """Many clients, no sockets: `dial` is what `relay.Network` wants. *handler* may be replaced at any time."""

    def __init__(self, nursery: trio.Nursery, handler: Handler = serve) -> None:
        self.handler = handler
        self.seen: list[Message] = []  # all that clients sent
        self.events: list[Event] = []
        self.sessions: list[Session] = []
        self.dialled = 0
        self.refuse = False  # as if nobody listened on the port
        self.silent = False  # accepts, and never says a word
        self.status: HTTPStatus | None = None  # no WebSocket, but this
        self.location = ""  # where to, with such a status
        self._nursery = nursery
        self._news = trio.Event()

    async def dial(self, host: str, port: int) -> trio.abc.Stream:
        self.dialled += 1
        await trio.lowlevel.checkpoint()
        if self.refuse:
            raise ConnectionRefusedError(111, "Connection refused")
        ours, theirs = trio.testing.memory_stream_pair()
        if not self.silent:
            self._nursery.start_soon(self.serve_stream, theirs)
        return ours

    def take(self, event: Event) -> None:
        self.events.append(event)
        self.wake()

    async def deliver(self, event: Event) -> None:
        for session in tuple(self.sessions):
            await session.deliver(event)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something that clients did makes *condition* true."""
        while not condition():
            await self._news.wait()

    async def cut(self) -> None:
        """End all connections without a word."""
        for session in tuple(self.sessions):
            await trio.aclose_forcefully(session.socket.stream)

    def wake(self) -> None:
        """Have `until` look again."""
        self._news.set()
        self._news = trio.Event()

    def _process(self, connection: ServerConnection, request: Request) -> Response | None:
        if self.status is None:
            return None
        response = connection.respond(self.status, "no\n")
        if self.location:
            response.headers["Location"] = self.location
        return response

    async def serve_stream(self, stream: trio.abc.Stream) -> None:
        server = cast("Server", SimpleNamespace(closing=False))
        logger = logging.getLogger("websockets.server")
        async with trio.open_nursery() as nursery:
            protocol = ServerProtocol(max_size=None, logger=logger)
            socket = ServerConnection(nursery, stream, protocol, server, ping_interval=None)
            try:
                await socket.handshake(self._process)
                if self.status is None:
                    await self._converse(socket)
            except (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                await trio.aclose_forcefully(stream)
                nursery.cancel_scope.cancel()

    async def _converse(self, socket: ServerConnection) -> None:
        session = Session(self, socket)
        self.sessions.append(session)
        try:
            while True:
                message = json.loads(await socket.recv())
                self.seen.append(message)
                self.wake()
                await self.handler(session, message)
        finally:
            self.sessions.remove(session)
            self.wake()


@asynccontextmanager
async def fault_relay(handler: Handler = serve) -> AsyncGenerator[FaultRelay, None]:
    """Run a relay for as long as the block lasts."""
    async with trio.open_nursery() as nursery:
        yield FaultRelay(nursery, handler)
        nursery.cancel_scope.cancel()
