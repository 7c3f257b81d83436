"""Each system call of each change fails once, in each way: nothing is acknowledged that is not so, and what is then there
is the old state or the new one, never a mixture.

It is the kernel that fails a whole daemon, at whatever file of the vault, the anchor or the record it touches.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from avault_daemon.confine import seccomp
from support.attackers import Line, Outcome, hello
from support.campaign import FULL, report
from support.forked import PASSPHRASE, ForkedDaemon
from support.injection import Fault
from support.writers import LostError, put

FAULTS = [
    Fault(errno.EIO),
    Fault(errno.ENOSPC, lasting=True),
    Fault(short=True),
    Fault(errno.EROFS),
    Fault(errno.EINTR),
    Fault(errno.ENOSPC, short=True),
    Fault(errno.EIO, lasting=True),
    Fault(errno.ENOSPC),
    Fault(errno.EROFS, lasting=True),
]
MISSES = 3
"""Numbers in a row that no call had, after which there are no more: the record's sync comes when it comes."""
NEW = "another passphrase altogether"
OLD = {"A": "value 5", "B": "value B"}
AGENT = {"agent": "cobot", "plugin": "telegram", "secrets": ["A"], "uids": [os.getuid()]}


def ask_put(daemon: ForkedDaemon, desk: Line) -> Outcome:
    return desk.call("put", {"items": [item("B", 3), item("C", 3)], "replace": True}, "newnew")


def item(name: str, size: int) -> dict[str, object]:
    return {"name": name, "size": size, "encoding": "text"}


def ask_compaction(daemon: ForkedDaemon, desk: Line) -> Outcome:
    """Store one version more than are kept."""
    return desk.call("put", put("A", "value 6"), "value 6")


def ask_rm(daemon: ForkedDaemon, desk: Line) -> Outcome:
    return desk.call("rm", {"name": "B"})


def ask_rekey(daemon: ForkedDaemon, desk: Line) -> Outcome:
    return desk.call("rekey", {"log_n": 1}, NEW)


def ask_get(daemon: ForkedDaemon, desk: Line) -> Outcome:
    """Say hello and get a secret; the answer is a value, which the record must know of."""
    plugin = Line.to(str(daemon.runtime_dir / "agent.sock"))
    try:
        told = plugin.call("hello", hello("telegram", ["A"]))
        return plugin.call("get_secret", {"name": "A"}) if isinstance(told, dict) else told
    finally:
        plugin.close()


def ask_checkpoint(daemon: ForkedDaemon, desk: Line) -> Outcome:
    """Have the record signed and synced, and the anchor know of it."""
    return desk.call("audit_verify")


@dataclass(frozen=True)
class Deed:
    """What is done while calls fail, and what is there afterwards."""

    name: str
    ask: Callable[[ForkedDaemon, Line], Outcome]
    after: dict[str, str]
    passphrase: str = PASSPHRASE


DEEDS = [
    Deed("put", ask_put, {**OLD, "B": "new", "C": "new"}),
    Deed("compaction", ask_compaction, {**OLD, "A": "value 6"}),
    Deed("rm", ask_rm, {"A": "value 5"}),
    Deed("rekey", ask_rekey, OLD, NEW),
    Deed("get", ask_get, OLD),
    Deed("checkpoint", ask_checkpoint, OLD),
]


@dataclass
class Case:
    """One run: a daemon of the template, a deed, a call that fails, and a daemon that starts anew."""

    folder: Path
    template: Path
    weakness: str | None = None

    def daemon(self) -> ForkedDaemon:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.template, self.folder)
        return ForkedDaemon(self.folder, self.weakness)

    def run(self, deed: Deed, at: int, fault: Fault) -> str | None:
        """Return the call that failed; None if there are not so many."""
        daemon = replace(self.daemon(), injected=True)
        daemon.start()
        desk, opened = daemon.unlocked()
        assert isinstance(opened, dict)
        assert isinstance(
            desk.call("audit_verify"), dict
        )  # the record has written what it has to write of that
        assert daemon.injector is not None
        daemon.injector.arm(at, fault)
        outcome = deed.ask(daemon, desk)
        calls = daemon.injector.disarm()
        desk.close()
        if not daemon.alive:
            raise LostError(f"the daemon has ended: {calls}")
        daemon.stop()
        Afterwards(self.folder).check(deed, outcome)
        return calls[at - 1] if len(calls) >= at else None

    def start(self, at: int, fault: Fault) -> str | None:
        """Let a start and an unlock meet with the fault."""
        daemon = replace(self.daemon(), injected=True, arming=(at, fault))
        calls: list[str] = []
        wire = daemon.begin()
        assert daemon.injector is not None
        with suppress(EOFError):  # a daemon that cannot have its directories does not start, and says so
            wire.recv()
            desk, _ = daemon.unlocked()
            desk.close()
        calls = daemon.injector.disarm()
        wire.close()
        daemon.stop()
        Afterwards(self.folder).check(Deed("start", ask_get, OLD), "")
        return calls[at - 1] if len(calls) >= at else None


@dataclass
class Afterwards:
    """A daemon that is started where one has met with a fault, on a disk that works."""

    folder: Path

    def check(self, deed: Deed, outcome: Outcome) -> None:
        """`LostError` unless all is as it was before *deed* or, and if it was acknowledged for sure, after it."""
        # A daemon each: after a wrong guess the next would have to wait.
        opened = self._check(deed.passphrase, deed, outcome)
        if not opened and (deed.passphrase == PASSPHRASE or not self._check(PASSPHRASE, deed, outcome)):
            raise LostError(f"the vault does not open after {deed.name}")

    def _check(self, passphrase: str, deed: Deed, outcome: Outcome) -> bool:
        daemon = ForkedDaemon(self.folder)
        daemon.start()
        try:
            with closing(daemon.operator()) as desk:
                opened = isinstance(desk.call("unlock", {}, passphrase), dict)
                if opened:
                    self._look(desk, passphrase, deed, outcome)
        finally:
            daemon.stop()
        return opened

    def _look(self, desk: Line, passphrase: str, deed: Deed, outcome: Outcome) -> None:
        found = {name: desk.call("reveal", {"name": name}) for name in ("A", "B", "C")}
        there = {name: value for name, value in found.items() if value != "not_found"}, passphrase
        new, old = (deed.after, deed.passphrase), (OLD, PASSPHRASE)
        if there != new and (isinstance(outcome, dict) or there != old):
            raise LostError(f"{deed.name} was answered by {outcome}, and there is {there}")
        verdict = desk.call("audit_verify")
        if not isinstance(verdict, dict) or not verdict["ok"]:
            raise LostError(f"the record is not whole: {verdict} {desk.error}")
        if deed.name == "get" and outcome == OLD["A"] and not self._on_record(desk):
            raise LostError("a value was given out that is not on record")
        if not isinstance(desk.call("put", put("D", "more"), "more"), dict):
            raise LostError(f"nothing can be written: {desk.error}")

    def _on_record(self, desk: Line) -> bool:
        answer = desk.call("audit")
        return isinstance(answer, dict) and any(
            (entry["action"], entry["decision"]) == ("get_secret", "allowed") for entry in answer["entries"]
        )


def furnished(folder: Path) -> Path:
    """Return a folder with the home and the state of a daemon, of which every file is there."""
    daemon = ForkedDaemon(folder)
    daemon.start()
    desk = daemon.operator()
    desk.call("init", {"log_n": 1}, PASSPHRASE)
    for value in ("value 1", "value 2", "value 3", "value 4", "value 5"):
        desk.call("put", put("A", value), value)
    desk.call("put", put("B", OLD["B"]), OLD["B"])
    assert isinstance(desk.call("grant", AGENT), dict)
    assert isinstance(desk.call("audit_verify"), dict)
    desk.close()
    daemon.stop()
    shutil.rmtree(daemon.runtime_dir)
    return folder


def interrupted(folder: Path) -> Path:
    """Leave what a power cut may leave: much to be mended at the next start."""
    for name in ("home/vault.jsonl", "state/audit.jsonl"):
        with (folder / name).open("ab") as file:
            file.write(b'{"half of a li')
    (folder / "home/vault.jsonl.new").write_bytes(b"left over")
    return folder


@pytest.fixture
def template(quick: Path) -> Path:
    return furnished(quick / "template")


@pytest.fixture(autouse=True)
def notified() -> None:
    try:
        seccomp.machine()
    except seccomp.UnsupportedArchitecture as error:
        pytest.skip(str(error))


IN_TURN: list[Fault | None] = [None]
WAYS: list[Fault | None] = [*FAULTS] if FULL else IN_TURN
"""In each way; where every change is tested, each call in one way, which is another for the next (None)."""


def every_call(
    run: Callable[[int, Fault], str | None], ways: Sequence[Fault | None] = WAYS
) -> Iterator[tuple[str, Fault]]:
    """Let each call fail, one run each; yield what failed, and how."""
    for way in ways:
        at = missed = 0
        while missed < MISSES:
            at += 1
            fault = way or FAULTS[at % len(FAULTS)]
            failed = run(at, fault)
            missed = 0 if failed else missed + 1
            if failed:
                yield failed, fault


@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.name)
def test_whichever_call_fails_it_is_the_old_or_the_new(quick: Path, template: Path, deed: Deed) -> None:
    case = Case(quick / "case", template)
    failed = [call for call, _ in every_call(lambda at, fault: case.run(deed, at, fault))]
    report(f"{deed.name}: {len(failed)} runs, a call failing in each: {', '.join(dict.fromkeys(failed))}")
    assert any(call.startswith("write audit.jsonl") for call in failed)


def test_whichever_call_of_a_start_and_an_unlock_fails(quick: Path, template: Path) -> None:
    case = Case(quick / "case", interrupted(template))
    failed = [call for call, _ in every_call(case.start)]
    report(f"start and unlock: {len(failed)} runs: {', '.join(dict.fromkeys(failed))}")
    assert len(failed) > 20


def test_a_daemon_that_does_not_look_whether_a_write_worked_is_convicted(quick: Path, template: Path) -> None:
    case = Case(quick / "case", template, weakness="hopeful")
    with pytest.raises(LostError) as caught:
        list(every_call(lambda at, fault: case.run(DEEDS[0], at, fault), [Fault(errno.ENOSPC)]))
    report(f"control, errors of write(2) ignored: convicted: {caught.value}")
