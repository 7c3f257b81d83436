"""Whoever may talk to the operator's socket guesses passphrases as fast as it can, in every way that there is.

What counts is how often a key is derived for it in any minute, whatever it is told. In a daemon inside the test the
minutes pass quicker than ours; beside a real one, another uid unlocks and is timed.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from avault_daemon.callers.throttle import PER_MINUTE, Throttle
from avault_daemon.slots import passphrase as passphrases
from avault_protocol import AvaultError
from support.campaign import report, size
from support.house import PASSPHRASE, House, Peer, open_house

QUICKER = 120
"""How many seconds pass for the daemon's throttle in one of ours."""
LOG_N = 11
"""A derivation takes some milliseconds: long enough for other things to happen meanwhile."""
CONNECTIONS = 6
WRONG = b"not the passphrase"


def clock() -> float:
    return time.monotonic() * QUICKER


async def _told(peer: Peer, method: str, passphrase: bytes) -> None:
    try:
        await peer.call(method, {}, passphrase)
    except AvaultError:
        await trio.lowlevel.checkpoint()


async def prove(house: House, peer: Peer) -> None:
    await _told(peer, "prove", WRONG)


async def unlock(house: House, peer: Peer) -> None:
    await _told(peer, "unlock", WRONG)


async def with_right_ones_between(house: House, peer: Peer) -> None:
    """It knows one passphrase, and wants another: a right one ends the wait."""
    await _told(peer, "prove", WRONG)
    await _told(peer, "prove", PASSPHRASE)


async def locking(house: House, peer: Peer) -> None:
    """It locks while its guess is being tried, which needs no proof."""
    await peer.ask("prove", {}, WRONG)
    other = await house.operator(proven=False)
    await trio.sleep(0.002)
    await other.call("lock")
    other.close()
    await peer.answer()


async def hanging_up(house: House, peer: Peer) -> None:
    """It does not wait to be told that it was wrong."""
    own = await house.operator(proven=False)
    await own.ask("prove", {}, WRONG)
    await trio.sleep(0.002)
    own.close()
    house.peers.remove(own)


WAYS: list[Callable[[House, Peer], Awaitable[None]]] = [
    prove,
    unlock,
    with_right_ones_between,
    locking,
    hanging_up,
]


def busiest_minute(moments: list[float]) -> int:
    """Return how many of *moments* lie in the minute that has most."""
    return max(
        (sum(first <= moment < first + 60 for moment in moments[at:]) for at, first in enumerate(moments)),
        default=0,
    )


async def derivations(
    folder: Path, way: Callable[[House, Peer], Awaitable[None]], minutes: float, throttle: Throttle
) -> list[float]:
    """Guess in this *way* by several connections for so many *minutes*; return when a wrong one was tried."""
    tried: list[float] = []
    derive = passphrases.open_key

    def counted(arena: object, content: str, passphrase: object, *, min_log_n: int) -> object:
        wrong = bytes(passphrase.view) != PASSPHRASE  # type: ignore[attr-defined]
        if wrong:
            tried.append(clock())
        return derive(arena, content, passphrase, min_log_n=min_log_n)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passphrases, "open_key", counted)
        async with open_house(folder) as house:
            desk = await house.operator(proven=False)
            await desk.call("init", {"log_n": LOG_N}, PASSPHRASE)
            if way is unlock:
                await desk.call("lock")
            house.core.throttle = throttle
            with trio.move_on_after(minutes * 60 / QUICKER):
                async with trio.open_nursery() as nursery:
                    for _ in range(CONNECTIONS):
                        nursery.start_soon(_guess, house, way)
    return tried


async def _guess(house: House, way: Callable[[House, Peer], Awaitable[None]]) -> None:
    peer = await house.operator(proven=False)
    while True:
        await way(house, peer)


@pytest.mark.parametrize("way", WAYS)
async def test_no_way_to_guess_gets_more_than_ten_tries_a_minute(
    tmp_path: Path, way: Callable[[House, Peer], Awaitable[None]]
) -> None:
    minutes = size(1, 30)
    tried = await derivations(tmp_path, way, minutes, Throttle(clock))
    report(
        f"guesses, {way.__name__}: {len(tried)} keys derived in {minutes} minutes, {busiest_minute(tried)} in the busiest"
    )
    assert 0 < busiest_minute(tried) <= PER_MINUTE


class Careless(Throttle):
    """It lets everybody guess."""

    def check(self, uid: int) -> None: ...


@pytest.mark.parametrize("way", WAYS)
async def test_without_the_throttle_each_way_gets_more(
    tmp_path: Path, way: Callable[[House, Peer], Awaitable[None]]
) -> None:
    tried = await derivations(tmp_path, way, 0.5, Careless(clock))
    report(f"control, no throttle, {way.__name__}: {len(tried)} keys derived in half a minute")
    assert len(tried) > PER_MINUTE
