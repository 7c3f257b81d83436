"""The record of a real vault: its key changes hands, and the record stays whole."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio.testing

from avault_daemon.anchor import Anchor
from avault_daemon.audit import Record
from avault_daemon.core import Core
from avault_daemon.vault import Vault
from avault_protocol import AuditFailedError
from support.records import Book, run_for, use
from support.vaults import CHEAP, Place

OTHER = "another passphrase"


class Desk:
    """An unlocked vault and its record, joined as in a daemon."""

    def __init__(self, vault: Vault, book: Book) -> None:
        self.vault, self.book = vault, book
        self.record: Record = book.open()
        nobody = cast("Any", None)
        core = Core(
            settings=nobody,
            places=nobody,
            confinement="",
            arena=nobody,
            vault=vault,
            record=self.record,
            requests=nobody,
            gate=nobody,
            bindings=nobody,
            throttle=nobody,
            phones=nobody,
            bell=nobody,
            keyring=nobody,
            unattended=nobody,
            locker=nobody,
        )
        vault.listeners.append(core.follow_vault)

    async def work(self) -> None:
        """Use a secret, and let the record sign that."""
        use(self.record)
        await run_for(self.record, self.book, 1)

    def is_whole(self) -> bool:
        """Report whether all of the record is signed, by keys that belong to the vault."""
        verdict = self.book.verify()
        return verdict.ok and verdict.complete_to == self.record.number


@asynccontextmanager
async def unlocked_desk(path: Path) -> AsyncGenerator[tuple[Place, Desk]]:
    place = Place(path)
    anchor = Anchor(place.anchor_file)
    vault = Vault(place.home, place.state_dir, place.arena, anchor, clock=place.clock, min_log_n=CHEAP)
    vault.open()
    desk = Desk(vault, Book(place.state_dir, anchor=anchor))
    try:
        await place.init(vault)
        yield place, desk
    finally:
        vault.close()
        desk.record.close()


async def export(place: Place, vault: Vault, path: Path) -> None:
    with path.open("wb") as file, place.secret(OTHER) as passphrase:
        await vault.export(file.fileno(), passphrase, CHEAP)


async def restore(place: Place, vault: Vault, path: Path) -> None:
    with path.open("rb") as file, place.secret(OTHER) as passphrase:
        await vault.restore_vault(file.fileno(), passphrase)


async def test_a_vaults_own_signatures_make_the_record_whole(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with unlocked_desk(tmp_path) as (place, desk):
        await desk.work()
        assert desk.is_whole()
        desk.vault.lock()
        use(desk.record)
        await run_for(desk.record, desk.book, 2)
        assert desk.book.verify().unsigned == 1
        await place.unlock(desk.vault)
        await run_for(desk.record, desk.book, 0.2)
        assert desk.is_whole()


async def test_a_rekey_is_announced_by_the_old_key_and_taken_up_by_the_new(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with unlocked_desk(tmp_path) as (place, desk):
        await desk.work()
        old = desk.vault.public
        with place.secret(OTHER) as passphrase:
            await desk.vault.rekey(passphrase, CHEAP, "passphrase")
        await desk.work()
        assert desk.is_whole()
        assert desk.vault.public is not None
        assert desk.vault.public != old
        checkpoints = [line for line in desk.book.lines() if line["action"] == "checkpoint"]
        assert {line.get("next") for line in checkpoints} == {None, desk.vault.public.hex()}
        desk.vault.lock()
        await place.unlock(desk.vault, OTHER)
        await desk.work()
        assert desk.is_whole()


async def test_a_record_that_cannot_be_written_keeps_the_old_key(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with unlocked_desk(tmp_path) as (place, desk):
        await desk.work()
        old = desk.vault.public
        desk.book.disk.fail(1)
        with place.secret(OTHER) as passphrase, pytest.raises(AuditFailedError):
            await desk.vault.rekey(passphrase, CHEAP, "passphrase")
        desk.book.disk.heal()
        assert desk.vault.public == old
        await desk.work()
        assert desk.is_whole()


@pytest.mark.parametrize("locked", [False, True])
async def test_a_copy_takes_over_the_record_of_the_vault_that_it_replaces(
    tmp_path: Path, locked: bool, mock_clock: trio.testing.MockClock
) -> None:
    async with unlocked_desk(tmp_path) as (place, desk):
        await desk.work()
        await export(place, desk.vault, tmp_path / "copy")
        if locked:
            desk.vault.lock()
        await restore(place, desk.vault, tmp_path / "copy")
        await desk.work()
        assert desk.is_whole()
        assert desk.book.actions().count("get_secret") == 2
