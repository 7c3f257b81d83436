"""When an arena of the kind `mlock` is wiped, as root sees it who reads it again and again from another process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from . import looking
from .memory import arena_of
from .waiting import until

AIM = 0.010
"""Seconds from what calls for a lock to an arena of zeroes."""


class Took(NamedTuple):
    """How long a wipe took, in seconds, and how long before its end nobody had looked, which may have been as long."""

    seconds: float
    unseen: float


@dataclass(frozen=True, slots=True)
class Watch:
    """On all that was not zero in the arena when it began."""

    memory: int
    address: int
    size: int

    def zero(self) -> bool:
        """Whether all of it is zero, or the memory is gone, at this moment."""
        return looking.zero(self.memory, self.address, self.size)

    def since(self, begin: float) -> Took:
        """Wait for the wipe, which *begin*, in seconds of the monotonic clock, calls for."""
        time.sleep(max(0.0, begin - time.monotonic()))
        return _took(begin, *looking.until_zero(self.memory, self.address, self.size))

    @contextmanager
    def apart(self) -> Generator[Callable[[float], Took]]:
        """Look from a process of its own; give what waits for the wipe, by when that was called for.

        For a test that has a part in what it waits for, and in whose own interpreter one keeps the other waiting.
        """
        where = map(str, (self.memory, self.address, self.size))
        command = [sys.executable, "-P", looking.__file__, *where]
        with subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[self.memory]) as process:
            assert process.stdout is not None
            said = process.stdout
            assert said.readline() == b"ready\n"
            yield lambda begin: _took(begin, *map(float, said.readline().split()))

    def after(self, trigger: Callable[[], object]) -> Took:
        """Pull the *trigger*, and wait for the wipe that it calls for."""
        begin = time.monotonic()
        trigger()
        return self.since(begin)


def _took(begin: float, looked: float, end: float) -> Took:
    return Took(end - begin, end - max(begin, looked))


@contextmanager
def watch(pid: int, *others: int, least: int = 32) -> Generator[Watch]:
    """Watch the arena of *pid*, as soon as what it holds spans *least* bytes: a key, if no more is said.

    *others* are processes that have a part in what it waits for.
    """
    [(start, end)] = arena_of(pid)
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)

    def span() -> tuple[int, int]:
        content = os.pread(memory, end - start, start)
        return len(content) - len(content.lstrip(b"\0")), len(content.strip(b"\0"))

    try:
        until(lambda: span()[1] >= least, f"the arena never holds {least} bytes")
        first, size = span()
        with first_in_line(pid, *others):
            yield Watch(memory, start + first, size)
    finally:
        os.close(memory)


@contextmanager
def first_in_line(*pids: int) -> Generator[None]:
    """Let nobody else on this machine delay these processes, nor anybody us, if that may be had: so their time is measured.

    We come before them. Otherwise one of them that wakes up on our processor keeps us from looking for as long as it has
    anything to do: one that stops on a signal, until it has ended.
    """
    ours = os.getpid()
    _schedule(pids, os.SCHED_FIFO, 1)
    _schedule([ours], os.SCHED_FIFO, 2)
    try:
        yield
    finally:
        _schedule([ours, *pids], os.SCHED_OTHER, 0)


def _schedule(pids: Sequence[int], policy: int, priority: int) -> None:
    for pid in pids:
        with suppress(PermissionError, ProcessLookupError, FileNotFoundError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                os.sched_setscheduler(int(thread), policy, os.sched_param(priority))


def told(trials: list[Took]) -> str:
    """Say how long it took, and how well that is known."""
    seconds, unseen = zip(*trials, strict=True)
    return (
        f"median {median(seconds) * 1e3:.2f} ms, at most {max(seconds) * 1e3:.2f} ms,"
        f" known to {max(unseen) * 1e3:.2f} ms"
    )
