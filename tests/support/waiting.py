"""Waiting for what nobody tells of; a machine that is slow or busy has a minute for it."""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

WITHIN = 60.0
_PAUSE = 0.01


def until(
    true: Callable[[], object],
    what: str | Callable[[], str],
    within: float = WITHIN,
    pause: float = _PAUSE,
) -> None:
    """Wait until *true*; AssertionError that says *what* did not come about."""
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, what if isinstance(what, str) else what()
        time.sleep(pause)


async def till(true: Callable[[], object]) -> None:
    """Wait until *true*, as a task; trio.TooSlowError."""
    with trio.fail_after(WITHIN):
        while not true():  # noqa: ASYNC110 - nobody sets an event for us
            await trio.sleep(_PAUSE)
