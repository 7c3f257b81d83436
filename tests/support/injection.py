"""The kernel fails a process at the system call of the test's choice: no stand-in of ours, and nobody can go by another way.

The process hands its calls on files to the test by a seccomp filter (`listen`); the test looks at each, counts those on
files of the vault and of the record, and lets it pass or answers in the kernel's name (`Injector`).

Sources: seccomp(2), seccomp_unotify(2), linux/seccomp.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import select
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from avault_daemon.confine import seccomp

_NEW_LISTENER = 1 << 3
_SET_MODE_FILTER = 1
_USER_NOTIF = 0x7FC00000
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP = {"x86_64": 317, "aarch64": 277}

# name: number on x86_64 and aarch64, and which argument is the descriptor (an index), or the path (-1 - its index).
CALLS = {
    "read": (0, 63, 0),
    "write": (1, 64, 0),
    "close": (3, 57, 0),
    "fstat": (5, 80, 0),
    "flock": (73, 32, 0),
    "fsync": (74, 82, 0),
    "fdatasync": (75, 83, 0),
    "ftruncate": (77, 46, 0),
    "rename": (82, -1, -1),
    "mkdir": (83, -1, -1),
    "unlink": (87, -1, -1),
    "openat": (257, 56, -2),
    "mkdirat": (258, 34, -2),
    "newfstatat": (262, 79, -2),
    "unlinkat": (263, 35, -2),
    "renameat": (264, 38, -2),
    "renameat2": (316, 276, -2),
}
_NAMES = [
    {both[column]: (name, both[2]) for name, both in CALLS.items() if both[column] >= 0} for column in (0, 1)
]


def listen() -> int:
    """Hand this process's calls on files to whoever holds the descriptor that is returned; before its first thread."""
    machine = seccomp.machine()
    code: list[seccomp.Instruction] = [(seccomp.LOAD, 0, 0, seccomp.NUMBER)]
    for number in _names(machine):
        code += [(seccomp.JUMP_EQUAL, 0, 1, number), (seccomp.RETURN, 0, 0, _USER_NOTIF)]
    code.append((seccomp.RETURN, 0, 0, seccomp.ALLOW))
    instructions = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in code))
    header = struct.pack("@HP", len(code), ctypes.addressof(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # A daemon forbids to be looked into, which is needed here.
    libc.prctl(seccomp.PR_SET_DUMPABLE, 1, 0, 0, 0)
    listener = int(libc.syscall(_SECCOMP[machine], _SET_MODE_FILTER, _NEW_LISTENER, header))
    if listener < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return listener


def _names(machine: str) -> dict[int, tuple[str, int]]:
    return _NAMES[list(seccomp.AUDIT_ARCH).index(machine)]


@dataclass(frozen=True)
class Fault:
    """What becomes of a call: the error *code* (0: none). *lasting*: every later call fails too.

    *short*: a write takes half of what it is given, and the next write fails with *code*.
    """

    code: int = 0
    lasting: bool = False
    short: bool = False

    def __str__(self) -> str:
        code = errno.errorcode.get(self.code, "")
        return " ".join(
            filter(None, ["short" if self.short else "", code, "for good" if self.lasting else ""])
        )


@dataclass(frozen=True)
class _Call:
    id: int
    pid: int
    name: str
    arguments: tuple[int, ...]
    path: str


class Injector:
    """Answers *listener* for the process *pid* in a thread of its own; counts calls on files below *places*."""

    def __init__(self, listener: int, pid: int, places: Sequence[Path]) -> None:
        self.calls: list[str] = []
        """The calls since `arm`."""
        self._listener, self._pid = listener, pid
        self._below = tuple(f"{place}/" for place in places)
        self._names = _names(seccomp.machine())
        self._at, self._fault = 0, Fault()
        self._torn = self._limited = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def arm(self, at: int, fault: Fault) -> None:
        """Count from here, and let the call number *at* meet with *fault*."""
        with self._lock:
            self.calls.clear()
            self._at, self._fault, self._torn = at, fault, False

    def disarm(self) -> list[str]:
        """Let everything pass from here; return the calls that were counted."""
        with self._lock:
            self._at = 0
            return list(self.calls)

    def join(self) -> None:
        """Wait until the process has ended."""
        self._thread.join(20)
        os.close(self._listener)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        while True:
            [(_, events)] = poll.poll()
            if events & select.POLLIN:
                with suppress(OSError):  # whoever called may have been killed meanwhile
                    self._answer(self._receive())
            elif events:
                return

    def _receive(self) -> _Call:
        buffer = bytearray(80)  # struct seccomp_notif
        fcntl.ioctl(self._listener, _RECEIVE, buffer)
        identity, pid, _, number, _, _, *arguments = struct.unpack("=QIIiIQ6Q", buffer)
        name, where = self._names[number]
        path = self._path_of(pid, arguments[where]) if where >= 0 else self._text(pid, arguments[-1 - where])
        if name == "newfstatat" and not path:
            path = self._path_of(pid, arguments[0])
        return _Call(identity, pid, name, tuple(arguments), path)

    def _path_of(self, pid: int, descriptor: int) -> str:
        try:
            return os.readlink(f"/proc/{pid}/fd/{descriptor & 0xFFFFFFFF}")
        except OSError:
            return ""

    def _text(self, pid: int, address: int) -> str:
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
        try:
            page = 4096 - address % 4096
            return os.pread(memory, page, address).split(b"\0")[0].decode("utf-8", "replace")
        finally:
            os.close(memory)

    def _answer(self, call: _Call) -> None:
        with self._lock:
            code = self._judge(call)
        answer = bytearray(struct.pack("=QqiI", call.id, 0, -code, 0 if code else _CONTINUE))
        fcntl.ioctl(self._listener, _SEND, answer)

    def _judge(self, call: _Call) -> int:
        """Return the error that *call* meets, or 0."""
        if not self._at or not f"{call.path}/".startswith(self._below):
            return 0
        self._unlimit()
        self.calls.append(f"{call.name} {Path(call.path).name}")
        count, fault = len(self.calls), self._fault
        if fault.short:
            return self._shorten(call) if count == self._at or self._torn else 0
        return fault.code if count == self._at or (fault.lasting and count > self._at) else 0

    def _shorten(self, call: _Call) -> int:
        if self._torn:
            self._torn = False
            return self._fault.code
        if call.name == "write" and call.arguments[2] > 1:
            # The kernel itself takes no more than the file may grow by.
            there = os.stat(f"/proc/{call.pid}/fd/{call.arguments[0]}").st_size
            self._limit(there + call.arguments[2] // 2)
            self._limited, self._torn = True, True
        return 0

    def _unlimit(self) -> None:
        if self._limited:
            self._limit(resource.RLIM_INFINITY)
            self._limited = False

    def _limit(self, size: int) -> None:
        hard = resource.prlimit(self._pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (size, hard))
