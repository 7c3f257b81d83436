"""A plugin's connection: what has come, what is asked, what goes out. It has no task of its own; see `agents`."""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

import trio

from avault_protocol import (
    AvaultError,
    BadRequestError,
    BusyError,
    Decoder,
    InternalError,
    LockedError,
    NotFoundError,
    NotGrantedError,
    Request,
    RequestTimeoutError,
    Response,
    TooLargeError,
    limits,
    pack_error,
    pack_notification,
)

from ..faults import log_fault
from .agent_api import AgentConversation
from .conversation import Answer, Wait
from .outbox import Outbox, Stalled, reopened

if TYPE_CHECKING:
    from ..callers.policy import Caller
    from ..callers.processes import Process
    from ..core import Core
    from ..vault import Value
    from .agents import Agents

log = logging.getLogger(__name__)

# One recv of requests, which are some 60 bytes each.
RECEIVE = 4 * 1024

Answers = list[tuple[int, "Answer | AvaultError"]]

_GONE = (BrokenPipeError, ConnectionResetError, EOFError, Stalled, trio.ClosedResourceError)
_BROKEN = (BadRequestError, TooLargeError, RequestTimeoutError)


class AgentConnection:
    """One connection on an agents' socket, from its hello to its end.

    Requests are served in the order of their arrival, those that wait for an unlock when they may. Nothing here waits:
    what has to is a task of *agents*, and ends with the connection.
    """

    def __init__(
        self, agents: Agents, core: Core, sock: socket.socket, caller: Caller, process: Process
    ) -> None:
        self.caller = caller
        self.process = process
        self.number = sock.fileno()
        """The socket's descriptor."""
        self.open = True
        self._agents = agents
        self._core = core
        self._sock = sock
        self._outbox = Outbox(sock, self._reopen)
        self._decoder = Decoder()
        self._conversation = AgentConversation(core, caller, process)
        self._tasks: set[trio.CancelScope] = set()
        self._waiting = 0
        self._due: deque[Request] = deque()  # those that have waited for the unlock
        self._backlog = False  # whether the decoder may hold a request
        self._stuck = False  # what it was sent has not been taken: it is not served until it has
        self._fault: AvaultError | None = None

    @property
    def greeted(self) -> bool:
        """Whether it has said hello."""
        return self._conversation.session is not None

    # --- a turn, in three steps ---------------------------------------------------------------------------------

    @property
    def wants_turn(self) -> bool:
        """Whether there is something to be done that the kernel knows nothing of."""
        return self.wants_more and (self._backlog or bool(self._due))

    @property
    def wants_more(self) -> bool:
        """Whether it waits for what its peer sends next."""
        return self.open and not self._stuck

    def receive(self) -> None:
        """Take in what has come, if nothing is left of what came before; EOFError at the end of the stream."""
        if self._backlog or self._stuck:
            return
        try:
            data = self._sock.recv(RECEIVE)
        except BlockingIOError:
            return
        if not data:
            raise EOFError
        self._backlog = True
        self._decoder.feed(data)

    def answer(self, most: int, answers: Answers) -> None:
        """Add to *answers* those to at most so many requests.

        What that puts on record must be flushed before anything is sent.
        """
        while not self._stuck and most > 0 and (self._due or self._backlog):
            most -= 1
            if self._due:
                self._handle(self._due.popleft(), answers, waited=True)
            else:
                self._answer_next(answers)

    def _answer_next(self, answers: Answers) -> None:
        try:
            message = self._decoder.next_message()
            if isinstance(message, Request):
                self._handle(message, answers)
            elif isinstance(message, Response):
                raise BadRequestError("a response, where nothing was asked")
            # Else a notification, which asks for no answer, and of which none is known.
            self._backlog = message is not None and not self._decoder.empty
        except (BadRequestError, TooLargeError) as error:
            self._backlog = False
            self._fault = error.with_traceback(None)  # which would hold this connection, and what it was sent

    def renewed(self, answer: Answer | AvaultError) -> Answer | AvaultError:
        """Return *answer* as it must be after a wait: what was decided and opened before it counts no more."""
        if isinstance(answer, AvaultError) or answer.value is None or answer.value.kept:
            return answer
        try:
            return Answer({}, reopened(answer.value, self._reopen))
        except AvaultError as error:
            return error

    def send(self, answers: Answers) -> None:
        """Send what is on record; where the peer has broken the protocol behind it, end the connection."""
        for request_id, answer in answers:
            self._outbox.answer(request_id, answer)
        if not self._outbox.empty:
            self._drain()
        if self._fault is not None:
            self.end(self._fault)

    def _handle(self, request: Request, answers: Answers, *, waited: bool = False) -> None:
        try:
            answer = self._conversation.handle(request, waited=waited)
            if not isinstance(answer, Wait):
                answers.append((request.id, answer))
            elif self._waiting < limits.MAX_OPEN_REQUESTS:
                self._waiting += 1
                self._start(partial(self._answer_on_unlock, request, answer.seconds))
            else:
                raise BusyError(f"{limits.MAX_OPEN_REQUESTS} requests of this connection wait already")
        except AvaultError as error:
            answers.append((request.id, error))
        except Exception as error:  # noqa: BLE001 - one conversation ends alone
            log_fault(f"{request.method} on an agents' socket", error)
            answers.append((request.id, InternalError()))

    def _reopen(self, name: str, version: int) -> Value:
        """Open again what was not sent at once; whether it may be had is asked again too."""
        session = self._conversation.session
        if self._core.vault.locked:
            raise LockedError
        if session is None or not self._core.gate.allows(session, name):
            raise NotGrantedError
        try:
            return self._core.vault.value(name, version)
        except NotFoundError:
            raise NotGrantedError from None

    # --- what takes time ----------------------------------------------------------------------------------------

    def _start(self, work: Callable[[], Awaitable[None]]) -> None:
        self._tasks.add(scope := trio.CancelScope())

        async def run() -> None:
            try:
                with scope:
                    await work()
            except Exception as error:  # noqa: BLE001 - one connection ends alone
                self.end(error)
            finally:
                self._tasks.discard(scope)

        self._agents.start(run)

    async def _answer_on_unlock(self, request: Request, seconds: float) -> None:
        with self._ringing(), trio.move_on_after(seconds):
            await self._core.unlocked.wait()
        self._waiting -= 1
        self._due.append(request)
        self._agents.wake(self)

    def _ringing(self) -> AbstractContextManager[None]:
        session = self._conversation.session
        if session is None or not self._core.gate.still_agent(session):
            return nullcontext()
        return self._core.bell.waiting(f"{session.agent}/{session.plugin}")

    def _drain(self) -> None:
        if not self._stuck:
            self._stuck = True
            self._start(self._until_taken)

    async def _until_taken(self) -> None:
        await self._outbox.drain()
        self._stuck = False
        self._agents.wake(self)

    # --- events, and the end ------------------------------------------------------------------------------------

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
        self._outbox.put(pack_notification(event, detail))
        if not self._outbox.empty:
            self._drain()

    def end(self, error: BaseException | None = None) -> None:
        """End the connection, because of *error*: what the peer did wrong it is told. Doing so twice is fine."""
        if not self.open:
            return
        self.open = False
        if isinstance(error, _BROKEN):
            self._last_words(error)
        elif error is not None and not isinstance(error, _GONE):
            log_fault(f"conversation with pid {self.caller.pid}", error)
        trio.lowlevel.notify_closing(self._sock)  # a task of ours may wait for it to take more
        self._sock.close()
        self._outbox.clear()
        self._decoder.clear()
        for scope in self._tasks:
            scope.cancel()
        self._agents.forget(self)

    def _last_words(self, error: AvaultError) -> None:
        try:
            if self._outbox.pump():
                self._outbox.put(pack_error(0, error))
        except (OSError, Stalled):
            log.debug("an agent's connection broke")
