"""One connection's side of the protocol, without I/O: requests become bytes, bytes become answers.

One request is open at a time. Whatever wants to wait for long (for an unlock, for a rotation) does so on a connection
of its own, so that answers need no sorting out, and a caller who gives up closes a connection that nobody shares.
"""

from __future__ import annotations

from avault_protocol import (
    METHODS,
    AvaultError,
    BadRequestError,
    Notification,
    Response,
    Scanner,
    limits,
    pack_request,
    unpack_head,
)

from ._secret import wipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from avault_protocol import Extent

# Holds the largest value that an agent may get (32 KiB) and its head, so that in practice it never grows.
FIRST_BUFFER = 64 * 1024
MAX_ID = 2**32 - 1


class Answer:
    """What the daemon answered: *error*, or else *result* and, of a method that returns one, *value*.

    Whoever has the answer owns the value, and wipes it.
    """

    __slots__ = ("error", "result", "value")

    def __init__(self, error: AvaultError | None, result: dict[str, object], value: bytearray | None) -> None:
        self.error = error
        self.result = result
        self.value = value


class Conversation:
    """Builds requests, and finds their answers in the bytes received.

    Receive into `space`, say by `received` how much it was, then take events from `next_event` until it is None.
    Received bytes lie in *buffer*, and nothing of a value stays there once it was taken out.
    After any exception but those of `ask` the stream is of no more use: `close`, and close the connection.
    """

    __slots__ = ("_extent", "_id", "_most", "_returns_value", "_scanner", "_stop", "buffer")

    def __init__(
        self, *, max_head: int = limits.MAX_HEAD, max_value: int = limits.MAX_VALUE, last_id: int = 0
    ) -> None:
        self._scanner = Scanner(max_head=max_head, max_value=max_value)
        self._most = max_head + max_value
        self.buffer = bytearray(min(FIRST_BUFFER, self._most))
        self._stop = 0  # what has arrived is buffer[:stop], and a message begins at 0
        self._extent: Extent | None = None  # of a message whose value has not arrived whole
        self._id = last_id  # of the last request; 0 is never one of ours
        self._returns_value: bool | None = None  # of the open request; None if none is open

    def ask(self, method: str, params: Mapping[str, object], value_size: int | None = None) -> bytes:
        """Return the bytes of a request; with *value_size*, so many bytes of value must follow them."""
        if self._returns_value is not None:
            raise RuntimeError("a request is open on this connection")
        following = self._id % MAX_ID + 1
        head = pack_request(following, method, params, value_size)
        self._id = following
        self._returns_value = METHODS[method].returns_value
        return head

    def space(self) -> memoryview:
        """Return where the next bytes belong. It is never empty."""
        if self._stop == len(self.buffer):
            self._grow()
        return memoryview(self.buffer)[self._stop :]

    def received(self, count: int) -> None:
        """Note that *count* bytes have arrived in what `space` returned."""
        self._stop += count

    def next_event(self) -> Answer | Notification | None:
        """Return the next answer or notification, or None: receive more.

        Raises `BadRequestError` or `TooLargeError` for what is no part of the protocol, and the daemon's own error
        where it found our stream to be none.
        """
        extent = self._extent or self._scanner.scan(self.buffer, 0, self._stop)
        self._extent = extent
        if extent is None or extent.end > self._stop:
            return None
        message = unpack_head(self.buffer[: extent.head_end], extent.has_value)
        if isinstance(message, Response):
            event: Answer | Notification = self._answer(message, extent)
        elif isinstance(message, Notification):
            event = message
        else:
            raise BadRequestError("the daemon sent a request")
        self._drop(extent)
        return event

    def close(self) -> None:
        """Wipe what has arrived."""
        wipe(self.buffer)

    def _answer(self, response: Response, extent: Extent) -> Answer:
        if response.id == 0 and response.error is not None:
            raise response.error
        if response.id != self._id or self._returns_value is None:
            raise BadRequestError("the daemon answered a request that is not open")
        due = self._returns_value and response.error is None
        if extent.has_value is not due:
            raise BadRequestError("the daemon sent " + ("no value" if due else "a value where none was due"))
        self._returns_value = None
        value = self.buffer[extent.head_end : extent.end] if due else None
        return Answer(response.error, response.result, value)

    def _drop(self, extent: Extent) -> None:
        """Move what follows the message to the front, and leave nothing behind that."""
        self._extent = None
        rest = self._stop - extent.end
        view = memoryview(self.buffer)
        view[:rest] = view[extent.end : self._stop]  # in place: no object ever holds these bytes
        # Always: behind a message without a value there may have been half of one with a value, which has moved.
        view[rest : self._stop] = bytes(self._stop - rest)
        self._stop = rest

    def _grow(self) -> None:
        """Get a larger buffer. Not by extending the old one, which could leave its bytes in freed memory."""
        larger = bytearray(
            min(2 * len(self.buffer), self._most)
        )  # no message that the scanner lets pass is longer
        larger[: self._stop] = memoryview(self.buffer)[: self._stop]
        wipe(self.buffer)
        self.buffer = larger
