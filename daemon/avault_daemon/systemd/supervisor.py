"""What the service manager that started this process is told: readiness, status, signs of life, sockets to keep.

The socket is connected when this is made, because a confined process connects to nothing any more; it is that of the
manager, which keeps it as long as it lives. Nothing here blocks: what does not fit into the manager's queue waits in
ours. Where there is no manager, all this leads nowhere.

Source: sd_notify(3), sd_watchdog_enabled(3), systemd.service(5).
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque
from collections.abc import MutableMapping

import trio

from avault_protocol import UNLOCKED, BadRequestError

log = logging.getLogger(__name__)

# As often as sd_watchdog_enabled(3) recommends, and once more for a machine that is busy.
_SIGNS = 3


class Supervisor:
    """The manager at the other end of *sock*, None: there is none. *patience*: seconds without a sign of life."""

    def __init__(self, sock: socket.socket | None = None, patience: float | None = None) -> None:
        self._sock = sock
        self._patience = patience
        self._unsent: deque[tuple[bytes, socket.socket | None]] = deque()
        self._more = trio.Event()
        self._status = ""

    @classmethod
    def of(cls, environ: MutableMapping[str, str]) -> Supervisor:
        """Return the manager that *environ* names, whose variables are taken out: they are for this process alone.

        `BadRequestError`: NOTIFY_SOCKET is there, and leads to none.
        """
        address = environ.pop("NOTIFY_SOCKET", "")
        span, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", str(os.getpid()))
        if not address:
            return cls()
        ours = span.isascii() and span.isdigit() and int(span) > 0 and pid == str(os.getpid())
        return cls(_connect(address), int(span) / 1e6 if ours else None)

    @property
    def present(self) -> bool:
        """Whether there is a manager."""
        return self._sock is not None

    def ready(self) -> None:
        """Say that everybody is served now, be it for the first time or again."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """Say that the settings are being read again; `ready` ends it."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Say that nobody is served any more."""
        self._tell("STOPPING=1")

    def keep(self, name: str, sock: socket.socket) -> None:
        """Have *sock* kept under *name* for the process that comes after this one, instead of any of that name."""
        self.drop(name)
        self._tell(f"FDSTORE=1\nFDNAME={name}", sock)

    def drop(self, name: str) -> None:
        """Have what is kept under *name* closed."""
        self._tell(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def show(self, state: str, count: int) -> None:
        """Have a vault's *state* shown, by `systemctl status` for one, and *count*, of its secrets, if it is unlocked."""
        status = f"{state}, {_secrets(count)}" if state == UNLOCKED else state
        if status != self._status:
            self._status = status
            self._tell(f"STATUS={status}")

    async def run(self) -> None:
        """Give signs of life for as long as the loop turns, and send what has to wait; for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_the_rest)
            while self._patience is not None:
                self._tell("WATCHDOG=1")
                await trio.sleep(self._patience / _SIGNS)

    def close(self) -> None:
        """Close the socket; what is told from then on leads nowhere."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _tell(self, message: str, passed: socket.socket | None = None) -> None:
        if self._sock is not None:
            self._unsent.append((message.encode(), passed))
            self._pump(self._sock)

    def _pump(self, sock: socket.socket) -> None:
        """Send what fits. What cannot be sent at all is given up: whom it was for is not there."""
        while self._unsent:
            message, passed = self._unsent[0]
            try:
                socket.send_fds(sock, [message], [passed.fileno()] if passed else [])
            except BlockingIOError:
                self._more.set()
                return
            except OSError as error:
                log.warning("the service manager cannot be told: %s", os.strerror(error.errno or 0))
            self._unsent.popleft()

    async def _send_the_rest(self) -> None:
        while self._sock is not None:
            await self._more.wait()
            self._more = trio.Event()
            await trio.lowlevel.wait_writable(self._sock)
            self._pump(self._sock)


def _secrets(count: int) -> str:
    return "1 secret" if count == 1 else f"{count} secrets"


def _connect(address: str) -> socket.socket:
    if address[0] not in "/@":
        raise BadRequestError("NOTIFY_SOCKET is neither a path nor an abstract name")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect("\0" + address[1:] if address[0] == "@" else address)
    except (OSError, ValueError) as error:
        sock.close()
        why = os.strerror(error.errno or 0).lower() if isinstance(error, OSError) else "not a name"
        raise BadRequestError(
            f"NOTIFY_SOCKET: {why}", hint="it is of the service manager; unset it elsewhere"
        ) from error
    return sock
