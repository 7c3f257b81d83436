from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from avault_daemon.callers.bindings import MAX_HELD_PER_AGENT, Bindings, parse
from avault_daemon.callers.caller import CallerGoneError
from avault_daemon.callers.processes import Process, start_time
from avault_protocol import AlreadyBoundError, BusyError, StorageFailedError
from support.pids import end, needs_pids, sleeper, sleeper_with

BOOT = "bd612d99-0ded-4045-86b5-7f120073b1a8"
Open = Callable[..., Bindings]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bindings.json"


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
    document: dict[str, Any] = json.loads(bindings.path.read_bytes())
    started: int = document["holders"][0][3]
    return started


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
    assert (
        json.loads(path.read_bytes())["boot"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    )
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == [path.name]


def test_what_cannot_be_written_down_is_not_bound(
    opened: Open, path: Path, children: list[subprocess.Popen[bytes]]
) -> None:
    bindings = opened()
    process = connect(bindings, children[0])
    path.mkdir()  # nothing can be renamed to it
    with pytest.raises(StorageFailedError, match=r"bindings\.json could not be written: is a directory"):
        bindings.bind("cobot", "telegram", process)
    assert bindings.holders("cobot", "telegram") == []
    path.rmdir()
    bindings.bind("cobot", "telegram", process)


def test_what_a_crash_left_beside_is_no_hindrance(
    opened: Open, path: Path, children: list[subprocess.Popen[bytes]]
) -> None:
    path.with_suffix(".new").symlink_to("/etc/passwd")
    bindings = opened()
    bindings.bind("cobot", "telegram", connect(bindings, children[0]))
    assert not path.is_symlink()


ENTRY = ["cobot", "telegram", 1, 1]
NOT_OURS: list[object] = [
    None,
    [],
    {},
    {"boot": BOOT},
    {"boot": BOOT, "holders": [], "more": 1},
    {"boot": 1, "holders": []},
    {"boot": BOOT, "holders": {}},
    {"boot": BOOT, "holders": [None]},
    {"boot": BOOT, "holders": [ENTRY[:3]]},
    {"boot": BOOT, "holders": [[*ENTRY, 1]]},
    {"boot": BOOT, "holders": [ENTRY, ENTRY]},
    {"boot": BOOT, "holders": [["Cobot", "telegram", 1, 1]]},
    {"boot": BOOT, "holders": [["cobot", "../telegram", 1, 1]]},
    {"boot": BOOT, "holders": [["cobot", "telegram", 0, 1]]},
    {"boot": BOOT, "holders": [["cobot", "telegram", 2**22 + 1, 1]]},
    {"boot": BOOT, "holders": [["cobot", "telegram", True, 1]]},
    {"boot": BOOT, "holders": [["cobot", "telegram", 1, -1]]},
    {"boot": BOOT, "holders": [["cobot", "telegram", 1, 2**63]]},
    {"boot": BOOT, "holders": [["cobot", "telegram", 1, 1.5]]},
]


@pytest.mark.parametrize(
    "content",
    [*(json.dumps(document).encode() for document in NOT_OURS), b"", b"{", b"\xff", b"[" * 100_000],
)
def test_a_file_that_is_not_ours_means_no_holders_and_a_warning(
    opened: Open, path: Path, content: bytes, children: list[subprocess.Popen[bytes]]
) -> None:
    path.write_bytes(content)
    bindings = opened()
    assert len(bindings.warnings) == 1
    assert "is not what avault wrote" in bindings.warnings[0]
    bindings.bind("cobot", "telegram", connect(bindings, children[0]))
    assert opened().warnings == []


def make_link(path: Path) -> None:
    (path.parent / "elsewhere").write_text(json.dumps({"boot": BOOT, "holders": []}))
    path.symlink_to("elsewhere")


def make_large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(8 * 1024 * 1024 + 1)


@pytest.mark.parametrize("make", [make_link, make_large, os.mkfifo, Path.mkdir])
def test_nor_is_a_file_of_another_kind(opened: Open, path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    assert len(opened().warnings) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_nor_is_a_file_of_another_user(opened: Open, path: Path) -> None:
    path.write_text(json.dumps({"boot": BOOT, "holders": []}))
    os.chown(path, 65534, -1)
    assert "belongs to uid 65534" in opened().warnings[0]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["boot", "holders", BOOT]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["boot", "holders", "x"]), inner)
    ),
)


@given(content=st.binary() | JSON.map(lambda document: json.dumps(document).encode()))
def test_any_file_is_ours_or_a_value_error(content: bytes) -> None:
    try:
        boot, entries = parse(content)
    except ValueError:
        return
    assert json.loads(content) == {"boot": boot, "holders": [list(entry) for entry in entries]}


class Life(RuleBasedStateMachine):
    """Processes come, bind and die; at any moment the holders are those that a plain model says.

    A pipe stands for a pidfd: it becomes readable, too, when the other end is gone.
    """

    @initialize()
    def start(self) -> None:
        self.folder = Path("/dev/shm" if os.path.isdir("/dev/shm") else "/tmp") / f"avault-test-{os.getpid()}"
        self.folder.mkdir(exist_ok=True)
        self.bindings = Bindings(self.folder / "bindings.json", boot=os.urandom(8).hex())
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
