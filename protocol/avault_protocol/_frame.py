"""Turn a stream of bytes into messages, where no message carries a value."""

from __future__ import annotations

from ._errors import BadRequestError
from ._messages import Request, unpack_head
from ._scan import Scanner
from .limits import MAX_AGENT_FRAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._messages import Notification, Response
    from ._scan import Buffer

# Of so many requests that came last it is known how they read; of each, at most so many bytes behind its id.
REMEMBERED = 4
LONGEST_REMEMBERED = 256
# The byte that a request's id begins with -> where what follows the id begins.
_BEHIND_ID = {**dict.fromkeys(range(128), 3), 0xCC: 4, 0xCD: 5, 0xCE: 7}


class Decoder:
    """A buffer with a `Scanner` on it: what an agent's connection is read by.

    Feed it what arrives, then take messages until there is none. It holds at most *max_frame* bytes and what was fed
    last. After an error the stream is of no more use, and it gives the same error again.

    Who asks again what was asked before gets a `Request` with the very same *params*: nobody may change them.
    """

    __slots__ = ("_buffer", "_known", "_max_frame", "_scanner")

    def __init__(self, *, max_frame: int = MAX_AGENT_FRAME) -> None:
        self._buffer = bytearray()
        self._scanner = Scanner(max_head=max_frame)
        self._max_frame = max_frame
        self._known: list[tuple[bytes, Request]] = []

    def feed(self, data: Buffer) -> None:
        """Take in what has arrived."""
        self._buffer += data

    def clear(self) -> None:
        """Overwrite and forget what is left of what was fed: it may be a value where none belongs."""
        self._buffer[:] = bytes(len(self._buffer))
        self._buffer.clear()
        self._known.clear()

    @property
    def empty(self) -> bool:
        """Whether nothing is left of what was fed."""
        return not self._buffer

    def next_message(self) -> Request | Response | Notification | None:
        """Return the next message, or None until more is fed; raise `BadRequestError` or `TooLargeError`."""
        return (self._again() or self._next()) if self._buffer else None

    def __iter__(self) -> Iterator[Request | Response | Notification]:
        """Go over the complete messages."""
        return iter(self.next_message, None)

    def _next(self) -> Request | Response | Notification | None:
        extent = self._scanner.scan(self._buffer, 0, len(self._buffer))
        if extent is None:
            return None
        if extent.has_value:
            raise BadRequestError("a value where none belongs")
        raw = self._buffer[: extent.end]
        message = unpack_head(raw, False)
        del self._buffer[: extent.end]
        if isinstance(message, Request):
            self._remember(raw, message)
        return message

    def _again(self) -> Request | None:
        """Return the next message if, but for its id, it is one that was found to be a request before.

        What a message is lies in its bytes alone, and no message is the beginning of another.
        """
        buffer = self._buffer
        if not self._known or self._scanner.begun or not buffer.startswith(b"\x94\0"):
            return None
        behind = _BEHIND_ID.get(buffer[2], 0) if len(buffer) > 2 else 0
        for rest, request in self._known if behind else ():
            if buffer.startswith(rest, behind) and behind + len(rest) <= self._max_frame:
                id = buffer[2] if behind == 3 else int.from_bytes(buffer[3:behind], "big")
                del buffer[: behind + len(rest)]
                return Request(id, request.method, request.params, False, again=True)
        return None

    def _remember(self, raw: bytearray, request: Request) -> None:
        behind = _BEHIND_ID.get(raw[2], 0)
        if raw.startswith(b"\x94\0") and behind and len(raw) - behind <= LONGEST_REMEMBERED:
            self._known = [(bytes(raw[behind:]), request), *self._known[: REMEMBERED - 1]]
