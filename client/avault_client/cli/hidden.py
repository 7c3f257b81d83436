"""Bytes that must not stay behind: read straight into one buffer, which is wiped when done with.

Nothing here makes a `bytes` or `str` of what it reads, since neither can be wiped, and no buffer grows or shrinks,
since that leaves a copy where it was.
"""

from __future__ import annotations

import os

from avault_protocol import TooLargeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

NEWLINE = 10
RETURN = 13


class Hidden:
    """A buffer of fixed capacity, of which the first *size* bytes are in use."""

    __slots__ = ("buffer", "size")

    def __init__(self, capacity: int) -> None:
        self.buffer = bytearray(capacity)
        self.size = 0

    @classmethod
    def of(cls, content: bytes | bytearray) -> Self:
        """Return a copy of *content*, which the caller wipes if it can."""
        made = cls(len(content))
        made.buffer[:] = content
        made.size = len(content)
        return made

    @property
    def view(self) -> memoryview:
        """What is in use."""
        return memoryview(self.buffer)[: self.size]

    def copy(self) -> Hidden:
        """Return the same in a buffer of its own."""
        made = Hidden(self.size)
        made.append(self)
        return made

    def append(self, other: Hidden) -> None:
        """Put the content of *other* behind what is in use; there must be room for it."""
        end = self.size + other.size
        self.buffer[self.size : end] = other.view
        self.size = end

    def wipe(self) -> None:
        """Zero everything."""
        self.buffer[:] = bytes(len(self.buffer))
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return "Hidden()"


def read_line(fd: int, limit: int, what: str) -> Hidden:
    """Return one line without its newline; byte by byte, so that what follows stays for the next reader.

    Raises:
        EOFError: there was nothing at all.
        TooLargeError: *what* has more than *limit* bytes.

    """
    line = Hidden(limit + 2)
    memory = memoryview(line.buffer)
    try:
        while os.readv(fd, [memory[line.size : line.size + 1]]):
            if memory[line.size] == NEWLINE:
                break
            line.size += 1
            _check(line, limit + 1, what, limit)
        else:
            _nothing(line)
        if line.size and memory[line.size - 1] == RETURN:
            line.size -= 1
        _check(line, limit, what, limit)
    except BaseException:
        line.wipe()
        raise
    return line


def _nothing(line: Hidden) -> None:
    if line.size == 0:
        raise EOFError


def _check(read: Hidden, most: int, what: str, limit: int) -> None:
    if read.size > most:
        raise TooLargeError(f"{what} has more than {limit:,} bytes")


def read_all(fd: int, limit: int, what: str) -> Hidden:
    """Return everything up to the end; raise `TooLargeError` if *what* has more than *limit* bytes and a newline."""
    read = Hidden(limit + 2)
    memory = memoryview(read.buffer)
    try:
        while count := os.readv(fd, [memory[read.size :]]):
            read.size += count
            _check(read, limit + 1, what, limit)
    except BaseException:
        read.wipe()
        raise
    return read
