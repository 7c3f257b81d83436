"""How fast a polite client is served beside hostile ones; run by hand, as root: ``python benchmarks/hostile.py``.

The daemon and the polite client have core 1, where the polite one runs whenever it can, the crowds core 0. Beside each attack, in the same run and in turn with it,
lies the same without it. A daemon that is unfair on purpose (`support.unfair`) must do worse under the attack that its
fairness is for, or the figures show nothing. What it printed is in docs/reliability.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support import as_user, unfair
from support.attackers import PATIENCE, Line, hello
from support.hostile import KINDS, PLUGIN, SECRET, Crowd
from support.services import Service, system_service

HERMES = 60002
POLITE = ("chrt", "--other", "0", "nice", "-n", "-10", "taskset", "-c", "1")
HOSTILE = ("chrt", "--other", "0", "taskset", "-c", "0")
CONFIG = "max_connections_per_uid = 65536\n"
THINK = 0.001
"""Seconds between two requests of the polite client."""


@dataclass
class Times:
    """Microseconds that a request took on the kept connection, and from connect to the answer on a new one."""

    kept: list[float] = field(default_factory=list[float])
    new: list[float] = field(default_factory=list[float])
    refused: int = 0

    def take(self, service: Service, seconds: float) -> None:
        """Ask for so long, every fiftieth time on a new connection."""
        line, end = greeted(service), time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(50):
                time.sleep(THINK)
                self._time(self.kept, lambda: line)
            self._time(self.new, lambda: greeted(service)).close()
        line.close()

    def _time(self, into: list[float], connect: Callable[[], Line]) -> Line:
        began = time.perf_counter()
        line = connect()
        self.refused += line.call("get_secret", {"name": "TOKEN"}) != "a-token"
        into.append((time.perf_counter() - began) * 1e6)
        return line


def greeted(service: Service) -> Line:
    """Connect as the polite client, and say hello."""
    line = Line.to(str(service.agent_socket))
    assert isinstance(line.call("hello", hello()), dict)
    return line


def quantile(values: list[float], part: float) -> float:
    """Return the value below which *part* of them lie."""
    return sorted(values)[int(len(values) * part)]


@contextmanager
def furnished(program: str = as_user.__file__) -> Generator[Service]:
    """Run a daemon with a secret for the polite, and one for the crowd."""
    with system_service(prefix=POLITE, config=CONFIG, program=program) as service:
        service.put(**{"TOKEN": "a-token", SECRET: "w" * 1024})
        service.grant("cobot/telegram", "TOKEN", uids=[0])
        service.grant(f"hermes/{PLUGIN}", SECRET, uids=[HERMES])
        yield service


@contextmanager
def rotating(service: Service) -> Generator[None]:
    """Give the crowd's secret a new version fifty times a second, of which everybody who has it is told."""
    stop = threading.Event()

    def rotate() -> None:
        while not stop.wait(0.02):
            service.put(WEATHER="w" * 1024)

    thread = threading.Thread(target=rotate)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def attacked(
    service: Service, kind: str, count: int, seconds: float, rounds: int
) -> tuple[Times, Times, int]:
    """Return the polite client's times without and beside the crowd, in turn, and how often the crowd acted."""
    alone, beside, acts = Times(), Times(), 0
    for _ in range(rounds):
        alone.take(service, seconds)
        with Crowd(kind, count, service.agent_socket, HERMES, prefix=HOSTILE) as crowd:
            beside.take(service, seconds)
        acts += crowd.acts
    return alone, beside, acts


def row(name: str, alone: Times, beside: Times, note: str) -> float:
    """Print one row; return by how much the kept connection's p99 grew."""
    before, after = quantile(alone.kept, 0.99), quantile(beside.kept, 0.99)
    new = f"{quantile(alone.new, 0.5):.0f} → {quantile(beside.new, 0.5):.0f}"
    print(
        f"| {name} | {quantile(alone.kept, 0.5):.0f} → {quantile(beside.kept, 0.5):.0f} "
        f"| {before:.0f} → {after:.0f} | {after / before:.2f} | {new} | {beside.refused} | {note} |",
        flush=True,
    )
    return after / before


def crowds(kinds: list[str], seconds: float, rounds: int) -> None:
    """A hundred of each kind in turn, on one daemon; AssertionError if it ended, or refused the polite."""
    with furnished() as service:
        for kind in kinds:
            if kind == "deaf":
                with rotating(service):
                    found = attacked(service, kind, 100, seconds, rounds)
            else:
                found = attacked(service, kind, 100, seconds, rounds)
            row(kind, found[0], found[1], f"{found[2]} acts")
            assert service.daemon.process is not None
            assert service.daemon.process.poll() is None
            assert not found[1].refused


def control(seconds: float, rounds: int) -> None:
    """The eager crowd on a fair daemon and on one that is not: there the polite wait longer, or too long."""
    with furnished() as fair, furnished(unfair.__file__) as other:
        best = row("eager, fair", *attacked(fair, "eager", 100, seconds, rounds)[:2], "")
        try:
            worst = row("eager, control", *attacked(other, "eager", 100, seconds, rounds)[:2], "")
        except TimeoutError:
            print(f"| eager, control | the polite client was not served within {PATIENCE:.0f} s | | | | | |")
            return
    assert worst > 2 * best, "the control does not do worse: the run is void"


def idlers(count: int, seconds: float, rounds: int) -> None:
    """So many idle connections after hello, of one process; what each takes is of the first round, when none was before."""
    with furnished() as service:
        alone, beside, each = Times(), Times(), list[float]()
        for _ in range(rounds):
            alone.take(service, seconds)
            time.sleep(1)  # until what the polite client has closed is gone
            memory, descriptors = service.resident(), service.descriptors()
            with Crowd("idle", count, service.agent_socket, HERMES, prefix=HOSTILE):
                while service.descriptors() < descriptors + count:
                    time.sleep(0.1)
                time.sleep(2)
                each.append((service.resident() - memory) / count / 1024)
                beside.take(service, seconds)
                assert service.descriptors() >= descriptors + count, "some went away"
            while service.descriptors() > descriptors:
                time.sleep(0.1)
        row(f"{count} idle", alone, beside, f"{each[0]:.1f} KiB each")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["idle", *KINDS, "control"])
    parser.add_argument("--idle", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    os.sched_setaffinity(0, {1})
    # Where two share a processor, the kernel may give it to the busier one for milliseconds: that is not the daemon's.
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    print(
        "| crowd | p50 us | p99 us | ratio | new connection p50 us | refused | |\n|---|---|---|---|---|---|---|"
    )
    if "idle" in given.what:
        idlers(given.idle, given.seconds, given.rounds)
    if kinds := [kind for kind in KINDS if kind in given.what]:
        crowds(kinds, given.seconds, given.rounds)
    if "control" in given.what:
        control(given.seconds, given.rounds)


if __name__ == "__main__":
    main()
