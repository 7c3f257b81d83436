"""What waits to be sent on one connection.

A value is sent straight from the arena, together with its header, in one system call. Where the peer does not take
all of it, the arena's slot is given back at once and the value is opened again when the socket takes more: no slot is
ever held across a wait, so peers that do not read cannot starve others of arena (they can only be disconnected).
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from avault_protocol import AvaultError, limits

if TYPE_CHECKING:
    from ..vault import Opened

# Notifications and answers queued for a peer that does not read; more than that and it is disconnected.
MAX_QUEUED = 128


class Stalled(Exception):
    """The peer does not take what it is sent, or has not while it could still be had."""


class _Item:
    __slots__ = ("header", "opened", "reopen", "sent", "size")

    def __init__(
        self, header: bytes, value_size: int, opened: Opened | None, reopen: Callable[[], Opened] | None
    ) -> None:
        self.header = header
        self.opened = opened
        self.reopen = reopen
        self.sent = 0
        self.size = len(header) + value_size

    def release(self) -> None:
        if self.opened is not None:
            self.opened.release()
            self.opened = None

    def parts(self) -> list[bytes | memoryview]:
        """What is still to be sent; opens the value again where its slot was given back, `Stalled` if it cannot."""
        if self.reopen is None:
            return [self.header[self.sent :]]
        if self.opened is None:
            try:
                self.opened = self.reopen()
            except AvaultError as error:  # locked, removed, or taken back meanwhile
                raise Stalled from error
            if self.opened.size != self.size - len(self.header):  # another vault was restored meanwhile
                raise Stalled
        head = len(self.header)
        if self.sent >= head:
            return [self.opened.view[self.sent - head :]]
        return [self.header[self.sent :], self.opened.view]


class Outbox:
    """Sends items in order on a non-blocking socket; `pump` never waits, `drain` does, with a deadline."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._items: deque[_Item] = deque()
        self._draining = trio.Lock()

    def put(
        self,
        header: bytes,
        value_size: int = 0,
        opened: Opened | None = None,
        reopen: Callable[[], Opened] | None = None,
    ) -> None:
        """Queue *header*, and behind it a value of *value_size* bytes: *opened*, or what *reopen* gives.

        *reopen* opens the same version of the same value again, or raises an `AvaultError` if this peer is not to have
        it any more. Raises `Stalled` when too much is queued already.
        """
        if len(self._items) >= MAX_QUEUED:
            raise Stalled
        self._items.append(_Item(header, value_size, opened, reopen))

    def pump(self) -> bool:
        """Send what the socket takes now; report whether nothing is left.

        Every slot of the arena is given back on return. Raises OSError when the peer is gone, and `Stalled` where a
        value can no longer be opened: the stream then ends in the middle of a message.
        """
        try:
            while self._items:
                item = self._items[0]
                item.sent += self._sock.sendmsg(item.parts(), (), socket.MSG_NOSIGNAL)
                if item.sent < item.size:
                    return False
                item.release()
                self._items.popleft()
        except BlockingIOError:
            return False
        finally:
            for item in self._items:
                item.release()
        return True

    async def drain(self) -> None:
        """Wait until all is sent; raise `Stalled` after `limits.SEND_TIMEOUT` seconds.

        Cancelled, it leaves the rest queued and the stream in the middle of a message: the caller must then close the
        connection, and does (a connection's tasks are only ever cancelled all together).
        """
        with trio.move_on_after(limits.SEND_TIMEOUT):
            async with self._draining:
                while not self.pump():
                    await trio.lowlevel.wait_writable(self._sock)
            return
        raise Stalled

    def clear(self) -> None:
        """Forget what is queued, giving back every slot."""
        while self._items:
            self._items.popleft().release()
