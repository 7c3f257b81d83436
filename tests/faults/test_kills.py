"""Killed at any moment while several clients write: nothing acknowledged is lost, and the vault opens every time."""

from __future__ import annotations

import random
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support.attackers import Line
from support.campaign import report, size
from support.daemon import RunningDaemon, running_daemon
from support.forked import PASSPHRASE, ForkedDaemon
from support.writers import Crowd, LostError

WRITERS = 3
MOST = 12
"""Writes that are acknowledged before a kill, at most; and then it comes within so many seconds."""
LONGEST = 0.005
OF_ONE = 200
"""Kills of one vault: its record grows, and takes ever longer to be read."""
SEED = 20261121

Daemon = ForkedDaemon | RunningDaemon


@dataclass
class Kills:
    """A daemon that is killed again and again."""

    daemon: Daemon
    chance: random.Random = field(default_factory=lambda: random.Random(SEED))
    crowd: Crowd = field(default_factory=lambda: Crowd(WRITERS))
    done: int = 0
    early: int = 0

    def run(self, cycles: int) -> None:
        """Do it so often."""
        for _ in range(cycles):
            self._cycle()

    def _cycle(self) -> None:
        """Write, kill, start, and see what is there; `LostError`. The daemon is left running, unlocked."""
        self.crowd.start(self.daemon.runtime_dir / "operator.sock", PASSPHRASE)
        self.crowd.wait_for(self.chance.randrange(MOST))
        time.sleep(self.chance.uniform(0, LONGEST))
        self.daemon.stop(signal.SIGKILL)
        self.done += 1
        self.crowd.join()
        if isinstance(self.daemon, ForkedDaemon) and self.chance.random() < 0.1:
            self._kill_at_start(self.daemon)
        self.daemon.start()
        desk = unlocked(self.daemon)
        try:
            self.crowd.check(desk, self.crowd.acknowledged())
            if self.chance.random() < 0.05:
                check_record(desk)
        finally:
            desk.close()

    def _kill_at_start(self, daemon: ForkedDaemon) -> None:
        """What opening mends may be interrupted too."""
        wire = daemon.begin()
        wire.poll(self.chance.uniform(0, 0.2))
        daemon.stop(signal.SIGKILL)
        wire.close()
        self.early += 1


def check_record(desk: Line) -> None:
    verdict = desk.call("audit_verify")
    if not isinstance(verdict, dict) or verdict["ok"] is not True:
        raise LostError(f"the record is not whole: {verdict}")


def unlocked(daemon: Daemon) -> Line:
    """Return the operator's connection to *daemon*, unlocked; `LostError` if it does not open."""
    line = Line.to(str(daemon.runtime_dir / "operator.sock"))
    outcome = line.call("unlock", {}, PASSPHRASE)
    if not isinstance(outcome, dict):
        line.close()
        raise LostError(f"the vault does not open: {line.error}")
    return line


def begun(daemon: ForkedDaemon) -> ForkedDaemon:
    daemon.start()
    line = daemon.operator()
    assert line.call("init", {"log_n": 1}, PASSPHRASE)
    line.close()
    return daemon


def test_nothing_that_was_acknowledged_is_lost_to_a_kill(quick: Path) -> None:
    vaults = size(1, 50)
    writes = early = 0
    for number in range(vaults):
        folder = quick / str(number)
        folder.mkdir()
        kills = Kills(begun(ForkedDaemon(folder)), random.Random(SEED + number))
        kills.run(OF_ONE)
        kills.daemon.stop()
        assert kills.crowd.writes > OF_ONE
        writes, early = writes + kills.crowd.writes, early + kills.early
        shutil.rmtree(folder)
    report(
        f"kills: {vaults * OF_ONE}, and {early} more while starting; {writes} writes of {WRITERS} clients"
        " acknowledged, 0 lost; opened every time"
    )


def test_nor_of_a_daemon_as_it_is_started_by_a_user(tmp_path: Path) -> None:
    cycles = size(6, 500)
    with running_daemon(tmp_path) as daemon:
        line = Line.to(str(daemon.runtime_dir / "operator.sock"))
        assert isinstance(line.call("init", {"log_n": 16}, PASSPHRASE), dict)
        line.close()
        kills = Kills(daemon)
        kills.run(cycles)
    report(f"kills of avaultd: {cycles}; {kills.crowd.writes} writes acknowledged, 0 lost; opened every time")


def test_a_daemon_that_writes_in_place_is_convicted(quick: Path) -> None:
    kills = Kills(begun(ForkedDaemon(quick, weakness="in place")))
    try:
        with pytest.raises(LostError) as caught:
            kills.run(OF_ONE)
    finally:
        kills.daemon.stop()
    report(f"control, a daemon that writes in place: convicted at kill {kills.done}: {caught.value}")
