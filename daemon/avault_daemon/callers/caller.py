"""Who is on the other end of a connection, as the kernel attests it. Only kernel facts; each step closes one race.

1. ``SO_PEERCRED``: pid, uid and gid of the process that called ``connect()``, as they were at that moment. What it
   does later (setuid, exec, passing the socket on) changes nothing of them.
2. ``SO_PEERPIDFD`` (Linux 6.5): a handle on that very process, which the kernel has kept since ``connect()``. From here
   on a pid that is given to another process is noticed.
3. ``/proc/PID/stat`` and ``cgroup``: start time and unit, by number, and so perhaps of a process that has the number now.
   Of a process that is known already the start time is not read again, and the unit from a file that stays its own:
   where the holder of the handle and the known one, of the same number, are both alive, they are one.
4. Poll the handle. Still alive: then nobody else can have had the number meanwhile, and what step 3 read is its own.
   Not alive: nothing is believed, and the connection is refused, though a child may hold its socket.

Before Linux 6.5 the handle is opened by number, after the fact. A process that connected, died, and whose pid was given
away before that is taken for its successor. The uid is right all the same (step 1), so `Caller.uid` may be relied on;
the unit may not, so there is none; and the start time is the successor's.

Not attested, and never a selector: ``/proc/PID/exe``. Whoever has the same uid makes it what they like (connect, send,
exec the trusted program). It is for people to read; where Landlock confines the daemon, it cannot be read at all.

Sources: unix(7), socket(7), cgroups(7), proc(5), systemd's cgroup escaping (`cg_unescape`).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from functools import lru_cache
from typing import NamedTuple

from avault_protocol import UnknownAgentError

from .policy import Caller
from .processes import GONE, MAX_CGROUP, Process, alive, read_proc, start_time

SO_PEERPIDFD = 77
_UCRED = struct.Struct("=iII")
_MAX_EXE = 256

_UNIT_SUFFIXES = (
    ".service",
    ".scope",
    ".socket",
    ".mount",
    ".swap",
)  # the units that have a cgroup, and no slices
_UNIT_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\\@")
_MAX_UNIT = 255


class CallerGoneError(UnknownAgentError):
    """The process that connected has ended: nobody can be asked who it was."""

    default_message = "the process that opened this connection has ended"
    default_hint = "connect from the process that goes on to use the connection"


class Credentials(NamedTuple):
    """What ``SO_PEERCRED`` says."""

    pid: int
    uid: int
    gid: int


def credentials(connection: socket.socket) -> Credentials:
    """Return who called ``connect()``: the part of identifying that costs next to nothing, and whose uid may be relied on."""
    said = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return Credentials(*_UCRED.unpack(said))


def identify(
    connection: socket.socket,
    peer: Credentials,
    socket_agent: str | None,
    *,
    known: Process | None = None,
    exe: bool = True,
) -> tuple[Caller, Process]:
    """Return who is on the other end of *connection*, and the process, whose pidfd the caller of this now owns.

    *peer* is its `credentials`. *socket_agent* is the agent in whose own directory the listening socket lies, None for
    the common socket. *known* is the process that was known by that pid, if any. *exe* says whether to look for the
    executable. `CallerGoneError` if that process has ended, `UnknownAgentError` if it is out of sight, OSError (such as
    EMFILE) if it is the daemon that has no room.
    """
    pid, uid, gid = peer
    if pid == 0:
        raise UnknownAgentError(
            "the calling process is in a pid namespace that the daemon does not see",
            hint="run avaultd in the pid namespace of the machine",
        )
    pidfd, attested = _pidfd_of_peer(connection, pid)
    try:
        same = known if known is not None and alive(pidfd, known.fileno()) else None
        unit = _unit(pid, same) if attested else None
        path = _exe(pid) if exe else None
        started = _started(pid, pidfd) if same is None else same.started
    except BaseException:
        os.close(pidfd)
        raise
    caller = Caller(
        pid=pid, uid=uid, gid=gid, unit=unit, exe=path, socket_agent=socket_agent, started=started
    )
    return caller, Process(pid, started, pidfd)


def _started(pid: int, pidfd: int) -> int:
    """Return when the process of *pidfd*, which has the number *pid*, started; it is alive, or `CallerGoneError`."""
    started = start_time(pid)
    if not alive(pidfd):
        raise CallerGoneError
    if started is None:
        raise UnknownAgentError(
            f"/proc/{pid}/stat of the calling process is unreadable",
            hint="is /proc mounted with hidepid? the daemon needs to see the processes of others",
        )
    return started


def system_unit(cgroup_text: str) -> str | None:
    """Return the outermost system unit that the text of a ``/proc/PID/cgroup`` names; None unless it is beyond doubt.

    The outermost, because a unit may own (be delegated) what lies below it, and may name that as it likes; and none
    below ``user.slice``, because there a user's own manager names units. With systemd on cgroup v2 the line ``0::``
    counts, on v1 ``name=systemd``, on a hybrid both, and then they must agree. (The root is where systemd is not.)
    """
    *lines, rest = cgroup_text.split("\n")
    if rest:  # cut off
        return None
    units: set[str | None] = set()
    for line in lines:  # number:controllers:path
        hierarchy, separator, path = line.partition(":/")
        if not separator:
            return None
        if path and (hierarchy == "0:" or hierarchy.endswith(":name=systemd")):
            units.add(_outermost(path))
    return units.pop() if len(units) == 1 else None


def _outermost(path: str) -> str | None:
    """Return the first component that is no slice, if that is a unit. Anything else there is not systemd's work."""
    for component in path.split("/"):
        # systemd puts one _ before a name that would collide with a file of the kernel's (memory.service, _x.service).
        name = component.removeprefix("_")
        if name == "user.slice" or not is_unit_name(name):
            return None
        if not name.endswith(".slice"):
            return name if name.endswith(_UNIT_SUFFIXES) else None
    return None


def is_unit_name(name: str) -> bool:
    """Report whether *name* can be that of a unit: the characters of systemd.unit(5), and a type behind a dot."""
    # The characters leave out the blank, and so the " (deleted)" that the kernel appends to a removed cgroup.
    stem = name.rpartition(".")[0]
    return bool(stem) and len(name) <= _MAX_UNIT and _UNIT_CHARACTERS.issuperset(name)


def _pidfd_of_peer(connection: socket.socket, pid: int) -> tuple[int, bool]:
    """Return a pidfd of the peer, and whether the kernel vouches for it since ``connect()``."""
    try:
        return connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD), True
    except OSError as error:
        if error.errno in GONE:  # newer kernels give a handle on the dead process instead
            raise CallerGoneError from None
        if error.errno != errno.ENOPROTOOPT:
            raise
    try:
        return os.pidfd_open(pid), False
    except OSError as error:
        if error.errno in GONE:
            raise CallerGoneError from None
        raise


def _unit(pid: int, known: Process | None) -> str | None:
    try:
        return _unit_in(read_proc(f"/proc/{pid}/cgroup", MAX_CGROUP) if known is None else known.cgroup())
    except OSError:
        return None


@lru_cache(16)
def _unit_in(cgroup: bytes) -> str | None:
    return system_unit(cgroup.decode("utf-8", "surrogateescape"))


def _exe(pid: int) -> str | None:
    """Return the path of the executable in printable ASCII, at most its last 256 characters; mostly None."""
    try:
        path = os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None
    return path[-_MAX_EXE:] if path.isascii() and path.isprintable() else ascii(path)[1:-1][-_MAX_EXE:]
