"""The blocking connection by itself: how long it waits, and requests that the kernel takes in pieces."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, cast

import pytest

from avault_client import BadRequestError, DaemonUnavailableError
from avault_client._connection import LONGEST, Connection
from avault_client._patience import FOR_EVER
from avault_client._question import Question
from avault_protocol import limits, pack_notification
from support.background import WITHIN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from avault_protocol import Notification, Request
    from support.peer import Line, Peer

GRANTS = Question("grants", {})
LONG = limits.MAX_HEAD - 100  # bytes; more than the buffer of a socket takes


@pytest.fixture
def connection(peer: Peer) -> Iterator[Connection]:
    with closing(Connection(peer.path, WITHIN)) as connection:
        connection.call(Question("hello", {"protocol": 1, "plugin": "p", "secrets": ["A"]}), timeout=WITHIN)
        yield connection


class Waits:
    """A poll(2) that says how many seconds it was told to wait, and comes back *early* so many times."""

    def __init__(self, connection: Connection) -> None:
        inside = cast("Any", connection)
        self.real, inside._readable = inside._readable, self
        self.seconds: list[float] = []
        self.early = 0
        self.really = threading.Event()

    def poll(self, milliseconds: float) -> list[tuple[int, int]]:
        self.seconds.append(milliseconds / 1000)
        if self.early:
            self.early -= 1
            return []
        self.really.set()
        return cast("list[tuple[int, int]]", self.real.poll(milliseconds))


def test_each_answer_has_its_own_time(connection: Connection) -> None:
    waits = Waits(connection)
    for timeout in (WITHIN, 7.25, WITHIN):
        begin = time.monotonic()
        connection.call(GRANTS, timeout=timeout)
        said = waits.seconds.pop()
        assert timeout - (time.monotonic() - begin) <= said <= timeout
    for longer in (FOR_EVER, LONGEST / 1000 + 1):
        connection.call(GRANTS, timeout=longer)
        assert waits.seconds.pop() == LONGEST / 1000


def test_one_who_finds_nothing_though_something_came_waits_on(peer: Peer, connection: Connection) -> None:
    """Whoever was forked behind Python's back, and shares the connection, may take it first."""
    waits = Waits(connection)
    waits.early = 3

    def late(line: Line, request: Request) -> None:
        assert waits.really.wait(WITHIN)
        peer.serve(line, request)

    peer.handlers["grants"] = late
    connection.call(GRANTS, timeout=WITHIN)
    assert len(waits.seconds) == 4
    assert peer.count("grants") == 1


def test_what_comes_before_an_answer_takes_from_its_time_and_not_from_the_next_ones(
    peer: Peer, connection: Connection
) -> None:
    told = threading.Event()

    def chatter(line: Line, request: Request) -> None:
        line.send(pack_notification("locked", {}))
        assert told.wait(WITHIN)
        peer.serve(line, request)

    def notified(_: Notification) -> None:
        time.sleep(0.05)  # what is taken from the answer's time
        told.set()

    waits = Waits(connection)
    peer.handlers["grants"] = chatter
    connection.call(GRANTS, timeout=WITHIN, notified=notified)
    first, *_, last = waits.seconds
    assert first is not None
    assert last is not None
    assert last <= first - 0.05
    del peer.handlers["grants"]
    waits.seconds.clear()
    begin = time.monotonic()
    connection.call(GRANTS, timeout=WITHIN)
    (again,) = waits.seconds
    assert again is not None
    assert again >= WITHIN - (time.monotonic() - begin)


def test_no_time_is_not_for_ever(connection: Connection) -> None:
    waits = Waits(connection)
    with pytest.raises(DaemonUnavailableError, match="did not answer within 0 s"):
        connection.call(GRANTS, timeout=0)
    assert not waits.seconds
    assert connection.closed


def test_a_request_that_the_kernel_takes_in_pieces_arrives_whole(connection: Connection) -> None:
    answer = connection.call(Question("request", {"name": "A", "reason": "x" * LONG}), timeout=WITHIN)
    assert isinstance(answer.error, BadRequestError)
    assert "request: reason" in str(answer.error)


def test_a_request_that_nobody_takes_is_an_error_in_time(peer: Peer) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as deaf:
        deaf.bind(path := f"{peer.path}.deaf")
        deaf.listen(1)
        connection = Connection(path, 0.05)
        with pytest.raises(DaemonUnavailableError, match=r"did not answer within 0\.05 s"):
            connection.call(Question("request", {"reason": "x" * LONG}), timeout=WITHIN)
        assert connection.closed


def test_a_closed_one_asks_nothing(peer: Peer, connection: Connection) -> None:
    connection.close()
    with pytest.raises(DaemonUnavailableError, match="closed the connection"):
        connection.call(GRANTS, timeout=WITHIN)
    assert peer.count("grants") == 0
