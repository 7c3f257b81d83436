"""Made, unlocked, locked: also when these meet, and when the file cannot be used."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from avault_daemon.callers.policy import Agent, Selectors
from avault_daemon.memory.arena import Arena, Slot
from avault_daemon.nostr.keys import SecretKey
from avault_daemon.slots import passphrase as passphrases
from avault_daemon.vault import Vault, door
from avault_daemon.vault.catalog import Catalog, agent_content
from avault_daemon.vault.eventlog import Line
from avault_daemon.vault.logfile import LogFile
from avault_daemon.vault.opening import open_slot
from avault_daemon.vault.states import TRANSITIONS, after
from avault_protocol import (
    LOCKED,
    STATES,
    UNINITIALIZED,
    UNLOCKED,
    UNLOCKING,
    AvaultError,
    BadRequestError,
    CorruptError,
    InternalError,
    LockedError,
    NotFoundError,
    ProofRequiredError,
    RollbackError,
    StorageFailedError,
    UninitializedError,
    WrongPassphraseError,
)
from support.faults import FaultyFiles
from support.gates import Gate
from support.vaults import CHEAP, PASSPHRASE, Place, make_vault, value_of

OTHER = "another passphrase"


# --- the table ----------------------------------------------------------------------------------------------------


def test_the_table_knows_every_state_and_lock_is_allowed_in_each() -> None:
    assert set(TRANSITIONS) == set(STATES)
    for state in STATES:
        assert after(state, "lock") in (LOCKED, UNINITIALIZED)
        assert set(TRANSITIONS[state].values()) <= set(STATES)


def test_only_a_passphrase_leads_to_unlocked() -> None:
    leading = {
        occasion for table in TRANSITIONS.values() for occasion, state in table.items() if state == UNLOCKED
    }
    assert leading == {"opened", "restored"}


def test_what_cannot_happen_is_an_error() -> None:
    with pytest.raises(InternalError, match="opened cannot happen to a vault that is locked"):
        after(LOCKED, "opened")


# --- one after the other ------------------------------------------------------------------------------------------


async def test_a_life(tmp_path: Path) -> None:
    place = Place(tmp_path)
    heard: list[str] = []
    with place.opened() as vault:
        vault.listeners.append(lambda event, _: heard.append(event))
        assert await place.init(vault) == "passphrase"
        assert (vault.state, vault.unlocked, vault.locked) == (UNLOCKED, True, False)
        public = vault.public
        assert public is not None
        for _ in range(2):
            vault.lock()
            vault.lock()
            assert (vault.state, vault.public, place.arena.mapped) == (LOCKED, public, False)
            assert await place.unlock(vault) == "passphrase"
        assert heard == ["unlocked", "locked", "unlocked", "locked", "unlocked"]
    assert heard[-1] == "locked"
    with place.opened() as vault:
        assert (vault.state, vault.public, vault.generation) == (LOCKED, public, 1)


async def test_a_wrong_passphrase_changes_nothing(tmp_path: Path) -> None:
    place, vault = await make_vault(tmp_path)
    for attempt in (place.unlock, prove):
        vault.lock()
        with pytest.raises(WrongPassphraseError):
            await attempt(vault, OTHER)
        with pytest.raises(NotFoundError):
            await attempt(vault, PASSPHRASE, "passphrase-7")
        assert (vault.state, place.arena.in_use) == (LOCKED, 0)
    await place.unlock(vault)
    with pytest.raises(BadRequestError, match="unlocked already"):
        await place.unlock(vault)
    vault.close()


async def prove(vault: Vault, passphrase: str, slot: str | None = None) -> str:
    arena = Arena(1 << 16)
    with arena.take(len(passphrase)) as given:
        given.view[:] = passphrase.encode()
        return await vault.prove(given, slot)


async def test_proof_opens_nothing(tmp_path: Path) -> None:
    place, vault = await make_vault(tmp_path)
    assert await prove(vault, PASSPHRASE) == "passphrase"
    vault.lock()
    assert await prove(vault, PASSPHRASE, "passphrase") == "passphrase"
    assert (vault.state, place.arena.in_use) == (LOCKED, 0)
    vault.close()


async def test_a_slot_with_the_key_of_another_vault_is_refused(tmp_path: Path) -> None:
    """Whoever can write the file cannot make us believe in a vault of their own."""
    place, vault = await make_vault(tmp_path / "one")
    _, other = await make_vault(tmp_path / "other", OTHER)
    line = other._catalog.slots["passphrase"]  # pyright: ignore[reportPrivateUsage]
    vault.lock()
    vault._catalog = Catalog({"passphrase": line})  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(CorruptError, match="another vault"):
        await place.unlock(vault, OTHER)
    assert (vault.state, place.arena.in_use) == (LOCKED, 0)
    vault.close()
    other.close()


async def test_a_slot_that_costs_less_than_allowed_is_refused(tmp_path: Path) -> None:
    place, vault = await make_vault(tmp_path)
    vault.lock()
    vault._min_log_n = CHEAP + 1  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(CorruptError, match="log_n 1"):
        await place.unlock(vault)
    vault.close()


async def test_a_slot_of_another_type_is_opened_by_no_passphrase(tmp_path: Path) -> None:
    place, vault = await make_vault(tmp_path)
    phone = Line.of(vault._need().line("slot/phone", 1, '{"type":"nip46"}'))  # pyright: ignore[reportPrivateUsage]
    vault._catalog.add(phone)  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(BadRequestError, match="no passphrase opens slot phone"):
        await prove(vault, PASSPHRASE, "phone")
    vault.close()
    assert place.arena.in_use == 0


async def test_grants_that_cannot_be_opened_keep_it_locked(tmp_path: Path) -> None:
    place, vault = await make_vault(tmp_path / "one")
    _, other = await make_vault(tmp_path / "other")
    seal = other._need()  # pyright: ignore[reportPrivateUsage]
    content = agent_content(Agent("cobot", Selectors(uids=[1])), seal)
    vault._catalog.add(Line.of(seal.line("agent/cobot", 1, content)))  # pyright: ignore[reportPrivateUsage]
    vault.lock()
    with pytest.raises(CorruptError, match="agent cobot"):
        await place.unlock(vault)
    assert (vault.state, place.arena.in_use) == (LOCKED, 0)
    vault.close()
    other.close()


async def test_an_init_that_finds_no_memory_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> str:
        raise InternalError("no memory for scrypt")

    place = Place(tmp_path)
    with place.opened() as vault:
        with monkeypatch.context() as patch:
            patch.setattr(passphrases, "make", no_memory)
            with pytest.raises(InternalError):
                await place.init(vault)
        assert (vault.state, place.arena.in_use) == (UNINITIALIZED, 0)
        await place.init(vault)


@pytest.mark.parametrize("dead", [False, True])
async def test_each_call_of_an_init_that_fails(tmp_path: Path, dead: bool) -> None:
    """A restart finds no vault, or a whole one."""
    files = FaultyFiles()
    for at in range(1, 16):
        place = Place(tmp_path / str(at), files)
        with place.opened() as vault:
            files.fail(at, dead=dead)
            with pytest.raises(StorageFailedError):
                await place.init(vault)
            assert (vault.state, place.arena.in_use) == (UNINITIALIZED, 0)
            files.heal()
        with place.opened() as vault:
            await (place.init(vault) if vault.state == UNINITIALIZED else place.unlock(vault))
            await place.put(vault, A="1")


# --- all at once --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True])
async def test_lock_discards_an_unlock_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    """Whether its key has been derived by then or not, and whatever the passphrase has become."""
    place, vault = await make_vault(tmp_path)
    vault.lock()
    gate = Gate(monkeypatch, passphrases, "open_key", after=after)

    async def locked_meanwhile() -> None:
        with pytest.raises(LockedError, match="meanwhile"):
            await place.unlock(vault)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(locked_meanwhile)
        await gate.reached.wait()
        assert vault.state == UNLOCKING
        nursery.start_soon(locked_meanwhile)
        nursery.start_soon(locked_meanwhile)  # which waits for the two
        await trio.testing.wait_all_tasks_blocked()
        vault.lock()
        assert vault.state == LOCKED
        gate.go.set()
    assert (vault.state, place.arena.in_use) == (LOCKED, 0)
    await place.unlock(vault)
    vault.close()


WRONG, WRONG_TOO = "not the passphrase", "not the passphrase either"


class Unlocks:
    """Unlocks of a vault with two passphrases, each known by its own, which go on when they are told to."""

    def __init__(self, place: Place, vault: Vault, nursery: trio.Nursery) -> None:
        self._place, self._vault, self._nursery = place, vault, nursery
        self._token = trio.lowlevel.current_trio_token()
        self._begun: dict[str, trio.Event] = {}
        self._go: dict[str, threading.Event] = {}
        self._ended: dict[str, trio.Event] = {}
        self._outcome: dict[str, str] = {}

    def held(
        self, arena: Arena, catalog: Catalog, public: str, passphrase: Slot, *rest: Any, **also: Any
    ) -> Any:
        """Derive, then wait; in place of `open_slot`."""
        text = bytes(passphrase.view).decode()
        try:
            return open_slot(arena, catalog, public, passphrase, *rest, **also)
        finally:
            self._token.run_sync_soon(self._begun[text].set)
            assert self._go[text].wait(60)

    async def begin(self, passphrase: str) -> None:
        """Begin one; return when its thread waits."""
        self._begun[passphrase], self._ended[passphrase] = trio.Event(), trio.Event()
        self._go[passphrase] = threading.Event()
        self._nursery.start_soon(self._unlock, passphrase)
        await self._begun[passphrase].wait()

    async def _unlock(self, passphrase: str) -> None:
        try:
            self._outcome[passphrase] = await self._place.unlock(self._vault, passphrase)
        except AvaultError as error:
            self._outcome[passphrase] = error.code
        self._ended[passphrase].set()

    def key(self) -> SecretKey:
        """Return the vault's key."""
        content = self._vault.slot_content("passphrase")
        with self._place.secret(PASSPHRASE) as given:
            return passphrases.open_key(self._place.arena, content, given, min_log_n=CHEAP)

    async def finish(self, passphrase: str) -> str:
        """Let it go on; return the slot that it opened, or the code of its error."""
        self._go[passphrase].set()
        await self._ended[passphrase].wait()
        return self._outcome[passphrase]


@asynccontextmanager
async def unlocks(tmp_path: Path) -> AsyncGenerator[tuple[Vault, Unlocks]]:
    place, vault = await make_vault(tmp_path)
    with place.secret(OTHER) as other:
        assert await vault.add_passphrase(other, CHEAP) == "passphrase-2"
    vault.lock()
    with pytest.MonkeyPatch.context() as patch:
        async with trio.open_nursery() as nursery:
            them = Unlocks(place, vault, nursery)
            patch.setattr(door, "open_slot", them.held)
            yield vault, them
    vault.close()
    assert place.arena.in_use == 0


@pytest.mark.parametrize(
    ("first", "then", "second", "at_last"),
    [
        ((WRONG, "wrong_passphrase"), UNLOCKING, (PASSPHRASE, "passphrase"), UNLOCKED),
        ((PASSPHRASE, "passphrase"), UNLOCKED, (WRONG, "wrong_passphrase"), UNLOCKED),
        ((PASSPHRASE, "passphrase"), UNLOCKED, (OTHER, "bad_request"), UNLOCKED),
        ((WRONG, "wrong_passphrase"), UNLOCKING, (WRONG_TOO, "wrong_passphrase"), LOCKED),
    ],
)
async def test_of_two_unlocks_the_first_that_succeeds_opens_the_vault(
    tmp_path: Path, first: tuple[str, str], then: str, second: tuple[str, str], at_last: str
) -> None:
    """Whoever guesses cannot have the owner refused, or wait; and who comes too late is told that it is done."""
    async with unlocks(tmp_path) as (vault, them):
        await them.begin(second[0])
        await them.begin(first[0])
        assert vault.state == UNLOCKING
        assert (await them.finish(first[0]), vault.state) == (first[1], then)
        assert (await them.finish(second[0]), vault.state) == (second[1], at_last)


@pytest.mark.parametrize(
    ("passphrase", "outcome", "state"),
    [(WRONG, "wrong_passphrase", LOCKED), (OTHER, "passphrase-2", UNLOCKED)],
)
@pytest.mark.parametrize("last", [False, True])
async def test_an_unlock_from_before_a_lock_does_not_count_among_those_after_it(
    tmp_path: Path, passphrase: str, outcome: str, state: str, last: bool
) -> None:
    async with unlocks(tmp_path) as (vault, them):
        await them.begin(PASSPHRASE)
        vault.lock()
        await them.begin(passphrase)
        if last:
            assert (await them.finish(passphrase), vault.state) == (outcome, state)
            assert (await them.finish(PASSPHRASE), vault.state) == ("locked", state)
        else:
            assert (await them.finish(PASSPHRASE), vault.state) == ("locked", UNLOCKING)
            assert (await them.finish(passphrase), vault.state) == (outcome, state)


async def test_an_unlock_by_a_key_waits_for_nobody(tmp_path: Path) -> None:
    async with unlocks(tmp_path) as (vault, them):
        await them.begin(WRONG)
        vault.unlock_with(them.key(), "passphrase")
        assert vault.state == UNLOCKED
        assert (await them.finish(WRONG), vault.state) == ("wrong_passphrase", UNLOCKED)


@pytest.mark.parametrize("after", [False, True])
async def test_lock_during_init_leaves_no_vault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    place = Place(tmp_path)
    with place.opened() as vault:
        gate = Gate(monkeypatch, passphrases, "make", after=after)

        async def locked_meanwhile() -> None:
            with pytest.raises(LockedError, match="meanwhile"):
                await place.init(vault)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(locked_meanwhile)
            await gate.reached.wait()
            vault.lock()
            with pytest.raises(BadRequestError):
                await place.init(vault)
            gate.go.set()
        assert (vault.state, place.file.exists(), place.arena.in_use) == (UNINITIALIZED, False, 0)
        await place.init(vault)
        assert vault.state == UNLOCKED


async def test_lock_after_init_has_signed_leaves_a_locked_vault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path)
    with place.opened() as vault:
        gate = Gate(monkeypatch, LogFile, "replace")

        async def locked_at_once() -> None:
            with pytest.raises(LockedError, match="at once"):
                await place.init(vault)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(locked_at_once)
            await gate.reached.wait()
            vault.lock()
            gate.go.set()
        assert (vault.state, place.arena.in_use) == (LOCKED, 0)
        await place.unlock(vault)


async def test_lock_before_a_commit_is_signed_leaves_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, vault = await make_vault(tmp_path)
    await place.put(vault, A="old")
    before = place.file.read_bytes()
    gate = Gate(monkeypatch, passphrases, "is_utf8")
    monkeypatch.setattr("avault_daemon.vault.draft.is_utf8", passphrases.is_utf8)

    async def locked_meanwhile() -> None:
        with pytest.raises(LockedError):
            await place.put(vault, A="new")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(locked_meanwhile)
        await gate.reached.wait()
        vault.lock()
        monkeypatch.undo()
        await place.unlock(vault)  # another key of the same vault: the old transaction must not find it
        gate.go.set()
    assert place.file.read_bytes() == before
    assert value_of(vault, "A") == "old"
    vault.close()
    assert place.arena.in_use == 0


async def test_lock_after_a_commit_was_signed_lets_it_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, vault = await make_vault(tmp_path)
    gate = Gate(monkeypatch, LogFile, "append")

    async def stored() -> None:
        assert await place.put(vault, A="new") == [("A", 1)]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stored)
        await gate.reached.wait()
        vault.lock()
        gate.go.set()
    assert (vault.state, vault.count, place.arena.in_use) == (LOCKED, 1, 0)
    await place.unlock(vault)
    assert value_of(vault, "A") == "new"
    vault.close()


async def test_what_came_before_a_lock_is_not_used_after_the_next_unlock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A put that waits for its turn holds a value in the arena, which lock() has turned to zeroes."""
    place, vault = await make_vault(tmp_path)
    gate = Gate(monkeypatch, LogFile, "append")

    async def refused() -> None:
        with pytest.raises(LockedError, match="meanwhile"):
            await place.put(vault, B="2")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(place.put, vault, A="1"))
        await gate.reached.wait()
        nursery.start_soon(refused)
        await trio.testing.wait_all_tasks_blocked()
        vault.lock()
        await place.unlock(vault)
        gate.go.set()
    assert [info.name for info in await vault.secrets()] == ["A"]
    vault.close()


async def test_two_derivations_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, vault = await make_vault(tmp_path)
    most = running = 0
    both = threading.Barrier(2)
    original = passphrases.open_key

    def counted(arena: Arena, content: str, passphrase: Slot, *, min_log_n: int) -> object:
        nonlocal most, running
        running += 1
        most = max(most, running)
        both.wait(60)
        key = original(arena, content, passphrase, min_log_n=min_log_n)
        running -= 1
        return key

    monkeypatch.setattr(passphrases, "open_key", counted)
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(prove, vault, PASSPHRASE)
    assert most == 2
    vault.close()


async def test_an_unlock_that_is_cancelled_while_it_waits_was_never_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, vault = await make_vault(tmp_path)
    vault.lock()
    gate = Gate(monkeypatch, passphrases, "open_key")
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(prove, vault, PASSPHRASE)
        await gate.reached.wait()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as waiting:
                waiting.start_soon(place.unlock, vault)
                await trio.testing.wait_all_tasks_blocked()
                assert vault.state == UNLOCKING
                scope.cancel()
        assert vault.state == LOCKED
        gate.go.set()
    vault.close()
    assert place.arena.in_use == 0


# --- a file that cannot be used -----------------------------------------------------------------------------------


def damage(place: Place) -> None:
    raw = place.file.read_bytes()
    place.file.write_bytes(raw.replace(b"ncryptsec1", b"ncryptsec2", 1))


def roll_back(place: Place) -> None:
    place.file.unlink()


def spoil_the_anchor(place: Place) -> None:
    place.anchor_file.write_bytes(b"{}")


@pytest.mark.parametrize(
    ("spoil", "error"), [(damage, CorruptError), (roll_back, RollbackError), (spoil_the_anchor, CorruptError)]
)
async def test_a_file_that_cannot_be_used(
    tmp_path: Path, spoil: Callable[[Place], None], error: type[AvaultError]
) -> None:
    place, vault = await make_vault(tmp_path)
    await place.put(vault, A="1")
    vault.close()
    copy = place.file.read_bytes()
    spoil(place)
    vault = place.vault()
    with pytest.raises(error) as caught:
        vault.open()
    assert (vault.state, vault.fault, vault.count, vault.slots()) == (LOCKED, caught.value, 0, [])
    assert vault.warnings == [caught.value.message]
    assert dict(vault.policy.agents) == {}
    for attempt in (place.unlock, prove):
        with pytest.raises(error):
            await attempt(vault, PASSPHRASE)
    with pytest.raises(error):
        vault.value("A")
    with pytest.raises(BadRequestError):
        await place.init(vault)
    vault.lock()
    await restored(place, vault, copy, tmp_path)
    assert (vault.state, vault.fault, value_of(vault, "A")) == (UNLOCKED, None, "1")
    vault.close()
    with place.opened() as vault:
        await place.unlock(vault)


async def restored(place: Place, vault: Vault, copy: bytes, path: Path) -> None:
    (path / "copy").write_bytes(copy)
    with (path / "copy").open("rb") as file, place.secret(PASSPHRASE) as slot:
        await vault.restore_vault(file.fileno(), slot)


async def test_a_vault_without_an_anchor_is_used_and_that_is_said(tmp_path: Path) -> None:
    place, vault = await make_vault(tmp_path)
    vault.close()
    place.anchor_file.unlink()
    with place.opened() as vault:
        assert ["first use" in warning for warning in vault.warnings] == [True]
        await place.unlock(vault)


async def test_unlock_without_a_vault(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with place.opened() as vault:
        for attempt in (place.unlock, prove):
            with pytest.raises(UninitializedError):
                await attempt(vault, PASSPHRASE)


# --- proof for a file that cannot be used ---------------------------------------------------------------------------


def damage_a_secret(place: Place) -> None:
    lines = place.file.read_bytes().splitlines(keepends=True)
    place.file.write_bytes(b"".join([*lines[:2], lines[2].replace(b'"kind":', b'"kinds":'), *lines[3:]]))


async def damaged(tmp_path: Path, spoil: Callable[[Place], None]) -> tuple[Place, Vault, Path, Path]:
    """Return a vault that has come to harm; its file as it was; and an export, which `OTHER` opens."""
    place, vault = await make_vault(tmp_path)
    await place.put(vault, A="1")
    export, good = tmp_path / "export", tmp_path / "good"
    with export.open("wb") as file, place.secret(OTHER) as given:
        await vault.export(file.fileno(), given, CHEAP)
    vault.close()
    good.write_bytes(place.file.read_bytes())
    spoil(place)
    vault = place.vault()
    with pytest.raises(AvaultError):
        vault.open()
    return place, vault, good, export


async def put_back(place: Place, vault: Vault, path: Path, passphrase: str, *, proven: bool) -> str:
    with path.open("rb") as file, place.secret(passphrase) as given:
        return await vault.restore_vault(file.fileno(), given, proven=proven)


async def test_the_slots_that_are_left_prove(tmp_path: Path) -> None:
    place, vault, _, export = await damaged(tmp_path, damage_a_secret)
    assert [slot.id for slot in vault.slots()] == ["passphrase"]
    assert await prove(vault, PASSPHRASE) == "passphrase"
    with pytest.raises(WrongPassphraseError):
        await prove(vault, OTHER)
    with pytest.raises(CorruptError, match="line 3"):
        await place.unlock(vault)
    with pytest.raises(ProofRequiredError, match="another key"):
        await put_back(place, vault, export, OTHER, proven=False)
    assert (vault.state, vault.fault is None) == (LOCKED, False)
    assert await put_back(place, vault, export, OTHER, proven=True) == "passphrase"
    assert (vault.state, vault.fault, value_of(vault, "A")) == (UNLOCKED, None, "1")
    vault.close()


@pytest.mark.parametrize("spoil", [damage_a_secret, damage, roll_back])
async def test_a_file_under_the_very_key_needs_no_other_proof_than_its_passphrase(
    tmp_path: Path, spoil: Callable[[Place], None]
) -> None:
    place, vault, good, _ = await damaged(tmp_path, spoil)
    with pytest.raises(WrongPassphraseError):
        await put_back(place, vault, good, OTHER, proven=False)
    await put_back(place, vault, good, PASSPHRASE, proven=False)
    assert (vault.state, value_of(vault, "A")) == (UNLOCKED, "1")
    with pytest.raises(ProofRequiredError):  # it is of use now, and so it needs proof
        await put_back(place, vault, good, PASSPHRASE, proven=False)
    vault.close()


@pytest.mark.parametrize("spoil", [damage, roll_back, spoil_the_anchor])
async def test_where_nothing_is_left_to_prove_by_that_is_said(
    tmp_path: Path, spoil: Callable[[Place], None]
) -> None:
    place, vault, good, export = await damaged(tmp_path, spoil)
    assert vault.slots() == []
    for copy, passphrase in ((export, OTHER), *([(good, PASSPHRASE)] if spoil is spoil_the_anchor else [])):
        with pytest.raises(AvaultError, match="nothing is left of it to prove by") as caught:
            await put_back(place, vault, copy, passphrase, proven=False)
        assert isinstance(vault.fault, type(caught.value))
        assert caught.value.hint == (
            f"move {place.file} and {place.anchor_file} away, restart avaultd, and restore it then"
        )
    vault.close()
    place.file.unlink(missing_ok=True)
    place.anchor_file.unlink()
    with place.opened() as vault:
        await put_back(place, vault, export, OTHER, proven=False)
        assert value_of(vault, "A") == "1"


async def test_one_copy_may_be_offered_twice(tmp_path: Path) -> None:
    """The command does: it cannot know before whether proof is needed."""
    place, vault, _, export = await damaged(tmp_path, damage_a_secret)
    with export.open("rb") as file, place.secret(OTHER) as given:
        with pytest.raises(ProofRequiredError):
            await vault.restore_vault(file.fileno(), given, proven=False)
        await vault.restore_vault(file.fileno(), given)
    assert vault.unlocked
    vault.close()
