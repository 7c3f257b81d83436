"""The keyring of the operator's desktop, as the daemon has it: through a helper process, into the arena.

Which keyring there is, if any, is found out once, at start. Values are bytes, kept under the service ``avault`` by the
names that are given here. Everything here blocks, for up to `keyring_helper.PATIENCE` seconds each: threads only; `close`
ends whatever waits.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from avault_protocol import (
    BadRequestError,
    CorruptError,
    DeniedError,
    LockedError,
    StorageFailedError,
)

from ..memory import sodium
from ..memory.arena import Arena, Slot
from . import helper

MAX_VALUE = 64 * 1024
_GONE = "the keyring's helper process has ended"
_NONE = "no keyring answers"
_SLACK = 15.0
"""Seconds beyond its own patience after which the helper counts as gone."""


class Keyring:
    """The keyring behind *connection*, whose other end a helper holds; None: the settings want none."""

    def __init__(self, connection: socket.socket | None = None, pid: int = 0) -> None:
        self.enabled = connection is not None
        self.backend: str | None = None
        """What kind of keyring it is; None if there is none that is real."""
        self.gone = False
        """Whether the helper has ended, and with it every answer until a restart."""
        self.pid = pid
        self._connection = connection
        self._one_at_a_time = threading.Lock()
        if connection is not None:
            self._meet(connection)

    @classmethod
    def start(cls) -> Keyring:
        """Start a helper. Before the first thread, and before the process is confined."""
        return cls(*helper.start())

    def _meet(self, connection: socket.socket) -> None:
        connection.settimeout(helper.MAX_START + _SLACK)
        try:
            hello = connection.recv(256)
        except OSError:
            hello = b""
        if hello[:1] == helper.OK:
            self.backend = hello[1:].decode("ascii", "replace")
        connection.settimeout(helper.PATIENCE + _SLACK)

    @property
    def ok(self) -> bool:
        """Whether there is one that can be used."""
        return self.backend is not None and not self.gone

    @property
    def problem(self) -> str | None:
        """Why it cannot be used although it is wanted; None if it can be, or is not wanted."""
        if not self.enabled or self.ok:
            return None
        return f"keyring = true, but {_GONE if self.backend else _NONE}"

    def check(self) -> None:
        """Raise `BadRequestError` if there is no keyring, `StorageFailedError` if there is none any more."""
        if not self.enabled:
            raise BadRequestError(
                "this daemon uses no keyring", hint="set keyring = true in the settings, then restart avaultd"
            )
        if self.backend is None:
            raise BadRequestError(
                _NONE,
                hint="avaultd looks once, at start: it needs a Secret Service or KWallet on its session bus then",
            )
        if self.gone:
            raise StorageFailedError(_GONE, hint="restart avaultd")

    def get(self, arena: Arena, item: str) -> Slot | None:
        """Return the value of *item*, None if there is none; the slot is the caller's."""
        value = arena.take(MAX_VALUE)
        try:
            status, size = self._ask([_head(helper.GET, item)], value.view)
            if status == helper.OK and size:
                return value.narrow(0, size)
            if status == helper.OK:
                raise CorruptError(f"the keyring's item {item!r} is empty")
            value.release()
            return None
        except BaseException:
            value.release()
            raise

    def put(self, item: str, value: Slot) -> None:
        """Store *value*, not all zero bytes, in place of what *item* held; `LockedError` if it was wiped meanwhile."""
        if value.size > MAX_VALUE:
            raise ValueError(f"{value.size} bytes for a keyring")
        wiped = False

        def go() -> bytes:
            nonlocal wiped
            wiped = sodium.is_zero(value.address, value.size)
            return b"-" if wiped else helper.GO

        self._ask([_head(helper.PUT, item), value.view], memoryview(bytearray(256)), go)
        if wiped:
            raise LockedError("the vault was locked meanwhile")

    def delete(self, item: str) -> bool:
        """Remove *item*; report whether it was there."""
        return self._ask([_head(helper.DELETE, item)], memoryview(bytearray(256)))[0] == helper.OK

    def close(self) -> None:
        """End the helper, and whatever waits for it."""
        self.gone = True
        if self._connection is not None:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)

    def _ask(
        self,
        message: Sequence[bytes | memoryview],
        answer: memoryview,
        then: Callable[[], bytes] | None = None,
    ) -> tuple[bytes, int]:
        """Send *message*, and behind it what *then* returns; return the status, and how much of *answer* was written."""
        status = bytearray(1)
        with self._one_at_a_time:
            self.check()
            assert self._connection is not None  # noqa: S101 - or `check` would have raised
            try:
                self._connection.sendmsg(message)
                if then is not None:
                    self._connection.send(then())
                size = self._connection.recvmsg_into([status, answer])[0] - 1
            except OSError:  # what comes late would be taken for the answer to the next question
                size = -1
            if size < 0:
                self.close()
                self.check()
        _raise_failure(bytes(status), answer[: max(size, 0)])
        return bytes(status), size


def _raise_failure(status: bytes, text: memoryview) -> None:
    if status == helper.LOCKED:
        raise DeniedError(
            "the keyring is locked", hint="unlock it: log in on the desktop, or ask its own manager"
        )
    if status == helper.FAILED:
        why = bytes(text).decode("ascii", "replace")
        raise StorageFailedError(f"the keyring failed: {why}", hint="see whether other programs can use it")


def _head(action: bytes, item: str) -> bytes:
    return action + item.encode() + b"\0"
