"""Turn a stream of bytes into messages, where no message carries a value."""

from __future__ import annotations

from ._errors import BadRequestError
from ._messages import unpack_head
from ._scan import Scanner
from .limits import MAX_AGENT_ELEMENTS, MAX_AGENT_FRAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._messages import Notification, Request, Response
    from ._scan import Buffer


class Decoder:
    """A buffer with a `Scanner` on it: what an agent's connection is read by.

    Feed it what arrives, then take messages until there is none. It holds at most *max_frame* bytes and what was fed
    last. After an error the stream is of no more use, and it gives the same error again.
    """

    __slots__ = ("_buffer", "_scanner")

    def __init__(self, *, max_frame: int = MAX_AGENT_FRAME) -> None:
        self._buffer = bytearray()
        self._scanner = Scanner(max_head=max_frame, max_elements=MAX_AGENT_ELEMENTS)

    def feed(self, data: Buffer) -> None:
        """Take in what has arrived."""
        self._buffer += data

    def clear(self) -> None:
        """Overwrite and forget what is left of what was fed: it may be a value where none belongs."""
        self._buffer[:] = bytes(len(self._buffer))
        self._buffer.clear()

    def take_rest(self) -> bytes:
        """Give back what was fed behind the last message that was returned, as if it had not been fed."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def next_message(self) -> Request | Response | Notification | None:
        """Return the next message, or None until more is fed; raise `BadRequestError` or `TooLargeError`."""
        if not self._buffer:
            return None
        extent = self._scanner.scan(self._buffer, 0, len(self._buffer))
        if extent is None:
            return None
        if extent.has_value:
            raise BadRequestError("a value where none belongs")
        message = unpack_head(self._buffer[: extent.end], False)
        del self._buffer[: extent.end]
        return message

    def __iter__(self) -> Iterator[Request | Response | Notification]:
        """Go over the complete messages."""
        return iter(self.next_message, None)
