"""Processes with a pid of one's choice, as root: what wrapping the pid space gives anybody in a second."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .attackers import Puppet

_PR_SET_CHILD_SUBREAPER = 36
_LAST = Path("/proc/sys/kernel/ns_last_pid")

needs_pids = pytest.mark.skipif(
    os.geteuid() != 0 or not os.access(_LAST, os.W_OK), reason="choosing a pid needs root and ns_last_pid"
)
"""Beside the mark `alone`: whatever else starts meanwhile may take the pid that was chosen, and keep it."""


def sleeper() -> subprocess.Popen[bytes]:
    """Return a process that does nothing until it is killed."""
    return subprocess.Popen(["sleep", "1000"])


def sleeper_with(pid: int) -> subprocess.Popen[bytes]:
    """Return one whose pid is *pid*, which must be free."""
    return started_with(pid, sleeper)


def started_with(
    pid: int, start: Callable[[], subprocess.Popen[bytes]], *, tries: int = 1000
) -> subprocess.Popen[bytes]:
    """Return what *start* starts, with the pid *pid*, which must be free; others may fork in between, hence *tries*."""
    for _ in range(tries):
        _LAST.write_text(str(pid - 1))
        process = start()
        if process.pid == pid:
            return process
        end(process)
    raise AssertionError(f"pid {pid} was not to be had")


@contextmanager
def orphanage() -> Generator[None]:
    """Orphans are this process's meanwhile, so that it can reap them: a pid is free only then; PR_SET_CHILD_SUBREAPER(2const)."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def kill(puppet: Puppet) -> None:
    """Kill a puppet that another forked; on return its pid is free. In an `orphanage`. Killing twice is fine."""
    if puppet.control.fileno() >= 0:
        puppet.die()
        os.waitpid(puppet.pid, 0)


def forked_with(pid: int, puppet: Puppet, *, tries: int = 1000) -> Puppet:
    """Return a grandchild of *puppet* with the pid *pid*, which must be free. In an `orphanage`."""
    for _ in range(tries):
        grandchild = puppet.fork(lambda: _LAST.write_text(str(pid - 1)))
        if grandchild.pid == pid:
            return grandchild
        kill(grandchild)
    raise AssertionError(f"pid {pid} was not to be had")


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill and reap."""
    process.kill()
    process.wait()
