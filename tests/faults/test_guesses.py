"""Whoever may talk to the operator's socket guesses passphrases as fast as it can, in every way that there is.

What counts is how often a key is derived for it in any minute, whatever it is told. The minutes are of a clock that is
turned by hand: a second after as many attempts as there are connections.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from avault_daemon.callers.throttle import PER_MINUTE, Throttle
from avault_daemon.slots import passphrase as passphrases
from avault_protocol import AvaultError, Notification
from support.campaign import report, size
from support.clock import Clock
from support.house import PASSPHRASE, House, Peer, open_house

LOG_N = 11
"""A derivation takes some milliseconds: long enough for other things to happen meanwhile."""
CONNECTIONS = 6
WRONG = b"not the passphrase"


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
    """It knows one passphrase, and wants another: a right one ends the wait, if it is the next that is tried."""
    for _ in range(4):
        await _told(peer, "prove", PASSPHRASE)
    await _told(peer, "prove", WRONG)


async def _being_tried(peer: Peer) -> bool:
    """Send a wrong one; report whether a key is being derived by it now, rather than that it is refused."""
    await peer.ask("prove", {}, WRONG)
    return isinstance(await peer.message(), Notification)


async def locking(house: House, peer: Peer) -> None:
    """It locks while its guess is being tried, which needs no proof."""
    if await _being_tried(peer):
        other = await house.operator(proven=False)
        await other.call("lock")
        other.close()
        house.peers.remove(other)
        await peer.answer()


async def hanging_up(house: House, peer: Peer) -> None:
    """It does not wait to be told that it was wrong."""
    own = await house.operator(proven=False)
    await _being_tried(own)
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


@dataclass
class Guesser:
    """Several connections of one uid, which guess in one *way* until they are *done*; *tried* is when a key was derived
    by a wrong one."""

    way: Callable[[House, Peer], Awaitable[None]]
    clock: Clock
    throttle: Throttle
    done: Callable[[Guesser], bool]
    attempts: int = 0
    tried: list[float] = field(default_factory=list[float])

    async def run(self, folder: Path) -> None:
        """Guess, against a daemon in *folder*."""
        derive = passphrases.open_key

        def counted(arena: Any, content: str, passphrase: Any, *, min_log_n: int) -> Any:
            if bytes(passphrase.view) != PASSPHRASE:
                self.tried.append(self.clock.now)
            return derive(arena, content, passphrase, min_log_n=min_log_n)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(passphrases, "open_key", counted)
            async with open_house(folder) as house:
                await self._prepare(house)
                async with trio.open_nursery() as nursery:
                    for _ in range(CONNECTIONS):
                        nursery.start_soon(self._guess, house)

    async def _prepare(self, house: House) -> None:
        desk = await house.operator(proven=False)
        await desk.call("init", {"log_n": LOG_N}, PASSPHRASE)
        if self.way is unlock:
            await desk.call("lock")
        house.core.throttle = self.throttle

    async def _guess(self, house: House) -> None:
        peer = await house.operator(proven=False)
        while not self.done(self):
            await self.way(house, peer)
            self.attempts += 1
            if self.attempts % CONNECTIONS == 0:
                self.clock.now += 1


@pytest.mark.parametrize("way", WAYS)
async def test_no_way_to_guess_gets_more_than_ten_tries_a_minute(
    tmp_path: Path, way: Callable[[House, Peer], Awaitable[None]]
) -> None:
    minutes, clock = size(1, 30), Clock()
    end = clock.now + 60 * minutes
    guesser = Guesser(way, clock, Throttle(clock), lambda _: clock.now >= end)
    await guesser.run(tmp_path)
    busiest = busiest_minute(guesser.tried)
    what = f"{guesser.attempts} attempts in {minutes} minutes, {len(guesser.tried)} keys derived"
    report(f"guesses, {way.__name__.replace('_', ' ')}: {what}, {busiest} in the busiest minute")
    assert 0 < busiest <= PER_MINUTE


class Careless(Throttle):
    """It lets everybody guess."""

    def check(self, uid: int) -> None: ...


@pytest.mark.parametrize("way", WAYS)
async def test_without_the_throttle_each_way_gets_more(
    tmp_path: Path, way: Callable[[House, Peer], Awaitable[None]]
) -> None:
    """As many keys are derived as one cares to wait for, however slow the machine: the clock says how fast."""
    clock = Clock()
    guesser = Guesser(way, clock, Careless(clock), lambda it: len(it.tried) > 3 * PER_MINUTE)
    await guesser.run(tmp_path)
    busiest = busiest_minute(guesser.tried)
    report(f"control, no throttle, {way.__name__.replace('_', ' ')}: {busiest} in the busiest minute")
    assert busiest > PER_MINUTE
