"""The anchor: what this machine remembers of the vault and of the record, outside both.

It tells an old vault file from the current one, and a shortened record from a whole one. It does not resist someone
who can write the state directory.

`anchor.json`, one JSON object::

    {"vault": "<public key>", "generation": 7, "commit": "<id>", "next": null, "record": {"number": 9, "hash": "<hex>"}}

*next* is a second vault, generation and commit, there only while a file takes the place of the vault file: until that
is settled the vault file may be either. Before the first vault *vault*, *generation* and *commit* are null.
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict, Unpack, cast

from avault_protocol import CorruptError, StorageFailedError

from .files import Files, beside

_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Point:
    """A place in a vault's history: its public key (hex), a generation, and the id of that commit (hex)."""

    vault: str
    generation: int
    commit: str


@dataclass(frozen=True, slots=True)
class Memory:
    """What an anchor holds. *record* is the number and the hash (hex) of the record's last synced checkpoint."""

    current: Point | None = None
    next: Point | None = None
    record: tuple[int, str] | None = None


class Changes(TypedDict, total=False):
    """What `Anchor.update` takes."""

    current: Point | None
    next: Point | None
    record: tuple[int, str] | None


class Anchor:
    """The anchor at *path*; empty until `load`. Thread-safe; `load` and `update` block."""

    def __init__(self, path: Path, files: Files | None = None) -> None:
        self.path = path
        self._old = beside(path)
        self._files = files or Files()
        self._lock = threading.Lock()
        self._memory = Memory()
        self._old_is_free = False

    @property
    def current(self) -> Point | None:
        """Where the vault file stood last; None before the first vault."""
        return self._memory.current

    @property
    def next(self) -> Point | None:
        """Where the file stands that is about to take the vault file's place."""
        return self._memory.next

    @property
    def record(self) -> tuple[int, str] | None:
        """Number and hash of the record's last checkpoint that was synced."""
        return self._memory.record

    def load(self) -> None:
        """Read the file; a missing one is empty. `CorruptError` if it cannot be read or is no anchor."""
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            raw = None
        except OSError as error:
            raise self._unreadable((error.strerror or "it cannot be read").lower()) from error
        with self._lock:
            self._memory = Memory() if raw is None else self._parse(raw)

    def update(self, **changes: Unpack[Changes]) -> None:
        """Change what is remembered; on return it is on the disk.

        `StorageFailedError`: the file holds the old memory or the new one, this object still the old one.
        """
        with self._lock:
            memory = replace(self._memory, **changes)
            try:
                self._write(_dump(memory))
            except OSError as error:
                raise StorageFailedError(
                    f"the anchor {self.path} could not be written: {error.strerror}"
                ) from error
            self._memory = memory

    def _write(self, data: bytes) -> None:
        # What lies beside the anchor is the one before it, and is written over: to make a file and to free another
        # takes the disk as long again. But only if it has lost its name for good, on the disk too.
        free, self._old_is_free = self._old_is_free, False
        if not free:
            with suppress(FileNotFoundError):
                self._files.unlink(self._old)
        self._files.write_over(self._old, data)
        if not self._files.exchange(self._old, self.path):
            self._files.rename(self._old, self.path)
        self._files.sync_directory(self.path.parent)
        self._old_is_free = True

    def _parse(self, raw: bytes) -> Memory:
        try:
            memory = _memory(json.loads(raw))
        except (ValueError, RecursionError, KeyError, TypeError):
            raise self._unreadable("it is not what avault wrote") from None
        if _dump(memory) != raw:
            raise self._unreadable("it is not what avault wrote")
        return memory

    def _unreadable(self, why: str) -> CorruptError:
        return CorruptError(
            f"the anchor {self.path} is unreadable: {why}",
            hint="put it back from a backup, or move it away: then the vault file is taken as it is, old or not",
        )


def _dump(memory: Memory) -> bytes:
    record = memory.record and {"number": memory.record[0], "hash": memory.record[1]}
    following = memory.next and _point_json(memory.next)
    whole = {**_point_json(memory.current), "next": following, "record": record}
    return json.dumps(whole).encode("ascii") + b"\n"


def _point_json(point: Point | None) -> dict[str, object]:
    if point is None:
        return {"vault": None, "generation": None, "commit": None}
    return {"vault": point.vault, "generation": point.generation, "commit": point.commit}


def _memory(value: dict[str, dict[str, object] | None]) -> Memory:
    # Whatever is missing, superfluous or of another form shows when the outcome is dumped and compared.
    following, record = value["next"], value["record"]
    return Memory(
        current=None if value["vault"] is None else _point(cast("dict[str, object]", value)),
        next=following if following is None else _point(following),
        record=record if record is None else (_whole(record["number"]), _hex64(record["hash"])),
    )


def _point(value: dict[str, object]) -> Point:
    return Point(_hex64(value["vault"]), _whole(value["generation"]), _hex64(value["commit"]))


def _whole(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(value)
    return value


def _hex64(value: object) -> str:
    if not isinstance(value, str) or len(value) != 64 or not _HEX.issuperset(value):
        raise TypeError(value)
    return value
