"""The vault file on its disk: the anchor decides what is believed, and no failing call makes a mixture."""

from __future__ import annotations

import errno
import os
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from avault_daemon.anchor import Anchor, Point
from avault_daemon.files import beside
from avault_daemon.vault.eventlog import Log
from avault_daemon.vault.logfile import MAX_SIZE, LogFile, point_of, read_bounded
from avault_protocol import (
    AvaultError,
    BusyError,
    CorruptError,
    RollbackError,
    StorageFailedError,
    TooLargeError,
)
from support.faults import FaultyFiles
from support.logs import AGENT, SECRET, SLOT, Writer, written

WRITTEN = written()
DATA = WRITTEN.data
LINES = DATA.splitlines(keepends=True)
FIRST, SECOND = b"".join(LINES[:3]), b"".join(LINES[:6])
OTHER = written().data
MORE = WRITTEN.close(WRITTEN.line(AGENT, "{}"))
"""A transaction that continues DATA."""
COMPACTED = WRITTEN.compacted()
"""What takes the place of DATA: the lines that count."""


def point(data: bytes) -> Point:
    return point_of(Log(data).chain)


class Disk:
    """A vault file and its anchor, across restarts."""

    def __init__(self, path: Path) -> None:
        self.files = FaultyFiles()
        self.path = path / "vault.jsonl"
        self.torn = path / "vault.jsonl.torn"
        self.anchor = Anchor(path / "anchor.json", self.files)

    def lay(self, data: bytes | None, current: bytes | None, following: bytes | None = None) -> None:
        """Put a file there, and an anchor that knows it, or others, for the current and the next one."""
        if data is not None:
            self.path.write_bytes(data)
        self.anchor.update()  # so that there is one that the next can take the place of
        known = [None if data is None else point(data) for data in (current, following)]
        self.anchor.update(current=known[0], next=known[1])

    def opened(self) -> LogFile:
        """A new daemon reads what is there."""
        self.files.heal()
        self.anchor.load()
        file = LogFile(self.path, self.anchor, self.files)
        file.open()
        return file


@pytest.fixture
def disk(quick: Path) -> Disk:
    return Disk(quick)


# --- opening ------------------------------------------------------------------------------------------------------


def test_no_file_and_no_anchor_is_no_vault(disk: Disk) -> None:
    file = LogFile(disk.path, disk.anchor, disk.files)
    assert file.open() is None
    assert file.warnings == []


def test_first_use_is_said_aloud(disk: Disk) -> None:
    disk.path.write_bytes(DATA)
    file = disk.opened()
    assert file.chain.public == WRITTEN.seal.public
    assert ["first use" in warning for warning in file.warnings] == [True]
    assert disk.anchor.current == point(DATA)
    assert disk.opened().warnings == []


def test_an_exact_match_writes_nothing(disk: Disk) -> None:
    disk.lay(DATA, DATA)
    disk.opened()
    assert disk.files.calls == []


def test_commits_beyond_the_anchor_are_accepted_once_they_are_on_the_disk(disk: Disk) -> None:
    disk.lay(DATA, FIRST)
    file = disk.opened()
    assert file.warnings == []
    assert disk.anchor.current == point(DATA)
    assert disk.files.calls[:3] == ["open", "fsync", "fsync"]  # the file and its directory, then the anchor


@pytest.mark.parametrize("data", [FIRST, SECOND, DATA])
@pytest.mark.parametrize("anchored", [FIRST, SECOND, DATA])
def test_less_than_the_anchor_is_a_rollback(disk: Disk, data: bytes, anchored: bytes) -> None:
    disk.lay(data, anchored)
    if len(data) < len(anchored):
        with pytest.raises(RollbackError, match="line"):
            disk.opened()
    else:
        assert disk.opened().chain.head == Log(data).chain.head


def test_every_truncation_is_less_than_the_anchor(disk: Disk) -> None:
    disk.lay(DATA, DATA)
    for size in reversed(range(len(DATA))):
        os.truncate(disk.path, size)
        with pytest.raises((RollbackError, CorruptError), match="line"):
            disk.opened()
        assert disk.path.stat().st_size == size
    assert disk.anchor.current == point(DATA)


def test_every_byte_flipped_is_an_error(disk: Disk) -> None:
    disk.lay(DATA, DATA)
    for index in range(len(DATA)):
        disk.path.write_bytes(DATA[:index] + bytes([DATA[index] ^ 1]) + DATA[index + 1 :])
        with pytest.raises((RollbackError, CorruptError), match="line"):
            disk.opened()


def test_a_missing_file_is_a_rollback(disk: Disk) -> None:
    disk.lay(None, DATA)
    with pytest.raises(RollbackError, match="gone"):
        disk.opened()


def test_another_vault_is_an_error_before_anything_else(disk: Disk) -> None:
    disk.lay(OTHER, DATA)
    with pytest.raises(CorruptError, match="another key"):
        disk.opened()


def test_another_history_of_the_same_vault_is_a_rollback(disk: Disk) -> None:
    fork = SECOND + Writer.close(forked(), forked().line(SECRET, "EEEE"))
    disk.lay(fork, DATA)
    with pytest.raises(RollbackError):
        disk.opened()


@pytest.mark.parametrize("more", [0, 1])
def test_a_compaction_of_what_the_anchor_knows_is_accepted(disk: Disk, more: int) -> None:
    writer = Writer()
    writer.seal, writer.data = WRITTEN.seal, COMPACTED
    there = COMPACTED + more * writer.close(writer.line(AGENT, "{}"))
    disk.lay(there, DATA)
    assert disk.opened().warnings == []
    assert disk.anchor.current == point(there)


@pytest.mark.parametrize("anchored", [FIRST, SECOND, DATA + MORE])
def test_a_compaction_of_anything_else_is_a_rollback(disk: Disk, anchored: bytes) -> None:
    disk.lay(COMPACTED, anchored)
    with pytest.raises(RollbackError):
        disk.opened()


def test_a_new_key_says_in_vain_that_it_follows_what_the_anchor_knows(disk: Disk) -> None:
    writer = Writer()
    writer.data = DATA
    disk.lay(writer.compacted(), DATA)
    with pytest.raises(CorruptError, match="another key"):
        disk.opened()


def forked() -> Writer:
    writer = Writer()
    writer.seal, writer.data = WRITTEN.seal, SECOND
    return writer


@pytest.mark.parametrize(
    "tail",
    [MORE[:1], MORE[:-1], MORE[: MORE.index(b"\n") + 1], b"\0" * 512, MORE[:99] + b"\0"],
    ids=count(),
)
def test_an_unacknowledged_tail_is_set_aside(disk: Disk, tail: bytes) -> None:
    disk.lay(DATA + tail, DATA)
    file = disk.opened()
    assert ["never finished (line 9)" in warning for warning in file.warnings] == [True]
    assert (disk.path.read_bytes(), disk.torn.read_bytes()) == (DATA, tail)
    assert disk.torn.stat().st_mode & 0o777 == 0o600
    assert disk.opened().warnings == []


def test_a_truncated_last_write_is_set_aside_and_written_anew(disk: Disk) -> None:
    for size in range(1, len(MORE), 7):
        disk.lay(DATA + MORE[:size], DATA)
        disk.opened().append(MORE)
        assert disk.path.read_bytes() == DATA + MORE


def test_every_byte_flipped_in_an_unacknowledged_write_is_an_error_or_set_aside(disk: Disk) -> None:
    disk.lay(DATA, DATA)
    for index in range(len(MORE)):
        flipped = MORE[:index] + bytes([MORE[index] ^ 2]) + MORE[index + 1 :]
        disk.path.write_bytes(DATA + flipped)
        try:
            disk.opened()
        except CorruptError as error:
            assert any(f"line {number} " in error.message for number in (9, 10, 11))  # noqa: PT017
        else:
            assert (disk.path.read_bytes(), disk.torn.read_bytes()) == (DATA, flipped)


def test_a_tail_behind_less_than_the_anchor_stays_where_it_is(disk: Disk) -> None:
    disk.lay(DATA[:-1], DATA)
    with pytest.raises(RollbackError, match="line 6"):
        disk.opened()
    assert not disk.torn.exists()


@pytest.mark.parametrize("there", [DATA, OTHER])
def test_while_a_file_takes_its_place_it_may_be_either(disk: Disk, there: bytes) -> None:
    disk.lay(there, DATA, OTHER)
    disk.opened()
    assert (disk.anchor.current, disk.anchor.next) == (point(there), None)


@pytest.mark.parametrize("there", [FIRST, DATA + MORE])
def test_but_it_may_be_nothing_else(disk: Disk, there: bytes) -> None:
    disk.lay(there, DATA, OTHER)
    with pytest.raises(RollbackError, match="being put here"):
        disk.opened()


def test_a_first_vault_that_was_never_finished_is_none(disk: Disk) -> None:
    beside(disk.path).write_bytes(DATA)
    disk.lay(None, None, DATA)
    file = disk.opened()
    assert file.chain.head is None
    assert disk.anchor.next is None
    assert not beside(disk.path).exists()


def test_a_first_vault_in_its_place_is_taken(disk: Disk) -> None:
    disk.lay(DATA, None, DATA)
    assert disk.opened().warnings == []
    assert disk.anchor.current == point(DATA)


def test_a_symbolic_link_is_not_followed(disk: Disk, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(DATA)
    disk.path.symlink_to(elsewhere)
    with pytest.raises(StorageFailedError):
        disk.opened()


def test_one_daemon_a_vault(disk: Disk) -> None:
    first, second = (LogFile(disk.path, disk.anchor, disk.files) for _ in range(2))
    first.lock()
    with pytest.raises(BusyError, match="another avaultd"):
        second.lock()
    first.unlock()
    first.unlock()
    second.lock()
    second.unlock()


# --- writing ------------------------------------------------------------------------------------------------------


def test_the_order_of_an_append(disk: Disk) -> None:
    disk.lay(DATA, DATA)
    disk.opened().append(MORE)
    assert disk.files.calls == APPEND_CALLS


def test_the_order_of_a_replacement(disk: Disk) -> None:
    disk.lay(DATA, DATA)
    disk.opened().replace(OTHER)
    assert disk.files.calls == REPLACE_CALLS


def test_the_order_of_a_compaction(disk: Disk) -> None:
    disk.lay(DATA, DATA)
    disk.opened().replace(COMPACTED)
    assert disk.files.calls == COMPACT_CALLS
    assert (disk.anchor.current, disk.anchor.next) == (point(COMPACTED), None)


def test_the_anchor_expects_a_compaction_too_where_it_expects_another(disk: Disk) -> None:
    """So it is after a replacement that failed, if the file cannot be used."""
    disk.lay(DATA, DATA, OTHER)
    disk.anchor.load()
    disk.files.heal()
    LogFile(disk.path, disk.anchor, disk.files).replace(COMPACTED)
    assert disk.files.calls == REPLACE_CALLS


def test_a_new_file_is_for_its_owner_alone(disk: Disk) -> None:
    disk.opened().replace(DATA)
    assert disk.path.stat().st_mode & 0o777 == 0o600


def test_appends_and_replacements_can_be_read(disk: Disk) -> None:
    file = disk.opened()
    assert [line.d for line in file.replace(FIRST)] == [SLOT, SECRET]
    assert [line.d for line in file.append(DATA[len(FIRST) : len(SECOND)])] == [AGENT, SECRET]
    assert [line.d for line in disk.opened().append(DATA[len(SECOND) :])] == [SECRET]
    assert disk.path.read_bytes() == DATA


@pytest.mark.parametrize("bad", [LINES[0], MORE[:-1], MORE + MORE, DATA, OTHER, b""])
def test_what_would_not_be_read_is_not_written(disk: Disk, bad: bytes) -> None:
    disk.lay(DATA, DATA)
    file = disk.opened()
    with pytest.raises(AvaultError):
        file.append(bad)
    assert disk.path.read_bytes() == DATA
    file.append(MORE)


@pytest.mark.parametrize("bad", [b"", DATA[:-1], DATA + MORE[:-5], FIRST + DATA[len(SECOND) :]])
def test_no_file_that_would_not_be_read_takes_its_place(disk: Disk, bad: bytes) -> None:
    disk.lay(DATA, DATA)
    file = disk.opened()
    with pytest.raises(CorruptError):
        file.replace(bad)
    assert disk.path.read_bytes() == DATA
    file.append(MORE)


def test_a_file_that_something_else_has_changed_is_not_appended_to(disk: Disk) -> None:
    disk.lay(DATA, DATA)
    file = disk.opened()
    disk.path.write_bytes(FIRST)
    with pytest.raises(StorageFailedError, match="something else"):
        file.append(MORE)
    assert disk.path.read_bytes() == FIRST


ANCHOR_CALLS = ["open", "write", "truncate", "fdatasync", "exchange", "fsync"]
APPEND_CALLS = ["open", "write", "fdatasync", *ANCHOR_CALLS]
COMPACT_CALLS = ["open", "write", "fsync", "rename", "fsync", *ANCHOR_CALLS]
REPLACE_CALLS = ["open", "write", "fsync", *ANCHOR_CALLS, "rename", "fsync", *ANCHOR_CALLS]


def faults(calls: list[str]) -> list[tuple[int, dict[str, Any]]]:
    """Every way in which each of these calls may fail."""
    kinds: list[dict[str, Any]] = [
        {},
        {"code": errno.ENOSPC},
        {"done": True},
        {"dead": True},
        {"dead": True, "done": True},
    ]
    short: list[dict[str, Any]] = [{"short": True}, {"short": True, "dead": True}]
    return [
        (at, fault)
        for at, call in enumerate(calls, 1)
        for fault in (kinds + short if call == "write" else kinds)
    ]


@pytest.mark.parametrize(("at", "fault"), faults(APPEND_CALLS), ids=str)
def test_each_call_of_an_append_that_fails(disk: Disk, at: int, fault: dict[str, Any]) -> None:
    """Never acknowledged, nothing written any more, and a restart finds the old state or the new one."""
    disk.lay(DATA, DATA)
    file = disk.opened()
    disk.files.fail(at, **fault)
    with pytest.raises(StorageFailedError):
        file.append(MORE)
    disk.files.heal()
    with pytest.raises(StorageFailedError, match="restart"):
        file.append(MORE)
    assert disk.files.calls == []
    assert disk.opened().chain.head in (Log(DATA).chain.head, Log(DATA + MORE).chain.head)
    assert disk.path.read_bytes() in (DATA, DATA + MORE)


REPLACEMENTS = [
    (data, at, fault)
    for data, calls in ((OTHER, REPLACE_CALLS), (COMPACTED, COMPACT_CALLS))
    for at, fault in faults(calls)
]


@pytest.mark.parametrize(
    ("data", "at", "fault"), REPLACEMENTS, ids=lambda value: "" if isinstance(value, bytes) else str(value)
)
def test_each_call_of_a_replacement_that_fails(
    disk: Disk, data: bytes, at: int, fault: dict[str, Any]
) -> None:
    disk.lay(DATA, DATA)
    file = disk.opened()
    disk.files.fail(at, **fault)
    with pytest.raises(StorageFailedError):
        file.replace(data)
    disk.files.heal()
    with pytest.raises(StorageFailedError, match="restart"):
        file.replace(data)
    disk.opened()
    assert disk.path.read_bytes() in (DATA, data)
    assert (disk.anchor.current, disk.anchor.next) == (point(disk.path.read_bytes()), None)
    assert not beside(disk.path).exists()


SETTLE_CALLS = 17
SET_ASIDE_CALLS = range(2, 9)


@pytest.mark.parametrize("fault", [{}, {"dead": True}, {"dead": True, "done": True}], ids=str)
@pytest.mark.parametrize("at", range(1, SETTLE_CALLS + 1))
def test_each_call_of_an_opening_that_fails(disk: Disk, at: int, fault: dict[str, Any]) -> None:
    """A torn tail, a commit that the anchor does not know, a leftover: a restart in the middle changes nothing."""
    disk.lay(DATA + MORE[:-1], FIRST)
    beside(disk.path).write_bytes(b"left over")
    disk.anchor.load()
    disk.files.fail(at, **fault)
    file = LogFile(disk.path, disk.anchor, disk.files)
    if at in SET_ASIDE_CALLS and not fault:
        assert file.open() == Log(DATA).lines  # what is whole can be read
        assert "(line 9), which cannot be moved away: " in file.warnings[-1]
        with pytest.raises(StorageFailedError, match="restart"):
            file.append(MORE)
    else:
        with pytest.raises(StorageFailedError):
            file.open()
    disk.opened()
    assert disk.path.read_bytes() == DATA
    assert disk.torn.read_bytes() == MORE[:-1]
    assert disk.anchor.current == point(DATA)


def test_the_calls_of_that_opening_are_all_counted(disk: Disk) -> None:
    disk.lay(DATA + MORE[:-1], FIRST)
    beside(disk.path).write_bytes(b"left over")
    disk.opened()
    assert len(disk.files.calls) == SETTLE_CALLS


# --- limits -------------------------------------------------------------------------------------------------------


def test_the_largest_file_is_read_and_no_larger_one(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    path.touch()
    fd = os.open(path, os.O_RDONLY)
    try:
        os.truncate(path, MAX_SIZE)
        assert len(read_bounded(fd)) == MAX_SIZE
        os.lseek(fd, 0, os.SEEK_SET)
        os.truncate(path, MAX_SIZE + 1)
        with pytest.raises(TooLargeError):
            read_bounded(fd)
    finally:
        os.close(fd)


def test_nothing_is_written_beyond_the_limit(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avault_daemon.vault.logfile.MAX_SIZE", len(DATA) + len(MORE))
    disk.lay(DATA, DATA)
    file = disk.opened()
    with pytest.raises(TooLargeError):
        file.append(MORE + b" ")
    file.append(MORE)
    with pytest.raises(TooLargeError):
        file.replace(DATA + MORE + b" ")
    file.replace(DATA + MORE)
