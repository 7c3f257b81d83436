"""What another process of the same uid may try on a process: seven ways in, as a program and as a function.

`attack(pid, uid)` tries all and returns the names of those that got in; none is what a hardened process gives. A way
counts as refused only if the kernel says EPERM or EACCES: any other error means that it was let in, and then stumbled.
Run as root the attacker becomes *uid* first; else it is whoever runs it.

Only the standard library, so that it runs anywhere: ``python attacks.py PID UID``.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SPARE_UID = 65534
"""A uid to be for tests that run as root: nobody."""

_PIDFD_GETFD = 438
_PTRACE_SEIZE = 0x4206
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def environ(pid: int) -> None:
    Path(f"/proc/{pid}/environ").read_bytes()


def mem(pid: int) -> None:
    Path(f"/proc/{pid}/mem").open("rb").close()


def maps(pid: int) -> None:
    Path(f"/proc/{pid}/maps").read_bytes()


def fd(pid: int) -> None:
    os.listdir(f"/proc/{pid}/fd")


def process_vm_readv(pid: int) -> None:
    buffer = ctypes.create_string_buffer(16)
    here = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 16)
    _check(_libc.process_vm_readv(pid, here, ctypes.c_ulong(1), here, ctypes.c_ulong(1), ctypes.c_ulong(0)))


def ptrace(pid: int) -> None:
    _check(_libc.ptrace(_PTRACE_SEIZE, pid, None, None))


def pidfd_getfd(pid: int) -> None:
    _check(_libc.syscall(_PIDFD_GETFD, os.pidfd_open(pid), 0, 0))


ATTACKS: tuple[Callable[[int], None], ...] = (
    environ,
    mem,
    maps,
    fd,
    process_vm_readv,
    ptrace,
    pidfd_getfd,
)


def gets_in(way: Callable[[int], None], pid: int) -> bool:
    """Report whether *way* got into process *pid*."""
    try:
        way(pid)
    except OSError as error:
        if error.errno == errno.ESRCH:
            raise
        return error.errno not in (errno.EPERM, errno.EACCES)
    return True


def become(uid: int) -> None:
    """Be *uid* and nothing else, if this is root."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)


def attack(pid: int, uid: int = SPARE_UID) -> list[str]:
    """Return which attacks of another process of *uid* get into process *pid*."""
    # -P: the modules beside this one are no program's business, whatever they are called.
    command = [sys.executable, "-P", __file__, str(pid), str(uid)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    names: list[str] = json.loads(done.stdout)
    return names


if __name__ == "__main__":
    become(int(sys.argv[2]))
    json.dump([way.__name__ for way in ATTACKS if gets_in(way, int(sys.argv[1]))], sys.stdout)
