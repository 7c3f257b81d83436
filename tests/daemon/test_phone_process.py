"""A phone and a real `avaultd`, confined as ever, over a relay on loopback."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import trio

from support.daemon import CONFIG, RunningDaemon, running_daemon
from support.house import PASSPHRASE
from support.telephone import real_phone


async def avault(
    daemon: RunningDaemon, *words: str, passphrase: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    return await trio.to_thread.run_sync(lambda: daemon.avault(*words, passphrase=passphrase))


async def test_pairing_proving_and_unlocking(tmp_path: Path) -> None:
    async with real_phone() as phone:
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
