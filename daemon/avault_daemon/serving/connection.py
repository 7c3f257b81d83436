"""One connection of each kind: bytes to requests, answers to bytes, and what happens when either side fails.

Both kinds read in one task and never hold half a message across a cancellation that the connection survives: a
connection's tasks are cancelled all together, and then it is closed.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from avault_protocol import (
    AuditFailedError,
    AvaultError,
    BadRequestError,
    BusyError,
    Decoder,
    InternalError,
    NotGrantedError,
    Request,
    RequestTimeoutError,
    Response,
    TooLargeError,
    limits,
    pack_error,
    pack_notification,
    pack_response,
)

from ..faults import log_fault
from ..operator_api import OperatorConversation
from .agent_api import AgentConversation
from .conversation import Answer, Wait
from .inbox import Inbox, Message
from .outbox import Outbox, Stalled

if TYPE_CHECKING:
    from ..callers.policy import Caller
    from ..callers.processes import Process
    from ..core import Core
    from ..vault import Opened

log = logging.getLogger(__name__)

# One recv of an agent's requests, which are some 60 bytes each.
RECEIVE = 16 * 1024
# Messages taken before their answers leave, and before it is somebody else's turn: it bounds the arena that one wake-up
# uses to 512 KiB, and how long a crowd of connections that all send without end keeps others waiting.
BATCH = 16
# An operator's connection does one thing after the other; `lock` may overtake.
MAX_OPERATOR_REQUESTS = 8

_GONE = (BrokenPipeError, ConnectionResetError, Stalled)


class AgentConnection:
    """A plugin's connection: requests are served in the order of their arrival, those that wait when they may.

    All requests that one wake-up brings are recorded by one write, before the first of their answers leaves.
    """

    def __init__(self, core: Core, sock: socket.socket, caller: Caller, process: Process) -> None:
        self._core = core
        self._sock = sock
        self._process = process
        self._outbox = Outbox(sock)
        self._decoder = Decoder()
        self._conversation = AgentConversation(core, caller, process)
        self._pending: list[tuple[int, Answer | AvaultError]] = []
        self._waiting = 0
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Converse until the peer is gone, breaks the protocol, or does not say hello in time."""
        try:
            async with trio.open_nursery() as self._nursery:
                hello = self._nursery.cancel_scope
                hello.deadline = trio.current_time() + limits.HELLO_TIMEOUT
                while data := await self._receive():
                    await self._take(data)
                    if self._conversation.session is not None:
                        hello.deadline = float("inf")
                hello.cancel()
            if hello.cancelled_caught and self._conversation.session is None:
                self._last_words(RequestTimeoutError(f"no hello within {limits.HELLO_TIMEOUT:.0f} s"))
        except* _GONE:
            log.debug("an agent's connection broke")
        except* (BadRequestError, TooLargeError) as broken:
            self._last_words(broken.exceptions[0])
        finally:
            self._outbox.clear()

    def _last_words(self, error: BaseException) -> None:
        if isinstance(error, AvaultError) and self._outbox.pump():
            self._outbox.put(pack_error(0, error))
            self._outbox.pump()

    def stop(self) -> None:
        """End the connection: the peer does not read, or is gone."""
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def _receive(self) -> bytes:
        """Return what has come; nothing at the end of the stream, which is also where its process ended."""
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            try:
                data = self._sock.recv(RECEIVE)
            except BlockingIOError:
                continue
            # An heir may ask before the server's watcher has had its turn; it is somebody else already.
            return data if self._process.alive() else b""

    async def _take(self, data: bytes) -> None:
        """Serve every request that *data* completes. No checkpoint lies between receiving and feeding."""
        self._decoder.feed(data)
        for count, message in enumerate(self._decoder, 1):
            if isinstance(message, Response):
                raise BadRequestError("a response, where nothing was asked")
            if isinstance(
                message, Request
            ):  # a notification asks for no answer, and there is none that we know
                self._answer(message)
            if count % BATCH == 0:
                await self._send()
                await trio.lowlevel.checkpoint()
        await self._send()

    def _answer(self, request: Request, *, waited: bool = False) -> None:
        try:
            answer = self._conversation.handle(request, waited=waited)
            if isinstance(answer, Wait):
                self._wait(request, answer.seconds)
            else:
                self._pending.append((request.id, answer))
        except AvaultError as error:
            self._pending.append((request.id, error))
        except Exception as error:  # noqa: BLE001 - one conversation ends alone
            log_fault(f"{request.method} on an agents' socket", error)
            self._pending.append((request.id, InternalError()))

    def _wait(self, request: Request, seconds: float) -> None:
        if self._nursery is None or self._waiting >= limits.MAX_OPEN_REQUESTS:
            raise BusyError(f"{limits.MAX_OPEN_REQUESTS} requests of this connection wait already")
        self._waiting += 1
        self._nursery.start_soon(self._answer_on_unlock, request, seconds)

    def _ringing(self) -> AbstractContextManager[None]:
        session = self._conversation.session
        if session is None or not self._core.gate.still_agent(session):
            return nullcontext()
        return self._core.bell.waiting(f"{session.agent}/{session.plugin}")

    async def _answer_on_unlock(self, request: Request, seconds: float) -> None:
        with self._ringing(), trio.move_on_after(seconds):
            await self._core.unlocked.wait()
        self._waiting -= 1
        if not self._process.alive():
            return
        self._answer(request, waited=True)
        await self._send()

    async def _send(self) -> None:
        """Record, then send. What could not be recorded is not served."""
        pending, self._pending = self._pending, []
        try:
            try:
                self._core.record.flush()
                if self._core.record.always:
                    _release(pending)  # no slot is held across a wait: values are opened again to be sent
                    await self._core.record.settle()
            except AuditFailedError as failure:
                _release(pending)
                pending = [(request_id, failure) for request_id, _ in pending]
            for request_id, answer in pending:
                _queue(self._outbox, request_id, answer, self._reopen)
            drained = self._outbox.pump()
        finally:
            _release(pending)
        if not drained:
            await self._outbox.drain()

    def _reopen(self, name: str, version: int) -> Opened:
        """Open again what was not sent at once; whether it may be had is asked again too."""
        session = self._conversation.session
        if session is None or not self._core.gate.allows(session, name):
            raise NotGrantedError
        return self._core.vault.open_value(name, version)

    def notify(self, event: str, detail: dict[str, object]) -> None:
        """Tell the plugin of an event that concerns it, without waiting."""
        conversation = self._conversation
        if conversation.session is None:
            return
        if event in ("locked", "unlocked") or (
            event == "rotated" and conversation.concerns(str(detail["name"]))
        ):
            self._post(event, detail)
        if event in ("unlocked", "policy"):
            for name in conversation.refresh():
                if event == "policy":
                    self._post("granted", {"name": name})

    def _post(self, event: str, detail: dict[str, object]) -> None:
        try:
            self._outbox.put(pack_notification(event, detail))
            if not self._outbox.pump() and self._nursery is not None:
                self._nursery.start_soon(self._outbox.drain)
        except (OSError, Stalled):
            self.stop()


class OperatorConnection:
    """An operator's connection: one request at a time, but `lock` and the end of the connection are always heard."""

    def __init__(self, core: Core, sock: socket.socket, caller: Caller, process: Process) -> None:
        self._core = core
        self._process = process
        self._outbox = Outbox(sock)
        self._inbox = Inbox(sock, core.arena, lambda: core.vault.epoch)
        self._conversation = OperatorConversation(core, caller)
        self._open = 0
        self._turn = trio.Lock()

    async def run(self) -> None:
        """Converse until the peer is gone or breaks the protocol; what is under way then is cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                while (message := await self._inbox.receive()) is not None:
                    if not self._process.alive():  # what it had proven, its heirs have not
                        message.release()
                        break
                    if self._open >= MAX_OPERATOR_REQUESTS:
                        message.release()
                        raise BusyError(
                            f"{MAX_OPERATOR_REQUESTS} requests of this connection are open already"
                        )
                    self._open += 1
                    nursery.start_soon(self._serve, message)
                nursery.cancel_scope.cancel()
        except* _GONE:
            log.debug("an operator's connection broke")
        except* (BadRequestError, TooLargeError, BusyError, InternalError, RequestTimeoutError) as broken:
            if isinstance(error := broken.exceptions[0], AvaultError) and self._outbox.pump():
                self._outbox.put(pack_error(0, error))
                self._outbox.pump()
        finally:
            self._conversation.close()
            self._inbox.close()
            self._outbox.clear()

    async def _serve(self, message: Message) -> None:
        request = message.request
        try:
            answer = await self._answer(message)
        finally:
            message.release()
            self._open -= 1
        try:
            _queue(self._outbox, request.id, answer, self._core.vault.open_value)
            drained = self._outbox.pump()
        finally:
            _release([(request.id, answer)])
        if not drained:
            await self._outbox.drain()

    async def _answer(self, message: Message) -> Answer | AvaultError:
        progress = partial(self._progress, message.request.id)
        try:
            if message.request.method == "lock":
                return await self._conversation.handle(message, progress)
            async with self._turn:
                message.check(self._core.vault.epoch)
                return await self._conversation.handle(message, progress)
        except AvaultError as error:
            return error
        except OSError as error:
            log_fault(f"{message.request.method} on the operator's socket", error)
            # Its number, not its text, which may tell what a client sent.
            return InternalError(f"{message.request.method}: {os.strerror(error.errno or errno.EIO).lower()}")
        except Exception as error:  # noqa: BLE001 - one conversation ends alone
            log_fault(f"{message.request.method} on the operator's socket", error)
            return InternalError()

    def _progress(self, request_id: int, stage: str, **detail: object) -> None:
        """Say how far a long request has come, if the peer reads; nobody waits for it.

        That the peer is gone is for the reader to find: what tells of progress may be in the middle of something.
        """
        with suppress(OSError, Stalled):
            self._outbox.put(pack_notification("progress", {"id": request_id, "stage": stage, **detail}))
            self._outbox.pump()


def _release(answers: Iterable[tuple[int, Answer | AvaultError]]) -> None:
    for _, answer in answers:
        if isinstance(answer, Answer) and answer.opened is not None:
            answer.opened.release()


def _queue(
    outbox: Outbox,
    request_id: int,
    answer: Answer | AvaultError,
    open_value: Callable[[str, int], Opened],
) -> None:
    if isinstance(answer, AvaultError):
        outbox.put(pack_error(request_id, answer))
        return
    opened = answer.opened
    try:
        header = pack_response(request_id, answer.result, None if opened is None else opened.size)
    except TooLargeError as error:
        outbox.put(pack_error(request_id, error))
        return
    if opened is None:
        outbox.put(header)
    else:
        reopen = partial(open_value, opened.name, opened.version)
        outbox.put(header, opened.size, None if opened.released else opened, reopen)
