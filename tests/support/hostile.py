"""A crowd of hostile clients in one process, of one kind: what each of them does to the daemon, again and again.

`Crowd` starts it, beside whoever is served meanwhile; this file is its program, too::

    python -P hostile.py KIND COUNT SOCKET UID

It says ``ready`` when all have connected once, goes on until its standard input ends, and says how often they acted.
"""

from __future__ import annotations

import os
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from avault_protocol import pack_request

PLUGIN, SECRET = "weather", "WEATHER"
HELLO = pack_request(1, "hello", {"protocol": 1, "plugin": PLUGIN, "secrets": [SECRET]})
GET = pack_request(2, "get_secret", {"name": SECRET})
MANY = GET * 256
"""Some 9 KiB of requests, of which each is in order."""
OVERSIZED = b"\x94\x00\x01\xdb\x7f\xff\xff\xff" + b"x" * (96 * 1024)
"""A request whose method is a text of 2 GiB, and more of it than any message of an agent may have."""
MALFORMED = b"\xc1\xff\x00GET / HTTP/1.1\r\n\r\n"
HEAVY = (b"\x93\x02\xa1x\x91\xdc\x01\x1c" + b"\x80" * 284) * 64
"""Notifications of as many elements as a message of an agent may have: what takes longest to read, byte for byte."""
START_TIMEOUT = 120.0


class Client:
    """One connection at a time, on which nothing ever waits."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._sock: socket.socket | None = None
        self._rest = b""
        self.acts = 0

    def open(self, first: bytes = b"") -> bool:
        """Report whether it is connected, by now; a new connection begins with *first*."""
        if self._sock is None:
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            try:
                sock.connect(self._path)
            except OSError:  # the daemon's queue is full
                sock.close()
                return False
            self._sock, self._rest = sock, first
        return True

    def close(self) -> None:
        """Leave, without a word."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def send(self, data: bytes) -> bool:
        """Send what the socket takes, *data* when all before it is sent; report whether *data* was begun."""
        if self._sock is None:
            return False
        new = not self._rest
        try:
            self._rest = (self._rest or data)[self._sock.send(self._rest or data) :]
        except BlockingIOError:
            return False
        except OSError:
            self.close()
            return False
        self.acts += new
        return new

    def read(self) -> None:
        """Take what has come; at the end of it the next connection is due."""
        with suppress(BlockingIOError):
            try:
                if self._sock is not None and not self._sock.recv(256 * 1024):
                    self.close()
            except ConnectionError:
                self.close()


def slow(client: Client) -> None:
    """Take ten seconds and more for a hello: a byte a second, after which the daemon has had enough."""
    if client.open():
        client.send(HELLO[client.acts % len(HELLO) :][:1])
        client.read()


def oversized(client: Client) -> None:
    """Send a message that is larger than any may be, and come again."""
    if client.open():
        client.send(OVERSIZED)
        client.read()


def storm(client: Client) -> None:
    """Connect and leave."""
    if client.open():
        client.acts += 1
        client.close()


def unread(client: Client) -> None:
    """Ask without end, and read no answer."""
    if client.open(HELLO):
        client.send(MANY)


def malformed(client: Client) -> None:
    """Send what is no message, and come again."""
    if client.open():
        client.send(MALFORMED)
        client.read()


def heavy(client: Client) -> None:
    """Send messages that take long to read, and ask for nothing."""
    if client.open():
        client.send(HEAVY)
        client.read()


def eager(client: Client) -> None:
    """Ask for what it may have as fast as it is served."""
    if client.open(HELLO):
        client.send(MANY)
        client.read()


def deaf(client: Client) -> None:
    """Say hello, and read nothing of what is told after that."""
    if client.open(HELLO):
        client.acts += client.send(b"")


def idle(client: Client) -> None:
    """Say hello, hear the answer, and nothing more."""
    if client.open(HELLO):
        client.acts += client.send(b"")
        client.read()


KINDS: dict[str, Callable[[Client], None]] = {
    kind.__name__: kind for kind in (slow, oversized, storm, unread, malformed, heavy, eager, deaf)
}
PAUSES = {"slow": 1.0, "deaf": 0.1, "idle": 0.1}
"""Seconds between two acts of the crowd, for those that do not act as fast as they can."""


class Crowd:
    """*count* clients of *kind*, as *uid*, for as long as the block lasts; `acts` is how often they acted, then."""

    def __init__(self, kind: str, count: int, path: object, uid: int, *, prefix: Sequence[str] = ()) -> None:
        command = [*prefix, sys.executable, "-P", __file__, kind, str(count), str(path), str(uid)]
        self.acts = 0
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    @property
    def pid(self) -> int:
        return self._process.pid

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], START_TIMEOUT)
        assert readable, "the crowd says nothing"
        return self._process.stdout.readline()

    def __enter__(self) -> Self:
        assert self._line() == b"ready\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self.acts = int(self._line())
        finally:
            self._process.stdout.close()
            self._process.kill()
            self._process.wait()


def _until_told() -> Iterator[None]:
    while not select.select([sys.stdin], [], [], 0)[0]:
        yield


def main() -> None:
    kind, count, path, uid = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    act, pause = {**KINDS, "idle": idle}[kind], PAUSES.get(kind, 0.0)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    clients = [Client(path) for _ in range(count)]
    while not all(client.acts for client in clients):
        for client in clients:
            if not client.acts:
                act(client)
    print("ready", flush=True)  # noqa: T201
    for _ in _until_told():
        for client in clients:
            act(client)
        time.sleep(pause)
    print(sum(client.acts for client in clients), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
