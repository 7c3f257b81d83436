"""Whoever may talk to the operator's socket guesses passphrases as fast as it can, in every way that there is.

What counts is how often a key is derived for it in any minute, whatever it is told. The minutes are of a clock that is
turned by hand: a second after as many attempts as there are connections.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
import trio

from avault_daemon.callers.throttle import PER_MINUTE, Throttle
from avault_daemon.slots import passphrase as passphrases
from avault_protocol import AvaultError, Notification
from support.attackers import Puppet
from support.campaign import report, size
from support.clock import Clock
from support.house import PASSPHRASE, House, Peer, open_house
from support.services import DAEMON, PASSPHRASE as RIGHT, Service, system_service

LOG_N = 10
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
    guesser = Guesser(way, clock, Careless(clock), lambda it: len(it.tried) > PER_MINUTE)
    await guesser.run(tmp_path)
    busiest = busiest_minute(guesser.tried)
    report(f"control, no throttle, {way.__name__.replace('_', ' ')}: {busiest} in the busiest minute")
    assert busiest > PER_MINUTE


# --- beside others, on a real daemon ----------------------------------------------------------------------------------


class Nuisance:
    """A process of *uid* that guesses on several connections for as long as the block lasts; `told` is what it heard."""

    def __init__(self, service: Service, uid: int, method: str) -> None:
        self.told: Counter[str] = Counter()
        self._puppet = Puppet.start(uid, groups=(DAEMON,))
        self._puppet.order("gather", str(service.operator_socket), CONNECTIONS)
        self._method = method
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._guess)

    def _guess(self) -> None:
        over = False
        while not over:
            over = self._over.is_set()  # once in any case
            self._puppet.order("crowd_ask", self._method, {}, WRONG.decode())
            answers = self._puppet.order("crowd_hear")[0]
            self.told.update(answer if isinstance(answer, str) else "unlocked already" for answer in answers)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._puppet.die()


def timed_unlock(service: Service, refused: Counter[str]) -> float:
    """Unlock as the operator, again if that is refused; return how many seconds it took."""
    service.open_desk()
    began = time.monotonic()
    while not isinstance(outcome := service.desk.call("unlock", {}, RIGHT), dict):
        refused[outcome] += 1
    return time.monotonic() - began


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several others")
@pytest.mark.parametrize("method", ["prove", "unlock"])
def test_the_operator_is_not_kept_from_unlocking(method: str) -> None:
    """Each time beside a uid that has not guessed before, so that a key is being derived for it."""
    alone: list[float] = []
    beside: list[float] = []
    told, refused = Counter[str](), Counter[str]()
    with system_service() as service:
        for number in range(size(2, 60)):
            service.must("lock")
            alone.append(timed_unlock(service, refused))
            service.must("lock")
            with Nuisance(service, 65001 + number, method) as nuisance:
                beside.append(timed_unlock(service, refused))
            told += nuisance.told
    before, after = (statistics.median(times) * 1000 for times in (alone, beside))
    report(
        f"unlocks by the operator: {len(alone)} alone, {before:.0f} ms; {len(beside)} beside guesses by {method}, "
        f"{after:.0f} ms, {max(beside) * 1000:.0f} at most: {after / before:.2f} times; refused: {dict(refused)}; "
        f"the others were told {dict(told)}"
    )
    assert not refused
    assert told["wrong_passphrase"] + told["unlocked already"] >= len(beside)
