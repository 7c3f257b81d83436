"""The daemon's process, as the kernel shows it to others: ``/proc/PID``.

*told* is what `status` answers. Sources: proc(5), PR_SET_DUMPABLE(2const), seccomp(2), getrlimit(2).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from avault_protocol import UNLOCKED

from .finding import Finding, fail, ok, warn

ROOT = Path("/")
FILTERED = "2"  # "Seccomp:" of a process with a filter
FEW_DESCRIPTORS = 1024
RESTART = "stop it, and start it as it was installed: avault install-service, or avaultd"

Told = Mapping[str, Any]


def findings(told: Told, root: Path = ROOT) -> Iterator[Finding]:
    """Yield what there is to say of the process of *told*."""
    folder = root / "proc" / str(told["pid"])
    try:
        status = fields(folder / "status")
        limits = soft_limits(folder / "limits")
    except OSError as error:
        reason = (error.strerror or "unreadable").lower()
        yield warn("process", f"pid {told['pid']} is not to be seen from here: {reason}")
        return
    uid = int(status["Uid"].split()[1])
    yield seclusion(folder, uid, status)
    yield confinement(told, status)
    yield namespace(folder, root)
    yield from memory(told, status, limits, uid)
    yield descriptors(limits)
    yield cores(limits)


def fields(path: Path) -> dict[str, str]:
    """Return the fields of a ``/proc/PID/status``."""
    lines = path.read_text(errors="replace").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def soft_limits(path: Path) -> dict[str, float]:
    """Return the soft limits of a ``/proc/PID/limits`` by their names there; inf is "unlimited"."""
    rows = path.read_text().splitlines()[1:]
    cells = ((row[:25].strip(), row[25:].split()[0]) for row in rows)
    return {name: float("inf" if value == "unlimited" else value) for name, value in cells}


def seclusion(folder: Path, uid: int, status: Mapping[str, str], euid: int | None = None) -> Finding:
    """Try to look into the process; where that tells nothing, ask whose its files are."""
    euid = os.geteuid() if euid is None else euid
    if status["TracerPid"] != "0":
        return fail("seclusion", f"process {status['TracerPid']} traces avaultd and can make it do anything")
    if euid == uid == 0:
        return warn("seclusion", "not to be probed: avaultd runs as root", "give it a uid of its own")
    if euid == uid:
        opened = [name for name in ("mem", "environ") if _opens(folder / name)]
        how = "tried to open its mem and environ: refused"
    else:
        # Others are refused in any case. The kernel gives the files of an undumpable process to root.
        opened = ["environ"] if (folder / "environ").stat().st_uid == uid else []
        how = "not dumpable: its files in /proc are root's"
    if opened:
        return fail("seclusion", f"processes of uid {uid} can open its {' and '.join(opened)}", RESTART)
    return ok("seclusion", how)


def _opens(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def confinement(told: Told, status: Mapping[str, str]) -> Finding:
    """Hold what the daemon says of itself against what the kernel says."""
    claim = str(told["confined"] or "nothing")
    missing = [
        what
        for what, there in (
            ("no filter of system calls", status.get("Seccomp") == FILTERED),
            ("may gain privileges", status.get("NoNewPrivs") == "1"),
        )
        if not there
    ]
    if missing:
        return fail("confinement", f"{', '.join(missing)}; avaultd says: {claim}", RESTART)
    if "landlock" not in claim:
        return warn("confinement", claim, "boot a kernel with Landlock (lsm=landlock,…)")
    return ok("confinement", f"{claim}; the kernel confirms the filter, and no new privileges")


def namespace(folder: Path, root: Path = ROOT) -> Finding:
    """Compare its user namespace with ours: whoever owns one of its own could read all that runs there."""
    ours, its = (root / "proc/self/uid_map").read_text(), (folder / "uid_map").read_text()
    if ours.split() == its.split():
        return ok("namespace", "the same user namespace as this command's")
    return fail(
        "namespace",
        "avaultd runs in a user namespace: its owner reads its memory",
        "take PrivateUsers=, ProtectHome= and the like out of its user unit",
    )


def memory(told: Told, status: Mapping[str, str], limits: Mapping[str, float], uid: int) -> Iterator[Finding]:
    """Yield where open secrets lie, and whether there may be enough of it."""
    kind, budget = told["memory"]["kind"], told["memory"]["budget"]
    locked = int(status.get("VmLck", "0").split()[0])
    if told["state"] == UNLOCKED and not locked:
        yield fail("memory", f"{kind}, but the kernel knows of no locked page", RESTART)
    elif kind == "memfd_secret":
        yield ok("memory", f"{kind}: not even root reads it from outside ({locked} KiB locked now)")
    else:
        yield warn(
            "memory",
            f"{kind}: never swapped, but root reads it ({locked} KiB locked now)",
            'boot with secretmem.enable=1 (Linux 5.14), and leave memory = "auto"',
        )
    most = limits["Max locked memory"]
    if uid == 0 or most >= budget:
        yield ok("memory limit", f"{_size(most)} may be locked, {_size(budget)} are needed")
    else:
        yield fail(
            "memory limit",
            f"only {_size(most)} may be locked, {_size(budget)} are needed",
            "set LimitMEMLOCK= in its unit, ulimit -l, or a smaller arena_mib",
        )


def _size(count: float) -> str:
    return "any amount" if count == float("inf") else f"{count / (1 << 20):g} MiB"


def descriptors(limits: Mapping[str, float]) -> Finding:
    """Each connection takes two descriptors."""
    most = limits["Max open files"]
    if most <= FEW_DESCRIPTORS:
        return warn("descriptors", f"{most:.0f}: {most / 2:.0f} connections at most", "raise LimitNOFILE=")
    return ok("descriptors", "any number" if most == float("inf") else f"{most:.0f}, two for each connection")


def cores(limits: Mapping[str, float]) -> Finding:
    """No core of the daemon may be written."""
    if limits["Max core file size"]:
        return fail("core dumps", "avaultd may dump core", RESTART)
    return ok("core dumps", "none of avaultd, whatever the core pattern is")
