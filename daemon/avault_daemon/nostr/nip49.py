"""NIP-49: a secret key under a passphrase, as ``ncryptsec1…``. Blocks for as long as scrypt takes."""

from __future__ import annotations

from typing import NamedTuple

from avault_protocol import BadRequestError, CorruptError, WrongPassphraseError

from ..memory import sodium
from ..memory.arena import Arena, Slot
from . import bech32
from .keys import SECRET, SecretKey

PREFIX = "ncryptsec"
MIN_LOG_N = 16
MAX_LOG_N = 22
"""Cost: scrypt takes 2**(log_n + 10) bytes, so 64 MiB to 4 GiB."""

_VERSION = 2
_SALT = 16
_NONCE = 24
_SEALED = SECRET + sodium.TAG
_SIZE = 2 + _SALT + _NONCE + 1 + _SEALED


class _Parts(NamedTuple):
    log_n: int
    salt: bytes
    nonce: bytes
    security: bytes
    sealed: bytes


def encrypt(
    arena: Arena,
    secret: SecretKey | Slot,
    passphrase: Slot,
    log_n: int,
    *,
    salt: bytes | None = None,
    nonce: bytes | None = None,
    security: int = 1,
) -> str:
    """Return the secret key (or 32 bytes in a slot) under the passphrase, which the slot holds exactly, in NFKC.

    *salt*: 16 bytes, *nonce*: 24, both of chance. *security*: 0 if the key was ever handled insecurely, 1 if not, 2 if
    that is unknown. Raises BadRequestError if *log_n* is not from 1 to `MAX_LOG_N`.
    """
    if not 1 <= log_n <= MAX_LOG_N:
        raise BadRequestError(f"log_n {log_n}, not from 1 to {MAX_LOG_N}")
    salt = sodium.random(_SALT) if salt is None else salt
    nonce = sodium.random(_NONCE) if nonce is None else nonce
    head, ad = bytes((_VERSION, log_n)) + salt + nonce, bytes((security,))
    if len(head) != 2 + _SALT + _NONCE or security > 2:
        raise ValueError("salt, nonce or security byte is not what NIP-49 wants")
    with arena.take(SECRET + SECRET + _SEALED) as slot:
        key, plain, sealed = (slot.address + SECRET * index for index in range(3))
        if isinstance(secret, SecretKey):
            secret.copy_to(plain)
        else:
            sodium.copy(plain, secret.address, SECRET)
        sodium.scrypt(key, passphrase.address, passphrase.size, salt, log_n)
        sodium.xchacha20poly1305_encrypt(sealed, plain, SECRET, ad, nonce, key)
        return bech32.encode(PREFIX, head + ad + slot.view[2 * SECRET :])


def decrypt(
    arena: Arena, ncryptsec: str, passphrase: Slot, *, min_log_n: int = MIN_LOG_N, max_log_n: int = MAX_LOG_N
) -> Slot:
    """Return the secret, 32 bytes; whether they are a secret key is not checked.

    Raises CorruptError if *ncryptsec* is malformed or its cost is out of bounds (before any memory is taken),
    WrongPassphraseError if the tag is wrong.
    """
    parts = _parse(ncryptsec)
    if not min_log_n <= parts.log_n <= max_log_n:
        raise CorruptError(f"a cost of log_n {parts.log_n}, not from {min_log_n} to {max_log_n}")
    secret = arena.take(SECRET)
    try:
        with arena.take(SECRET) as key:
            sodium.scrypt(key.address, passphrase.address, passphrase.size, parts.salt, parts.log_n)
            right = sodium.xchacha20poly1305_decrypt(
                secret.address, parts.sealed, _SEALED, parts.security, parts.nonce, key.address
            )
        if not right:
            raise WrongPassphraseError
    except BaseException:
        secret.release()
        raise
    return secret


def log_n_of(ncryptsec: str) -> int:
    """Return the cost; raise CorruptError if *ncryptsec* is malformed."""
    return _parse(ncryptsec).log_n


def _parse(ncryptsec: str) -> _Parts:
    try:
        data = bech32.decode(PREFIX, ncryptsec)
    except ValueError as error:
        raise CorruptError(f"not an {PREFIX}: {error}") from None
    if len(data) != _SIZE or data[0] != _VERSION or data[42] > 2:
        raise CorruptError(f"an {PREFIX} of another version or size: {len(data)} bytes")
    return _Parts(data[1], data[2:18], data[18:42], data[42:43], data[43:])
