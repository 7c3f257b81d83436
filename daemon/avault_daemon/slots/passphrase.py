"""The passphrase slot: the vault's key under a passphrase, as NIP-49 has it.

A slot line's content is ``{"type":"passphrase","ncryptsec":"ncryptsec1…"}``; of type ``systemd-credential`` where no
person but the service manager has the passphrase (see `unattended`). Passphrases lie in the arena, as UTF-8 that the client
has brought to NFKC; none of them becomes a Python object here.
"""

from __future__ import annotations

import json
import re
from typing import Literal

from avault_protocol import BadRequestError, CorruptError, TooLargeError
from avault_protocol.limits import MAX_PASSPHRASE, MIN_PASSPHRASE

from ..memory.arena import Arena, Slot
from ..nostr import nip49
from ..nostr.keys import SecretKey

Kind = Literal["passphrase", "systemd-credential"]

TYPE: Kind = "passphrase"
CREDENTIAL: Kind = "systemd-credential"
KINDS = (TYPE, CREDENTIAL)
DEFAULT_LOG_N = 18
"""scrypt takes 2**(18 + 10) bytes, 256 MiB, and most of a second."""

_CONTENT = re.compile(
    r'\{"type":"(?:passphrase|systemd-credential)","ncryptsec":"(ncryptsec1[02-9ac-hj-np-z]{1,200})"\}'
)
# RFC 3629: no surrogates, nothing over U+10FFFF, no overlong form. Applied to memory where it lies, without a copy.
_UTF8 = re.compile(
    rb"(?:[\x00-\x7f]|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}"
    rb"|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2})*+"
)


def is_utf8(view: memoryview) -> bool:
    """Report whether *view* holds UTF-8, without making an object of it."""
    return _UTF8.fullmatch(view) is not None


def check(passphrase: Slot) -> None:
    """Refuse what is no good new passphrase.

    `TooLargeError` over `MAX_PASSPHRASE` bytes, `BadRequestError` unless it is UTF-8 of `MIN_PASSPHRASE` characters or
    more.
    """
    if passphrase.size > MAX_PASSPHRASE:
        raise TooLargeError(f"a passphrase of more than {MAX_PASSPHRASE} bytes")
    if not is_utf8(passphrase.view):
        raise BadRequestError("the passphrase is not UTF-8")
    characters = sum(byte & 0xC0 != 0x80 for byte in passphrase.view)
    if characters < MIN_PASSPHRASE:
        raise BadRequestError(
            f"a passphrase of less than {MIN_PASSPHRASE} characters", hint="several words make a good one"
        )


def make(arena: Arena, key: SecretKey, passphrase: Slot, log_n: int, kind: Kind = TYPE) -> str:
    """Return the content of a slot of *kind* that holds *key*. Blocks: scrypt."""
    ncryptsec = nip49.encrypt(arena, key, passphrase, log_n)
    return json.dumps({"type": kind, "ncryptsec": ncryptsec}, separators=(",", ":"))


def open_key(arena: Arena, content: str, passphrase: Slot, *, min_log_n: int) -> SecretKey:
    """Return the key in the slot of this content. Blocks: scrypt.

    `WrongPassphraseError`; `CorruptError` if the slot is malformed, or its cost out of bounds (before any of it is
    spent).
    """
    return SecretKey.adopt(nip49.decrypt(arena, _ncryptsec(content), passphrase, min_log_n=min_log_n))


def log_n_of(content: str) -> int:
    """Return the cost of the slot of this content; `CorruptError` if it is malformed."""
    return nip49.log_n_of(_ncryptsec(content))


def _ncryptsec(content: str) -> str:
    match = _CONTENT.fullmatch(content)
    if match is None:
        raise CorruptError("a passphrase slot is not in its one form")
    return match[1]
