"""What avault keeps of its phones outside the vault: for each phone slot the key that it talks to the signer with, and the
pepper without which the phone's answer opens nothing.

The document is JSON, ``{SLOT: {"client": HEX, "pepper": HEX, "old": HEX or null}}``; *old* is the pepper before, kept from
the moment a renewal begins until the vault has it. The document lies in one store, a file or the OS keyring; which of the
two says the file itself, which may be a pointer. Its keys are read and written in the arena alone. Everything here blocks:
threads only.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, cast

from avault_protocol import (
    CorruptError,
    LockedError,
    NotFoundError,
    is_agent_name,
)

from ..memory import sodium
from ..memory.arena import Arena, Slot
from ..memory.masked import Masked, masked_json
from ..nostr.keys import SecretKey
from ..slots.phone import KEY, hex_into
from .stores import Store, wiped

_ZEROS = "0" * (2 * KEY)
_FIELDS = ("client", "pepper", "old")


class Pairing:
    """One phone's key and peppers, in the arena until `close`. *peppers*: the one in force first."""

    __slots__ = ("client", "peppers")

    def __init__(self, client: Slot, peppers: list[Slot]) -> None:
        self.client = client
        self.peppers = peppers

    @classmethod
    def fresh(cls, arena: Arena) -> Self:
        """Return a pairing with a new key and a new pepper."""
        key = SecretKey.generate(arena)
        client = arena.take(KEY)
        key.copy_to(client.address)
        key.close()
        return cls(client, [random_slot(arena)])

    def close(self) -> None:
        """Wipe all of it. Doing so twice is fine."""
        self.client.release()
        for pepper in self.peppers:
            pepper.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def random_slot(arena: Arena) -> Slot:
    """Return a slot of 32 random bytes."""
    slot = arena.take(KEY)
    sodium.random_into(slot.address, KEY)
    return slot


class Pairings:
    """All pairings, in *store*."""

    def __init__(self, arena: Arena, store: Store) -> None:
        self._arena = arena
        self._store = store
        self._changing = threading.Lock()  # from reading to writing: one renewal must not undo another

    @property
    def kind(self) -> str:
        """Whether they lie in a "file" or in the "keyring"."""
        return self._store.kind

    @property
    def where(self) -> str:
        """Where they lie, for the operator."""
        return self._store.name

    def settle(self) -> bool:
        """Bring them to where they belong; report whether they were elsewhere."""
        with self._changing:
            return self._store.settle(self._arena)

    def load(self, slot: str) -> Pairing:
        """Return the pairing of a phone slot; `NotFoundError` if there is none here."""
        with ExitStack() as others:
            pairings = self._read()
            found = pairings.pop(slot, None)
            for pairing in pairings.values():
                others.callback(pairing.close)
        if found is None:
            raise NotFoundError(
                f"this machine has no pairing for slot {slot}",
                hint="it was made elsewhere, or removed: avault slot remove it, then add the phone again",
            )
        return found

    def save(self, slot: str, pairing: Pairing) -> None:
        """Store the pairing of *slot*, in place of the one before."""
        with self._changing:
            pairings = self._read()
            replaced = pairings.pop(slot, None)
            try:
                self._write({**pairings, slot: pairing})
            finally:
                for other in (*pairings.values(), *([replaced] if replaced else [])):
                    other.close()

    def forget(self, slot: str) -> None:
        """Remove the pairing of *slot*, if there is one."""
        self._keep(lambda other: other != slot)

    def keep(self, slots: Collection[str]) -> None:
        """Remove the pairings of all slots but *slots*."""
        self._keep(lambda other: other in slots)

    def _keep(self, wanted: Callable[[str], bool]) -> None:
        with self._changing:
            pairings = self._read()
            try:
                kept = {slot: pairing for slot, pairing in pairings.items() if wanted(slot)}
                if kept.keys() != pairings.keys():
                    self._write(kept)
            finally:
                for pairing in pairings.values():
                    pairing.close()

    def _read(self) -> dict[str, Pairing]:
        document = self._store.read(self._arena)
        if document is None:
            return {}
        with document, masked_json(self._arena, document) as masked, ExitStack() as undo:
            value = cast("Any", masked.value)
            if not isinstance(value, dict):
                raise CorruptError(f"{self.where} is no JSON object")
            found: dict[str, Pairing] = {}
            for slot, fields in cast("dict[str, Any]", value).items():
                found[slot] = self._pairing(masked, slot, fields)
                undo.callback(found[slot].close)
            undo.pop_all()
            return found

    def _pairing(self, masked: Masked, slot: str, fields: Any) -> Pairing:
        if not is_agent_name(slot) or not isinstance(fields, dict) or tuple(cast("Any", fields)) != _FIELDS:
            raise CorruptError(f"{self.where}: not a pairing in its one form")
        texts = list(cast("Any", fields).values())
        with ExitStack() as undo:
            taken: list[Slot] = []
            for text in texts if texts[-1] is not None else texts[:-1]:
                taken.append(undo.enter_context(masked.take(text)))  # noqa: PERF401 - to be given back on errors
            undo.pop_all()
            return Pairing(taken[0], taken[1:])

    def _write(self, pairings: Mapping[str, Pairing]) -> None:
        template = json.dumps(
            {
                slot: {
                    "client": _ZEROS,
                    "pepper": _ZEROS,
                    "old": _ZEROS if len(pairing.peppers) > 1 else None,
                }
                for slot, pairing in pairings.items()
            },
            separators=(",", ":"),
        ).encode("ascii")
        secrets = [secret for pairing in pairings.values() for secret in (pairing.client, *pairing.peppers)]
        with self._arena.take(len(template)) as document:
            document.view[:] = template
            position = 0
            for secret in secrets:
                position = template.index(_ZEROS.encode("ascii"), position)
                hex_into(document.view[position : position + len(_ZEROS)], secret.view)
                position += len(_ZEROS)
                if wiped(secret):
                    raise LockedError("the vault was locked meanwhile")
            self._store.write(document)
