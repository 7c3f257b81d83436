"""No value is given out that is not on record: whatever the disk does, whoever closes the record, whenever the daemon dies.

A daemon lives for some gets, in each life a secret is given out at most once, and something goes wrong meanwhile. The
next life finds the record as it is; all that was given out before must be there.
"""

from __future__ import annotations

import errno
import json
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from avault_daemon.settings import Settings
from support.attackers import ENDED, Line, hello
from support.campaign import report, size
from support.forked import PASSPHRASE, ForkedDaemon
from support.injection import Fault
from support.writers import LostError

BURST = 8
BURSTS = 25
NAMES = [f"N{number}" for number in range(BURST * BURSTS)]
SEED = 20261121

Trouble = Callable[["Lives"], None]


def failing(fault: Fault) -> Trouble:
    """One of the next calls on a file meets with *fault*."""

    def fail(lives: Lives) -> None:
        assert lives.daemon.injector is not None
        lives.daemon.injector.arm(lives.chance.randrange(1, 5), fault)

    return fail


def closed(lives: Lives) -> None:
    """The record's file is closed, and the daemon does not know."""
    lives.daemon.send(signal.SIGUSR1)


def killed(lives: Lives) -> None:
    """The daemon is killed before it answers, or while it does."""
    lives.daemon.send(signal.SIGKILL)


TROUBLES: dict[str, Trouble] = {
    "disk full": failing(Fault(errno.ENOSPC)),
    "disk full for good": failing(Fault(errno.ENOSPC, lasting=True)),
    "disk full in a line": failing(Fault(errno.ENOSPC, short=True)),
    "short write": failing(Fault(short=True)),
    "EIO": failing(Fault(errno.EIO)),
    "EIO for good": failing(Fault(errno.EIO, lasting=True)),
    "EROFS for good": failing(Fault(errno.EROFS, lasting=True)),
    "record closed": closed,
    "killed": killed,
}


@dataclass
class Lives:
    """The lives of a daemon in *folder*, and what it gave out."""

    folder: Path
    weakness: str | None = None
    chance: random.Random = field(default_factory=lambda: random.Random(SEED))
    outcomes: Counter[str] = field(default_factory=Counter[str])
    troubles: Counter[str] = field(default_factory=Counter[str])
    given: set[str] = field(default_factory=set[str])
    """What the last life gave out."""
    daemon: ForkedDaemon = field(init=False)
    _line: int = 0

    def __post_init__(self) -> None:
        self.daemon = ForkedDaemon(self.folder)
        self.daemon.start()
        items = [{"name": name, "size": len(name), "encoding": "text"} for name in NAMES]
        grant = {"agent": "cobot", "plugin": "telegram", "secrets": NAMES, "uids": [os.getuid()]}
        with closing(self.daemon.operator()) as desk:
            desk.call("init", {"log_n": 1}, PASSPHRASE)
            assert isinstance(desk.call("put", {"items": items}, "".join(NAMES)), dict)
            assert isinstance(desk.call("grant", grant), dict)
        self.daemon.stop()

    def run(self, gets: int) -> None:
        """Live until so many were asked for."""
        while self.outcomes.total() < gets:
            self._live()

    def _live(self) -> None:
        """Start, see that the record has what the life before gave out, then give out while something goes wrong."""
        sync = Settings(audit_sync=self.chance.choice(["batch", "always"]))
        self.daemon = ForkedDaemon(self.folder, self.weakness, settings=sync, injected=True)
        self.daemon.start()
        self.check()
        with closing(self.daemon.operator()) as desk:
            assert isinstance(desk.call("unlock", {}, PASSPHRASE), dict), desk.error
        kind = list(TROUBLES)[self.troubles.total() % len(TROUBLES)]
        when = self.chance.randrange(BURSTS)
        self.troubles[kind] += 1
        with closing(Line.to(str(self.daemon.runtime_dir / "agent.sock"))) as plugin:
            assert isinstance(plugin.call("hello", hello("telegram", NAMES)), dict)
            for burst in range(BURSTS):
                self._burst(plugin, burst, TROUBLES[kind] if burst == when else None)
        self.daemon.stop()

    def _burst(self, plugin: Line, burst: int, trouble: Trouble | None) -> None:
        """Ask for several secrets at once, and hear; *trouble* comes between the two."""
        names = NAMES[burst * BURST : (burst + 1) * BURST]
        first = self.chance.randrange(BURST + 1) if trouble else 0
        for name in names:
            plugin.ask("get_secret", {"name": name})
        heard = [plugin.hear() for _ in range(first)]
        if trouble:
            trouble(self)
        heard += [plugin.hear() for _ in range(BURST - first)]
        for name, outcome in zip(names, heard, strict=True):
            if outcome == name:
                self.given.add(name)
            assert outcome in (name, "audit_failed", ENDED), outcome
            self.outcomes["given" if outcome == name else str(outcome)] += 1

    def check(self) -> None:
        """See that the record, as a new daemon left it, has all that the life before gave out; `LostError`."""
        state = self.folder / "state"
        files = [*sorted(state.glob("audit-*.jsonl"))[-1:], state / "audit.jsonl"]
        lines = [json.loads(line) for file in files for line in file.read_bytes().splitlines()]
        recorded = {
            line["secret"] for line in lines if line["n"] > self._line and line["action"] == "get_secret"
        }
        if missing := self.given - recorded:
            raise LostError(f"given out and not on record: {sorted(missing)}")
        self.given = set()
        self._line = lines[-1]["n"]

    def end(self) -> None:
        """Check the last life too, and the chain of all lines."""
        self.daemon = ForkedDaemon(self.folder)
        self.daemon.start()
        self.check()
        with closing(self.daemon.operator()) as desk:
            assert isinstance(desk.call("unlock", {}, PASSPHRASE), dict)
            verdict = desk.call("audit_verify")
            assert isinstance(verdict, dict)
            assert verdict["ok"], verdict
        self.daemon.stop()


def test_nothing_is_given_out_that_is_not_on_record(quick: Path) -> None:
    lives, gets = Lives(quick), size(2_000, 40_000)
    lives.run(gets)
    lives.end()
    told = ", ".join(f"{count} {what}" for what, count in sorted(lives.outcomes.items()))
    report(
        f"gets: {lives.outcomes.total()} in {lives.troubles.total()} lives: {told}; 0 given out without a line"
    )
    report(f"troubles: {dict(lives.troubles)}")
    assert lives.outcomes["given"] > gets / 4
    assert lives.outcomes["audit_failed"]


def test_a_daemon_that_answers_though_it_could_not_record_is_convicted(quick: Path) -> None:
    lives = Lives(quick, "unrecorded")
    with pytest.raises(LostError) as caught:
        lives.run(4_000)
    lives.daemon.stop()
    report(
        f"control, a record whose errors are ignored: convicted after {lives.outcomes.total()} gets: {caught.value}"
    )
