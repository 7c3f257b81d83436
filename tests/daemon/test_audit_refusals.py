"""Refusals are coalesced and bounded, and every one is counted."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from avault_daemon.audit.lines import Entry
from avault_daemon.audit.refusals import OVERFLOW, PER_UID, TOTAL, WINDOW, Refusals


def refusal(uid: int = 1001, pid: int = 7, secret: str = "TOKEN", reason: str = "not_granted") -> Entry:
    return Entry("get_secret", "refused", secret, None, "cobot", "telegram", pid, uid, None, None, reason)


def test_the_first_is_written_and_its_repetitions_are_counted() -> None:
    refusals = Refusals()
    assert [refusals.admit(refusal(), now) for now in (0.0, 1.0, 59.9)] == [True, False, False]
    assert list(refusals.due(WINDOW - 0.01)) == []
    assert list(refusals.due(WINDOW)) == [refusal()._replace(times=2)]
    assert refusals.admit(refusal(), WINDOW)


def test_one_that_is_not_repeated_leaves_nothing_behind() -> None:
    refusals = Refusals()
    assert refusals.next_due() == float("inf")
    refusals.admit(refusal(), 0.0)
    assert refusals.next_due() == WINDOW
    assert list(refusals.due(WINDOW)) == []
    assert refusals.next_due() == float("inf")


@pytest.mark.parametrize(
    "other", [refusal(uid=1), refusal(pid=1), refusal(secret="KEY"), refusal(reason="locked")]
)
def test_what_differs_is_of_another_kind(other: Entry) -> None:
    refusals = Refusals()
    assert refusals.admit(refusal(), 0.0)
    assert refusals.admit(other, 0.0)


def test_beyond_a_uids_limit_there_is_only_a_number() -> None:
    refusals = Refusals()
    admitted = [refusals.admit(refusal(pid=pid), 0.0) for pid in range(PER_UID + 5)]
    assert admitted == [True] * PER_UID + [False] * 5
    assert refusals.admit(refusal(uid=2), 0.0)
    (line,) = refusals.due(WINDOW)
    assert (line.uid, line.pid, line.reason, line.times) == (1001, None, OVERFLOW, 5)
    assert refusals.admit(refusal(), WINDOW)


def test_beyond_everybodys_limit_there_is_only_a_number() -> None:
    refusals = Refusals()
    assert all(refusals.admit(refusal(uid=uid), 0.0) for uid in range(TOTAL))
    assert not any(refusals.admit(refusal(uid=uid), 0.0) for uid in range(TOTAL, TOTAL + 1000))
    (line,) = refusals.due(WINDOW)
    assert (line.uid, line.reason, line.times) == (None, OVERFLOW, 1000)


EVENTS = st.lists(
    st.tuples(st.floats(0, 30), st.integers(1, 3), st.integers(1, 40), st.sampled_from(["A", "B"])),
    max_size=200,
)


@given(EVENTS)
def test_every_refusal_is_in_a_line_and_no_minute_has_too_many(
    events: list[tuple[float, int, int, str]],
) -> None:
    refusals, now = Refusals(), 0.0
    written: list[tuple[float, Entry]] = []
    for wait, uid, pid, secret in events:
        now += wait
        written += [(now, late) for late in refusals.due(now)]
        if refusals.admit(refusal(uid, pid, secret), now):
            written.append((now, refusal(uid, pid, secret)))
    written += [(now, late) for late in refusals.due()]
    for uid in (1, 2, 3):
        lines = [(moment, line) for moment, line in written if line.uid == uid]
        assert sum(line.times or 1 for _, line in lines) == sum(1 for event in events if event[1] == uid)
        firsts = [moment for moment, line in lines if line.times is None]
        assert all(sum(1 for t in firsts if moment <= t < moment + WINDOW) <= PER_UID for moment in firsts)
