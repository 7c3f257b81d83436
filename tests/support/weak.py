"""Daemons that are wrong on purpose: each campaign must convict its own, or it shows nothing.

A weakness is put into a process that is thrown away (`support.forked`), or is taken back by the test.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from avault_daemon.audit import Record
from avault_daemon.callers import caller, processes
from avault_daemon.callers.bindings import Bindings
from avault_daemon.callers.caller import Credentials, credentials
from avault_daemon.callers.policy import Agent, Caller, Selectors, Service
from avault_daemon.callers.processes import Process, Processes
from avault_daemon.files import ANEW, Files
from avault_daemon.memory.arena import Arena, Slot
from avault_daemon.serving import server
from avault_daemon.vault import eventlog
from avault_daemon.vault.logfile import LogFile
from avault_protocol import AuditFailedError

Patch = tuple[Any, str, Callable[..., Any]]


def _nothing(*_: object) -> None:
    return None


def _over_it(self: Files, new: Path, path: Path) -> None:
    """Write over what is there, as a program does that opens, truncates and writes."""
    fd = self.open(path, ANEW)
    for byte in new.read_bytes():
        os.write(fd, bytes([byte]))
    os.fsync(fd)
    os.close(fd)


def _write_and_hope(self: Files, fd: int, data: bytes | memoryview) -> None:
    with suppress(OSError):
        self.write(fd, data)


_flush = Record.flush


def _flush_and_hope(self: Record) -> None:
    with suppress(AuditFailedError):
        _flush(self)


def _always(*_: object) -> bool:
    return True


_fit = Selectors.fit


def _or_by_program(program: str) -> Callable[[Selectors, Caller, Service], bool]:
    """Take for the agent who runs *program*, too."""

    def fit(self: Selectors, caller: Caller, service: Service) -> bool:
        return caller.exe == program or _fit(self, caller, service)

    return fit


def _by_pid_alone(connection: socket.socket) -> Credentials:
    """Take the caller for whoever has its pid by now."""
    connected = credentials(connection)
    try:
        return connected._replace(uid=os.stat(f"/proc/{connected.pid}").st_uid)
    except FileNotFoundError:
        return connected


def _opened_by_number(connection: socket.socket, pid: int) -> tuple[int, bool]:
    return os.pidfd_open(pid), True


def _innermost(path: str) -> str | None:
    """Believe whoever made the cgroup, be it a user's manager or another unit."""
    name = path.rpartition("/")[2]
    return name if name.endswith(".service") else None


def _bind_anyway(self: Bindings, agent: str, plugin: str, process: Process, instances: int = 1) -> None:
    """Keep no plugin for the process that has it."""


def _no_deaths(self: Processes) -> list[Process]:
    return []


_hoard: list[bytes] = []
_give_back, _wipe = Arena.give_back, Arena.wipe


def _give_back_and_keep(self: Arena, slot: Slot) -> None:
    if slot in self._taken:  # pyright: ignore[reportPrivateUsage]
        _hoard.append(bytes(slot.view))
    _give_back(self, slot)


def _wipe_and_keep(self: Arena) -> None:
    _hoard.extend(bytes(slot.view) for slot in self._taken)  # pyright: ignore[reportPrivateUsage]
    _wipe(self)


WEAKNESSES: dict[str, list[Patch]] = {
    "in place": [(Files, "put_in_place", _over_it), (Files, "exchange", _over_it)],
    "unsynced": [(Files, "fsync", _nothing), (Files, "fdatasync", _nothing)],
    "hopeful": [(Files, "write_all", _write_and_hope)],
    "unrecorded": [(Record, "flush", _flush_and_hope)],
    "hoarding": [(Arena, "give_back", _give_back_and_keep), (Arena, "wipe", _wipe_and_keep)],
    "unanchored": [(LogFile, "_compare", _nothing)],
    "by name": [(Agent, "fits", _always)],
    "by sleep": [(Selectors, "fit", _or_by_program(os.path.realpath(shutil.which("sleep") or "")))],
    "by python": [(Selectors, "fit", _or_by_program(os.path.realpath(sys.executable)))],
    "by pid": [(caller, "_pidfd_of_peer", _opened_by_number), (server, "credentials", _by_pid_alone)],
    "by any unit": [(caller, "_outermost", _innermost)],
    "unheld": [(Bindings, "bind", _bind_anyway)],
    "deathless": [
        (processes, "alive", _always),
        (caller, "alive", _always),
        (Processes, "dead", _no_deaths),
        (Bindings, "bind", _bind_anyway),
    ],
    "credulous": [
        (eventlog, "_genuine", _always),
        (sys.modules["avault_daemon.audit.verify"], "signed_by", _always),
    ],
}


def weaken(name: str) -> list[Patch]:
    """Make what this process holds weak; return what takes it back, for `restore`."""
    before = [(owner, attribute, getattr(owner, attribute)) for owner, attribute, _ in WEAKNESSES[name]]
    restore(WEAKNESSES[name])
    return before


def restore(patches: list[Patch]) -> None:
    """Put *patches* in force."""
    for owner, attribute, function in patches:
        setattr(owner, attribute, function)
