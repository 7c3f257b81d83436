"""The lines of the record: their one form, and what is read of them."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, strategies as st

from avault_daemon.audit.lines import (
    MAX_EXE,
    NO_HASH,
    TAG,
    Entry,
    Noted,
    chained,
    checkpoint_line,
    hash_of,
    note,
    parse,
    parse_checkpoint,
    to_wire,
)
from avault_daemon.nostr.keys import verify
from support.signing import Key

ENTRY = Entry("get_secret", "allowed", "TOKEN", 3, "cobot", "telegram", 7, 1001, None, "/usr/bin/python3")


def line_of(number: int, time: int, prev: str, noted: Noted) -> bytes:
    """Return one line, without its newline."""
    return chained([noted], time, number - 1, prev)[0].removesuffix(b"\n")


def test_an_entry_is_written_as_the_page_says() -> None:
    assert line_of(12, 1700000000, "ab" * 32, note(ENTRY)) == (
        b'{"n":12,"time":1700000000,"prev":"' + b"ab" * 32 + b'","action":"get_secret","decision":"allowed",'
        b'"secret":"TOKEN","version":3,"agent":"cobot","plugin":"telegram","pid":7,"uid":1001,"unit":null,'
        b'"exe":"/usr/bin/python3","reason":null}'
    )


def test_only_coalesced_refusals_say_how_many_they_are() -> None:
    refused = ENTRY._replace(decision="refused", reason="not_granted", times=4)
    assert json.loads(line_of(1, 0, NO_HASH, note(refused)))["times"] == 4
    assert "times" not in json.loads(line_of(1, 0, NO_HASH, note(ENTRY)))


def test_the_path_of_an_executable_is_cut() -> None:
    line = line_of(1, 0, NO_HASH, note(ENTRY._replace(exe="/" + "x" * 4000)))
    assert json.loads(line)["exe"] == "/" + "x" * (MAX_EXE - 1)


ANY_TEXT = st.none() | st.text(max_size=50)


@given(
    unit=ANY_TEXT,
    exe=ANY_TEXT,
    reason=ANY_TEXT,
    number=st.integers(1, 10**18 - 1),
    time=st.integers(0, 10**12),
)
def test_whatever_a_caller_is_called_it_stays_one_line_of_ascii(
    unit: str | None, exe: str | None, reason: str | None, number: int, time: int
) -> None:
    line = line_of(number, time, NO_HASH, note(ENTRY._replace(unit=unit, exe=exe, reason=reason)))
    assert line.isascii()
    assert b"\n" not in line
    wire = to_wire(line)
    assert wire is not None
    assert (wire["unit"], wire["exe"], wire["reason"], wire["n"]) == (unit, exe, reason, number)
    assert "prev" not in wire
    found = parse(line)
    assert found is not None
    assert (found.number, found.time, found.secret, found.decision) == (number, time, "TOKEN", "allowed")
    assert parse_checkpoint(line) is None


def test_an_executable_cannot_pass_for_a_checkpoint() -> None:
    exe = '","action":"checkpoint","key":"' + "a" * 64
    line = line_of(1, 0, NO_HASH, note(ENTRY._replace(exe=exe)))
    found = parse(line)
    assert found is not None
    assert found.action == "get_secret"
    assert parse_checkpoint(line) is None


@pytest.mark.parametrize("after", [None, "cd" * 32])
@pytest.mark.parametrize("following", [None, "ef" * 32])
def test_a_checkpoint_comes_back(after: str | None, following: str | None) -> None:
    key = Key()
    line = checkpoint_line(5, 9, "ab" * 32, key.hex, key.sign, after=after, next_key=following)
    found = parse_checkpoint(line)
    assert found is not None
    assert (found.key, found.after, found.next) == (key.hex, after, following)
    assert verify(key.public, found.digest, found.signature)
    tag = hashlib.sha256(TAG.encode()).digest()
    assert found.digest == hashlib.sha256(tag + tag + line[: line.index(b',"sig"')]).digest()
    assert json.loads(line)["action"] == "checkpoint"


def test_every_changed_byte_of_a_checkpoint_shows() -> None:
    key = Key()
    line = checkpoint_line(5, 9, "ab" * 32, key.hex, key.sign, after="cd" * 32)
    for place in range(len(line)):
        for bit in (1, 2, 32):
            changed = bytearray(line)
            changed[place] ^= bit
            found = parse_checkpoint(bytes(changed))
            if found is not None:
                assert not verify(bytes.fromhex(found.key), found.digest, found.signature)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"\0" * 200,
        b'{"n":1}',
        line_of(1, 0, NO_HASH, note(ENTRY))[:-1],
        b" " + line_of(1, 0, NO_HASH, note(ENTRY)),
        line_of(1, 0, NO_HASH.replace("0", "A"), note(ENTRY)),
        line_of(-1, 0, NO_HASH, note(ENTRY)),
    ],
)
def test_what_is_no_line_is_none(line: bytes) -> None:
    assert parse(line) is None


@pytest.mark.parametrize("line", [b"", b"{", b"{}", b'{"n":1}', b"\xff"])
def test_what_is_no_entry_is_not_sent(line: bytes) -> None:
    assert to_wire(line) is None


def test_each_line_has_the_hash_of_the_one_before() -> None:
    assert hash_of(b"line") == hashlib.sha256(b"line").hexdigest()
    data, last = chained([note(ENTRY), note(ENTRY._replace(version=4))], 9, 6, "ab" * 32)
    first, second, end = data.split(b"\n")
    assert (first, end) == (line_of(7, 9, "ab" * 32, note(ENTRY)), b"")
    assert second == line_of(8, 9, hash_of(first), note(ENTRY._replace(version=4)))
    assert last == hash_of(second)
    assert chained([], 9, 6, "ab" * 32) == (b"", "ab" * 32)


def test_what_a_plugin_is_given_is_known_by_its_name() -> None:
    refused, hello = ENTRY._replace(decision="refused"), ENTRY._replace(action="hello")
    assert [note(entry).given for entry in (ENTRY, refused, hello)] == ["TOKEN", None, None]
