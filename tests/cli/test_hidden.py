"""Buffers that are wiped, and reading into them."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

import pytest
from hypothesis import given, strategies as st

from avault_client.cli.hidden import Hidden, read_all, read_line
from avault_protocol import TooLargeError


@contextmanager
def pipe(content: bytes) -> Generator[int]:
    """Give a descriptor from which *content* is read, and then the end."""
    read, write = os.pipe()
    try:
        os.write(write, content)
        os.close(write)
        yield read
    finally:
        os.close(read)


def line_of(content: bytes, limit: int = 100) -> bytes:
    with pipe(content) as fd, read_line(fd, limit, "it") as line:
        return bytes(line.view)


@pytest.mark.parametrize(
    ("content", "line"),
    [(b"abc\ndef", b"abc"), (b"abc", b"abc"), (b"abc\r\n", b"abc"), (b"\n", b""), (b"a\rb\n", b"a\rb")],
)
def test_a_line_ends_at_its_newline_or_the_end(content: bytes, line: bytes) -> None:
    assert line_of(content) == line


def test_what_follows_a_line_stays_for_the_next_reader() -> None:
    with pipe(b"first\nsecond\nrest\nof it") as fd:
        with read_line(fd, 100, "it") as first, read_line(fd, 100, "it") as second:
            assert (bytes(first.view), bytes(second.view)) == (b"first", b"second")
        with read_all(fd, 100, "it") as rest:
            assert bytes(rest.view) == b"rest\nof it"


def test_nothing_at_all_is_the_end() -> None:
    with pipe(b"") as fd, pytest.raises(EOFError):
        read_line(fd, 100, "it")


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_line_may_be_as_long_as_its_limit_and_no_longer(end: bytes) -> None:
    assert line_of(b"x" * 10 + end, 10) == b"x" * 10
    with pytest.raises(TooLargeError, match="it has more than 10 bytes"):
        line_of(b"x" * 11 + end, 10)


def test_everything_may_be_as_long_as_its_limit_and_a_newline() -> None:
    with pipe(b"x" * 11) as fd, read_all(fd, 10, "it") as read:
        assert read.size == 11
    with pipe(b"x" * 12) as fd, pytest.raises(TooLargeError, match="it has more than 10 bytes"):
        read_all(fd, 10, "it")


def test_a_buffer_is_wiped_when_done_with() -> None:
    with Hidden.of(b"secret") as hidden:
        buffer, view = hidden.buffer, hidden.view
    assert bytes(buffer) == bytes(view) == bytes(6)
    assert hidden.size == 0


def test_what_was_read_before_an_error_is_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Hidden] = []
    real = Hidden.__init__

    def remembered(self: Hidden, capacity: int) -> None:
        real(self, capacity)
        made.append(self)

    monkeypatch.setattr(Hidden, "__init__", remembered)
    for reader in (read_line, read_all):
        with pipe(b"x" * 50) as fd, pytest.raises(TooLargeError):
            reader(fd, 10, "it")
    assert [set(hidden.buffer) for hidden in made] == [{0}, {0}]


def test_nothing_shows_what_is_in_it() -> None:
    assert "secret" not in repr(Hidden.of(b"secret"))


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_appending_puts_one_behind_the_other(parts: list[bytes]) -> None:
    together = Hidden(sum(map(len, parts)))
    for part in parts:
        together.append(Hidden.of(part))
    assert bytes(together.view) == b"".join(parts)


@given(st.binary(max_size=60), st.integers(0, 30))
def test_a_line_is_what_bytes_would_say(content: bytes, limit: int) -> None:
    expected = content.split(b"\n", 1)[0].removesuffix(b"\r")
    if not content:
        return
    if len(expected) > limit:
        with pytest.raises(TooLargeError):
            line_of(content, limit)
    elif len(content.split(b"\n", 1)[0]) <= limit + 1:
        assert line_of(content, limit) == expected
