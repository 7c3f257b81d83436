"""All plugins' connections, served by one task, in turns.

A round takes a few connections (`turns`: the uids in turn, so that a crowd of one uid takes no more of the daemon than
one connection of another): it receives from each, drops those whose process has died, answers, puts all of it on record
by one write, and sends. Nothing in it waits, but for the disk where the record is to be synced first.

The kernel tells of what has come by one epoll for all of them, of each connection once (EPOLLONESHOT, epoll(7)): it is
asked again when nothing is left to do there, and never of one that waits for its turn or does not read. To have a task for
each connection instead would cost some kilobytes a connection, and more time than all of the rest.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import trio

from avault_protocol import AuditFailedError, AvaultError, InternalError, RequestTimeoutError, limits

from ..faults import log_fault
from .agent_connection import AgentConnection, Answers
from .turns import Turns

if TYPE_CHECKING:
    from ..callers.policy import Caller
    from ..callers.processes import Process
    from ..core import Core

ROUND = 4
"""Requests of one round, at most; it bounds how long the next one who comes waits for its turn."""
_ONCE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLONESHOT

Due = Sequence[tuple[AgentConnection, Answers]]
"""Answers, and who is to have them."""


class Agents:
    """The connections on agents' sockets.

    *bury* is called when processes have died, and ends their connections; *ended* is told of each that has ended.
    """

    def __init__(
        self,
        core: Core,
        nursery: trio.Nursery,
        *,
        bury: Callable[[], None],
        ended: Callable[[AgentConnection], None],
    ) -> None:
        self._core = core
        self._nursery = nursery
        self._bury = bury
        self._ended = ended
        self._epoll = select.epoll()
        self._by_number: dict[int, AgentConnection] = {}
        self._turns = Turns[AgentConnection]()
        self._strangers: dict[AgentConnection, float] = {}  # by when each must have said hello
        self._came = trio.Event()
        self._alarm = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # A death wakes the task too: each round buries who has died.
        self._epoll.register(core.bindings.processes.fileno(), select.EPOLLIN)
        self._epoll.register(self._alarm, select.EPOLLIN | select.EPOLLET)

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[AgentConnection]:
        return iter(tuple(self._by_number.values()))

    def admit(self, sock: socket.socket, caller: Caller, process: Process) -> AgentConnection:
        """Serve *caller* on *sock* from now on, which must not block."""
        connection = AgentConnection(self, self._core, sock, caller, process)
        self._epoll.register(connection.number, _ONCE)
        self._by_number[connection.number] = connection
        self._strangers[connection] = trio.current_time() + limits.HELLO_TIMEOUT
        self._came.set()
        return connection

    def forget(self, connection: AgentConnection) -> None:
        """Take note that *connection* has ended."""
        del self._by_number[connection.number]
        self._strangers.pop(connection, None)
        self._ended(connection)

    def tell(self, event: str, detail: dict[str, object]) -> None:
        """Tell every plugin of an event of the vault."""
        for connection in self:
            _alone(connection, connection.notify, event, detail)

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run *work*, which raises nothing, beside all else."""
        self._nursery.start_soon(work)

    def wake(self, connection: AgentConnection) -> None:
        """Give *connection* a turn, although nothing has come."""
        if not connection.open:
            return
        self._turns.add(connection.caller.uid, connection)
        os.eventfd_write(self._alarm, 1)

    # --- the one task -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve, for ever."""
        self._nursery.start_soon(self._expire)
        try:
            while True:
                if self._turns:
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                self._look()
                await self._round()
        finally:
            for connection in self:
                connection.end()
            self._epoll.close()
            os.close(self._alarm)

    def _look(self) -> None:
        for number, _ in self._epoll.poll(0):
            connection = self._by_number.get(number)
            if connection is not None:
                self._turns.add(connection.caller.uid, connection)

    async def _round(self) -> None:
        served = self._turns.deal(ROUND)
        share = ROUND // max(len(served), 1)
        for connection in served:
            _alone(connection, connection.receive)
        self._bury()  # who asks on a connection whose process has died is somebody else
        due = [(connection, _answers(connection, share)) for connection in served if connection.open]
        if self._strangers:
            for connection, _ in due:
                if connection.greeted:
                    self._strangers.pop(connection, None)
        await self._deliver(due)
        for connection, _ in due:
            if connection.wants_turn:
                self._turns.add(connection.caller.uid, connection)
            elif connection.wants_more:
                self._epoll.modify(connection.number, _ONCE)

    async def _deliver(self, due: Due) -> None:
        """Record, then send. What could not be recorded is not served."""
        record = self._core.record
        try:
            record.flush()
            if record.always:
                await record.settle()
                due = [(one, [(number, one.renewed(answer)) for number, answer in got]) for one, got in due]
        except AuditFailedError as failure:
            due = withheld(due, failure)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody else is to suffer from it
            log_fault("putting something on record", error)
            due = withheld(due, InternalError())
        for connection, answers in due:
            _alone(connection, connection.send, answers)

    async def _expire(self) -> None:
        """End the connections that do not say hello in time; they stand in the order in which they came."""
        while True:
            while not self._strangers:
                self._came = trio.Event()
                await self._came.wait()
            connection, deadline = next(iter(self._strangers.items()))
            await trio.sleep_until(deadline)
            if connection in self._strangers:
                connection.end(RequestTimeoutError(f"no hello within {limits.HELLO_TIMEOUT:.0f} s"))


def withheld(due: Due, failure: AvaultError) -> Due:
    """Return *failure* for each answer of *due*."""
    return [(connection, [(number, failure) for number, _ in answers]) for connection, answers in due]


def _answers(connection: AgentConnection, most: int) -> Answers:
    answers: Answers = []
    _alone(connection, connection.answer, most, answers)
    return answers


def _alone(connection: AgentConnection, step: Callable[..., None], *arguments: object) -> None:
    """Take one step with *connection*: what goes wrong with it ends it, and nothing else."""
    if connection.open:
        try:
            step(*arguments)
        except Exception as error:  # noqa: BLE001
            connection.end(error)
