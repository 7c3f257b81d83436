"""What each hardening directive of the user unit takes away, as a program: ``python directives.py WHAT`` tries it.

It prints "allowed" or "refused". For a session keyring it prints which one that is. All of it is harmless.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWUSER = 0x10000000
_PER_LINUX32 = 8
_KEYCTL = {"x86_64": 250, "aarch64": 219}
_SESSION_KEYRING = -3


def _check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def new_privileges() -> None:
    if "NoNewPrivs:\t1" in Path("/proc/self/status").read_text():
        raise PermissionError


def keyring() -> int:
    return _check(_libc.syscall(_KEYCTL[platform.machine()], 0, _SESSION_KEYRING, 1))


def personality() -> None:
    _check(_libc.personality(_PER_LINUX32))


def writable_code() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def internet() -> None:
    socket.socket(socket.AF_INET).close()


def namespaces() -> None:
    _check(_libc.unshare(_CLONE_NEWUSER))


def realtime() -> None:
    """Ask for what makes no sense: the kernel says so, unless nobody gets that far."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(0))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def set_uid_bit() -> None:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).chmod(0o4700)


def foreign_calls() -> None:
    """Call getpid(2) by its number on i386."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20; int 0x80; ret
    if ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))() < 0:
        raise PermissionError


def resources() -> None:
    """Stay as nice as it is: that may be all that is left to it."""
    os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0))


def umask() -> None:
    if os.umask(0o077) == 0o077:
        raise PermissionError


TRIED: dict[str, Callable[[], int | None]] = {
    "NoNewPrivileges": new_privileges,
    "KeyringMode": keyring,
    "LockPersonality": personality,
    "MemoryDenyWriteExecute": writable_code,
    "RestrictAddressFamilies": internet,
    "RestrictNamespaces": namespaces,
    "RestrictRealtime": realtime,
    "RestrictSUIDSGID": set_uid_bit,
    "SystemCallArchitectures": foreign_calls,
    "SystemCallFilter": resources,
    "UMask": umask,
}


def outcome(operation: Callable[[], int | None]) -> str:
    try:
        result = operation()
    except OSError:
        return "refused"
    return "allowed" if result is None else str(result)


if __name__ == "__main__":
    sys.stdout.write(outcome(TRIED[sys.argv[1]]) + "\n")
