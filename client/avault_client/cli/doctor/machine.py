"""The machine: clock, swap, hibernation, core dumps of agents, who may trace whom.

*root* is the top of the file system. Sources: adjtimex(2), swapon(8), core(5), Linux's admin-guide/LSM/Yama.rst,
power/swsusp.rst.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from .finding import Finding, fail, ok, warn

ROOT = Path("/")
STA_UNSYNC = 0x0040
_TIMEX = 256  # bytes: more than struct timex has
_STATUS_AT = 40  # struct timex on 64-bit machines: modes, offset, freq, maxerror, esterror, status


def findings(root: Path = ROOT) -> Iterator[Finding]:
    """Yield what there is to say of the machine at *root*."""
    yield clock()
    yield swap(root)
    yield hibernation(root)
    yield cores(root)
    yield tracing(root)


def clock_status() -> int:
    """Return the bits of the kernel's clock, STA_…; OSError if they cannot be had."""
    buffer = ctypes.create_string_buffer(_TIMEX)  # modes 0: only look
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.adjtimex(buffer) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(struct.unpack_from("@i", buffer, _STATUS_AT)[0])


def clock(status: Callable[[], int] = clock_status) -> Finding:
    """Ask the kernel whether something keeps its clock."""
    try:
        bits = status()
    except OSError as error:
        return warn("clock", f"not to be asked: {(error.strerror or '?').lower()}")
    if bits & STA_UNSYNC:
        return warn(
            "clock",
            "nothing keeps it: times on record may be wrong, and a phone may refuse",
            "run: timedatectl set-ntp true",
        )
    return ok("clock", "synchronised")


def swap(root: Path = ROOT) -> Finding:
    """Look where memory of agents may be written to; the daemon's secrets are locked."""
    lines = read(root / "proc/swaps").splitlines()[1:]
    plain = [device for device in (line.split()[0] for line in lines) if not _harmless(root, device)]
    if not lines:
        return ok("swap", "none")
    if not plain:
        return ok("swap", "encrypted, or in memory")
    return warn(
        "swap",
        f"{', '.join(plain)} is not encrypted: what agents hold may get there (avaultd's secrets never do)",
        "encrypt it, use zram, or swapoff",
    )


def _harmless(root: Path, device: str) -> bool:
    name = Path(os.path.realpath(device)).name
    return name.startswith("zram") or read(root / f"sys/block/{name}/dm/uuid").startswith("CRYPT-")


def hibernation(root: Path = ROOT) -> Finding:
    """Look whether an image of all memory may be written."""
    if "disk" not in read(root / "sys/power/state").split():
        return ok("hibernation", "this kernel does not hibernate")
    if "[disabled]" in read(root / "sys/power/disk"):
        return ok("hibernation", "impossible now (it is while the vault is unlocked, with memfd_secret)")
    return warn(
        "hibernation", "possible: the image holds what agents hold", 'set lock_on = ["suspend"], encrypt swap'
    )


def cores(root: Path = ROOT) -> Finding:
    """Look where core dumps of agents go."""
    pattern = read(root / "proc/sys/kernel/core_pattern").strip()
    if read(root / "proc/sys/fs/suid_dumpable").strip() == "1":
        return fail(
            "core pattern",
            "fs.suid_dumpable = 1: everything dumps core, with any privileges",
            "run: sysctl fs.suid_dumpable=0",
        )
    return ok("core pattern", f"cores of agents go to: {pattern or 'nowhere'}")


def tracing(root: Path = ROOT) -> Finding:
    """Ask Yama who may trace whom; the daemon is not to be traced in any case."""
    scope = read(root / "proc/sys/kernel/yama/ptrace_scope").strip()
    if scope in ("1", "2", "3"):
        return ok("ptrace", f"kernel.yama.ptrace_scope = {scope}")
    shown = f"kernel.yama.ptrace_scope = {scope}" if scope else "this kernel has no Yama"
    return warn(
        "ptrace",
        f"{shown}: agents of one uid can look into each other (not into avaultd)",
        "run: sysctl kernel.yama.ptrace_scope=1" if scope else None,
    )


def read(path: Path) -> str:
    """Return what the kernel tells in *path*; nothing where it has no such file."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
