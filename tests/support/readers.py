"""Five ways in which root reads another process's memory and changes nothing in it; what was got, or nothing."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from ctypes import c_long, c_size_t, c_ulong, c_void_p
from pathlib import Path

from .campaign import GIVEN
from .memory import attached
from .waiting import until

_PTRACE_PEEKDATA = 2
_WORD = 8
PEEKED = 64 << 10
"""Bytes that are looked at word by word, from the start on."""
PATIENCE = 60.0
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = c_long
_libc.ptrace.argtypes = (c_long, c_long, c_void_p, c_void_p)
_libc.process_vm_readv.restype = c_long
_libc.process_vm_readv.argtypes = (c_long, c_void_p, c_ulong, c_void_p, c_ulong, c_ulong)

Reader = Callable[[int, tuple[int, int], Path], bytes]
"""Takes the process, the start and the end of what is wanted, and an empty folder."""


def mem(pid: int, span: tuple[int, int], folder: Path) -> bytes:
    """``/proc/PID/mem``."""
    start, end = span
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        try:
            return os.pread(memory.fileno(), end - start, start)
        except OSError:
            return b""


def process_vm_readv(pid: int, span: tuple[int, int], folder: Path) -> bytes:
    """process_vm_readv(2)."""
    start, end = span
    room = ctypes.create_string_buffer(end - start)
    ours = (c_size_t * 2)(ctypes.addressof(room), len(room))
    its = (c_size_t * 2)(start, len(room))
    got = _libc.process_vm_readv(pid, ours, 1, its, 1, 0)
    return room.raw[: max(got, 0)]


def ptrace_peek(pid: int, span: tuple[int, int], folder: Path) -> bytes:
    """PTRACE_PEEKDATA of ptrace(2)."""
    start, end = span
    words: list[bytes] = []
    with attached(pid):
        for address in range(start, min(end, start + PEEKED), _WORD):
            ctypes.set_errno(0)
            word = _libc.ptrace(_PTRACE_PEEKDATA, pid, address, 0)
            if ctypes.get_errno() == 0:
                words.append(word.to_bytes(_WORD, "little", signed=True))
    return b"".join(words)


def gcore(pid: int, span: tuple[int, int], folder: Path) -> bytes:
    """gcore(1), told to leave nothing out."""
    command = ["gcore", "-a", "-o", str(folder / "gcore"), str(pid)]
    done = subprocess.run(command, check=False, capture_output=True, timeout=PATIENCE)
    file = folder / f"gcore.{pid}"
    assert file.exists(), done.stderr
    return _taken(file)


def core_file(pid: int, span: tuple[int, int], folder: Path) -> bytes:
    """What the kernel leaves of a process in *folder*, where that works, when it crashes; this ends it."""
    with suppress(
        PermissionError
    ):  # to go beyond what the process has forbidden itself takes CAP_SYS_RESOURCE
        resource.prlimit(pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGSEGV)
        until(lambda: not _running(pid), "it does not end")
    finally:
        os.close(pidfd)
    return b"".join(_taken(file) for file in sorted(folder.glob("core*")))


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def _taken(file: Path) -> bytes:
    content = file.read_bytes()
    file.unlink()
    return content


READERS: tuple[Reader, ...] = (mem, process_vm_readv, ptrace_peek, gcore, core_file)
"""The last one ends the process."""


def missing(reader: Reader) -> str | None:
    """Say why *reader* cannot be tried on this machine; None if it can."""
    if reader is gcore and shutil.which("gcore") is None:
        return "gcore is not installed here"
    if reader is gcore and not GIVEN:
        return "gcore takes a minute for what it cannot read, so it is tried in campaigns"
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if reader is core_file and pattern.startswith(("|", "/")):
        return f"core files go to {pattern}"
    return None
