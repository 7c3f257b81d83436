"""The phone slot: what it takes to open it, and that nothing less does."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Generator
from contextlib import ExitStack, suppress

import nacl.bindings
import pytest
from hypothesis import given, strategies as st

from avault_daemon.memory import sodium
from avault_daemon.memory.arena import Arena, Slot
from avault_daemon.nostr.keys import SecretKey
from avault_daemon.nostr.nip44 import Conversation
from avault_daemon.slots import phone
from avault_daemon.slots.phone import Phone, PhoneSlot
from avault_protocol import CorruptError, DeniedError


class Desk:
    """A vault, an operator and their secrets, all in one arena."""

    def __init__(self) -> None:
        self.arena = Arena()
        self.stack = ExitStack()
        self.vault, self.operator = self.key(), self.key()
        self.token, self.pepper = self.secret(), self.secret()
        self.phone = Phone(self.operator.public.hex(), "ab" * 32, ("wss://relay.example",))

    def key(self) -> SecretKey:
        key = SecretKey.generate(self.arena)
        self.stack.callback(key.close)
        return key

    def secret(self) -> Slot:
        slot = self.stack.enter_context(self.arena.take(phone.KEY))
        sodium.random_into(slot.address, phone.KEY)
        return slot

    def make(self, slot: str = "phone") -> PhoneSlot:
        content = phone.make(self.arena, self.vault, slot, self.phone, "box.lan", self.token, self.pepper)
        return PhoneSlot.parse(content)

    def opens(
        self, made: PhoneSlot, pepper: Slot | None = None, slot: str = "phone", token: Slot | None = None
    ) -> bool:
        try:
            key = phone.open_key(
                self.arena, self.vault.public, slot, made, token or self.token, pepper or self.pepper
            )
        except DeniedError:
            return False
        with self.arena.take(phone.KEY) as mine, self.arena.take(phone.KEY) as found:
            self.vault.copy_to(mine.address)
            key.copy_to(found.address)
            assert mine.view == found.view
        key.close()
        return True


@pytest.fixture
def desk() -> Generator[Desk]:
    desk = Desk()
    yield desk
    desk.stack.close()
    assert desk.arena.in_use == 0


def test_token_and_pepper_open_it(desk: Desk) -> None:
    made = desk.make()
    assert desk.opens(made)
    assert (made.operator, made.signer, made.relays) == (
        desk.operator.public.hex(),
        "ab" * 32,
        desk.phone.relays,
    )


def test_nothing_less_opens_it(desk: Desk) -> None:
    made = desk.make()
    assert not desk.opens(made, desk.secret())
    assert not desk.opens(made, token=desk.secret())
    assert not desk.opens(made, slot="phone-2")
    for changed in (
        PhoneSlot(desk.vault.public.hex(), made.signer, made.relays, made.payload, made.nonce, made.sealed),
        PhoneSlot(made.operator, "cd" * 32, made.relays, made.payload, made.nonce, made.sealed),
        PhoneSlot(made.operator, made.signer, made.relays, made.payload, "00" * 24, made.sealed),
        PhoneSlot(made.operator, made.signer, made.relays, made.payload, made.nonce, "00" * 48),
    ):
        assert not desk.opens(changed)


def test_another_vaults_key_in_it_is_corrupt(desk: Desk) -> None:
    other = desk.key()
    content = phone.make(desk.arena, other, "phone", desk.phone, "box", desk.token, desk.pepper)
    with pytest.raises(DeniedError):  # the vault's public key is bound in
        phone.open_key(
            desk.arena, desk.vault.public, "phone", PhoneSlot.parse(content), desk.token, desk.pepper
        )


def test_the_phone_reads_what_is_asked_of_it(desk: Desk) -> None:
    made = desk.make()
    conversation = Conversation.between(desk.arena, desk.operator, desk.vault.public)
    with conversation.decrypt(made.payload) as plain:
        assert bytes(plain.view).decode() == f"avault unlock box.lan {bytes(desk.token.view).hex()}"
    conversation.close()


def test_it_is_sealed_as_the_docs_say(desk: Desk) -> None:
    """Opened by PyNaCl and the standard library alone."""
    made = desk.make("phone-2")
    prk = hmac.digest(b"phone-2", bytes(desk.token.view) + bytes(desk.pepper.view), "sha256")
    wrap = hmac.digest(prk, b"avault-phone-v1\x01", "sha256")
    data = desk.vault.public + desk.operator.public + bytes.fromhex(made.signer)
    opened = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
        bytes.fromhex(made.sealed), data, bytes.fromhex(made.nonce), wrap
    )
    with desk.arena.take(phone.KEY) as secret:
        desk.vault.copy_to(secret.address)
        assert bytes(secret.view) == opened
    assert hashlib.sha256(opened).digest()


def test_each_making_is_fresh(desk: Desk) -> None:
    first, second = desk.make(), desk.make()
    assert first.nonce != second.nonce
    assert first.payload != second.payload


GOOD = PhoneSlot("ab" * 32, "cd" * 32, ("wss://a.example",), "payload", "00" * 24, "11" * 48)


@pytest.mark.parametrize(
    "change",
    [
        {"type": "passphrase"},
        {"operator": "ab" * 31},
        {"operator": "AB" * 32},
        {"signer": 7},
        {"relays": []},
        {"relays": ["wss://a.example"] * 9},
        {"relays": [1]},
        {"relays": "wss://a.example"},
        {"payload": None},
        {"nonce": "00" * 23},
        {"sealed": "11" * 47},
        {"more": 1},
        {"sealed": ...},
    ],
)
def test_odd_contents_are_corrupt(change: dict[str, object]) -> None:
    fields: dict[str, object] = {**json.loads(GOOD.content()), **change}
    content = json.dumps({k: v for k, v in fields.items() if v is not ...}, separators=(",", ":"))
    with pytest.raises(CorruptError):
        PhoneSlot.parse(content)


@pytest.mark.parametrize("content", ["", "[]", "{}", "[[1,2]]", GOOD.content() + " ", "[" * 5000, "null"])
def test_what_is_no_content_is_corrupt(content: str) -> None:
    with pytest.raises(CorruptError):
        PhoneSlot.parse(content)


@given(st.text())
def test_any_text_is_refused_or_in_its_one_form(content: str) -> None:
    with suppress(CorruptError):
        assert PhoneSlot.parse(content).content() == content


def test_content_round_trip() -> None:
    assert PhoneSlot.parse(GOOD.content()) == GOOD


@given(st.binary(max_size=80))
def test_hex_into(data: bytes) -> None:
    out = bytearray(2 * len(data))
    phone.hex_into(memoryview(out), memoryview(data))
    assert out.decode() == data.hex()
