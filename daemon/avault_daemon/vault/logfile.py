"""The vault file on its disk: log against the anchor, appended to, replaced.

Order of a write: the lines and their commit in one write, fdatasync; the anchor, synced; only then does the call
return. Order of a replacement: the new file beside the old, fsync; the anchor's `next`, synced, unless the new file says
itself that it follows what the anchor knows; rename, fsync of the directory; the anchor settled. After any error in one
of these nothing is written any more until a restart, which finds the old state or the new one.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from avault_protocol import (
    AvaultError,
    BadRequestError,
    BusyError,
    CorruptError,
    InternalError,
    RollbackError,
    StorageFailedError,
    TooLargeError,
)

from ..anchor import Anchor, Point
from ..files import APPEND, Files, beside
from .eventlog import Chain, Line, Log, Tail, Transaction, genuine_slots

MAX_SIZE = 256 << 20
"""Bytes of a vault file: some 300,000 small secrets. The same limit for what is written and what is read."""


class LogFile:
    """The file at *path*. Every method blocks, and they exclude one another: the vault's write lock sees to that."""

    def __init__(self, path: Path, anchor: Anchor, files: Files) -> None:
        self.path = path
        self._new = beside(path)
        self.anchor = anchor
        self.chain = Chain()
        self.warnings: list[str] = []
        self._files = files
        self._size = 0
        self._failed = False
        self._lock: int | None = None

    # --- opening ------------------------------------------------------------------------------------------------

    def lock(self) -> None:
        """Take `vault.lock` beside the file, until `unlock`; `BusyError` if another daemon holds it."""
        fd = os.open(
            self.path.with_name("vault.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise BusyError(
                f"another avaultd holds {self.path.parent}", hint="one daemon a vault: stop the other"
            ) from None
        self._lock = fd

    def unlock(self) -> None:
        """Give `vault.lock` back; idempotent."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def open(self) -> list[Line] | None:
        """Verify the file, compare it with the anchor and settle both; return its lines, or None if there is no vault.

        `CorruptError` names the line that is not what was written. `RollbackError`: the file is less than the anchor.
        An incomplete tail behind what the anchor knows was never acknowledged: it is moved to `vault.jsonl.torn`. If it
        cannot be, because the disk is still full, what is before it is read all the same, and nothing is written.
        """
        with self._latching():
            with suppress(FileNotFoundError):
                self._files.unlink(self._new)
            data = self._read()
            if data is not None:
                return self._open(data)
            self._open_nothing()
            return None

    def remains(self) -> list[Line]:
        """Return what is left of the vault's slots in a file that cannot be used; it cannot fail."""
        known = self.anchor.current
        try:
            data = self._read()
        except (OSError, AvaultError):
            return []
        return genuine_slots(data, known.vault) if data is not None and known is not None else []

    def _read(self) -> bytes | None:
        try:
            fd = self._files.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            return read_bounded(fd)
        finally:
            self._files.close(fd)

    def _open_nothing(self) -> None:
        if self.anchor.current is not None:
            raise RollbackError(
                f"the vault file {self.path} is gone; {_place(self.anchor.current)} was the last seen here"
            )
        if self.anchor.next is not None:  # the first vault was being made, and nobody was told that it is
            self.anchor.update(next=None)

    def _open(self, data: bytes) -> list[Line]:
        log = Log(data)
        here = point_of(log.chain)
        self._compare(log)
        if log.tail is not None:
            self._settle_tail(data, log.tail)
        if (self.anchor.current, self.anchor.next) != (here, None):
            # What is accepted beyond the anchor may be in the page cache alone, and so may a rename.
            self._sync_all()
            self.anchor.update(current=here, next=None)
        self.chain, self._size = log.chain, log.end
        return log.lines

    def _compare(self, log: Log) -> None:
        current, following, here = self.anchor.current, self.anchor.next, point_of(log.chain)
        if following is not None:
            if here not in (current, following):
                raise RollbackError(
                    f"the vault file is at {_place(here)}, but {_place(following)} was being put here"
                )
        elif current is None:
            self.warnings.append(
                "first use of this vault here: nothing is remembered of it, so an older file would not be noticed"
            )
        elif current.vault != here.vault:
            raise CorruptError("line 1 of the vault file is by another key than the vault last seen here")
        elif not self._follows(log):
            raise RollbackError(
                f"the vault file ends at {_place(here)}, line {log.number}; {_place(current)} was the last seen here"
            )

    def _follows(self, log: Log) -> bool:
        """Report whether *log* goes on from what the anchor knows, as it would be read when the anchor knows no more."""
        current, here = self.anchor.current, point_of(log.chain)
        return (
            current is not None
            and self.anchor.next is None
            and current.vault == here.vault
            and log.commits.get(current.generation) == current.commit
        )

    def _settle_tail(self, data: bytes, tail: Tail) -> None:
        found = f"the vault file ended in a write that was never finished (line {tail.number})"
        try:
            torn = self._set_aside(data, tail)
        except OSError as error:
            self._failed = True
            self.warnings.append(
                f"{found}, which cannot be moved away: {error.strerror}; nothing is written until a restart"
            )
        else:
            self.warnings.append(f"{found}: moved to {torn.name}")

    def _set_aside(self, data: bytes, tail: Tail) -> Path:
        torn = self.path.with_name(self.path.name + ".torn")
        self._files.write_whole(torn, data[tail.start :])
        self._files.sync_directory(self.path.parent)
        fd = self._files.open(self.path, os.O_WRONLY)
        try:
            self._files.truncate(fd, tail.start)
            self._files.fsync(fd)
        finally:
            self._files.close(fd)
        return torn

    def _sync_all(self) -> None:
        fd = self._files.open(self.path, os.O_WRONLY)
        try:
            self._files.fsync(fd)
        finally:
            self._files.close(fd)
        self._files.sync_directory(self.path.parent)

    # --- writing ------------------------------------------------------------------------------------------------

    def append(self, data: bytes) -> list[Line]:
        """Append one transaction, lines and commit; return its lines. On return it is durable, and the anchor too.

        `StorageFailedError`: it may be there or not, which a restart will tell; nothing is written until then.
        """
        self._check_room(self._size + len(data))
        found = self.chain.read(data)
        if not isinstance(found, Transaction) or found.end != len(data):
            raise InternalError("what was to be appended is not one transaction")
        head = found.head
        with self._latching():
            self._append(data)
            self.anchor.update(current=Point(found.public, head.generation, head.id))
        self.chain.accept(found)
        self._size += len(data)
        return found.lines

    def _append(self, data: bytes) -> None:
        fd = self._files.open(self.path, APPEND)
        try:
            if os.fstat(fd).st_size != self._size:
                raise OSError(None, "something else has changed it")
            self._files.write_all(fd, data)
            self._files.fdatasync(fd)
        finally:
            self._files.close(fd)

    def replace(self, data: bytes, *, strict: bool = False) -> list[Line]:
        """Put a whole other file in the place of this one; return its lines. On return it is durable.

        *strict*: the file comes from outside, so each of its lines is checked on its own too. `CorruptError`: it is no
        vault file, and nothing has changed. `StorageFailedError` as in `append`.
        """
        self._check_room(len(data))
        log = Log(data, strict=strict)
        log.refuse_tail()
        with self._latching():
            self._files.write_whole(self._new, data)
            if not self._follows(log):
                self.anchor.update(next=point_of(log.chain))
            self._files.put_in_place(self._new, self.path)
            self.anchor.update(current=point_of(log.chain), next=None)
        self.chain, self._size = log.chain, log.end
        return log.lines

    def _check_room(self, size: int) -> None:
        if self._failed:
            raise StorageFailedError(
                "a write to the vault failed; until avaultd is restarted nothing is written"
            )
        if size > MAX_SIZE:
            raise TooLargeError(f"the vault file would be over {MAX_SIZE} bytes")

    @contextmanager
    def _latching(self) -> Generator[None]:
        try:
            yield
        except StorageFailedError:
            self._failed = True
            raise
        except OSError as error:
            self._failed = True
            why = error.strerror or "input/output error"
            raise StorageFailedError(
                f"the vault file {self.path} failed: {why}; the outcome is unknown"
            ) from error


def point_of(chain: Chain) -> Point:
    """Return where a chain that has a commit stands."""
    if chain.public is None or chain.head is None:
        raise InternalError("an empty chain stands nowhere")
    return Point(chain.public, chain.head.generation, chain.head.id)


def _place(point: Point) -> str:
    return f"generation {point.generation} of {point.vault[:8]}"


def read_bounded(fd: int) -> bytes:
    """Return all that is in *fd*; `TooLargeError` over `MAX_SIZE`, `BadRequestError` if it is no file."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise BadRequestError("not a regular file")
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)  # it may be asked for again
        data = file.read(MAX_SIZE + 1)
    if len(data) > MAX_SIZE:
        raise TooLargeError(f"a vault file of more than {MAX_SIZE} bytes")
    return data
