"""Daemons that are wrong on purpose: each campaign must convict its own, or it shows nothing.

A weakness is put into a process that is thrown away (`support.forked`), or is taken back by the test.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from avault_daemon.audit import Record
from avault_daemon.files import ANEW, Files
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


WEAKNESSES: dict[str, list[Patch]] = {
    "in place": [(Files, "put_in_place", _over_it)],
    "unsynced": [(Files, "fsync", _nothing), (Files, "fdatasync", _nothing)],
    "hopeful": [(Files, "write_all", _write_and_hope)],
    "unrecorded": [(Record, "flush", _flush_and_hope)],
    "unanchored": [(LogFile, "_compare", _nothing)],
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
