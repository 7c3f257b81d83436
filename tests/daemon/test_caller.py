from __future__ import annotations

import errno
import os
import socket
import string
import struct
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from avault_daemon.callers import caller as caller_module
from avault_daemon.callers.caller import SO_PEERPIDFD, CallerGoneError, credentials, identify, system_unit
from avault_daemon.callers.processes import Process, start_time
from avault_protocol import ERRORS, UnknownAgentError
from support import cgroups
from support.attacks import SPARE_UID
from support.pids import end, needs_pids, sleeper, sleeper_with

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")

# A client that connects to the name argv[1] as uid argv[2], from the cgroup argv[3] if there is one, says so, and does argv[4].
CLIENT = """
import os, socket, sys
name, uid, cgroup, then = sys.argv[1:]
if cgroup:
    open(cgroup + "/cgroup.procs", "w").write("0")
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(int(uid)); os.setuid(int(uid))
connection = socket.socket(socket.AF_UNIX)
connection.connect(bytes.fromhex(name))
print("connected", flush=True)
exec(then)
"""
STAY = "sys.stdin.read()"
DIE_AND_LEAVE_THE_SOCKET_TO_A_CHILD = "os.fork() == 0 and sys.stdin.read(); os._exit(0)"
BECOME_ANOTHER_PROGRAM = "os.set_inheritable(connection.fileno(), True); os.execv('/bin/cat', ['cat'])"


class Peer(socket.socket):
    """A connection whose kernel answers to some socket options as older and stranger kernels do."""

    answers: dict[int, bytes | OSError]

    def getsockopt(self, level: int, option: int, size: int = 0) -> int | bytes:  # type: ignore[override]
        answer = self.answers.get(option)
        if isinstance(answer, OSError):
            raise answer
        if answer is not None:
            return answer
        return super().getsockopt(level, option, size) if size else super().getsockopt(level, option)


def as_peer(connection: socket.socket, answers: dict[int, bytes | OSError]) -> Peer:
    peer = Peer(fileno=connection.detach())
    peer.answers = answers
    return peer


WITHOUT_PEERPIDFD: dict[int, bytes | OSError] = {SO_PEERPIDFD: OSError(errno.ENOPROTOOPT, "no such option")}


@contextmanager
def client(
    then: str = STAY, *, uid: int = SPARE_UID, cgroup: Path | None = None
) -> Generator[tuple[socket.socket, subprocess.Popen[bytes]]]:
    """A process that has connected, and the daemon's end of the connection."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")  # the kernel chooses an abstract name, which every uid may connect to
        listener.listen()
        name: bytes = listener.getsockname()
        command = [sys.executable, "-c", CLIENT, name.hex(), str(uid), str(cgroup or ""), then]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            assert process.stdout.readline() == b"connected\n"
            connection, _ = listener.accept()
            with connection:
                yield connection, process
        finally:
            process.kill()
            process.stdin.close()
            process.stdout.close()
            process.wait()


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Generator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_caller_is_what_the_kernel_says_of_it() -> None:
    uid = SPARE_UID if os.geteuid() == 0 else os.geteuid()
    with client() as (connection, child):
        caller, process = identify(connection, credentials(connection), "cobot")
        assert (caller.pid, caller.uid, caller.socket_agent) == (child.pid, uid, "cobot")
        assert caller.gid == (SPARE_UID if os.geteuid() == 0 else os.getegid())
        assert caller.started == start_time(child.pid)
        assert caller.exe == os.readlink(f"/proc/{child.pid}/exe")
        assert caller.unit == system_unit(Path(f"/proc/{child.pid}/cgroup").read_text())
        assert process.key == (caller.pid, caller.started)
        assert process.alive()
        end(child)
        assert not process.alive()
        process.close()


def test_a_dead_parent_is_nobody_though_its_child_holds_the_socket() -> None:
    with client(DIE_AND_LEAVE_THE_SOCKET_TO_A_CHILD) as (connection, child):
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(CallerGoneError):  # a zombie still
            identify(connection, credentials(connection), None)
        child.wait()
        with pytest.raises(CallerGoneError, match="has ended"):
            identify(connection, credentials(connection), None)
        old = as_peer(connection, WITHOUT_PEERPIDFD)
        with old, pytest.raises(CallerGoneError):
            identify(old, credentials(old), None)


@pytest.mark.alone
@needs_pids
def test_a_process_with_a_dead_callers_pid_is_not_the_caller() -> None:
    with client(DIE_AND_LEAVE_THE_SOCKET_TO_A_CHILD) as (connection, child):
        child.wait()
        other = sleeper_with(child.pid)
        try:
            with pytest.raises(CallerGoneError):
                identify(connection, credentials(connection), None)
            with known(other.pid, started=1) as heir, pytest.raises(CallerGoneError):
                identify(connection, credentials(connection), None, known=heir)
            # The control: a kernel that keeps no handle does take one for the other. So the uid is the connection's
            # all the same, and there is no unit.
            with as_peer(connection, WITHOUT_PEERPIDFD) as old:
                caller, process = identify(old, credentials(old), None)
                process.close()
            assert (caller.pid, caller.uid, caller.unit) == (other.pid, SPARE_UID, None)
            assert os.stat(f"/proc/{other.pid}").st_uid == 0
        finally:
            end(other)


@contextmanager
def known(pid: int, *, started: int) -> Generator[Process]:
    """A process that was known by *pid*, with a start time that cannot have been read."""
    process = Process(pid, started, os.pidfd_open(pid))
    yield process
    process.close()


def test_a_process_that_is_known_and_lives_is_not_looked_up_again() -> None:
    with client() as (connection, child), known(child.pid, started=1) as same:
        caller, process = identify(connection, credentials(connection), None, known=same)
        process.close()
    assert (caller.pid, caller.started) == (child.pid, 1)
    assert process == same


def test_one_that_was_known_by_the_number_and_died_is_somebody_else() -> None:
    earlier = sleeper()
    with known(earlier.pid, started=1) as dead, client() as (connection, child):
        end(earlier)
        caller, process = identify(connection, credentials(connection), None, known=dead)
        process.close()
        assert caller.started == start_time(child.pid)


@needs_root
def test_a_program_that_was_started_after_connecting_changes_nothing_but_exe() -> None:
    with client(BECOME_ANOTHER_PROGRAM) as (connection, child):
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"x")
        child.stdin.flush()
        assert child.stdout.read(1) == b"x"  # it is cat by now
        caller, process = identify(connection, credentials(connection), None)
        process.close()
        assert (caller.pid, caller.uid) == (child.pid, SPARE_UID)
        assert caller.exe is not None
        assert caller.exe.endswith("/cat")


@pytest.fixture
def unit_cgroup() -> Generator[Path]:
    """An empty cgroup where systemd would put a unit, with what the unit made below; gone afterwards."""
    with cgroups.made("cobot.service/other.service") as (below,):
        yield below


def test_the_unit_is_that_of_the_cgroup(unit_cgroup: Path) -> None:
    with client(cgroup=unit_cgroup.parent) as (connection, _):
        caller, process = identify(connection, credentials(connection), None)
        process.close()
    assert caller.unit == "cobot.service"


def test_a_unit_cannot_name_itself_by_a_cgroup_below_its_own(unit_cgroup: Path) -> None:
    with client(cgroup=unit_cgroup) as (connection, _):
        caller, process = identify(connection, credentials(connection), None)
        process.close()
    assert caller.unit == "cobot.service"


def test_without_a_handle_since_connect_there_is_no_unit(unit_cgroup: Path) -> None:
    with (
        client(cgroup=unit_cgroup) as (connection, child),
        as_peer(connection, WITHOUT_PEERPIDFD) as old,
    ):
        caller, process = identify(old, credentials(old), None)
        process.close()
    assert (caller.pid, caller.unit) == (child.pid, None)


@pytest.mark.parametrize("number", [errno.ESRCH, errno.EINVAL, errno.ENODATA])
def test_each_way_of_a_kernel_to_say_gone(number: int) -> None:
    with client() as (connection, _):
        peer = as_peer(connection, {SO_PEERPIDFD: OSError(number, "gone")})
        with peer, pytest.raises(CallerGoneError):
            identify(peer, credentials(peer), None)


def test_no_room_for_a_descriptor_is_not_the_callers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with client() as (connection, _):
        peer = as_peer(connection, {SO_PEERPIDFD: OSError(errno.EMFILE, "full")})
        with peer, pytest.raises(OSError, match="full"):
            identify(peer, credentials(peer), None)
    with client() as (connection, _):
        old = as_peer(connection, WITHOUT_PEERPIDFD)

        def full(pid: int, flags: int = 0) -> int:
            raise OSError(errno.EMFILE, "full")

        monkeypatch.setattr("os.pidfd_open", full)
        with old, pytest.raises(OSError, match="full"):
            identify(old, credentials(old), None)


def test_a_peer_in_a_pid_namespace_out_of_sight_is_unknown() -> None:
    with client() as (connection, _):
        peer = as_peer(connection, {socket.SO_PEERCRED: struct.pack("=iII", 0, 1000, 1000)})
        with peer, pytest.raises(UnknownAgentError, match="pid namespace"):
            identify(peer, credentials(peer), None)


def test_a_live_caller_that_proc_hides_is_unknown_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(path: str, most: int) -> bytes:
        raise FileNotFoundError(path)

    monkeypatch.setattr("avault_daemon.callers.processes.read_proc", hidden)
    monkeypatch.setattr(caller_module, "read_proc", hidden)
    with client() as (connection, _), pytest.raises(UnknownAgentError, match="unreadable") as caught:
        identify(connection, credentials(connection), None)
    assert "hidepid" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/usr/bin/cobot", "/usr/bin/cobot"),
        ("/tmp/two\nlines", "/tmp/two\\nlines"),
        ("/tmp/\udcff", "/tmp/\\udcff"),
        ("/" + "x" * 300, "x" * 256),
        (None, None),
    ],
)
def test_the_executable_is_shown_in_printable_ascii_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch, target: str | None, shown: str | None
) -> None:
    def readlink(path: str) -> str:
        if target is None:
            raise PermissionError(path)  # another uid's, or Landlock
        return target

    with client() as (connection, _):
        monkeypatch.setattr("os.readlink", readlink)
        caller, process = identify(connection, credentials(connection), None)
        process.close()
        unasked, process = identify(connection, credentials(connection), None, exe=False)
        process.close()
    assert caller.exe == shown
    assert unasked.exe is None


def test_gone_is_told_as_unknown_agent() -> None:
    assert ERRORS[CallerGoneError.code] is UnknownAgentError
    assert CallerGoneError().to_wire()["message"] == "the process that opened this connection has ended"


HYBRID = "12:pids:/user.slice\n9:name=systemd:{}\n0::{}\n"


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/cobot.service\n", "cobot.service"),
        ("0::/system.slice/cobot@1.service\n", "cobot@1.service"),
        ("0::/system.slice/system-cobot.slice/cobot@1.service\n", "cobot@1.service"),
        ("0::/system.slice/docker-0123abcd.scope\n", "docker-0123abcd.scope"),
        ("0::/system.slice/cobot.service/sub/group\n", "cobot.service"),
        ("0::/system.slice/cobot.service/other.service\n", "cobot.service"),
        ("0::/system.slice/cobot.service/user.slice/other.service\n", "cobot.service"),
        ("0::/init.scope\n", "init.scope"),
        ("0::/system.slice/_memory.service\n", "memory.service"),
        ("0::/system.slice/a\\x2db.service\n", "a\\x2db.service"),
        # not systemd's, or not the system's
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/cobot.service\n", None),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", None),
        ("0::/user.slice\n", None),
        ("0::/\n", None),
        ("0::/system.slice\n", None),
        ("0::/docker/0123abcd\n", None),
        ("0::/docker/0123abcd/system.slice/cobot.service\n", None),
        ("0::/../system.slice/cobot.service\n", None),
        ("0::/./cobot.service\n", None),
        ("0::/system.slice/cobot.service (deleted)\n", None),
        ("0::/system.slice/.service\n", None),
        ("0::/system.slice/cobot.device\n", None),
        ("0::/system.slice/" + "x" * 247 + ".service\n", "x" * 247 + ".service"),
        ("0::/system.slice/" + "x" * 248 + ".service\n", None),
        ("0::/system.slice/cöbot.service\n", None),
        ("0:://cobot.service\n", None),
        # hierarchies
        ("9:name=systemd:/system.slice/cobot.service\n", "cobot.service"),
        ("9:name=other:/system.slice/cobot.service\n", None),
        ("4:memory:/system.slice/cobot.service\n0::/\n", None),
        (HYBRID.format("/system.slice/cobot.service", "/system.slice/cobot.service"), "cobot.service"),
        (HYBRID.format("/system.slice/cobot.service", "/"), "cobot.service"),
        (HYBRID.format("/", "/system.slice/cobot.service"), "cobot.service"),
        (HYBRID.format("/system.slice/cobot.service", "/system.slice/other.service"), None),
        (HYBRID.format("/system.slice/cobot.service", "/user.slice/x.scope"), None),
        (HYBRID.format("/", "/"), None),
        # not a text of the kernel's
        ("", None),
        ("0::/system.slice/cobot.service", None),
        ("0::/system.slice/cobot.service\n0", None),
        ("0::system.slice/cobot.service\n", None),
        ("nonsense\n0::/system.slice/cobot.service\n", None),
        ("\n0::/system.slice/cobot.service\n", None),
    ],
)
def test_the_unit_that_a_cgroup_text_names(text: str, unit: str | None) -> None:
    assert system_unit(text) == unit


NAME = st.text(alphabet=string.ascii_letters + string.digits + "-@", min_size=1, max_size=20)
SUFFIX = st.sampled_from([".service", ".scope", ".socket", ".mount", ".swap"])
SLICES = (
    st.lists(NAME.map(lambda name: f"/{name}.slice"), max_size=4)
    .map("".join)
    .filter(lambda path: "/user.slice" not in path)
)
BELOW = st.lists(st.text(alphabet=st.characters(exclude_characters="/\n\0"), min_size=1), max_size=4).map(
    lambda names: "".join(f"/{name}" for name in names)
)


@given(slices=SLICES, name=NAME, suffix=SUFFIX, below=BELOW)
def test_nothing_below_a_unit_changes_it(slices: str, name: str, suffix: str, below: str) -> None:
    assert system_unit(f"0::{slices}/{name}{suffix}{below}\n") == name + suffix


@given(above=SLICES, slices=SLICES, name=NAME, suffix=SUFFIX, below=BELOW)
def test_user_slice_on_the_way_means_no_unit(
    above: str, slices: str, name: str, suffix: str, below: str
) -> None:
    assert system_unit(f"0::{above}/user.slice{slices}/{name}{suffix}{below}\n") is None


@given(first=NAME, slices=SLICES, name=NAME, suffix=SUFFIX)
def test_a_group_that_is_not_systemds_makes_all_below_it_nobodys(
    first: str, slices: str, name: str, suffix: str
) -> None:
    assert system_unit(f"0::/{first}{slices}/{name}{suffix}\n") is None


@given(text=st.one_of(st.text(), st.text(alphabet="0:/\nname=systemd.service.slice user")))
def test_any_text_gives_a_well_formed_unit_of_that_text_or_none(text: str) -> None:
    unit = system_unit(text)
    assert unit is None or (unit in text and "/" not in unit and "." in unit and unit.isascii())
