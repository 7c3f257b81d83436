"""What waits to be sent on one connection.

A value is sent straight from the arena, together with its header, in one system call. Where the peer does not take
all of it, the value may be closed meanwhile, and is opened again when the socket takes more: no room in the arena is
ever held for a peer, so peers that do not read cannot starve others of it (they can only be disconnected).
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from avault_protocol import AvaultError, BusyError, TooLargeError, limits, pack_error, pack_result, respond

if TYPE_CHECKING:
    from ..vault import Value
    from .conversation import Answer

Reopen = Callable[[str, int], "Value"]
"""Opens a value again, given its name and version."""

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
    __slots__ = ("header", "sent", "size", "value")

    def __init__(self, header: bytes, value: Value | None) -> None:
        self.header = header
        self.value = value
        self.sent = 0
        self.size = len(header) + (0 if value is None else value.size)

    def parts(self, reopen: Reopen) -> list[bytes | memoryview]:
        """What is still to be sent; opens the value again where it was closed, `Stalled` if it cannot."""
        if self.value is None:
            return [self.header[self.sent :]]
        if not self.value.kept:
            try:
                self.value = reopened(self.value, reopen)
            except AvaultError as error:
                raise Stalled from error
        if not self.sent:
            return [self.header, self.value.view]
        behind = self.sent - len(self.header)
        if behind >= 0:
            return [self.value.view[behind:]]
        return [self.header[self.sent :], self.value.view]


class Outbox:
    """Sends items in order on a non-blocking socket. Nothing here waits but `drain`, which has a deadline.

    `put`, `answer` and `pump` raise OSError when the peer is gone, and `Stalled` where a value can no longer be opened (the
    stream then ends in the middle of a message) or too much is queued already.
    """

    def __init__(self, sock: socket.socket, reopen: Reopen) -> None:
        """*reopen* opens a value that was closed, or raises an `AvaultError` if this peer is not to have it any more."""
        self._sock = sock
        self._reopen = reopen
        self._items: deque[_Item] = deque()
        self._draining = trio.Lock()

    @property
    def empty(self) -> bool:
        """Whether everything has been sent."""
        return not self._items

    def put(self, header: bytes, value: Value | None = None) -> None:
        """Send *header*, and behind it *value*; queue what the socket does not take now."""
        item = _Item(header, value)
        if len(self._items) >= MAX_QUEUED:
            raise Stalled
        if self._items or not self._send(item):
            self._items.append(item)

    def answer(self, request_id: int, answer: Answer | AvaultError) -> None:
        """Do with the answer to a request what `put` does."""
        try:
            if isinstance(answer, AvaultError):
                self.put(pack_error(request_id, answer))
            elif (value := answer.value) is not None:
                self.put(respond(request_id, value.result), value)
            else:
                self.put(respond(request_id, pack_result(answer.result)))
        except TooLargeError as error:
            self.put(pack_error(request_id, error))

    def pump(self) -> bool:
        """Send what the socket takes now; report whether nothing is left."""
        while self._items and self._send(self._items[0]):
            self._items.popleft()
        return not self._items

    def _send(self, item: _Item) -> bool:
        """Send what the socket takes of *item*; report whether that was all that was left of it."""
        try:
            item.sent += self._sock.sendmsg(item.parts(self._reopen), (), socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        return item.sent >= item.size

    async def drain(self) -> None:
        """Wait until all is sent; raise `Stalled` after `limits.SEND_TIMEOUT` seconds.

        Cancelled, it leaves the rest queued and the stream in the middle of a message: the caller must then close the
        connection, and does.
        """
        with trio.move_on_after(limits.SEND_TIMEOUT):
            async with self._draining:
                while not self.pump():
                    await trio.lowlevel.wait_writable(self._sock)
            return
        raise Stalled

    def clear(self) -> None:
        """Forget what is queued."""
        self._items.clear()
