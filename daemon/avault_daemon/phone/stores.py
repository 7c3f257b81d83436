"""Where the phones' keys may lie: in a file, or in the keyring of the desktop. They keep one document, and know nothing of it
but that it is secret; whoever writes it has it in the arena. Everything here blocks: threads only.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from avault_protocol import CorruptError, LockedError, StorageFailedError

from ..files import Files, beside
from ..keyring.oskeyring import Keyring
from ..memory import sodium
from ..memory.arena import Arena, Slot

MAX_DOCUMENT = 64 * 1024
POINTER = b'{"keyring":"avault"}'
"""What the file holds once the document has gone to the keyring: shorter than any pairing, longer than none."""
NOTHING = b"{}"


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
            if wiped(document):
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


def _is(document: Slot, content: bytes) -> bool:
    return document.size == len(content) and sodium.memcmp(document.address, content, document.size)


def wiped(slot: Slot) -> bool:
    """Report whether all of *slot* is zero, as after a lock."""
    return sodium.is_zero(slot.address, slot.size)


def _why(error: OSError) -> str:
    return (error.strerror or "input/output error").lower()
