"""A process that holds a secret, for others to look for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO


@dataclass(frozen=True, slots=True)
class Holder:
    """Such a process, and what it says."""

    pid: int
    says: IO[bytes]


@contextmanager
def holder(secret: bytes, code: str, *arguments: str) -> Generator[Holder]:
    """Run Python *code* with *secret* for its standard input, which stays open; it is killed afterwards."""
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(secret)
            yield Holder(process.pid, process.stdout)
        finally:
            process.kill()
