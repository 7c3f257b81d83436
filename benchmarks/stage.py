"""What the figures are taken on: a daemon with a vault, as a process, and the echo beside it."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from avault_client import Vault
from avault_protocol import pack_request
from support.services import Service, user_service

from . import echo, turns

NAME = "TELEGRAM_BOT_TOKEN"
VALUE = "7250119083:AAF-not-a-real-token-but-as-long-as-one"
PLUGIN = "telegram"


class Stage:
    """A daemon that grants `NAME` to this process as ``cobot/telegram``, on the processor that this process was on."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.service = service
        self.folder = folder
        self.path = str(service.agent_socket)
        service.put(**{NAME: VALUE})
        service.grant(f"cobot/{PLUGIN}", NAME, uids=[os.getuid()])

    def vault(self) -> Vault:
        """Return a client of the daemon, not yet connected."""
        return Vault(agent="cobot", plugin=PLUGIN, secrets=[NAME], socket=self.path)

    @property
    def hello(self) -> bytes:
        """What opens a connection."""
        params = {"protocol": 1, "plugin": PLUGIN, "secrets": [NAME], "agent": "cobot"}
        return pack_request(1, "hello", params)

    @property
    def request(self) -> bytes:
        """What asks for the secret."""
        return pack_request(2, "get_secret", {"name": NAME})

    def connection(self) -> socket.socket:
        """Return a connection that has said hello."""
        sock = connected(self.path)
        assert ask(sock, self.hello)
        return sock

    @contextmanager
    def echo(self) -> Generator[Path]:
        """Run the echo, whose answers are as long as the daemon's."""
        with self.connection() as sock:
            answer = ask(sock, self.request)
        assert answer.endswith(VALUE.encode())
        with echo.running(self.folder / "echo.sock", len(answer)) as path:
            yield path


@contextmanager
def stage() -> Generator[Stage]:
    """Set the stage on one processor, in a folder of its own."""
    turns.go_ahead()
    turns.pin(1)
    with tempfile.TemporaryDirectory(prefix="avault-") as name, user_service(Path(name)) as service:
        yield Stage(service, Path(name))


def connected(path: str) -> socket.socket:
    """Return a blocking connection to *path*."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return sock


def ask(sock: socket.socket, request: bytes) -> bytes:
    """Send and receive, as plainly as can be."""
    sock.send(request)
    return sock.recv(16 * 1024)
