"""Another process of the same uid, which connects where it is told to and hands the connection over.

To the daemon it is the peer for as long as it lives, whoever writes.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import socket
with socket.socket(fileno=0) as line:
    while path := line.recv(4096):
        with socket.socket(socket.AF_UNIX) as made:
            made.connect(path)
            socket.send_fds(line, [b"!"], [made.fileno()])
"""


class Stranger:
    """The process; `close` ends it."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", PROGRAM], stdin=theirs.fileno()
            )

    def connect(self, path: Path) -> socket.socket:
        """Return a connection to *path* that is the stranger's."""
        self._line.send(str(path).encode())
        _, fds, _, _ = socket.recv_fds(self._line, 1, 1)
        return socket.socket(fileno=fds[0])

    def close(self) -> None:
        """Kill it, and wait until it is dead."""
        self._process.kill()
        self._process.wait()
        self._line.close()
