"""A record in a folder of its own, with a disk that can be made to fail and a key that signs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import trio
import trio.testing

from avault_daemon.anchor import Anchor, Point
from avault_daemon.audit import Record, Verdict, verify
from support.callers import make_caller
from support.clock import Clock
from support.faults import FaultyFiles
from support.signing import Key

CALLER = make_caller()


class Book:
    """The folder, its anchor, and the record that is open in it. *anchor*: that of a real vault."""

    def __init__(self, directory: Path, *, max_segment: int = 1 << 20, anchor: Anchor | None = None) -> None:
        self.directory = directory
        self.max_segment = max_segment
        self.key = Key()
        self.clock = Clock()
        self.anchor = anchor or Anchor(directory / "anchor.json")
        if anchor is None:
            self.anchor.load()
            self.anchor.update(current=Point(self.key.hex, 1, "0" * 64))
        self.disk = FaultyFiles()

    def open(self, *, sync: Literal["batch", "always"] = "batch") -> Record:
        """Open the record as a daemon does that starts."""
        self.anchor.load()
        return Record(
            self.directory,
            self.anchor,
            clock=self.clock,
            monotonic=self.clock,
            max_segment=self.max_segment,
            sync=sync,
            files=self.disk,
        )

    def unlock(self, record: Record, key: Key | None = None) -> None:
        """Give *record* the vault's key."""
        key = key or self.key
        record.public, record.signer = key.public, key.sign

    @property
    def current(self) -> Path:
        """The file that is written to."""
        return self.directory / "audit.jsonl"

    def paths(self) -> list[Path]:
        """Return the files, the oldest first."""
        return [*sorted(self.directory.glob("audit-*.jsonl")), self.current]

    def lines(self) -> list[dict[str, Any]]:
        """Return all lines, parsed."""
        return [json.loads(line) for path in self.paths() for line in path.read_bytes().splitlines()]

    def actions(self) -> list[str]:
        """Return what each line is about."""
        return [line["action"] for line in self.lines()]

    def verify(self) -> Verdict:
        """Check the record with what is on the disk alone."""
        self.anchor.load()
        return verify(self.directory, self.anchor)


def use(record: Record, secret: str = "TOKEN", *, agent: str = "cobot", flush: bool = True) -> None:
    """Put a use on record."""
    record.append(CALLER, "get_secret", agent=agent, plugin="telegram", secret=secret, version=1)
    if flush:
        record.flush()


def refuse(record: Record, secret: str = "TOKEN", **caller: Any) -> None:
    """Put a refusal on record."""
    record.refused(
        make_caller(**caller), "get_secret", "not_granted", agent="cobot", plugin="t", secret=secret
    )
    record.flush()


async def run_for(record: Record, book: Book, seconds: float) -> None:
    """Let the record's task work for so long, in steps of 10 ms; needs `mock_clock`.

    What it does in a thread takes no time: the clock stands still until the thread is done.
    """
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)
    async with trio.open_nursery() as nursery:
        await nursery.start(record.run)
        for _ in range(round(seconds * 100)):
            await _threads_done()
            book.clock.now += 0.01
            clock.jump(0.01)
        await _threads_done()
        nursery.cancel_scope.cancel()


async def _threads_done() -> None:
    await trio.testing.wait_all_tasks_blocked()
    while trio.to_thread.current_default_thread_limiter().borrowed_tokens:
        await trio.testing.wait_all_tasks_blocked()
