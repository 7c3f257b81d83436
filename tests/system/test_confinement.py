"""What the running service cannot do, and what cannot be done to it: under both units, as they are shipped."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import attacks
from support.directives import TRIED
from support.host import PYTHON, ROOT, SUPPORT
from support.memory import at_exit, keys_of, scan
from support.needles import token
from support.services import PASSPHRASE
from support.units import Installed, texts
from support.waiting import until

# EXDEV: what the unit lets be written is a mount of its own.
REFUSED = (errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOSYS, errno.EXDEV)
ALL_WAYS = [way.__name__ for way in attacks.ATTACKS]
# What stays off has its price in the score; docs/adr/0014 says which and why.
EXPOSURE = {"user": 5.9, "system": 0.5}
NEVER = {
    "user": {
        "PrivateUsers", "PrivateTmp", "PrivateDevices", "PrivateNetwork", "PrivateIPC", "PrivateMounts",
        "ProtectProc", "ProcSubset", "ProtectSystem", "ProtectHome", "ProtectHostname", "ProtectClock",
        "ProtectControlGroups", "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs",
        "ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "TemporaryFileSystem", "BindPaths",
        "CapabilityBoundingSet", "IPAddressDeny", "DeviceAllow", "DevicePolicy", "RootDirectory",
    },
    "system": {"PrivateUsers", "ProtectProc", "ProcSubset", "DynamicUser"},
}  # fmt: skip


def like_it(service: Installed, *command: str) -> str:
    """Return what *command* prints, run inside by the service's user and group, under no unit."""
    who = service.user or "avault"
    group = service.host.run("id", "--group", who).stdout.strip()
    identity = ["setpriv", f"--reuid={who}", f"--regid={group}", "--clear-groups"]
    return service.host.run(*identity, PYTHON, "-P", *command).stdout


def attacked(service: Installed) -> list[str]:
    """Return by which ways its equals get into the service."""
    names: list[str] = json.loads(like_it(service, f"{SUPPORT}/attacks.py", str(service.pid), "0"))
    return names


def test_no_attack_of_the_same_uid_gets_in(service: Installed) -> None:
    service.make_vault(TOKEN="value")
    assert attacked(service) == []
    assert os.readlink(f"/proc/{service.outside}/ns/user") == os.readlink("/proc/self/ns/user")


def test_a_service_that_does_not_protect_itself_is_taken_by_all(service: Installed) -> None:
    """The control: the same unit, with another program in it."""
    service.drop_in("[Service]\nType=exec\nWatchdogSec=0\nExecStart=\nExecStart=/usr/bin/sleep infinity\n")
    service.systemctl("start", service.name)
    assert attacked(service) == ALL_WAYS


@contextmanager
def battlefield(service: Installed) -> Generator[tuple[str, str]]:
    """Make a folder of the service's user with what `operations` wants to find there; its path, and a name."""
    where = "/home" if service.user else "/var/lib"
    folder, name = f"{where}/outside-{service.desk_user}", f"avault-test-{service.desk_user}"
    service.host.run("install", "-d", "-o", str(service.uid), folder)
    for file in ("secret", "victim"):
        service.host.write(f"{folder}/{file}", "secret")
        service.host.run("chown", str(service.uid), f"{folder}/{file}")
    listen = (
        "import socket, sys, time\n"
        "one, two = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)\n"
        "one.bind(sys.argv[1] + '/bus'); one.listen(); two.bind(chr(0) + sys.argv[2]); two.listen()\n"
        "print('ready', flush=True); time.sleep(600)\n"
    )
    command = service.host.command(PYTHON, "-c", listen, folder, name)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == b"ready\n"
        service.host.run("chmod", "666", f"{folder}/bus")
        try:
            yield folder, name
        finally:
            os.kill(child_of(listener.pid), signal.SIGKILL)


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def tried(service: Installed, home: str, folder: str, name: str) -> dict[str, Any]:
    """Have `operations` tried in place of avaultd, under the unit's own directives; return its report."""
    report = f"/run/report-{service.desk_user}"
    service.host.write(report, "")
    service.host.run("chown", str(service.uid), report)
    program = f"{PYTHON} -P {SUPPORT}/operations.py {home} {folder} {name}"
    service.drop_in(
        "[Service]\nType=oneshot\nWatchdogSec=0\nRestart=no\n"
        f"ExecStart=\nExecStart={program}\nStandardOutput=truncate:{report}\n"
    )
    service.systemctl("stop", *service.sockets(), service.name)
    service.systemctl("start", service.name, check=False)
    assert service.show("Result") == "success", service.host.path(report).read_text()
    result: dict[str, Any] = json.loads(service.host.path(report).read_text())
    return result


def test_nothing_forbidden_succeeds_from_inside_the_unit(service: Installed) -> None:
    home = f"/home/{service.user}/.local/share/avault" if service.user else "/var/lib/avault/vault"
    service.answers()  # which makes the directories
    with battlefield(service) as (folder, name):
        inside = tried(service, home, folder, name)
        free = json.loads(like_it(service, f"{SUPPORT}/operations.py", home, folder, name))
    assert {what for what, number in inside["after"].items() if number not in REFUSED} == set()
    assert {what: error for what, error in inside["needed"].items() if error} == {}
    # What a user without privileges cannot do anyway shows nothing.
    shown = {what for what, number in free["before"].items() if number not in REFUSED}
    assert len(shown) >= 25, sorted(shown)
    # The unit by itself holds, too, where avaultd's own confinement would not.
    by_unit = {what for what in shown if inside["before"][what] in (*REFUSED, errno.EAFNOSUPPORT)}
    assert {"bpf", "reboot", "an IPv4 socket", "a netlink socket", "personality"} & shown <= by_unit


def test_the_manager_has_no_complaint_about_the_units(service: Installed) -> None:
    whose = ["--user"] if service.user else []
    path = service.show("FragmentPath")
    done = service.host.run("systemd-analyze", *whose, "verify", path, user=service.user, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_its_exposure_is_no_more_than_it_has_to_be(service: Installed) -> None:
    service.answers()
    whose = ["--user"] if service.user else []
    said = service.host.run(
        "systemd-analyze", *whose, "security", "--no-pager", service.name, user=service.user
    )
    found = re.search(r"exposure level for \S+: (\S+)", said.stdout)
    assert found is not None
    assert float(found[1]) <= EXPOSURE["user" if service.user else "system"]


@pytest.mark.parametrize("kind", ["user", "system"])
def test_what_would_do_harm_is_not_set_and_is_said_to_be_so(kind: str) -> None:
    [unit] = [text for name, text in texts(kind).items() if name.endswith(".service")]
    directives = set(re.findall(r"^(\w+)=", unit, re.MULTILINE))
    assert directives & NEVER[kind] == set()
    comments = "".join(line for line in unit.splitlines() if line.startswith("#"))
    assert {name for name in NEVER[kind] if f"{name}=" not in comments} == set()


def test_the_network_is_let_in_by_the_drop_in_that_the_readme_shows(service: Installed) -> None:
    readme = (ROOT / "README.md").read_text()
    [drop_in] = re.findall(r"```ini\n(\[Service\]\nRestrict.*?)```", readme, re.DOTALL)
    service.drop_in(drop_in + ("" if service.user else "PrivateNetwork=no\nIPAddressDeny=\n"))
    service.configure("log_n = 16\nnetwork = true\n")
    service.answers()
    assert set(service.show("RestrictAddressFamilies").split()) == {"AF_UNIX", "AF_INET", "AF_INET6"}
    assert service.show("PrivateNetwork") == "no"
    assert service.show("IPAddressDeny") == ""
    status = service.must("status")
    assert (status["phone"]["network"], status["warnings"]) == (True, [])


def test_a_network_that_the_unit_withholds_is_told(service: Installed) -> None:
    service.configure("log_n = 16\nnetwork = true\n")
    service.answers()
    [warning] = service.must("status")["warnings"]
    assert warning.startswith("network = true, but what runs avaultd allows it none")


def directives() -> list[tuple[str, list[str]]]:
    """Return the user unit's hardening, name and lines."""
    unit = texts("user")["avault.service"]
    lines = re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE)
    return [(name, [f"{name}={value}" for key, value in lines if key == name]) for name in TRIED]


@pytest.mark.parametrize(
    ("name", "lines"), directives(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_each_directive_of_the_user_unit_has_an_effect(
    name: str, lines: list[str], user_service: Installed
) -> None:
    assert lines
    if name == "SystemCallArchitectures" and platform.machine() != "x86_64":
        pytest.skip("an instruction of x86_64")

    def run(*properties: str) -> str:
        options = [f"--property={one}" for one in properties]
        command = ["systemd-run", "--user", "--quiet", "--wait", "--pipe", *options]
        program = [PYTHON, "-P", f"{SUPPORT}/directives.py", name]
        done = user_service.host.run(*command, *program, user=user_service.user, check=False)
        return done.stdout.strip() or f"status {done.returncode}"

    extra = ["SystemCallErrorNumber=EPERM"] if name == "SystemCallFilter" else []
    free, bound = run(), run(*lines, *extra)
    if name == "KeyringMode":  # a new one each time, instead of the one that all have
        assert (free, bound) == (run(), bound)
        assert len({free, bound, run(*lines)}) == 3
    elif name == "SystemCallArchitectures":
        if free != "allowed":
            pytest.skip("this kernel does not run calls of i386 at all")
        assert bound != "allowed"
    else:
        assert (free, bound) == ("allowed", "refused")


def test_the_hardening_of_the_user_unit_is_all_tried() -> None:
    unit = texts("user")["avault.service"].partition("UMask=")[2].partition("[Install]")[0]
    assert set(re.findall(r"^(\w+)=", unit, re.MULTILINE)) - {"SystemCallErrorNumber"} <= TRIED.keys()


def test_a_stop_wipes_memory_before_the_end(service: Installed) -> None:
    """With memory that root may read. The control: while the vault is open its keys are there, and nowhere else."""
    service.configure('log_n = 16\nmemory = "mlock"\n')
    service.make_vault(**{f"S_{number}": token() for number in range(20)})
    home = f"/home/{service.user}/.local/share/avault" if service.user else "/var/lib/avault/vault"
    keys = keys_of(service.host.path(home), PASSPHRASE.encode())
    pid = service.outside
    assert {hit.label for hit in scan(pid, keys).hits} >= {"vault key", "index key"}
    assert arena(pid)
    with at_exit(pid) as reached:
        service.systemctl("stop", "--no-block", service.name)
        reached()
        left = scan(pid, {**keys, "passphrase": PASSPHRASE.encode()}, registers=False)
        assert arena(pid) == []
    assert left.size > 0
    assert left.hits == []
    until(lambda: service.show("ActiveState") == "inactive", "it does not end")


def arena(pid: int) -> list[str]:
    """Return the maps of *pid* that are locked and kept out of core dumps."""
    blocks = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{pid}/smaps").read_text())
    return [block.splitlines()[0] for block in blocks if re.search(r"(?m)^VmFlags:.* lo .*\bdd\b", block)]
