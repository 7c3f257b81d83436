"""Clients that get secrets without a pause, and one that stores some again: ``python -P load.py`` with a line of JSON on
standard input, `Order`. When its input ends it prints what was done, as JSON, and ends.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support.attackers import Line
from support.treasure import LOAD, Treasure, as_plugin, slices_of

GETTERS = 4
PAUSE = 0.25
"""Seconds between two changes."""


@contextmanager
def load(runtime_dir: Path, treasure: Treasure) -> Generator[Callable[[], dict[str, int]]]:
    """Keep the daemon busy for as long as the block lasts; what is given ends that, and says how much was done."""
    process = subprocess.Popen(
        [sys.executable, "-P", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def end() -> dict[str, int]:
        said, _ = process.communicate()
        done: dict[str, int] = json.loads(said)
        return done

    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        order = [str(runtime_dir), treasure.passphrase, treasure.values]
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "busy\n"
        try:
            yield end
        finally:
            if process.poll() is None:
                process.kill()


class Clients:
    """All of them, each in a thread."""

    def __init__(self, runtime_dir: str, passphrase: str, values: dict[str, str]) -> None:
        self.runtime_dir, self.passphrase, self.values = runtime_dir, passphrase, values
        self.done: Counter[str] = Counter()
        self.over = threading.Event()

    def get(self, line: Line, names: list[str]) -> None:
        for name in cycle(names):
            outcome = line.call("get_secret", {"name": name})
            assert outcome in (self.values[name], "locked"), outcome
            self.done["gets"] += outcome != "locked"
            if self.over.is_set():
                return

    def put(self, line: Line) -> None:
        for name in cycle(self.values):
            if self.over.wait(PAUSE):
                return
            item = {"name": name, "size": len(self.values[name]), "encoding": "text"}
            outcome = line.call("put", {"items": [item], "replace": True}, self.values[name])
            if not isinstance(outcome, dict):
                assert outcome in ("locked", "proof_required"), outcome  # a lock ends the proof, too
                return
            self.done["puts"] += 1

    def desk(self) -> Line:
        line = Line.to(f"{self.runtime_dir}/operator.sock")
        assert isinstance(line.call("prove", {}, self.passphrase), dict)
        return line

    def run(self) -> None:
        slices = cycle(slices_of(list(self.values)))
        getters = [(as_plugin(self.runtime_dir, names, LOAD), names) for names in islice(slices, GETTERS)]
        threads = [threading.Thread(target=self.get, args=getter) for getter in getters]
        threads.append(threading.Thread(target=self.put, args=(self.desk(),)))
        for thread in threads:
            thread.start()
        print("busy", flush=True)  # noqa: T201
        sys.stdin.read()
        self.over.set()
        for thread in threads:
            thread.join()
        print(json.dumps(self.done))  # noqa: T201


if __name__ == "__main__":
    order: list[Any] = json.loads(sys.stdin.readline())
    Clients(*order).run()
