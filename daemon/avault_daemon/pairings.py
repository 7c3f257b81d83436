"""What avault keeps of its phones outside the vault: for each phone slot the key that it talks to the signer with, and the
pepper without which the phone's answer opens nothing.

The document is JSON, ``{SLOT: {"client": HEX, "pepper": HEX, "old": HEX or null}}``; *old* is the pepper before, kept from
the moment a renewal begins until the vault has it. The document lies in one store, a file or the OS keyring; which of the
two says the file itself, which may be a pointer. Its keys are read and written in the arena alone. Everything here blocks:
threads only.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, cast

from avault_protocol import (
    CorruptError,
    LockedError,
    NotFoundError,
    StorageFailedError,
    is_agent_name,
)

from . import sodium
from .arena import Arena, Slot
from .files import Files, beside
from .masked import Masked, masked_json
from .nostr.keys import SecretKey
from .oskeyring import Keyring
from .slots.phone import KEY, hex_into

MAX_DOCUMENT = 64 * 1024
POINTER = b'{"keyring":"avault"}'
"""What the file holds once the document has gone to the keyring: shorter than any pairing, longer than none."""
NOTHING = b"{}"
_ZEROS = "0" * (2 * KEY)
_FIELDS = ("client", "pepper", "old")


class Store(Protocol):
    """Where the document lies."""

    @property
    def kind(self) -> str:
        """What it is: "file" or "keyring"."""
        ...

    @property
    def name(self) -> str:
        """What it is called there."""
        ...

    def read(self, arena: Arena) -> Slot | None:
        """Return the document, None if there is none; `CorruptError`, `StorageFailedError`."""
        ...

    def write(self, document: Slot) -> None:
        """Put *document* in the place of the one before, durably; `StorageFailedError`, `LockedError`."""
        ...

    def settle(self, arena: Arena) -> bool:
        """Bring a document that lies elsewhere here; report whether there was one."""
        ...


class FileStore:
    """The document as a file of mode 0600, replaced by a rename."""

    kind = "file"

    def __init__(self, path: Path, files: Files | None = None) -> None:
        self._path = path
        self._files = files or Files()

    @property
    def name(self) -> str:
        """See `Store`."""
        return str(self._path)

    @property
    def size(self) -> int:
        """How many bytes the file has; 0 if there is none."""
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    def read(self, arena: Arena) -> Slot | None:
        """See `Store`."""
        try:
            descriptor = self._files.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageFailedError(f"{self._path}: {_why(error)}") from error
        try:
            size = os.fstat(descriptor).st_size
            if not 0 < size <= MAX_DOCUMENT:
                raise CorruptError(f"{self._path}: {size} bytes")
            slot = arena.take(size)
            if os.readv(descriptor, [slot.view]) != size:
                slot.release()
                raise CorruptError(f"{self._path}: it is being changed")
            return slot
        finally:
            self._files.close(descriptor)

    def write(self, document: Slot) -> None:
        """See `Store`."""
        new = beside(self._path)
        try:
            self._files.write_whole(new, document.view)
            if _wiped(document):
                # Locked while it was being written: what is there may be zeroes.
                self._files.unlink(new)
                raise LockedError("the vault was locked meanwhile")
            self._files.put_in_place(new, self._path)
        except OSError as error:
            raise StorageFailedError(f"{self._path} could not be written: {_why(error)}") from error

    def settle(self, arena: Arena) -> bool:
        """See `Store`: a file is where everything begins."""
        return False


class KeyringStore:
    """The document in *keyring*, as *item*, if there is one; else, and until it has gone there, in *file*.

    Once it is there, the file is a pointer, put in its place by one rename: at any time exactly one of the two counts. A
    pointer that leads nowhere is an error, never an empty document.
    """

    def __init__(self, file: FileStore, keyring: Keyring, item: str) -> None:
        self._file = file
        self._keyring = keyring
        self._item = item

    @property
    def moved(self) -> bool:
        """Whether the document is in the keyring."""
        return self._file.size == len(POINTER)

    @property
    def kind(self) -> str:
        """See `Store`."""
        return "keyring" if self.moved else "file"

    @property
    def name(self) -> str:
        """See `Store`."""
        return f"{self._item} (keyring, service avault)" if self.moved else self._file.name

    def read(self, arena: Arena) -> Slot | None:
        """See `Store`; also by `Keyring.check`, which says how to get at it again."""
        document = self._file.read(arena)
        if document is None or not _is(document, POINTER):
            return document
        document.release()
        found = self._keyring.get(arena, self._item)
        if found is None:
            raise CorruptError(
                f"{self.name} is gone",
                hint=f"put it back, or remove {self._file.name} and every phone slot, and pair anew",
            )
        return found

    def write(self, document: Slot) -> None:
        """See `Store`. An empty document goes back to the file, so that a keyring that is not used holds nothing."""
        moved = self.moved
        if _is(document, NOTHING):
            self._file.write(document)
            if moved:
                self._keyring.delete(self._item)
        elif moved or self._keyring.backend is not None:
            self._keyring.put(self._item, document)
            if not moved:
                self._point(document.arena)
        else:
            self._file.write(document)

    def settle(self, arena: Arena) -> bool:
        """See `Store`. It is read back from the keyring before the file lets go of it."""
        if self._keyring.backend is None or self.moved:
            return False
        document = self._file.read(arena)
        if document is None:
            return False
        with document:
            if _is(document, NOTHING):
                return False
            self._keyring.put(self._item, document)
            self._check_stored(arena, document)
            self._point(arena)
        return True

    def _check_stored(self, arena: Arena, document: Slot) -> None:
        stored = self._keyring.get(arena, self._item)
        if stored is None:
            raise StorageFailedError(f"{self._item} did not stay in the keyring")
        with stored:
            same = stored.size == document.size
            if not same or not sodium.memcmp(stored.address, document.address, stored.size):
                raise StorageFailedError(f"{self._item} is not in the keyring as it was stored")

    def _point(self, arena: Arena) -> None:
        with arena.take(len(POINTER)) as pointer:
            pointer.view[:] = POINTER
            self._file.write(pointer)


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
                if _wiped(secret):
                    raise LockedError("the vault was locked meanwhile")
            self._store.write(document)


def _is(document: Slot, content: bytes) -> bool:
    return document.size == len(content) and sodium.memcmp(document.address, content, document.size)


def _wiped(slot: Slot) -> bool:
    return sodium.is_zero(slot.address, slot.size)


def _why(error: OSError) -> str:
    return (error.strerror or "input/output error").lower()
