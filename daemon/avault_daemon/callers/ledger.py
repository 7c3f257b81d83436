"""The file that says which process holds which plugin, for the daemon that comes next.

``bindings.jsonl`` of the runtime directory: a line with this boot's id, then one for each holder, in the order in which they
came: agent, plugin, pid, start time. A holder is added by one write, since everybody waits for it. Those that have died
stay (they match no process), until the file is written anew.

Nothing is synced: a crash of the daemon loses nothing that was written, and after a power cut the boot id is another, and
all of it is void. What a crash cut short is the last line, without its end, and was never answered.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from avault_protocol import is_agent_name

from ..files import APPEND, Files

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

Entry = tuple[str, str, int, int]
"""(agent, plugin, pid, start time)."""

MAX_ADDED = 4096
"""Lines that are added before the file is written anew."""
MAX_FILE = 8 * 1024 * 1024
_FILES = Files()


class Ledger:
    """The file *path*; *boot* is this boot's id."""

    def __init__(self, path: Path, boot: str) -> None:
        self.path = path
        self._boot = boot
        self._file = -1  # until this daemon has written it
        self._added = 0

    def add(self, entry: Entry, everything: Iterable[Entry]) -> None:
        """Write down *entry*, which is also in *everything*, of which the file consists if it is written anew.

        OSError: it is not written down.
        """
        if self._file < 0 or self._added >= MAX_ADDED or not os.fstat(self._file).st_nlink:
            self._begin(everything)
            return
        try:
            _FILES.write_all(self._file, _line(list(entry)))
        except OSError:
            self.close()  # and so the half of a line, if it is one, is the last
            raise
        self._added += 1

    def _begin(self, everything: Iterable[Entry]) -> None:
        """Write the file beside, then rename it."""
        beside = self.path.with_suffix(".new")
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()
        file = _FILES.open(beside, APPEND | os.O_CREAT | os.O_EXCL)
        try:
            _FILES.write_all(
                file, b"".join([_line({"boot": self._boot}), *(_line(list(one)) for one in everything)])
            )
            beside.rename(self.path)
        except BaseException:
            os.close(file)
            raise
        self.close()
        self._file, self._added = file, 0

    def read(self) -> list[Entry]:
        """Return the entries, none if they are of an earlier boot; OSError, or ValueError if the file is not ours."""
        with open(self.path, "rb", opener=_open_plainly) as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.geteuid():
                raise ValueError(f"it belongs to uid {status.st_uid}")
            if status.st_size > MAX_FILE:
                raise ValueError(f"it has more than {MAX_FILE} bytes")
            content = file.read(MAX_FILE)
        boot, entries = parse(content)
        return entries if boot == self._boot else []

    def close(self) -> None:
        """Close the file, which stays."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _open_plainly(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)  # neither led elsewhere nor held up by a pipe


def _line(content: Json) -> bytes:
    return json.dumps(content).encode("ascii") + b"\n"


def parse(content: bytes) -> tuple[str, list[Entry]]:
    """Return the boot id and the entries of a file, without what follows its last line end; else ValueError."""
    head, *lines, _ = content.split(b"\n") if b"\n" in content else (b"", b"")
    match _loaded(head):
        case {"boot": str(boot), **rest} if not rest:
            entries = [_entry(_loaded(line)) for line in lines]
        case _:
            raise ValueError("its first line is no boot id")
    if len(set(entries)) != len(entries):
        raise ValueError("a holder is named twice")
    return boot, entries


def _loaded(line: bytes) -> Json:
    try:
        document: Json = json.loads(line)
    except RecursionError:
        raise ValueError("too deeply nested") from None
    return document


def _entry(holder: Json) -> Entry:
    match holder:
        case [str(agent), str(plugin), int(pid), int(started)] if (
            is_agent_name(agent)
            and is_agent_name(plugin)
            and type(pid) is type(started) is int  # true is an int, too
            and 0 < pid <= 2**22  # PID_MAX_LIMIT, proc_sys_kernel(5)
            and 0 <= started < 2**63
        ):
            return agent, plugin, pid, started
        case _:
            raise ValueError("an entry is no [agent, plugin, pid, start time]")
