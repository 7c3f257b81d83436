"""Messages of the bus out of its bytes, as jeepney's parser takes them, without those that are too long to be meant for us.

Whoever may connect to the system bus may send a signal of 32 MiB to anybody. Taken apart, that keeps everything else
waiting for a quarter of a minute; so such a message is skipped as it comes, and is never held.

Source: D-Bus Specification (message format).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

_low: Any = importlib.import_module("jeepney.low_level")  # it says nothing of its types

LIMIT = 16 * 1024
"""Bytes of a message. What logind and the bus tell us has some hundreds."""
CHUNK = 64 * 1024
"""Bytes that are asked for at once."""
_HEAD = 16  # bytes that tell how long a message is


class Sieve:
    """In place of ``jeepney.low_level.Parser``, with whose connection it shares the method names."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._data = bytearray()
        self._descriptors: list[Any] = []
        self._size = 0  # not known yet
        self._left = _HEAD

    def bytes_desired(self) -> int:
        """Return how many bytes may be read now: never of two messages, whose descriptors would be mixed up."""
        return min(self._left, CHUNK)

    def add_data(self, data: bytes, fds: Iterable[Any] = ()) -> None:
        """Take *data*, at most `bytes_desired`, and the descriptors that came with it.

        ValueError: no message begins so.
        """
        self._left -= len(data)
        self._descriptors += fds
        if self._size <= LIMIT:
            self._data += data
        if self._size == 0 and self._left == 0:
            self._size = _size(self._data)
            self._left = self._size - _HEAD

    def get_next_message(self) -> Any:
        """Return the message that is complete now; None: none is, or it was skipped. ValueError: it is malformed."""
        if self._left:
            return None
        data, descriptors, skipped = bytes(self._data), self._descriptors, self._size > LIMIT
        self._begin()
        return None if skipped else _low.Message.from_buffer(data, fds=descriptors)


def _size(head: bytearray) -> int:
    try:
        return int(_low.calc_msg_size(bytes(head)))
    except KeyError:
        raise ValueError("no message of D-Bus begins so") from None
