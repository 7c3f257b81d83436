"""The third-party relay and signer of tests/rig, as processes on loopback."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

RIG = Path(__file__).parents[1] / "rig"
USER = "11" * 32
SIGNER = "22" * 32
WITHIN = 60.0


def missing() -> str | None:
    """Return why there is no signer on this machine."""
    if shutil.which("node") is None:
        return "no node"
    if not (RIG / "node_modules").is_dir():
        return "the npm packages are not installed: npm install --prefix tests/rig --ignore-scripts"
    return None


class Lines:
    """A process that is spoken with in lines."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._buffer = b""

    async def read(self) -> str:
        stdout = self.process.stdout
        assert stdout is not None
        with trio.fail_after(WITHIN):
            while b"\n" not in self._buffer:
                more = await stdout.receive_some()
                assert more, "it ended"
                self._buffer += more
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line.decode()

    async def until(self, key: str) -> Any:
        """Return what is said about *key*, passing over other lines."""
        while True:
            message: dict[str, Any] = json.loads(await self.read())
            if key in message:
                return message[key]

    async def write(self, line: str) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(f"{line}\n".encode())

    async def set(self, **settings: object) -> None:
        await self.write(json.dumps(settings))
        await self.until("settings")

    def sleep(self) -> None:
        """Stop, as a phone that dozes."""
        self.process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    async def end(self) -> None:
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def running(*command: str) -> AsyncGenerator[Lines, None]:
    """Run a process until the block ends."""
    async with trio.open_nursery() as nursery:
        pipes = partial(trio.run_process, stdin=subprocess.PIPE, stdout=subprocess.PIPE, check=False)
        process: trio.Process = await nursery.start(pipes, command)
        try:
            yield Lines(process)
        finally:
            process.kill()  # a stopped one, too
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def local_relay(auth: str = "NONE", port: int = 0) -> AsyncGenerator[str, None]:
    """Run nostr-sdk's relay; yield its URL."""
    async with running(sys.executable, str(RIG / "local_relay.py"), str(port or free_port()), auth) as lines:
        yield await lines.read()


@asynccontextmanager
async def signer(relay: str, **settings: object) -> AsyncGenerator[tuple[Lines, str], None]:
    """Run the signer; yield it and its bunker URI."""
    command = ("node", str(RIG / "signer.mjs"), relay, USER, SIGNER, json.dumps(settings))
    async with running(*command) as lines:
        yield lines, await lines.read()


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
