"""The anchor: durable, atomic, and unreadable unless it is exactly what avault wrote."""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from avault_daemon.anchor import Anchor, Changes, Point
from avault_daemon.files import beside
from avault_protocol import CorruptError, StorageFailedError
from support.faults import FaultyFiles

HERE = Point("11" * 32, 7, "22" * 32)
THERE = Point("33" * 32, 1, "44" * 32)

HEX = st.text("0123456789abcdef", min_size=64, max_size=64)
POINTS = st.builds(Point, HEX, st.integers(0, 2**53), HEX)


def reloaded(path: Path) -> Anchor:
    anchor = Anchor(path)
    anchor.load()
    return anchor


def memory(anchor: Anchor) -> tuple[object, object, object]:
    return anchor.current, anchor.next, anchor.record


def test_missing_is_empty(tmp_path: Path) -> None:
    assert memory(reloaded(tmp_path / "anchor.json")) == (None, None, None)


def test_updates_change_only_what_they_name(tmp_path: Path) -> None:
    anchor = reloaded(tmp_path / "anchor.json")
    anchor.update(record=(9, "ab" * 32))
    anchor.update(current=HERE, next=THERE)
    anchor.update(next=None)
    assert memory(anchor) == memory(reloaded(anchor.path)) == (HERE, None, (9, "ab" * 32))


def test_is_for_its_owner_alone(tmp_path: Path) -> None:
    anchor = Anchor(tmp_path / "anchor.json")
    anchor.update(current=HERE)
    assert anchor.path.stat().st_mode & 0o777 == 0o600


@given(
    current=st.none() | POINTS,
    following=st.none() | POINTS,
    record=st.none() | st.tuples(st.integers(0, 2**53), HEX),
)
@settings(deadline=None, max_examples=30)
def test_whatever_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    current: Point | None,
    following: Point | None,
    record: tuple[int, str] | None,
) -> None:
    anchor = Anchor(tmp_path_factory.mktemp("anchor") / "anchor.json")
    anchor.update(current=current, next=following, record=record)
    assert memory(reloaded(anchor.path)) == (current, following, record)


def full(tmp_path: Path) -> Anchor:
    anchor = Anchor(tmp_path / "anchor.json")
    anchor.update(current=HERE, next=THERE, record=(9, "ab" * 32))
    return anchor


def test_every_byte_flipped_shows_or_is_another_valid_anchor(tmp_path: Path) -> None:
    """Whoever writes this file is believed; what is no anchor at all is an error, never a fresh start."""
    path = full(tmp_path).path
    raw = path.read_bytes()
    for index in range(len(raw)):
        path.write_bytes(raw[:index] + bytes([raw[index] ^ 0x10]) + raw[index + 1 :])
        with suppress(CorruptError):
            assert reloaded(path).current is not None


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    path = full(tmp_path).path
    raw = path.read_bytes()
    for size in range(len(raw)):
        path.write_bytes(raw[:size])
        with pytest.raises(CorruptError, match="unreadable"):
            reloaded(path)


@given(
    raw=st.binary()
    | st.sampled_from([b"[]", b"{}", b"null", b"7", b'"vault"', b"[" * 100_000, b'{"next": {}}'])
)
@settings(deadline=None)
def test_anything_else_is_an_error(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.mktemp("anchor") / "anchor.json"
    path.write_bytes(raw)
    with pytest.raises(CorruptError):
        reloaded(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"generation": 7', '"generation": 7.0'),
        ('"generation": 7', '"generation": true'),
        ('"generation": 7', '"generation": -7'),
        ('"generation": 7', '"generation": "7"'),
        ('"number": 9', '"number": null'),
        ("22" * 32, "22" * 31),
        ("ab" * 32, "AB" * 32),
        ('"next": {', '"next": {"vault": null, '),
        ('{"vault"', '{"more": 1, "vault"'),
        (', "record"', ', "next": null, "record"'),
    ],
)
def test_odd_fields_are_errors(tmp_path: Path, old: str, new: str) -> None:
    path = full(tmp_path).path
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(CorruptError):
        reloaded(path)


def test_a_directory_in_its_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "anchor.json").mkdir()
    with pytest.raises(CorruptError, match=r"is a directory"):
        reloaded(tmp_path / "anchor.json")


CALLS = ["open", "write", "truncate", "fdatasync", "exchange", "fsync"]
FIRST = [*CALLS[:-1], "rename", "fsync"]
"""There is nothing yet to exchange it with."""


def test_the_order_of_an_update(tmp_path: Path) -> None:
    files = FaultyFiles()
    anchor = Anchor(tmp_path / "anchor.json", files)
    for calls in (FIRST, CALLS, CALLS):
        files.calls.clear()
        anchor.update(current=HERE)
        assert files.calls == calls


def test_what_a_start_finds_beside_the_anchor_is_not_written_over(tmp_path: Path) -> None:
    full(tmp_path).update(next=None)
    files = FaultyFiles()
    anchor = Anchor(tmp_path / "anchor.json", files)
    anchor.load()
    for calls in (["unlink", *CALLS], CALLS):
        files.calls.clear()
        anchor.update(current=THERE)
        assert files.calls == calls


def test_where_names_cannot_be_exchanged_the_new_one_is_renamed(tmp_path: Path) -> None:
    class Plain(FaultyFiles):
        def exchange(self, one: Path, other: Path) -> bool:
            return False

    anchor = Anchor(tmp_path / "anchor.json", Plain())
    for point in (HERE, THERE, HERE):
        anchor.update(current=point)
        assert reloaded(anchor.path).current == point


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("at", range(1, len(CALLS) + 1))
def test_each_call_that_fails_leaves_the_old_or_the_new(
    tmp_path: Path, at: int, code: int, done: bool
) -> None:
    files = FaultyFiles()
    anchor = Anchor(tmp_path / "anchor.json", files)
    anchor.update(current=HERE, record=(2, "11" * 32))
    anchor.update(current=HERE, record=None)  # so that there is one beside it, which is longer
    files.fail(at, code=code, done=done)
    with pytest.raises(StorageFailedError, match=r"anchor\.json"):
        anchor.update(current=THERE)
    assert anchor.current == HERE
    assert reloaded(anchor.path).current in (HERE, THERE)
    anchor.update(record=(1, "00" * 32))  # the disk has recovered: nothing of what failed gets in
    assert memory(reloaded(anchor.path)) == (HERE, None, (1, "00" * 32))


@pytest.mark.parametrize("at", range(1, len(CALLS) + 1))
def test_after_a_failure_neither_file_is_written_over(tmp_path: Path, at: int) -> None:
    """Which of them has the anchor's name on the disk, nobody knows then."""
    files = FaultyFiles()
    anchor = Anchor(tmp_path / "anchor.json", files)
    anchor.update(current=HERE)
    anchor.update(next=THERE)
    files.fail(at)
    with pytest.raises(StorageFailedError):
        anchor.update(next=None)
    left = [tmp_path / "one", tmp_path / "other"]
    for path, link in zip((anchor.path, beside(anchor.path)), left, strict=True):
        link.hardlink_to(path)
    before = [link.read_bytes() for link in left]
    anchor.update(record=(1, "00" * 32))
    assert [link.read_bytes() for link in left] == before


def test_a_short_write_goes_on(tmp_path: Path) -> None:
    files = FaultyFiles()
    anchor = Anchor(tmp_path / "anchor.json", files)
    files.fail(2, short=True)
    with pytest.raises(StorageFailedError):
        anchor.update(current=HERE)
    assert memory(reloaded(anchor.path)) == (None, None, None)


def test_changes_name_every_field() -> None:
    assert set(Changes.__annotations__) == {"current", "next", "record"}
