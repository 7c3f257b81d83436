"""The lines of the record: one JSON object each, ASCII, each with the SHA-256 of the line before.

An entry::

    {"n":12,"time":1700000000,"prev":"<hex>","action":"get_secret","decision":"allowed","secret":"TOKEN","version":3,
     "agent":"cobot","plugin":"telegram","pid":7,"uid":1001,"unit":null,"exe":"/usr/bin/python3","reason":null}

(on one line; ``"count":N`` follows where the line stands for N refusals of the same kind), and a checkpoint::

    {"n":13,"time":1700000000,"prev":"<hex>","action":"checkpoint","key":"<hex>","sig":"<hex>"}

*prev* is the hash of the bytes of the line before, without its newline; 64 zeros in the first. *key* is the vault's
public key, *sig* a BIP-340 signature of the tagged hash (BIP-340's construction, tag `TAG`) of all bytes of the
checkpoint's line before ``,"sig"``. A checkpoint may also carry, behind *key*, *after*: the key before this one, said
by the new key; and *next*: the key that follows, said by the old one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from hashlib import sha256
from json.encoder import encode_basestring_ascii as _quote
from typing import Any, NamedTuple

TAG = "avault/record/checkpoint"
NO_HASH = "0" * 64
CHECKPOINT = "checkpoint"
GET = "get_secret"
ALLOWED = "allowed"
REFUSED = "refused"
NOTE = "note"
MAX_EXE = 200
"""Characters of an executable's path that are kept: the caller chooses it, and a path may have 4,095."""

_SHA256 = sha256()  # to be copied: OpenSSL makes one anew in twice the time
_USES = frozenset({GET, "hello"})
_TAG = sha256(TAG.encode("ascii")).digest() * 2
# Quantifiers are possessive: no line, however odd, takes more than one look at each of its bytes.
_TEXT = rb'(?:null|"(?:[ !#-\[\]-~]++|\\["\\bfnrt]|\\u[0-9a-f]{4})*+")'
_NUMBER = rb"(?:null|[0-9]{1,18})"
_LINE = re.compile(
    rb'\{"n":([0-9]{1,18}),"time":([0-9]{1,18}),"prev":"([0-9a-f]{64})","action":"([a-z_]+)"'
    rb'(?:,"decision":"([a-z]+)","secret":(?:null|"([A-Za-z0-9_.-]+)"),"version":%(number)b,"agent":%(text)b'
    rb',"plugin":%(text)b,"pid":%(number)b,"uid":%(number)b,"unit":%(text)b,"exe":%(text)b,"reason":%(text)b'
    rb'(?:,"times":[0-9]{1,18})?|,"key":"[0-9a-f]{64}"[a-z0-9",:]*)\}' % {b"number": _NUMBER, b"text": _TEXT}
)
_CHECKPOINT = re.compile(
    rb'(\{"n":[0-9]+,"time":[0-9]+,"prev":"[0-9a-f]{64}","action":"checkpoint","key":"([0-9a-f]{64})"'
    rb'(?:,"after":"([0-9a-f]{64})")?(?:,"next":"([0-9a-f]{64})")?)'
    rb',"sig":"([0-9a-f]{128})"\}'
)


class Entry(NamedTuple):
    """What one line says, apart from its place in the chain. *times* is None but for coalesced refusals."""

    action: str
    decision: str
    secret: str | None = None
    version: int | None = None
    agent: str | None = None
    plugin: str | None = None
    pid: int | None = None
    uid: int | None = None
    unit: str | None = None
    exe: str | None = None
    reason: str | None = None
    times: int | None = None


class Noted(NamedTuple):
    """An entry, and its line but for its place in the chain; one may be written any number of times.

    *given* names the secret, if a plugin is given one. *is_use*: whether it is what plugins do all the time.
    """

    entry: Entry
    body: str
    given: str | None
    is_use: bool


_FIELDS = {"n", "time", *Entry._fields} - {"times"}


class Line(NamedTuple):
    """What is needed of any line."""

    number: int
    time: int
    prev: str
    action: str
    decision: str | None
    secret: str | None


class Checkpoint(NamedTuple):
    """What a checkpoint says; *after* and *next* are keys."""

    digest: bytes
    key: str
    after: str | None
    next: str | None
    signature: bytes


def hash_of(line: bytes) -> str:
    """Return the hash by which the next line names *line* (which is without its newline)."""
    return sha256(line).hexdigest()


def _ascii(part: bytes | None) -> str | None:
    return None if part is None else part.decode("ascii")


def _text(value: str | None) -> str:
    return "null" if value is None else _quote(value)


def _number(value: int | None) -> int | str:
    return "null" if value is None else value


def chained(noted: Iterable[Noted], time: int, number: int, last: str) -> tuple[bytes, str]:
    """Return the lines of *noted*, which follow line *number* with the hash *last*; and the hash of the last of them."""
    data = b""
    for one in noted:
        number += 1
        line = f'{{"n":{number},"time":{time},"prev":"{last}",{one.body}'.encode("ascii")
        digest = _SHA256.copy()  # as `hash_of`: this is done for each request
        digest.update(line)
        last = digest.hexdigest()
        data += line + b"\n"
    return data, last


def note(entry: Entry) -> Noted:
    """Return *entry* as it will be written."""
    is_use = entry.decision == ALLOWED and entry.action in _USES
    given = entry.secret if is_use and entry.action == GET else None
    return Noted(entry, _body(entry), given, is_use)


def _body(entry: Entry) -> str:
    action, decision, secret, version, agent, plugin, pid, uid, unit, exe, reason, times = entry
    tail = "" if times is None else f',"times":{times}'
    return (
        f'"action":{_quote(action)},"decision":{_quote(decision)},"secret":{_text(secret)}'
        f',"version":{_number(version)},"agent":{_text(agent)},"plugin":{_text(plugin)},"pid":{_number(pid)}'
        f',"uid":{_number(uid)},"unit":{_text(unit)},"exe":{_text(exe and exe[:MAX_EXE])}'
        f',"reason":{_text(reason)}{tail}}}'
    )


def checkpoint_line(
    number: int,
    time: int,
    prev: str,
    key: str,
    sign: Callable[[bytes], bytes],
    *,
    after: str | None = None,
    next_key: str | None = None,
) -> bytes:
    """Return the line of a checkpoint by *key*, which *sign* signs with, without a newline."""
    head = f'{{"n":{number},"time":{time},"prev":"{prev}","action":"checkpoint","key":"{key}"'
    head += f',"after":"{after}"' if after else ""
    head += f',"next":"{next_key}"' if next_key else ""
    return f'{head},"sig":"{sign(_digest(head.encode("ascii"))).hex()}"}}'.encode("ascii")


def _digest(head: bytes) -> bytes:
    return sha256(_TAG + head).digest()


def parse(line: bytes) -> Line | None:
    """Return what is needed of *line*; None if it is not in the one form of an entry, or nearly that of a checkpoint."""
    found = _LINE.fullmatch(line)
    if found is None:
        return None
    number, time, prev, action, decision, secret = found.groups()
    return Line(
        int(number),
        int(time),
        prev.decode(),
        action.decode(),
        _ascii(decision),
        _ascii(secret),
    )


def parse_checkpoint(line: bytes) -> Checkpoint | None:
    """Return what the checkpoint *line* says; None if it is not in the one form of a checkpoint."""
    found = _CHECKPOINT.fullmatch(line)
    if found is None:
        return None
    head, key, after, following, signature = found.groups()
    return Checkpoint(
        _digest(head),
        key.decode(),
        _ascii(after),
        _ascii(following),
        bytes.fromhex(signature.decode()),
    )


def to_wire(line: bytes) -> dict[str, Any] | None:
    """Return an entry as the operator is sent it; None if the line is damaged."""
    try:
        entry: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    entry.pop("prev", None)
    return entry if entry.keys() >= _FIELDS else None
