"""Slots whose secrets lie elsewhere: added, unlocked with, renewed, and made anew by a rekey."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from avault_daemon.memory.arena import Arena
from avault_daemon.nostr.keys import SecretKey
from avault_daemon.vault import Vault
from avault_daemon.vault.copies import Reseal
from avault_protocol import BadRequestError, CorruptError, LockedError, NotFoundError
from support.vaults import CHEAP, Place, make_vault, value_of


class House:
    """A vault, and the place it is in."""

    def __init__(self, place: Place, vault: Vault) -> None:
        self.place = place
        self.vault = vault

    def raw(self) -> bytes:
        return self.place.file.read_bytes()

    async def rekey(self, reseal: Reseal) -> list[str]:
        with self.place.secret("another passphrase") as given:
            return await self.vault.rekey(given, CHEAP, "passphrase", reseal)

    async def export(self, path: Path) -> None:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            with self.place.secret("another passphrase") as given:
                await self.vault.export(fd, given, CHEAP)
        finally:
            os.close(fd)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncGenerator[House]:
    place, vault = await make_vault(tmp_path)
    yield House(place, vault)
    vault.close()
    assert place.arena.in_use == 0, "something was not given back to the arena"


def keep(slot: str, key: SecretKey) -> str:
    """Return the content of a slot of a type that this test invents: the key in the open, so that it can be compared."""
    with Arena(kind="mlock").take(32) as out:
        key.copy_to(out.address)
        shown = bytes(out.view).hex()
    return json.dumps({"type": "test", "id": slot, "key": shown}, separators=(",", ":"))


def kept_key(house: House, slot: str) -> SecretKey:
    secret = house.place.arena.take(32)
    secret.view[:] = bytes.fromhex(json.loads(house.vault.slot_content(slot))["key"])
    return SecretKey.adopt(secret)


async def test_a_slot_of_another_type_unlocks_is_renewed_and_survives_a_rekey(house: House) -> None:
    vault = house.vault
    await house.place.put(vault, TOKEN="one")
    assert await vault.add_slot("test", keep, since=vault.epoch) == "test"
    assert await vault.add_slot("test", keep, since=vault.epoch) == "test-2"
    before = vault.slot_content("test")
    vault.lock()
    vault.unlock_with(kept_key(house, "test"), "test")
    assert value_of(vault, "TOKEN") == "one"
    with pytest.raises(BadRequestError, match="unlocked already"):
        vault.unlock_with(kept_key(house, "test"), "test")
    await vault.renew_slot("test", lambda slot, key: keep("renewed", key), since=vault.epoch)
    assert before not in house.raw().decode()
    assert "renewed" in vault.slot_content("test")
    with pytest.raises(NotFoundError, match="test-3"):
        await vault.renew_slot("test-3", keep, since=vault.epoch)

    old = kept_key(house, "test")
    dropped = await house.rekey(lambda slot, content, key: keep(slot, key) if slot == "test" else None)
    assert dropped == ["test-2"]
    assert [slot.id for slot in vault.slots()] == ["passphrase", "test"]
    vault.lock()
    with pytest.raises(CorruptError, match="another vault"):
        vault.unlock_with(old, "test")
    vault.unlock_with(kept_key(house, "test"), "test")
    assert value_of(vault, "TOKEN") == "one"


async def test_an_exported_copy_has_no_slot_of_another_type(house: House, tmp_path: Path) -> None:
    await house.vault.add_slot("test", keep, since=house.vault.epoch)
    await house.export(tmp_path / "copy")
    assert b'"test"' not in (tmp_path / "copy").read_bytes()


async def test_a_key_gained_before_a_lock_seals_no_slot(house: House) -> None:
    before = house.vault.epoch
    house.vault.lock()
    await house.place.unlock(house.vault)
    with pytest.raises(LockedError):
        await house.vault.add_slot("test", keep, since=before)
    with pytest.raises(LockedError):
        await house.vault.renew_slot("passphrase", keep, since=before)
