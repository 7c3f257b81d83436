"""The blocking connection by itself: how long it waits, and requests that the kernel takes in pieces."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, cast

import pytest

from avault_client import BadRequestError, DaemonUnavailableError
from avault_client._connection import TICK, Connection
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


def kernel_waits(connection: Connection) -> float:
    """Return what the kernel has as the connection's SO_RCVTIMEO, in seconds (socket(7))."""
    timeval = cast("Any", connection)._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16)
    seconds, microseconds = struct.unpack("@ll", timeval)
    return float(seconds + microseconds / 1e6)


def test_each_answer_has_its_own_time(connection: Connection) -> None:
    for timeout in (WITHIN, WITHIN, 7.25, 7.25, WITHIN):
        connection.call(GRANTS, timeout=timeout)
        assert kernel_waits(connection) == pytest.approx(timeout, abs=TICK)


def test_what_comes_before_an_answer_takes_from_its_time_and_not_from_the_next_ones(
    peer: Peer, connection: Connection
) -> None:
    told = threading.Event()

    def chatter(line: Line, request: Request) -> None:
        line.send(pack_notification("locked", {}))
        assert told.wait(WITHIN)
        peer.serve(line, request)

    def notified(_: Notification) -> None:
        time.sleep(5 * TICK)  # what is taken from the answer's time
        told.set()

    peer.handlers["grants"] = chatter
    connection.call(GRANTS, timeout=WITHIN, notified=notified)
    assert kernel_waits(connection) < WITHIN - TICK
    del peer.handlers["grants"]
    connection.call(GRANTS, timeout=WITHIN)
    assert kernel_waits(connection) == WITHIN


def test_for_less_than_a_tick_the_kernel_is_not_told_anew(peer: Peer, connection: Connection) -> None:
    told = threading.Event()

    def chatter(line: Line, request: Request) -> None:
        line.send(pack_notification("locked", {}))
        assert told.wait(WITHIN)
        peer.serve(line, request)

    peer.handlers["grants"] = chatter
    taken, deadline = TICK, time.monotonic() + WITHIN
    while taken >= TICK:  # of a call on a machine that has other things to do nothing can be said
        told.clear()
        begin = time.monotonic()
        assert begin < deadline
        connection.call(GRANTS, timeout=WITHIN, notified=lambda _: told.set())
        taken = time.monotonic() - begin
    assert kernel_waits(connection) == WITHIN


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
