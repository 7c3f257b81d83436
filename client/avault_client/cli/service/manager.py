"""A manager of systemd: a user's own, or the machine's.

Sources: systemctl(1), loginctl(1), systemd-sysusers(8).
"""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Sequence
from pathlib import Path

from avault_protocol import BadRequestError

UNITS = {
    "user": (
        "avault.service",
        "avault-agent.socket",
        "avault-operator.socket",
        "avault-credentials.socket",
    ),
    "system": (
        "avault-system.service",
        "avault-system-agent.socket",
        "avault-system-operator.socket",
        "avault-system-credentials.socket",
    ),
}
"""By service: what is enabled, the service first."""
STARTED = frozenset({"enabled", "enabled-runtime", "linked", "linked-runtime", "alias", "static"})
TIMEOUT = 60.0  # seconds
ROOT = Path("/")


def words(service: str, *rest: str) -> list[str]:
    """Return the command line that tells the manager of *service* ("user" or "system") something."""
    return ["systemctl", *(["--user"] if service == "user" else []), *rest]


def ask(command: Sequence[str]) -> str:
    """Return what *command* prints, whatever its status; nothing if it is not there or does not answer."""
    try:
        return _run(command).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def tell(command: Sequence[str]) -> None:
    """Run *command*; `BadRequestError` with what it says if it fails."""
    shown = " ".join(command)
    try:
        done = _run(command)
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = error.strerror if isinstance(error, OSError) else f"no end within {TIMEOUT:.0f} s"
        raise BadRequestError(f"{shown}: {str(reason).lower()}") from None
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2]
        raise BadRequestError(f"{shown} failed: {said or f'status {done.returncode}'}")


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - commands of ours
        command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT
    )


def is_here(root: Path = ROOT) -> bool:
    """Report whether systemd runs the machine, as sd_booted(3) does."""
    return (root / "run/systemd/system").is_dir()


def starts_at_boot(unit: str, service: str) -> bool:
    """Report whether *unit* is enabled."""
    return ask(words(service, "is-enabled", unit)) in STARTED


def listens(unit: str, service: str) -> bool:
    """Report whether *unit*, of a socket, is active."""
    return ask(words(service, "is-active", unit)) == "active"


def runs(pid: int, unit: str, root: Path = ROOT) -> bool:
    """Report whether the process *pid* is of *unit*; OSError if it is out of sight."""
    cgroup = (root / "proc" / str(pid) / "cgroup").read_text()
    return any(unit in line.split("/") for line in cgroup.splitlines())


def user_name() -> str:
    """Return the name of the user that runs this."""
    return pwd.getpwuid(os.geteuid()).pw_name


def lingers(name: str, root: Path = ROOT) -> bool:
    """Report whether the manager of user *name* starts with the machine, as logind sees it."""
    return (root / "var/lib/systemd/linger" / name).exists()
