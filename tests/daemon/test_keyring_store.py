"""Where the pairings lie: in the keyring if there is one, else in the file; which of the two, the file says."""

from __future__ import annotations

import errno
import json
from collections.abc import Generator
from pathlib import Path

import pytest

from avault_daemon.files import Files
from avault_daemon.keyring.oskeyring import Keyring
from avault_daemon.memory.arena import Arena
from avault_daemon.phone.pairings import Pairing, Pairings
from avault_daemon.phone.stores import POINTER, FileStore, KeyringStore
from avault_protocol import (
    BadRequestError,
    CorruptError,
    DeniedError,
    LockedError,
    NotFoundError,
    StorageFailedError,
)
from support.keyrings import FileKeyring, file_keyring

ITEM = "/home: pairings"


@pytest.fixture
def arena() -> Generator[Arena]:
    arena = Arena(kind="mlock")
    yield arena
    assert arena.in_use == 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pairing.json"


@pytest.fixture
def place(tmp_path: Path) -> Generator[FileKeyring]:
    with file_keyring(tmp_path / "keyring") as place:
        yield place


def pairings_in(arena: Arena, path: Path, keyring: Keyring, files: Files | None = None) -> Pairings:
    return Pairings(arena, KeyringStore(FileStore(path, files), keyring, ITEM))


def save(pairings: Pairings, arena: Arena, slot: str = "phone") -> bytes:
    """Store a new pairing; return its pepper."""
    with Pairing.fresh(arena) as made:
        pairings.save(slot, made)
        return bytes(made.peppers[0].view)


def pepper_of(pairings: Pairings, slot: str = "phone") -> bytes:
    with pairings.load(slot) as found:
        return bytes(found.peppers[0].view)


def stored(place: FileKeyring) -> dict[str, dict[str, str]]:
    """Return the document in the keyring."""
    found: dict[str, dict[str, str]] = json.loads(bytes.fromhex(place.items[f"avault/{ITEM}"]))
    return found


def test_with_a_keyring_the_file_is_a_pointer(arena: Arena, path: Path, place: FileKeyring) -> None:
    pairings = pairings_in(arena, path, place.keyring)
    assert (pairings.kind, pairings.where) == ("file", str(path))
    pepper = save(pairings, arena)
    assert (pairings.kind, pairings.where) == ("keyring", f"{ITEM} (keyring, service avault)")
    assert path.read_bytes() == POINTER
    assert stored(place)["phone"]["pepper"] == pepper.hex()
    assert pepper_of(pairings_in(arena, path, place.keyring)) == pepper


def test_without_one_it_is_the_document(arena: Arena, path: Path, tmp_path: Path) -> None:
    with file_keyring(tmp_path / "none", "no.such.module:Keyring") as nothing:
        for keyring in (Keyring(), nothing.keyring):
            pairings = pairings_in(arena, path, keyring)
            pepper = save(pairings, arena)
            assert pepper.hex() in path.read_text()
            assert (pairings.kind, pepper_of(pairings)) == ("file", pepper)
            assert not pairings.settle()


def test_a_document_in_the_file_goes_to_the_keyring(arena: Arena, path: Path, place: FileKeyring) -> None:
    pepper = save(pairings_in(arena, path, Keyring()), arena)
    pairings = pairings_in(arena, path, place.keyring)
    assert pepper_of(pairings) == pepper
    assert pairings.settle()
    assert path.read_bytes() == POINTER
    assert pepper_of(pairings) == pepper
    assert not pairings.settle()


@pytest.mark.parametrize("content", [None, b"{}"])
def test_there_may_be_nothing_to_move(
    arena: Arena, path: Path, place: FileKeyring, content: bytes | None
) -> None:
    if content is not None:
        path.write_bytes(content)
    assert not pairings_in(arena, path, place.keyring).settle()
    assert place.items == {}


class Failing(Files):
    """Fails at the *nth* call of those that put a file in its place."""

    def __init__(self, nth: int) -> None:
        self.left = nth

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise OSError(errno.ENOSPC, "no space")

    def write(self, fd: int, data: bytes | memoryview) -> int:
        self._count()
        return super().write(fd, data)

    def fsync(self, fd: int) -> None:
        self._count()
        super().fsync(fd)

    def rename(self, old: Path, new: Path) -> None:
        self._count()
        super().rename(old, new)


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_a_move_that_fails_loses_nothing_and_is_made_up_for(
    arena: Arena, path: Path, place: FileKeyring, nth: int
) -> None:
    pepper = save(pairings_in(arena, path, Keyring()), arena)
    with pytest.raises(StorageFailedError):
        pairings_in(arena, path, place.keyring, Failing(nth)).settle()
    assert pepper_of(pairings_in(arena, path, place.keyring)) == pepper
    pairings_in(arena, path, place.keyring).settle()
    assert path.read_bytes() == POINTER
    assert pepper_of(pairings_in(arena, path, place.keyring)) == pepper


@pytest.mark.parametrize("fault", ["locked", "error", "crash"])
def test_a_keyring_that_does_not_take_it_leaves_it_in_the_file(
    arena: Arena, path: Path, place: FileKeyring, fault: str
) -> None:
    pepper = save(pairings_in(arena, path, Keyring()), arena)
    before = path.read_bytes()
    place.fault(fault)
    pairings = pairings_in(arena, path, place.keyring)
    with pytest.raises((DeniedError, StorageFailedError)):
        pairings.settle()
    assert path.read_bytes() == before
    assert pepper_of(pairings) == pepper


@pytest.mark.parametrize("kept", [None, "00" * 10, "7b7d"])
def test_a_keyring_that_does_not_keep_it_leaves_it_in_the_file(
    arena: Arena, path: Path, place: FileKeyring, kept: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pepper = save(pairings_in(arena, path, Keyring()), arena)
    put = place.keyring.put

    def forgetful(item: str, value: object) -> None:
        put(item, value)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        place.path.write_text(json.dumps({} if kept is None else {f"avault/{ITEM}": kept}))

    monkeypatch.setattr(place.keyring, "put", forgetful)
    pairings = pairings_in(arena, path, place.keyring)
    with pytest.raises(StorageFailedError, match="keyring"):
        pairings.settle()
    assert (pairings.kind, pepper_of(pairings)) == ("file", pepper)


def test_switched_off_it_says_where_they_are(arena: Arena, path: Path, place: FileKeyring) -> None:
    pepper = save(pairings_in(arena, path, place.keyring), arena)
    off = pairings_in(arena, path, Keyring())
    assert off.where == f"{ITEM} (keyring, service avault)"
    for attempt in (lambda: pepper_of(off), lambda: save(off, arena, "phone-2"), lambda: off.forget("phone")):
        with pytest.raises(BadRequestError) as caught:
            attempt()
        assert "keyring = true" in (caught.value.hint or "")
    assert path.read_bytes() == POINTER
    assert pepper_of(pairings_in(arena, path, place.keyring)) == pepper


def test_a_keyring_that_is_locked_loses_nothing(arena: Arena, path: Path, place: FileKeyring) -> None:
    pairings = pairings_in(arena, path, place.keyring)
    pepper = save(pairings, arena)
    place.fault("locked")
    with pytest.raises(DeniedError):
        pepper_of(pairings)
    with pytest.raises(DeniedError):
        save(pairings, arena)
    place.fault("")
    assert pepper_of(pairings) == pepper


def test_a_pointer_that_leads_nowhere_is_no_empty_document(
    arena: Arena, path: Path, place: FileKeyring
) -> None:
    path.write_bytes(POINTER)
    pairings = pairings_in(arena, path, place.keyring)
    with pytest.raises(CorruptError, match="is gone"):
        pairings.load("phone")
    with pytest.raises(CorruptError):
        save(pairings, arena)


def test_with_the_last_pairing_the_keyring_is_empty_again(
    arena: Arena, path: Path, place: FileKeyring
) -> None:
    pairings = pairings_in(arena, path, place.keyring)
    save(pairings, arena)
    save(pairings, arena, "phone-2")
    pairings.forget("phone")
    assert list(stored(place)) == ["phone-2"]
    pairings.keep([])
    assert (place.items, path.read_bytes(), pairings.kind) == ({}, b"{}", "file")
    with pytest.raises(NotFoundError):
        pairings_in(arena, path, Keyring()).load("phone-2")


def test_a_lock_meanwhile_stores_no_zeroes(
    arena: Arena, path: Path, place: FileKeyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairings = pairings_in(arena, path, place.keyring)
    pepper = save(pairings, arena)
    put = place.keyring.put

    def wipes(item: str, value: object) -> None:
        arena.wipe()
        put(item, value)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(place.keyring, "put", wipes)
    with pytest.raises(LockedError):
        save(pairings, arena)
    monkeypatch.undo()
    assert pepper_of(pairings) == pepper
