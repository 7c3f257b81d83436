"""What waits to be sent on one connection.

A value is sent straight from the arena, together with its header, in one system call. Where the peer does not take
all of it, the value may be closed meanwhile, and is opened again when the socket takes more: no room in the arena is
ever held for a peer, so peers that do not read cannot starve others of it (they can only be disconnected).
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from avault_protocol import AvaultError, BusyError, TooLargeError, limits, pack_error, pack_result, respond

if TYPE_CHECKING:
    from ..vault import Value
    from .conversation import Answer

Reopen = Callable[[str, int], "Value"]
"""Opens a value again, given its name and version."""
Message = tuple[bytes, "Value | None"]
"""A header, and the value that goes behind it."""

# Notifications and answers queued for a peer that does not read; more than that and it is disconnected.
MAX_QUEUED = 128


def reopened(value: Value, reopen: Reopen) -> Value:
    """Return *value*, which was closed, open again.

    Raises what *reopen* does, and `BusyError` where another stands in its place: of a secret that was removed and made
    anew, or of another vault that was restored.
    """
    again = reopen(value.name, value.version)
    if again.source != value.source:
        raise BusyError("the secret was replaced meanwhile", hint="ask again")
    return again


class Stalled(Exception):
    """The peer does not take what it is sent, or has not while it could still be had."""


class _Item:
    """What is left of a message."""

    __slots__ = ("header", "sent", "size", "value")

    def __init__(self, message: Message, sent: int) -> None:
        self.header, self.value = message
        self.sent = sent
        self.size = len(self.header) + (0 if self.value is None else self.value.size)

    def parts(self, reopen: Reopen) -> list[bytes | memoryview]:
        """What is still to be sent; opens the value again where it was closed, `Stalled` if it cannot."""
        if self.value is None:
            return [self.header[self.sent :]]
        if not self.value.kept:
            try:
                self.value = reopened(self.value, reopen)
            except AvaultError as error:
                raise Stalled from error
        behind = self.sent - len(self.header)
        if behind >= 0:
            return [self.value.view[behind:]]
        return [self.header[self.sent :], self.value.view]


class Outbox:
    """Sends messages in order on a non-blocking socket. Nothing here waits but `drain`, which has a deadline.

    `put`, `answer` and `pump` raise OSError when the peer is gone, and `Stalled` where a value can no longer be opened (the
    stream then ends in the middle of a message) or too much is queued already.
    """

    def __init__(self, sock: socket.socket, reopen: Reopen) -> None:
        """*reopen* opens a value that was closed, or raises an `AvaultError` if this peer is not to have it any more."""
        self._sock = sock
        self._reopen = reopen
        self.items: deque[_Item] = deque()
        """What the socket has not taken yet; to be read only."""
        self._draining: trio.Lock | None = None  # made when it is first needed, which is seldom

    def put(self, header: bytes) -> None:
        """Send a message without a value; queue what the socket does not take now."""
        self._queue([(header, None)], 0)
        self.pump()

    def answer(self, answers: Sequence[tuple[int, Answer | AvaultError]]) -> None:
        """Send the answers to requests, all by one system call; queue what the socket does not take now."""
        parts: list[bytes | memoryview] = []
        whole = sent = 0
        for request_id, answer in answers:
            if isinstance(answer, AvaultError) or (value := answer.value) is None:
                header = _without_value(request_id, answer)
                parts.append(header)
                whole += len(header)
            elif value.kept:
                header = respond(request_id, value.result)
                parts += header, value.view
                whole += len(header) + value.size
            else:  # to open it again may close what would go out beside it
                break
        else:
            if not self.items and (sent := self._send(parts)) == whole:
                return
        self._queue([_message(request_id, answer) for request_id, answer in answers], sent)
        self.pump()

    def _queue(self, messages: list[Message], sent: int) -> None:
        """Queue all of *messages* but for the first *sent* bytes."""
        for message in messages:
            item = _Item(message, sent)
            if sent < item.size:
                if len(self.items) >= MAX_QUEUED:
                    raise Stalled
                self.items.append(item)
            sent = max(sent - item.size, 0)

    def pump(self) -> bool:
        """Send what the socket takes now; report whether nothing is left."""
        while self.items:
            item = self.items[0]
            item.sent += self._send(item.parts(self._reopen))
            if item.sent < item.size:
                return False
            self.items.popleft()
        return True

    def _send(self, parts: Sequence[bytes | memoryview]) -> int:
        try:
            return self._sock.sendmsg(parts, (), socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0

    async def drain(self) -> None:
        """Wait until all is sent; raise `Stalled` after `limits.SEND_TIMEOUT` seconds.

        Cancelled, it leaves the rest queued and the stream in the middle of a message: the caller must then close the
        connection, and does.
        """
        with trio.move_on_after(limits.SEND_TIMEOUT):
            self._draining = self._draining or trio.Lock()
            async with self._draining:
                while not self.pump():
                    await trio.lowlevel.wait_writable(self._sock)
            return
        raise Stalled

    def clear(self) -> None:
        """Forget what is queued, at the end of the connection."""
        self.items.clear()
        # Its owner owns this: without the circle both go at once, and no collector has to find them.
        del self._reopen


def _message(request_id: int, answer: Answer | AvaultError) -> Message:
    if isinstance(answer, AvaultError) or answer.value is None:
        return _without_value(request_id, answer), None
    return respond(request_id, answer.value.result), answer.value


def _without_value(request_id: int, answer: Answer | AvaultError) -> bytes:
    try:
        if isinstance(answer, AvaultError):
            return pack_error(request_id, answer)
        if answer.packed is None:
            answer.packed = pack_result(answer.result)
        return respond(request_id, answer.packed)
    except TooLargeError as error:
        return pack_error(request_id, error)
