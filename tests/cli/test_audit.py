"""The record, as a person reads it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, strategies as st

from avault_client.cli.commands import audit, find
from avault_client.cli.grammar import WrongUse
from avault_client.cli.session import Session
from support.operator import Operator

NOW = 1_800_000_000
ENTRY: dict[str, Any] = {
    "n": 7,
    "time": NOW,
    "pid": 4711,
    "uid": 1001,
    "unit": "cobot.service",
    "exe": "/usr/bin/python3",
    "agent": "cobot",
    "plugin": "telegram",
    "action": "get_secret",
    "secret": "TOKEN",
    "version": 3,
    "decision": "allowed",
    "reason": "",
}


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.mark.parametrize(
    ("text", "then"),
    [
        ("1799999999", 1_799_999_999),
        ("90s", NOW - 90),
        ("5m", NOW - 300),
        ("2h", NOW - 7200),
        ("3d", NOW - 259_200),
        ("1w", NOW - 604_800),
        ("999999999w", 0),
        ("2026-11-20", 1_795_132_800),
        ("2026-11-20 14:00", 1_795_183_200),
        ("2026-11-20T14:00:05", 1_795_183_205),
    ],
)
def test_since_takes_what_people_write(text: str, then: int) -> None:
    assert audit.since_when(text, NOW) == then


@pytest.mark.parametrize("text", ["", "m", "yesterday", "-5m", "5y", "2026-13-01", "1.5h", "٣m"])
def test_since_takes_nothing_else(text: str) -> None:
    with pytest.raises(WrongUse, match="--since takes a time"):
        audit.since_when(text, NOW)


@given(st.text(max_size=20))
def test_since_is_a_moment_or_wrong_use(text: str) -> None:
    with suppress(WrongUse):
        assert audit.since_when(text, NOW) >= -(2**40)


def test_one_line_an_entry() -> None:
    assert audit.line(ENTRY) == (
        "2027-01-15 08:00:00  allowed  get_secret  TOKEN version 3  cobot/telegram  "
        "pid 4711 uid 1001 cobot.service /usr/bin/python3"
    )


def test_what_is_not_known_is_left_out() -> None:
    bare = {**dict.fromkeys(ENTRY), "n": 1, "time": NOW, "action": "lock", "decision": "allowed"}
    assert audit.line(bare) == "2027-01-15 08:00:00  allowed  lock"


def test_what_a_caller_chose_is_escaped() -> None:
    assert "\x1b" not in audit.line({**ENTRY, "exe": "/tmp/\x1b[2J", "reason": "\x1b"})


def run(operator: Operator, *words: str) -> int:
    command, rest = find(["audit", *words])
    status = command.run(Session(operator.connect), command.parse(rest))
    assert isinstance(status, int)
    return status


def test_pages_follow_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    def page(params: Mapping[str, Any]) -> Mapping[str, Any]:
        first = params.get("after", 0) + 1
        return {"entries": [{**ENTRY, "n": n} for n in (first, first + 1)], "more": first < 5}

    operator = Operator(audit=page)
    assert run(operator, "--json", "--agent", "cobot", "--secret", "TOKEN") == 0
    assert [line.split('"n": ')[1][0] for line in capsys.readouterr().out.splitlines()] == list("123456")
    assert all(params["agent"] == "cobot" and params["secret"] == "TOKEN" for _, params, _ in operator.calls)


def test_following_asks_for_what_is_new(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt

    asked: list[int | None] = []

    def page(params: Mapping[str, Any]) -> Mapping[str, Any]:
        asked.append(params.get("after"))
        return {"entries": [] if len(asked) == 2 else [{**ENTRY, "n": len(asked)}], "more": False}

    monkeypatch.setattr("time.sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        run(Operator(audit=page), "--follow")
    assert (asked, waits) == ([None, 1, 1], [audit.POLL] * 3)
    assert len(capsys.readouterr().out.splitlines()) == 2


GOOD = {"ok": True, "complete_to": 9, "last": 11, "unsigned": 2, "problem": None}
BAD = {"ok": False, "complete_to": 4, "last": 11, "unsigned": 0, "problem": "line 5: \x1b altered"}


@pytest.mark.parametrize(
    ("verdict", "status", "shown"),
    [
        (GOOD, 0, "complete up to line 9 of 11\nunsigned: the last 2\n"),
        (BAD, 8, "complete up to line 4 of 11\nproblem: line 5: \\x1b altered\n"),
    ],
)
def test_a_bad_verdict_is_exit_status_8(
    verdict: dict[str, Any], status: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(Operator(audit_verify=verdict), "--verify") == status
    printed = capsys.readouterr()
    assert printed.out == shown
    assert printed.err.startswith("error: " if status else "")
    assert run(Operator(audit_verify=verdict), "--verify", "--json") == status
