"""An operator's connection: bytes to requests, answers to bytes, and what happens when either side fails.

It reads in one task and never holds half a message across a cancellation that the connection survives: its tasks are
cancelled all together, and then it is closed.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from avault_protocol import (
    AvaultError,
    BadRequestError,
    BusyError,
    InternalError,
    RequestTimeoutError,
    TooLargeError,
    pack_error,
    pack_notification,
)

from ..faults import log_fault
from ..operator_api import OperatorConversation
from .conversation import Answer
from .inbox import Inbox, Message
from .outbox import Outbox, Stalled

if TYPE_CHECKING:
    from ..callers.policy import Caller
    from ..callers.processes import Process
    from ..core import Core

log = logging.getLogger(__name__)

# One thing is done after the other; `lock` may overtake.
MAX_REQUESTS = 8

_GONE = (BrokenPipeError, ConnectionResetError, Stalled)


class OperatorConnection:
    """An operator's connection: one request at a time, but `lock` and the end of the connection are always heard."""

    def __init__(self, core: Core, sock: socket.socket, caller: Caller, process: Process) -> None:
        self._core = core
        self._process = process
        self._outbox = Outbox(sock, core.vault.value)
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
                    if self._open >= MAX_REQUESTS:
                        message.release()
                        raise BusyError(f"{MAX_REQUESTS} requests of this connection are open already")
                    self._open += 1
                    nursery.start_soon(self._serve, message)
                nursery.cancel_scope.cancel()
        except* _GONE:
            log.debug("an operator's connection broke")
        except* (BadRequestError, TooLargeError, BusyError, InternalError, RequestTimeoutError) as broken:
            if isinstance(error := broken.exceptions[0], AvaultError) and self._outbox.pump():
                self._outbox.put(pack_error(0, error))
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
        self._outbox.answer([(request.id, answer)])
        if self._outbox.items:
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
