"""The units: installed, enabled, running, and there after a boot.

Sources: systemctl(1), loginctl(1), systemd.unit(5).
"""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .finding import Finding, ok, warn

ROOT = Path("/")
UNITS = {
    "user": ("avault.service", "avault-agent.socket", "avault-operator.socket"),
    "system": ("avault-system.service", "avault-system-agent.socket", "avault-system-operator.socket"),
}
STARTED = frozenset({"enabled", "enabled-runtime", "linked", "linked-runtime", "alias", "static"})
TIMEOUT = 10.0  # seconds

Ask = Callable[[Sequence[str]], str]


def systemctl(words: Sequence[str]) -> str:
    """Return what `systemctl` with *words* prints; nothing if it is not there or does not answer."""
    try:
        done = subprocess.run(  # noqa: S603 - words of ours
            ["systemctl", *words],  # noqa: S607 - as on anyone's PATH
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def findings(service: str, pid: int | None, root: Path = ROOT, ask: Ask = systemctl) -> Iterator[Finding]:
    """Yield what there is to say of the units of *service* ("user" or "system"); *pid* is the daemon's."""
    if not (root / "run/systemd/system").is_dir():
        yield warn("service", "no systemd here: something else must start avaultd after a boot")
        return
    install = f"run: avault install-service --{service}"
    manager = ["--user"] if service == "user" else []
    missing = [unit for unit in UNITS[service] if not _starts(ask([*manager, "is-enabled", unit]))]
    if missing:
        yield warn("service", f"not enabled: {', '.join(missing)}", install)
    else:
        yield ok("service", f"enabled: {', '.join(UNITS[service])}")
    if pid is not None and not missing:
        yield _run_by(UNITS[service][0], root / "proc" / str(pid) / "cgroup")
    if service == "user":
        yield linger(root)


def _starts(answer: str) -> bool:
    return answer.strip() in STARTED


def _run_by(unit: str, cgroup: Path) -> Finding:
    try:
        units = {part for line in cgroup.read_text().splitlines() for part in line.split("/")}
    except OSError as error:
        return warn("started by", f"not to be seen: {(error.strerror or '?').lower()}")
    if unit in units:
        return ok("started by", unit)
    return warn(
        "started by",
        f"not {unit}: the daemon that answers was started by hand",
        "stop it; systemd starts its own",
    )


def linger(root: Path = ROOT, uid: int | None = None) -> Finding:
    """Look whether the user's units start with the machine, or only at login, and end with the last logout."""
    name = pwd.getpwuid(os.geteuid() if uid is None else uid).pw_name
    if (root / "var/lib/systemd/linger" / name).exists():
        return ok("linger", f"units of {name} start with the machine")
    return warn("linger", f"units of {name} run only while logged in", "run: loginctl enable-linger")
