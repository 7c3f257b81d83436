"""What waits to be sent on one connection.

A value is sent straight from the arena, together with its header, in one system call. Where the peer does not take
all of it, the value may be closed meanwhile, and is opened again when the socket takes more: no room in the arena is
ever held for a peer, so peers that do not read cannot starve others of it (they can only be disconnected).
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import trio

from avault_protocol import AvaultError, TooLargeError, limits, pack_error, pack_result, respond

if TYPE_CHECKING:
    from ..vault import Value
    from .conversation import Answer

# Notifications and answers queued for a peer that does not read; more than that and it is disconnected.
MAX_QUEUED = 128


class Stalled(Exception):
    """The peer does not take what it is sent, or has not while it could still be had."""


class _Item:
    __slots__ = ("header", "reopen", "sent", "size", "value")

    def __init__(self, header: bytes, value: Value | None, reopen: Callable[[], Value] | None) -> None:
        self.header = header
        self.value = value
        self.reopen = reopen
        self.sent = 0
        self.size = len(header) + (0 if value is None else value.size)

    def parts(self) -> list[bytes | memoryview]:
        """What is still to be sent; opens the value again where it was closed, `Stalled` if it cannot."""
        if self.value is None or self.reopen is None:
            return [self.header[self.sent :]]
        if not self.value.kept:
            try:
                self.value = self.reopen()
            except AvaultError as error:  # locked, removed, or taken back meanwhile
                raise Stalled from error
            if self.value.size != self.size - len(self.header):  # another vault was restored meanwhile
                raise Stalled
        if not self.sent:
            return [self.header, self.value.view]
        behind = self.sent - len(self.header)
        if behind >= 0:
            return [self.value.view[behind:]]
        return [self.header[self.sent :], self.value.view]


class Outbox:
    """Sends items in order on a non-blocking socket; `pump` never waits, `drain` does, with a deadline."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._items: deque[_Item] = deque()
        self._draining = trio.Lock()

    def put(
        self, header: bytes, value: Value | None = None, reopen: Callable[[], Value] | None = None
    ) -> None:
        """Queue *header*, and behind it *value*, or once that is closed what *reopen* gives.

        *reopen* opens the same version of the same value again, or raises an `AvaultError` if this peer is not to have
        it any more. Raises `Stalled` when too much is queued already.
        """
        if len(self._items) >= MAX_QUEUED:
            raise Stalled
        self._items.append(_Item(header, value, reopen))

    def answer(
        self, request_id: int, answer: Answer | AvaultError, reopen: Callable[[str, int], Value]
    ) -> None:
        """Queue the answer to a request; *reopen* opens a value again, given its name and version. Raises as `put`."""
        try:
            if isinstance(answer, AvaultError):
                self.put(pack_error(request_id, answer))
            elif (value := answer.value) is None:
                self.put(respond(request_id, pack_result(answer.result)))
            else:
                again = partial(reopen, value.name, value.version)
                self.put(respond(request_id, value.result), value, again)
        except TooLargeError as error:
            self.put(pack_error(request_id, error))

    def pump(self) -> bool:
        """Send what the socket takes now; report whether nothing is left.

        Raises OSError when the peer is gone, and `Stalled` where a value can no longer be opened: the stream then ends
        in the middle of a message.
        """
        items = self._items
        try:
            while items:
                item = items[0]
                item.sent += self._sock.sendmsg(item.parts(), (), socket.MSG_NOSIGNAL)
                if item.sent < item.size:
                    return False
                items.popleft()
        except BlockingIOError:
            return False
        return True

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
