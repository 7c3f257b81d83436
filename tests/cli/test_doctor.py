"""What `avault doctor` finds: in trees of files that look like a machine's, and of a daemon that runs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from avault_client.cli.commands import find
from avault_client.cli.commands.doctor import findings, lines
from avault_client.cli.doctor import machine, places, process, relays, service
from avault_client.cli.doctor.finding import Finding, fail, ok, warn
from avault_client.cli.service.manager import UNITS
from avault_client.cli.session import Session
from avault_protocol import DaemonUnavailableError, InternalError
from support.daemon import BIN, RunningDaemon, running_daemon
from support.house import PASSPHRASE
from support.operator import Operator
from support.services import system_service

DAEMON_UID = 1001
STATUS = """Name:\tavaultd
TracerPid:\t0
Uid:\t1001\t1001\t1001\t1001
VmLck:\t    4096 kB
NoNewPrivs:\t1
Seccomp:\t2
"""
LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max core file size        0                    0                    bytes
Max open files            20000                20000                files
Max locked memory         8388608              unlimited            bytes
"""
TOLD: dict[str, Any] = {
    "pid": 7,
    "state": "unlocked",
    "confined": "landlock 7, seccomp",
    "memory": {"kind": "memfd_secret", "mapped": True, "budget": 4 << 20, "in_use": 64},
}
PHONE: dict[str, Any] = {"network": True, "proxy": None, "slots": 1, "relays": []}


def tree(root: Path, **files: str) -> Path:
    """Write *files* below *root*: "__" in a name stands for "/"."""
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def proc(root: Path, status: str = STATUS, limits: str = LIMITS, uid_map: str = "0 0 4294967295") -> Path:
    return tree(
        root,
        proc__7__status=status,
        proc__7__limits=limits,
        proc__7__uid_map=uid_map,
        proc__7__environ="",
        proc__self__uid_map="  0   0 4294967295\n",
    )


def levels(found: Iterable[Finding]) -> dict[str, str]:
    return {finding.what: finding.level for finding in found}


# --- the daemon's process ---------------------------------------------------------------------------------------------


def test_a_process_as_it_should_be_is_ok(tmp_path: Path) -> None:
    assert set(levels(process.findings(TOLD, proc(tmp_path))).values()) == {"ok"}


@pytest.mark.parametrize(
    ("old", "new", "what", "level"),
    [
        ("Seccomp:\t2", "Seccomp:\t0", "confinement", "fail"),
        ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "confinement", "fail"),
        ("TracerPid:\t0", "TracerPid:\t99", "seclusion", "fail"),
        ("4096 kB", "0 kB", "memory", "fail"),
    ],
)
def test_what_the_kernel_says_otherwise_fails(
    tmp_path: Path, old: str, new: str, what: str, level: str
) -> None:
    found = levels(process.findings(TOLD, proc(tmp_path, status=STATUS.replace(old, new))))
    assert found.pop(what) == level
    assert set(found.values()) == {"ok"}


@pytest.mark.parametrize(
    ("old", "new", "what", "level"),
    [
        ("8388608 ", "4194304 ", "memory limit", "ok"),
        ("8388608 ", "4194303 ", "memory limit", "fail"),
        ("8388608 ", "unlimited ", "memory limit", "ok"),
        ("20000  ", "1025  ", "descriptors", "ok"),
        ("20000  ", "1024  ", "descriptors", "warn"),
        ("20000  ", "unlimited  ", "descriptors", "ok"),
        ("size        0", "size        1", "core dumps", "fail"),
        ("size        0", "size        unlimited", "core dumps", "fail"),
    ],
)
def test_limits_count_on_both_sides(tmp_path: Path, old: str, new: str, what: str, level: str) -> None:
    found = levels(process.findings(TOLD, proc(tmp_path, limits=LIMITS.replace(old, new))))
    assert found.pop(what) == level
    assert set(found.values()) == {"ok"}


def test_root_may_lock_all_the_memory_it_wants(tmp_path: Path) -> None:
    limits = LIMITS.replace("8388608 ", "1 ")
    as_root = STATUS.replace("1001", "0")
    assert levels(process.findings(TOLD, proc(tmp_path, as_root, limits)))["memory limit"] == "ok"


@pytest.mark.parametrize(
    ("told", "what", "level"),
    [
        ({"confined": "seccomp only"}, "confinement", "warn"),
        ({"memory": {"kind": "mlock", "budget": 4 << 20}}, "memory", "warn"),
    ],
)
def test_what_protects_less_is_a_warning(tmp_path: Path, told: dict[str, Any], what: str, level: str) -> None:
    found = levels(process.findings({**TOLD, **told}, proc(tmp_path)))
    assert found.pop(what) == level
    assert set(found.values()) == {"ok"}


def test_a_locked_vault_holds_no_memory_and_that_is_fine(tmp_path: Path) -> None:
    nothing = STATUS.replace("4096 kB", "0 kB")
    assert levels(process.findings({**TOLD, "state": "locked"}, proc(tmp_path, nothing)))["memory"] == "ok"


def test_a_user_namespace_fails(tmp_path: Path) -> None:
    root = proc(tmp_path, uid_map="1001 1001 1")
    assert levels(process.findings(TOLD, root))["namespace"] == "fail"


def test_a_process_that_is_out_of_sight_is_said_to_be(tmp_path: Path) -> None:
    assert levels(process.findings(TOLD, tmp_path)) == {"process": "warn"}


def test_whose_the_files_are_tells_whether_it_is_dumpable(tmp_path: Path) -> None:
    folder = proc(tmp_path) / "proc/7"
    status = process.fields(folder / "status")
    mine = (folder / "environ").stat().st_uid
    assert process.seclusion(folder, mine, status, euid=mine + 1).level == "fail"
    assert process.seclusion(folder, mine + 5, status, euid=mine + 1).level == "ok"


DUMPABLE = (
    "import ctypes, os; {become}; ctypes.CDLL(None).prctl(4, {dumpable}, 0, 0, 0); print(flush=True); input()"
)
LOOK = """
import os, sys; sys.path[:] = {path!r}
from pathlib import Path; from avault_client.cli.doctor import process
{become}
folder = Path('/proc/{pid}')
print(process.seclusion(folder, os.geteuid(), process.fields(folder / 'status')).level)
"""


@pytest.mark.parametrize(("dumpable", "level"), [(0, "ok"), (1, "fail")])
def test_a_process_of_ones_own_is_tried_to_be_opened(dumpable: int, level: str) -> None:
    become = "os.setuid(64002)" if os.geteuid() == 0 else ""  # root may open everything
    code = DUMPABLE.format(become=become, dumpable=dumpable)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as there:
        assert there.stdout is not None
        there.stdout.readline()
        look = LOOK.format(path=sys.path, become=become, pid=there.pid)
        found = subprocess.run([sys.executable, "-c", look], check=True, capture_output=True, text=True)
        there.communicate(b"\n")
    assert found.stdout == f"{level}\n"


# --- the machine ------------------------------------------------------------------------------------------------------

SWAPS = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"


def test_this_kernels_clock_can_be_asked() -> None:
    assert machine.clock().what == "clock"
    assert machine.clock_status() >= 0


@pytest.mark.parametrize(("bits", "level"), [(0x2001, "ok"), (0x40, "warn"), (0x2041, "warn")])
def test_a_clock_that_nothing_keeps_is_named(bits: int, level: str) -> None:
    assert machine.clock(lambda: bits).level == level


def test_a_clock_that_cannot_be_asked_is_named() -> None:
    def refused() -> int:
        raise PermissionError(1, "Operation not permitted")

    assert machine.clock(refused) == warn("clock", "not to be asked: operation not permitted")


@pytest.mark.parametrize(
    ("swaps", "level"),
    [
        ("", "ok"),
        ("/dev/zram0 partition 1 0 -2\n", "ok"),
        ("/dev/dm-1 partition 1 0 -2\n", "ok"),
        ("/dev/dm-2 partition 1 0 -2\n", "warn"),
        ("/dev/zram0 partition 1 0 -2\n/dev/sda2 partition 1 0 -2\n", "warn"),
        ("/swapfile file 1 0 -2\n", "warn"),
    ],
)
def test_swap_that_holds_plain_text_is_named(tmp_path: Path, swaps: str, level: str) -> None:
    tree(tmp_path, proc__swaps=SWAPS + swaps)
    for name, uuid in (("dm-1", "CRYPT-PLAIN-swap\n"), ("dm-2", "LVM-x\n")):
        (tmp_path / "sys/block" / name / "dm").mkdir(parents=True)
        (tmp_path / "sys/block" / name / "dm/uuid").write_text(uuid)
    assert machine.swap(tmp_path).level == level


@pytest.mark.parametrize(
    ("state", "disk", "level"),
    [
        ("freeze mem\n", "", "ok"),
        ("freeze mem disk\n", "[disabled]\n", "ok"),
        ("freeze mem disk\n", "[platform] shutdown reboot\n", "warn"),
    ],
)
def test_hibernation_is_named_where_it_can_happen(tmp_path: Path, state: str, disk: str, level: str) -> None:
    assert machine.hibernation(tree(tmp_path, sys__power__state=state, sys__power__disk=disk)).level == level


@pytest.mark.parametrize(("dumpable", "level"), [("0\n", "ok"), ("2\n", "ok"), ("1\n", "fail")])
def test_a_kernel_that_dumps_everything_fails(tmp_path: Path, dumpable: str, level: str) -> None:
    root = tree(tmp_path, proc__sys__kernel__core_pattern="|/x %p", proc__sys__fs__suid_dumpable=dumpable)
    assert machine.cores(root).level == level


@pytest.mark.parametrize(("scope", "level"), [("0\n", "warn"), ("1\n", "ok"), ("3\n", "ok"), (None, "warn")])
def test_who_may_trace_whom_is_named(tmp_path: Path, scope: str | None, level: str) -> None:
    files = {} if scope is None else {"proc__sys__kernel__yama__ptrace_scope": scope}
    assert machine.tracing(tree(tmp_path, **files)).level == level


# --- places -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "level"), [(0o600, "ok"), (0o400, "warn"), (0o640, "fail"), (0o602, "fail")]
)
def test_a_mode_is_right_or_too_wide_or_too_narrow(tmp_path: Path, mode: int, level: str) -> None:
    path = tmp_path / "x"
    path.touch()
    path.chmod(mode)
    assert places.place("x", path, 0o600, path.stat().st_uid).level == level


def test_a_place_of_somebody_else_fails(tmp_path: Path) -> None:
    if os.geteuid() == 0:  # what is root's may be anyone's
        os.chown(tmp_path, 64003, -1)
    assert places.place("x", tmp_path, 0o700, DAEMON_UID).level == "fail"
    assert places.private("x", tmp_path, DAEMON_UID).level == "fail"
    assert places.place("x", tmp_path / "none", 0o700, DAEMON_UID).level == "fail"


@pytest.mark.parametrize(("mode", "level"), [(0o600, "ok"), (0o604, "fail"), (0o610, "fail")])
def test_the_vaults_file_is_its_owners_alone(tmp_path: Path, mode: int, level: str) -> None:
    path = tmp_path / "vault.jsonl"
    assert places.private("x", path, 1).level == "ok"
    path.touch()
    path.chmod(mode)
    assert places.private("x", path, path.stat().st_uid).level == level


# --- relays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phone", "level"),
    [
        ({"network": False, "slots": 0}, "ok"),
        ({"network": False, "slots": 1}, "warn"),
        ({"relays": []}, "ok"),
    ],
)
def test_where_nothing_may_be_reached_nothing_is_tried(phone: dict[str, Any], level: str) -> None:
    assert [one.level for one in relays.findings({**PHONE, "relays": ["wss://x.invalid"], **phone})] == [
        level
    ]


def test_a_relay_is_tried_and_behind_a_proxy_the_proxy_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as there, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        good, bad = (f"127.0.0.1:{one.getsockname()[1]}" for one in (there, nobody))
        direct = relays.findings({**PHONE, "relays": [f"ws://{good}", f"ws://{bad}/path"]})
        assert [one.level for one in direct] == ["ok", "warn"]
        for proxy, level in ((good, "ok"), (bad, "warn")):
            phone = {**PHONE, "proxy": proxy, "relays": ["wss://must-not-be-looked-up.invalid"]}
            [found] = relays.findings(phone)
            assert (found.level, proxy in found.detail) == (level, True)


def test_a_relay_that_speaks_no_tls_is_not_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        phone = {**PHONE, "relays": [f"wss://127.0.0.1:{there.getsockname()[1]}"]}
        assert [one.level for one in relays.findings(phone, timeout=0.2)] == ["warn"]


def test_a_relays_port_is_that_of_its_scheme() -> None:
    assert relays.address("wss://a.example/x") == ("a.example", 443)
    assert relays.address("ws://[::1]") == ("::1", 80)
    assert relays.address("wss://a.example:7777") == ("a.example", 7777)


# --- units ------------------------------------------------------------------------------------------------------------


def enabled(*units: str) -> Callable[[str, str], bool]:
    return lambda unit, service: unit in units


LISTENING = enabled(*UNITS["user"], *UNITS["system"])


def machine_with_systemd(root: Path, cgroup: str = "") -> Path:
    (root / "run/systemd/system").mkdir(parents=True)
    return tree(root, proc__7__cgroup=cgroup)


def test_without_systemd_that_is_said(tmp_path: Path) -> None:
    assert levels(service.findings("user", 7, tmp_path)) == {"service": "warn"}


def test_units_that_are_not_enabled_are_named(tmp_path: Path) -> None:
    root = machine_with_systemd(tmp_path)
    found = list(service.findings("user", 7, root, enabled("avault.service", "avault-agent.socket")))
    missing = "not enabled: avault-operator.socket, avault-credentials.socket"
    assert found[0] == warn("service", missing, "run: avault install-service --user")
    assert [one.what for one in found] == ["service", "linger"]


@pytest.mark.parametrize(
    ("cgroup", "level"),
    [
        ("0::/user.slice/user-1.slice/user@1.service/app.slice/avault.service\n", "ok"),
        ("0::/user.slice/user-1.slice/session-2.scope\n", "warn"),
        ("0::/user.slice/my-avault.service\n", "warn"),
    ],
)
def test_a_daemon_that_was_started_by_hand_is_named(tmp_path: Path, cgroup: str, level: str) -> None:
    root = machine_with_systemd(tmp_path, cgroup)
    found = levels(service.findings("user", 7, root, enabled(*UNITS["user"]), LISTENING))
    assert (found["service"], found["started by"]) == ("ok", level)
    found = levels(service.findings("user", None, root, enabled(*UNITS["user"]), LISTENING))
    assert "started by" not in found


def test_sockets_that_do_not_listen_are_named(tmp_path: Path) -> None:
    root = machine_with_systemd(tmp_path)
    there = enabled("avault-agent.socket", "avault-credentials.socket")
    found = list(service.findings("user", None, root, enabled(*UNITS["user"]), there))
    assert found[0] == fail(
        "service",
        "not listening: avault-operator.socket",
        "systemctl --user status avault.service may say why; "
        "then run: systemctl --user stop avault.service; avault install-service --user",
    )


def test_the_system_service_needs_no_linger(tmp_path: Path) -> None:
    root = machine_with_systemd(tmp_path)
    assert levels(service.findings("system", None, root, LISTENING, LISTENING)) == {"service": "ok"}


def test_linger_is_looked_for(tmp_path: Path) -> None:
    assert service.linger("lena", tmp_path).level == "warn"
    tree(tmp_path, var__lib__systemd__linger__lena="")
    assert service.linger("lena", tmp_path).level == "ok"


# --- all together -----------------------------------------------------------------------------------------------------


def test_lines_say_the_level_first_and_the_mend_below() -> None:
    shown = list(lines([ok("clock", "fine"), fail("memory", "a\x1bb", "run: x")]))
    assert shown == [
        "ok    clock               fine",
        "fail  memory              a\\x1bb",
        "                          run: x",
    ]


def test_without_a_daemon_the_machine_is_looked_at_all_the_same() -> None:
    found = list(findings(Session(Operator(status=DaemonUnavailableError("nobody")).connect)))
    assert found[0] == fail("daemon", "nobody", "start it: avault install-service, or avaultd")
    assert {"clock", "swap", "hibernation", "core pattern", "ptrace"} <= levels(found).keys()


def test_a_daemon_that_answers_an_error_fails() -> None:
    found = list(findings(Session(Operator(status=InternalError("it broke")).connect)))
    assert found[0].level == "fail"
    assert "it broke" in found[0].detail


def doctor(daemon: RunningDaemon) -> tuple[int, dict[str, tuple[str, str]]]:
    done = daemon.avault("doctor", "--json")
    assert done.stderr == b""
    found = json.loads(done.stdout)["findings"]
    return done.returncode, {one["what"]: (one["level"], one["detail"]) for one in found}


def test_of_a_daemon_that_runs_nothing_fails_until_something_is_broken(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as daemon:
        status, found = doctor(daemon)
        assert (status, found["vault"]) == (0, ("warn", "there is none yet"))
        daemon.avault("init", passphrase=PASSPHRASE)
        status, found = doctor(daemon)
        assert status == 0, found
        assert [found[what][0] for what in ("daemon", "vault", "confinement", "namespace", "memory")] == [
            "ok"
        ] * 5
        assert "locked now" in found["memory"][1]
        assert daemon.avault("doctor").stdout.count(b"\n") >= len(found)
        (daemon.runtime_dir / "operator.sock").chmod(0o666)
        (daemon.home / "vault.jsonl").chmod(0o644)
        status, found = doctor(daemon)
        assert status == 1
        broken = {what for what, (level, _) in found.items() if level == "fail"}
        assert broken == {"operator socket", "vault file"}
    status, found = doctor(daemon)
    assert (status, found["daemon"][0]) == (1, "fail")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs several uids")
def test_of_a_system_service_root_finds_that_it_is_secluded() -> None:
    with system_service() as there:
        status, found = doctor(there.daemon)
        assert found["seclusion"] == ("ok", "not dumpable: its files in /proc are root's")
        assert found["operators"][0] == "warn"  # machines that run tests have no such group
        assert status == 0, found


def test_the_help_says_what_the_statuses_mean() -> None:
    command, _ = find(["doctor"])
    assert "exit status is 1" in command.help()
    assert BIN.joinpath("avault").exists()
