"""What the service manager is told: here it is a socket that the test reads."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from avault_daemon.systemd.supervisor import Supervisor
from avault_protocol import BadRequestError
from support.manager import Manager


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@avault-test-{os.getpid()}"
    manager = Manager(address)
    yield manager
    manager.close()


def test_it_is_told_in_the_words_of_sd_notify(manager: Manager) -> None:
    supervisor = manager.supervisor()
    assert supervisor.present
    supervisor.ready()
    before = time.monotonic_ns() // 1000
    supervisor.reloading()
    after = time.monotonic_ns() // 1000
    supervisor.stopping()
    first, second, third = manager.heard()
    assert (first, third) == ("READY=1", "STOPPING=1")
    word, stamp = second.split("\n")
    assert word == "RELOADING=1"
    assert before <= int(stamp.removeprefix("MONOTONIC_USEC=")) <= after


def test_the_state_is_shown_when_it_is_another(manager: Manager) -> None:
    supervisor = manager.supervisor()
    for state, count in (("locked", 0), ("locked", 0), ("unlocked", 0), ("unlocked", 1), ("unlocked", 12)):
        supervisor.show(state, count)
    assert manager.heard() == [
        "STATUS=locked",
        "STATUS=unlocked, 0 secrets",
        "STATUS=unlocked, 1 secret",
        "STATUS=unlocked, 12 secrets",
    ]


def test_a_socket_is_kept_in_place_of_the_one_before_it(manager: Manager, tmp_path: Path) -> None:
    supervisor = manager.supervisor()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "kept"))
        supervisor.keep("agents/hermes", sock)
    assert manager.heard() == [
        "FDSTOREREMOVE=1\nFDNAME=agents/hermes",
        "FDSTORE=1\nFDNAME=agents/hermes",
    ]
    with socket.socket(fileno=manager.passed.pop()) as passed:
        assert passed.getsockname() == str(tmp_path / "kept")


async def test_signs_of_life_come_in_time_and_only_while_the_loop_turns(
    manager: Manager, autojump_clock: trio.testing.MockClock
) -> None:
    supervisor = manager.supervisor(WATCHDOG_USEC="6000000", WATCHDOG_PID=str(os.getpid()))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.run)
        await trio.sleep(9)
        assert manager.heard() == ["WATCHDOG=1"] * 5
        nursery.cancel_scope.cancel()
    assert manager.heard() == []


@pytest.mark.parametrize(
    "watchdog",
    [{}, {"WATCHDOG_USEC": "6000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}],
)
async def test_nobody_watches_unless_this_process_is_meant(
    manager: Manager, watchdog: dict[str, str], autojump_clock: trio.testing.MockClock
) -> None:
    supervisor = manager.supervisor(**watchdog)
    with trio.move_on_after(60):
        await supervisor.run()
    assert manager.heard() == []


async def test_what_does_not_fit_waits_and_holds_nobody_up(manager: Manager) -> None:
    supervisor = manager.supervisor()
    states = [f"state {number}" for number in range(2000)]  # net.unix.max_dgram_qlen is 10, or some hundreds
    for state in states:
        supervisor.show(state, 0)
    heard: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.run)
        with trio.fail_after(30):
            while len(heard) < len(states):
                heard += manager.heard()
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert heard == [f"STATUS={state}" for state in states]


async def test_a_manager_that_is_gone_is_no_error(manager: Manager, caplog: pytest.LogCaptureFixture) -> None:
    supervisor = manager.supervisor()
    manager.sock.close()
    supervisor.ready()
    assert caplog.messages == ["the service manager cannot be told: Connection refused"]
    with trio.move_on_after(0.01):
        await supervisor.run()


async def test_without_a_manager_it_leads_nowhere(autojump_clock: trio.testing.MockClock) -> None:
    environ = {"WATCHDOG_USEC": "6000000", "HOME": "/"}
    supervisor = Supervisor.of(environ)
    assert environ == {"HOME": "/"}
    assert not supervisor.present
    supervisor.ready()
    supervisor.show("locked", 0)
    with trio.move_on_after(60):
        await supervisor.run()


def test_the_variables_are_taken_out(manager: Manager) -> None:
    environ = {**manager.environ, "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
    Supervisor.of(environ).close()
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("vsock:2:1234", "neither a path nor an abstract name"),
        ("relative", "neither a path nor an abstract name"),
        ("/nonexistent/notify", "no such file"),
        ("@avault-nobody-is-there", "refused"),
        ("/" + "x" * 200, "NOTIFY_SOCKET"),
        ("/a\0b", "NOTIFY_SOCKET"),
    ],
)
def test_an_address_that_leads_nowhere_is_an_error(address: str, why: str) -> None:
    with pytest.raises(BadRequestError, match=why):
        Supervisor.of({"NOTIFY_SOCKET": address})
