"""The file that says who holds what: any bytes are it or are not, and a crash cuts off a line at most."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from avault_daemon.callers.ledger import MAX_ADDED, MAX_FILE, Entry, Ledger, parse
from support.faults import file_size_limit

BOOT = "bd612d99-0ded-4045-86b5-7f120073b1a8"
FIRST: Entry = ("cobot", "telegram", 7, 1)
SECOND: Entry = ("cobot", "weather", 8, 2)
HEAD = json.dumps({"boot": BOOT}).encode() + b"\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bindings.jsonl"


@pytest.fixture
def ledger(path: Path) -> Generator[Ledger]:
    with closing(Ledger(path, BOOT)) as ledger:
        yield ledger


def read(path: Path, boot: str = BOOT) -> list[Entry]:
    return Ledger(path, boot).read()


def test_what_was_added_is_read(ledger: Ledger, path: Path) -> None:
    ledger.add(FIRST, [FIRST])
    ledger.add(SECOND, [])  # added: the rest of it stays
    assert read(path) == [FIRST, SECOND]
    assert read(path, "another") == []
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_next_daemon_writes_it_anew(ledger: Ledger, path: Path) -> None:
    ledger.add(FIRST, [FIRST])
    with closing(Ledger(path, BOOT)) as following:
        following.add(SECOND, [SECOND])
    assert read(path) == [SECOND]


def test_it_is_written_anew_from_time_to_time(ledger: Ledger, path: Path) -> None:
    entries = [("cobot", "telegram", 7, started) for started in range(MAX_ADDED + 2)]
    for entry in entries[:-1]:
        ledger.add(entry, [entry])
    assert read(path) == entries[:-1]
    ledger.add(entries[-1], [SECOND])
    assert read(path) == [SECOND]
    ledger.add(FIRST, [])
    assert read(path) == [SECOND, FIRST]


def put_another_there(path: Path) -> None:
    (path.parent / "another").touch()
    (path.parent / "another").rename(path)


@pytest.mark.parametrize("remove", [Path.unlink, put_another_there])
def test_it_is_written_anew_when_it_was_removed(
    ledger: Ledger, path: Path, remove: Callable[[Path], None]
) -> None:
    ledger.add(FIRST, [FIRST])
    remove(path)
    ledger.add(SECOND, [FIRST, SECOND])
    assert read(path) == [FIRST, SECOND]


def test_what_a_crash_left_beside_is_no_hindrance(ledger: Ledger, path: Path) -> None:
    path.with_suffix(".new").symlink_to("/etc/passwd")
    ledger.add(FIRST, [FIRST])
    assert not path.is_symlink()
    assert os.listdir(path.parent) == [path.name]


def test_no_descriptor_is_left_by_what_failed(ledger: Ledger, path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    path.mkdir()  # nothing can be renamed to it
    with pytest.raises(IsADirectoryError):
        ledger.add(FIRST, [FIRST])
    path.rmdir()
    ledger.add(FIRST, [FIRST])
    with file_size_limit(path.stat().st_size), pytest.raises(OSError, match="too large"):
        ledger.add(SECOND, [])
    assert len(os.listdir("/proc/self/fd")) == before
    assert read(path) == [FIRST]


ENTRY = list(FIRST)
NOT_OURS: list[object] = [
    None,
    {},
    ENTRY[:3],
    [*ENTRY, 1],
    ["Cobot", "telegram", 1, 1],
    ["cobot", "../telegram", 1, 1],
    ["cobot", "telegram", 0, 1],
    ["cobot", "telegram", 2**22 + 1, 1],
    ["cobot", "telegram", True, 1],
    ["cobot", "telegram", 1, -1],
    ["cobot", "telegram", 1, 2**63],
    ["cobot", "telegram", 1, 1.5],
]
HEADS: list[object] = [None, [], {}, {"boot": 1}, {"boot": BOOT, "more": 1}]


@pytest.mark.parametrize(
    "content",
    [
        *(HEAD + json.dumps(entry).encode() + b"\n" for entry in NOT_OURS),
        *(json.dumps(head).encode() + b"\n" for head in HEADS),
        HEAD + (json.dumps(ENTRY).encode() + b"\n") * 2,
        *(b"", b"{", HEAD[:-1], b"\n", b"\xff\n", HEAD + b"\n", HEAD + b"\xff\n", b"[" * 100_000 + b"\n"),
    ],
)
def test_a_file_that_is_not_ours_is_a_value_error(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError):  # noqa: PT011 - of json's or ours
        read(path)


def test_each_limit_of_an_entry_is_within_it() -> None:
    entries = [("cobot", "telegram", 1, 0), ("cobot", "telegram", 2**22, 2**63 - 1)]
    lines = b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)
    assert parse(HEAD + lines) == (BOOT, entries)


def make_link(path: Path) -> None:
    (path.parent / "elsewhere").write_bytes(HEAD)
    path.symlink_to("elsewhere")


def make_large(path: Path) -> None:
    with path.open("wb") as file:
        file.write(HEAD)
        file.truncate(MAX_FILE + 1)


@pytest.mark.parametrize("make", [make_link, make_large, os.mkfifo, Path.mkdir])
def test_nor_is_a_file_of_another_kind(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    with pytest.raises((OSError, ValueError)):
        read(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_nor_is_a_file_of_another_user(path: Path) -> None:
    path.write_bytes(HEAD)
    os.chown(path, 65534, -1)
    with pytest.raises(ValueError, match="belongs to uid 65534"):
        read(path)


LINE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["boot", BOOT]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["boot", "x"]), inner),
).map(lambda document: json.dumps(document).encode() + b"\n")
ENTRIES = st.lists(
    st.tuples(st.sampled_from(["cobot", "hermes"]), st.just("p"), st.integers(1, 9), st.integers(0, 9)),
    unique=True,
)


@given(content=st.binary() | st.lists(LINE | st.just(HEAD)).map(b"".join))
def test_any_file_is_ours_or_a_value_error(content: bytes) -> None:
    try:
        boot, entries = parse(content)
    except ValueError:
        return
    lines = content.split(b"\n")[:-1]
    assert [json.loads(line) for line in lines] == [{"boot": boot}, *map(list, entries)]


@given(entries=ENTRIES, data=st.data())
def test_what_is_cut_off_loses_what_was_added_last(entries: list[Entry], data: st.DataObject) -> None:
    content = HEAD + b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)
    cut = data.draw(st.integers(len(HEAD), len(content)))
    whole = content[len(HEAD) : cut].count(b"\n")
    assert parse(content[:cut]) == (BOOT, entries[:whole])
