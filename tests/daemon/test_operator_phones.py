"""The operator's phone, asked over a real socket: real daemon, real protocol; relay and phone in memory."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from avault_daemon.memory.arena import Arena
from avault_daemon.settings import Settings
from avault_protocol import (
    BadRequestError,
    DeniedError,
    LockedError,
    NotFoundError,
    ProofRequiredError,
    RequestTimeoutError,
)
from support.house import LOG_N, PASSPHRASE, House, Peer, open_house
from support.relays import FaultRelay, fault_relay
from support.telephone import URL, Telephone, network_of, no, silent
from support.waiting import WITHIN, till

OTHER = b"another passphrase altogether"


@dataclass
class Room:
    """A daemon with a secret, and a phone that is paired with it."""

    house: House
    phone: Telephone
    relay: FaultRelay
    operator: Peer

    async def stranger(self) -> Peer:
        return await self.house.operator(proven=False)

    async def pair(self) -> dict[str, Any]:
        found: dict[str, Any] = await self.operator.call("phone_pair", {"bunker": self.phone.bunker})
        await self.operator.call("phone_confirm")
        return found

    async def actions(self) -> list[tuple[str, str]]:
        entries = (await self.operator.call("audit"))["entries"]
        return [(entry["action"], entry["decision"]) for entry in entries]

    def in_use(self) -> int:
        return self.house.core.arena.in_use


@asynccontextmanager
async def open_room(folder: Path, **settings: Any) -> AsyncGenerator[Room]:
    chosen = Settings(network=True, **settings)
    async with fault_relay() as relay, open_house(folder, chosen, network=network_of(relay)) as house:
        phone = Telephone(Arena(kind="mlock"), relay)
        operator = await house.init()
        await house.put(operator, TOKEN=b"one")
        yield Room(house, phone, relay, operator)
        phone.close()


@pytest.fixture
async def room(tmp_path: Path) -> AsyncGenerator[Room]:
    async with open_room(tmp_path) as room:
        await room.pair()
        yield room


async def test_pairing_shows_who_answered_and_status_where_its_keys_are(room: Room, tmp_path: Path) -> None:
    found = await room.operator.call("phone_pair", {"bunker": room.phone.bunker})
    keys = room.phone.signer.public.hex(), room.phone.operator.public.hex()
    assert (found["signer"], found["operator"], found["relays"]) == (*keys, [URL])
    phone = (await room.operator.call("status"))["phone"]
    assert phone == {
        "kind": "file",
        "where": str(tmp_path / "state" / "pairing.json"),
        "network": True,
        "proxy": None,
        "slots": 1,
        "relays": [URL],
    }
    slots = (await room.operator.call("slots"))["slots"]
    assert [(slot["id"], slot["type"]) for slot in slots] == [
        ("passphrase", "passphrase"),
        ("phone", "nip46"),
    ]


async def test_an_unlock_by_phone_tells_how_far_it_is_and_proves_nothing(room: Room) -> None:
    await room.operator.call("lock")
    peer = await room.stranger()
    done = await peer.call("phone_unlock", {"timeout": 60})
    assert (done["already"], done["slot"]) == (False, "phone")
    told = [notification.params for notification in peer.notifications if notification.method == "progress"]
    assert {"connected", "sent"} <= {str(params["stage"]) for params in told}
    assert all(0 < int(str(params["seconds_left"])) <= 60 for params in told)
    assert {params["relay"] for params in told if params["stage"] == "sent"} == {URL}
    with pytest.raises(ProofRequiredError):
        await peer.call("reveal", {"name": "TOKEN"})
    assert (await peer.call("phone_unlock"))["already"] is True
    assert ("phone_unlock", "allowed") in await room.actions()


async def test_a_no_and_a_silence_are_told_and_on_record(room: Room) -> None:
    await room.operator.call("lock")
    room.phone.mood = no
    with pytest.raises(DeniedError):
        await room.operator.call("phone_unlock")
    room.phone.mood = silent
    with pytest.raises(RequestTimeoutError):
        await room.operator.call("phone_unlock", {"timeout": 1})
    assert room.house.core.vault.locked
    refused = [decision for action, decision in await room.actions() if action == "phone_unlock"]
    assert len(refused) == 2
    assert "allowed" not in refused


async def test_one_call_of_one_method_is_allowed(room: Room) -> None:
    peer = await room.stranger()
    assert await peer.call("phone_prove", {"action": "reveal"}) == {"slot": "phone"}
    assert room.phone.screen[-1].startswith("avault allow ")
    assert ": reveal " in room.phone.screen[-1]
    assert (await peer.call("reveal", {"name": "TOKEN"}))[1] == b"one"
    with pytest.raises(ProofRequiredError):
        await peer.call("reveal", {"name": "TOKEN"})
    assert ("phone_prove", "allowed") in await room.actions()


async def test_what_is_allowed_is_used_up_by_any_call_and_is_this_connections(room: Room) -> None:
    peer, other = await room.stranger(), await room.stranger()
    await peer.call("phone_prove", {"action": "reveal"})
    with pytest.raises(ProofRequiredError):
        await other.call("reveal", {"name": "TOKEN"})
    with pytest.raises(ProofRequiredError):
        await peer.call("rm", {"name": "TOKEN"})
    with pytest.raises(ProofRequiredError):
        await peer.call("reveal", {"name": "TOKEN"})


async def test_what_is_allowed_ends_with_a_lock(room: Room) -> None:
    peer = await room.stranger()
    await peer.call("phone_prove", {"action": "reveal"})
    await room.operator.call("lock")
    await room.operator.call("unlock", {}, PASSPHRASE)
    with pytest.raises(ProofRequiredError):
        await peer.call("reveal", {"name": "TOKEN"})


@pytest.mark.parametrize("method", ["change_passphrase", "rekey"])
async def test_a_phone_is_no_passphrase(room: Room, method: str) -> None:
    """Where the slot is meant that was proven, none was."""
    peer = await room.stranger()
    if method == "rekey":
        with pytest.raises(BadRequestError, match="not your phone"):
            await peer.call("phone_prove", {"action": method})
    else:
        await peer.call("phone_prove", {"action": method})
        with pytest.raises(ProofRequiredError):
            await peer.call(method, {"log_n": LOG_N}, OTHER)


@pytest.mark.parametrize("action", ["status", "phone_unlock", "unlock", "no such thing"])
async def test_only_what_needs_proof_is_allowed(room: Room, action: str) -> None:
    with pytest.raises(BadRequestError, match="no method that needs proof"):
        await room.operator.call("phone_prove", {"action": action})


async def test_a_refused_proof_allows_nothing(room: Room) -> None:
    peer = await room.stranger()
    room.phone.mood = no
    with pytest.raises(DeniedError):
        await peer.call("phone_prove", {"action": "reveal"})
    with pytest.raises(ProofRequiredError):
        await peer.call("reveal", {"name": "TOKEN"})


async def test_pairing_by_a_uri_that_is_scanned(room: Room) -> None:
    asked = await room.operator.ask("phone_pair", {"relays": [URL]})
    while True:
        told = (await room.operator.notified("progress")).params
        if told["stage"] == "scan":
            break
    assert told["id"] == asked
    assert str(told["uri"]).startswith("nostrconnect://")
    await room.relay.until(lambda: room.relay.sessions and room.relay.sessions[0].subscriptions)
    await room.phone.scan(str(told["uri"]))
    assert (await room.operator.answer())[0].result["signer"] == room.phone.signer.public.hex()
    assert (await room.operator.call("phone_confirm")) == {"slot": "phone-2"}


async def test_without_a_relay_there_is_nowhere_to_meet(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        with pytest.raises(BadRequestError, match="no relay to meet the phone on"):
            await room.operator.call("phone_pair")


async def test_the_relays_of_the_settings_are_shown(tmp_path: Path) -> None:
    async with open_room(tmp_path, relays=(URL,)) as room:
        with pytest.raises(RequestTimeoutError):
            await room.operator.call("phone_pair", {"timeout": 1})
        uris = [note.params["uri"] for note in room.operator.notifications if "uri" in note.params]
        assert all("relay=ws%3A%2F%2F127.0.0.1%3A7777" in str(uri) for uri in uris)
        assert len(uris) == 1


async def test_what_was_not_found_cannot_be_confirmed(room: Room) -> None:
    peer = await room.house.operator()
    with pytest.raises(BadRequestError, match="phone_pair comes first"):
        await peer.call("phone_confirm")
    await room.operator.call("phone_pair", {"bunker": room.phone.bunker})
    with pytest.raises(BadRequestError, match="phone_pair comes first"):
        await peer.call("phone_confirm")
    await room.operator.call("phone_confirm")
    with pytest.raises(BadRequestError, match="phone_pair comes first"):
        await room.operator.call("phone_confirm")


async def test_a_signer_found_before_a_lock_is_gone(room: Room) -> None:
    """Its keys have been wiped: a slot made with them would be sealed with zeroes."""
    await room.operator.call("phone_pair", {"bunker": room.phone.bunker})
    await room.operator.call("lock")
    await room.operator.call("unlock", {}, PASSPHRASE)
    with pytest.raises(LockedError, match="meanwhile"):
        await room.operator.call("phone_confirm")
    await room.operator.call("lock")
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert room.in_use() == 0


async def test_a_signer_that_is_not_confirmed_goes_with_the_connection_or_the_next(room: Room) -> None:
    before = room.in_use()
    peer = await room.house.operator()
    for _ in range(2):
        await peer.call("phone_pair", {"bunker": room.phone.bunker})
    assert room.in_use() > before
    peer.close()
    await till(lambda: room.in_use() == before)


@pytest.mark.parametrize("method", ["phone_unlock", "phone_prove", "phone_pair"])
async def test_the_end_of_the_connection_ends_the_request(room: Room, method: str) -> None:
    if method == "phone_unlock":
        await room.operator.call("lock")
    peer = await room.stranger()
    if method == "phone_pair":
        await peer.call("prove", {}, PASSPHRASE)
    before = room.in_use()
    room.phone.mood = silent
    params: dict[str, dict[str, object]] = {
        "phone_unlock": {},
        "phone_prove": {"action": "rm"},
        "phone_pair": {"relays": [URL]},
    }
    await peer.ask(method, params[method])
    await room.relay.until(lambda: room.relay.sessions)
    peer.close()
    await till(lambda: not room.relay.sessions and room.in_use() == before)


async def test_a_lock_ends_what_waits_for_a_phone(room: Room) -> None:
    peer = await room.stranger()
    room.phone.mood = silent
    await peer.ask("phone_prove", {"action": "rm", "timeout": 2})
    await room.relay.until(lambda: room.phone.requests and room.relay.sessions)
    await room.operator.call("lock")
    error = (await peer.answer())[0].error
    assert isinstance(error, LockedError | RequestTimeoutError)


async def test_a_removed_slot_is_forgotten_with_its_keys(room: Room) -> None:
    path = room.house.core.places.state_dir / "pairing.json"
    assert path.exists()
    await room.operator.call("slot_remove", {"slot": "phone"})
    assert room.phone.requests[-1] == "logout"
    assert b"phone" not in (path.read_bytes() if path.exists() else b"")
    with pytest.raises(NotFoundError, match="no phone is paired"):
        await room.operator.call("phone_prove", {"action": "rm"})
    with pytest.raises(NotFoundError):
        await room.operator.call("slot_remove", {"slot": "phone"})


async def test_a_phone_opens_the_vault_after_it_got_another_key(room: Room) -> None:
    done = await room.operator.call("rekey", {"log_n": LOG_N}, OTHER)
    assert done["dropped"] == []
    await room.operator.call("lock")
    await room.operator.call("phone_unlock")
    assert (await room.operator.call("status"))["state"] == "unlocked"


def pairings_of(room: Room) -> list[str]:
    path = room.house.core.places.state_dir / "pairing.json"
    return list(json.loads(path.read_text()))


async def test_a_phone_that_a_rekey_drops_is_forgotten(room: Room) -> None:
    await room.pair()
    assert pairings_of(room) == ["phone", "phone-2"]
    path = room.house.core.places.state_dir / "pairing.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({"phone-3": content.pop("phone"), **content}, separators=(",", ":")))
    done = await room.operator.call("rekey", {"log_n": LOG_N}, OTHER)
    assert done["dropped"] == ["phone"]
    assert pairings_of(room) == ["phone-2"]


async def test_phones_of_a_vault_that_is_replaced_are_forgotten(room: Room, tmp_path: Path) -> None:
    with (tmp_path / "copy").open("w+b") as copy:
        await room.operator.call("export", {"log_n": LOG_N}, OTHER, (copy.fileno(),))
        copy.seek(0)
        await room.operator.call("restore_vault", {}, OTHER, (copy.fileno(),))
    assert pairings_of(room) == []
    assert (await room.operator.call("status"))["phone"]["slots"] == 0


async def test_what_cannot_be_forgotten_spoils_no_restore(
    room: Room, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = room.house.core.places.state_dir / "pairing.json"
    path.write_text("rubbish")
    with (tmp_path / "copy").open("w+b") as copy:
        await room.operator.call("export", {"log_n": LOG_N}, OTHER, (copy.fileno(),))
        copy.seek(0)
        assert "vault" in await room.operator.call("restore_vault", {}, OTHER, (copy.fileno(),))
    assert f"stay in {path}" in caplog.text


async def test_a_phone_allows_a_restore(room: Room, tmp_path: Path) -> None:
    peer = await room.stranger()
    with (tmp_path / "copy").open("w+b") as copy:
        await room.operator.call("export", {"log_n": LOG_N}, OTHER, (copy.fileno(),))
        for action in ("export", "restore_vault"):
            await peer.call("phone_prove", {"action": action})
            assert f": {action} " in room.phone.screen[-1]
            copy.seek(0)
            if action == "export":
                with pytest.raises(ProofRequiredError):
                    await peer.call("restore_vault", {}, OTHER, (copy.fileno(),))
            else:
                assert "vault" in await peer.call("restore_vault", {}, OTHER, (copy.fileno(),))


async def test_a_request_is_withdrawn_once_the_vault_is_unlocked_otherwise(room: Room) -> None:
    """The operator's, and one that an agent caused: the relay's connection is closed, nobody is waited for."""
    grant = {"agent": "cobot", "plugin": "telegram", "secrets": ["TOKEN"], "uids": [os.getuid()]}
    await room.operator.call("grant", grant)
    agent, peer = await room.house.agent(), await room.stranger()
    await room.operator.call("lock")
    room.phone.mood = silent
    await peer.ask("phone_unlock")
    await agent.ask("get_secret", {"name": "TOKEN", "wait": 60})
    await room.relay.until(lambda: len(room.relay.sessions) == 2)
    await room.operator.call("unlock", {}, PASSPHRASE)
    assert (await agent.answer())[1] == b"one"
    error = (await peer.answer())[0].error
    assert isinstance(error, BadRequestError)
    assert "unlocked otherwise" in error.message
    await till(lambda: not room.relay.sessions)
    entries = (await room.operator.call("audit"))["entries"]
    assert [e for e in entries if e["action"] == "phone_ask" and "unlocked otherwise" in (e["reason"] or "")]


async def test_one_request_for_all_agents_that_wait(room: Room) -> None:
    grant = {"agent": "cobot", "plugin": "telegram", "secrets": ["TOKEN"], "uids": [os.getuid()]}
    await room.operator.call("grant", grant)
    agent = await room.house.agent()
    await room.operator.call("lock")
    room.phone.requests.clear()
    for _ in range(3):
        await agent.ask("get_secret", {"name": "TOKEN", "wait": 60})
    answers = [await agent.answer() for _ in range(3)]
    assert [value for _, value in answers] == [b"one"] * 3
    assert room.phone.requests == ["nip44_decrypt"]
    told = list[tuple[str, str | None]]()
    with trio.fail_after(WITHIN):
        while ("phone_unlock", "slot phone, for cobot/telegram") not in told:  # first the slot is renewed
            entries = (await room.operator.call("audit"))["entries"]
            told = [(entry["action"], entry["reason"]) for entry in entries[-9:]]
    assert ("phone_ask", "for cobot/telegram") in told


async def test_who_is_no_agent_any_more_rings_no_phone(room: Room) -> None:
    grant = {"agent": "cobot", "plugin": "telegram", "secrets": ["TOKEN"], "uids": [os.getuid()]}
    await room.operator.call("grant", grant)
    agent = await room.house.agent()
    await room.operator.call("agent_rm", {"agent": "cobot"})
    await room.operator.call("lock")
    room.phone.requests.clear()
    await agent.ask("get_secret", {"name": "TOKEN", "wait": 0.2})
    assert isinstance((await agent.answer())[0].error, LockedError)
    assert room.phone.requests == []


async def test_without_the_network_it_is_said_what_to_do(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        operator = await house.init()
        assert (await operator.call("status"))["phone"]["network"] is False
        with pytest.raises(BadRequestError, match="keeps itself from the network") as caught:
            await operator.call("phone_prove", {"action": "rm"})
        assert caught.value.hint is not None
        assert "network = true" in caught.value.hint
