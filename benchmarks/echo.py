"""The peer: the plainest server that trio makes possible. It answers what comes by so many bytes, and does nothing else.

As a program: ``python -m benchmarks.echo PATH BYTES``.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import trio


async def serve(path: str, answer: bytes) -> None:
    """Serve for ever at *path*."""
    listener = trio.socket.socket(socket.AF_UNIX)
    await listener.bind(path)
    listener.listen(512)
    print("ready", flush=True)
    async with trio.open_nursery() as nursery:
        while True:
            sock, _ = await listener.accept()
            nursery.start_soon(echo, sock, answer)


async def echo(sock: trio.socket.SocketType, answer: bytes) -> None:
    """Answer whatever comes by *answer*, until the peer has gone."""
    with sock:
        while await sock.recv(16 * 1024):
            await sock.send(answer)


@contextmanager
def running(path: Path, size: int) -> Generator[Path]:
    """Run the echo at *path*, whose answers have *size* bytes, as a process; on the caller's processor."""
    command = [sys.executable, "-m", __name__, str(path), str(size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield path
        finally:
            process.terminate()


if __name__ == "__main__":
    trio.run(serve, sys.argv[1], b"x" * int(sys.argv[2]))
