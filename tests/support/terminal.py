"""A program on a terminal of its own, and somebody who types there."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import termios
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 60.0
LOCAL_FLAGS = 3


class Terminal:
    """The side of the terminal where the person sits; *seen* is all that was shown so far."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self.master = master
        self.process = process
        self.seen = ""
        self._read_to = 0

    def expect(self, text: str) -> str:
        """Wait until *text* is shown, behind what was expected before; return what came in between."""
        deadline = time.monotonic() + PATIENCE
        while (at := self.seen.find(text, self._read_to)) < 0:
            assert time.monotonic() < deadline, f"not shown: {text!r}; but: {self.seen!r}"
            assert self._read(), f"ended without {text!r}: {self.seen!r}"
        between, self._read_to = self.seen[self._read_to : at], at + len(text)
        return between

    def _read(self) -> bool:
        ready, _, _ = select.select([self.master], [], [], 0.1)
        if not ready:
            return True
        try:
            self.seen += os.read(self.master, 4096).decode(errors="replace")
        except OSError:  # EIO: nobody has the other side open any more
            return False
        return True

    def type(self, text: str | bytes) -> None:
        """Type *text*."""
        os.write(self.master, text.encode() if isinstance(text, str) else text)

    def echoes(self) -> bool:
        """Whether what is typed is shown."""
        return bool(termios.tcgetattr(self.master)[LOCAL_FLAGS] & termios.ECHO)

    def finish(self) -> int:
        """Read on until the program ends; return its exit status."""
        while self._read() and self.process.poll() is None:
            pass
        while select.select([self.master], [], [], 0)[0] and self._read():
            pass
        return self.process.wait(PATIENCE)


def _as_from_a_shell(slave: int) -> None:
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    # Tests that run in the background of a script inherit that interrupts are ignored.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def on_terminal(
    command: Sequence[str | Path], env: Mapping[str, str] | None = None, *, stdin: int | None = None
) -> Generator[Terminal]:
    """Run *command* on a new terminal, as leader of a session; *stdin* may be something else."""
    master, slave = os.openpty()
    process = subprocess.Popen(
        command,
        env=env,
        stdin=slave if stdin is None else stdin,
        stdout=slave,
        stderr=slave,
        pass_fds=[slave],
        start_new_session=True,
        preexec_fn=lambda: _as_from_a_shell(slave),  # noqa: PLW1509 - two system calls, no lock
    )
    # Our own copy stays open: what the program wrote last would be lost with the last descriptor.
    try:
        yield Terminal(master, process)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(slave)
        os.close(master)
