"""The phone slot: the vault's key under a token that only the operator's signer can read, and a pepper kept apart.

A slot line's content is, in this order and without spaces::

    {"type":"nip46","operator":HEX,"signer":HEX,"relays":[URL,…],"payload":NIP-44,"nonce":HEX,"sealed":HEX}

*payload* is NIP-44 from the vault's key to the operator's of the text ``avault unlock HOST TOKEN``: what the phone shows
when it decrypts. *sealed* is the vault's secret key by XChaCha20-Poly1305 under HKDF-SHA256(salt the slot's id, input
token and pepper, info ``avault-phone-v1``); associated data: the public keys of vault, operator and signer.

The token alone opens nothing, since signers show it, and may decrypt for others too; the pepper alone opens nothing;
and the tag proves an answer before anything believes it. Tokens and peppers lie in the arena only.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, cast

from avault_protocol import CorruptError, DeniedError

from ..memory import sodium
from ..memory.arena import Arena, Slot
from ..nostr.keys import SecretKey
from ..nostr.nip44 import Conversation

TYPE = "nip46"
KEY = 32
"""Bytes of a token, a pepper, a key."""
_NONCE, _TAG = 24, 16
_INFO = b"avault-phone-v1"
_DIGITS = b"0123456789abcdef"
MAX_RELAYS = 8


@dataclass(frozen=True, slots=True)
class Phone:
    """Whom to ask, and where: public keys in hex, addresses of relays."""

    operator: str
    signer: str
    relays: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PhoneSlot(Phone):
    """A phone slot's content."""

    payload: str
    nonce: str
    sealed: str

    def content(self) -> str:
        """Return the content of this slot's line."""
        return json.dumps({"type": TYPE, **asdict(self)}, separators=(",", ":"), ensure_ascii=True)

    @classmethod
    def parse(cls, content: str) -> PhoneSlot:
        """Return the slot of this content; `CorruptError` unless it is in its one form."""
        try:
            match json.loads(content):
                case {"type": "nip46", "relays": [*relays], **rest}:
                    fields = cast("dict[str, Any]", rest)
                    if (
                        _sound(relays, fields)
                        and (slot := cls(relays=tuple(relays), **fields)).content() == content
                    ):
                        return slot
                case _:
                    pass
        except (ValueError, TypeError, RecursionError):
            pass
        raise CorruptError("a phone slot is not in its one form")


def _sound(relays: list[object], fields: dict[str, Any]) -> bool:
    sizes = {"operator": KEY, "signer": KEY, "nonce": _NONCE, "sealed": KEY + _TAG}
    return (
        all(_is_hex(fields.get(name), size) for name, size in sizes.items())
        and isinstance(fields.get("payload"), str)
        and 0 < len(relays) <= MAX_RELAYS
        and all(isinstance(relay, str) for relay in relays)
    )


def _is_hex(text: object, size: int) -> bool:
    return isinstance(text, str) and len(text) == 2 * size and not text.strip("0123456789abcdef")


def hex_into(view: memoryview, data: memoryview) -> None:
    """Write *data* as hex digits into *view*, which is twice as long, byte by byte: no copy of either is made."""
    for index, byte in enumerate(data):
        view[2 * index] = _DIGITS[byte >> 4]
        view[2 * index + 1] = _DIGITS[byte & 15]


def make(arena: Arena, key: SecretKey, slot: str, phone: Phone, host: str, token: Slot, pepper: Slot) -> str:
    """Return the content of the slot *slot* that holds *key*, for *phone* to open on machine *host*."""
    nonce = sodium.random(_NONCE)
    with (
        arena.take(KEY) as secret,
        _wrapping_key(arena, slot, token, pepper) as wrap,
        arena.take(KEY + _TAG) as out,
    ):
        key.copy_to(secret.address)
        data = _associated(key.public, phone)
        sodium.xchacha20poly1305_encrypt(out.address, secret.address, KEY, data, nonce, wrap.address)
        sealed = bytes(out.view).hex()
    payload = encrypt_text(arena, key, phone.operator, f"avault unlock {host} ", token)
    return PhoneSlot(phone.operator, phone.signer, phone.relays, payload, nonce.hex(), sealed).content()


def open_key(
    arena: Arena, public: bytes, slot: str, content: PhoneSlot, token: Slot, pepper: Slot
) -> SecretKey:
    """Return the key of the vault *public* that *token* and *pepper* open.

    `DeniedError` if they do not: what the signer answered is not what was asked for, or the pepper is another's.
    """
    data, sealed = _associated(public, content), bytes.fromhex(content.sealed)
    secret = arena.take(KEY)
    with _wrapping_key(arena, slot, token, pepper) as wrap:
        opened = sodium.xchacha20poly1305_decrypt(
            secret.address, sealed, len(sealed), data, bytes.fromhex(content.nonce), wrap.address
        )
    if not opened:
        secret.release()
        raise DeniedError(f"the phone's answer does not open slot {slot}")
    key = SecretKey.adopt(secret)
    if key.public != public:
        key.close()
        raise CorruptError(f"slot {slot} holds the key of another vault")
    return key


def encrypt_text(arena: Arena, key: SecretKey, to: str, text: str, secret: Slot) -> str:
    """Return the NIP-44 payload, from *key* to the public key *to*, of *text* and behind it *secret* in hex."""
    head = text.encode("ascii")
    with arena.take(len(head) + 2 * secret.size) as plain:
        plain.view[: len(head)] = head
        hex_into(plain.view[len(head) :], secret.view)
        conversation = Conversation.between(arena, key, bytes.fromhex(to))
        try:
            return conversation.encrypt(plain)
        finally:
            conversation.close()


def _wrapping_key(arena: Arena, slot: str, token: Slot, pepper: Slot) -> Slot:
    wrap = arena.take(KEY + len(_INFO) + 1)  # hkdf_expand may write so far
    with arena.take(3 * KEY) as work:
        both, prk = work.address, work.address + 2 * KEY
        sodium.copy(both, token.address, KEY)
        sodium.copy(both + KEY, pepper.address, KEY)
        sodium.hkdf_extract(prk, slot.encode("ascii"), both, 2 * KEY)
        sodium.hkdf_expand(wrap.address, prk, _INFO, KEY)
    return wrap


def _associated(public: bytes, phone: Phone) -> bytes:
    return public + bytes.fromhex(phone.operator) + bytes.fromhex(phone.signer)
