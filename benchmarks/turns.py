"""Timings that can be trusted on a machine that others use too: in turns, as ratios, by their medians."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from statistics import median, quantiles

Measure = Callable[[], float]
"""Takes one sample, and returns it."""


@dataclass(frozen=True)
class Compared:
    """Samples of *ours* and of the *peer*, taken in pairs."""

    ours: list[float]
    peer: list[float]

    @property
    def ratio(self) -> float:
        """The median of the pairs' ratios."""
        return median(self._ratios())

    def _ratios(self) -> list[float]:
        return [ours / peer for ours, peer in zip(self.ours, self.peer, strict=True)]

    def line(self, what: str, unit: str, scale: float = 1.0) -> str:
        """Say it all in one line: the ratio with its quartiles, and both medians."""
        low, _, high = quantiles(self._ratios(), n=4)
        ours, peer = median(self.ours) * scale, median(self.peer) * scale
        return (
            f"{what}: {self.ratio:#.3g} ({low:#.3g} to {high:#.3g}); {ours:.1f} {unit} to {peer:.1f} {unit}"
        )


def in_turns(ours: Measure, peer: Measure, rounds: int) -> Compared:
    """Take *rounds* samples of each, one after the other, after one of each that is not counted."""
    ours()
    peer()
    pairs = [(ours(), peer()) for _ in range(rounds)]
    return Compared([pair[0] for pair in pairs], [pair[1] for pair in pairs])


def latency(call: Callable[[], object], seconds: float = 0.2) -> Measure:
    """Measure the median time of *call*, in seconds, over a slice of *seconds*."""

    def sample() -> float:
        times: list[float] = []
        until = time.perf_counter() + seconds
        while (before := time.perf_counter()) < until:
            call()
            times.append(time.perf_counter() - before)
        return median(times)

    return sample


def once(call: Callable[[], object]) -> Measure:
    """Measure one run of *call*, in seconds."""

    def sample() -> float:
        before = time.perf_counter()
        call()
        return time.perf_counter() - before

    return sample


def pin(core: int) -> None:
    """Stay on the *core*-th of this machine's processors from here on, and so does what is started."""
    cores = sorted(os.sched_getaffinity(os.getppid()))
    os.sched_setaffinity(0, {cores[core % len(cores)]})


def go_ahead() -> None:
    """Run before others where that is allowed."""
    with suppress(PermissionError):
        os.nice(-10)
