"""`kill -9` of a real daemon in the middle of pairing and of a renewal: the vault opens as before.

When it is killed is what the phone and the relay can see (a request came, an answer is out), and from there moments later,
each time another; the writes of pairing and vault lie within them. What each single write that fails leaves behind is in
test_phones.py and test_logfile.py.
"""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import trio

from support.daemon import CONFIG, RunningDaemon, running_daemon
from support.house import PASSPHRASE
from support.telephone import Telephone, real_phone, yes

MOMENTS = (0.0, 0.002, 0.006, 0.015, 0.04)
"""Seconds from an answer to the kill: a renewal takes some milliseconds."""


@dataclass
class Scene:
    """A daemon with a secret, and a phone."""

    daemon: RunningDaemon
    phone: Telephone

    async def run(self, *words: str, proven: bool = False, stdin: bytes = b"") -> CompletedProcess[bytes]:
        passphrase = PASSPHRASE if proven else None
        return await trio.to_thread.run_sync(
            lambda: self.daemon.avault(*words, passphrase=passphrase, stdin=stdin)
        )

    async def must(self, *words: str, proven: bool = False, stdin: bytes = b"") -> bytes:
        done = await self.run(*words, proven=proven, stdin=stdin)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    async def pair(self) -> CompletedProcess[bytes]:
        return await self.run(
            "slot", "add", "phone", self.phone.bunker, "--yes", "--timeout", "20", proven=True
        )

    async def killed_after(self, answers: int, delay: float, *words: str, proven: bool = False) -> None:
        """Run a command; kill the daemon *delay* after the phone's answer number *answers*, and start it again."""
        left = answers
        out = trio.Event()

        def count(request: dict[str, Any], result: str) -> dict[str, Any]:
            nonlocal left
            left -= 1
            if left <= 0:
                out.set()
            return {"result": result}

        self.phone.mood = count
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: self.run(*words, proven=proven))
            await out.wait()
            await trio.sleep(delay)
            assert self.daemon.process is not None
            self.daemon.process.send_signal(signal.SIGKILL)
        self.phone.mood = yes
        await trio.to_thread.run_sync(self.daemon.restart, signal.SIGKILL)

    async def opens_by_phone(self) -> None:
        await self.run("lock")
        done = json.loads(await self.must("unlock", "--phone", "--timeout", "20", "--json"))
        assert done["slot"] is not None
        assert await self.must("get", "TOKEN", proven=True) == b"value"

    async def opens_by_passphrase(self) -> None:
        await self.run("lock")
        await self.must("unlock", proven=True)
        assert await self.must("get", "TOKEN", proven=True) == b"value"


@asynccontextmanager
async def open_scene(folder: Path) -> AsyncGenerator[Scene]:
    async with real_phone() as phone:
        with running_daemon(folder, config=CONFIG + "network = true\n") as daemon:
            scene = Scene(daemon, phone)
            await scene.must("init", proven=True)
            await scene.must("set", "TOKEN", proven=True, stdin=b"value")
            yield scene


async def test_killed_in_a_renewal(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        assert (await scene.pair()).returncode == 0
        for delay in MOMENTS:
            await scene.run("lock")
            await scene.killed_after(1, delay, "unlock", "--phone", "--timeout", "20")
            await scene.opens_by_phone()
        await scene.opens_by_passphrase()
        verdict = json.loads(await scene.must("audit", "--verify", "--json"))
        assert verdict["ok"] is True


async def test_killed_in_a_pairing(tmp_path: Path) -> None:
    """After connect, get_public_key and the trial: there is a slot that opens, or none; and one can be made."""
    async with open_scene(tmp_path) as scene:
        for answers, delay in [(1, 0.0), (2, 0.0), *((3, delay) for delay in MOMENTS)]:
            before = await slots_of(scene)
            words = ("slot", "add", "phone", scene.phone.bunker, "--yes", "--timeout", "20")
            await scene.killed_after(answers, delay, *words, proven=True)
            await scene.opens_by_passphrase()
            after = await slots_of(scene)
            assert after[: len(before)] == before
            assert answers == 3 or after == before
            if "phone" in after:
                await scene.opens_by_phone()
                await scene.must("slot", "remove", "phone", proven=True)
        assert (await scene.pair()).returncode == 0
        await scene.opens_by_phone()
        pairings = json.loads((scene.daemon.state_dir / "pairing.json").read_text())
        assert list(pairings) == ["phone"], "nothing stays of what came to nothing"


async def slots_of(scene: Scene) -> list[str]:
    told = json.loads(await scene.must("slot", "list", "--json"))
    return [slot["id"] for slot in told["slots"]]
