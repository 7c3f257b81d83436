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
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

import trio

from avault_protocol import AuditFailedError, InternalError, RequestTimeoutError, limits

from ..faults import log_fault
from .agent_connection import AgentConnection
from .arrivals import Arrivals
from .openings import Openings
from .turns import Turns

if TYPE_CHECKING:
    from ..callers.policy import Caller
    from ..callers.processes import Process
    from ..core import Core

ROUND = 4
"""Requests of one round, at most; it bounds how long the next one who comes waits for its turn. Of several uids each has one."""
MOMENT = 0.000_25
"""Seconds for which agents are served before all other tasks have their turn: operators, deadlines, syncs."""
_LEAST_WAIT = 0.001  # epoll_wait(2) knows nothing shorter
_ONCE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLONESHOT


class Agents:
    """The connections on agents' sockets.

    *bury* is called when a process has died, and ends its connections; *ended* is told of each that has ended.
    """

    def __init__(
        self,
        core: Core,
        nursery: trio.Nursery,
        arrivals: Arrivals,
        *,
        bury: Callable[[Process], None],
        ended: Callable[[AgentConnection], None],
        moment: float = MOMENT,
    ) -> None:
        """*moment*: `MOMENT`, or 0: one round, then the others."""
        self.openings = Openings()
        self._core = core
        self._moment = moment
        self._nursery = nursery
        self._arrivals = arrivals
        self._bury = bury
        self._ended = ended
        self._epoll = select.epoll()
        self._by_number: dict[int, AgentConnection] = {}
        self._turns = Turns[AgentConnection]()
        self._strangers: dict[AgentConnection, float] = {}  # by when each must have said hello
        self._came = trio.Event()
        self._knocked = False  # whether somebody has connected
        self._alarm = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._processes = core.bindings.processes
        # A death wakes the task too: each round buries who has died.
        self._epoll.register(self._processes.fileno(), select.EPOLLIN)
        self._door = arrivals.fileno()
        self._epoll.register(self._door, select.EPOLLIN)
        self._epoll.register(self._alarm, select.EPOLLIN | select.EPOLLET)

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[AgentConnection]:
        return iter(tuple(self._by_number.values()))

    def admit(self, sock: socket.socket, caller: Caller, process: Process) -> AgentConnection:
        """Serve *caller* on *sock* from now on, which must not block, and has the next turn of its uid."""
        connection = AgentConnection(self, self._core, sock, caller, process)
        self._by_number[connection.number] = connection
        self._turns.add(caller.uid, connection)
        return connection

    def forget(self, connection: AgentConnection) -> None:
        """Take note that *connection* has ended."""
        del self._by_number[connection.number]
        self._strangers.pop(connection, None)
        self._ended(connection)

    def tell(self, event: str, detail: dict[str, object]) -> None:
        """Tell every plugin of an event of the vault."""
        self.openings.clear()  # they would not hold any more, but for events that are rare
        _each(self, AgentConnection.notify, event, detail)

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
        number = self._epoll.fileno()
        try:
            while True:
                if self._turns.waiting or self._arrivals.line.waiting:
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.lowlevel.wait_readable(number)
                await self._serve_for_a_moment()
        finally:
            for connection in self:
                connection.end()
            self._epoll.close()
            os.close(self._alarm)

    async def _serve_for_a_moment(self) -> None:
        """Serve round after round, and wait for what comes next, without going by trio: that takes longer than a round."""
        until = time.monotonic() + self._moment
        turns, line = self._turns.waiting, self._arrivals.line.waiting
        came = self._epoll.poll(0)
        while came or turns or line:
            served = self._next(came)
            self._answer(served)
            if self._core.record.always:
                await self._settle(served)
            self._send(served)
            if self._knocked or line:
                self._welcome()
            if time.monotonic() >= until:
                break
            came = self._epoll.poll(0 if turns or line else _LEAST_WAIT)

    def _next(self, came: list[tuple[int, int]]) -> list[AgentConnection]:
        """Return whose turn it is, now that this *came*."""
        spoke: list[AgentConnection] = []
        for number, _ in came:
            if (connection := self._by_number.get(number)) is not None:
                spoke.append(connection)
            elif number == self._door:
                self._knocked = True
        if len(spoke) == 1 and not self._turns.waiting and not self._arrivals.line.waiting:
            return spoke
        for connection in spoke:
            self._turns.add(connection.caller.uid, connection)
        if not self._turns.waiting:
            self._welcome()
        return self._turns.deal(ROUND)

    def _welcome(self) -> None:
        """Line up who has connected, and let one in. Who is known goes first: this may take longer than a round."""
        if self._knocked:
            self._knocked = False
            self._arrivals.look()
        self._arrivals.let_in()

    def _answer(self, served: list[AgentConnection]) -> None:
        """Receive from those whose turn it is, answer, and put it on record."""
        _each(served, AgentConnection.receive)
        # Who asks on a connection whose process has died is somebody else.
        for process in self._processes.dead():
            self._bury(process)
        _each(served, AgentConnection.answer, ROUND if len(served) == 1 else 1)
        try:
            self._core.record.flush()
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody else is to suffer from it
            _withhold(served, error)

    def _send(self, served: list[AgentConnection]) -> None:
        """Send what is on record."""
        for connection in served:
            if self._strangers and connection.greeted:
                self._strangers.pop(connection, None)
            try:
                wants = connection.send()
                if wants == "more" and connection.watched:
                    self._epoll.modify(connection.number, _ONCE)
                elif wants == "more":
                    self._watch(connection)
                elif wants == "turn":
                    self._turns.add(connection.caller.uid, connection)
            except Exception as error:  # noqa: BLE001 - as in `_each`
                connection.end(error)

    def _watch(self, connection: AgentConnection) -> None:
        """Have the kernel tell once when something has come; OSError if it has no room for one more."""
        self._epoll.register(connection.number, _ONCE)
        connection.watched = True
        if not connection.greeted:
            self._strangers[connection] = trio.current_time() + limits.HELLO_TIMEOUT
            self._came.set()

    async def _settle(self, served: Sequence[AgentConnection]) -> None:
        """Wait until what was put on record is on the disk."""
        try:
            await self._core.record.settle()
            _each(served, AgentConnection.renew)
        except Exception as error:  # noqa: BLE001 - as above
            _withhold(served, error)

    async def _expire(self) -> None:
        """End the connections that do not say hello in time; they stand in the order in which they came."""
        while True:
            while not self._strangers:
                self._came = trio.Event()
                await self._came.wait()
            await trio.sleep_until(next(iter(self._strangers.values())))
            # Nothing is kept here while it sleeps, or who has ended would stay until then.
            late = RequestTimeoutError(f"no hello within {limits.HELLO_TIMEOUT:.0f} s")
            _each(self._late(trio.current_time()), AgentConnection.end, late)

    def _late(self, now: float) -> list[AgentConnection]:
        return [one for one, _ in takewhile(lambda item: item[1] <= now, self._strangers.items())]


def _withhold(served: Iterable[AgentConnection], error: Exception) -> None:
    """Answer that it could not be put on record."""
    if not isinstance(error, AuditFailedError):
        log_fault("putting something on record", error)
        error = InternalError()
    _each(served, AgentConnection.withhold, error)


def _each(connections: Iterable[AgentConnection], step: Callable[..., None], *arguments: object) -> None:
    """Take one step with each of *connections*: what goes wrong with one ends that one, and nothing else."""
    for connection in connections:
        if connection.open:
            try:
                step(connection, *arguments)
            except Exception as error:  # noqa: BLE001
                connection.end(error)
