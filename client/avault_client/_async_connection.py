"""A connection to the agents' socket for trio and asyncio."""

from __future__ import annotations

from _socket import AF_UNIX, MSG_NOSIGNAL, SOCK_STREAM, socket
from typing import TYPE_CHECKING

import anyio

from avault_protocol import BadRequestError, Notification

from ._connection import lost, silent, unreachable
from ._conversation import Conversation
from ._patience import Patience

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._conversation import Answer
    from ._question import Question


class AsyncConnection:
    """One conversation with the daemon, over a non-blocking socket; for one task at a time.

    Cancelling a call closes the connection: half an answer may be in it, and the other half would be taken for the
    next one's.
    """

    def __init__(self, path: str, timeout: float) -> None:
        self._path = path
        self._timeout = timeout  # seconds to connect, and for an answer which waits for nobody
        self._conversation = Conversation()
        self._socket = socket(AF_UNIX, SOCK_STREAM)
        self._socket.setblocking(False)

    @property
    def closed(self) -> bool:
        """Whether it is closed; after an exception of `call` it is."""
        return self._socket.fileno() < 0

    async def connect(self) -> None:
        """Connect. Raises `DaemonUnavailableError`."""
        patience = Patience(self._timeout)
        while True:
            try:
                return self._socket.connect(self._path)
            except BlockingIOError as error:  # the listener's queue is full, and nothing tells when it is not
                pause, failure = patience.pause(), error
            except OSError as error:
                raise unreachable(self._path, error) from None
            if not pause:
                raise unreachable(self._path, failure)
            await anyio.sleep(pause)

    async def call(self, question: Question, longer: float = 0.0, *, hello: Question | None = None) -> Answer:
        """Ask, and return the answer, which may be an error and may take *longer* seconds than others.

        *hello* goes before it; an error that is the answer to that is raised.

        Raises as the blocking `Connection.call`. After any exception, cancellation too, the connection is closed.
        """
        timeout = self._timeout + longer
        try:
            with anyio.fail_after(timeout):
                await self._send(self._conversation.ask(question, hello))
                while isinstance(event := await self._event(), Notification):
                    pass
                return event
        except TimeoutError:
            self.close()
            raise silent(self._path, timeout) from None
        except BaseException:
            self.close()
            raise

    async def notification(self) -> Notification:
        """Return the next thing that the daemon tells. Cancellation loses nothing."""
        event = await self._event()
        if not isinstance(event, Notification):
            raise BadRequestError("the daemon answered a request that is not open")
        return event

    def close(self) -> None:
        """Close the connection, and wipe what it received. A task that waits on it gets an error."""
        if not self.closed:
            anyio.notify_closing(self._socket)
        self._socket.close()
        self._conversation.close()

    async def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest, MSG_NOSIGNAL) :]
            except BlockingIOError:
                await self._wait(anyio.wait_writable)
            except OSError:
                return  # the daemon hung up; why, it may have told before: receiving finds that, or the end

    async def _event(self) -> Answer | Notification:
        event = self._conversation.next_event()
        while event is None:
            event = await self._heard()
        return event

    async def _heard(self) -> Answer | Notification | None:
        # The only checkpoint; what has been received is noted in the same step, so cancellation loses nothing.
        await self._wait(anyio.wait_readable)
        try:
            count = self._socket.recv_into(self._conversation.space())
        except BlockingIOError:
            return None
        except OSError:
            count = 0
        if not count:
            raise lost(self._path)
        return self._conversation.heard(count)

    async def _wait(self, ready: Callable[[socket], Awaitable[None]]) -> None:
        try:
            await ready(self._socket)
        except (anyio.ClosedResourceError, ValueError, OSError):  # by `close`; or it was closed already
            raise lost(self._path) from None
