from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from avault_daemon.callers.bindings import MAX_HELD_PER_AGENT, Bindings
from avault_daemon.callers.caller import CallerGoneError
from avault_daemon.callers.ledger import parse
from avault_daemon.callers.processes import Process, start_time
from avault_protocol import AlreadyBoundError, BusyError, StorageFailedError
from support.faults import file_size_limit
from support.pids import end, needs_pids, sleeper, sleeper_with

BOOT = "bd612d99-0ded-4045-86b5-7f120073b1a8"
Open = Callable[..., Bindings]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bindings.jsonl"


@pytest.fixture
def opened(path: Path) -> Generator[Open]:
    """Open the bindings as a daemon does that starts; all are closed in the end."""
    everything: list[Bindings] = []

    def start(boot: str = BOOT) -> Bindings:
        everything.append(Bindings(path, boot=boot))
        return everything[-1]

    yield start
    for bindings in everything:
        bindings.close()


@pytest.fixture
def children() -> Generator[list[subprocess.Popen[bytes]]]:
    processes = [sleeper() for _ in range(3)]
    yield processes
    for process in processes:
        end(process)


def connect(bindings: Bindings, child: subprocess.Popen[bytes]) -> Process:
    """Do what the server does with a process that connects."""
    started = start_time(child.pid)
    assert started is not None
    process = Process.find(child.pid, started)
    assert process is not None
    return bindings.processes.join(process)


def test_one_live_process_holds_a_plugin(opened: Open, children: list[subprocess.Popen[bytes]]) -> None:
    bindings = opened()
    first, second, third = (connect(bindings, child) for child in children)
    bindings.bind("cobot", "telegram", first)
    bindings.bind("cobot", "telegram", first)  # again, from another connection
    with pytest.raises(AlreadyBoundError, match=f"cobot/telegram is held by live process {first.pid}"):
        bindings.bind("cobot", "telegram", second)
    bindings.bind("cobot", "weather", second)
    bindings.bind("other", "telegram", third)
    assert bindings.holders("cobot", "telegram") == [first.pid]
    assert bindings.holders("cobot", "none") == []


def test_it_is_free_once_that_process_has_died(opened: Open, children: list[subprocess.Popen[bytes]]) -> None:
    bindings = opened()
    first, second = (connect(bindings, child) for child in children[:2])
    bindings.bind("cobot", "telegram", first)
    end(children[0])
    assert bindings.holders("cobot", "telegram") == []
    bindings.bind("cobot", "telegram", second)  # before the watcher has had its turn
    assert bindings.processes.dead() == [first]
    bindings.drop(first)
    assert bindings.holders("cobot", "telegram") == [second.pid]


def test_a_holder_is_watched_after_its_last_connection_has_ended(
    opened: Open, children: list[subprocess.Popen[bytes]]
) -> None:
    bindings = opened()
    process = connect(bindings, children[0])
    bindings.bind("cobot", "telegram", process)
    bindings.processes.leave(process)
    with pytest.raises(AlreadyBoundError):
        bindings.bind("cobot", "telegram", connect(bindings, children[1]))
    end(children[0])
    assert bindings.processes.dead() == [process]
    bindings.drop(process)
    bindings.drop(process)  # nothing left to drop
    assert process.fileno() == -1


def test_a_dead_process_binds_nothing(opened: Open, children: list[subprocess.Popen[bytes]]) -> None:
    """Its socket may live on in a child, which is somebody else."""
    bindings = opened()
    process = connect(bindings, children[0])
    end(children[0])
    with pytest.raises(CallerGoneError):
        bindings.bind("cobot", "telegram", process)
    assert bindings.holders("cobot", "telegram") == []


def test_as_many_instances_as_the_agent_has(opened: Open, children: list[subprocess.Popen[bytes]]) -> None:
    bindings = opened()
    first, second, third = (connect(bindings, child) for child in children)
    bindings.bind("cobot", "telegram", first, 2)
    bindings.bind("cobot", "telegram", second, 2)
    with pytest.raises(AlreadyBoundError, match=f"{first.pid}, {second.pid}"):
        bindings.bind("cobot", "telegram", third, 2)
    bindings.bind("cobot", "telegram", first, 1)  # fewer now; who holds it keeps it
    bindings.bind("cobot", "telegram", third, 3)
    assert bindings.holders("cobot", "telegram") == [first.pid, second.pid, third.pid]


def test_an_agent_holds_only_so_many_plugins(opened: Open, children: list[subprocess.Popen[bytes]]) -> None:
    bindings = opened()
    process = connect(bindings, children[0])
    for number in range(MAX_HELD_PER_AGENT):
        bindings.bind("cobot", f"plugin{number}", process)
    with pytest.raises(BusyError, match=str(MAX_HELD_PER_AGENT)):
        bindings.bind("cobot", "one-too-many", process)
    bindings.bind("other", "telegram", process)


def test_a_holder_survives_a_restart(opened: Open, children: list[subprocess.Popen[bytes]]) -> None:
    before = opened()
    first = connect(before, children[0])
    before.bind("cobot", "telegram", first)
    before.bind("cobot", "weather", first)
    before.close()
    after = opened()
    assert after.holders("cobot", "telegram") == after.holders("cobot", "weather") == [first.pid]
    assert after.warnings == []
    with pytest.raises(AlreadyBoundError):
        after.bind("cobot", "telegram", connect(after, children[1]))
    after.bind("cobot", "telegram", connect(after, children[0]))
    assert len(after.processes) == 2  # the holder once, though it connected anew


def test_a_holder_that_died_meanwhile_does_not(opened: Open, children: list[subprocess.Popen[bytes]]) -> None:
    before = opened()
    before.bind("cobot", "telegram", connect(before, children[0]))
    before.close()
    end(children[0])
    after = opened()
    assert after.holders("cobot", "telegram") == []
    after.bind("cobot", "telegram", connect(after, children[1]))


@pytest.mark.alone
@needs_pids
def test_a_process_with_a_dead_holders_pid_inherits_nothing(opened: Open) -> None:
    holder = sleeper()
    before = opened()
    before.bind("cobot", "telegram", connect(before, holder))
    before.close()
    end(holder)
    heir = sleeper_with(holder.pid)
    while start_time(heir.pid) == recorded_start(before):  # hundredths of a second: wait for the next
        end(heir)
        heir = sleeper_with(holder.pid)
    after = opened()
    assert after.holders("cobot", "telegram") == []
    end(heir)


def recorded_start(bindings: Bindings) -> int:
    return parse(bindings.path.read_bytes())[1][0][3]


def test_nobody_holds_anything_after_a_reboot(opened: Open, children: list[subprocess.Popen[bytes]]) -> None:
    before = opened()
    before.bind("cobot", "telegram", connect(before, children[0]))
    before.close()
    after = opened(boot="another")
    assert (after.holders("cobot", "telegram"), after.warnings) == ([], [])


def test_the_boot_is_the_kernels_if_none_is_given(
    path: Path, children: list[subprocess.Popen[bytes]]
) -> None:
    bindings = Bindings(path)
    bindings.bind("cobot", "telegram", connect(bindings, children[0]))
    bindings.close()
    assert parse(path.read_bytes())[0] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == [path.name]


def test_what_cannot_be_written_down_is_not_bound(
    opened: Open, path: Path, children: list[subprocess.Popen[bytes]]
) -> None:
    bindings = opened()
    process = connect(bindings, children[0])
    path.mkdir()  # nothing can be renamed to it
    with pytest.raises(StorageFailedError, match=r"bindings\.jsonl could not be written: is a directory"):
        bindings.bind("cobot", "telegram", process)
    assert bindings.holders("cobot", "telegram") == []
    path.rmdir()
    bindings.bind("cobot", "telegram", process)


def test_what_can_be_written_in_part_is_not_bound(
    opened: Open, path: Path, children: list[subprocess.Popen[bytes]]
) -> None:
    before = opened()
    first, second = (connect(before, child) for child in children[:2])
    before.bind("cobot", "telegram", first)
    with file_size_limit(path.stat().st_size + 10), pytest.raises(StorageFailedError):
        before.bind("cobot", "weather", second)
    after = opened()
    assert after.warnings == []
    assert after.holders("cobot", "telegram") == [first.pid]
    assert before.holders("cobot", "weather") == after.holders("cobot", "weather") == []
    before.bind("cobot", "weather", second)
    assert opened().holders("cobot", "weather") == [second.pid]


def test_a_file_that_is_not_ours_means_no_holders_and_a_warning(
    opened: Open, path: Path, children: list[subprocess.Popen[bytes]]
) -> None:
    path.write_bytes(b"{")
    bindings = opened()
    assert len(bindings.warnings) == 1
    assert "is not what avault wrote" in bindings.warnings[0]
    bindings.bind("cobot", "telegram", connect(bindings, children[0]))
    assert opened().warnings == []


class Life(RuleBasedStateMachine):
    """Processes come, bind and die; at any moment the holders are those that a plain model says.

    A pipe stands for a pidfd: it becomes readable, too, when the other end is gone.
    """

    @initialize()
    def start(self) -> None:
        self.folder = Path("/dev/shm" if os.path.isdir("/dev/shm") else "/tmp") / f"avault-test-{os.getpid()}"
        self.folder.mkdir(exist_ok=True)
        self.bindings = Bindings(self.folder / "bindings.jsonl", boot=os.urandom(8).hex())
        self.ends: dict[Process, int] = {}
        self.model: dict[str, list[Process]] = {}
        self.born = 0

    @rule()
    def come(self) -> None:
        self.born += 1
        pidfd, other = os.pipe()
        self.ends[self.bindings.processes.join(Process(self.born, self.born, pidfd))] = other

    @precondition(lambda self: self.ends)
    @rule(data=st.data(), plugin=st.sampled_from(["a", "b"]), instances=st.integers(1, 3))
    def bind(self, data: st.DataObject, plugin: str, instances: int) -> None:
        process = data.draw(st.sampled_from(list(self.ends)))
        holders = self.model.setdefault(plugin, [])
        try:
            self.bindings.bind("cobot", plugin, process, instances)
        except AlreadyBoundError:
            assert process not in holders
            assert len(holders) >= instances
        else:
            assert process in holders or len(holders) < instances
            if process not in holders:
                holders.append(process)

    @precondition(lambda self: self.ends)
    @rule(data=st.data(), watched=st.booleans())
    def die(self, data: st.DataObject, watched: bool) -> None:
        process = data.draw(st.sampled_from(list(self.ends)))
        os.close(self.ends.pop(process))
        for holders in self.model.values():
            if process in holders:
                holders.remove(process)
        if watched:
            for dead in self.bindings.processes.dead():
                self.bindings.drop(dead)
                self.bindings.processes.leave(dead)

    @rule()
    def what_is_written_down(self) -> None:
        """Those that hold are in the file, and whoever else is has died."""
        if not self.bindings.path.exists():
            assert not any(self.model.values())
            return
        living = {process.key for process in self.ends}
        written = [entry for entry in parse(self.bindings.path.read_bytes())[1] if entry[2:] in living]
        held = [("cobot", plugin, *one.key) for plugin, holders in self.model.items() for one in holders]
        assert sorted(written) == sorted(held)

    @invariant()
    def holders_are_those_of_the_model(self) -> None:
        for plugin, holders in getattr(self, "model", {}).items():
            assert self.bindings.holders("cobot", plugin) == [process.pid for process in holders]

    def teardown(self) -> None:
        if hasattr(self, "bindings"):
            self.bindings.close()
            for other in self.ends.values():
                os.close(other)
            for file in self.folder.iterdir():
                file.unlink()
            self.folder.rmdir()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
