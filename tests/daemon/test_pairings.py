"""Pairings: stored durably, read back, and never in the open but in their file."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from avault_daemon.files import Files
from avault_daemon.memory import sodium
from avault_daemon.memory.arena import Arena, Slot
from avault_daemon.phone.pairings import Pairing, Pairings, random_slot
from avault_daemon.phone.stores import MAX_DOCUMENT, FileStore
from avault_protocol import AvaultError, CorruptError, LockedError, NotFoundError, StorageFailedError

HEX = "ab" * 32


@pytest.fixture
def arena() -> Generator[Arena]:
    arena = Arena(kind="mlock")
    yield arena
    assert arena.in_use == 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pairing.json"


def contents(pairing: Pairing) -> tuple[bytes, list[bytes]]:
    return bytes(pairing.client.view), [bytes(pepper.view) for pepper in pairing.peppers]


def test_what_was_saved_is_loaded(arena: Arena, path: Path) -> None:
    pairings = Pairings(arena, FileStore(path))
    with Pairing.fresh(arena) as first, Pairing.fresh(arena) as second:
        first.peppers.append(random_slot(arena))
        pairings.save("phone", first)
        pairings.save("phone-2", second)
        for slot, saved in (("phone", first), ("phone-2", second)):
            with Pairings(arena, FileStore(path)).load(slot) as loaded:
                assert contents(loaded) == contents(saved)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.with_name("pairing.json.new").exists()


def test_saving_again_replaces_and_forgetting_removes(arena: Arena, path: Path) -> None:
    pairings = Pairings(arena, FileStore(path))
    with Pairing.fresh(arena) as first, Pairing.fresh(arena) as second:
        pairings.save("phone", first)
        gone = bytes(first.client.view).hex()
        pairings.save("phone", second)
        assert gone not in path.read_text()
        with pairings.load("phone") as loaded:
            assert contents(loaded) == contents(second)
        pairings.forget("nobody")
        pairings.forget("phone")
    assert path.read_text() == "{}"
    with pytest.raises(NotFoundError):
        pairings.load("phone")


def test_only_those_that_are_named_are_kept(arena: Arena, path: Path) -> None:
    pairings = Pairings(arena, FileStore(path))
    for slot in ("phone", "phone-2", "phone-3"):
        with Pairing.fresh(arena) as made:
            pairings.save(slot, made)
    before = path.stat().st_ino
    pairings.keep(["phone", "phone-2", "phone-3", "phone-4"])
    assert path.stat().st_ino == before, "nothing was to be written"
    pairings.keep(["phone-2", "passphrase"])
    assert list(json.loads(path.read_text())) == ["phone-2"]
    pairings.keep([])
    assert path.read_text() == "{}"


def test_changes_at_the_same_time_undo_nothing(arena: Arena, path: Path) -> None:
    pairings = Pairings(arena, FileStore(path))
    slots = [f"phone-{number}" for number in range(8)]

    def save(slot: str) -> None:
        with Pairing.fresh(arena) as made:
            pairings.save(slot, made)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(save, slots))
        list(threads.map(pairings.forget, slots[::2]))
    assert sorted(json.loads(path.read_text())) == slots[1::2]


def test_without_a_file_there_is_no_pairing(arena: Arena, path: Path) -> None:
    with pytest.raises(NotFoundError, match="phone"):
        Pairings(arena, FileStore(path)).load("phone")


@pytest.mark.parametrize(
    "document",
    [
        "",
        "null",
        "[]",
        "{",
        '{"phone":{}}',
        '{"phone":7}',
        json.dumps({"phone": {"client": HEX, "pepper": HEX}}),
        json.dumps({"phone": {"pepper": HEX, "client": HEX, "old": None}}),
        json.dumps({"phone": {"client": HEX, "pepper": None, "old": None}}),
        json.dumps({"phone": {"client": HEX, "pepper": HEX[:-2], "old": None}}),
        json.dumps({"phone": {"client": HEX, "pepper": HEX + "ab", "old": None}}),
        json.dumps({"PHONE": {"client": HEX, "pepper": HEX, "old": None}}),
        json.dumps({"phone": {"client": HEX, "pepper": HEX, "old": None, "more": 1}}),
        " " * (MAX_DOCUMENT + 1),
    ],
)
def test_odd_documents_are_corrupt_and_say_no_secret(arena: Arena, path: Path, document: str) -> None:
    path.write_text(document)
    with pytest.raises(CorruptError) as raised:
        Pairings(arena, FileStore(path)).load("phone")
    assert HEX[:20] not in str(raised.value)


def test_a_symbolic_link_is_refused(arena: Arena, path: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("{}")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageFailedError):
        Pairings(arena, FileStore(path)).load("phone")


class Failing(Files):
    """Fails at the *nth* call of those that write."""

    def __init__(self, nth: int) -> None:
        self.left = nth

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

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
def test_a_save_that_fails_leaves_one_whole_document(arena: Arena, path: Path, nth: int) -> None:
    with Pairing.fresh(arena) as old, Pairing.fresh(arena) as new:
        Pairings(arena, FileStore(path)).save("phone", old)
        with pytest.raises(StorageFailedError, match="no space"):
            Pairings(arena, FileStore(path, Failing(nth))).save("phone", new)
        with Pairings(arena, FileStore(path)).load("phone") as loaded:
            assert contents(loaded) == contents(
                new if nth == 4 else old
            )  # 4: only its directory is not synced


class WipesWhileWriting(Files):
    """Locks the vault in the middle of a write."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena

    def fsync(self, fd: int) -> None:
        self._arena.wipe()
        super().fsync(fd)


def test_a_lock_in_the_middle_of_a_save_saves_nothing(arena: Arena, path: Path) -> None:
    with Pairing.fresh(arena) as old, Pairing.fresh(arena) as new:
        Pairings(arena, FileStore(path)).save("phone", old)
        before = path.read_bytes()
        with pytest.raises(LockedError):
            Pairings(arena, FileStore(path, WipesWhileWriting(arena))).save("phone", new)
        assert path.read_bytes() == before
        arena.wipe()
        with pytest.raises(LockedError):
            Pairings(arena, FileStore(path)).save("phone", new)
        assert path.read_bytes() == before


@given(document=st.binary(max_size=300))
def test_any_document_is_loaded_or_refused(document: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(document)
    arena = Arena(kind="mlock")
    with contextlib.suppress(AvaultError):
        Pairings(arena, FileStore(path)).load("phone").close()
    assert arena.in_use == 0


def test_a_fresh_pairing_is_random(arena: Arena) -> None:
    with Pairing.fresh(arena) as first, Pairing.fresh(arena) as second:
        every = [*contents(first)[1], *contents(second)[1], contents(first)[0], contents(second)[0]]
        assert len(set(every)) == 4
        assert not any(sodium.is_zero(slot.address, slot.size) for slot in (first.client, *first.peppers))


def test_slots_are_given_back(arena: Arena) -> None:
    pairing = Pairing.fresh(arena)
    assert isinstance(pairing.client, Slot)
    pairing.close()
    pairing.close()
