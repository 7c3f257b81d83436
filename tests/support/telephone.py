"""The operator's phone, in memory: a NIP-46 signer on a `FaultRelay`, with an operator who says yes, no, or nothing.

The signer's key is not the operator's, as with most signers. It decrypts whatever it is asked to, as they do.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trio

from avault_daemon.memory.arena import Arena
from avault_daemon.nostr.event import Event
from avault_daemon.nostr.keys import SecretKey
from avault_daemon.nostr.nip44 import Conversation
from avault_daemon.nostr.nip46 import KIND
from avault_daemon.nostr.relay import Network
from support.relays import FaultRelay, Message, Session, serve

URL = "ws://127.0.0.1:7777"
Mood = Callable[[dict[str, Any], str], dict[str, Any] | None]
"""Given a request and its proper result: the answer's result and error, or None for silence."""


def network_of(relay: FaultRelay) -> Network:
    """Return a network on which there is nothing but *relay*."""
    return Network(dial=relay.dial, clock=lambda: 1_800_000_000, jitter=lambda: 0.0)


def yes(request: dict[str, Any], result: str) -> dict[str, Any] | None:
    return {"result": result}


def no(request: dict[str, Any], result: str) -> dict[str, Any] | None:
    return (
        {"result": "", "error": "user rejected"}
        if request["method"] == "nip44_decrypt"
        else {"result": result}
    )


def silent(request: dict[str, Any], result: str) -> dict[str, Any] | None:
    return None


@dataclass
class Telephone:
    """One phone; *mood* may be changed at any time. *screen* is what it has shown: each decrypted text.

    *url*: of its relay, if it is not `URL`.
    """

    arena: Arena
    relay: FaultRelay
    mood: Mood = yes
    secret: str = "s3cret"
    url: str = ""
    clock: Callable[[], float] = lambda: 1_800_000_000
    screen: list[str] = field(default_factory=list[str])
    requests: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.signer = SecretKey.generate(self.arena)
        self.operator = SecretKey.generate(self.arena)
        self.relay.handler = self._handle

    @property
    def bunker(self) -> str:
        return f"bunker://{self.signer.public.hex()}?relay={self.url or URL}&secret={self.secret}"

    def close(self) -> None:
        self.signer.close()
        self.operator.close()

    async def scan(self, uri: str, *, says: str | None = None) -> None:
        """Scan a nostrconnect URI: answer its secret, or whatever else it *says*."""
        parts = urlsplit(uri)
        secret = parse_qs(parts.query)["secret"][0]
        await self.relay.deliver(
            self._event(bytes.fromhex(parts.netloc), {"id": "x", "result": says or secret})
        )

    async def _handle(self, session: Session, message: Message) -> None:
        await serve(session, message)
        if message[0] == "EVENT":
            event = Event.from_wire(message[1])
            if ("p", self.signer.public.hex()) in event.tags:
                await self._answer(event)

    async def tap(self) -> None:
        """Answer the last request as the *mood* is by now."""
        await self._answer(self._last)

    async def _answer(self, event: Event) -> None:
        self._last = event
        client = bytes.fromhex(event.pubkey)
        request = json.loads(self._decrypt(self.signer, client, event.content))
        self.requests.append(request["method"])
        outcome = self.mood(request, self._result(request))
        self.relay.wake()
        if outcome is not None:
            await self.relay.deliver(self._event(client, {"id": request["id"], **outcome}))

    def _result(self, request: dict[str, Any]) -> str:
        params = request["params"]
        match request["method"]:
            case "connect":
                return str(params[1]) if params[1] == self.secret else "ack"
            case "get_public_key":
                return self.operator.public.hex()
            case "nip44_decrypt":
                self.screen.append(self._decrypt(self.operator, bytes.fromhex(params[0]), params[1]))
                return self.screen[-1]
            case _:
                return "ack"

    def _decrypt(self, key: SecretKey, peer: bytes, payload: str) -> str:
        conversation = Conversation.between(self.arena, key, peer)
        with conversation.decrypt(payload) as plain:
            text = bytes(plain.view).decode()
        conversation.close()
        return text

    def _event(self, client: bytes, message: dict[str, Any]) -> Event:
        plain = json.dumps(message).encode()
        conversation = Conversation.between(self.arena, self.signer, client)
        with self.arena.take(len(plain)) as slot:
            slot.view[:] = plain
            content = conversation.encrypt(slot)
        conversation.close()
        now = int(self.clock()) + len(self.requests)
        return Event.signed(self.signer, now, KIND, (("p", client.hex()),), content)


@asynccontextmanager
async def real_phone() -> AsyncGenerator[Telephone]:
    """Run a phone and its relay on a port of loopback."""
    async with trio.open_nursery() as nursery:
        relay = FaultRelay(nursery)
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, relay.serve_stream, [listener])
        port = listener.socket.getsockname()[1]
        # A name, which is to be looked up.
        phone = Telephone(Arena(kind="mlock"), relay, url=f"ws://localhost:{port}", clock=time)
        yield phone
        phone.close()
        nursery.cancel_scope.cancel()
