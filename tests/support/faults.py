"""A disk that fails at the call of the test's choice."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from avault_daemon.files import Files

T = TypeVar("T")


class FaultyFiles(Files):
    """System calls that can be counted, and made to fail.

    *fail_at*: the number (from 1) of the call that fails. *done*: it does its work first, and then reports the error
    (as an fsync may). *short*: a write takes only half of the bytes; the next one fails. *dead*: every call after it
    fails too, as if the process had been killed there. The numbers count the calls that change the disk.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fail_at: int | None = None
        self.code = errno.EIO
        self.done = False
        self.short = False
        self.dead = False

    def fail(
        self, at: int, *, code: int = errno.EIO, done: bool = False, short: bool = False, dead: bool = False
    ) -> None:
        """Forget what was counted, and fail at the call *at* from here."""
        self.calls.clear()
        self.fail_at, self.code = at, code
        self.done, self.short, self.dead = done, short, dead

    def heal(self) -> None:
        """Forget what was counted, and fail no more."""
        self.calls.clear()
        self.fail_at = None

    def _due(self) -> bool:
        if self.fail_at is None:
            return False
        return len(self.calls) >= self.fail_at if self.dead else len(self.calls) == self.fail_at

    def _do(self, name: str, work: Callable[[], T]) -> T:
        self.calls.append(name)
        if not self._due():
            return work()
        if self.done and len(self.calls) == self.fail_at:
            work()
        raise OSError(self.code, os.strerror(self.code))

    def write(self, fd: int, data: bytes | memoryview) -> int:
        half = memoryview(data)[: max(1, len(memoryview(data)) // 2)]
        if self.short and len(self.calls) + 1 == self.fail_at:
            self.calls.append("write")
            self.fail_at, self.short = len(self.calls) + 1, False
            return super().write(fd, half)
        return self._do("write", lambda: super(FaultyFiles, self).write(fd, data))

    def open(self, path: Path, flags: int) -> int:
        if not flags & (os.O_WRONLY | os.O_RDWR):
            return super().open(path, flags)
        return self._do("open", lambda: super(FaultyFiles, self).open(path, flags))

    def fdatasync(self, fd: int) -> None:
        self._do("fdatasync", lambda: super(FaultyFiles, self).fdatasync(fd))

    def fsync(self, fd: int) -> None:
        self._do("fsync", lambda: super(FaultyFiles, self).fsync(fd))

    def rename(self, old: Path, new: Path) -> None:
        self._do("rename", lambda: super(FaultyFiles, self).rename(old, new))

    def exchange(self, one: Path, other: Path) -> bool:
        return self._do("exchange", lambda: super(FaultyFiles, self).exchange(one, other))

    def truncate(self, fd: int, size: int) -> None:
        self._do("truncate", lambda: super(FaultyFiles, self).truncate(fd, size))

    def unlink(self, path: Path) -> None:
        if path.exists():
            self._do("unlink", lambda: super(FaultyFiles, self).unlink(path))
        else:
            super().unlink(path)


@contextmanager
def file_size_limit(size: int) -> Generator[None]:
    """Let no file grow beyond *size*: a write takes what fits, the next fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
