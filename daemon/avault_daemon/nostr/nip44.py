"""NIP-44, version 2: encryption between two keys, or of a key with itself.

Conversation key, message keys and plaintexts lie in the arena only. The extended length prefix (text of June 2026) is
read and written. A payload is authenticated by its MAC, under a key that both sides hold; who wrote it is for the
signature of the event around it.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from os import urandom
from types import TracebackType
from typing import Self

from avault_protocol import BadRequestError, CorruptError, LockedError, TooLargeError

from ..memory import sodium
from ..memory.arena import Arena, Slot
from .keys import SecretKey

KEY = 32
NONCE = 32
MAC = 32
VERSION = b"\2"
SALT = b"nip44-v2"
LONG = 65536
"""From this plaintext length on, the prefix is 6 bytes (zero, zero, u32), below it 2 (u16)."""
MAX_PLAINTEXT = 128 * 1024
"""Bytes, our own limit: a value of 32 KiB fits many times over, and one message stays far below the arena's 4 MiB."""

# Where things lie in the slot that a message is worked on in: its three keys, then the MAC as it should be (once HKDF
# no longer needs that room), then the message itself.
_CHACHA_KEY, _CHACHA_NONCE, _MAC_KEY, _MAC = 0, 32, 44, 76
_TEXT = 192


def padded_length(length: int) -> int:
    """Return the bytes that a plaintext of *length* bytes is padded to, its prefix not counted."""
    if length <= 32:
        return 32
    power = 1 << (length - 1).bit_length()
    chunk = 32 if power <= 256 else power // 8
    return chunk * ((length - 1) // chunk + 1)


def _prefix(length: int) -> bytes:
    return length.to_bytes(2, "big") if length < LONG else b"\0\0" + length.to_bytes(4, "big")


def _payload_length(plaintext: int) -> int:
    raw = 1 + NONCE + len(_prefix(plaintext)) + padded_length(plaintext) + MAC
    return -(-raw // 3) * 4


MIN_PAYLOAD = _payload_length(1)
MAX_PAYLOAD = _payload_length(MAX_PLAINTEXT)
"""Characters of base64."""


class Conversation:
    """What one secret key and one public key share: it encrypts and decrypts. Threads may share it."""

    __slots__ = ("_arena", "_key")

    def __init__(self, arena: Arena, key: Slot) -> None:
        """Take over *key*, the conversation key, 32 bytes."""
        self._arena = arena
        self._key = key

    @classmethod
    def between(cls, arena: Arena, key: SecretKey, public: bytes) -> Conversation:
        """Derive it; *public* (32 bytes, x only) may be the key's own.

        Raises CorruptError if *public* is no public key, LockedError if the key has been wiped.
        """
        slot = arena.take(KEY)
        try:
            with arena.take(KEY) as shared:
                key.ecdh_x(public, shared.address)
                sodium.hkdf_extract(slot.address, SALT, shared.address, KEY)
        except BaseException:
            slot.release()
            raise
        return cls(arena, slot)

    def encrypt(self, plain: Slot, length: int | None = None, nonce: bytes | None = None) -> str:
        """Return the payload of the first *length* bytes of *plain*; *nonce*: 32 bytes that are never used twice.

        Raises BadRequestError if there is no byte, TooLargeError over `MAX_PLAINTEXT`, LockedError if the key has been
        wiped meanwhile.
        """
        length = plain.size if length is None else length
        nonce = urandom(NONCE) if nonce is None else nonce
        if length > plain.size:
            raise ValueError(f"{length} bytes of a slot of {plain.size}")
        prefix = _message_prefix(length)
        size = len(prefix) + padded_length(length)
        message = len(VERSION) + NONCE + size + MAC
        with self._arena.take(_TEXT + message) as slot:
            self._derive(slot, nonce)
            view, keys = slot.view, slot.address
            text = keys + _TEXT + len(VERSION) + NONCE
            view[_TEXT : _TEXT + len(VERSION) + NONCE + len(prefix)] = VERSION + nonce + prefix
            sodium.copy(text + len(prefix), plain.address, length)
            sodium.chacha20_xor(text, text, size, keys + _CHACHA_NONCE, keys + _CHACHA_KEY)
            sodium.hmac_sha256(text + size, text - NONCE, NONCE + size, keys + _MAC_KEY)
            self._check_whole()
            return b2a_base64(view[_TEXT : _TEXT + message], newline=False).decode()

    def decrypt(self, payload: str | bytes) -> Slot:
        """Return the plaintext of *payload*, in a slot of exactly its size.

        Raises CorruptError that says what is wrong with it, TooLargeError over `MAX_PAYLOAD`, LockedError if the key
        has been wiped meanwhile.
        """
        nonce, sealed, mac = _decode(payload)
        size = len(sealed)
        slot = self._arena.take(_TEXT + size)
        try:
            keys = slot.address
            self._derive(slot, nonce)
            sodium.hmac_sha256(keys + _MAC, nonce + sealed, NONCE + size, keys + _MAC_KEY)
            if not sodium.memcmp(keys + _MAC, mac, MAC):
                self._check_whole()
                raise CorruptError("invalid MAC: another key's payload, or an altered one")
            sodium.chacha20_xor(keys + _TEXT, sealed, size, keys + _CHACHA_NONCE, keys + _CHACHA_KEY)
            self._check_whole()
            return slot.narrow(*_unpad(slot.view, size))
        except BaseException:
            slot.release()
            raise

    def _derive(self, slot: Slot, nonce: bytes) -> None:
        if len(nonce) != NONCE:
            raise ValueError(f"a nonce of {len(nonce)} bytes, not {NONCE}")
        sodium.hkdf_expand(slot.address, self._key.address, nonce, 76)

    def _check_whole(self) -> None:
        # lock() may wipe the arena between two calls; then what was computed is worthless, or worse, encrypted under
        # zeroes. A wipe is never undone, so a key that is whole at the end was whole throughout.
        if sodium.is_zero(self._key.address, KEY):
            raise LockedError("the key has been wiped")

    def close(self) -> None:
        """Wipe the key. Doing so twice is fine."""
        self._key.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _message_prefix(length: int) -> bytes:
    if length < 1:
        raise BadRequestError("nothing to encrypt: NIP-44 wants at least one byte")
    if length > MAX_PLAINTEXT:
        raise TooLargeError(f"a plaintext of {length} bytes, more than {MAX_PLAINTEXT}")
    return _prefix(length)


def _decode(payload: str | bytes) -> tuple[bytes, bytes, bytes]:
    """Return nonce, ciphertext and MAC."""
    if payload[:1] in ("", b"", "#", b"#"):
        raise CorruptError("unknown version: this encryption is not supported")
    if len(payload) > MAX_PAYLOAD:
        raise TooLargeError(f"a payload of {len(payload)} characters, more than {MAX_PAYLOAD}")
    if len(payload) < MIN_PAYLOAD:
        raise CorruptError(f"invalid payload size: {len(payload)} characters, less than {MIN_PAYLOAD}")
    raw = _strict_base64(payload)
    if raw[:1] != VERSION:
        raise CorruptError(f"unknown version {raw[0]}: this encryption is not supported")
    if len(raw) < 99:
        raise CorruptError(f"invalid data size: {len(raw)} bytes, less than 99")
    return raw[1:33], raw[33:-MAC], raw[-MAC:]


def _strict_base64(payload: str | bytes) -> bytes:
    """Decode base64 that is what `b2a_base64` makes: no other characters, the bits beyond the end zero."""
    try:
        raw = a2b_base64(payload, strict_mode=True)
    except ValueError:
        raise CorruptError("invalid base64") from None
    end = b2a_base64(raw[-(len(raw) % 3 or 3) :], newline=False)
    if payload[-4:] not in (end, end.decode()):
        raise CorruptError("invalid base64: bits beyond its end")
    return raw


def _unpad(view: memoryview, size: int) -> tuple[int, int]:
    """Return where in *view* the plaintext starts, and its length."""
    length, start = int.from_bytes(view[_TEXT : _TEXT + 2], "big"), 2
    if length == 0:
        length, start = int.from_bytes(view[_TEXT + 2 : _TEXT + 6], "big"), 6
        if length < LONG:
            raise CorruptError("invalid padding: a long prefix of a short text")
    if size != start + padded_length(length):
        raise CorruptError("invalid padding: not of the length that the text has")
    return _TEXT + start, length
