"""Processes of others, each held by a pidfd: the one handle that never comes to mean another process.

A pid is only a number, which the kernel gives away again; an unprivileged user can wrap the whole pid space in a
second. So here a process *is* the pair of pid and start time, and what keeps the pair honest is the pidfd: read
something about the pid, then poll the pidfd, and if the process is still alive then, what was read was about it.

Sources: pidfd_open(2), proc_pid_stat(5).
"""

from __future__ import annotations

import errno
import os
import select

Key = tuple[int, int]
"""(pid, start time in clock ticks since boot): names one process for as long as the machine is up."""

MAX_CGROUP = 64 * 1024
"""Bytes read of a ``/proc/PID/cgroup``: a dozen hierarchies with a path of at most 4 KiB each.

A longer text is cut off, which is seen by its missing end.
"""

GONE = (errno.ESRCH, errno.EINVAL, errno.ENOENT, errno.ENODATA)
"""How kernels say that there is no such process (any more): reaped, or its number is that of a thread now."""


class Process:
    """One process, dead or alive, and the pidfd that it owns. Equal to any other with the same pid and start time."""

    __slots__ = ("_cgroup", "_pidfd", "key", "pid", "started")

    def __init__(self, pid: int, started: int, pidfd: int) -> None:
        self.pid = pid
        self.started = started
        self.key: Key = (pid, started)
        """What names this process."""
        self._pidfd = pidfd
        self._cgroup = -1  # its file, once it was asked for

    @classmethod
    def find(cls, pid: int, started: int) -> Process | None:
        """Return the live process with this pid *and* start time (clock ticks since boot); None if it has ended.

        OSError if the kernel cannot say (such as EMFILE): that is not the same as "ended".
        """
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            if error.errno in GONE:
                return None
            raise
        process = cls(pid, started, pidfd)
        # In this order: the pidfd first, then what the pid says, then whether the pidfd's process was there all along.
        if start_time(pid) == started and process.alive():
            return process
        process.close()
        return None

    def alive(self) -> bool:
        """Report whether it still runs."""
        return alive(self._pidfd)

    def cgroup(self) -> bytes:
        """Return what its ``/proc/PID/cgroup`` says now, cut off after `MAX_CGROUP` bytes; OSError once it has ended.

        The file is opened once: it stays that of this process, whoever has the number by then.
        """
        if self._cgroup < 0:
            descriptor = os.open(f"/proc/{self.pid}/cgroup", os.O_RDONLY | os.O_CLOEXEC)
            if not self.alive():
                os.close(descriptor)
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
            self._cgroup = descriptor
        return os.pread(self._cgroup, MAX_CGROUP, 0)

    def fileno(self) -> int:
        """Return the pidfd, -1 once closed."""
        return self._pidfd

    def close(self) -> None:
        """Close its descriptors; closing twice is fine."""
        descriptors = self._pidfd, self._cgroup
        self._pidfd = self._cgroup = -1
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Process) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"Process(pid={self.pid}, started={self.started})"


class Processes:
    """Every process that somebody here cares about (connections, bindings): once each, counted, and watched.

    All are watched by one epoll, whatever their number; whoever waits for it to be readable (`fileno`) asks for the `dead`,
    and ends their connections: their sockets may live on in a child.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._known: dict[Key, Process] = {}
        self._latest: dict[int, Process] = {}  # by pid
        self._counts: dict[Key, int] = {}
        self._watched: dict[int, Process] = {}  # by pidfd, which is what the epoll speaks of

    def __len__(self) -> int:
        return len(self._known)

    def latest(self, pid: int) -> Process | None:
        """Return the one that came last of those known with this *pid*, dead or alive."""
        return self._latest.get(pid)

    def join(self, process: Process) -> Process:
        """Count one more user of *process*, and return the `Process` to use: the one that is known already, if any.

        Takes over *process*: where it is a double, its pidfd is closed. OSError: nobody can watch one more, and it is closed.
        """
        key = process.key
        known = self._known.get(key)
        if known is None:
            try:
                self._epoll.register(process.fileno(), select.EPOLLIN | select.EPOLLONESHOT)
            except OSError:
                process.close()
                raise
            known = self._known[key] = self._watched[process.fileno()] = process
            self._latest[process.pid] = process
        elif known is not process:
            process.close()
        self._counts[key] = self._counts.get(key, 0) + 1
        return known

    def leave(self, process: Process) -> None:
        """Count one user less; the last one closes the pidfd. KeyError if there was none."""
        key = process.key
        self._counts[key] -= 1
        if not self._counts[key]:
            del self._counts[key]
            known = self._known.pop(key)
            del self._watched[known.fileno()]
            if self._latest.get(known.pid) is known:
                del self._latest[known.pid]
            known.close()  # and so it leaves the epoll, too

    def dead(self) -> list[Process]:
        """Return those that have died since the last call, each of them once."""
        # All of them: whoever is not among these is answered. Unless told, it stops at 1,023.
        died = self._epoll.poll(0, len(self._watched) or 1)
        return [self._watched[pidfd] for pidfd, _ in died] if died else []

    def fileno(self) -> int:
        """Return a descriptor that is readable while somebody has died whom `dead` has not returned yet."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Close every pidfd and the epoll."""
        for process in self._known.values():
            process.close()
        self._known.clear()
        self._latest.clear()
        self._counts.clear()
        self._watched.clear()
        self._epoll.close()


def alive(*pidfds: int) -> bool:
    """Report whether the processes of all *pidfds* run: one is readable once its last thread has exited, reaped or not."""
    poll = select.poll()  # select() would stop at descriptor 1023
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    return not poll.poll(0)


def start_time(pid: int) -> int | None:
    """Return when *pid* started, in clock ticks since boot; None if there is no such process or it is hidden."""
    try:
        return parse_start_time(read_proc(f"/proc/{pid}/stat", 4096))
    except OSError:
        return None


def parse_start_time(stat: bytes) -> int | None:
    """Return field 22 of a line of ``/proc/PID/stat``; None if it is none.

    Field 2 is the name that the process gave itself: it may hold blanks and brackets, so the last bracket counts.
    """
    fields = stat[stat.rfind(b") ") + 2 :].split(b" ", 20)
    if b") " not in stat or len(fields) != 21 or not fields[19].isdigit():
        return None
    return int(fields[19])


def read_proc(path: str, most: int) -> bytes:
    """Return at most *most* bytes of a file of /proc, in one read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, most)
    finally:
        os.close(descriptor)
