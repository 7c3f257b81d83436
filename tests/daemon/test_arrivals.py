"""Who connects is lined up, and let in when it is the turn of its uid."""

from __future__ import annotations

import os
import resource
import select
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from avault_daemon.callers.caller import Credentials
from avault_daemon.serving.arrivals import AT_ONCE, PAUSE, Arrivals, Newcomer, has_left


@dataclass
class Hall:
    """One listening socket; who comes there is of the next uid of *uids*, or else refused."""

    listener: socket.socket
    nursery: trio.Nursery
    stack: ExitStack
    uids: list[int] = field(default_factory=list[int])
    admitted: list[int] = field(default_factory=list[int])

    def __post_init__(self) -> None:
        self.name: bytes = self.listener.getsockname()
        self.arrivals = Arrivals(self.nursery, self.greet, self.admit)
        self.number = self.listener.fileno()
        self.arrivals.open(self.listener, "cobot")

    def come(self, *uids: int) -> list[socket.socket]:
        self.uids += uids
        return [self.connect() for _ in uids]

    def connect(self) -> socket.socket:
        sock = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        sock.connect(self.name)
        return sock

    def greet(self, sock: socket.socket, agent: str | None) -> Newcomer | None:
        self.stack.enter_context(sock)
        return Newcomer(sock, Credentials(1, self.uids.pop(0), 1), agent) if self.uids else None

    def admit(self, newcomer: Newcomer) -> None:
        self.admitted.append(newcomer.peer.uid)

    def looks(self) -> None:
        """Look for as long as there is something to be seen."""
        while select.select([self.arrivals], [], [], 0)[0]:
            self.arrivals.look()


@pytest.fixture
async def hall() -> AsyncGenerator[Hall]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("")  # the kernel chooses a name
    listener.listen(64)
    listener.setblocking(False)
    with ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            hall = Hall(listener, nursery, stack)
            yield hall
            nursery.cancel_scope.cancel()
            hall.arrivals.close()


async def test_the_uids_are_let_in_in_turn_whatever_came_first(hall: Hall) -> None:
    hall.come(*[1] * 20, 2, 3)
    hall.looks()
    while hall.arrivals.line.waiting:
        hall.arrivals.let_in()
    assert hall.admitted == [1, 2, 3, *[1] * 19]


async def test_one_look_takes_only_so_many(hall: Hall) -> None:
    hall.come(*range(AT_ONCE + 1))
    hall.arrivals.look()
    assert len(hall.uids) == 1
    hall.arrivals.look()
    assert not hall.uids


async def test_who_has_left_is_not_even_greeted(hall: Hall) -> None:
    left, said, _ = (hall.connect() for _ in range(3))
    left.close()
    said.send(b"x")
    said.close()
    hall.uids = [1, 2]
    hall.looks()
    assert not hall.uids
    assert hall.arrivals.line.waiting


async def test_who_is_refused_is_not_lined_up(hall: Hall) -> None:
    hall.connect()
    hall.looks()
    assert not hall.arrivals.line.waiting
    hall.arrivals.let_in()
    assert not hall.admitted


async def test_those_in_line_are_sent_away_at_the_end(hall: Hall) -> None:
    (waiting,) = hall.come(1)
    hall.looks()
    hall.arrivals.close()
    assert waiting.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        hall.connect()


async def test_a_socket_that_was_shut_is_not_looked_at_though_another_keeps_it(hall: Hall) -> None:
    with socket.socket(fileno=os.dup(hall.number)):  # as a service manager does
        hall.come(1)
        hall.arrivals.shut("another")
        assert select.select([hall.arrivals], [], [], 0)[0]
        hall.arrivals.shut("cobot")
        hall.looks()
    assert hall.uids == [1]


@contextmanager
def no_descriptor_left() -> Generator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)  # the lowest that is free
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_descriptors_it_waits_a_moment(
    hall: Hall, mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    hall.come(1)
    with no_descriptor_left():
        hall.looks()  # and does not look for ever
    assert "accept: Too many open files" in caplog.text
    assert hall.uids
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(PAUSE)
    await trio.testing.wait_all_tasks_blocked()
    hall.looks()
    assert not hall.uids


async def test_a_pause_of_a_socket_that_was_shut_meanwhile_is_none(
    hall: Hall, mock_clock: trio.testing.MockClock
) -> None:
    hall.come(1)
    with no_descriptor_left():
        hall.looks()
    await trio.testing.wait_all_tasks_blocked()
    hall.arrivals.shut("cobot")
    mock_clock.jump(PAUSE)
    await trio.testing.wait_all_tasks_blocked()


def test_who_resets_the_connection_has_left() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        assert not has_left(ours)
        ours.send(b"what is never read")
        theirs.close()
        assert has_left(ours)
