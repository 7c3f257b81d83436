from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import attacks

OPERATIONS = Path(attacks.__file__).with_name("operations.py")
REFUSED = (errno.EPERM, errno.EACCES)
PTRACE_SEIZE = 0x4206

needs_tracing = pytest.mark.skipif(
    os.geteuid() != 0 and Path("/proc/sys/kernel/yama/ptrace_scope").exists(),
    reason="Yama keeps processes of one uid apart, so that the positive control cannot succeed",
)


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


@contextmanager
def victim(statement: str) -> Generator[subprocess.Popen[str]]:
    """A process of another uid that was open to its equals, has run *statement*, and answers each line with it."""
    code = f"""
import ctypes, os, sys
from avault_daemon import confine
if os.geteuid() == 0:
    os.setgroups([]); os.setgid({attacks.SPARE_UID}); os.setuid({attacks.SPARE_UID})
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
{statement}
print("ready", flush=True)
for line in sys.stdin:
    print(eval(line), flush=True)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert ask(process, None) == "ready"
            yield process
        finally:
            process.kill()


def ask(process: subprocess.Popen[str], question: str | None) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    if question is not None:
        process.stdin.write(question + "\n")
        process.stdin.flush()
    return process.stdout.readline().strip()


@needs_tracing
def test_an_open_process_is_taken_by_all_seven_attacks() -> None:
    """The positive control: without it, the next test would prove nothing."""
    with victim("pass") as process:
        assert attacks.attack(process.pid, uid_of_victim()) == [way.__name__ for way in attacks.ATTACKS]
    assert len(attacks.ATTACKS) == 7


@needs_tracing
def test_after_first_no_attack_of_the_same_uid_gets_in() -> None:
    with victim("confine.first()") as process:
        assert attacks.attack(process.pid, uid_of_victim()) == []


def uid_of_victim() -> int:
    return attacks.SPARE_UID if os.geteuid() == 0 else os.geteuid()


def test_first_leaves_no_core_dump() -> None:
    with victim("confine.first(); import resource") as process:
        assert ask(process, "resource.getrlimit(resource.RLIMIT_CORE)") == "(0, 0)"


def test_first_comes_with_next_to_no_imports() -> None:
    """It closes a window that is open since execve: whatever is imported before it keeps it open for longer."""
    done = run_python(
        "import sys; before = set(sys.modules); from avault_daemon import confine; print(*set(sys.modules) - before)"
    )
    allowed = {
        "avault_daemon",
        "avault_daemon.confine",
        "ctypes",
        "_ctypes",
        "ctypes._endian",
        "struct",
        "_struct",
    }
    assert set(done.stdout.split()) - {"__future__", "resource", "types"} <= allowed, done.stderr


@needs_tracing
def test_a_debugger_is_seen_though_it_came_before_first() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with victim("pass") as process:
        assert ask(process, "confine.traced()") == "False"
        assert libc.ptrace(PTRACE_SEIZE, process.pid, None, None) == 0
        assert ask(process, "confine.traced()") == "True"
        assert ask(process, "confine.first() or confine.traced()") == "True"


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``operations.py`` reports: each forbidden operation before and after confinement, each needed one after."""
    home, outside = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("outside")
    (outside / "secret").write_text("secret")
    (outside / "victim").touch()
    name = f"avault-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as bus:
        listener.bind("\0" + name)
        listener.listen()
        bus.bind(str(outside / "bus"))
        bus.listen()
        command = [sys.executable, "-P", str(OPERATIONS), str(home), str(outside), name]
        done = subprocess.run(
            command, check=False, stdin=subprocess.PIPE, capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


# What a kernel without Landlock, or with an old version of it, does not forbid; 1 if not named.
SINCE_ABI = {
    "truncate a file outside": 3,
    "see what program another process runs": 1,
    "signal another process": 6,
    "connect to an abstract socket": 6,
}
BY_LANDLOCK = ("outside", "home", "/etc", "device")


def test_what_is_forbidden_is_refused_after_and_was_not_before(outcome: dict[str, Any]) -> None:
    tried = 0
    for name, after in outcome["after"].items():
        by_landlock = name in SINCE_ABI or name.endswith(BY_LANDLOCK)
        if by_landlock and outcome["abi"] < SINCE_ABI.get(name, 1):
            continue
        before = outcome["before"][name]
        assert after in ((errno.ENOSYS,) if name == "clone3" else REFUSED), (name, after)
        # A process without privileges was refused some things all along: they show nothing, so they do not count.
        if os.geteuid() == 0:
            assert before not in (*REFUSED, after), (name, before)
        tried += before not in (*REFUSED, after)
    assert tried >= 25


def test_what_the_daemon_needs_goes_on_working(outcome: dict[str, Any]) -> None:
    assert {name: error for name, error in outcome["needed"].items() if error} == {}


def test_it_says_what_is_in_force(outcome: dict[str, Any]) -> None:
    abi = outcome["abi"]
    assert outcome["force"] == (f"landlock {abi}, seccomp" if abi else "seccomp only")


CONFINE = """
import ctypes, errno, sys
from avault_daemon import confine; from avault_daemon.confine import seccomp
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
# A kernel without Landlock, or one where an outer filter forbids it, as this one answers to call 444.
seccomp.install([
    (seccomp.LOAD, 0, 0, seccomp.NUMBER),
    (seccomp.JUMP_EQUAL, 0, 1, 444),
    (seccomp.RETURN, 0, 0, 0x00050000 | int(sys.argv[1])),
    (seccomp.RETURN, 0, 0, seccomp.ALLOW),
])
print(confine.confine([], []))
"""


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_kernel_without_landlock_is_reported(number: int) -> None:
    assert run_python(CONFINE, str(number)).stdout == "seccomp only\n"


def test_a_kernel_that_has_landlock_and_refuses_it_is_an_error() -> None:
    done = run_python(CONFINE, str(errno.EPERM))
    assert "InternalError: the daemon could not confine itself: landlock_create_ruleset" in done.stderr


def test_a_filter_that_the_kernel_refuses_is_an_error() -> None:
    unprivileged = "import ctypes; ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)"  # PR_SET_NO_NEW_PRIVS: or EACCES
    done = run_python(
        f"{unprivileged}; from avault_daemon.confine import seccomp; seccomp.install([(0xFFFF, 0, 0, 0)])"
    )
    assert "seccomp: Invalid argument" in done.stderr


def test_a_missing_directory_of_its_own_is_an_error_and_one_to_read_is_not(tmp_path: Path) -> None:
    code = "import sys; from avault_daemon import confine; print(confine.confine(eval(sys.argv[1]), eval(sys.argv[2])))"
    missing = str([str(tmp_path / "missing")])
    assert "seccomp" in run_python(code, "[]", missing).stdout
    assert f"could not confine itself: {tmp_path}/missing: " in run_python(code, missing, "[]").stderr


def test_it_refuses_to_come_after_a_thread() -> None:
    code = """
import threading
from avault_daemon import confine
stop = threading.Event()
threading.Thread(target=stop.wait).start()
try:
    confine.confine([], [])
except Exception as error:
    print(type(error).__name__, error)
stop.set()
"""
    assert run_python(code).stdout == "InternalError a thread runs already, and would stay free\n"


def test_with_network_it_may_connect_and_not_listen() -> None:
    code = """
import socket, sys
from avault_daemon import confine
listener = socket.create_server(("127.0.0.1", 0))
confine.confine([], [], network=True)
socket.create_connection(listener.getsockname()).close()
try:
    socket.create_server(("127.0.0.1", 0))
except PermissionError:
    print("refused")
try:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
except PermissionError:
    print("refused")
"""
    done = run_python(code)
    assert done.stdout == "refused\nrefused\n", done.stderr


@pytest.mark.parametrize("network", [True, False])
def test_it_knows_whether_there_is_a_network_for_it(network: bool) -> None:
    code = f"""
from avault_daemon import confine
before = confine.networked()
confine.confine([], [], network={network})
print(before, confine.networked())
"""
    done = run_python(code)
    assert done.stdout == f"True {network}\n", done.stderr


def test_with_network_names_are_resolved_and_the_certificates_of_the_machine_read() -> None:
    code = """
import socket, ssl
from avault_daemon import confine
confine.confine([], [], network=True)
socket.getaddrinfo("localhost", 443)
try:
    socket.getaddrinfo("no-such-host.invalid", 443)
except socket.gaierror:
    print("asked")
print("a-b.example".encode("idna").decode(), ssl.create_default_context().verify_mode.name)
"""
    done = run_python(code)
    assert done.stdout == "asked\na-b.example CERT_REQUIRED\n", done.stderr


def test_where_it_was_started_is_not_readable(tmp_path: Path) -> None:
    """``python -m`` puts the current directory first on sys.path: that may be somebody's home."""
    (tmp_path / "env").write_text("TOKEN=x")
    code = "from avault_daemon import confine; confine.confine([], []); open('env')"
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert "PermissionError" in done.stderr


INT80 = """
import ctypes, mmap, sys
from avault_daemon import confine
confined = sys.argv[1] == "confined" and confine.confine([], [])
page = mmap.mmap(-1, 4096, prot=7)
page.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid of i386); int 0x80; ret
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))())
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="an instruction of x86_64")
def test_calls_by_the_numbers_of_another_architecture_are_refused() -> None:
    free = run_python(INT80, "free")
    if free.returncode < 0:
        pytest.skip("this kernel does not run calls of i386 at all")
    assert int(free.stdout) > 0
    assert run_python(INT80, "confined").stdout == f"{-errno.EPERM}\n"
