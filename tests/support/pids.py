"""Processes with a pid of one's choice, as root: what wrapping the pid space gives anybody in a second."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

_LAST = Path("/proc/sys/kernel/ns_last_pid")

needs_pids = pytest.mark.skipif(
    os.geteuid() != 0 or not os.access(_LAST, os.W_OK), reason="choosing a pid needs root and ns_last_pid"
)


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


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill and reap."""
    process.kill()
    process.wait()
