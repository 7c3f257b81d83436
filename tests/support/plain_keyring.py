"""A keyring in a file, for the helper process of a test: the library's own interface, and faults on demand.

Run as a program it is that helper: descriptor 3 is its end of the socket pair, the arguments are backends.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path

from keyring.backend import KeyringBackend
from keyring.compat import properties
from keyring.errors import KeyringLocked, PasswordDeleteError

from avault_daemon.keyring import helper as keyring_helper

FILE = "AVAULT_TEST_KEYRING"


class Plain(KeyringBackend):
    """Items by ``service/name``. The item ``"fault"`` says what goes wrong with all others."""

    @properties.classproperty
    def priority(cls) -> float:
        return 1.0

    def get_password(self, service: str, username: str) -> str | None:
        return _items().get(f"{service}/{username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        _store({**_items(), f"{service}/{username}": password})

    def delete_password(self, service: str, username: str) -> None:
        items = _items()
        if items.pop(f"{service}/{username}", None) is None:
            raise PasswordDeleteError("No such password!")
        _store(items)


class Low(Plain):
    """One that the library does not recommend."""

    @properties.classproperty
    def priority(cls) -> float:
        return 0.5


class Absent(Plain):
    """One that is not there."""

    @properties.classproperty
    def priority(cls) -> float:
        raise RuntimeError("no bus")


def _items() -> dict[str, str]:
    path = Path(os.environ[FILE])
    items: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    match items.get("fault"):
        case "locked":
            raise KeyringLocked("locked")
        case "error":
            raise RuntimeError(f"with {items}")
        case "silent":
            time.sleep(3600)
        case "crash":
            os._exit(7)
        case _:
            pass
    return items


def _store(items: dict[str, str]) -> None:
    Path(os.environ[FILE]).write_text(json.dumps(items))


if __name__ == "__main__":
    keyring_helper.PATIENCE = int(os.environ.get("AVAULT_TEST_PATIENCE", "60"))
    keyring_helper.serve(socket.socket(fileno=3), sys.argv[1:])
