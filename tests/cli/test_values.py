"""Values on their way in and out."""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from avault_client.cli import terminal, values
from avault_client.cli.hidden import Hidden
from avault_client.cli.session import Session
from avault_protocol import BadRequestError, TooLargeError
from avault_protocol.limits import MAX_VALUE
from support.terminal import on_terminal


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"abc", b"abc"),
        (b"abc\n", b"abc"),
        (b"\n", b""),
        (b"", b""),
        (b"abc\n\n", b"abc\n\n"),
        (b"a\nbc\n", b"a\nbc\n"),
        (b"a\nbc", b"a\nbc"),
        (b"abc\r\n", b"abc\r"),
    ],
)
def test_a_final_newline_is_dropped_if_it_is_the_only_one(content: bytes, value: bytes) -> None:
    assert bytes(values.without_lone_newline(Hidden.of(content)).view) == value


@given(st.binary(min_size=1, max_size=MAX_VALUE * 3 // 4))
def test_any_bytes_come_back(content: bytes) -> None:
    stored, encoding = values.encoded(Hidden.of(content), "X")
    assert values.decoded(bytearray(stored.view), encoding) == content


def test_only_what_is_no_text_becomes_base64() -> None:
    assert values.encoded(Hidden.of("grüße\0\n".encode()), "X")[1] == "text"
    stored, encoding = values.encoded(Hidden.of(b"\xff\xfe\x00"), "X")
    assert (bytes(stored.view), encoding) == (base64.b64encode(b"\xff\xfe\x00"), "base64")


def test_bytes_are_wiped_once_they_are_base64() -> None:
    given = Hidden.of(b"\xff secret")
    values.encoded(given, "X")
    assert set(given.buffer) == {0}


def test_an_empty_value_is_refused() -> None:
    with pytest.raises(BadRequestError, match="the value of X is empty"):
        values.encoded(Hidden.of(b""), "X")


@pytest.mark.parametrize(("byte", "most"), [(b"x", 32_768), (b"\xff", 24_576)])
def test_a_value_is_as_large_as_what_is_stored_may_be(byte: bytes, most: int) -> None:
    assert values.encoded(Hidden.of(byte * most), "X")[0].size == MAX_VALUE
    with pytest.raises(
        TooLargeError, match=r"the value of X has 32,7.. bytes as (text|base64), more than 32,768"
    ):
        values.encoded(Hidden.of(byte * (most + 1)), "X")


def read_from(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> bytes:
    (tmp_path / "value").write_bytes(content)
    fd = os.open(tmp_path / "value", os.O_RDONLY)
    monkeypatch.setattr(values, "STDIN", fd)
    try:
        with values.read(Session(), "X") as value:
            return bytes(value.view)
    finally:
        os.close(fd)


def test_standard_input_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_from(tmp_path, b"abc\n", monkeypatch) == b"abc"
    assert read_from(tmp_path, b"x" * MAX_VALUE + b"\n", monkeypatch) == b"x" * MAX_VALUE


def test_too_much_is_refused_before_it_is_all_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TooLargeError, match="the value of X has more than 32,768 bytes"):
        read_from(tmp_path, b"x" * (MAX_VALUE + 2), monkeypatch)


def test_a_person_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask(prompt: str, what: str, limit: int) -> Hidden:
        asked.append(prompt)
        return Hidden.of(b"typed")

    def nothing(prompt: str, what: str, limit: int) -> Hidden:
        raise EOFError

    master, slave = os.openpty()
    monkeypatch.setattr(values, "STDIN", slave)
    monkeypatch.setattr(terminal, "ask", ask)
    with values.read(Session(), "X") as value:
        assert bytes(value.view) == b"typed"
    assert asked == ["value of X: "]
    monkeypatch.setattr(terminal, "ask", nothing)
    with pytest.raises(BadRequestError, match="no value was given for X"):
        values.read(Session(), "X")
    os.close(slave)
    os.close(master)


def test_a_shell_gives_its_next_line() -> None:
    session = Session()
    session.line_of_input = lambda what: Hidden.of(what.encode())
    with values.read(session, "X") as value:
        assert bytes(value.view) == b"the value of X"


def test_a_newline_is_added_on_a_terminal_only(capfd: pytest.CaptureFixture[str]) -> None:
    values.write(b"abc")
    assert capfd.readouterr().out == "abc"
    script = "from avault_client.cli import values; values.write(b'abc')"
    with on_terminal([sys.executable, "-c", script]) as shown:
        assert shown.finish() == 0
        assert shown.seen == "abc\r\n"
