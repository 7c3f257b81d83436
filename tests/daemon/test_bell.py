"""When the phone is asked without the operator's word, and when it is left in peace."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
from hypothesis import given, strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from avault_daemon.phone import bell as module
from avault_daemon.phone.bell import LEAST, MOST, Bell, Restraint
from avault_protocol import LOCKED, UNLOCKED, UNLOCKING, AuditFailedError, DeniedError, RequestTimeoutError

# --- the policy --------------------------------------------------------------------------------------------------------


def test_the_first_may_be_at_once() -> None:
    assert Restraint().left(0) == 0


def test_after_one_that_was_not_in_vain_it_is_a_minute() -> None:
    restraint = Restraint()
    restraint.begin()
    restraint.reset()
    restraint.end(5, in_vain=False)
    assert restraint.left(5) == LEAST
    assert restraint.left(5 + LEAST) == 0


def test_pauses_double_from_a_minute_to_an_hour() -> None:
    restraint, now, pauses = Restraint(), 0.0, list[float]()
    for _ in range(8):
        restraint.begin()
        restraint.end(now, in_vain=True)
        pauses.append(restraint.left(now))
        now += pauses[-1]
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_an_unlock_leaves_the_shortest_pause() -> None:
    restraint = Restraint()
    for now in (0.0, 1000.0, 2000.0):
        restraint.begin()
        restraint.end(now, in_vain=True)
    assert restraint.left(2000) == 4 * LEAST
    restraint.reset()
    assert restraint.left(2000) == LEAST
    restraint.begin()
    restraint.end(5000, in_vain=True)
    assert restraint.left(5000) == LEAST


@given(st.lists(st.tuples(st.floats(0, 2 * MOST), st.booleans(), st.booleans(), st.booleans())))
def test_there_is_never_one_too_soon(steps: list[tuple[float, bool, bool, bool]]) -> None:
    restraint, now, earliest, pause, ended = Restraint(), 0.0, 0.0, LEAST, float("-inf")
    for passed, in_vain, meanwhile, afterwards in steps:
        now += passed
        assert restraint.left(now) == max(0.0, earliest - now)
        if restraint.left(now) == 0:
            restraint.begin()
            if meanwhile:
                restraint.reset()
                pause = LEAST
            restraint.end(now, in_vain=in_vain)
            earliest = now + (pause if in_vain and not meanwhile else LEAST)
            pause = min(2 * pause, MOST) if in_vain and not meanwhile else pause
            ended = now
        if afterwards:
            restraint.reset()
            earliest, pause = min(earliest, ended + LEAST), LEAST


# --- the bell ----------------------------------------------------------------------------------------------------------


class Scene:
    """A locked vault, its record, and a phone that answers after *takes* seconds by *answer*, an error or a slot."""

    def __init__(self) -> None:
        self.state, self.reachable = LOCKED, True
        self.answer: Exception | str = DeniedError()
        self.takes = 1.0
        self.asked: list[float] = []
        self.lines: list[tuple[str, str]] = []
        self.broken = False

    @property
    def locked(self) -> bool:
        return self.state != UNLOCKED

    async def unlock(self, on_stage: object) -> str:
        self.asked.append(trio.current_time() - self.began)
        await trio.sleep(self.takes)
        if isinstance(self.answer, Exception):
            raise self.answer
        self.state = UNLOCKED
        return self.answer

    def note(self, action: str, reason: str) -> None:
        self.lines.append((action, reason))

    def flush(self) -> None:
        if self.broken:
            raise AuditFailedError

    def try_flush(self) -> None:
        pass

    def bell(self, ask_phone: Any = "when-needed") -> Bell:
        self.began = trio.current_time()
        me = cast("Any", self)
        return Bell(me, me, me, ask_phone)


@asynccontextmanager
async def running(bell: Bell) -> AsyncGenerator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bell.run)
        await wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()


async def wait(bell: Bell, seconds: float, why: str = "cobot/telegram") -> None:
    """Wait as an agent does."""
    with bell.waiting(why):
        await trio.sleep(seconds)


async def test_all_that_wait_make_one_request(autojump_clock: MockClock) -> None:
    scene = Scene()
    scene.answer = "phone"
    bell = scene.bell()
    async with running(bell), trio.open_nursery() as agents:
        for _ in range(5):
            agents.start_soon(wait, bell, 2)
    assert scene.asked == [0]
    assert scene.lines == [
        ("phone_ask", "for cobot/telegram"),
        ("phone_unlock", "slot phone, for cobot/telegram"),
    ]


@pytest.mark.parametrize("answer", [DeniedError("user rejected"), RequestTimeoutError(), RuntimeError("odd")])
async def test_after_a_refusal_or_silence_it_is_quiet_for_a_while(
    autojump_clock: MockClock, answer: Exception
) -> None:
    scene = Scene()
    scene.answer = answer
    bell = scene.bell()
    async with running(bell):
        for _ in range(400):
            await wait(bell, 1)
    assert scene.asked == pytest.approx([0, 61, 182], abs=2)
    if isinstance(answer, DeniedError):
        assert scene.lines[1] == ("phone_ask", "denied: user rejected")


async def test_who_still_waits_when_the_pause_is_over_is_rung_for(autojump_clock: MockClock) -> None:
    scene = Scene()
    bell = scene.bell()
    async with running(bell):
        await wait(bell, 2, "a")
        await trio.sleep(8)
        async with trio.open_nursery() as agents:
            agents.start_soon(wait, bell, 20, "gives up before")
            agents.start_soon(wait, bell, 100, "b")
    assert scene.asked == pytest.approx([0, 61], abs=0.1)
    assert scene.lines[2] == ("phone_ask", "for b")


async def test_who_gave_up_is_not_rung_for(autojump_clock: MockClock) -> None:
    scene = Scene()
    bell = scene.bell()
    async with running(bell):
        await wait(bell, 2)
        await wait(bell, 10)
        await trio.sleep(1000)
    assert scene.asked == [0]


async def test_an_unlock_and_a_lock_leave_a_minute(autojump_clock: MockClock) -> None:
    """Whoever locks has just had it in hand; and an agent that never stops waiting must not ring it at once."""
    scene = Scene()
    scene.answer = "phone"
    bell = scene.bell()
    async with running(bell):
        await wait(bell, 2)
        bell.follow_vault("unlocked", {})
        scene.state = LOCKED
        bell.follow_vault("locked", {})
        await wait(bell, 100)
    assert scene.asked == pytest.approx([0, 61], abs=0.1)


async def test_what_was_unlocked_otherwise_meanwhile_was_not_in_vain(autojump_clock: MockClock) -> None:
    scene = Scene()
    scene.takes = 5
    bell = scene.bell()
    async with running(bell), trio.open_nursery() as agents:
        agents.start_soon(wait, bell, 200)
        await trio.sleep(1)
        bell.follow_vault("unlocked", {})
    assert scene.asked == pytest.approx([0, 65, 130], abs=0.1)  # the pause did not double after the first


async def test_a_lock_is_noticed_by_who_waits(autojump_clock: MockClock) -> None:
    scene = Scene()
    scene.state = UNLOCKED
    bell = scene.bell()
    async with running(bell), trio.open_nursery() as agents:
        agents.start_soon(wait, bell, 10)
        await trio.sleep(3)
        scene.state = LOCKED
        bell.follow_vault("locked", {})
    assert scene.asked == [3]


async def test_somebodys_guess_does_not_hold_it_up(autojump_clock: MockClock) -> None:
    scene = Scene()
    scene.state = UNLOCKING
    bell = scene.bell()
    async with running(bell), trio.open_nursery() as agents:
        agents.start_soon(wait, bell, 100)
        await trio.sleep(1)
        assert scene.asked == [0]
        agents.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("ask_phone", "state", "reachable", "asked"),
    [
        ("at-start", LOCKED, True, 1),
        ("at-start", UNLOCKING, True, 1),
        ("at-start", UNLOCKED, True, 0),
        ("at-start", LOCKED, False, 0),
        ("when-needed", LOCKED, True, 0),
        ("never", LOCKED, True, 0),
    ],
)
async def test_at_start(
    autojump_clock: MockClock, ask_phone: str, state: str, reachable: bool, asked: int
) -> None:
    scene = Scene()
    scene.state, scene.reachable = state, reachable
    async with running(scene.bell(ask_phone)):
        await trio.sleep(200)
    assert len(scene.asked) == asked


@pytest.mark.parametrize(("ask_phone", "asked"), [("at-start", 1), ("when-needed", 1), ("never", 0)])
async def test_when_needed(autojump_clock: MockClock, ask_phone: str, asked: int) -> None:
    scene = Scene()
    scene.reachable = False
    bell = scene.bell(ask_phone)
    async with running(bell):
        await wait(bell, 2)
        assert scene.asked == []
        scene.reachable = True
        await wait(bell, 2)
    assert len(scene.asked) == asked


async def test_nothing_is_asked_that_cannot_be_put_on_record(autojump_clock: MockClock) -> None:
    scene = Scene()
    scene.broken = True
    bell = scene.bell()
    async with running(bell):
        await wait(bell, 2)
    assert scene.asked == []


async def test_nothing_is_asked_under_a_debugger(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "traced", lambda: True)
    scene = Scene()
    bell = scene.bell()
    async with running(bell):
        await wait(bell, 2)
    assert scene.asked == []
    assert scene.lines == [("phone_ask", "not asked: a debugger is attached")]
