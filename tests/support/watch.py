"""Watching from outside, while something runs: every file that appears in some folders, and every process there is.

`Files` keeps the name of each file that appears, however short it is there, and what it holds at any time: it opens the
file at once (inotify(7)), and so reads it also when it is gone, unless that was sooner. `Processes` keeps each command line and environment (proc(5)),
and what ps(1) prints.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

MODIFY, CLOSE_WRITE, MOVED_TO, CREATE = 0x2, 0x8, 0x80, 0x100
IS_DIRECTORY, Q_OVERFLOW = 0x4000_0000, 0x4000
_EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)
PAUSE = 0.01


class _Thread:
    """Something that is done until it is told to end."""

    def __init__(self) -> None:
        self._wake, self._end = os.pipe()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        raise NotImplementedError

    def _ended(self, timeout: float) -> bool:
        return bool(select.select([self._wake], [], [], timeout)[0])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._end)
        self._thread.join()
        os.close(self._wake)


class Files(_Thread):
    """Watches folders and all that is made below them."""

    def __init__(self, *folders: Path) -> None:
        super().__init__()
        self.names: set[str] = set()
        self._contents: set[bytes] = set()
        self._fd = _checked(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        self._folders: dict[int, Path] = {}
        self._open: dict[Path, int] = {}
        for folder in folders:
            self._add(folder)

    def _add(self, folder: Path) -> None:
        mask = MODIFY | CLOSE_WRITE | MOVED_TO | CREATE
        watch = _checked(_libc.inotify_add_watch(self._fd, bytes(folder), mask))
        self._folders[watch] = folder
        for path in folder.iterdir():  # what was there before the watch
            self._appeared(path)

    def _run(self) -> None:
        while not self._ended(0):
            if select.select([self._fd, self._wake], [], [])[0][0] == self._fd:
                self._take(os.read(self._fd, 1 << 16))

    def _take(self, events: bytes) -> None:
        while events:
            watch, mask, _, size = _EVENT.unpack_from(events)
            name = events[_EVENT.size : _EVENT.size + size].rstrip(b"\0").decode()
            events = events[_EVENT.size + size :]
            assert not mask & Q_OVERFLOW
            self._happened(self._folders[watch] / name, mask)

    def _happened(self, path: Path, mask: int) -> None:
        if mask & (CREATE | MOVED_TO):
            self._appeared(path)
        elif path in self._open:
            self._read(self._open[path])

    def _appeared(self, path: Path) -> None:
        self.names.add(str(path))
        if path.is_dir():
            self._add(path)
            return
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # a socket; or gone already, which `names` tells
            return
        if path in self._open:
            self._close(self._open[path])
        self._open[path] = fd
        self._read(fd)

    def _read(self, fd: int) -> None:
        self._contents.add(os.pread(fd, 1 << 24, 0))

    def _close(self, fd: int) -> None:
        self._read(fd)
        os.close(fd)

    def contents(self) -> bytes:
        """Return everything that any file held at some time."""
        return b"\0".join(self._contents)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        for fd in self._open.values():
            self._close(fd)
        os.close(self._fd)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


class Processes(_Thread):
    """Watches the command lines and the environments of all processes that may be read."""

    def __init__(self) -> None:
        super().__init__()
        self.commands: set[bytes] = set()
        self.environments: set[bytes] = set()
        self.lines: set[bytes] = set()

    def _run(self) -> None:
        count = 0
        while not self._ended(PAUSE):
            for pid in filter(str.isdigit, os.listdir("/proc")):
                self.commands.update(_read(f"/proc/{pid}/cmdline"))
                self.environments.update(_read(f"/proc/{pid}/environ"))
            if count % 10 == 0:
                self.list()
            count += 1

    def list(self) -> None:
        """Let ps print what it knows, with environments."""
        done = subprocess.run(["ps", "axwwe", "-o", "args"], capture_output=True, check=True)
        self.lines.update(done.stdout.splitlines())


def _read(path: str) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            yield file.read()
    except OSError:  # it has ended, or is not ours
        return
