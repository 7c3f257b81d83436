"""What the daemon may still do with files, ports and other processes: Landlock, by ctypes.

Rules name directories, never files: a rule holds the inode that its path had, and editors and renames replace files.
Landlock restricts the calling thread and what comes from it; other threads that run already stay free.

Sources: landlock(7), landlock_create_ruleset(2), landlock_add_rule(2), landlock_restrict_self(2), linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

# The same numbers on every architecture that came after 2019's unification of the tables.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH = 1  # LANDLOCK_RULE_PATH_BENEATH

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (1 << bit for bit in range(6, 13))
REFER, TRUNCATE, IOCTL_DEV = (1 << bit for bit in range(13, 16))
BIND_TCP, CONNECT_TCP = 1 << 0, 1 << 1
SCOPE_ABSTRACT_SOCKET, SCOPE_SIGNAL = 1 << 0, 1 << 1

READ = READ_FILE | READ_DIR
WRITE = READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SOCK | REFER | TRUNCATE
"""What own directories need. Nowhere: EXECUTE, devices, pipes, symbolic links."""

# From which version of the interface (ABI) on there is more to handle, up to the one that is known here.
_FILES = ((1, MAKE_SYM * 2 - 1), (2, REFER), (3, TRUNCATE), (5, IOCTL_DEV))
_SCOPES = SCOPE_ABSTRACT_SOCKET | SCOPE_SIGNAL
_TCP_SINCE, _SCOPES_SINCE = 4, 6


class Unavailable(OSError):
    """This kernel was built, or booted, without Landlock."""


def version() -> int:
    """Return the kernel's version of the interface, from 1; `Unavailable`, or OSError if something forbids to ask."""
    abi = _libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    if abi >= 0:
        return int(abi)
    if ctypes.get_errno() in (errno.ENOSYS, errno.EOPNOTSUPP):
        raise Unavailable(ctypes.get_errno(), "this kernel has no Landlock")
    raise _failure("landlock_create_ruleset")


def handled(abi: int, *, network: bool) -> tuple[int, int, int]:
    """Return what *abi* lets us forbid: rights on files, on TCP, scopes. With *network*, connecting stays allowed."""
    files = 0
    for since, rights in _FILES:
        files |= rights if abi >= since else 0
    tcp = (BIND_TCP if network else BIND_TCP | CONNECT_TCP) if abi >= _TCP_SINCE else 0
    return files, tcp, _SCOPES if abi >= _SCOPES_SINCE else 0


def apply(read: list[str], write: list[str], *, network: bool) -> int:
    """Restrict the calling thread to reading below *read*, and to working below *write*; return the version in force.

    Directories of *read* that do not exist are passed over; of *write*, each must. Needs PR_SET_NO_NEW_PRIVS.
    `Unavailable`; any other OSError: the kernel refused, or a directory of *write* is missing.
    """
    abi = version()
    files, tcp, scopes = handled(abi, network=network)
    attributes = struct.pack("=QQQ", files, tcp, scopes)[: _size(abi)]
    ruleset = _libc().syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        raise _failure("landlock_create_ruleset")
    try:
        for directory in read:
            if os.path.isdir(directory):
                _allow(ruleset, directory, READ & files)
        for directory in write:
            _allow(ruleset, directory, WRITE & files)
        if _libc().syscall(_RESTRICT_SELF, ruleset, 0):
            raise _failure("landlock_restrict_self")
    finally:
        os.close(ruleset)
    return abi


def _size(abi: int) -> int:
    """Return how much of struct landlock_ruleset_attr this version knows; older ones refuse a longer one."""
    return 8 if abi < _TCP_SINCE else 16 if abi < _SCOPES_SINCE else 24


def _allow(ruleset: int, directory: str, rights: int) -> None:
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        attributes = struct.pack("=Qi", rights, descriptor)  # packed: struct landlock_path_beneath_attr
        if _libc().syscall(_ADD_RULE, ruleset, _PATH_BENEATH, attributes, 0):
            raise _failure(f"landlock_add_rule: {directory}")
    finally:
        os.close(descriptor)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _failure(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
