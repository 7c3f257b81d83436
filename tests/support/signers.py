"""A remote signer that says what a test has it say: only keys and envelopes, no manners."""

from __future__ import annotations

import json
from typing import Any

from avault_daemon.memory.arena import Arena
from avault_daemon.nostr.event import Event
from avault_daemon.nostr.keys import SecretKey
from avault_daemon.nostr.nip44 import Conversation
from avault_daemon.nostr.nip46 import KIND

from .slots import filled, secret_key

NOW = 1_800_000_000


class FakeSigner:
    """Talks to the client whose public key is *client*."""

    def __init__(self, arena: Arena, client: bytes, secret: str = "22" * 32) -> None:
        self.arena = arena
        self.client = client
        self.key: SecretKey = secret_key(arena, secret)
        self.conversation = Conversation.between(arena, self.key, client)

    @property
    def public(self) -> bytes:
        return self.key.public

    def read(self, event: Event) -> dict[str, Any]:
        """Return the request in *event*."""
        assert event.valid_signature()
        assert event.tags == (("p", self.public.hex()),)
        with self.conversation.decrypt(event.content) as slot:
            message: dict[str, Any] = json.loads(bytes(slot.view))
        return message

    def say(
        self, text: str, *, at: int = NOW, kind: int = KIND, tags: tuple[tuple[str, ...], ...] | None = None
    ) -> Event:
        """Return an event with *text* in it, encrypted."""
        with filled(self.arena, text.encode()) as slot:
            return self.wrap(self.conversation.encrypt(slot), at=at, kind=kind, tags=tags)

    def wrap(
        self,
        content: str,
        *,
        at: int = NOW,
        kind: int = KIND,
        tags: tuple[tuple[str, ...], ...] | None = None,
    ) -> Event:
        """Return an event with *content* as it is."""
        return Event.signed(
            self.key, at, kind, (("p", self.client.hex()),) if tags is None else tags, content
        )

    def answer(self, number: str, result: object = None, error: object = None, *, at: int = NOW) -> Event:
        """Return an answer to request *number*; without *error* the field is missing."""
        message = {"id": number, "result": result} | ({} if error is None else {"error": error})
        return self.say(json.dumps(message), at=at)

    def close(self) -> None:
        self.conversation.close()
        self.key.close()
