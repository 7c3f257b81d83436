"""When the phone is asked without the operator's word, and when it is left in peace."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
from hypothesis import given, strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from avault_daemon import bell as module
from avault_daemon.bell import LEAST, MOST, Bell, Restraint
from avault_protocol import LOCKED, UNLOCKED, AuditFailedError, DeniedError, RequestTimeoutError

# --- the policy --------------------------------------------------------------------------------------------------------


def test_one_at_a_time() -> None:
    restraint = Restraint()
    assert restraint.begin(0)
    assert not restraint.begin(1e9)
    restraint.end(5, in_vain=False)
    assert restraint.begin(5)


def test_pauses_double_from_a_minute_to_an_hour() -> None:
    restraint, now, pauses = Restraint(), 0.0, list[float]()
    for _ in range(8):
        assert restraint.begin(now)
        restraint.end(now, in_vain=True)
        pause = next(seconds for seconds in range(7200) if restraint.begin(now + seconds))
        restraint.end(now + pause, in_vain=False)
        pauses.append(pause)
        now += pause
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_an_unlock_begins_anew() -> None:
    restraint = Restraint()
    for _ in range(3):
        restraint.begin(0)
        restraint.end(0, in_vain=True)
        restraint.reset()
    assert restraint.begin(0)
    restraint.end(0, in_vain=True)
    assert not restraint.begin(LEAST - 1)
    assert restraint.begin(LEAST)


@given(st.lists(st.tuples(st.floats(0, 2 * MOST), st.booleans(), st.booleans())))
def test_there_is_never_a_second_nor_one_too_soon(steps: list[tuple[float, bool, bool]]) -> None:
    restraint, now, earliest, pause = Restraint(), 0.0, 0.0, LEAST
    for passed, in_vain, unlocked in steps:
        now += passed
        began = restraint.begin(now)
        assert began == (now >= earliest)
        if began:
            assert not restraint.begin(now)
            restraint.end(now, in_vain=in_vain)
            if in_vain:
                earliest, pause = now + pause, min(2 * pause, MOST)
        if unlocked:
            restraint.reset()
            earliest, pause = 0.0, LEAST


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


async def test_all_that_wait_make_one_request(autojump_clock: MockClock) -> None:
    scene = Scene()
    scene.answer = "phone"
    bell = scene.bell()
    async with running(bell):
        for _ in range(5):
            bell.ring("cobot/telegram")
        await trio.sleep(2)
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
            bell.ring("cobot/telegram")
            await trio.sleep(1)
    assert scene.asked == pytest.approx([0, 61, 182], abs=2)
    if isinstance(answer, DeniedError):
        assert scene.lines[1] == ("phone_ask", "denied: user rejected")


async def test_an_unlock_ends_the_pause(autojump_clock: MockClock) -> None:
    scene = Scene()
    bell = scene.bell()
    async with running(bell):
        bell.ring("a")
        await trio.sleep(2)
        bell.follow_vault("locked", {})
        bell.ring("a")
        await trio.sleep(2)
        bell.follow_vault("unlocked", {})
        bell.ring("a")
        await trio.sleep(2)
    assert scene.asked == [0, 4]


async def test_what_was_unlocked_otherwise_meanwhile_was_not_in_vain(autojump_clock: MockClock) -> None:
    scene = Scene()
    bell = scene.bell()
    async with running(bell):
        bell.ring("a")
        await wait_all_tasks_blocked()
        bell.follow_vault("unlocked", {})
        await trio.sleep(2)
        bell.ring("a")
        await trio.sleep(2)
    assert scene.asked == [0, 2]


@pytest.mark.parametrize(
    ("ask_phone", "state", "reachable", "asked"),
    [
        ("at-start", LOCKED, True, 1),
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
        await trio.sleep(2)
    assert len(scene.asked) == asked


@pytest.mark.parametrize(("ask_phone", "asked"), [("at-start", 1), ("when-needed", 1), ("never", 0)])
async def test_when_needed(autojump_clock: MockClock, ask_phone: str, asked: int) -> None:
    scene = Scene()
    scene.reachable = False
    bell = scene.bell(ask_phone)
    async with running(bell):
        bell.ring("a")
        scene.reachable = True
        bell.ring("a")
        await trio.sleep(2)
    assert len(scene.asked) == asked


async def test_nothing_is_asked_that_cannot_be_put_on_record(autojump_clock: MockClock) -> None:
    scene = Scene()
    scene.broken = True
    bell = scene.bell()
    async with running(bell):
        bell.ring("a")
        await trio.sleep(2)
    assert scene.asked == []


async def test_nothing_is_asked_under_a_debugger(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "traced", lambda: True)
    scene = Scene()
    bell = scene.bell()
    async with running(bell):
        bell.ring("a")
        await trio.sleep(2)
    assert scene.asked == []
    assert scene.lines == [("phone_ask", "not asked: a debugger is attached")]
