"""The end of the record: the file that is written to, and the line that the next one follows.

After an error of a write the file is cut back to the last whole line, and the next write may work. After an error of
a sync, or of the cutting, nobody knows what is on the disk: the chain is *latched*, nothing is written until a restart
has read what is there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from avault_protocol import AuditFailedError, CorruptError

from ..files import APPEND, Files
from ..nostr.keys import verify as signed_by
from .lines import Noted, chained, checkpoint_line, hash_of, parse_checkpoint
from .segments import CURRENT, Tail, name_for_full, recover

log = logging.getLogger(__name__)

RESTART = "mend the disk, then restart avaultd: it reads what is really there"


class Chain:
    """The record in *directory*, opened at its end; *synced* is the line that the anchor knows.

    It never fails to open: what is wrong is its `problem`. *clock* gives Unix seconds. For the loop's thread, but for
    `sync`.
    """

    def __init__(
        self, directory: Path, synced: tuple[int, str] | None, clock: Callable[[], float], files: Files
    ) -> None:
        self.problem: str | None = None
        """What keeps lines from being written; None if nothing does."""
        self.latched = False
        self.tail = Tail()
        self._directory, self._clock, self._files = directory, clock, files
        self._fd = -1
        self._full: list[int] = []  # descriptors of full files that are not synced yet
        try:
            self.tail = recover(directory, synced, files)
            self._fd = files.open(directory / CURRENT, APPEND | os.O_CREAT)
            files.sync_directory(directory)
        except CorruptError as error:
            self.latch(f"{error.message}: {error.hint}")
        except OSError as error:
            self.latch(f"the record cannot be opened: {error.strerror}")

    def latch(self, problem: str) -> None:
        """Write nothing any more, because of *problem*."""
        log.error("nothing is served until a restart: %s", problem)
        self.latched, self.problem = True, problem

    def check(self) -> None:
        """Raise `AuditFailedError` if the chain is latched."""
        if self.latched:
            raise AuditFailedError(f"the record is out of order: {self.problem}", hint=RESTART)

    def write(self, noted: Sequence[Noted]) -> None:
        """Write what was *noted*, by one write(2) unless the disk takes less; `AuditFailedError`: none of it is there."""
        now, tail = int(self._clock()), self.tail
        data, last = chained(noted, now, tail.number, tail.hash)
        self._put(data, tail.number + len(noted), last)
        tail.unsigned += len(noted)
        for one in noted:
            if one.given is not None:
                tail.uses[one.given] = now

    def checkpoint(self, key: bytes, sign: Callable[[bytes], bytes], next_key: bytes | None = None) -> bool:
        """Write a checkpoint by *key*; with *next_key* it says that this key follows.

        Report whether *sign* does sign with *key*; if not, nothing is written. `AuditFailedError`, and what *sign* raises.
        """
        tail = self.tail
        after = tail.key if tail.key != key.hex() else None
        following = next_key.hex() if next_key is not None else None
        line = checkpoint_line(
            tail.number + 1, int(self._clock()), tail.hash, key.hex(), sign, after=after, next_key=following
        )
        found = parse_checkpoint(line)
        if found is None or not signed_by(key, found.digest, found.signature):
            return False
        self._put(line + b"\n", tail.number + 1, hash_of(line))
        tail.key, tail.unsigned = key.hex(), 0
        return True

    def _put(self, data: bytes, number: int, last: str) -> None:
        self.check()
        try:
            self._files.write_all(self._fd, data)
        except OSError as error:
            self._cut_back(error)
            raise AuditFailedError(f"the record could not be written: {error.strerror}") from error
        self.problem = None
        self.tail.number, self.tail.hash = number, last
        self.tail.size += len(data)

    def _cut_back(self, error: OSError) -> None:
        self.problem = f"the record could not be written: {error.strerror}"
        try:
            self._files.truncate(self._fd, self.tail.size)
        except OSError as worse:
            self.latch(f"{self.problem}, nor cut back to its last line: {worse.strerror}")

    def next_file(self) -> None:
        """Give the full file its other name and begin the next; the full one is synced and closed by `sync`."""
        try:
            self._files.rename(self._directory / CURRENT, name_for_full(self._directory))
            fd = self._files.open(self._directory / CURRENT, APPEND | os.O_CREAT | os.O_EXCL)
        except OSError as error:
            self.latch(f"the record's next file could not be made: {error.strerror}")
            return
        self._full.append(self._fd)
        self._fd, self.tail.size = fd, 0

    def sync(self) -> None:
        """Wait until what was written before this call is on the disk. Blocking, for a thread; raises `OSError`."""
        full = self._full[:]
        for fd in [*full, self._fd]:
            self._files.fdatasync(fd)
        if full:
            self._files.sync_directory(self._directory)
        for fd in full:
            self._full.remove(fd)
            self._files.close(fd)

    def close(self) -> None:
        """Give the files back."""
        for fd in [*self._full, self._fd]:
            if fd >= 0:
                self._files.close(fd)
        self._full, self._fd = [], -1
        self.latched = True
