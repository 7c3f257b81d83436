"""NIP-01 events, and the one form in which each is a line of a file.

``{"id":"…","pubkey":"…","created_at":N,"kind":N,"tags":[["d","…"]],"content":"…","sig":"…"}``: no spaces, UTF-8.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from avault_protocol import CorruptError

from .keys import SecretKey, verify

MAX_TIME = 2**53 - 1
"""Seconds; the largest integer that every JSON library reads as it is."""
MAX_KIND = 65535

Tags = tuple[tuple[str, ...], ...]

# NIP-01 escapes seven characters and has all others stand as they are, which for these is no JSON: libraries escape
# them, each in its way, and then disagree on the event's id. And lone surrogates are no UTF-8.
_UNFIT = re.compile("[\x00-\x07\x0b\x0e-\x1f\ud800-\udfff]")
_HEX = re.compile("[0-9a-f]+")
_FIELDS = ("id", "pubkey", "created_at", "kind", "tags", "content", "sig")


@dataclass(frozen=True, slots=True)
class Event:
    """A signed event. Every `Event` is well-formed; whether id and signature are right is asked separately.

    Raises ValueError for fields that are not.
    """

    id: str
    pubkey: str
    created_at: int
    kind: int
    tags: Tags
    content: str
    sig: str

    def __post_init__(self) -> None:
        _check_hex("id", self.id, 64)
        _check_hex("sig", self.sig, 128)
        _check_hex("pubkey", self.pubkey, 64)
        _check_int("created_at", self.created_at, MAX_TIME)
        _check_int("kind", self.kind, MAX_KIND)
        if not _are_tags(self.tags):
            raise ValueError("tags is not a list of lists of strings that NIP-01 can hold")
        if not _is_text(self.content):
            raise ValueError("content is not a string that NIP-01 can hold")

    @classmethod
    def signed(
        cls, key: SecretKey, created_at: int, kind: int, tags: Tags, content: str, aux: bytes | None = None
    ) -> Event:
        """Make an event by *key*; *aux*: 32 bytes of chance for the signature.

        Raises ValueError for fields that are not well-formed, LockedError if the key has been wiped.
        """
        pubkey = key.public.hex()
        digest = _digest(pubkey, created_at, kind, tags, content)
        return cls(digest.hex(), pubkey, created_at, kind, tags, content, key.sign(digest, aux).hex())

    @classmethod
    def parse(cls, line: bytes) -> Event:
        """Read a line, without its newline.

        Raises CorruptError unless the line is, byte for byte, what `line` makes of the event.
        """
        try:
            fields: Any = json.loads(line.decode())
        except (ValueError, RecursionError):
            # Its text would quote the line.
            raise CorruptError("not an event: not JSON in UTF-8") from None
        if not _is(fields, dict) or tuple(fields) != _FIELDS:
            raise CorruptError(f"not an event: its fields are not {', '.join(_FIELDS)}")
        try:
            event = cls(**{**fields, "tags": _frozen(fields["tags"])})
        except ValueError as error:
            raise CorruptError(f"not an event: {error}") from None
        if event.line() != line:
            raise CorruptError("an event in a form other than its own")
        return event

    @classmethod
    def from_wire(cls, fields: object) -> Event:
        """Take an event that a relay sent, parsed already: its fields in any order, and others that are ignored.

        Raises CorruptError if one is missing or not well-formed.
        """
        if not _is(fields, dict):
            raise CorruptError("not an event: no object")
        given: Any = fields
        try:
            return cls(**{field: given[field] for field in _FIELDS} | {"tags": _frozen(given["tags"])})
        except KeyError as missing:
            raise CorruptError(f"not an event: no {missing.args[0]}") from None
        except ValueError as error:
            raise CorruptError(f"not an event: {error}") from None

    def to_wire(self) -> dict[str, object]:
        """Return the event as an object to send."""
        return {field: getattr(self, field) for field in _FIELDS}

    def line(self) -> bytes:
        """Return the event as a line, without a newline."""
        return _dumps(self.to_wire())

    def valid_id(self) -> bool:
        """Report whether the id is the hash of the other fields."""
        return self.id == _digest(self.pubkey, self.created_at, self.kind, self.tags, self.content).hex()

    def valid_signature(self) -> bool:
        """Report whether the id is right, and signed by the key that the event names."""
        return self.valid_id() and verify(
            bytes.fromhex(self.pubkey), bytes.fromhex(self.id), bytes.fromhex(self.sig)
        )


def _digest(pubkey: str, created_at: int, kind: int, tags: Tags, content: str) -> bytes:
    return sha256(_dumps([0, pubkey, created_at, kind, tags, content])).digest()


def _dumps(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind)


def _frozen(tags: Any) -> Any:
    return tuple(tuple(tag) if _is(tag, list) else tag for tag in tags) if _is(tags, list) else tags


def _check_hex(name: str, value: object, length: int) -> None:
    if not isinstance(value, str) or len(value) != length or not _HEX.fullmatch(value):
        raise ValueError(f"{name} is not {length} lower-case hex digits")


def _check_int(name: str, value: object, most: int) -> None:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{name} is not an integer from 0 to {most}")


def _are_tags(value: Any) -> bool:
    return _is(value, tuple) and all(_is(tag, tuple) and tag and all(map(_is_text, tag)) for tag in value)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not _UNFIT.search(value)
