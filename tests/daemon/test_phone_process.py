"""A phone and a real `avaultd`, confined as ever, over a relay on loopback."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from avault_daemon.arena import Arena
from support import telephone
from support.daemon import CONFIG, RunningDaemon, running_daemon
from support.house import PASSPHRASE
from support.relays import FaultRelay
from support.telephone import Telephone


@asynccontextmanager
async def real_phone(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Telephone]:
    """Run a phone and its relay on a port of loopback."""
    async with trio.open_nursery() as nursery:
        relay = FaultRelay(nursery)
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        monkeypatch.setattr(telephone, "URL", f"ws://localhost:{port}")  # a name, which is to be looked up
        nursery.start_soon(trio.serve_listeners, relay.serve_stream, [listener])
        phone = Telephone(Arena(kind="mlock"), relay)
        yield phone
        phone.close()
        nursery.cancel_scope.cancel()


async def avault(
    daemon: RunningDaemon, *words: str, passphrase: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    return await trio.to_thread.run_sync(lambda: daemon.avault(*words, passphrase=passphrase))


async def test_pairing_proving_and_unlocking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with real_phone(monkeypatch) as phone:
        with running_daemon(tmp_path, config=CONFIG + "network = true\n") as daemon:
            for words in (["init"], ["slot", "add", "phone", phone.bunker, "--yes"]):
                done = await avault(daemon, *words, passphrase=PASSPHRASE)
                assert done.returncode == 0, done.stderr
            done = await avault(daemon, "lock")
            done = await avault(daemon, "unlock", "--phone", "--timeout", "20", "--json")
            assert json.loads(done.stdout)["slot"] == "phone", done.stderr
            done = await avault(daemon, "slot", "remove", "phone", "--phone")
            assert done.returncode == 0, done.stderr
            assert phone.screen[-1].split()[:2] == ["avault", "allow"]
            status = json.loads((await avault(daemon, "status", "--json")).stdout)
            assert status["phone"]["slots"] == 0
            assert "seccomp" in status["confined"]
        log = daemon.log.read_text()
        assert not [text for text in phone.screen if text.split()[-1] in log]
