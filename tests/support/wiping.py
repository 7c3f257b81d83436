"""When an arena of the kind `mlock` is wiped, as root sees it who reads it again and again from another process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from statistics import median

from .host import until
from .memory import arena_of

PATIENCE = 20.0
"""Seconds that a wipe may take before it counts as none."""
AIM = 0.010
"""Seconds from what calls for a lock to an arena of zeroes."""


@dataclass(frozen=True, slots=True)
class Watch:
    """On all that was not zero in the arena when it began."""

    memory: int
    address: int
    size: int

    def zero(self) -> bool:
        """Whether all of it is zero, or the memory is gone, at this moment."""
        try:
            content = os.pread(self.memory, self.size, self.address)
        except OSError:  # unmapped
            return True
        return content.count(0) == len(content)  # of a process that has ended there is nothing to read

    def wiped_at(self) -> float:
        """Wait for it; return when that was, in seconds of the monotonic clock."""
        deadline = time.monotonic() + PATIENCE
        while not self.zero():
            assert time.monotonic() < deadline, "it is not wiped"
        return time.monotonic()

    def after(self, trigger: Callable[[], object]) -> float:
        """Pull the *trigger*; return the seconds from before that to the wipe."""
        begin = time.monotonic()
        trigger()
        return self.wiped_at() - begin


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
    """Let nobody else on this machine delay these processes, and hardly anybody us, if that may be had.

    Their time is what is measured.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)
    _schedule(pids, os.SCHED_FIFO, 1)
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)
        _schedule(pids, os.SCHED_OTHER, 0)


def _schedule(pids: Sequence[int], policy: int, priority: int) -> None:
    for pid in pids:
        with suppress(PermissionError, ProcessLookupError, FileNotFoundError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                os.sched_setscheduler(int(thread), policy, os.sched_param(priority))


def told(seconds: list[float]) -> str:
    """Say how long it took."""
    return f"median {median(seconds) * 1e3:.2f} ms, at most {max(seconds) * 1e3:.2f} ms"
