"""Log lines: to the journal by its own protocol, with fields, or as plain text."""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from avault_daemon.audit.echo import echo
from avault_daemon.audit.lines import Entry, note
from avault_daemon.systemd import journal
from avault_daemon.systemd.journal import (
    MAX_VALUE,
    JournalHandler,
    encode,
    fields_of,
    handler,
    leads_to_journal,
)


def decode(datagram: bytes) -> list[tuple[str, str]]:
    """Return the fields of one datagram, read as systemd's JOURNAL_NATIVE_PROTOCOL says."""
    fields: list[tuple[str, str]] = []
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if equals:
            datagram = rest
        else:
            [size] = struct.unpack_from("<Q", rest)
            value, datagram = rest[8 : 8 + size], rest[9 + size :]
            assert rest[8 + size : 9 + size] == b"\n"
        fields.append((name.decode("ascii"), value.decode("utf-8")))
    return fields


def line(message: str = "it is so", level: int = logging.INFO, **fields: object) -> logging.LogRecord:
    record = logging.LogRecord(
        "avault_daemon.callers.gate", level, "/x/gate.py", 7, message, (), None, "allow"
    )
    vars(record).update(fields)
    return record


class Journald:
    """A socket such as the journal's."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "socket")
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sock.bind(self.path)

    def receive(self) -> dict[str, str]:
        return dict(decode(self._sock.recv(1 << 20)))

    def close(self) -> None:
        self._sock.close()

    def handler(self) -> JournalHandler:
        made = handler({"JOURNAL_STREAM": stream(2)}, path=self.path)
        assert isinstance(made, JournalHandler)
        return made


def stream(descriptor: int) -> str:
    status = os.fstat(descriptor)
    return f"{status.st_dev}:{status.st_ino}"


@pytest.fixture
def journald(tmp_path: Path) -> Generator[Journald]:
    there = Journald(tmp_path)
    yield there
    there.close()


names = st.from_regex(r"[A-Z][A-Z0-9_]{0,63}", fullmatch=True)


@given(st.lists(st.tuples(names, st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=200))))
def test_any_fields_are_read_back_as_they_were(fields: list[tuple[str, str]]) -> None:
    assert decode(encode(fields)) == fields


@given(st.text(alphabet="aä€\n", min_size=1, max_size=30), st.integers(MAX_VALUE // 3, MAX_VALUE + 3))
def test_a_value_has_a_bound_and_stays_text(piece: str, length: int) -> None:
    value = (piece * length)[:length]
    [(_, shown)] = decode(encode([("MESSAGE", value)]))
    size = len(value.encode())
    assert shown == value if size <= MAX_VALUE else MAX_VALUE - 3 < len(shown.encode()) <= MAX_VALUE
    assert value.startswith(shown)


def test_a_value_at_its_bound_is_whole_and_one_byte_more_is_cut() -> None:
    for size in (MAX_VALUE, MAX_VALUE + 1):
        assert len(decode(encode([("MESSAGE", "x" * size)]))[0][1]) == MAX_VALUE


def test_what_is_no_text_is_spelled_out() -> None:
    assert decode(encode([("AVAULT_EXE", "/bin/\udcff")])) == [("AVAULT_EXE", "/bin/\\udcff")]


def test_a_line_has_its_message_level_place_and_fields(journald: Journald) -> None:
    there = journald.handler()
    there.handle(line("two\nlines", logging.WARNING, avault_agent="cobot", avault_unit=None, other="hidden"))
    there.close()
    assert journald.receive() == {
        "MESSAGE": "two\nlines",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "avaultd",
        "SYSLOG_PID": str(os.getpid()),
        "LOGGER": "avault_daemon.callers.gate",
        "CODE_FILE": "/x/gate.py",
        "CODE_LINE": "7",
        "CODE_FUNC": "allow",
        "AVAULT_AGENT": "cobot",
    }


@pytest.mark.parametrize(
    ("level", "priority"),
    [(10, 7), (19, 7), (20, 6), (29, 6), (30, 4), (39, 4), (40, 3), (50, 3)],
)
def test_levels_are_those_of_the_journal(level: int, priority: int) -> None:
    assert journal.priority(level) == priority


def test_a_traceback_is_not_sent() -> None:
    record = line()
    try:
        raise ValueError("what a client sent")
    except ValueError as error:
        record.exc_info = (ValueError, error, error.__traceback__)
    assert "what a client sent" not in str(dict(fields_of(record)))


def test_only_the_descriptor_that_systemd_made_leads_to_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        number = log.fileno()
        assert leads_to_journal({"JOURNAL_STREAM": stream(number)}, number)
        assert not leads_to_journal({"JOURNAL_STREAM": stream(number)}, 2)
        assert not leads_to_journal({"JOURNAL_STREAM": "8:1"}, number)
        assert not leads_to_journal({"JOURNAL_STREAM": ""}, number)
        assert not leads_to_journal({}, number)
    assert not leads_to_journal({"JOURNAL_STREAM": "8:1"}, number)


def test_elsewhere_a_line_is_plain_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for environ in ({}, {"JOURNAL_STREAM": stream(2)}):  # the second: there is no socket
        handler(environ, path=str(tmp_path / "none")).handle(line(avault_agent="cobot"))
    assert capsys.readouterr().err == "INFO avault_daemon.callers.gate: it is so\n" * 2


def test_what_the_journal_has_no_room_for_is_counted_and_nobody_waits(journald: Journald) -> None:
    there = journald.handler()
    for _ in range(10_000):
        there.handle(line())
    received = 0
    while True:
        try:
            journald.receive()
        except BlockingIOError:
            break
        received += 1
    there.handle(line())
    there.handle(line())
    there.close()
    assert 0 < received < 10_000
    assert journald.receive()["MESSAGE"] == f"it is so ({10_000 - received} lines before this one were lost)"
    assert journald.receive()["MESSAGE"] == "it is so"


def test_without_a_journal_lines_go_to_standard_error(
    journald: Journald, capsys: pytest.CaptureFixture[str]
) -> None:
    there = journald.handler()
    journald.close()
    there.handle(line("it is gone", logging.ERROR))
    there.close()
    assert capsys.readouterr().err == "<3>it is gone\n"


# --- what was put on record -------------------------------------------------------------------------------------------

REFUSED = Entry(
    "get_secret", "refused", "TOKEN", None, "cobot", "telegram", 7, 1001, None, "/x\ny", "not_granted", 3
)


def test_a_refusal_is_told_with_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "avault_daemon")
    echo([note(REFUSED)])
    [record] = caplog.records
    assert record.getMessage() == (
        "refused: get_secret TOKEN cobot/telegram pid 7 uid 1001 (not_granted) 3 times"
    )
    fields = {name: value for name, value in fields_of(record) if name.startswith("AVAULT_")}
    assert fields == {
        "AVAULT_ACTION": "get_secret",
        "AVAULT_DECISION": "refused",
        "AVAULT_SECRET": "TOKEN",
        "AVAULT_AGENT": "cobot",
        "AVAULT_PLUGIN": "telegram",
        "AVAULT_PID": "7",
        "AVAULT_UID": "1001",
        "AVAULT_EXE": "/x\ny",
        "AVAULT_REASON": "not_granted",
        "AVAULT_TIMES": "3",
    }


@pytest.mark.parametrize(
    ("entry", "level"),
    [
        (Entry("get_secret", "allowed", "TOKEN", 3, "cobot", "telegram", 7, 1001), logging.DEBUG),
        (Entry("hello", "allowed", None, None, "cobot", "telegram", 7, 1001), logging.DEBUG),
        (Entry("hello", "refused", reason="unknown_agent"), logging.INFO),
        (Entry("grant", "allowed", "TOKEN", None, "cobot", "telegram", 7, 1000), logging.INFO),
        (Entry("lock", "note", reason="stopping on SIGTERM"), logging.INFO),
    ],
)
def test_a_use_is_told_at_level_debug_alone(
    caplog: pytest.LogCaptureFixture, entry: Entry, level: int
) -> None:
    caplog.set_level(logging.DEBUG, "avault_daemon")
    noted = note(entry)
    echo([noted])
    assert [record.levelno for record in caplog.records] == [level]
    caplog.clear()
    caplog.set_level(level + 1, "avault_daemon")
    echo([noted])
    assert caplog.records == []
