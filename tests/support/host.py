"""A machine to be at home on: a real systemd, as PID 1 of namespaces over a throw-away copy of `/`, up in a second.

Nothing outside is changed; when its PID 1 is killed, all of it is gone. Inside, ``/opt/avault`` runs the checkout's own
packages. Whoever talks to a daemon in there must be in there too (`Host.run`, `Host.puppet`): a daemon refuses processes
that it cannot see. Resource control is not to be had everywhere, so nothing here tests it.
"""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .attackers import PATIENCE, Puppet
from .waiting import until

ROOT = Path(__file__).parent.parent.parent
BIN = "/opt/avault/bin"
PYTHON = f"{BIN}/python"
SUPPORT = "/opt/avault/source/tests/support"
BOOT_TIMEOUT = 60.0
_SYSTEMD = Path("/lib/systemd/systemd")
_NAMESPACES = ("--mount", "--pid", "--fork", "--ipc", "--uts", "--net", "--cgroup", "--kill-child")
_ENTER = ("--mount", "--pid", "--ipc", "--uts", "--net", "--cgroup")
_READY = "the namespaces are ready"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Unavailable(Exception):
    """No such machine can be had here; the text says why."""


@dataclass(frozen=True, slots=True)
class Host:
    """One machine that runs. *pid* is its PID 1 as it is numbered out here."""

    pid: int

    def run(
        self,
        *command: str,
        user: str | None = None,
        check: bool = True,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run *command* inside, as root or as *user* with their session's environment; AssertionError if it fails."""
        done = subprocess.run(
            self.command(*command, user=user, env=env),
            check=False,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            umask=0o022,
        )
        assert not check or done.returncode == 0, (command, done.returncode, done.stdout, done.stderr)
        return done

    def command(
        self, *command: str, user: str | None = None, env: Mapping[str, str] | None = None
    ) -> list[str]:
        """Return the command line that, run out here, runs *command* inside."""
        variables = {"PATH": f"{BIN}:{_PATH}", "LANG": "C.UTF-8", "HOME": "/root"}
        become: list[str] = []
        if user is not None:
            variables |= {
                "HOME": f"/home/{user}",
                "XDG_RUNTIME_DIR": f"/run/user/{self.uid(user)}",
                "DBUS_SESSION_BUS_ADDRESS": f"unix:path=/run/user/{self.uid(user)}/bus",
            }
            become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        settings = [f"{name}={value}" for name, value in {**variables, **(env or {})}.items()]
        enter = ["nsenter", "--target", str(self.pid), *_ENTER]
        return [*enter, *become, "env", "-i", *settings, *command]

    def path(self, inside: str) -> Path:
        """Return where the file *inside* lies as seen from here."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def write(self, inside: str, text: str, user: str | None = None) -> None:
        """Write a file, and make the folders above it that are missing; all belong to *user*."""
        script = 'umask 022 && mkdir -p "$(dirname "$1")" && cat >"$1"'
        self.run("sh", "-c", script, "sh", inside, user=user, stdin=text)

    def uid(self, user: str) -> int:
        """Return the uid of *user*."""
        lines = self.path("/etc/passwd").read_text().splitlines()
        return next(int(line.split(":")[2]) for line in lines if line.startswith(f"{user}:"))

    def pid_outside(self, inside: int) -> int:
        """Return by which number the process *inside* goes out here."""
        namespace = os.readlink(f"/proc/{self.pid}/ns/pid")
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError):
                if os.readlink(f"/proc/{entry}/ns/pid") == namespace:
                    [numbers] = [
                        line
                        for line in Path(f"/proc/{entry}/status").read_text().splitlines()
                        if line.startswith("NSpid:")
                    ]
                    if int(numbers.split()[-1]) == inside:
                        return int(entry)
        raise ProcessLookupError(inside)

    def add_user(self, name: str, *options: str) -> None:
        """Make user *name* with a home; *options* are of useradd(8)."""
        self.run("useradd", "--create-home", *options, name)

    def linger(self, user: str) -> None:
        """Start the manager of *user*, who needs not log in; it is there when this returns."""
        self.run("loginctl", "enable-linger", user)
        self.run("systemctl", "start", f"user@{self.uid(user)}.service")

    def puppet(self, user: str, *under: str, groups: Sequence[int] = ()) -> Puppet:
        """Start a puppet inside as *user*, also of *groups*; by the command *under*, if there is one."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(PATIENCE)
        program = [
            PYTHON,
            "-P",
            f"{SUPPORT}/attackers.py",
            *map(str, (its.fileno(), self.uid(user), *groups)),
        ]
        with its:
            process = subprocess.Popen(self.command(*under, *program), pass_fds=[its.fileno()], umask=0o022)
        puppet = Puppet(ours, process.pid, process)
        puppet.pid = self.pid_outside(puppet.order("pid")[0])
        return puppet


@contextmanager
def machine(scratch: Path) -> Generator[Host]:
    """Boot a machine, in *scratch*, an empty directory; `Unavailable` says why none can be had."""
    if os.geteuid() != 0:
        raise Unavailable("only root may make a machine of namespaces")
    if not _SYSTEMD.exists():
        raise Unavailable(
            "there is no systemd to boot; on Debian: apt-get install systemd libpam-systemd dbus"
        )
    cgroup = _make_cgroup()
    log = scratch / "log"
    mount = scratch / "machine"
    mount.mkdir()
    process = _boot(cgroup, mount, log)
    try:
        yield _wait(process, log)
    finally:
        process.kill()  # and with it, by unshare's --kill-child, PID 1, and with that all others
        process.wait()
        _remove_cgroup(cgroup)


def _make_cgroup() -> Path:
    for top in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        if (top / "cgroup.procs").exists() and (top / "cgroup.controllers").exists():
            cgroup = top / f"avault-test-{os.getpid()}"
            try:
                cgroup.mkdir()
                cgroup.chmod(0o755)  # whatever the umask made of it
            except OSError as error:
                raise Unavailable(f"no cgroup can be made: {error}") from error
            return cgroup
    raise Unavailable("there is no cgroup v2 hierarchy")


def _remove_cgroup(cgroup: Path) -> None:
    def remove() -> bool:
        for folder, _, _ in os.walk(cgroup, topdown=False):
            with suppress(OSError):
                os.rmdir(folder)
        return not cgroup.exists()

    until(remove, f"{cgroup} is still in use")


def _boot(cgroup: Path, mount: Path, log: Path) -> subprocess.Popen[bytes]:
    boot = [
        *("sh", str(Path(__file__).with_name("boot.sh")), str(mount)),
        *(sys.base_prefix, sysconfig.get_path("purelib"), str(ROOT)),
    ]
    # The cgroup namespace is rooted where its first process is, so that comes first.
    enter = ["sh", "-c", f'echo $$ >{cgroup}/cgroup.procs && exec "$@"', "sh"]
    with log.open("wb") as output:
        return subprocess.Popen(
            [*enter, "unshare", *_NAMESPACES, *boot],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            umask=0o022,
        )


def _wait(process: subprocess.Popen[bytes], log: Path) -> Host:
    until(lambda: process.poll() is not None or _READY in log.read_text(), "no namespaces", BOOT_TIMEOUT)
    if _READY not in log.read_text():
        raise Unavailable(log.read_text().strip().rpartition("\n")[2] or "no namespaces can be had")
    [first] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    host = Host(int(first))
    ask = functools.partial(host.run, "systemctl", "is-system-running", "--wait", check=False)
    until(lambda: ask().stdout.strip() in ("running", "degraded"), log.read_text(), BOOT_TIMEOUT)
    return host
