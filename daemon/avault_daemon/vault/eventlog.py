"""The log that a vault file is: signed NIP-01 events, a line each, in transactions that chained commits close.

The rules are those of docs/vault-format.md. Nothing here knows of secrets, and nothing here touches a disk: bytes in,
verified transactions out. What is about to be written passes the same reader as what is read at a start, so no file is
written that would not be read.

At every reading each commit's id, signature, digest, generation and place in the chain are checked, which covers the
exact bytes of every line; a line's own id and signature are looked at where that is asked for (`strict`), where a
digest does not fit (to name the line), and where no commit covers it (behind the last one).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import NamedTuple

from avault_protocol import CorruptError

from ..nostr.keys import SecretKey, verify

KIND = 30078
COMMIT = "commit"
NOTHING = bytes(32)
"""What the first commit of a file takes for the id of the one before."""

# The one form of a line. Numbers have no leading zero; of the escapes only NIP-01's; no raw control characters (NIP-01
# would have some of them verbatim, which is no JSON, and we write none). `d` is the grammar of docs/vault-format.md.
_LINE = re.compile(
    rb'\{"id":"([0-9a-f]{64})","pubkey":"([0-9a-f]{64})","created_at":([1-9][0-9]{0,14}),"kind":30078,'
    rb'"tags":\[\["d","(slot/[a-z0-9][a-z0-9_-]{0,63}|agent/[a-z0-9][a-z0-9_-]{0,63}|[0-9a-f]{32}|commit)"\]\],'
    rb'"content":"([^"\\\x00-\x1f]*+(?:\\["\\bfnrt][^"\\\x00-\x1f]*+)*+)","sig":"([0-9a-f]{128})"\}\n'
)
_FRAME = (
    b'{"id":"%s","pubkey":"%s","created_at":%s,"kind":30078,"tags":[["d","%s"]],"content":"%s","sig":"%s"}\n'
)
_COMMIT = re.compile(
    rb'\{\\"generation\\":([1-9][0-9]{0,14}),\\"digest\\":\\"([0-9a-f]{64})\\"'
    rb'(?:,\\"compacted_from\\":\\"([0-9a-f]{64})\\")?\}'
)
_AFTER_CONTENT = len('","sig":"') + 128 + len('"}\n')


class Line(NamedTuple):
    """One line that is no commit: a slot, an agent or a secret at one time."""

    d: str
    created_at: int
    raw: bytes
    """The whole line with its newline, as it is in the file."""
    start: int
    """Where the content starts in `raw`."""

    @property
    def content(self) -> bytes:
        """The content as it is in the file, JSON's escapes included."""
        return self.raw[self.start : -_AFTER_CONTENT]

    @property
    def text(self) -> str:
        """The content, JSON's escapes undone."""
        text: str = json.loads(b'"' + self.content + b'"')
        return text

    @classmethod
    def of(cls, raw: bytes) -> Line:
        """Return *raw*, a line with its newline; `CorruptError` unless it has the form of one."""
        match = _match(raw)
        if match is None:
            raise CorruptError("not in the form of a vault's line")
        return cls(match[4].decode(), int(match[3]), raw, match.start(5))


class Head(NamedTuple):
    """A commit: the last of what was read."""

    id: str
    generation: int
    created_at: int


class Transaction(NamedTuple):
    """The lines that one commit closes, and where it ends."""

    lines: list[Line]
    head: Head
    end: int
    """Offset behind the commit line in what was read."""
    number: int
    """Number of the commit's line, from 1."""
    newest: dict[str, int]
    """The times of its lines and of its commit, by `d`."""
    public: str
    compacted_from: str | None
    """Id of the last commit of the file that this one replaced, if this is its first transaction."""


class Tail(NamedTuple):
    """What follows the last whole transaction: whole lines without a commit, a part of a line, or both."""

    start: int
    number: int


@dataclass(slots=True)
class Chain:
    """What it takes to judge the next line of a file: whose it is, its last commit, and each `d`'s newest time."""

    public: str | None = None
    """The vault's public key (hex); of an empty chain None, until the first line says it."""
    head: Head | None = None
    newest: dict[str, int] = field(default_factory=dict[str, int])

    def time_for(self, d: str, now: int) -> int:
        """Return the `created_at` of a new line: the clock's, but always later than the one before."""
        return max(now, self.newest.get(d, 0) + 1)

    def read(
        self, data: bytes, start: int = 0, number: int = 0, *, strict: bool = False
    ) -> Transaction | Tail:
        """Verify the transaction that starts at *start*, before which there were *number* lines; see `accept`."""
        reading = _Reading(self, number)
        end = start
        while raw := _line_at(data, end):
            end += len(raw)
            head = reading.take(raw, strict=strict)
            if head is not None and (public := reading.public) is not None:
                lines, newest, origin = reading.lines, reading.newest, reading.compacted_from
                return Transaction(lines, head, end, reading.number, newest, public, origin)
        reading.check_each()
        return Tail(start, number + 1)

    def accept(self, transaction: Transaction) -> None:
        """Take the transaction for the last one: it is on the disk."""
        self.public = transaction.public
        self.head = transaction.head
        self.newest.update(transaction.newest)


class Log:
    """A whole file, verified; `CorruptError` names the line that is not what it should be.

    *strict* also checks each line's own id and signature.
    """

    def __init__(self, data: bytes, *, strict: bool = False) -> None:
        self.chain = Chain()
        self.lines: list[Line] = []
        self.commits: dict[int, str] = {}
        """Generation -> id; also of the commit that the file was compacted from."""
        self.end = 0
        """Offset behind the last whole transaction."""
        self.number = 0
        """Number of the last commit's line, from 1."""
        self.tail: Tail | None = None
        while self.end < len(data) and self.tail is None:
            self._take(self.chain.read(data, self.end, self.number, strict=strict))
        if self.chain.head is None:
            raise CorruptError(
                "the vault file holds no whole transaction: line 1 and what follows is cut short"
            )

    def _take(self, found: Transaction | Tail) -> None:
        if isinstance(found, Tail):
            self.tail = found
            return
        self.chain.accept(found)
        self.lines += found.lines
        if found.compacted_from is not None:
            self.commits[found.head.generation - 1] = found.compacted_from
        self.commits[found.head.generation] = found.head.id
        self.end, self.number = found.end, found.number

    def refuse_tail(self) -> None:
        """Raise `CorruptError` if something follows the last whole transaction."""
        if self.tail is not None:
            raise CorruptError(f"line {self.tail.number} of the vault file and what follows is cut short")


def genuine_slots(data: bytes, public: str) -> list[Line]:
    """Return the lines of slots in *data* that are the vault *public*'s own, whatever else may be wrong with it."""
    found: list[Line] = []
    for raw in data.split(b"\n"):
        match = _match(raw + b"\n") if b'"slot/' in raw else None
        if match is not None and match[2].decode() == public and _genuine(match):
            found.append(Line.of(raw + b"\n"))
    return found


def _line_at(data: bytes, start: int) -> bytes:
    """Return the whole line at *start*, or nothing if what is there is none.

    A part of a line is what a write leaves that was cut short; zero bytes are what some file systems leave of one.
    """
    end = data.find(b"\n", start) + 1
    if not end or data.find(b"\0", start, end) >= 0:
        return b""
    return data[start:end]


class _Reading:
    """One transaction while it is read."""

    def __init__(self, chain: Chain, number: int) -> None:
        self.chain = chain
        self.public = chain.public
        self.first = number + 1
        self.number = number
        self.lines: list[Line] = []
        self.newest: dict[str, int] = {}
        self.compacted_from: str | None = None
        self._digest = hashlib.sha256(bytes.fromhex(chain.head.id) if chain.head else NOTHING)

    def take(self, raw: bytes, *, strict: bool) -> Head | None:
        """Judge one line; return the head if it is the commit that closes this transaction."""
        self.number += 1
        match = _match(raw)
        if match is None:
            raise self._error("is not in the form of a vault's line")
        self._check_key(match[2].decode())
        d, created_at = match[4].decode(), int(match[3])
        if created_at <= self.newest.get(d, self.chain.newest.get(d, 0)):
            raise self._error(f"is not newer than the line before it for {d}: doubled, or moved")
        if strict and not _genuine(match):
            raise self._error("was altered: its id or signature does not fit it")
        self.newest[d] = created_at
        if d == COMMIT:
            return self._close(match, created_at)
        self._digest.update(raw)
        self.lines.append(Line(d, created_at, raw, match.start(5)))
        return None

    def _check_key(self, public: str) -> None:
        if self.public is None:
            self.public = public
        elif self.public != public:
            raise self._error("is signed by another key than the lines before it")

    def _close(self, match: re.Match[bytes], created_at: int) -> Head:
        content = _COMMIT.fullmatch(match[5])
        if content is None or not _genuine(match):
            raise self._error("is no commit of this vault: altered, or not by its key")
        generation = int(content[1])
        if not self._follows(generation, compacted=content[3] is not None):
            raise self._error(f"is a commit out of its place, of generation {generation}")
        if not self.lines or self._digest.hexdigest() != content[2].decode():
            self.check_each()
            raise self._error("closes other lines than the ones before it: one was removed, added or moved")
        self.compacted_from = content[3].decode() if content[3] else None
        return Head(match[1].decode(), generation, created_at)

    def _follows(self, generation: int, *, compacted: bool) -> bool:
        if self.chain.head is None:
            return compacted == (generation > 1)
        return not compacted and generation == self.chain.head.generation + 1

    def check_each(self) -> None:
        """Raise the error that names the first line which is not genuine on its own."""
        for number, line in enumerate(self.lines, self.first):
            match = _match(line.raw)
            if match is None or not _genuine(match):
                raise CorruptError(
                    f"line {number} of the vault file was altered: its id or signature does not fit it"
                )

    def _error(self, what: str) -> CorruptError:
        return CorruptError(f"line {self.number} of the vault file {what}")


def _match(raw: bytes) -> re.Match[bytes] | None:
    """Match a line, newline included; None if it has another form than the one."""
    match = _LINE.fullmatch(raw)
    if match is not None and not raw.isascii():
        try:
            raw.decode()
        except UnicodeDecodeError:
            return None
    return match


def signed_line(key: SecretKey, d: str, created_at: int, content: str) -> bytes:
    """Return a line by *key*, newline included; `LockedError` if the key has been wiped.

    Whether it has the form of one, and so can be read, is for `Line.of` and `Chain.read` to say.
    """
    escaped = json.dumps(content, ensure_ascii=False)[1:-1].encode()
    parts = key.public.hex().encode(), b"%d" % created_at, d.encode(), escaped
    digest = _digest(*parts)
    return _FRAME % (digest.hex().encode(), *parts, key.sign(digest).hex().encode())


def _digest(public: bytes, created_at: bytes, d: bytes, content: bytes) -> bytes:
    """Return a line's id (NIP-01), its parts being those that the line is made of."""
    # The content's escapes are NIP-01's own, so the bytes to hash are those of the line, in another frame.
    serialized = b'[0,"%s",%s,%d,[["d","%s"]],"%s"]' % (public, created_at, KIND, d, content)
    return hashlib.sha256(serialized).digest()


def _genuine(match: re.Match[bytes]) -> bool:
    """Report whether a line's id is that of its content (NIP-01) and its signature its key's (BIP-340)."""
    _, public, created_at, d, content, signature = match.groups()
    digest = _digest(public, created_at, d, content)
    if digest.hex().encode() != match[1]:
        return False
    return verify(bytes.fromhex(public.decode()), digest, bytes.fromhex(signature.decode()))


def commit_content(head: Head | None, body: bytes, *, compacted_from: Head | None = None) -> str:
    """Return the content of the commit that closes *body*, the exact bytes of a transaction's lines.

    *head* is the commit before it in the same file, *compacted_from* the last of the file that this one replaces.
    """
    before = head or compacted_from
    generation = before.generation + 1 if before else 1
    digest = hashlib.sha256((bytes.fromhex(head.id) if head else NOTHING) + body).hexdigest()
    origin = f',"compacted_from":"{compacted_from.id}"' if compacted_from else ""
    return f'{{"generation":{generation},"digest":"{digest}"{origin}}}'
