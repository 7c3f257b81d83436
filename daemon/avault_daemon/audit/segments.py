"""The files of the record: `audit.jsonl` is written to, `audit-000001.jsonl` and so on are full.

What opening finds at the end is one of these: a whole line; a torn one, or whole ones that do not fit the chain, which
are what a kill or a power cut leaves of a write that nobody was answered for, or that was not synced yet; or less than
the anchor says was synced, which is damage.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from avault_protocol import CorruptError

from ..files import APPEND, Files
from .lines import ALLOWED, CHECKPOINT, GET, NO_HASH, hash_of, parse, parse_checkpoint

CURRENT = "audit.jsonl"
ASIDE = "audit.jsonl.torn"
HINT = (
    "bring audit*.jsonl back from a backup; without one, move anchor.json and audit*.jsonl away and restart: "
    "both begin anew"
)
_FULL = re.compile(r"audit-([0-9]{6,})\.jsonl")
# Looked through at opening, for the chain and for the last uses: the file that is written to, and one full one.
_TAIL_FILES = 2


def full(directory: Path) -> list[Path]:
    """Return the full files of the record, the oldest first."""
    found = [(int(match[1]), path) for path in directory.iterdir() if (match := _FULL.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def name_for_full(directory: Path) -> Path:
    """Return the name that the current file gets when it is full."""
    last = full(directory)[-1:]
    number = int(last[0].stem.removeprefix("audit-")) if last else 0
    return directory / f"audit-{number + 1:06}.jsonl"


def files(directory: Path) -> list[Path]:
    """Return all files of the record, the oldest first."""
    current = directory / CURRENT
    return [*full(directory), *([current] if current.exists() else [])]


def read_lines(directory: Path, after: int = 0) -> Iterator[bytes]:
    """Yield each whole line, without its newline, from the file on that has line *after* + 1.

    The record may be written to meanwhile, and files may get their other name: the current one is opened first, so
    nothing is missed that was there when this began.
    """
    with ExitStack() as opened:
        current = [opened.enter_context(open(path, "rb")) for path in [directory / CURRENT] if path.exists()]
        inodes = {os.fstat(file.fileno()).st_ino for file in current}
        older = [opened.enter_context(open(path, "rb")) for path in full(directory)]
        chosen = [file for file in older if os.fstat(file.fileno()).st_ino not in inodes] + current
        for file in chosen[_first_needed(chosen, after) :]:
            for line in file:
                if line.endswith(b"\n"):
                    yield line[:-1]


def _first_needed(opened: Sequence[BinaryIO], after: int) -> int:
    needed = 0
    for index, file in enumerate(opened):
        first = parse(file.readline().rstrip(b"\n"))
        file.seek(0)
        if first is not None and first.number <= after + 1:
            needed = index
    return needed


@dataclass(slots=True)
class Tail:
    """Where the record ends, as far as it has been read."""

    number: int = 0
    hash: str = NO_HASH
    first: int = 0
    """Number of the first line in sight."""
    size: int = 0
    """Bytes of the current file."""
    aside: int = 0
    """Bytes that were set aside."""
    unsigned: int = 0
    """Lines after the last checkpoint."""
    key: str | None = None
    """Key of the last checkpoint in sight."""
    uses: dict[str, int] = field(default_factory=dict[str, int])
    """Name of a secret -> Unix seconds of its last use in sight."""

    def take(self, raw: bytes) -> bool:
        """Go on by one line; report whether it is whole and fits."""
        line = parse(raw[:-1]) if raw.endswith(b"\n") else None
        if line is None or (self.number and (line.number, line.prev) != (self.number + 1, self.hash)):
            return False
        self.first = self.first or line.number
        self.number, self.hash = line.number, hash_of(raw[:-1])
        self.unsigned += 1
        if line.action == CHECKPOINT and (checkpoint := parse_checkpoint(raw[:-1])) is not None:
            self.key, self.unsigned = checkpoint.key, 0
        elif line.action == GET and line.decision == ALLOWED and line.secret is not None:
            self.uses[line.secret] = line.time
        return True


def recover(directory: Path, synced: tuple[int, str] | None, disk: Files) -> Tail:
    """Find the end of the record, and set aside what is torn behind it.

    *synced* is what the anchor says: number and hash of a line that must be there; `CorruptError` if it is not. It is
    looked for in the last two files; whether older lines are unaltered is for `verify` to say. May raise `OSError`.
    """
    tail, paths = Tail(), files(directory)[-_TAIL_FILES:]
    met, torn = False, list[tuple[Path, int]]()
    for path in paths:
        good = 0
        with path.open("rb") as file:
            # What follows a line that does not fit is not looked at: it cannot be the chain's.
            while not torn and (raw := file.readline()) and tail.take(raw):
                good += len(raw)
                met = met or (tail.number, tail.hash) == synced
        tail.size = good if path.name == CURRENT else 0
        if good < path.stat().st_size:
            torn.append((path, good))
    if synced is not None and not (met or synced[0] < tail.first):
        raise CorruptError(
            f"the record ends or breaks at line {tail.number}; line {synced[0]} was on the disk", hint=HINT
        )
    if torn:
        tail.aside = _set_aside(directory / ASIDE, torn, disk)
    return tail


def _set_aside(aside: Path, torn: list[tuple[Path, int]], disk: Files) -> int:
    """Append what lies behind each offset to *aside*, and when that is on the disk cut it off."""
    pieces = [path.read_bytes()[offset:] for path, offset in torn]
    target = disk.open(aside, APPEND | os.O_CREAT)
    try:
        disk.write_all(target, b"".join(pieces))
        disk.fsync(target)
    finally:
        disk.close(target)
    for path, offset in reversed(torn):
        fd = disk.open(path, os.O_WRONLY)
        try:
            disk.truncate(fd, offset)
            disk.fsync(fd)
        finally:
            disk.close(fd)
    return sum(map(len, pieces))
