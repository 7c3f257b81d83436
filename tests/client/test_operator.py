"""The operator's socket: values from where they lie, to a server of the right uid; progress; descriptors."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from avault_client import DaemonUnavailableError, DeniedError, LockedError, WrongPassphraseError
from avault_client._connection import Connection
from avault_client._operator import OperatorConnection
from avault_protocol import limits, pack_notification
from support.background import WITHIN, Background
from support.peer import Peer, params_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from avault_protocol import Request
    from support.peer import Line


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    with Peer(tmp_path / "operator.sock") as running:
        yield running


@pytest.fixture
def operator(peer: Peer) -> Iterator[OperatorConnection]:
    with OperatorConnection.connect(peer.path) as opened:
        yield opened


def ok(line: Line, request: Request) -> None:
    line.answer(request, {"ok": True})


def test_a_call_returns_the_map(peer: Peer, operator: OperatorConnection) -> None:
    peer.handlers["status"] = lambda line, request: line.answer(request, {"state": "locked"})
    assert operator.path == peer.path
    assert operator.call("status") == {"state": "locked"}


def test_it_is_found_like_the_agents_socket(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVAULT_RUNTIME_DIR", os.path.dirname(peer.path))
    with OperatorConnection.connect() as operator:
        assert operator.path == peer.path


def test_no_daemon_is_said_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnavailableError, match=r"operator\.sock: no such file"):
        OperatorConnection.connect(f"{tmp_path}/operator.sock")


@pytest.mark.parametrize("size", [1, 300, limits.MAX_VALUES])
def test_a_value_arrives_whole_whatever_its_size(peer: Peer, operator: OperatorConnection, size: int) -> None:
    """The largest takes several writes: the socket's buffer holds less."""
    values: list[bytes] = []

    def put(line: Line, request: Request) -> None:
        values.append(line.value)
        ok(line, request)

    peer.handlers["put"] = put
    value = os.urandom(size)
    items = [{"name": "A", "size": min(size, limits.MAX_VALUE), "encoding": "text"}]
    assert operator.call("put", {"items": items}, memoryview(value)) == {"ok": True}
    assert values == [value]


def test_an_empty_value_is_sent_as_one(peer: Peer, operator: OperatorConnection) -> None:
    peer.handlers["unlock"] = ok
    assert operator.call("unlock", {}, memoryview(b"")) == {"ok": True}


def test_a_value_goes_to_nobody_else(
    peer: Peer, operator: OperatorConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(connection: Connection) -> None:
        raise DeniedError("the server runs as uid 54321")

    monkeypatch.setattr(Connection, "check_server", refuse)
    peer.handlers["status"] = ok
    assert operator.call("status") == {"ok": True}
    with pytest.raises(DeniedError, match="uid 54321"):
        operator.call("unlock", {}, memoryview(b"passphrase"))
    with pytest.raises(DeniedError):
        operator.check_server()
    assert peer.methods() == ["status"]


def test_reveal_is_fetched(peer: Peer, operator: OperatorConnection) -> None:
    peer.handlers["reveal"] = lambda line, request: line.answer(request, {"name": "A"}, b"hunter2")
    peer.handlers["status"] = ok
    result, value = operator.fetch("reveal", {"name": "A"})
    assert (result, value) == ({"name": "A"}, bytearray(b"hunter2"))
    with pytest.raises(TypeError, match=r"use fetch\(\)"):
        operator.call("reveal", {"name": "A"})
    with pytest.raises(TypeError, match=r"use call\(\)"):
        operator.fetch("status")


def test_an_error_leaves_the_connection_as_it_is(peer: Peer, operator: OperatorConnection) -> None:
    """Proof ends with the connection, so a wrong passphrase must not end it."""

    def prove(line: Line, request: Request) -> None:
        if line.value == b"right":
            return ok(line, request)
        raise WrongPassphraseError

    peer.handlers["prove"] = prove
    with pytest.raises(WrongPassphraseError):
        operator.call("prove", {}, memoryview(b"wrong"))
    assert operator.call("prove", {}, memoryview(b"right")) == {"ok": True}
    assert len(peer.lines) == 1


def test_progress_is_told_and_nothing_else_is(peer: Peer, operator: OperatorConnection) -> None:
    def unlock(line: Line, request: Request) -> None:
        line.send(pack_notification("progress", {"id": request.id, "stage": "kdf", "seconds_left": 2}))
        line.send(pack_notification("unlocked", {}))
        ok(line, request)

    peer.handlers["unlock"] = unlock
    told: list[dict[str, object]] = []
    operator.call("unlock", {}, memoryview(b"passphrase"), on_progress=told.append)
    operator.call("unlock", {}, memoryview(b"passphrase"))
    assert told == [{"id": 1, "stage": "kdf", "seconds_left": 2}]


def test_descriptors_arrive_once_with_the_value(
    peer: Peer, operator: OperatorConnection, tmp_path: Path
) -> None:
    def export(line: Line, request: Request) -> None:
        (descriptor,) = line.fds
        os.write(descriptor, line.value)
        os.close(descriptor)
        ok(line, request)

    peer.handlers["export"] = export
    with (tmp_path / "copy").open("wb") as copy:
        operator.call("export", {}, memoryview(b"passphrase"), (copy.fileno(),))
    assert (tmp_path / "copy").read_bytes() == b"passphrase"


def test_a_daemon_that_dies_is_an_error_and_the_next_call_too(
    peer: Peer, operator: OperatorConnection
) -> None:
    """It never finds the daemon again by itself: the proof would be gone, and the caller would not know."""
    peer.handlers["lock"] = lambda line, request: line.hang_up()
    for _ in range(2):
        with pytest.raises(DaemonUnavailableError, match="closed the connection"):
            operator.call("lock")
    assert len(peer.lines) == 1


def test_a_time_may_be_set(peer: Peer, operator: OperatorConnection) -> None:
    peer.handlers["status"] = lambda line, request: None
    with pytest.raises(DaemonUnavailableError, match=r"within 0\.05 s"):
        operator.call("status", timeout=0.05)


def test_without_a_time_it_waits(peer: Peer) -> None:
    """Longer than the connection's own timeout, which is for connecting and sending."""
    go_on = threading.Event()

    def unlock(line: Line, request: Request) -> None:
        go_on.wait(WITHIN)
        ok(line, request)

    peer.handlers["unlock"] = unlock
    with OperatorConnection.connect(peer.path, timeout=0.01) as operator:
        waiting = Background(lambda: operator.call("unlock", {}, memoryview(b"passphrase")))
        peer.wait_for(lambda: peer.count("unlock"))
        assert not waiting.done()
        go_on.set()
        assert waiting.result() == {"ok": True}


def test_a_daemon_that_does_not_take_a_value_is_given_up(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/deaf.sock")
        listener.listen()
        with (
            OperatorConnection.connect(f"{tmp_path}/deaf.sock", timeout=0.05) as operator,
            pytest.raises(DaemonUnavailableError, match="did not answer"),
        ):
            operator.call("put", {}, memoryview(bytes(limits.MAX_VALUES)))


def test_a_full_queue_of_connections_is_waited_for_and_then_given_up(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/busy.sock")
        listener.listen(0)
        with (
            OperatorConnection.connect(f"{tmp_path}/busy.sock"),
            pytest.raises(DaemonUnavailableError, match="temporarily unavailable"),
        ):
            OperatorConnection.connect(f"{tmp_path}/busy.sock", timeout=0.05)


def test_a_long_list_arrives(peer: Peer, operator: OperatorConnection) -> None:
    names = [f"SECRET_{number:04}" for number in range(4000)]
    peer.handlers["list"] = lambda line, request: line.answer(request, {"names": names})
    assert operator.call("list") == {"names": names}


def test_locked_is_what_the_daemon_says(peer: Peer, operator: OperatorConnection) -> None:
    def locked(line: Line, request: Request) -> None:
        assert params_of(request) == {}
        raise LockedError

    peer.handlers["list"] = locked
    with pytest.raises(LockedError, match="the vault is locked"):
        operator.call("list")
