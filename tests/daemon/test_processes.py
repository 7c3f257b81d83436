from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Generator
from pathlib import Path

import pytest
import trio
from hypothesis import given, strategies as st

from avault_daemon.callers.processes import Process, Processes, parse_start_time, start_time
from support.pids import end, needs_pids, sleeper, sleeper_with


@pytest.fixture
def child() -> Generator[subprocess.Popen[bytes]]:
    process = sleeper()
    yield process
    end(process)


@pytest.fixture
def processes() -> Generator[Processes]:
    registry = Processes()
    yield registry
    registry.close()


def find(pid: int) -> Process:
    started = start_time(pid)
    assert started is not None
    process = Process.find(pid, started)
    assert process is not None
    return process


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_live_process_is_found_by_pid_and_start_time(child: subprocess.Popen[bytes]) -> None:
    process = find(child.pid)
    assert process.alive()
    assert process.key == (child.pid, start_time(child.pid))
    process.close()
    process.close()
    assert process.fileno() == -1


def test_its_cgroup_is_asked_for_again_and_again_in_one_file(child: subprocess.Popen[bytes]) -> None:
    before = open_descriptors()
    process = find(child.pid)
    said = Path(f"/proc/{child.pid}/cgroup").read_bytes()
    assert [process.cgroup() for _ in range(3)] == [said] * 3
    assert open_descriptors() == before + 2
    process.close()
    assert open_descriptors() == before


@pytest.mark.alone
@needs_pids
@pytest.mark.parametrize("asked", [False, True])
def test_the_cgroup_of_one_that_has_ended_is_not_that_of_its_successor(asked: bool) -> None:
    first = sleeper()
    process = find(first.pid)
    if asked:
        assert process.cgroup()
    end(first)
    before = open_descriptors()
    second = sleeper_with(first.pid)
    try:
        with pytest.raises(ProcessLookupError):
            process.cgroup()
        assert open_descriptors() == before
    finally:
        end(second)
        process.close()


def test_another_start_time_is_another_process(child: subprocess.Popen[bytes]) -> None:
    started = start_time(child.pid)
    assert started is not None
    before = open_descriptors()
    assert Process.find(child.pid, started + 1) is None
    assert open_descriptors() == before


def test_a_process_is_dead_once_it_has_exited_reaped_or_not(child: subprocess.Popen[bytes]) -> None:
    process = find(child.pid)
    child.kill()
    os.waitid(
        os.P_PID, child.pid, os.WEXITED | os.WNOWAIT
    )  # a zombie: its pid and start time are still there
    assert start_time(child.pid) == process.started
    assert not process.alive()
    assert Process.find(*process.key) is None
    end(child)
    assert not process.alive()
    assert Process.find(*process.key) is None
    process.close()


@pytest.mark.alone
@needs_pids
def test_the_next_process_with_the_same_pid_is_another() -> None:
    first = sleeper()
    process = find(first.pid)
    end(first)
    second = sleeper_with(first.pid)
    # The start time counts hundredths of a second: within one, only the pidfd tells them apart.
    assert not process.alive()
    assert start_time(second.pid) is not None
    end(second)
    process.close()


def test_the_number_of_a_thread_is_no_process() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        assert Process.find(thread.native_id, 0) is None
    finally:
        stop.set()
        thread.join()


def test_all_who_have_died_are_told_of_at_once(processes: Processes) -> None:
    many = [processes.join(Process(number, 0, os.eventfd(1))) for number in range(1, 1101)]
    assert processes.dead() == many, "whoever is not told of is answered"
    assert processes.dead() == []


def test_no_room_for_a_descriptor_does_not_mean_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(pid: int, flags: int = 0) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr("os.pidfd_open", full)
    with pytest.raises(OSError, match="too many"):
        Process.find(os.getpid(), 0)


def test_processes_are_equal_by_pid_and_start_time() -> None:
    assert Process(1, 2, -1) == Process(1, 2, -1)
    assert hash(Process(1, 2, -1)) == hash(Process(1, 2, -1))
    assert Process(1, 2, -1) != Process(1, 3, -1)
    assert Process(1, 2, -1) != (1, 2)
    assert repr(Process(1, 2, -1)) == "Process(pid=1, started=2)"


def test_the_registry_keeps_one_of_each_until_the_last_has_left(
    child: subprocess.Popen[bytes], processes: Processes
) -> None:
    first, second = find(child.pid), find(child.pid)
    assert processes.join(first) is first
    assert processes.join(second) is first
    assert second.fileno() == -1
    assert processes.join(first) is first
    assert len(processes) == 1
    processes.leave(first)
    processes.leave(first)
    assert first.fileno() >= 0
    processes.leave(first)
    assert first.fileno() == -1
    assert len(processes) == 0
    with pytest.raises(KeyError):
        processes.leave(first)


def test_of_one_pid_the_latest_is_known(processes: Processes) -> None:
    ends = [os.pipe() for _ in range(2)]  # pipes stand for pidfds
    first, second = (Process(7, started, ends[started][0]) for started in range(2))
    assert processes.latest(7) is None
    processes.join(first)
    assert processes.latest(7) is first
    processes.join(second)
    assert processes.latest(7) is second
    processes.leave(first)
    assert processes.latest(7) is second
    processes.leave(second)
    assert processes.latest(7) is None
    for _, other in ends:
        os.close(other)


async def test_a_death_is_told_once(processes: Processes) -> None:
    dying, living = sleeper(), sleeper()
    process = processes.join(find(dying.pid))
    processes.join(find(living.pid))
    assert processes.dead() == []
    end(dying)
    await trio.lowlevel.wait_readable(processes.fileno())
    assert processes.dead() == [process]
    assert processes.dead() == []
    end(living)


async def test_waiting_for_deaths_loses_none_when_cancelled(
    processes: Processes, autojump_clock: trio.testing.MockClock
) -> None:
    dying = sleeper()
    process = processes.join(find(dying.pid))
    with trio.move_on_after(1) as scope:
        await trio.lowlevel.wait_readable(processes.fileno())
    assert scope.cancelled_caught
    end(dying)
    with trio.CancelScope() as scope:
        scope.cancel()
        await trio.lowlevel.wait_readable(processes.fileno())
    assert scope.cancelled_caught
    await trio.lowlevel.wait_readable(processes.fileno())
    assert processes.dead() == [process]


def test_one_that_left_is_not_told_of(processes: Processes) -> None:
    dying = sleeper()
    process = processes.join(find(dying.pid))
    end(dying)
    processes.leave(process)
    assert processes.dead() == []


def test_closing_the_registry_closes_everything(child: subprocess.Popen[bytes]) -> None:
    before = open_descriptors()
    registry = Processes()
    process = registry.join(find(child.pid))
    registry.close()
    assert process.fileno() == -1
    assert open_descriptors() == before


def stat_line(name: bytes, started: int) -> bytes:
    return b"42 (%s) S %s %d %s\n" % (
        name,
        b" ".join(b"%d" % n for n in range(18)),
        started,
        b"0 " * 29 + b"0",
    )


@given(name=st.binary(max_size=16), started=st.integers(0, 2**63))
def test_the_name_of_a_process_cannot_pose_as_its_start_time(name: bytes, started: int) -> None:
    assert parse_start_time(stat_line(name, started)) == started


@given(name=st.text(alphabet="() 1S", max_size=16))
def test_nor_can_a_name_of_brackets_and_numbers(name: str) -> None:
    assert parse_start_time(stat_line(name.encode(), 7)) == 7


@given(stat=st.binary(max_size=300))
def test_anything_else_has_no_start_time(stat: bytes) -> None:
    started = parse_start_time(stat)
    assert started is None or b"%d" % started in stat


@pytest.mark.parametrize("cut", range(1, 25))
def test_a_line_that_is_cut_off_has_no_start_time(cut: int) -> None:
    fields = stat_line(b"x", 1234).split(b" ")[:cut]
    assert parse_start_time(b" ".join(fields)) == (1234 if cut > 22 else None)


def test_it_agrees_with_the_kernel_on_this_process() -> None:
    assert start_time(os.getpid()) is not None
    assert start_time(2**22 + 1) is None
