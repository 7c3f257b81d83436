"""Listening sockets that are handed over, and those that are made."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from avault_daemon.systemd.sockets import Sockets, handed_over, listen
from avault_protocol import BadRequestError
from support.manager import Manager

KEPT = ["FDSTOREREMOVE=1\nFDNAME=agents/hermes", "FDSTORE=1\nFDNAME=agents/hermes"]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.close()


def sockets(manager: Manager | None = None, **handed: socket.socket) -> Sockets:
    names = {name.replace("__", "/"): sock for name, sock in handed.items()}
    return Sockets(names, manager.supervisor() if manager else None)


def listening(path: Path, mode: int = 0o600, *, of: int = socket.SOCK_STREAM) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, of)
    sock.bind(str(path))
    path.chmod(mode)
    if of != socket.SOCK_DGRAM:
        sock.listen()
    return sock


def test_what_was_handed_over_is_taken_and_who_waits_in_it_is_served(
    tmp_path: Path, stack: ExitStack
) -> None:
    path = tmp_path / "agent.sock"
    handed = stack.enter_context(listening(path))
    waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
    waiting.connect(str(path))
    taken = sockets(agent=handed).open("agent", path, 0o600)
    assert taken is handed
    stack.enter_context(taken.accept()[0])


def test_what_was_not_is_made(tmp_path: Path, stack: ExitStack, manager: Manager) -> None:
    made = stack.enter_context(sockets(manager).open("agent", tmp_path / "agent.sock", 0o600))
    assert made.getsockname() == str(tmp_path / "agent.sock")
    assert manager.heard() == []


def test_by_another_way_to_the_same_place_it_is_the_same(tmp_path: Path, stack: ExitStack) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "here").symlink_to("there")
    handed = stack.enter_context(listening(tmp_path / "here" / "agent.sock"))
    assert sockets(agent=handed).open("agent", tmp_path / "there" / "agent.sock", 0o600) is handed


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("elsewhere", "listens elsewhere"),
        ("wider", "open to more than it should be .mode 0666."),
        ("replaced", "no socket any more"),
        ("gone", "no such file"),
        ("deaf", "no listening Unix socket"),
        ("datagrams", "no listening Unix socket"),
        ("unnamed", "listens elsewhere"),
    ],
)
def test_anything_else_is_refused_and_closed(kind: str, why: str, tmp_path: Path, stack: ExitStack) -> None:
    path = tmp_path / "operator.sock"
    handed = stack.enter_context(make(kind, path))
    with pytest.raises(BadRequestError, match=why):
        sockets(operator=handed).open("operator", path, 0o600)
    assert handed.fileno() == -1


def make(kind: str, path: Path) -> socket.socket:
    """Return a socket of which something is wrong."""
    match kind:
        case "elsewhere":
            return listening(path.with_name("other.sock"))
        case "wider":
            return listening(path, 0o666)
        case "datagrams":
            return listening(path, of=socket.SOCK_DGRAM)
        case "deaf":
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(str(path))
            return sock
        case "unnamed":
            sock = socket.socket(socket.AF_UNIX)
            sock.bind("")  # an abstract name of the kernel's choice
            sock.listen()
            return sock
        case _:
            sock = listening(path)
            path.unlink()
            if kind == "replaced":
                path.touch()
            return sock


def test_of_another_family_it_is_refused(tmp_path: Path) -> None:
    handed = socket.create_server(("127.0.0.1", 0))
    with pytest.raises(BadRequestError, match="no listening Unix socket"):
        sockets(agent=handed).open("agent", tmp_path / "agent.sock", 0o600)


def test_an_agents_own_is_kept_when_it_is_made(tmp_path: Path, stack: ExitStack, manager: Manager) -> None:
    stack.enter_context(sockets(manager).open_kept("agents/hermes", tmp_path / "agent.sock", 0o600))
    assert manager.heard() == KEPT


def test_an_agents_own_that_was_kept_is_not_kept_again(
    tmp_path: Path, stack: ExitStack, manager: Manager
) -> None:
    path = tmp_path / "agent.sock"
    handed = stack.enter_context(listening(path))
    assert sockets(manager, agents__hermes=handed).open_kept("agents/hermes", path, 0o600) is handed
    assert manager.heard() == []


def test_an_agents_own_whose_place_was_swept_is_made_anew(
    tmp_path: Path, stack: ExitStack, manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "agent.sock"
    handed = stack.enter_context(listening(path))
    path.unlink()
    made = stack.enter_context(
        sockets(manager, agents__hermes=handed).open_kept("agents/hermes", path, 0o600)
    )
    assert made is not handed
    assert handed.fileno() == -1
    assert manager.heard() == KEPT
    assert "it is made anew" in caplog.text
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_an_agents_own_is_removed(tmp_path: Path, manager: Manager) -> None:
    path = tmp_path / "agent.sock"
    listening(path).close()
    sockets(manager).remove("agents/hermes", path)
    assert manager.heard() == ["FDSTOREREMOVE=1\nFDNAME=agents/hermes"]
    assert not path.exists()


def test_what_nobody_asked_for_is_closed(
    tmp_path: Path, manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    handed = listening(tmp_path / "odd.sock")
    rest = sockets(manager, agents__gone=handed)
    rest.close_rest()
    assert handed.fileno() == -1
    assert manager.heard() == ["FDSTOREREMOVE=1\nFDNAME=agents/gone"]
    assert "agents/gone" in caplog.text
    rest.close_rest()
    assert len(caplog.messages) == 1


TAKE_OVER = """
import os, sys
from avault_daemon.systemd.sockets import handed_over
for number, copy in enumerate(sys.argv[1:], 3):
    os.dup2(int(copy), number)
os.environ["LISTEN_PID"] = str(os.getpid())
handed = handed_over(os.environ)
print({name: sock.getsockname() for name, sock in handed.items()})
print([os.get_inheritable(sock.fileno()) or sock.getblocking() for sock in handed.values()])
print([variable for variable in os.environ if variable.startswith("LISTEN_")])
"""


def taking_over(*descriptors: int, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a process that takes over *descriptors*, which are its descriptors from 3 on, as systemd does it."""
    copies = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 100) for descriptor in descriptors]
    try:
        return subprocess.run(
            [sys.executable, "-c", TAKE_OVER, *map(str, copies)],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, **environ},
            pass_fds=copies,
        )
    finally:
        for copy in copies:
            os.close(copy)


def test_descriptors_are_taken_over_by_their_names(tmp_path: Path, stack: ExitStack) -> None:
    one, two = (stack.enter_context(listening(tmp_path / name)) for name in ("one", "two"))
    done = taking_over(one.fileno(), two.fileno(), LISTEN_FDS="2", LISTEN_FDNAMES="agent:agents/hermes")
    places, inherited, left = done.stdout.splitlines()
    assert places == str({"agent": str(tmp_path / "one"), "agents/hermes": str(tmp_path / "two")})
    assert (inherited, left) == ("[False, False]", "[]")


def test_a_descriptor_that_is_no_socket_is_an_error(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        done = taking_over(file.fileno(), LISTEN_FDS="1", LISTEN_FDNAMES="agent")
    assert "descriptor 3, which was handed over, is no socket" in done.stderr


def test_what_another_process_was_to_take_over_is_left_alone() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "agent", "HOME": "/"}
    assert handed_over(environ) == {}
    assert environ == {"HOME": "/"}
    assert handed_over({}) == {}


@given(
    st.text("0123456789 x-", max_size=3), st.lists(st.sampled_from(["a", "b", ""]), max_size=3).map(":".join)
)
def test_numbers_and_names_that_disagree_are_an_error(count: str, names: str) -> None:
    listed = names.split(":") if names else []
    if count == str(len(listed)) and len({*listed}) == len(listed):
        return
    with pytest.raises(BadRequestError, match="one for each of their names"):
        handed_over({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count, "LISTEN_FDNAMES": names})


def test_listen_takes_a_dead_ones_place(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    first = listen(path, 0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first.close()
    listen(path, 0o666).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o666


def test_a_path_that_is_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    directory = tmp_path / ("x" * 100)
    directory.mkdir()
    with pytest.raises(BadRequestError, match=r"x/agent\.sock: af_unix path too long") as caught:
        listen(directory / "agent.sock", 0o600)
    assert caught.value.hint == "choose another --runtime-dir"
