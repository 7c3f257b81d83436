"""Keyrings for tests: one in a file, behind a real helper process; and a real Secret Service, on a session bus of its own."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import secretstorage
from secretstorage.exceptions import SecretStorageException

from avault_daemon.keyring.oskeyring import Keyring

from . import plain_keyring
from .waiting import until

TESTS = Path(__file__).parents[1]
PLAIN = "support.plain_keyring:Plain"
PATIENCE = 60.0
# They say nothing of their types.
_bus: Any = importlib.import_module("jeepney.bus_messages")
_dbus: Any = importlib.import_module("jeepney.io.blocking")


@dataclass
class FileKeyring:
    """A keyring in *path*, reached through a helper of its own."""

    keyring: Keyring
    path: Path
    helper: subprocess.Popen[bytes]

    @property
    def items(self) -> dict[str, str]:
        """What lies in it, by service and name."""
        found: dict[str, str] = json.loads(self.path.read_text()) if self.path.exists() else {}
        return {name: value for name, value in found.items() if name != "fault"}

    def fault(self, what: str) -> None:
        """From now on it is "locked", "silent", or does an "error" or a "crash"; "" for none."""
        self.path.write_text(json.dumps({**self.items, **({"fault": what} if what else {})}))


@contextmanager
def file_keyring(path: Path, *backends: str, patience: int = 60) -> Generator[FileKeyring]:
    """Give a keyring that lies in *path*, or what the helper makes of *backends*."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    env = {
        **os.environ,
        plain_keyring.FILE: str(path),
        "AVAULT_TEST_PATIENCE": str(patience),
        "PYTHONPATH": str(TESTS),
    }
    move = f"import os, runpy; os.dup2({theirs.fileno()}, 3); runpy.run_module('support.plain_keyring', None, '__main__')"
    with theirs:
        helper = subprocess.Popen(
            [sys.executable, "-c", move, *(backends or (PLAIN,))], env=env, pass_fds=[theirs.fileno()]
        )
    keyring = Keyring(ours, helper.pid)
    try:
        yield FileKeyring(keyring, path, helper)
    finally:
        keyring.close()
        ours.close()
        helper.wait(PATIENCE)


@dataclass
class SecretService:
    """gnome-keyring on a bus of its own; *env* leads to it."""

    env: dict[str, str]
    folder: Path

    @contextmanager
    def connection(self) -> Generator[Any]:
        with _dbus.open_dbus_connection(bus=self.env["DBUS_SESSION_BUS_ADDRESS"]) as connection:
            yield connection

    def items(self) -> dict[str, bytes]:
        """Return what avault keeps there, by name."""
        with self.connection() as connection:
            found = secretstorage.search_items(connection, {"service": "avault"})
            return {
                item.get_attributes()["username"]: bytes.fromhex(item.get_secret().decode()) for item in found
            }

    def lock(self) -> None:
        """Lock it, as at the end of a session."""
        with self.connection() as connection:
            secretstorage.get_default_collection(connection).lock()

    @property
    def ready(self) -> bool:
        try:
            with self.connection() as connection:
                # Not by asking it: the bus would start another.
                owned = _bus.DBus().NameHasOwner("org.freedesktop.secrets")
                if connection.send_and_get_reply(owned).body != (True,):
                    return False
                return not secretstorage.get_default_collection(connection).is_locked()
        except (OSError, SecretStorageException):
            return False


@contextmanager
def secret_service(folder: Path) -> Generator[SecretService]:
    """Run a Secret Service in *folder*, unlocked, with an empty keyring; skip where it is not installed."""
    for program in ("dbus-run-session", "gnome-keyring-daemon"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (Debian: dbus, gnome-keyring)")
    runtime = folder / "xdg"
    runtime.mkdir(mode=0o700)
    env = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "XDG_RUNTIME_DIR": str(runtime)}
    script = 'echo "$DBUS_SESSION_BUS_ADDRESS"; printf password >"$HOME/p"; exec gnome-keyring-daemon --unlock --foreground --components=secrets <"$HOME/p"'
    with (folder / "keyring.log").open("wb") as log:
        session = subprocess.Popen(
            ["dbus-run-session", "--", "sh", "-c", script],
            env=env,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    try:
        assert session.stdout is not None
        env["DBUS_SESSION_BUS_ADDRESS"] = session.stdout.readline().decode().strip()
        service = SecretService(env, folder)
        until(lambda: service.ready, (folder / "keyring.log").read_text)
        yield service
    finally:
        os.killpg(session.pid, signal.SIGTERM)
        if session.stdout is not None:
            session.stdout.close()
        session.wait(PATIENCE)
