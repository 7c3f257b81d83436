"""The keyring slot: the vault's key under a random key that lies in the keyring of the operator's desktop.

A slot line's content is, in this order and without spaces::

    {"type":"keyring","item":HEX,"nonce":HEX,"sealed":HEX}

*item* names the 32-byte key in the keyring. *sealed* is the vault's secret key by XChaCha20-Poly1305 under that key;
associated data: the vault's public key and the slot's id. The slot is as good as the keyring: whoever reads the item, and
has the file, has the vault.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from avault_protocol import CorruptError, DeniedError, LockedError

from ..memory import sodium
from ..memory.arena import Arena, Slot
from ..nostr.keys import SecretKey

TYPE = "keyring"
KEY = 32
"""Bytes of the key in the keyring."""
_ITEM, _NONCE, _TAG = 16, 24, 16
_CONTENT = re.compile(
    r'\{"type":"keyring","item":"([0-9a-f]{32})","nonce":"([0-9a-f]{48})","sealed":"([0-9a-f]{96})"\}'
)


@dataclass(frozen=True, slots=True)
class KeyringSlot:
    """A keyring slot's content."""

    item: str
    nonce: str
    sealed: str

    def content(self) -> str:
        """Return the content of this slot's line."""
        return f'{{"type":"keyring","item":"{self.item}","nonce":"{self.nonce}","sealed":"{self.sealed}"}}'

    @classmethod
    def parse(cls, content: str) -> KeyringSlot:
        """Return the slot of this content; `CorruptError` unless it is in its one form."""
        if (match := _CONTENT.fullmatch(content)) is None:
            raise CorruptError("a keyring slot is not in its one form")
        return cls(*match.groups())


def new_item() -> str:
    """Return a name for an item that no keyring has yet."""
    return sodium.random(_ITEM).hex()


def make(arena: Arena, key: SecretKey, slot: str, item: str, wrap: Slot) -> str:
    """Return the content of the slot *slot* that holds *key* under *wrap*, the key in *item*.

    `LockedError` if *wrap* was wiped: what is sealed under zeroes is open to anybody.
    """
    nonce = sodium.random(_NONCE)
    with arena.take(KEY) as secret, arena.take(KEY + _TAG) as out:
        key.copy_to(secret.address)
        data = _associated(key.public, slot)
        sodium.xchacha20poly1305_encrypt(out.address, secret.address, KEY, data, nonce, wrap.address)
        if sodium.is_zero(wrap.address, KEY):
            raise LockedError("the vault was locked meanwhile")
        return KeyringSlot(item, nonce.hex(), bytes(out.view).hex()).content()


def open_key(arena: Arena, public: bytes, slot: str, content: KeyringSlot, wrap: Slot) -> SecretKey:
    """Return the key of the vault *public* that *wrap* opens; `DeniedError` if it does not."""
    secret, sealed = arena.take(KEY), bytes.fromhex(content.sealed)
    data, nonce = _associated(public, slot), bytes.fromhex(content.nonce)
    if not sodium.xchacha20poly1305_decrypt(secret.address, sealed, len(sealed), data, nonce, wrap.address):
        secret.release()
        raise DeniedError(f"what the keyring holds does not open slot {slot}")
    key = SecretKey.adopt(secret)
    if key.public != public:
        key.close()
        raise CorruptError(f"slot {slot} holds the key of another vault")
    return key


def _associated(public: bytes, slot: str) -> bytes:
    return public + slot.encode("ascii")
