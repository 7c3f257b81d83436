"""Keyring slots over the operator's socket: real daemon, real helper process; the keyring is a file."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import pytest

from avault_protocol import (
    BadRequestError,
    CorruptError,
    DeniedError,
    LockedError,
    NotFoundError,
    ProofRequiredError,
    StorageFailedError,
)
from support.house import LOG_N, PASSPHRASE, House, Peer, open_house
from support.keyrings import FileKeyring, file_keyring


@dataclass
class Room:
    """A daemon with a secret and a keyring."""

    house: House
    keyring: FileKeyring
    operator: Peer

    async def slots(self) -> list[str]:
        return [slot["id"] for slot in (await self.operator.call("slots"))["slots"]]

    async def lock(self) -> Peer:
        """Lock it; return a connection that has proven nothing."""
        await self.operator.call("lock")
        return await self.house.operator(proven=False)

    async def actions(self) -> list[tuple[str, str]]:
        entries = (await self.operator.call("audit"))["entries"]
        return [(entry["action"], entry["decision"]) for entry in entries]

    def name_of(self, slot: str) -> str:
        """Return the name of the item that a slot speaks of."""
        content = json.loads(self.house.core.vault.slot_content(slot))
        return f"avault/{self.house.core.places.home}: key {content['item']}"


@pytest.fixture
async def room(tmp_path: Path) -> AsyncGenerator[Room]:
    with file_keyring(tmp_path / "keyring") as keyring:
        async with open_house(tmp_path, keyring=keyring.keyring) as house:
            operator = await house.init()
            await house.put(operator, TOKEN=b"one")
            yield Room(house, keyring, operator)


async def test_it_is_added_listed_and_opens_the_vault(room: Room) -> None:
    assert await room.operator.call("keyring_add") == {"slot": "keyring"}
    slots = (await room.operator.call("slots"))["slots"]
    assert slots[1] == {"id": "keyring", "type": "keyring", "log_n": None}
    status = (await room.operator.call("status"))["keyring"]
    assert status == {"backend": "plain_keyring", "ok": True, "slots": 1}
    assert list(room.keyring.items) == [room.name_of("keyring")]
    peer = await room.lock()
    done = await peer.call("keyring_unlock")
    assert (done["already"], done["slot"]) == (False, "keyring")
    assert room.house.core.vault.unlocked
    assert (await peer.call("keyring_unlock"))["already"] is True
    assert {("keyring_add", "allowed"), ("keyring_unlock", "allowed")} <= set(await room.actions())


async def test_an_unlock_by_keyring_proves_nothing_and_adding_needs_proof(room: Room) -> None:
    await room.operator.call("keyring_add")
    peer = await room.lock()
    await peer.call("keyring_unlock")
    for method, params in (("reveal", {"name": "TOKEN"}), ("keyring_add", {})):
        with pytest.raises(ProofRequiredError):
            await peer.call(method, params)
    assert len(room.keyring.items) == 1


async def test_a_second_one_has_a_key_of_its_own(room: Room) -> None:
    for slot in ("keyring", "keyring-2"):
        assert (await room.operator.call("keyring_add"))["slot"] == slot
    assert set(room.keyring.items) == {room.name_of("keyring"), room.name_of("keyring-2")}
    assert len(set(room.keyring.items.values())) == 2
    room.house.core.keyring.keyring.delete(room.name_of("keyring").removeprefix("avault/"))
    peer = await room.lock()
    assert (await peer.call("keyring_unlock"))["slot"] == "keyring-2"


async def test_removing_it_takes_its_key_along(room: Room) -> None:
    await room.operator.call("keyring_add")
    assert await room.operator.call("slot_remove", {"slot": "keyring"}) == {"left": False}
    assert room.keyring.items == {}
    assert await room.slots() == ["passphrase"]
    with pytest.raises(NotFoundError, match="no keyring slot"):
        await (await room.lock()).call("keyring_unlock")


async def test_removing_it_says_what_is_left(room: Room) -> None:
    await room.operator.call("keyring_add")
    room.keyring.fault("locked")
    assert await room.operator.call("slot_remove", {"slot": "keyring"}) == {"left": True}
    assert await room.slots() == ["passphrase"]
    assert len(room.keyring.items) == 1


async def test_nothing_is_written_if_the_keyring_does_not_take_it(room: Room) -> None:
    room.keyring.fault("locked")
    with pytest.raises(DeniedError, match="locked"):
        await room.operator.call("keyring_add")
    room.keyring.fault("error")
    with pytest.raises(StorageFailedError):
        await room.operator.call("keyring_add")
    assert await room.slots() == ["passphrase"]
    assert ("keyring_add", "refused") in await room.actions()


async def test_nothing_stays_in_the_keyring_if_the_vault_does_not_take_it(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*arguments: object, **named: object) -> str:
        raise StorageFailedError("the disk is full")

    monkeypatch.setattr(room.house.core.vault, "add_slot", fails)
    with pytest.raises(StorageFailedError, match="full"):
        await room.operator.call("keyring_add")
    assert room.keyring.items == {}


@pytest.mark.parametrize(
    ("fault", "error"),
    [("locked", DeniedError), ("error", StorageFailedError), ("crash", StorageFailedError)],
)
async def test_an_unlock_that_fails_is_told_on_record_and_leaves_nothing(
    room: Room, fault: str, error: type[Exception]
) -> None:
    await room.operator.call("keyring_add")
    peer = await room.lock()
    room.keyring.fault(fault)
    with pytest.raises(error):
        await peer.call("keyring_unlock")
    assert room.house.core.vault.state == "locked"
    assert room.house.core.arena.in_use == 0
    assert ("keyring_unlock", "refused") in await room.actions()
    room.keyring.fault("")
    await peer.call("keyring_unlock")


async def test_a_key_that_is_gone_or_another_opens_nothing(room: Room) -> None:
    await room.operator.call("keyring_add")
    peer, name = await room.lock(), room.name_of("keyring")
    for value, error in (("ab" * 32, DeniedError), ("ab" * 31, CorruptError)):
        room.keyring.path.write_text(json.dumps({name: value}))
        with pytest.raises(error):
            await peer.call("keyring_unlock")
    room.keyring.path.write_text("{}")
    with pytest.raises(NotFoundError, match="holds nothing for slot keyring") as caught:
        await peer.call("keyring_unlock")
    assert "slot remove" in (caught.value.hint or "")
    assert room.house.core.arena.in_use == 0


async def test_without_the_helper_the_passphrase_still_opens(room: Room) -> None:
    await room.operator.call("keyring_add")
    peer = await room.lock()
    room.keyring.helper.kill()
    room.keyring.helper.wait()
    with pytest.raises(StorageFailedError, match="has ended"):
        await peer.call("keyring_unlock")
    await peer.call("unlock", {}, PASSPHRASE)
    status = await peer.call("status")
    assert status["keyring"] == {"backend": "plain_keyring", "ok": False, "slots": 1}
    assert "keyring = true, but the keyring's helper process has ended" in status["warnings"]


async def test_rekey_seals_it_anew(room: Room) -> None:
    await room.operator.call("keyring_add")
    before, vault = dict(room.keyring.items), room.house.core.vault.public
    assert (await room.operator.call("rekey", {"log_n": LOG_N}, PASSPHRASE))["dropped"] == []
    assert room.house.core.vault.public != vault
    assert room.keyring.items == before
    peer = await room.lock()
    assert (await peer.call("keyring_unlock"))["slot"] == "keyring"


async def test_rekey_drops_by_name_what_it_has_no_key_for(room: Room) -> None:
    await room.operator.call("keyring_add")
    room.keyring.fault("locked")
    assert (await room.operator.call("rekey", {"log_n": LOG_N}, PASSPHRASE))["dropped"] == ["keyring"]
    assert await room.slots() == ["passphrase"]


async def test_a_lock_while_the_keyring_is_asked(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key comes into an arena that was wiped before: what was asked in another epoch opens nothing."""
    await room.operator.call("keyring_add")
    peer, vault, keyring = await room.lock(), room.house.core.vault, room.house.core.keyring.keyring
    get = keyring.get

    def locks(*arguments: object) -> object:
        found = get(*arguments)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        vault.lock()
        return found

    monkeypatch.setattr(keyring, "get", locks)
    with pytest.raises(LockedError):
        await peer.call("keyring_unlock")
    assert (vault.state, room.house.core.arena.in_use) == ("locked", 0)


async def test_without_the_setting_a_hint_says_so(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        operator = await house.init()
        with pytest.raises(BadRequestError) as caught:
            await operator.call("keyring_add")
        assert "keyring = true" in (caught.value.hint or "")
        assert (await operator.call("status"))["keyring"] == {"backend": None, "ok": False, "slots": 0}


async def test_a_phones_tap_may_add_it_by_name_only(room: Room) -> None:
    """`phone_prove` knows the method: this daemon has no network, which is told only for methods that need proof."""
    with pytest.raises(BadRequestError, match="network"):
        await room.operator.call("phone_prove", {"action": "keyring_add"})
    with pytest.raises(BadRequestError, match="no method that needs proof"):
        await room.operator.call("phone_prove", {"action": "keyring_unlock"})
