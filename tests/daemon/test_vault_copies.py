"""Another key for the same content: rekey, export, and the way back."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from avault_daemon.callers.policy import Agent, Policy, Selectors
from avault_daemon.memory.arena import Arena
from avault_daemon.slots import passphrase as passphrases
from avault_daemon.vault import Vault, door
from avault_daemon.vault.catalog import Catalog
from avault_daemon.vault.draft import Draft
from avault_daemon.vault.eventlog import Chain, Line, Log
from avault_daemon.vault.logfile import LogFile
from avault_daemon.vault.seal import Seal, SecretInfo
from avault_protocol import (
    LOCKED,
    UNINITIALIZED,
    UNLOCKED,
    AuditFailedError,
    AvaultError,
    BadRequestError,
    BusyError,
    CorruptError,
    LockedError,
    NotFoundError,
    RollbackError,
    StorageFailedError,
    WrongPassphraseError,
)
from support.faults import FaultyFiles
from support.gates import Gate
from support.vaults import CHEAP, PASSPHRASE, Place, make_vault, value_of

COBOT = Agent("cobot", Selectors(units=["cobot.service"])).with_grants("telegram", ["A", "B"])
NEW = "a new passphrase"


class House:
    """A vault with two secrets, versions of one of them, and an agent."""

    def __init__(self, place: Place, vault: Vault, path: Path) -> None:
        self.place = place
        self.vault = vault
        self.path = path
        self.heard: list[tuple[str, object]] = []

    async def fill(self) -> None:
        for number in range(1, 6):
            await self.place.put(self.vault, A=f"value {number}")
        await self.place.put(self.vault, B=b"AAEC")
        await self.vault.put_agent(COBOT)
        self.vault.listeners.append(lambda event, detail: self.heard.append((event, detail.get("new"))))

    async def rekey(self, passphrase: str = NEW, slot: str = "passphrase") -> list[str]:
        with self.place.secret(passphrase) as given:
            return await self.vault.rekey(given, CHEAP, slot)

    async def export(self, name: str = "copy", passphrase: str = NEW) -> Path:
        path = self.path / name
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            with self.place.secret(passphrase) as given:
                await self.vault.export(fd, given, CHEAP)
        finally:
            os.close(fd)
        return path

    async def restore(self, path: Path, passphrase: str = NEW) -> None:
        with path.open("rb") as file, self.place.secret(passphrase) as given:
            await self.vault.restore_vault(file.fileno(), given)

    async def restored(self, path: Path, passphrase: str = NEW, *, locked: bool = False) -> None:
        """Restore; where it is *locked* meanwhile that is said."""
        with pytest.raises(LockedError, match="at once") if locked else nullcontext():
            await self.restore(path, passphrase)

    @asynccontextmanager
    async def unlocking_in_vain(self, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[None]:
        """Have an unlock under way, as long as the block lasts, that comes to nothing: the vault was locked meanwhile."""
        gate = Gate(monkeypatch, door, "open_slot", after=True)

        async def discarded() -> None:
            with pytest.raises(LockedError, match="meanwhile"):
                await self.place.unlock(self.vault)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(discarded)
            await gate.reached.wait()
            yield
            gate.go.set()

    def reopen(self) -> Vault:
        self.vault.close()
        self.vault = self.place.vault()
        self.vault.open()
        return self.vault


@pytest.fixture
async def house(tmp_path: Path) -> AsyncGenerator[House]:
    place, vault = await make_vault(tmp_path)
    house = House(place, vault, tmp_path)
    await house.fill()
    yield house
    house.vault.close()
    assert place.arena.in_use == 0


def check_content(vault: Vault) -> None:
    assert [info.version for info in vault.history("A")] == [5, 4, 3, 2]
    assert [value_of(vault, "A", version) for version in (5, 2)] == ["value 5", "value 2"]
    value = vault.value("B")
    assert (value.encoding, value.version, bytes(value.view)) == ("base64", 1, b"AAEC")
    assert vault.policy.agents == {"cobot": COBOT}


# --- rekey --------------------------------------------------------------------------------------------------------


async def test_rekey_leaves_nothing_that_the_old_key_or_passphrase_opens(house: House) -> None:
    with house.place.secret("second passphrase") as given:
        await house.vault.add_passphrase(given, CHEAP)
    old = house.place.file.read_bytes()
    public, created = house.vault.public, [info.created for info in house.vault.history("A")]
    assert await house.rekey(slot="passphrase-2") == ["passphrase"]
    assert house.vault.public is not None
    assert house.vault.public != public
    assert house.heard[0] == ("key", house.vault.public.hex())
    new = house.place.file.read_bytes()
    assert not set(old.splitlines()) & set(new.splitlines())
    assert not {line.d for line in Log(old).lines if "/" not in line.d} & {line.d for line in Log(new).lines}
    check_content(house.vault)
    assert [info.created for info in house.vault.history("A")] == created
    vault = house.reopen()
    for passphrase in (PASSPHRASE, "second passphrase"):
        with pytest.raises(WrongPassphraseError):
            await house.place.unlock(vault, passphrase)
    assert await house.place.unlock(vault, NEW) == "passphrase-2"
    check_content(vault)
    await house.place.put(vault, A="value 6")


async def test_rekey_continues_the_generations(house: House) -> None:
    before = house.vault.generation
    old_head = Log(house.place.file.read_bytes()).chain.head
    assert old_head is not None
    await house.rekey()
    assert house.vault.generation == before + 1
    assert f'compacted_from\\":\\"{old_head.id}'.encode() in house.place.file.read_bytes()


async def test_an_old_copy_is_refused_after_rekey(house: House) -> None:
    old = house.place.file.read_bytes()
    await house.rekey()
    house.vault.close()
    house.place.file.write_bytes(old)
    with pytest.raises(CorruptError, match="another key"):
        house.reopen()


async def test_rekey_of_no_such_slot(house: House) -> None:
    with pytest.raises(NotFoundError):
        await house.rekey(slot="passphrase-2")
    assert house.heard == []


async def test_a_listener_can_stop_rekey(house: House) -> None:
    """The record must be able to say which key comes next before it comes."""

    def refuse(event: str, detail: dict[str, object]) -> None:
        if event == "key":
            house.vault.sign(bytes(32))
            raise AuditFailedError

    house.vault.listeners.append(refuse)
    before = house.place.file.read_bytes()
    with pytest.raises(AuditFailedError):
        await house.rekey()
    assert house.place.file.read_bytes() == before
    house.vault.listeners.clear()
    house.vault.sign(bytes(32))
    check_content(house.vault)
    check_content_after = house.reopen()
    await house.place.unlock(check_content_after)


async def test_nothing_is_signed_between_the_announcement_of_a_key_and_its_use(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = LogFile.replace

    def replace(file: LogFile, data: bytes) -> object:
        with pytest.raises(BusyError):
            trio.from_thread.run_sync(house.vault.sign, bytes(32))
        return original(file, data)

    monkeypatch.setattr(LogFile, "replace", replace)
    await house.rekey()
    house.vault.sign(bytes(32))


async def test_rekey_once_begun_is_finished(house: House) -> None:
    """Cancelled between the announcement of the key and its use, it goes on."""
    with trio.CancelScope() as scope:
        house.vault.listeners.append(lambda event, _: scope.cancel() if event == "key" else None)
        await house.rekey()
    house.reopen()
    await house.place.unlock(house.vault, NEW)


@pytest.mark.parametrize("step", ["key", "write"])
async def test_lock_during_rekey(house: House, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Before the commit is signed the old vault stays; after it the new one is there, locked."""
    if step == "key":
        house.vault.listeners.append(lambda event, _: house.vault.lock() if event == "key" else None)
        with pytest.raises(LockedError):
            await house.rekey()
        passphrase = PASSPHRASE
    else:
        original = LogFile.replace

        def replace(file: LogFile, data: bytes) -> object:
            trio.from_thread.run_sync(house.vault.lock)
            return original(file, data)

        monkeypatch.setattr(LogFile, "replace", replace)
        await house.rekey()
        passphrase = NEW
    assert (house.vault.state, house.place.arena.in_use) == (LOCKED, 0)
    await house.place.unlock(house.vault, passphrase)
    check_content(house.vault)
    await house.place.unlock(house.reopen(), passphrase)


# --- export and restore -------------------------------------------------------------------------------------------


async def test_a_copy_is_a_vault_of_its_own(house: House) -> None:
    before, public = house.place.file.read_bytes(), house.vault.public
    path = await house.export()
    assert house.place.file.read_bytes() == before
    log = Log(path.read_bytes(), strict=True)
    assert sorted(log.commits) == [1]
    assert [line.d for line in log.lines if line.d.startswith("slot/")] == ["slot/passphrase"]
    assert public is not None
    assert log.chain.public != public.hex()
    assert not set(before.splitlines()) & set(path.read_bytes().splitlines())


async def test_two_copies_share_nothing(house: House) -> None:
    one, two = [(await house.export(name)).read_bytes() for name in ("one", "two")]
    assert not set(one.splitlines()) & set(two.splitlines())


@pytest.mark.parametrize("locked", [False, True])
async def test_a_copy_comes_back(house: House, locked: bool) -> None:
    path = await house.export()
    await house.vault.rm("B")
    if locked:
        house.vault.lock()
    house.heard.clear()
    await house.restore(path)
    assert house.vault.state == UNLOCKED
    assert [event for event, _ in house.heard if event in ("key", "unlocked")] == ["key", "unlocked"]
    check_content(house.vault)
    await house.place.put(house.vault, C="3")
    await house.place.unlock(house.reopen(), NEW)
    check_content(house.vault)


async def test_a_copy_makes_a_vault_where_there_is_none(house: House, tmp_path: Path) -> None:
    path = await house.export()
    place = Place(tmp_path / "elsewhere")
    with place.opened() as vault:
        other = House(place, vault, tmp_path)
        await other.restore(path)
        check_content(vault)
    with place.opened() as vault:
        assert (vault.state, vault.warnings) == (LOCKED, [])


async def test_an_older_file_comes_back(house: House, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_bytes(house.place.file.read_bytes())
    await house.vault.rm("A")
    house.vault.close()
    house.place.file.write_bytes(old.read_bytes())
    house.vault = house.place.vault()
    with pytest.raises(RollbackError):
        house.vault.open()
    await house.restore(old, PASSPHRASE)
    check_content(house.vault)
    await house.place.put(house.vault, A="value 6")
    await house.place.unlock(house.reopen())


async def test_an_unlock_under_way_is_not_of_the_vault_that_was_restored(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began before the copy was put in place, with a slot of the vault before; nor does it hold that up."""
    path = await house.export()
    house.vault.lock()
    async with house.unlocking_in_vain(monkeypatch):
        await house.restore(path)
        assert house.vault.state == UNLOCKED
    assert house.vault.state == UNLOCKED
    check_content(house.vault)


async def test_an_unlock_that_is_done_before_the_copy_is_in_place_is_over_then(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await house.export()
    house.vault.lock()
    unlock, write = Gate(monkeypatch, door, "open_slot"), Gate(monkeypatch, LogFile, "replace")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.place.unlock, house.vault)
        await unlock.reached.wait()
        nursery.start_soon(house.restore, path)
        await write.reached.wait()
        unlock.go.set()
        while house.vault.locked:
            await trio.testing.wait_all_tasks_blocked()
        check_content(house.vault)
        write.go.set()
    assert [event for event, _ in house.heard][:4] == ["locked", "key", "unlocked", "policy"]
    assert house.heard[-1] == ("unlocked", None)
    check_content(house.vault)


@pytest.mark.parametrize("step", ["rekey", "restore"])
async def test_nobody_unlocks_between_the_announcement_of_a_key_and_its_use(
    house: House, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """It would be with the key that was, and the catalog of the other."""
    path = await house.export()
    with house.place.secret(PASSPHRASE) as given:
        content = house.vault.slot_content("passphrase")
        key = passphrases.open_key(Arena(1 << 16), content, given, min_log_n=CHEAP)
    gate = Gate(monkeypatch, LogFile, "replace", after=True)

    async with trio.open_nursery() as nursery:
        if step == "rekey":
            nursery.start_soon(house.rekey)
        else:
            nursery.start_soon(partial(house.restored, path, locked=True))
        await gate.reached.wait()
        with house.place.secret(PASSPHRASE) as given, pytest.raises(BusyError, match="being replaced"):
            await house.vault.prove(given)
        house.vault.lock()
        with pytest.raises(BusyError, match="being replaced"):
            await house.place.unlock(house.vault)
        with pytest.raises(BusyError, match="being replaced"):
            house.vault.unlock_with(key, "passphrase")
        gate.go.set()
    assert house.vault.state == LOCKED
    await house.place.unlock(house.vault, NEW)
    check_content(house.vault)


async def test_a_copy_that_is_in_place_and_cannot_be_entered_leaves_it_locked(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await house.export()
    house.vault.lock()
    policy, replace = Catalog.policy, LogFile.replace

    def full(catalog: Catalog, seal: Seal | None) -> Policy:
        if seal is not None:
            raise BusyError("the arena is full")
        return policy(catalog, seal)

    def replace_and_fill(file: LogFile, data: bytes) -> object:
        monkeypatch.setattr(Catalog, "policy", full)
        return replace(file, data)

    async with house.unlocking_in_vain(monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(LogFile, "replace", replace_and_fill)
            with pytest.raises(BusyError, match="full"):
                await house.restore(path)
        assert house.vault.state == LOCKED
    assert house.vault.state == LOCKED
    monkeypatch.undo()
    await house.place.unlock(house.vault, NEW)
    check_content(house.vault)


async def test_lock_while_a_copy_takes_its_place(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    path = await house.export()
    original = LogFile.replace

    def replace(file: LogFile, data: bytes) -> object:
        trio.from_thread.run_sync(house.vault.lock)
        return original(file, data)

    for state in (UNLOCKED, UNINITIALIZED):
        if state == UNINITIALIZED:
            house.vault.close()
            house.place = Place(house.path / "elsewhere")
            house.vault = house.place.vault()
            house.vault.open()
        assert house.vault.state == state
        with monkeypatch.context() as patch:
            patch.setattr(LogFile, "replace", replace)
            with pytest.raises(LockedError, match="at once"):
                await house.restore(path)
        assert (house.vault.state, house.place.arena.in_use) == (LOCKED, 0)
        await house.place.unlock(house.vault, NEW)
        check_content(house.vault)


@pytest.mark.parametrize("step", ["rekey", "export"])
async def test_lock_while_all_is_sealed_anew(
    house: House, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = house.place.file.read_bytes()
    gate = Gate(monkeypatch, passphrases, "make", after=True)

    async def locked_meanwhile() -> None:
        with pytest.raises(LockedError, match="meanwhile"):
            await (house.rekey() if step == "rekey" else house.export())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(locked_meanwhile)
        await gate.reached.wait()
        house.vault.lock()
        gate.go.set()
    assert (house.vault.state, house.place.arena.in_use) == (LOCKED, 0)
    assert house.place.file.read_bytes() == before


async def test_one_restore_at_a_time(house: House) -> None:
    """The second was proven for the vault that is no more."""
    one, two = await house.export("one"), await house.export("two")

    async def late() -> None:
        with pytest.raises(BusyError, match="another meanwhile"):
            await house.restore(two)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.restore, one)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(late)
    log = Log(one.read_bytes())
    assert house.vault.public is not None
    assert house.vault.public.hex() == log.chain.public


@pytest.mark.parametrize("locked", [False, True])
async def test_an_init_that_waits_for_a_restore_comes_too_late(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locked: bool
) -> None:
    """Where both are ended by a lock, there is the file, which is a vault, and locked."""
    path = await house.export()
    place = Place(tmp_path / "elsewhere")
    gate = Gate(monkeypatch, LogFile, "replace")

    async def late(vault: Vault) -> None:
        with pytest.raises(BusyError, match="meanwhile"):
            await place.init(vault)

    with place.opened() as vault:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(House(place, vault, tmp_path).restored, path, locked=locked))
            await gate.reached.wait()
            nursery.start_soon(late, vault)
            await trio.testing.wait_all_tasks_blocked()
            if locked:
                vault.lock()
            gate.go.set()
        assert vault.state == (LOCKED if locked else UNLOCKED)
        if locked:
            await place.unlock(vault, NEW)
        check_content(vault)


@pytest.mark.parametrize("locked", [False, True])
async def test_a_restore_that_waits_for_another_of_the_same_key_comes_too_late(
    house: House, monkeypatch: pytest.MonkeyPatch, locked: bool
) -> None:
    copy = house.path / "older"
    copy.write_bytes(house.place.file.read_bytes())
    gate = Gate(monkeypatch, LogFile, "replace")

    async def late() -> None:
        with pytest.raises(LockedError, match="locked or restored meanwhile"):
            await house.restore(copy, PASSPHRASE)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(house.restored, copy, PASSPHRASE, locked=locked))
        await gate.reached.wait()
        nursery.start_soon(late)
        await trio.testing.wait_all_tasks_blocked()
        if locked:
            house.vault.lock()
        gate.go.set()
    assert house.vault.state == (LOCKED if locked else UNLOCKED)
    if locked:
        await house.place.unlock(house.vault)
    check_content(house.vault)


async def test_a_copy_that_holds_what_cannot_be_opened(house: House, tmp_path: Path) -> None:
    """Every line is signed by the copy's own key, and a secret is filed under the name of another."""
    with house.place.secret(NEW) as given:
        seal = Seal.generate(house.place.arena)
        draft = Draft(seal, Catalog(), Chain(), 1)
        draft.put_slot("passphrase", passphrases.make(house.place.arena, seal.key, given, CHEAP))
    content = seal.seal_secret(SecretInfo("A", 1, 1, "text"), memoryview(bytearray(b"x")))
    draft.catalog.add(Line.of(seal.line(seal.blind("B"), 1, content)))
    path = tmp_path / "odd"
    path.write_bytes(draft.whole(None))
    seal.close()
    assert "another name" in await check_unchanged(house, path, CorruptError)


async def check_unchanged(house: House, path: Path, error: type[AvaultError], passphrase: str = NEW) -> str:
    before, state = house.place.file.read_bytes(), house.vault.state
    with pytest.raises(error) as caught:
        await house.restore(path, passphrase)
    assert (house.place.file.read_bytes(), house.vault.state) == (before, state)
    assert [event for event, _ in house.heard] == []
    return caught.value.message


async def test_a_wrong_passphrase_leaves_all_as_it_was(house: House) -> None:
    path = await house.export()
    await check_unchanged(house, path, WrongPassphraseError, PASSPHRASE)
    house.vault.lock()
    house.heard.clear()
    await check_unchanged(house, path, WrongPassphraseError, PASSPHRASE)


async def test_every_byte_of_a_copy_counts(house: House) -> None:
    """One flip in each line, in each of its fields; one truncation; and each line's own signature."""
    path = await house.export()
    raw = path.read_bytes()
    lines = raw.splitlines(keepends=True)
    start = 0
    for line in lines:
        for offset in (10, 90, 165, 175, 230, len(line) // 2, len(line) - 9, len(line) - 1):
            index = start + offset
            path.write_bytes(raw[:index] + bytes([raw[index] ^ 1]) + raw[index + 1 :])
            assert "line" in await check_unchanged(house, path, CorruptError)
        start += len(line)
    path.write_bytes(raw[:-1])
    await check_unchanged(house, path, CorruptError)


async def test_rubbish_is_no_copy(house: House, tmp_path: Path) -> None:
    path = tmp_path / "rubbish"
    for rubbish in (b"", b"{}", os.urandom(1000), b"\n" * 100):
        path.write_bytes(rubbish)
        await check_unchanged(house, path, CorruptError)


async def test_only_a_regular_file_is_read(house: House) -> None:
    reader, writer = os.pipe()
    with house.place.secret(NEW) as given, pytest.raises(BadRequestError, match="regular file"):
        await house.vault.restore_vault(reader, given)
    os.close(reader)
    os.close(writer)


async def test_only_to_a_regular_file_is_written(house: House) -> None:
    reader, writer = os.pipe()
    with house.place.secret(NEW) as given, pytest.raises(BadRequestError, match="regular file"):
        await house.vault.export(writer, given, CHEAP)
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)


async def test_a_copy_that_cannot_be_written(house: House) -> None:
    before = house.place.file.read_bytes()
    fd = os.open(house.place.file, os.O_RDONLY)
    with house.place.secret(NEW) as given, pytest.raises(StorageFailedError, match="bad file descriptor"):
        await house.vault.export(fd, given, CHEAP)
    os.close(fd)
    assert house.place.file.read_bytes() == before
    await house.place.put(house.vault, C="3")  # the vault itself is well


# --- faults -------------------------------------------------------------------------------------------------------

KINDS = ["put", "rm", "rekey", "restore"]


async def change(house: House, kind: str, copy: Path) -> None:
    if kind == "put":
        await house.place.put(house.vault, B="new", C="new")
    elif kind == "rm":
        await house.vault.rm("B")
    elif kind == "rekey":
        await house.rekey()
    else:
        await house.restore(copy)


async def content(vault: Vault) -> dict[str, str]:
    return {info.name: value_of(vault, info.name) for info in await vault.secrets()}


OLD = {"A": "value 5", "B": "AAEC"}
AFTER = {"put": {**OLD, "B": "new", "C": "new"}, "rm": {"A": "value 5"}, "rekey": OLD, "restore": OLD}


@pytest.mark.parametrize(("code", "dead"), [(errno.EIO, False), (errno.EIO, True), (errno.ENOSPC, False)])
@pytest.mark.parametrize("kind", KINDS)
async def test_each_call_that_fails_leaves_the_old_or_the_new(
    tmp_path: Path, kind: str, code: int, dead: bool
) -> None:
    """Fail call N of each kind of write, for all N: no false acknowledgement, no mixture, nothing lost."""
    at = 0
    while True:
        at += 1
        files = FaultyFiles()
        place = Place(tmp_path / str(at), files)
        vault = place.vault()
        vault.open()
        await place.init(vault)
        house = House(place, vault, tmp_path / str(at))
        await house.fill()
        copy = await house.export()
        files.fail(at, code=code, dead=dead)
        try:
            await change(house, kind, copy)
        except StorageFailedError:
            pass
        else:
            assert len(files.calls) < at
            break
        finally:
            files.heal()
            vault.close()
        vault = house.reopen()
        assert await unlocked_by_one_of(house) in (PASSPHRASE, NEW)
        assert await content(vault) in (OLD, AFTER[kind])
        await place.put(vault, D="4")
        vault.close()
    assert at > 8


async def unlocked_by_one_of(house: House) -> str:
    try:
        await house.place.unlock(house.vault, NEW)
    except WrongPassphraseError:
        await house.place.unlock(house.vault, PASSPHRASE)
        return PASSPHRASE
    return NEW


async def test_after_a_failed_write_reading_goes_on_and_writing_does_not(tmp_path: Path) -> None:
    files = FaultyFiles()
    place = Place(tmp_path, files)
    with place.opened() as vault:
        await place.init(vault)
        await place.put(vault, A="1")
        files.fail(3)  # fdatasync
        with pytest.raises(StorageFailedError, match="outcome is unknown"):
            await place.put(vault, A="2", B="2")
        files.heal()
        assert await content(vault) == {"A": "1"}
        with pytest.raises(StorageFailedError, match="restart"):
            await place.put(vault, A="3")
        vault.lock()
        await place.unlock(vault)
        with pytest.raises(StorageFailedError):
            await vault.rm("A")
    with place.opened() as vault:
        await place.unlock(vault)
        assert await content(vault) == {"A": "2", "B": "2"}  # it had reached the disk after all
