"""Clients that store and read values without a pause, until the daemon is gone; and what must then be there."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.attackers import Line, hello
from support.waiting import until

NAMES = 5
"""Names of one writer: few, so that values are replaced and files are compacted at times."""
PAUSE = 0.0005
"""Seconds from one look at them to the next."""


class LostError(AssertionError):
    """Something that was acknowledged is not there, or something is there that nobody asked for."""


def put(name: str, value: str) -> dict[str, Any]:
    """Return the parameters that store *value*, a new version or the first."""
    return {"items": [{"name": name, "size": len(value), "encoding": "text"}], "replace": True}


@dataclass
class Writer:
    """One client through all lives of a daemon. Its values are numbers that only rise."""

    who: int
    number: int = 0
    asked: dict[str, int] = field(default_factory=dict[str, int])
    acknowledged: dict[str, int] = field(default_factory=dict[str, int])

    def write(self, line: Line) -> bool:
        """Store the next value; report whether that was acknowledged."""
        self.number += 1
        name, value = f"W{self.who}N{self.number % NAMES}", str(self.number)
        self.asked[name] = self.number
        if not isinstance(line.call("put", put(name, value), value), dict):
            return False
        self.acknowledged[name] = self.number
        return True

    def check(self, line: Line, least: dict[str, int]) -> None:
        """See that each name holds what was acknowledged, or what was asked for after that; `LostError`."""
        for name, asked in self.asked.items():
            found, known = line.call("reveal", {"name": name}), least.get(name, 0)
            number = int(found) if isinstance(found, str) and found.isdecimal() else 0
            if not known <= number <= asked:
                raise LostError(f"{name}: {known} was acknowledged, {asked} asked for, {found!r} is there")
            self.acknowledged[name] = number
            self.asked[name] = number


class Crowd:
    """Several writers at once, in threads."""

    def __init__(self, size: int) -> None:
        self.writers = [Writer(who) for who in range(size)]
        self.writes = 0
        self._threads: list[threading.Thread] = []

    def start(self, socket: Path, passphrase: str) -> None:
        """Let them all connect, prove, and write."""
        lines = [Line.to(str(socket)) for _ in self.writers]
        for line in lines:
            line.ask("prove", {}, passphrase)
        for line in lines:
            line.hear()
        self._threads = [
            threading.Thread(target=self._write, args=pair, daemon=True)
            for pair in zip(self.writers, lines, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def _write(self, writer: Writer, line: Line) -> None:
        while writer.write(line):
            self.writes += 1
        line.close()

    def wait_for(self, more: int) -> None:
        """Wait until so many more writes were acknowledged."""
        enough = self.writes + more
        until(lambda: self.writes >= enough, "nothing is written", pause=PAUSE)

    def join(self) -> None:
        """Wait until they have noticed that the daemon is gone."""
        for thread in self._threads:
            thread.join()

    def acknowledged(self) -> list[dict[str, int]]:
        """Return what is acknowledged by now, for `check`."""
        return [dict(writer.acknowledged) for writer in self.writers]

    def check(self, line: Line, least: Sequence[dict[str, int]]) -> None:
        """See that what was acknowledged is there; `LostError`."""
        for writer, known in zip(self.writers, least, strict=True):
            writer.check(line, known)


class Reader:
    """A plugin that gets one secret without a pause, in a thread; `given` counts what it got."""

    def __init__(self, socket: Path, secret: str) -> None:
        self.given = 0
        self._line, self._secret = Line.to(str(socket)), secret
        assert isinstance(self._line.call("hello", hello("telegram", [secret])), dict)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while self._line.call("get_secret", {"name": self._secret}) == self._secret:
            self.given += 1
        self._line.close()

    def wait_for(self, least: int) -> None:
        """Wait until it got so many."""
        until(lambda: self.given >= least, "nothing is given out", pause=PAUSE)

    def join(self) -> None:
        """Wait until it has noticed that the daemon is gone."""
        self._thread.join()
