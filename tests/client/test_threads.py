"""Many threads, a forked child, and the thread that tells of new versions."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from avault_client import DaemonUnavailableError, Vault
from avault_client._lines import Lines
from avault_client._profile import Profile
from avault_client._question import Question
from support.background import WITHIN, Background

if TYPE_CHECKING:
    from collections.abc import Callable

    from avault_protocol import Request
    from support.peer import Line, Peer


def value(vault: Vault, name: str = "A", wait: float | None = None) -> str:
    with vault.get_secret(name, wait=wait) as secret:
        return secret.reveal()


# --- threads -------------------------------------------------------------------------------------------------------


def test_a_hello_says_what_was_declared_when_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = Profile("p", ["A"], agent=None, socket="/nowhere", wait=0, timeout=1)

    def while_another_declares(key: tuple[object, ...], make: Callable[[], Question]) -> Question:
        profile.declare("SECOND")
        return make()

    monkeypatch.setattr("avault_client._profile.the_same", while_another_declares)
    assert b"SECOND" not in profile.hello().under(1), "others are given it for having declared A"
    assert b"SECOND" in profile.hello().under(1)


def test_threads_never_get_each_others_answers(peer: Peer) -> None:
    names = [f"S{number}" for number in range(8)]
    for name in names:
        peer.put(name, name.encode() * 100)

    def hammer(name: str) -> Callable[[], int]:
        return lambda: sum(value(vault, name) == name * 100 for _ in range(50))

    with Vault(plugin="p", secrets=names, socket=peer.path) as vault:
        threads = [Background(hammer(name)) for name in names]
        assert [thread.result() for thread in threads] == [50] * len(names)
    assert peer.count("hello") == 1


def test_threads_survive_a_daemon_that_comes_and_goes(peer: Peer) -> None:
    with Vault(plugin="p", secrets=["A"], socket=peer.path) as vault:
        threads = [Background(lambda: [value(vault, wait=60) for _ in range(20)]) for _ in range(4)]
        for _ in range(3):
            peer.restart()
        for thread in threads:
            assert thread.result() == ["the value of A"] * 20


def test_many_threads_wait_for_one_unlock(peer: Peer) -> None:
    peer.lock()
    with Vault(plugin="p", secrets=["A"], socket=peer.path) as vault:
        threads = [Background(lambda: value(vault, wait=60)) for _ in range(8)]
        peer.wait_for(lambda: sum("wait" in params for _, _, params in peer.asked) == 8)
        peer.unlock()
        assert {thread.result() for thread in threads} == {"the value of A"}


def test_a_thread_that_gets_no_turn_says_so(peer: Peer) -> None:
    """The other has a daemon that takes its whole time, and the turn with it."""
    go_on = threading.Event()

    def slow(line: Line, request: Request) -> None:
        go_on.wait(WITHIN)
        peer.serve(line, request)

    peer.handlers["get_secret"] = slow
    profile = Profile("p", ["A"], agent=None, socket=peer.path, wait=None, timeout=0.05)
    patient = Profile("p", ["A"], agent=None, socket=peer.path, wait=None, timeout=WITHIN)
    with closing(Lines(patient)) as lines:
        first = Background(lambda: lines.call(Question("get_secret", {"name": "A"})))
        peer.wait_for(lambda: peer.count("get_secret"))
        patient.timeout = profile.timeout
        with pytest.raises(DaemonUnavailableError, match=r"another thread has had no answer for 0\.05 s"):
            lines.call(Question("grants", {}))
        go_on.set()
        assert first.result().value == bytearray(b"the value of A")


def test_closing_during_a_hello_leaves_nothing_open(peer: Peer) -> None:
    def never(line: Line, request: Request) -> None:
        assert line.socket.recv(1) == b""  # the client's end is shut down before it has been answered
        line.hang_up()

    def close() -> None:
        peer.wait_for(lambda: peer.count("hello"))
        vault.close()

    peer.handlers["hello"] = never
    vault = Vault(plugin="p", secrets=["A"], socket=peer.path)
    closer = Background(close)
    with pytest.raises(DaemonUnavailableError):
        vault.get_secret("A")
    closer.result()
    assert connected_to(peer) == 0


# --- fork ----------------------------------------------------------------------------------------------------------


def in_a_child(function: Callable[[], object], fork: Callable[[], int] = os.fork) -> bytes:
    """Return the repr of what *function* returns in a forked child."""
    read, write = os.pipe()
    pid = fork()
    if pid == 0:
        try:
            os.write(write, repr(function()).encode())
        except BaseException as error:  # noqa: BLE001 - the child ends here, whatever it is
            os.write(write, repr(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer


def test_a_child_says_its_own_hello_and_the_parents_connection_lives_on(peer: Peer) -> None:
    with Vault(plugin="p", secrets=["A"], socket=peer.path) as vault:
        value(vault)
        answer = in_a_child(lambda: (value(vault), os.getpid()))
        assert b"the value of A" in answer
        assert value(vault) == "the value of A"
        assert peer.count("hello") == 2
        parent, child = peer.lines
        assert parent.pid == os.getpid()
        assert str(child.pid).encode() in answer


def test_so_does_one_that_was_forked_by_c_code_which_tells_python_nothing(peer: Peer) -> None:
    with Vault(plugin="p", secrets=["A"], socket=peer.path) as vault:
        value(vault)
        assert b"the value of A" in in_a_child(lambda: value(vault), ctypes.PyDLL(None).fork)
        assert value(vault) == "the value of A"
        assert peer.count("hello") == 2


def test_a_child_closes_the_parents_connections(peer: Peer) -> None:
    with Vault(plugin="p", secrets=["A"], socket=peer.path) as vault:
        value(vault)
        before = in_a_child(lambda: connected_to(peer))
        after = in_a_child(lambda: value(vault) and connected_to(peer))

        def close() -> int:
            vault.close()
            return connected_to(peer)

        closed = in_a_child(close)
    assert (before, after, closed) == (b"1", b"1", b"0")


def test_a_child_is_not_held_up_by_a_thread_that_was_not_forked(peer: Peer) -> None:
    go_on = threading.Event()

    def slow_once(line: Line, request: Request) -> None:
        if peer.count("get_secret") == 1:
            go_on.wait(WITHIN)
        peer.serve(line, request)

    peer.handlers["get_secret"] = slow_once
    with Vault(plugin="p", secrets=["A"], socket=peer.path) as vault:
        first = Background(lambda: value(vault))
        peer.wait_for(lambda: peer.count("get_secret"))
        assert b"the value of A" in in_a_child(lambda: value(vault))
        go_on.set()
        assert first.result() == "the value of A"


def connected_to(peer: Peer) -> int:
    """Return how many sockets of this process are connected to *peer*."""
    return sum(is_socket_to(int(fd), peer) for fd in os.listdir("/proc/self/fd"))


def is_socket_to(fd: int, peer: Peer) -> bool:
    try:
        with socket.socket(fileno=os.dup(fd)) as sock:
            return sock.family == socket.AF_UNIX and sock.getpeername() == peer.path
    except OSError:
        return False  # no socket, or not connected, or the descriptor of the directory itself


# --- new versions --------------------------------------------------------------------------------------------------


class Rotations:
    """Collects what `on_rotated` is told."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.threads: set[str] = set()
        self._told = threading.Condition()

    def __call__(self, name: str) -> None:
        with self._told:
            self.names.append(name)
            self.threads.add(threading.current_thread().name)
            self._told.notify_all()

    def wait_for(self, *names: str) -> None:
        with self._told:
            assert self._told.wait_for(lambda: self.names == list(names), WITHIN), self.names


def test_rotations_are_told_on_a_thread_of_their_own(peer: Peer) -> None:
    rotations = Rotations()
    with Vault(plugin="p", secrets=["A"], socket=peer.path, on_rotated=rotations) as vault:
        value(vault)
        peer.wait_for(lambda: peer.greeted() == 2)
        peer.tell("locked")
        peer.tell("rotated", name="A")
        rotations.wait_for("A")
        peer.tell("rotated", name=7)
        peer.tell("granted", name="B")
        peer.tell("rotated", name="A")
        rotations.wait_for("A", "A")
        assert value(vault) == "the value of A"
    assert rotations.threads == {"avault-rotated"}
    no_listener_is_left()


def test_rotations_are_told_again_after_a_restart_and_after_a_refusal(peer: Peer) -> None:
    rotations = Rotations()
    with Vault(plugin="p", secrets=["A"], socket=peer.path, on_rotated=rotations) as vault:
        value(vault)
        peer.wait_for(lambda: peer.greeted() == 2)
        peer.handlers["hello"] = lambda line, request: (
            line.hang_up() if peer.count("hello") < 4 else peer.serve(line, request)
        )
        peer.restart()
        peer.wait_for(lambda: peer.greeted() == 1)
        peer.tell("rotated", name="A")
        rotations.wait_for("A")


def test_the_callback_may_use_the_vault_and_may_fail(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    reported = Rotations()

    def report(told: threading.ExceptHookArgs) -> None:
        reported(repr(told.exc_value))

    monkeypatch.setattr(threading, "excepthook", report)

    def reread(name: str) -> None:
        raise LookupError(value(vault, name))

    with Vault(plugin="p", secrets=["A"], socket=peer.path, on_rotated=reread) as vault:
        value(vault)
        peer.wait_for(lambda: peer.greeted() == 2)
        peer.tell("rotated", name="A")
        peer.tell("rotated", name="A")
        reported.wait_for(*["LookupError('the value of A')"] * 2)
    no_listener_is_left()


def test_a_child_has_a_listener_of_its_own(peer: Peer) -> None:
    rotations = Rotations()
    with Vault(plugin="p", secrets=["A"], socket=peer.path, on_rotated=rotations) as vault:
        value(vault)
        peer.wait_for(lambda: peer.greeted() == 2)

        def in_the_child() -> list[str]:
            value(vault)
            rotations.wait_for("A")
            return rotations.names

        child = Background(lambda: in_a_child(in_the_child))
        peer.wait_for(lambda: peer.greeted() == 4)
        peer.tell("rotated", name="A")
        assert child.result() == b"['A']"


def no_listener_is_left() -> None:
    for thread in threading.enumerate():
        if thread.name == "avault-rotated":
            thread.join(WITHIN)
            assert not thread.is_alive()
