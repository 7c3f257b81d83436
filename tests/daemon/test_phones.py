"""Unlocking, proving and pairing by phone: real vault, real pairings, real protocol; relay and phone in memory."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from avault_daemon.memory.arena import Arena
from avault_daemon.nostr.keys import SecretKey
from avault_daemon.nostr.relay import Network
from avault_daemon.phone.pairings import Pairings
from avault_daemon.phone.patience import GOODBYE, PATIENCE
from avault_daemon.phone.phones import Phones
from avault_daemon.phone.signers import Candidate, Signers
from avault_daemon.phone.stores import FileStore
from avault_daemon.slots import phone as slots
from avault_daemon.slots.phone import KEY, PhoneSlot, open_key
from avault_daemon.vault import Vault
from avault_protocol import (
    LOCKED,
    BadRequestError,
    DeniedError,
    LockedError,
    NotFoundError,
    RequestTimeoutError,
)
from support.relays import FaultRelay, fault_relay
from support.telephone import URL, Telephone, no, silent, yes
from support.vaults import CHEAP, Place, make_vault, value_of


@dataclass
class Desk:
    """A vault with a secret in it, its phones' keys, and one phone."""

    place: Place
    vault: Vault
    phones: Phones
    phone: Telephone
    relay: FaultRelay
    path: Path
    stages: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def on_stage(self, stage: str, url: str, text: str) -> None:
        self.stages.append((stage, text))

    async def pair(self) -> str:
        found = await self.phones.signers.pair_bunker(self.phone.bunker, self.on_stage)
        return await self.phones.confirm(found, self.on_stage)

    async def unlock(self) -> str:
        return await self.phones.unlock(self.on_stage)

    def content(self, slot: str = "phone") -> PhoneSlot:
        return PhoneSlot.parse(self.vault.slot_content(slot))


def phones_of(place: Place, vault: Vault, path: Path, relay: FaultRelay, *, enabled: bool = True) -> Phones:
    pairings = Pairings(place.arena, FileStore(path))
    network = Network(dial=relay.dial, clock=lambda: 1_800_000_000, jitter=lambda: 0.0)
    signers = Signers(place.arena, "box.lan", enabled=enabled, network=network)
    return Phones(place.arena, vault, pairings, signers)


@asynccontextmanager
async def open_desk(tmp_path: Path) -> AsyncGenerator[Desk]:
    place, vault = await make_vault(tmp_path)
    await place.put(vault, TOKEN="one")
    keys = Arena(kind="mlock")
    async with fault_relay() as relay:
        path = tmp_path / "pairing.json"
        phone = Telephone(keys, relay)
        yield Desk(place, vault, phones_of(place, vault, path, relay), phone, relay, path)
        phone.close()
    vault.close()
    assert place.arena.in_use == 0, "something was not given back to the arena"


@pytest.fixture
async def desk(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> AsyncGenerator[Desk]:
    # Threads do real work here, which takes no time of the clock's; each test asks for the clock by name to get it.
    autojump_clock.autojump_threshold = 0.1
    async with open_desk(tmp_path) as desk:
        yield desk


# --- pairing --------------------------------------------------------------------------------------------------------


async def test_pairing_by_a_bunker_uri_and_unlocking(
    autojump_clock: trio.testing.MockClock, desk: Desk
) -> None:
    assert await desk.pair() == "phone"
    desk.vault.lock()
    assert await desk.unlock() == "phone"
    assert value_of(desk.vault, "TOKEN") == "one"
    assert desk.phone.requests == ["connect", "get_public_key", "nip44_decrypt", "nip44_decrypt"]
    assert all(text.startswith("avault unlock box.lan ") for text in desk.phone.screen)


async def test_pairing_by_a_nostrconnect_uri(autojump_clock: trio.testing.MockClock, desk: Desk) -> None:
    found: list[Candidate] = []

    async def pair() -> None:
        found.append(await desk.phones.signers.pair_nostrconnect([URL], desk.on_stage))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair)
        await desk.relay.until(lambda: desk.relay.sessions and desk.relay.sessions[0].subscriptions)
        (uri,) = [text for stage, text in desk.stages if stage == "scan"]
        await desk.phone.scan(uri, says="ack")  # a stranger who only watches
        await desk.phone.scan(uri)
    assert found[0].phone.operator == desk.phone.operator.public.hex()
    assert found[0].phone.signer == desk.phone.signer.public.hex()
    assert "nip44_decrypt" not in desk.phone.requests
    await desk.phones.confirm(found[0], desk.on_stage)
    desk.vault.lock()
    await desk.unlock()
    assert value_of(desk.vault, "TOKEN") == "one"


async def test_a_slot_is_written_only_after_the_phone_opened_it(
    autojump_clock: trio.testing.MockClock, desk: Desk
) -> None:
    found = await desk.phones.signers.pair_bunker(desk.phone.bunker, desk.on_stage)
    assert desk.phones.slots() == []
    desk.phone.mood = no
    with pytest.raises(DeniedError, match="user rejected"):
        await desk.phones.confirm(found, desk.on_stage)
    assert desk.phones.slots() == []
    assert not desk.path.exists()


async def test_what_was_on_the_screen_while_pairing_opens_nothing(
    autojump_clock: trio.testing.MockClock, desk: Desk
) -> None:
    await desk.pair()
    (shown,) = desk.phone.screen
    desk.vault.lock()
    desk.phone.mood = lambda request, result: {"result": shown}
    with pytest.raises(DeniedError, match="does not open"):
        await desk.unlock()
    assert desk.vault.state == LOCKED


async def test_two_operators_who_pair_at_once_get_two_slots(
    autojump_clock: trio.testing.MockClock, desk: Desk
) -> None:
    found = [await desk.phones.signers.pair_bunker(desk.phone.bunker, desk.on_stage) for _ in range(2)]
    async with trio.open_nursery() as nursery:
        for candidate in found:
            nursery.start_soon(desk.phones.confirm, candidate, desk.on_stage)
    assert sorted(json.loads(desk.path.read_text())) == desk.phones.slots() == ["phone", "phone-2"]
    for slot in desk.phones.slots():  # each by its own keys
        desk.vault.lock()
        assert await desk.unlock() in ("phone", "phone-2")
        await desk.vault.remove_slot(slot)
        await desk.phones.prune()


async def test_a_phone_that_takes_the_id_of_one_that_is_being_forgotten_keeps_its_keys(
    autojump_clock: trio.testing.MockClock, desk: Desk
) -> None:
    content = desk.vault.slot_content(await desk.pair())
    await desk.vault.remove_slot("phone")
    another = await desk.phones.signers.pair_bunker(desk.phone.bunker, desk.on_stage)
    desk.phone.mood = lambda request, result: None if request["method"] == "logout" else {"result": result}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.phones.forget, "phone", content)
        assert await desk.phones.confirm(another, desk.on_stage) == "phone"
    desk.vault.lock()
    assert await desk.unlock() == "phone"


async def test_a_candidate_that_nobody_confirms_is_forgotten(
    autojump_clock: trio.testing.MockClock, desk: Desk
) -> None:
    found = await desk.phones.signers.pair_bunker(desk.phone.bunker, desk.on_stage)
    found.close()
    assert desk.phones.slots() == []


async def test_pairing_has_its_time(autojump_clock: trio.testing.MockClock, desk: Desk) -> None:
    desk.phone.mood = silent
    before = trio.current_time()
    with pytest.raises(RequestTimeoutError) as waited:
        await desk.phones.signers.pair_bunker(desk.phone.bunker, desk.on_stage)
    assert waited.value.message == "the phone did not answer in time"  # the relay is in order
    assert "online" in (waited.value.hint or "")
    assert "clock" in (waited.value.hint or "")
    assert trio.current_time() - before == pytest.approx(PATIENCE, abs=1)
    with pytest.raises(RequestTimeoutError):
        await desk.phones.signers.pair_nostrconnect([URL], desk.on_stage, patience=10)


@pytest.mark.parametrize("words", ["already connected", "invalid secret", "no permission"])
async def test_a_signer_that_refuses_the_pairing_is_quoted(
    autojump_clock: trio.testing.MockClock, desk: Desk, words: str
) -> None:
    desk.phone.mood = lambda request, result: {"result": "", "error": words}
    with pytest.raises(DeniedError, match=f"the signer answers: {words}"):
        await desk.pair()
    assert desk.phones.slots() == []


async def test_a_signer_that_begins_to_listen_late(
    autojump_clock: trio.testing.MockClock, desk: Desk
) -> None:
    """As Amber did: for 30 s after the approval it hears nothing, so what it is asked is asked again, by the same id."""
    ids: list[object] = []
    began = trio.current_time()

    def deaf(request: dict[str, object], result: str) -> dict[str, object] | None:
        if request["method"] != "get_public_key":
            return {"result": result}
        ids.append(request["id"])
        return {"result": result} if trio.current_time() - began > 30 else None

    desk.phone.mood = deaf
    await desk.pair()
    assert len(ids) == 8
    assert len(set(ids)) == 1


@pytest.mark.parametrize("relays", [[], ["http://a"], ["ws://relay.example"], [URL] * 1 + ["wss://b?c"]])
async def test_relays_that_are_none(
    autojump_clock: trio.testing.MockClock, desk: Desk, relays: list[str]
) -> None:
    with pytest.raises(BadRequestError):
        await desk.phones.signers.pair_nostrconnect(relays, desk.on_stage)


# --- unlocking ------------------------------------------------------------------------------------------------------


async def test_each_unlock_renews_token_payload_and_pepper(
    autojump_clock: trio.testing.MockClock, desk: Desk
) -> None:
    await desk.pair()
    seen: list[tuple[str, str, str]] = []
    for _ in range(3):
        desk.vault.lock()
        before = desk.content()
        await desk.unlock()
        assert before.payload not in desk.place.file.read_text()
        seen.append((desk.content().payload, desk.content().sealed, desk.path.read_text()))
    assert len({payload for payload, _, _ in seen}) == len({file for _, _, file in seen}) == 3
    assert len(set(desk.phone.screen)) == 4
    assert '"old":null' in seen[-1][2]


async def test_an_old_answer_opens_nothing_later(autojump_clock: trio.testing.MockClock, desk: Desk) -> None:
    await desk.pair()
    desk.vault.lock()
    await desk.unlock()
    recorded = desk.phone.screen[-1]
    desk.vault.lock()
    desk.phone.mood = lambda request, result: {"result": recorded}
    with pytest.raises(DeniedError):
        await desk.unlock()


async def test_the_old_file_with_the_new_pepper_opens_nothing(
    autojump_clock: trio.testing.MockClock, desk: Desk
) -> None:
    """Nor does an old copy of pairing.json with the new vault."""
    await desk.pair()
    old = desk.path.read_bytes()
    desk.vault.lock()
    await desk.unlock()
    desk.vault.lock()
    desk.path.write_bytes(old)
    with pytest.raises(DeniedError):
        await desk.unlock()


async def test_an_old_copy_of_everything_opens_by_what_the_next_unlock_showed(
    autojump_clock: trio.testing.MockClock, desk: Desk
) -> None:
    """The limit of the renewal, as docs/threats.md says it: that one token fits what was copied before."""
    await desk.pair()
    old, copied = desk.content(), desk.path.read_bytes()
    desk.vault.lock()
    await desk.unlock()
    shown, public = desk.phone.screen[-1].split()[-1], desk.vault.public or b""
    desk.path.write_bytes(copied)
    arena = desk.place.arena
    with Pairings(arena, FileStore(desk.path)).load("phone") as stolen, arena.take(KEY) as token:
        token.view[:] = bytes.fromhex(shown)
        open_key(arena, public, "phone", old, token, stolen.peppers[0]).close()
        with pytest.raises(DeniedError):
            open_key(arena, public, "phone", desk.content(), token, stolen.peppers[0])


async def test_an_answer_that_comes_minutes_late_is_taken(
    autojump_clock: trio.testing.MockClock, desk: Desk
) -> None:
    await desk.pair()
    desk.vault.lock()
    desk.phone.mood = silent

    async def find_the_phone() -> None:
        await trio.sleep(PATIENCE - 5)
        desk.phone.mood = yes
        await desk.phone.tap()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(find_the_phone)
        assert await desk.unlock() == "phone"


async def test_no_is_no_and_silence_is_no(autojump_clock: trio.testing.MockClock, desk: Desk) -> None:
    await desk.pair()
    desk.vault.lock()
    desk.phone.mood = no
    with pytest.raises(DeniedError, match="user rejected"):
        await desk.unlock()
    desk.phone.mood = silent
    before = trio.current_time()
    with pytest.raises(RequestTimeoutError, match=r"in time$"):
        await desk.unlock()
    assert trio.current_time() - before == pytest.approx(PATIENCE, abs=1)
    assert desk.vault.state == LOCKED


async def test_what_the_relay_has_to_do_with_it_is_said(
    autojump_clock: trio.testing.MockClock, desk: Desk
) -> None:
    await desk.pair()
    desk.vault.lock()
    desk.relay.refuse = True
    with pytest.raises(RequestTimeoutError, match=f"did not answer in time; {URL}: connection refused"):
        await desk.unlock()


@pytest.mark.parametrize(
    "answer",
    [
        {"result": ""},
        {"result": None},
        {"result": 42},
        {"result": "deadbeef" * 8},
        {"result": "avault unlock box.lan " + "00" * 32},
        {"result": "avault unlock box.lan " + "00" * 32 + " " + "11" * 32},
        {"result": {"plaintext": "x"}},
        {},
    ],
)
async def test_what_is_no_answer_opens_nothing(
    autojump_clock: trio.testing.MockClock, desk: Desk, answer: dict[str, object]
) -> None:
    await desk.pair()
    desk.vault.lock()
    desk.phone.mood = lambda request, result: dict(answer)
    with pytest.raises((DeniedError, RequestTimeoutError)):
        await desk.phones.unlock(desk.on_stage, patience=20)
    assert desk.vault.state == LOCKED


async def test_several_phones_are_asked_and_the_first_good_answer_wins(
    autojump_clock: trio.testing.MockClock, desk: Desk
) -> None:
    assert [await desk.pair(), await desk.pair()] == ["phone", "phone-2"]
    desk.vault.lock()
    asked: list[str] = []

    def only_the_second(request: dict[str, object], result: str) -> dict[str, object]:
        asked.append(result)
        return {"result": result} if len(asked) == 2 else {"result": "", "error": "user rejected"}

    desk.phone.mood = only_the_second
    assert await desk.unlock() in ("phone", "phone-2")
    assert value_of(desk.vault, "TOKEN") == "one"


async def test_without_a_phone_or_a_network_it_says_so(
    autojump_clock: trio.testing.MockClock, desk: Desk
) -> None:
    desk.vault.lock()
    with pytest.raises(NotFoundError, match="no phone"):
        await desk.unlock()
    closed = phones_of(desk.place, desk.vault, desk.path, desk.relay, enabled=False)
    for call in (closed.unlock(desk.on_stage), closed.signers.pair_bunker(desk.phone.bunker, desk.on_stage)):
        with pytest.raises(BadRequestError, match="network") as raised:
            await call
        assert "network = true" in str(raised.value.hint)


async def test_of_two_good_answers_the_second_leaves_no_key_behind(
    autojump_clock: trio.testing.MockClock, desk: Desk
) -> None:
    assert [await desk.pair(), await desk.pair()] == ["phone", "phone-2"]
    for _ in range(8):
        desk.vault.lock()
        assert desk.place.arena.in_use == 0
        await desk.unlock()


async def test_cancelled_between_the_answer_and_the_unlock_it_leaves_no_key_behind(
    autojump_clock: trio.testing.MockClock, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.pair()
    desk.vault.lock()
    with trio.CancelScope() as asking:

        def opened(*args: Any) -> SecretKey:
            asking.cancel()
            return open_key(*args)

        monkeypatch.setattr(slots, "open_key", opened)
        await desk.unlock()
    assert asking.cancelled_caught
    assert desk.vault.state == LOCKED
    assert desk.place.arena.in_use == 0


async def test_a_lock_while_the_phone_is_asked_ends_it(
    autojump_clock: trio.testing.MockClock, desk: Desk
) -> None:
    await desk.pair()
    desk.vault.lock()
    asked = trio.Event()

    def answer_after_a_lock(request: dict[str, object], result: str) -> dict[str, object]:
        desk.vault.lock()
        asked.set()
        return {"result": result}

    desk.phone.mood = answer_after_a_lock
    with pytest.raises((LockedError, DeniedError, RequestTimeoutError)):
        await desk.phones.unlock(desk.on_stage, patience=20)
    assert asked.is_set()
    assert desk.vault.state == LOCKED


async def test_unlocked_by_passphrase_meanwhile(autojump_clock: trio.testing.MockClock, desk: Desk) -> None:
    await desk.pair()
    desk.vault.lock()
    desk.phone.mood = silent
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(BadRequestError, match="unlocked already"):
                await desk.unlock()

        nursery.start_soon(ask)
        await desk.relay.until(lambda: desk.phone.requests.count("nip44_decrypt") == 2)
        await desk.place.unlock(desk.vault)
        desk.phone.mood = lambda request, result: {"result": result}  # at the next repetition
    assert value_of(desk.vault, "TOKEN") == "one"


async def test_a_pairing_that_is_gone_is_named(autojump_clock: trio.testing.MockClock, desk: Desk) -> None:
    await desk.pair()
    desk.path.unlink()
    desk.vault.lock()
    with pytest.raises(NotFoundError, match="no pairing for slot phone"):
        await desk.unlock()


# --- a renewal that is cut short ------------------------------------------------------------------------------------


class Stop(BaseException):
    """The process is killed here."""


@pytest.mark.parametrize("point", ["before the pepper", "before the vault", "before the end", "after it"])
async def test_killed_at_any_point_of_a_renewal_it_opens(
    autojump_clock: trio.testing.MockClock, desk: Desk, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.pair()
    desk.vault.lock()
    saves = {"before the pepper": 1, "before the end": 2}

    class Killed(FileStore):
        left = saves.get(point, math.inf)

        def write(self, document: object) -> None:
            self.left -= 1
            if self.left <= 0:
                raise Stop
            super().write(document)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    pairings = Pairings(desk.place.arena, Killed(desk.path))
    network = Network(dial=desk.relay.dial, clock=lambda: 1_800_000_000, jitter=lambda: 0.0)
    signers = Signers(desk.place.arena, "box.lan", enabled=True, network=network)
    phones = Phones(desk.place.arena, desk.vault, pairings, signers)
    if point == "before the vault":

        async def killed(*args: object, **more: object) -> None:
            raise Stop

        monkeypatch.setattr(desk.vault, "renew_slot", killed)
    if point == "after it":
        await phones.unlock(desk.on_stage)
    else:
        with pytest.raises(Stop):
            await phones.unlock(desk.on_stage)
    monkeypatch.undo()
    for _ in range(2):  # and again, by what the first of these left
        desk.vault.lock()
        assert await desk.unlock() == "phone"
        assert value_of(desk.vault, "TOKEN") == "one"
    assert '"old":null' in desk.path.read_text()


async def test_a_renewal_that_cannot_be_stored_leaves_the_vault_open_and_the_slot_good(
    autojump_clock: trio.testing.MockClock, desk: Desk
) -> None:
    await desk.pair()
    desk.vault.lock()
    desk.path.with_name("pairing.json.new").mkdir()
    assert await desk.unlock() == "phone"
    (text,) = [text for stage, text in desk.stages if stage == "unrenewed"]
    assert text.startswith("unlocked, but slot phone was not renewed: ")
    assert value_of(desk.vault, "TOKEN") == "one"
    desk.path.with_name("pairing.json.new").rmdir()
    desk.vault.lock()
    assert await desk.unlock() == "phone"


async def test_a_lock_during_the_renewal_is_a_lock(
    autojump_clock: trio.testing.MockClock, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.pair()
    desk.vault.lock()
    renew = desk.vault.renew_slot

    async def locked_at_once(*args: Any, **more: Any) -> None:
        desk.vault.lock()
        await renew(*args, **more)

    monkeypatch.setattr(desk.vault, "renew_slot", locked_at_once)
    with pytest.raises(LockedError):
        await desk.unlock()
    assert desk.vault.state == LOCKED
    assert "unrenewed" not in [stage for stage, _ in desk.stages]
    monkeypatch.undo()
    assert await desk.unlock() == "phone"


# --- proof ----------------------------------------------------------------------------------------------------------


async def test_a_proof_asks_in_its_own_words_and_wants_them_back(
    autojump_clock: trio.testing.MockClock, desk: Desk
) -> None:
    await desk.pair()
    assert await desk.phones.prove("put", desk.on_stage) == "phone"
    assert desk.phone.screen[-1].startswith("avault allow box.lan: put ")
    assert len(desk.phone.screen[-1].split()[-1]) == 64
    await desk.phones.prove("put", desk.on_stage)
    assert desk.phone.screen[-1] != desk.phone.screen[-2]


async def test_a_tap_for_an_unlock_is_none_for_an_action(
    autojump_clock: trio.testing.MockClock, desk: Desk
) -> None:
    await desk.pair()
    desk.vault.lock()
    await desk.unlock()
    for said in (desk.phone.screen[-1], "avault allow box.lan: rm " + "00" * 32, "yes"):
        desk.phone.mood = lambda request, result, said=said: {"result": said}  # type: ignore[misc]
        with pytest.raises(DeniedError):
            await desk.phones.prove("rm", desk.on_stage)

    def another_action(request: dict[str, object], result: str) -> dict[str, object]:
        return {"result": result.replace(": rm ", ": put ")}

    desk.phone.mood = another_action
    with pytest.raises(DeniedError):
        await desk.phones.prove("rm", desk.on_stage)


async def test_a_locked_vault_proves_nothing(autojump_clock: trio.testing.MockClock, desk: Desk) -> None:
    await desk.pair()
    desk.vault.lock()
    with pytest.raises(LockedError):
        await desk.phones.prove("rm", desk.on_stage)


# --- the rest -------------------------------------------------------------------------------------------------------


async def test_a_rekey_keeps_the_phones_whose_keys_are_at_hand(
    autojump_clock: trio.testing.MockClock, desk: Desk
) -> None:
    await desk.pair()
    await desk.pair()
    Pairings(desk.place.arena, FileStore(desk.path)).forget("phone-2")
    with desk.place.secret("another passphrase") as given:
        dropped = await desk.vault.rekey(given, CHEAP, "passphrase", desk.phones.reseal)
    assert dropped == ["phone-2"]
    desk.vault.lock()
    assert await desk.unlock() == "phone"
    assert value_of(desk.vault, "TOKEN") == "one"


async def test_a_removed_phone_is_told_and_forgotten(
    autojump_clock: trio.testing.MockClock, desk: Desk
) -> None:
    slot = await desk.pair()
    content = desk.vault.slot_content(slot)
    await desk.vault.remove_slot(slot)
    await desk.phones.forget(slot, content)
    assert desk.phone.requests[-1] == "logout"
    assert desk.path.read_text() == "{}"


async def test_a_removed_phone_that_does_not_answer_is_forgotten_all_the_same(
    autojump_clock: trio.testing.MockClock, desk: Desk
) -> None:
    slot = await desk.pair()
    content = desk.vault.slot_content(slot)
    await desk.vault.remove_slot(slot)
    desk.phone.mood = silent
    before = trio.current_time()
    await desk.phones.forget(slot, content)
    assert trio.current_time() - before == pytest.approx(GOODBYE, abs=0.5)
    assert desk.path.read_text() == "{}"


async def test_no_secret_is_in_any_stage_or_file_but_its_own(
    autojump_clock: trio.testing.MockClock, desk: Desk
) -> None:
    await desk.pair()
    desk.vault.lock()
    await desk.unlock()
    tokens = [text.split()[-1] for text in desk.phone.screen]
    written = desk.place.file.read_text() + desk.path.read_text() + repr(desk.stages)
    assert not any(token in written for token in tokens)
