"""How a file becomes durable: the system calls of a write, one method each, and the ways to put them together.

A write is acknowledged only after fdatasync(2), or, for a whole file, after fsync(2), rename(2) and fsync(2) of the
directory. After an error none of them is tried again: what reached the disk is then unknown (on Linux a second fsync
may succeed without having written what the first one lost).

Tests pass a subclass that fails at the call of their choice.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

APPEND = os.O_WRONLY | os.O_APPEND
ANEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
OVER = os.O_WRONLY | os.O_CREAT

_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # fcntl.h, linux/fs.h
_NO_EXCHANGE = (errno.ENOENT, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class Files:
    """The system calls; every one may raise `OSError`. Blocking: not for the loop."""

    def open(self, path: Path, flags: int) -> int:
        """Return a descriptor; a file that is made is for its owner alone. A symbolic link is refused (ELOOP)."""
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Return how many bytes were taken, which may be fewer than there are."""
        return os.write(fd, data)

    def fdatasync(self, fd: int) -> None:
        """Wait until what was written is on the disk."""
        os.fdatasync(fd)

    def fsync(self, fd: int) -> None:
        """Wait until what was written, and all that is known of the file, is on the disk."""
        os.fsync(fd)

    def rename(self, old: Path, new: Path) -> None:
        """Put *old* in the place of *new*, in one step."""
        os.rename(old, new)

    def exchange(self, one: Path, other: Path) -> bool:
        """Swap the names of two files, in one step; false where there are not two, or that cannot be (renameat2(2))."""
        names = _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other)
        if _renameat2 is None:  # a C library without it
            return False
        if _renameat2(*names, _RENAME_EXCHANGE) == 0:
            return True
        if (code := ctypes.get_errno()) not in _NO_EXCHANGE:
            raise OSError(code, os.strerror(code), str(other))
        return False

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file off behind *size* bytes."""
        os.ftruncate(fd, size)

    def unlink(self, path: Path) -> None:
        """Remove *path*."""
        os.unlink(path)

    def close(self, fd: int) -> None:
        """Give the descriptor back."""
        os.close(fd)

    # --- put together -------------------------------------------------------------------------------------------

    def write_all(self, fd: int, data: bytes | memoryview) -> None:
        """Write the whole of *data*; after an error any part of it may have been written."""
        written = self.write(fd, data)
        while written < len(data):
            written += self.write(fd, memoryview(data)[written:])

    def sync_directory(self, directory: Path) -> None:
        """Wait until the names in *directory* are on the disk."""
        fd = self.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.fsync(fd)
        finally:
            self.close(fd)

    def write_whole(self, path: Path, data: bytes | memoryview) -> None:
        """Make *path* hold *data*, on the disk; its name is durable only after `sync_directory` or `put_in_place`."""
        fd = self.open(path, ANEW)
        try:
            self.write_all(fd, data)
            self.fsync(fd)
        finally:
            self.close(fd)

    def write_over(self, path: Path, data: bytes | memoryview) -> None:
        """Make *path* hold *data*, on the disk, where what it held lies; after an error it may be a mixture."""
        fd = self.open(path, OVER)
        try:
            self.write_all(fd, data)
            self.truncate(fd, len(data))
            self.fdatasync(fd)
        finally:
            self.close(fd)

    def put_in_place(self, new: Path, path: Path) -> None:
        """Give *new*, written beside *path*, its name, on the disk."""
        self.rename(new, path)
        self.sync_directory(path.parent)


def beside(path: Path) -> Path:
    """Return where the next content of *path* is written before it takes its place."""
    return path.with_name(path.name + ".new")
