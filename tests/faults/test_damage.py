"""Whatever is done to the vault file, the anchor or the record: it is not taken for what was written, unless it says so.

Each byte is altered, each truncation tried, each line removed, repeated and put elsewhere, each older file put back, one
at a time, all of them on a small vault. Then the vault is opened and the record verified, as a daemon that starts would.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import pytest

from avault_daemon.anchor import Anchor
from avault_daemon.audit import verify
from avault_daemon.files import Files
from avault_daemon.vault.logfile import LogFile
from avault_protocol import AvaultError
from support import weak
from support.campaign import report, size
from support.forked import PASSPHRASE, ForkedDaemon
from support.writers import put

VAULT, ANCHOR, RECORD = "home/vault.jsonl", "state/anchor.json", "state/audit.jsonl"
Contents: TypeAlias = dict[str, bytes]
Damage: TypeAlias = tuple[str, bytes]
"""What was done, and what the file then holds."""


class Unsynced(Files):
    """For folders in memory, ten thousand times over."""

    def fsync(self, fd: int) -> None:
        pass


@dataclass(frozen=True)
class Seen:
    """What a daemon that starts makes of its files: an error or a warning, the vault's lines, the record's length."""

    complaint: str | None
    lines: tuple[bytes, ...] = ()
    complete_to: int = 0


@dataclass(frozen=True)
class Shelf:
    """A folder for the files of a vault, and what they held after each change, the last being now."""

    folder: Path
    states: tuple[Contents, ...]

    @property
    def now(self) -> Contents:
        return self.states[-1]

    def lay(self, contents: Contents) -> None:
        for entry in [*self.folder.glob("home/*"), *self.folder.glob("state/*")]:
            entry.unlink()
        for name, content in contents.items():
            (self.folder / name).write_bytes(content)

    def look(self, name: str | None = None) -> Seen:
        """Open what is there; only the vault or only the record if a file of theirs is named."""
        anchor, seen = Anchor(self.folder / ANCHOR, Unsynced()), Seen(None)
        try:
            anchor.load()
            known = anchor.record
            if name != RECORD:
                seen = self._open(anchor)
        except AvaultError as error:
            return Seen(error.message)
        if name != VAULT:
            verdict = verify(self.folder / "state", anchor)
            complaint = seen.complaint or verdict.problem or self._unsigned(verdict.unsigned, known)
            seen = replace(seen, complete_to=verdict.complete_to, complaint=complaint)
        return seen

    def _open(self, anchor: Anchor) -> Seen:
        file = LogFile(self.folder / VAULT, anchor, Unsynced())
        lines = file.open()
        if lines is None:
            return Seen("there is no vault")
        return Seen(" ".join(file.warnings) or None, tuple(line.raw for line in lines))

    def _unsigned(self, unsigned: int, known: tuple[int, str] | None) -> str | None:
        return (
            f"{unsigned} lines are unsigned" if unsigned else None if known else "the record is not anchored"
        )

    def accepts(self, name: str, damages: Iterator[Damage]) -> tuple[int, list[str]]:
        """Return how many *damages* there are of the file *name*, and those that pass for what was written."""
        tried, accepted = 0, list[str]()
        for what, content in damages:
            tried += 1
            self.lay({**self.now, name: content})
            if self.look(name).complaint is None:
                accepted.append(what)
        return tried, accepted


@pytest.fixture
def shelf(quick: Path) -> Shelf:
    """The files of a vault with every kind of line, after each change of it."""
    daemon = ForkedDaemon(quick / "made")
    daemon.folder.mkdir()
    daemon.start()
    states: list[Contents] = []
    names = (VAULT, ANCHOR, RECORD)
    with closing(daemon.operator()) as desk:
        desk.call("init", {"log_n": 1}, PASSPHRASE)
        for method, params, value in (
            ("put", put("A", "a"), "a"),
            ("put", put("B", "b"), "b"),
            ("rm", {"name": "A"}, None),
            ("grant", {"agent": "cobot", "plugin": "telegram", "secrets": ["B"], "uids": [1]}, None),
            ("put", put("B", "c"), "c"),
        ):
            assert isinstance(desk.call(method, params, value), dict)
            assert isinstance(desk.call("audit_verify"), dict)
            states.append({name: (daemon.folder / name).read_bytes() for name in names})
    daemon.stop()
    shelf = Shelf(quick / "laid", tuple(states))
    for name in ("home", "state"):
        (shelf.folder / name).mkdir(parents=True)
    shelf.lay(shelf.now)
    assert shelf.look().complaint is None
    return shelf


BITS = [1 << bit for bit in range(8)]
OTHERS = [mask for mask in range(1, 256) if mask not in BITS]


def flips(data: bytes) -> Iterator[Damage]:
    """Alter each byte: one bit of it, or each, or to all other values."""
    for index, byte in enumerate(data):
        first = index % len(BITS)
        for mask in [*BITS[first:], *BITS[:first], *OTHERS][: size(1, 255)]:
            other = byte ^ mask
            yield f"byte {index}: {byte} -> {other}", data[:index] + bytes([other]) + data[index + 1 :]


def truncations(data: bytes) -> Iterator[Damage]:
    for end in range(len(data)):
        yield f"cut to {end}", data[:end]


def shuffles(data: bytes) -> Iterator[Damage]:
    """Remove each line; put each anywhere else, and a second time anywhere; swap each two."""
    lines = data.splitlines(keepends=True)
    for i, line in enumerate(lines):
        rest = [*lines[:i], *lines[i + 1 :]]
        yield f"without line {i + 1}", b"".join(rest)
        for j in range(len(lines) + 1):
            yield f"line {i + 1} again at {j + 1}", b"".join([*lines[:j], line, *lines[j:]])
        for j in range(i + 1, len(lines)):
            swapped = [*lines[:i], lines[j], *lines[i + 1 : j], line, *lines[j + 1 :]]
            yield f"lines {i + 1} and {j + 1} swapped", b"".join(swapped)
            yield f"line {i + 1} moved to {j + 1}", b"".join([*rest[:j], line, *rest[j:]])


KINDS: list[Callable[[bytes], Iterator[Damage]]] = [flips, truncations, shuffles]


@contextmanager
def weakened(name: str) -> Generator[None]:
    before = weak.weaken(name)
    try:
        yield
    finally:
        weak.restore(before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [VAULT, ANCHOR, RECORD])
def test_no_damage_is_accepted_in_silence(
    shelf: Shelf, name: str, kind: Callable[[bytes], Iterator[Damage]]
) -> None:
    # An anchor's line repeated or cut is tried by the other two kinds.
    tried, accepted = shelf.accepts(name, kind(shelf.now[name]))
    report(f"{name}: {tried} {kind.__name__}, {len(accepted)} accepted in silence")
    assert tried
    assert accepted == []


@pytest.mark.parametrize("name", [VAULT, RECORD])
def test_an_older_file_put_back_is_noticed(shelf: Shelf, name: str) -> None:
    older = [(f"state {number}", state[name]) for number, state in enumerate(shelf.states[:-1])]
    tried, accepted = shelf.accepts(name, iter(older))
    report(f"{name}: {tried} older files put back, {len(accepted)} accepted in silence")
    assert tried == 4
    assert accepted == []


def test_an_older_anchor_leads_to_nothing_older(shelf: Shelf) -> None:
    """It is refused, or taken forward: the vault and the record are their own witnesses, of what is new."""
    shelf.lay(shelf.now)
    current = shelf.look()
    for state in shelf.states[:-1]:
        shelf.lay({**shelf.now, ANCHOR: state[ANCHOR]})
        seen = shelf.look()
        assert seen.complaint is not None or seen == current


def test_a_missing_file_is_noticed(shelf: Shelf) -> None:
    for name in shelf.now:
        shelf.lay({other: content for other, content in shelf.now.items() if other != name})
        assert shelf.look().complaint is not None


def test_a_daemon_that_takes_every_signature_is_convicted(shelf: Shelf) -> None:
    with weakened("credulous"):
        tried, accepted = shelf.accepts(VAULT, flips(shelf.now[VAULT]))
    report(f"control, signatures of commits not checked: {len(accepted)} of {tried} flips accepted")
    assert len(accepted) > 100


def test_a_daemon_that_remembers_nothing_is_convicted(shelf: Shelf) -> None:
    older = [(f"state {number}", state[VAULT]) for number, state in enumerate(shelf.states[:-1])]
    with weakened("unanchored"):
        _, accepted = shelf.accepts(VAULT, iter(older))
    report(f"control, the anchor not asked: {len(accepted)} of {len(older)} older files accepted")
    assert len(accepted) == len(older)


def test_a_record_of_which_nothing_is_remembered_or_checked_is_convicted(shelf: Shelf) -> None:
    anchor = Anchor(shelf.folder / ANCHOR, Unsynced())
    anchor.load()
    anchor.update(record=None)
    accepted = 0
    with weakened("credulous"):
        for _, content in flips(shelf.now[RECORD]):
            (shelf.folder / RECORD).write_bytes(content)
            accepted += verify(shelf.folder / "state", anchor).ok
    report(f"control, neither anchor nor signatures for the record: {accepted} flips accepted")
    assert accepted
    assert os.listdir(shelf.folder / "state")
