"""What a person reads."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given, strategies as st

from avault_client.cli.grammar import Command
from avault_client.cli.output import Working, ago, escaped, note, report, show, some, table

NOW = 1_800_000_000


@given(st.text())
def test_nothing_that_is_shown_can_move_a_cursor(text: str) -> None:
    assert escaped(text).isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünïcödé ☃", "plain ünïcödé ☃"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x7f\x9b", "\\x7f\\x9b"),
        ("abc\u202edef", "abc\\u202edef"),
        ("\ud800", "\\ud800"),
        (42, "42"),
    ],
)
def test_what_would_is_spelled_out(text: object, shown: str) -> None:
    assert escaped(text) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "now"),
        (59, "now"),
        (60, "1 min ago"),
        (3599, "59 min ago"),
        (3600, "1 h ago"),
        (86_400 * 3, "3 d ago"),
        (-5, "now"),
    ],
)
def test_a_moment_is_as_long_ago_as_its_largest_unit(seconds: int, shown: str) -> None:
    assert ago(NOW - seconds, NOW) == shown


def test_what_never_was_is_never() -> None:
    assert ago(None) == "never"


def test_a_table_is_aligned_and_escaped() -> None:
    assert list(table(("NAME", "N"), [("a", 1), ("long\n", 22)])) == ["NAME    N", "a       1", "long\\n  22"]


def test_numbers_have_their_noun() -> None:
    assert [some(count, "secret") for count in (0, 1, 2000)] == ["0 secrets", "1 secret", "2,000 secrets"]


def test_errors_go_to_standard_error_with_their_hint(capsys: pytest.CaptureFixture[str]) -> None:
    report("it broke\x1b", "mend it")
    report("again")
    note("beside")
    assert capsys.readouterr() == ("", "error: it broke\\x1b\nhint: mend it\nerror: again\nbeside\n")


def test_json_is_ascii_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    demo = Command(
        "demo", "try", lambda session, parsed: None, lines=lambda result: ["for people"], example="x"
    )
    show(demo, {"reason": "\x1bü"}, as_json=True)
    show(demo, {}, as_json=False)
    assert capsys.readouterr().out == '{\n  "reason": "\\u001b\\u00fc"\n}\nfor people\n'


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_drawn_and_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with Working("unlocking") as working:
        working.progress({"stage": "deriving\nthe key"})
    assert screen.getvalue() == "\r\033[Kunlocking …\r\033[Kderiving\\nthe key …\r\033[K"


def test_quick_work_and_pipes_show_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, pipe = Screen(), io.StringIO()
    for stderr, text in ((screen, None), (pipe, "unlocking")):
        monkeypatch.setattr(sys, "stderr", stderr)
        with Working(text) as working:
            working.progress({"stage": "deriving the key"})
    assert screen.getvalue() == pipe.getvalue() == ""
