"""A plugin's connection: what has come, what is asked, what goes out. It has no task of its own; see `agents`."""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Literal, cast

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

Wants = Literal["turn", "more"] | None

_GONE = (BrokenPipeError, ConnectionResetError, Stalled, trio.ClosedResourceError)
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
        self.watched = False
        """Whether the kernel has been asked to tell when something comes."""
        self._agents = agents
        self._core = core
        self._sock = sock
        self._outbox = Outbox(sock, self._reopen)
        self._decoder: Decoder | None = None  # while it has a part of a request
        self._conversation = AgentConversation(core, caller, process)
        self._tasks: set[trio.CancelScope] = set()
        self._waiting = 0
        self._due: deque[Request] = deque()  # those that have waited for the unlock
        self._answers: list[tuple[int, Answer | AvaultError]] = []  # to be sent once they are on record
        self._asked: bytes | None = None  # what has come, and was not looked at yet
        self._stuck = False  # what it was sent has not been taken: it is not served until it has
        self._fault: AvaultError | None = None

    @property
    def greeted(self) -> bool:
        """Whether it has said hello."""
        return self._conversation.session is not None

    # --- a turn, in three steps: receive, answer, send ----------------------------------------------------------

    def receive(self) -> None:
        """Take in what has come, if nothing is left of what came before; the end of the stream ends the connection."""
        if self._asked is not None or self._stuck:
            return
        try:
            data = self._sock.recv(RECEIVE)
        except BlockingIOError:
            return
        if data:
            self._asked = data
        else:
            self.end()

    def answer(self, most: int) -> None:
        """Answer at most so many requests. What that puts on record must be flushed before `send`."""
        while most > 0 and (self._due or self._asked is not None) and not self._stuck:
            most -= 1
            if self._due:
                self._handle(self._due.popleft(), waited=True)
            elif (asked := self._asked) is not None:
                self._asked = None
                if self._decoder is None:
                    standing = self._conversation.standing.find(asked)
                    if standing is not None and self._core.gate.again(standing[1].allowed):
                        self._answers.append(standing)
                        continue
                    if self._begins_as_before(asked):
                        continue
                self._answer_next(asked)

    def _answer_next(self, asked: bytes) -> None:
        """Answer the next request, which ends in *asked*, if one does."""
        decoder, whole = self._decoder or Decoder(), self._decoder is None
        try:
            decoder.feed(asked)
            message = decoder.next_message()
            self._decoder = decoder if message is None else None
            if message is None:
                return
            rest = decoder.take_rest()
            self._asked = rest or None
            if isinstance(message, Request):
                answer = self._handle(message)
                if whole and answer is not None:
                    self._note(asked[: len(asked) - len(rest)], message.id, answer)
            elif isinstance(message, Response):
                raise BadRequestError("a response, where nothing was asked")
            # Else a notification, which asks for no answer, and of which none is known.
        except (BadRequestError, TooLargeError) as error:
            decoder.clear()
            self._asked = None
            self._fault = error.with_traceback(None)  # which would hold this connection, and what it was sent

    def _begins_as_before(self, asked: bytes) -> bool:
        """Answer the hello with which *asked* begins, if it was said before and the answer holds; report whether."""
        if self.greeted:
            return False
        opening = self._agents.openings.find(self.caller, asked)
        if opening is None or not self._conversation.resume(opening):
            return False
        self._answers.append((opening.id, opening.answer))
        self._asked = asked[len(opening.hello) :] or None
        return True

    def _note(self, asked: bytes, request_id: int, answer: Answer) -> None:
        """Remember *answer* to *asked*, if the gate may say that it still holds."""
        if answer.value is not None:
            self._conversation.standing.note(asked, answer)
        elif answer.allowed is not None:
            self._agents.openings.note(self.caller, self._conversation.opening(asked, request_id, answer))

    def renew(self) -> None:
        """Answer anew what was decided and opened before a wait, and is closed now."""
        self._answers = [(request_id, self._renewed(answer)) for request_id, answer in self._answers]

    def _renewed(self, answer: Answer | AvaultError) -> Answer | AvaultError:
        if isinstance(answer, AvaultError) or answer.value is None or answer.value.kept:
            return answer
        try:
            return Answer({}, reopened(answer.value, self._reopen))
        except AvaultError as error:
            return error

    def withhold(self, failure: AvaultError) -> None:
        """Answer *failure* in place of all that could not be put on record."""
        self._answers = [(request_id, failure) for request_id, _ in self._answers]

    def send(self) -> Wants:
        """Send what is on record; where the peer has broken the protocol behind it, end the connection.

        Return what it is to be served for next: what is there already, or what its peer sends next, or neither now.
        """
        if not self.open:
            return None
        if self._answers:
            answers, self._answers = self._answers, []
            self._outbox.answer(answers)
            if self._outbox.items:
                self._drain()
        if self._fault is not None:
            self.end(self._fault)
            return None
        if self._stuck:
            return None
        return "turn" if self._asked is not None or self._due else "more"

    def _handle(self, request: Request, *, waited: bool = False) -> Answer | None:
        """Answer *request*, now or when it has waited; return the answer if it is one and no error."""
        answer: Answer | Wait | AvaultError
        try:
            answer = self._conversation.handle(request, waited=waited)
            if isinstance(answer, Wait):
                self._wait(request, answer.seconds)
                return None
        except AvaultError as error:
            answer = error
        except Exception as error:  # noqa: BLE001 - one conversation ends alone
            log_fault(f"{request.method} on an agents' socket", error)
            answer = InternalError()
        self._answers.append((request.id, answer))
        return answer if isinstance(answer, Answer) else None

    def _wait(self, request: Request, seconds: float) -> None:
        if self._waiting >= limits.MAX_OPEN_REQUESTS:
            raise BusyError(f"{limits.MAX_OPEN_REQUESTS} requests of this connection wait already")
        self._waiting += 1
        self._start(partial(self._answer_on_unlock, request, seconds))

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
        if event in ("locked", "unlocked"):
            self._post(event, detail)
        if event == "rotated":
            for name in conversation.concerned(cast("frozenset[str]", detail["names"])):
                self._post(event, {"name": name})
        if event in ("unlocked", "policy"):
            for name in conversation.refresh():
                if event == "policy":
                    self._post("granted", {"name": name})

    def _post(self, event: str, detail: dict[str, object]) -> None:
        self._outbox.put(pack_notification(event, detail))
        if self._outbox.items:
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
        if self._stuck:  # a task of ours waits for it to take more
            trio.lowlevel.notify_closing(self._sock)
        self._sock.close()
        self._outbox.clear()
        if self._decoder is not None:
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
