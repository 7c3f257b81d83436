"""Hand bytes to a decoder in all the ways in which a socket may."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

# The first bytes of a request that never ends: complete to no decoder, and of no harm to any.
TRAILING = b"\x94\x00\x07"


def single_bytes(data: bytes) -> Iterator[bytes]:
    """Go over the bytes of *data* one by one."""
    return (data[i : i + 1] for i in range(len(data)))


def feed_all_ways(data: bytes, decode: Callable[[Iterable[bytes]], T]) -> T:
    """Return what *decode* makes of *data*, which must not depend on how it arrives or on what follows."""
    whole = decode([data])
    assert decode(single_bytes(data)) == whole, "one byte at a time"
    assert decode([data + TRAILING]) == whole, "followed by trailing bytes"
    assert decode([data[:1], data[1:], TRAILING]) == whole, "in three pieces"
    return whole
