"""The keyring slot: its one form, and that nothing but its key opens it, in its own place only."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from hypothesis import given, strategies as st

from avault_daemon.memory.arena import Arena, Slot
from avault_daemon.nostr.keys import SecretKey
from avault_daemon.phone.pairings import random_slot
from avault_daemon.slots import keyring as slots
from avault_daemon.slots.keyring import KeyringSlot
from avault_protocol import CorruptError, DeniedError, LockedError

ARENA = Arena(kind="mlock")
FORM = KeyringSlot("0" * 32, "1" * 48, "2" * 96)


@pytest.fixture
def key() -> Generator[SecretKey]:
    key = SecretKey.generate(ARENA)
    yield key
    key.close()


@pytest.fixture
def wrap() -> Generator[Slot]:
    with random_slot(ARENA) as wrap:
        yield wrap


def made(key: SecretKey, wrap: Slot, slot: str = "keyring") -> KeyringSlot:
    return KeyringSlot.parse(slots.make(ARENA, key, slot, slots.new_item(), wrap))


def test_its_key_opens_it(key: SecretKey, wrap: Slot) -> None:
    before = ARENA.in_use
    opened = slots.open_key(ARENA, key.public, "keyring", made(key, wrap), wrap)
    assert opened.public == key.public
    opened.close()
    assert ARENA.in_use == before


def test_nothing_else_does(key: SecretKey, wrap: Slot) -> None:
    content, before = made(key, wrap), ARENA.in_use
    other = made(key, wrap)
    with random_slot(ARENA) as stranger:
        for public, slot, found, by in (
            (key.public, "keyring", content, stranger),
            (key.public, "keyring-2", content, wrap),
            (bytes(32), "keyring", content, wrap),
            (key.public, "keyring", KeyringSlot(content.item, other.nonce, content.sealed), wrap),
        ):
            with pytest.raises(DeniedError):
                slots.open_key(ARENA, public, slot, found, by)
    assert ARENA.in_use == before


@given(st.integers(0, 95), st.integers(1, 15))
def test_every_changed_digit_shows(place: int, by: int) -> None:
    key = SecretKey.generate(ARENA)
    with random_slot(ARENA) as wrap:
        content = made(key, wrap)
        digit = f"{int(content.sealed[place], 16) ^ by:x}"
        sealed = content.sealed[:place] + digit + content.sealed[place + 1 :]
        with pytest.raises(DeniedError):
            slots.open_key(
                ARENA, key.public, "keyring", KeyringSlot(content.item, content.nonce, sealed), wrap
            )
    key.close()


def test_a_key_of_another_vault_is_none_of_this(
    key: SecretKey, wrap: Slot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if somebody who has the keyring's key had put another vault's key there."""
    content, stranger = made(key, wrap), SecretKey.generate(ARENA)

    def associated(public: bytes, slot: str) -> bytes:
        return key.public + slot.encode()

    monkeypatch.setattr(slots, "_associated", associated)
    with pytest.raises(CorruptError, match="another vault"):
        slots.open_key(ARENA, stranger.public, "keyring", content, wrap)
    stranger.close()


def test_nothing_is_sealed_under_a_key_that_was_wiped(key: SecretKey) -> None:
    with ARENA.take(32) as wiped, pytest.raises(LockedError):
        slots.make(ARENA, key, "keyring", slots.new_item(), wiped)


def test_items_have_names_of_their_own() -> None:
    assert len({slots.new_item() for _ in range(100)}) == 100


@given(st.from_regex(r"[0-9a-f]{32}", fullmatch=True), st.from_regex(r"[0-9a-f]{48}", fullmatch=True))
def test_its_form_there_and_back(item: str, nonce: str) -> None:
    slot = KeyringSlot(item, nonce, "ab" * 48)
    assert KeyringSlot.parse(slot.content()) == slot


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        FORM.content() + "\n",
        " " + FORM.content(),
        FORM.content().replace(":", ": "),
        FORM.content().replace("0" * 32, "0" * 31),
        FORM.content().replace("1" * 48, "1" * 50),
        FORM.content().replace("2" * 96, "A" * 96),
        FORM.content().replace("keyring", "nip46"),
        FORM.content()[:-1] + ',"more":1}',
    ],
)
def test_any_other_form_is_refused(content: str) -> None:
    assert KeyringSlot.parse(FORM.content()) == FORM
    with pytest.raises(CorruptError):
        KeyringSlot.parse(content)
