"""How fast one uid may guess."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from avault_daemon.callers.throttle import FORGET, MAX_UIDS, PER_MINUTE, Throttle
from avault_protocol import ThrottledError
from support.clock import Clock


def is_free(throttle: Throttle, uid: int) -> bool:
    try:
        throttle.check(uid)
    except ThrottledError:
        return False
    return True


def test_the_delay_doubles_up_to_thirty_seconds() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for delay in (1, 2, 4, 8, 16, 30, 30, 30):
        throttle.check(1000)
        throttle.failed(1000)
        clock.now += delay - 0.001
        assert not is_free(throttle, 1000)
        clock.now += 0.001
    throttle.check(1000)


def test_the_error_says_how_many_seconds_are_left() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for _ in range(3):
        throttle.failed(1000)
    clock.now += 0.5
    with pytest.raises(ThrottledError, match=r"wait 4 s"):
        throttle.check(1000)


def test_others_are_not_delayed() -> None:
    throttle = Throttle(Clock())
    for _ in range(20):
        throttle.failed(1000)
    throttle.check(1001)


def test_a_right_passphrase_ends_the_delay() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for _ in range(5):
        throttle.failed(1000)
    throttle.succeeded(1000)
    throttle.check(1000)
    throttle.failed(1000)
    clock.now += 1
    throttle.check(1000)


def test_ten_wrong_ones_a_minute_even_with_right_ones_between() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for _ in range(PER_MINUTE):
        throttle.check(1000)
        throttle.failed(1000)
        throttle.succeeded(1000)
        clock.now += 1
    with pytest.raises(ThrottledError, match="wait 50 s"):
        throttle.check(1000)
    clock.now += 50
    throttle.check(1000)


def test_what_a_lock_cut_short_fills_the_minute_and_delays_nothing_before() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for _ in range(PER_MINUTE):
        throttle.check(1000)
        throttle.interrupted(1000)
    with pytest.raises(ThrottledError, match="wait 60 s"):
        throttle.check(1000)
    throttle.check(1001)
    clock.now += 60
    throttle.check(1000)


def test_what_a_lock_cut_short_is_remembered_while_others_miss() -> None:
    throttle = Throttle(Clock())
    for _ in range(PER_MINUTE):
        throttle.interrupted(1000)
        throttle.failed(1001)
    assert not is_free(throttle, 1000)


def test_a_uid_that_stays_quiet_starts_anew() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for _ in range(6):
        throttle.failed(1000)
    clock.now += FORGET
    throttle.failed(1000)
    clock.now += 1
    throttle.check(1000)


@pytest.mark.parametrize(("others", "remembered"), [(MAX_UIDS - 1, True), (MAX_UIDS, False)])
def test_memory_is_bounded(others: int, remembered: bool) -> None:
    clock = Clock()
    throttle = Throttle(clock)
    throttle.failed(0)
    for uid in range(1, others + 1):
        throttle.failed(uid)
    assert is_free(throttle, 0) is not remembered
    assert not is_free(throttle, others)


class Guessing(RuleBasedStateMachine):
    """Whatever several uids do: never more than ten wrong ones in any minute, and no uid waits for another."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.throttle = Throttle(self.clock)
        self.wrong: dict[int, list[float]] = {}
        self.row: dict[int, int] = {}

    @rule(seconds=st.floats(0, 40))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(uid=st.integers(1, 3), right=st.booleans())
    def guess(self, uid: int, right: bool) -> None:
        if not is_free(self.throttle, uid):
            return
        if right:
            self.throttle.succeeded(uid)
            self.row[uid] = 0
        else:
            self.throttle.failed(uid)
            self.wrong.setdefault(uid, []).append(self.clock.now)
            self.row[uid] = self.row.get(uid, 0) + 1

    @invariant()
    def at_most_ten_in_any_minute(self) -> None:
        for times in self.wrong.values():
            for first, eleventh in zip(times, times[PER_MINUTE:], strict=False):
                assert eleventh - first >= 60 - 1e-6

    @invariant()
    def nobody_waits_longer_than_its_own_misses_say(self) -> None:
        for uid in (1, 2, 3):
            times = self.wrong.get(uid, [])
            recent = [moment for moment in times if self.clock.now - moment < 60]
            since = self.clock.now - times[-1] if times else 1e9
            if len(recent) < PER_MINUTE and (self.row.get(uid, 0) == 0 or since >= 30):
                assert is_free(self.throttle, uid)


TestGuessing = Guessing.TestCase
