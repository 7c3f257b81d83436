"""Unlocking at the start by a passphrase that the service manager hands over: real daemon, a folder for the manager's."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from hypothesis import given, settings as hypothesis_settings, strategies as st

from avault_daemon.memory.arena import Arena
from avault_daemon.systemd import unattended as module
from avault_daemon.systemd.unattended import MIN, NAME, Unattended
from avault_daemon.vault import door
from avault_protocol import (
    UNLOCKING,
    BadRequestError,
    LockedError,
    NotFoundError,
    ProofRequiredError,
    StorageFailedError,
    WrongPassphraseError,
)
from avault_protocol.limits import MAX_PASSPHRASE
from support.gates import Gate
from support.house import LOG_N, PASSPHRASE, House, Peer, open_house

CREDENTIAL = b64encode(bytes(range(32)))
SLOT = "systemd-credential"


def write(folder: Path, content: bytes = CREDENTIAL) -> Path:
    """Write what a service manager would, below *folder*; return the directory that it would name."""
    directory = folder / "credentials"
    directory.mkdir(exist_ok=True)
    (directory / NAME).write_bytes(content)
    return directory


async def prepare(house: House) -> Peer:
    """Make a vault with a secret and a slot for the credential."""
    operator = await house.init()
    await house.put(operator, TOKEN=b"one")
    assert await operator.call("credential_add", {"log_n": LOG_N}) == {"slot": SLOT}
    return operator


async def tried(house: House) -> str:
    """Wait until the daemon has tried; return what is on record of that."""
    with trio.fail_after(60):
        while True:
            operator = await house.operator(proven=False)
            entries = (await operator.call("audit"))["entries"]
            found = [entry["reason"] for entry in entries if entry["action"] == "credential_unlock"]
            if found:
                return str(found[-1])


# --- reading ----------------------------------------------------------------------------------------------------------


def reader(directory: Path | None, arena: Arena | None = None) -> Unattended:
    """Return one that only reads."""
    nobody = cast("Any", None)
    return Unattended(arena or Arena(1 << 16), nobody, nobody, directory)


@pytest.mark.parametrize("size", [MIN, MIN + 1, MAX_PASSPHRASE])
def test_it_comes_as_it_is(tmp_path: Path, size: int) -> None:
    with reader(write(tmp_path, b"x" * size)).read() as passphrase:
        assert bytes(passphrase.view) == b"x" * size


@pytest.mark.parametrize("size", [0, 1, MIN - 1, MAX_PASSPHRASE + 1])
def test_it_has_a_size(tmp_path: Path, size: int) -> None:
    unattended = reader(write(tmp_path, b"x" * size))
    with pytest.raises(BadRequestError, match="no file of 32 to 1024 bytes") as caught:
        unattended.read()
    assert "systemd-creds encrypt" in str(caught.value.hint)


def test_one_newline_at_its_end_is_dropped(tmp_path: Path) -> None:
    with reader(write(tmp_path, CREDENTIAL + b"\n\n")).read() as passphrase:
        assert bytes(passphrase.view) == CREDENTIAL + b"\n"


@hypothesis_settings(max_examples=50)
@given(content=st.binary(min_size=MIN, max_size=100))
def test_it_is_text_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    unattended = reader(write(tmp_path_factory.mktemp("any"), content))
    try:
        content.decode()
    except UnicodeDecodeError:
        with pytest.raises(BadRequestError):
            unattended.read()
    else:
        with unattended.read() as passphrase:
            assert bytes(passphrase.view) == content.removesuffix(b"\n")


def test_without_one_it_is_not_found(tmp_path: Path) -> None:
    for directory in (None, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NotFoundError, match=NAME):
            reader(directory).read()


def test_a_pipe_in_its_place_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / NAME)
    with pytest.raises(BadRequestError):
        reader(tmp_path).read()


def test_what_cannot_be_opened_is_said(tmp_path: Path) -> None:
    (tmp_path / NAME).symlink_to(NAME)
    with pytest.raises(StorageFailedError, match="symbolic link"):
        reader(tmp_path).read()


def test_nothing_of_it_stays(tmp_path: Path) -> None:
    arena = Arena(1 << 16)
    for content in (CREDENTIAL, b"\xff" * 40):
        with suppress(BadRequestError):
            reader(write(tmp_path, content), arena).read().release()
        assert arena.in_use == 0


# --- unlocking --------------------------------------------------------------------------------------------------------


async def test_the_next_start_is_unlocked(tmp_path: Path) -> None:
    credentials = write(tmp_path)
    async with open_house(tmp_path, credentials=credentials) as house:
        operator = await prepare(house)
        slots = (await operator.call("slots"))["slots"]
        assert slots[1] == {"id": SLOT, "type": SLOT, "log_n": LOG_N}
    async with open_house(tmp_path, credentials=credentials) as house:
        assert await tried(house) == f"slot {SLOT}"
        operator = await house.operator(proven=False)
        assert (await operator.call("status"))["state"] == "unlocked"
        # It proves nothing, and it is no passphrase.
        with pytest.raises(ProofRequiredError):
            await operator.call("reveal", {"name": "TOKEN"})
        with pytest.raises(BadRequestError, match="no passphrase opens"):
            await operator.call("prove", {"slot": SLOT}, CREDENTIAL)
        await operator.call("lock")
        with pytest.raises(WrongPassphraseError):
            await operator.call("unlock", {}, CREDENTIAL)
        assert house.core.vault.locked


async def test_another_credential_leaves_it_locked_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_house(tmp_path, credentials=write(tmp_path)) as house:
        await prepare(house)
    async with open_house(tmp_path, credentials=write(tmp_path, CREDENTIAL[::-1])) as house:
        assert (await tried(house)).startswith("denied: the credential avault.passphrase opens no slot")
        assert house.core.vault.locked
        operator = await house.operator(proven=False)
        await operator.call("unlock", {}, PASSPHRASE)
    assert "the vault stays locked, the credential did not unlock it" in caplog.text
    assert CREDENTIAL.decode() not in caplog.text
    assert CREDENTIAL[::-1].decode() not in caplog.text


async def test_somebodys_guess_does_not_keep_it_from_unlocking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_house(tmp_path, credentials=write(tmp_path)) as house:
        await prepare(house)
        guesser = await house.operator(proven=False)
        await guesser.call("lock")
        with monkeypatch.context() as patch:
            gate = Gate(patch, door, "open_slot")
            await guesser.ask("unlock", {}, b"not the passphrase")
            await gate.reached.wait()
        assert house.core.vault.state == UNLOCKING
        await house.core.unattended.at_start()
        assert house.core.vault.unlocked
        gate.go.set()
        assert isinstance((await guesser.answer())[0].error, WrongPassphraseError)
        assert house.core.vault.unlocked


async def test_a_slot_without_its_credential_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_house(tmp_path, credentials=write(tmp_path)) as house:
        await prepare(house)
    async with open_house(tmp_path) as house:
        assert (await tried(house)).startswith("not_found")
        assert house.core.vault.locked
    assert "systemd-creds encrypt" in caplog.text


async def test_a_credential_without_its_slot_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with open_house(tmp_path, credentials=write(tmp_path)) as house:
        await house.core.unattended.at_start()
        await house.init()
    assert "opens nothing yet: avault slot add systemd-credential" in caplog.text


async def test_a_debugger_keeps_it_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_house(tmp_path, credentials=write(tmp_path)) as house:
        await prepare(house)
    monkeypatch.setattr(module, "traced", lambda: True)
    async with open_house(tmp_path, credentials=write(tmp_path)) as house:
        assert (await tried(house)).startswith("denied: a debugger")
        assert house.core.vault.locked


async def test_what_was_locked_while_it_was_read_stays_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = write(tmp_path)
    async with open_house(tmp_path, credentials=credentials) as house:
        operator = await prepare(house)
        real = Unattended.read

        def slow(self: Unattended) -> object:
            passphrase = real(self)
            trio.from_thread.run_sync(house.core.vault.lock)
            return passphrase

        monkeypatch.setattr(Unattended, "read", slow)
        with pytest.raises(LockedError):
            await operator.call("credential_add", {"log_n": LOG_N})
        await house.core.unattended.at_start()
        assert house.core.vault.locked
        assert len(house.core.vault.slots()) == 2
        assert house.core.arena.in_use == 0


async def test_an_unlocked_vault_is_left_alone(tmp_path: Path) -> None:
    async with open_house(tmp_path, credentials=write(tmp_path)) as house:
        operator = await prepare(house)
        await house.core.unattended.at_start()
        entries = (await operator.call("audit"))["entries"]
        assert "credential_unlock" not in {entry["action"] for entry in entries}


# --- adding, keeping, removing ------------------------------------------------------------------------------------------


async def test_adding_needs_proof_and_a_credential(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        operator = await house.init()
        with pytest.raises(NotFoundError, match="was given no credential") as caught:
            await operator.call("credential_add", {"log_n": LOG_N})
        assert "systemd-creds encrypt" in str(caught.value.hint)
        with pytest.raises(ProofRequiredError):
            await (await house.operator(proven=False)).call("credential_add")
        assert len(house.core.vault.slots()) == 1


async def test_a_rekey_keeps_it_if_the_credential_opens_it(tmp_path: Path) -> None:
    credentials = write(tmp_path)
    async with open_house(tmp_path, credentials=credentials) as house:
        operator = await prepare(house)
        assert (await operator.call("rekey", {"log_n": LOG_N}, PASSPHRASE))["dropped"] == []
    async with open_house(tmp_path, credentials=credentials) as house:
        assert await tried(house) == f"slot {SLOT}"
        assert house.core.vault.unlocked


@pytest.mark.parametrize("content", [CREDENTIAL[::-1], b"short"])
async def test_a_rekey_drops_it_by_name_if_not(tmp_path: Path, content: bytes) -> None:
    async with open_house(tmp_path, credentials=write(tmp_path)) as house:
        operator = await prepare(house)
        write(tmp_path, content)
        assert (await operator.call("rekey", {"log_n": LOG_N}, PASSPHRASE))["dropped"] == [SLOT]


async def test_removed_it_opens_nothing_and_is_gone_from_the_file(tmp_path: Path) -> None:
    credentials = write(tmp_path)
    async with open_house(tmp_path, credentials=credentials) as house:
        operator = await prepare(house)
        with pytest.raises(BadRequestError):  # the only passphrase, whatever else there is
            await operator.call("slot_remove", {"slot": "passphrase"})
        await operator.call("slot_remove", {"slot": SLOT})
        lines = [json.loads(line) for line in (tmp_path / "home" / "vault.jsonl").read_text().splitlines()]
        assert SLOT not in {line["tags"][0][1] for line in lines}
    async with open_house(tmp_path, credentials=credentials) as house:
        await house.core.unattended.at_start()
        assert house.core.vault.locked


async def test_change_passphrase_is_not_for_it(tmp_path: Path) -> None:
    async with open_house(tmp_path, credentials=write(tmp_path)) as house:
        operator = await prepare(house)
        with pytest.raises(BadRequestError, match="no passphrase opens"):
            await operator.call("change_passphrase", {"slot": SLOT, "log_n": LOG_N}, PASSPHRASE)
