"""One connection's side of the protocol, without I/O: requests become bytes, bytes become answers.

One request is open at a time. Whatever wants to wait for long (for an unlock, for a rotation) does so on a connection
of its own, so that answers need no sorting out, and a caller who gives up closes a connection that nobody shares.
"""

from __future__ import annotations

from avault_protocol import (
    AvaultError,
    BadRequestError,
    Notification,
    Response,
    Scanner,
    limits,
    unpack_head,
)

from ._question import MAX_ID
from ._secret import ZERO, wipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from avault_protocol import Extent

    from ._question import Head, Question

# Bytes. Holds what most secrets are, tokens, and costs nothing to make and to wipe. For larger ones it grows.
FIRST_BUFFER = 1024


class Answer:
    """What the daemon answered: *error*, or else *result* and, of a method that returns one, *value*.

    Whoever has the answer owns the value, and wipes it.
    """

    __slots__ = ("error", "result", "value")

    def __init__(
        self, error: AvaultError | None, result: Mapping[str, object], value: bytearray | None
    ) -> None:
        self.error = error
        self.result = result
        self.value = value


class Conversation:
    """Builds requests, and finds their answers in the bytes received.

    Receive into `space`, say by `heard` how much it was, and take what comes after from `next_event` until it is None.
    Received bytes lie in *buffer*, and nothing of a value stays there once it was taken out.
    After any exception but those of `ask` the stream is of no more use: `close`, and close the connection.
    """

    __slots__ = (
        "_expected",
        "_extent",
        "_hello",
        "_hello_id",
        "_id",
        "_known",
        "_most",
        "_question",
        "_scanner",
        "_stop",
        "buffer",
    )

    def __init__(
        self, *, max_head: int = limits.MAX_HEAD, max_value: int = limits.MAX_VALUE, last_id: int = 0
    ) -> None:
        self._scanner = Scanner(max_head=max_head, max_value=max_value)
        self._most = max_head + max_value
        self.buffer = bytearray(min(FIRST_BUFFER, self._most))
        self._stop = 0  # what has arrived is buffer[:stop], and a message begins at 0
        self._extent: Extent | None = None  # of a message whose value has not arrived whole
        self._id = last_id  # of the last request; 0 is never one of ours
        self._question: Question | None = None  # the open request
        self._hello: Question | None = None  # the one that went before it and is open too
        self._hello_id = 0
        self._known: Head | None = None  # what may have arrived, unless the scanner has begun with it
        self._expected = b""  # and all bytes before the value then

    def ask(self, question: Question, hello: Question | None = None) -> bytes:
        """Return the bytes of a request; if it was made for a value, those must follow them.

        *hello* goes before it, so that both take one way to the daemon and back. Of its answer nothing is said, unless
        it is an error: then that is raised, and there is none to *question*.
        """
        if self._question is not None:
            raise RuntimeError("a request is open on this connection")
        self._question = question
        known = question.answered if question.returns_value and not self._stop else None
        before = expected = b""
        if hello is not None:
            self._hello, self._hello_id = hello, self._next_id()
            before = hello.under(self._hello_id)
            if (greeting := hello.answered) is None:
                known = None
            else:
                expected = greeting.under(self._hello_id)
        id = self._next_id()
        if known is not None:
            self._expected = expected + known.under(id)
        self._known = known
        return before + question.under(id)

    def _next_id(self) -> int:
        self._id = self._id % MAX_ID + 1
        return self._id

    def space(self) -> bytearray | memoryview:
        """Return where the next bytes belong. It is never empty."""
        if not self._stop:
            return self.buffer
        if self._stop == len(self.buffer):
            self._grow()
        return memoryview(self.buffer)[self._stop :]

    def heard(self, count: int) -> Answer | Notification | None:
        """Note that *count* bytes have arrived in what `space` returned; return, or raise, what `next_event` would."""
        known, self._known = self._known, None
        if (
            known is not None
            and count == len(self._expected) + known.size
            and self.buffer.startswith(self._expected)
        ):
            value = self.buffer[len(self._expected) : count]
            self.buffer[:count] = ZERO * count
            self._question = self._hello = None
            return Answer(None, known.result, value)
        self._stop += count
        return self.next_event()

    def next_event(self) -> Answer | Notification | None:
        """Return the next answer or notification, or None: receive more.

        Raises `BadRequestError` or `TooLargeError` for what is no part of the protocol, and the daemon's own error
        where it found our stream to be none.
        """
        if not self._stop:
            return None
        extent = self._extent or self._scanner.scan(self.buffer, 0, self._stop)
        self._extent = extent
        if extent is None or extent.end > self._stop:
            return None
        head = self.buffer[: extent.head_end]
        message = unpack_head(head, extent.has_value)
        if isinstance(message, Response):
            if self._hello is not None and message.id == self._hello_id:
                self._greeted(self._hello, message, head, extent)
                return self.next_event()
            return self._answer(message, head, extent)
        if isinstance(message, Notification):
            self._drop(extent.end)
            return message
        raise BadRequestError("the daemon sent a request")

    def close(self) -> None:
        """Wipe what has arrived."""
        wipe(self.buffer)

    def _greeted(self, hello: Question, response: Response, head: bytearray, extent: Extent) -> None:
        if response.error is not None:
            raise response.error
        if extent.has_value:
            raise BadRequestError("the daemon sent a value where none was due")
        hello.note(self._hello_id, head, 0, response.result)
        self._hello = None
        self._drop(extent.end)

    def _answer(self, response: Response, head: bytearray, extent: Extent) -> Answer:
        if response.id == 0 and response.error is not None:
            raise response.error
        question = self._question
        if response.id != self._id or question is None or self._hello is not None:
            raise BadRequestError("the daemon answered a request that is not open")
        due = question.returns_value and response.error is None
        if extent.has_value is not due:
            raise BadRequestError("the daemon sent " + ("no value" if due else "a value where none was due"))
        if due:
            question.note(self._id, head, extent.end - extent.head_end, response.result)
        return self._taken(response.error, response.result, extent.head_end if due else None, extent.end)

    def _taken(
        self, error: AvaultError | None, result: dict[str, object], value_at: int | None, end: int
    ) -> Answer:
        """Return the answer to the open request, after which none is open, and take it out."""
        value = None if value_at is None else self.buffer[value_at:end]
        self._question = None
        self._drop(end)
        return Answer(error, result, value)

    def _drop(self, end: int) -> None:
        """Move what follows the message to the front, and leave nothing behind that."""
        self._extent = None
        rest = self._stop - end
        if rest:
            view = memoryview(self.buffer)
            view[:rest] = view[end : self._stop]  # in place: no object ever holds these bytes
        # Always: behind a message without a value there may have been half of one with a value, which has moved.
        self.buffer[rest : self._stop] = ZERO * (self._stop - rest)
        self._stop = rest

    def _grow(self) -> None:
        """Get a larger buffer. Not by extending the old one, which could leave its bytes in freed memory."""
        end = 0 if self._extent is None else self._extent.end  # if known, all of it fits at once
        # No message that the scanner lets pass is longer than the most.
        larger = bytearray(min(max(2 * len(self.buffer), end), self._most))
        # By a view of both: a bytearray copies what it is assigned first, and frees that unwiped.
        memoryview(larger)[: self._stop] = memoryview(self.buffer)[: self._stop]
        wipe(self.buffer)
        self.buffer = larger
