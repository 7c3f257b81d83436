"""What arrives on an operator's connection: messages whose values never leave the arena.

Bytes are received straight into the arena, since any of them may belong to a passphrase. The scanner finds where the
head of a message ends; only the head is copied out and decoded. Arena is held from the first byte of a message until
the message has been handled, and never while a connection is idle.
"""

from __future__ import annotations

import array
import socket
from collections.abc import Callable

import trio

from avault_protocol import (
    BadRequestError,
    Extent,
    LockedError,
    Request,
    RequestTimeoutError,
    Response,
    Scanner,
    unpack_head,
)

from ..memory import sodium
from ..memory.arena import Arena, Slot
from .descriptors import close_elsewhere

# What one message gets at first: every message but an import's fits.
FIRST = 4 * 1024
# From a message's first byte to its last; it holds arena all that time.
MESSAGE_TIMEOUT = 10.0
MAX_DESCRIPTORS = 4
_FDS_SPACE = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)


class Message:
    """One request with its value, which lies in the arena until `release`, and the descriptors that came with it.

    *epoch* is the vault's at the first byte: if it is another by now, what has arrived may have been wiped.
    """

    __slots__ = ("_slot", "epoch", "fds", "request", "value")

    def __init__(self, request: Request, slot: Slot, extent: Extent, fds: list[int], epoch: int) -> None:
        self.request = request
        self.epoch = epoch
        self.fds = fds
        self.value: memoryview | None = slot.view[extent.head_end : extent.end] if extent.has_value else None
        self._slot = slot

    def check(self, epoch: int) -> None:
        """Raise `LockedError` if the value is not what was sent, because the vault's *epoch* is another by now."""
        if self.value is not None and self.epoch != epoch:
            raise LockedError("the vault was locked while this arrived", hint="try again")

    def release(self) -> None:
        """Wipe the value and close the descriptors."""
        if self.value is not None:
            self.value.release()
            self.value = None
        _give_up(self._slot, self.fds)
        self.fds = []


def _give_up(slot: Slot, fds: list[int]) -> None:
    slot.release()
    close_elsewhere(fds)


class Inbox:
    """Receives messages one after the other on a non-blocking socket; *epoch* tells the vault's."""

    def __init__(self, sock: socket.socket, arena: Arena, epoch: Callable[[], int]) -> None:
        self._sock = sock
        self._arena = arena
        self._epoch = epoch
        self._since = 0
        self._scanner = Scanner()
        self._slot: Slot | None = None
        self._have = 0
        self._extent: Extent | None = None
        self._fds: list[int] = []

    async def receive(self) -> Message | None:
        """Return the next message, or None at the end of the stream.

        Raises `BadRequestError` or `TooLargeError` for bytes that are no message, `BusyError` when the arena is full,
        `RequestTimeoutError` for a message that is not complete in time; the stream is of no use after any of them.
        Cancelled, it keeps what has arrived, and may be called again.
        """
        if self._slot is None:
            await trio.lowlevel.wait_readable(self._sock)
        with trio.move_on_after(MESSAGE_TIMEOUT):
            return await self._message()
        raise RequestTimeoutError(f"a message was not complete within {MESSAGE_TIMEOUT:.0f} s")

    async def _message(self) -> Message | None:
        while True:
            slot = self._room()
            if self._have and self._extent is None:
                self._extent = self._scanner.scan(slot.view, 0, self._have)
            if self._extent is not None and self._extent.end <= self._have:
                if (message := self._cut(slot, self._extent)) is not None:
                    return message
                # Nobody answers it: without this, who sends them without end would be the only one who is heard.
                await trio.lowlevel.checkpoint()
                continue
            if not await self._fill(self._room()):
                self._end()
                return None

    def _room(self) -> Slot:
        """Return the slot, made large enough for the message, as far as its size is known, and for one byte more."""
        needed = max(FIRST, self._have + 1 if self._extent is None else self._extent.end)
        old = self._slot
        if old is None:
            self._since = self._epoch()
        elif needed <= old.size:
            return old
        self._slot = slot = self._arena.take(needed if old is None else max(needed, 2 * old.size))
        if old is not None:
            sodium.copy(slot.address, old.address, self._have)
            old.release()
        return slot

    async def _fill(self, slot: Slot) -> bool:
        """Receive some bytes; report whether there were any. No checkpoint lies between receiving and keeping them."""
        while True:
            try:
                count, ancillary, _, _ = self._sock.recvmsg_into(
                    [slot.view[self._have :]], _FDS_SPACE, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._sock)
                continue
            self._have += count
            self._keep_descriptors(ancillary)
            return count > 0

    def _keep_descriptors(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array("i")
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
                self._fds.extend(fds)
        if len(self._fds) > MAX_DESCRIPTORS:
            raise BadRequestError(f"more than {MAX_DESCRIPTORS} descriptors came with one message")

    def _cut(self, slot: Slot, extent: Extent) -> Message | None:
        """Take the complete message out, None for a notification; what follows it moves to a slot of its own."""
        rest = self._have - extent.end
        self._slot = None
        if rest:
            self._slot = self._arena.take(max(FIRST, rest))
            sodium.copy(self._slot.address, slot.address + extent.end, rest)
        self._have, self._extent = rest, None
        fds, self._fds = self._fds, []
        try:
            head = unpack_head(bytes(slot.view[: extent.head_end]), extent.has_value)
        except BadRequestError:
            _give_up(slot, fds)
            raise
        if isinstance(head, Request):
            return Message(head, slot, extent, fds, self._since)
        _give_up(slot, fds)
        if isinstance(head, Response):
            raise BadRequestError("a response, where nothing was asked")
        return None

    def _end(self) -> None:
        if self._have:
            raise BadRequestError("the connection ended within a message")
        self.close()

    def close(self) -> None:
        """Wipe and give back what is held."""
        if self._slot is not None:
            self._slot.release()
            self._slot = None
        close_elsewhere(self._fds)
        self._fds = []
