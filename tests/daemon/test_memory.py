"""The claim about memory, for the real daemon: another process, as root, reads all of it and finds no copy of any
secret, passphrase or key; while unlocked, after and during many reads, and after lock.

Positive control: the names of the secrets, which the daemon may hold in the open, are found in the same scans.
"""

from __future__ import annotations

import hmac
import os
import secrets
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from avault_client import Vault
from avault_client._operator import OperatorConnection
from support.daemon import RunningDaemon, running_daemon
from support.memory import arena_of, check, keys_of, scan

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may read the memory of avaultd at all")

COUNT = 100
PASSPHRASE = secrets.token_urlsafe(24).encode()


def hkdf_extract(salt: bytes, key: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), key, "sha256")


@pytest.fixture(params=["memfd_secret", "mlock"])
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningDaemon]:
    with running_daemon(tmp_path, config=f'log_n = 16\nmemory = "{request.param}"\n') as daemon:
        yield daemon


@pytest.fixture
def operator(daemon: RunningDaemon) -> Iterator[OperatorConnection]:
    with OperatorConnection.connect(str(daemon.runtime_dir / "operator.sock"), timeout=60) as operator:
        yield operator


def fill(operator: OperatorConnection) -> dict[str, bytes]:
    """Make a vault of `COUNT` random secrets; return them by name."""
    values = {f"S_{secrets.token_hex(12)}": secrets.token_urlsafe(33).encode() for _ in range(COUNT)}
    items = [{"name": name, "size": len(value), "encoding": "text"} for name, value in values.items()]
    operator.call("init", {"log_n": 16}, memoryview(PASSPHRASE))
    operator.call("put", {"items": items}, memoryview(b"".join(values.values())))
    grant = {"agent": "cobot", "plugin": "telegram", "secrets": list(values), "uids": [os.getuid()]}
    operator.call("grant", grant)
    return values


def read_all(daemon: RunningDaemon, values: Mapping[str, bytes], times: int) -> None:
    path = str(daemon.runtime_dir / "agent.sock")
    with Vault(plugin="telegram", secrets=list(values), socket=path) as vault:
        for _ in range(times):
            for name, value in values.items():
                with vault.get_secret(name) as secret:
                    assert secret.reveal().encode() == value


def test_no_copy_of_anything_in_any_state(daemon: RunningDaemon, operator: OperatorConnection) -> None:
    values = fill(operator)
    needles = {
        "passphrase": PASSPHRASE,
        **{f"value {n}": v for n, v in enumerate(values.values())},
        **keys_of(daemon.home, PASSPHRASE),
    }
    names = {name: name.encode() for name in list(values)[:10]}

    def look(*, unlocked: bool) -> None:
        spans = arena_of(daemon.pid)
        assert bool(spans) == unlocked
        check(daemon.pid, needles, names, ignore=spans)

    operator.call("list")
    look(unlocked=True)

    read_all(daemon, values, 10)
    look(unlocked=True)

    exercise(operator, values)
    look(unlocked=True)

    operator.call("lock")
    look(unlocked=False)

    operator.call("unlock", {}, memoryview(PASSPHRASE))
    look(unlocked=True)
    operator.call("lock")
    look(unlocked=False)


def exercise(operator: OperatorConnection, values: Mapping[str, bytes]) -> None:
    """Every other way that a value or a passphrase takes through the daemon."""
    name, value = next(iter(values.items()))
    operator.fetch("reveal", {"name": name})
    operator.call(
        "put",
        {"items": [{"name": name, "size": len(value), "encoding": "text"}], "replace": True},
        memoryview(value),
    )
    operator.call("restore", {"name": name, "version": 1})
    operator.call("history", {"name": name})
    operator.call("prove", {}, memoryview(PASSPHRASE))
    operator.call("slot_add", {"type": "passphrase", "log_n": 16}, memoryview(PASSPHRASE))
    operator.call("slot_remove", {"slot": "passphrase-2"})
    operator.call("change_passphrase", {"log_n": 16}, memoryview(PASSPHRASE))
    with tempfile.TemporaryFile() as copy:
        operator.call("export", {"log_n": 16}, memoryview(PASSPHRASE), fds=(copy.fileno(),))


def test_no_whole_copy_while_it_serves(daemon: RunningDaemon, operator: OperatorConnection) -> None:
    values = fill(operator)
    needles: dict[str, bytes] = {f"value {n}": v for n, v in enumerate(values.values())}
    needles |= {"passphrase": PASSPHRASE, **keys_of(daemon.home, PASSPHRASE)}
    done = threading.Event()

    def load() -> None:
        while not done.is_set():
            read_all(daemon, values, 1)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for _ in range(5):
            hits = scan(daemon.pid, needles, ignore=arena_of(daemon.pid)).hits
            whole = [hit for hit in hits if hit.length >= len(needles[hit.label])]
            assert not whole
    finally:
        done.set()
        thread.join()


def test_the_needles_are_the_right_ones(daemon: RunningDaemon, operator: OperatorConnection) -> None:
    """The keys that the scans look for are those of this vault."""
    fill(operator)
    keys: dict[str, Any] = keys_of(daemon.home, PASSPHRASE)
    assert len({len(key) for key in keys.values()}) == 1
    index = hmac.digest(hkdf_extract(b"", keys["vault key"]), b"avault-index\x01", "sha256")
    assert keys["index key"] == index
    assert keys["conversation key"] == hkdf_extract(b"nip44-v2", keys["shared x"])
