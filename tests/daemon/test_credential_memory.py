"""What goes to systemd, and what comes from it, leaves no copy in the memory of the real daemon."""

from __future__ import annotations

import os
import secrets
from base64 import b64encode
from pathlib import Path

import pytest

from avault_client._operator import OperatorConnection
from support.daemon import RunningDaemon, running_daemon
from support.fetching import address, fetch
from support.memory import arena_of, check, keys_of
from support.waiting import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may read the memory of avaultd at all")

PASSPHRASE = secrets.token_urlsafe(24).encode()
CREDENTIAL = secrets.token_urlsafe(33).encode()
TEXT = {f"T{n}": secrets.token_urlsafe(33).encode() for n in range(10)}
BYTES = {f"B{n}": secrets.token_bytes(48) for n in range(10)}
STORED = {name: b64encode(value) for name, value in BYTES.items()}
TIMES = 20


def operator_of(daemon: RunningDaemon) -> OperatorConnection:
    return OperatorConnection.connect(str(daemon.runtime_dir / "operator.sock"), timeout=60)


def fill(daemon: RunningDaemon) -> None:
    with operator_of(daemon) as operator:
        operator.call("init", {"log_n": 16}, memoryview(PASSPHRASE))
        for values, encoding in ((TEXT, "text"), (STORED, "base64")):
            items = [{"name": n, "size": len(v), "encoding": encoding} for n, v in values.items()]
            operator.call("put", {"items": items}, memoryview(b"".join(values.values())))
        grant = {"agent": "units", "plugin": "credentials", "secrets": [*TEXT, *BYTES]}
        operator.call("grant", {**grant, "uids": [os.getuid()]})
        operator.call("credential_add", {"log_n": 16})


def fetch_all(daemon: RunningDaemon) -> None:
    for name, value in {**TEXT, **BYTES}.items():
        for _ in range(TIMES):
            got = fetch(daemon.runtime_dir / "credentials.sock", address("telegram.service", name))
            assert got.head == value


def until_unlocked(daemon: RunningDaemon) -> None:
    with operator_of(daemon) as operator:
        until(lambda: operator.call("status")["state"] == "unlocked", daemon.log.read_text)


@pytest.mark.parametrize("kind", ["memfd_secret", "mlock"])
def test_no_copy_after_fetching_and_after_an_unlock_at_the_start(tmp_path: Path, kind: str) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / "avault.passphrase").write_bytes(CREDENTIAL)
    config, env = f'log_n = 16\nmemory = "{kind}"\n', {"CREDENTIALS_DIRECTORY": str(given)}
    with running_daemon(tmp_path, config=config, env=env) as daemon:
        fill(daemon)
        needles = {"passphrase": PASSPHRASE, "credential": CREDENTIAL, **keys_of(daemon.home, PASSPHRASE)}
        needles |= TEXT | BYTES | {f"{name} stored": value for name, value in STORED.items()}
        names = {"plugin": b"credentials", "home": str(daemon.home).encode()}

        def look() -> None:
            check(daemon.pid, needles, names, ignore=arena_of(daemon.pid))

        fetch_all(daemon)
        look()
        daemon.restart()
        until_unlocked(daemon)
        look()
        fetch_all(daemon)
        look()
        with operator_of(daemon) as operator:
            operator.call("lock")
        until(
            lambda: not arena_of(daemon.pid), "it keeps its arena"
        )  # the answer to `lock` may be out before
        look()
        for file in tmp_path.rglob("*"):
            assert given in file.parents or not file.is_file() or CREDENTIAL not in file.read_bytes()
