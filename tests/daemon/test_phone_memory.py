"""The claim about memory, while a phone is asked: another process, as root, reads all of the real daemon's memory and finds
no copy of any token, pepper, client key, nor of what is derived from them; nor is any in a log or a file but its own.

Positive control: the signer's public key, which stands in the vault file, is found in the same scans.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import coincurve
import pytest
import trio

from support.daemon import RunningDaemon, running_daemon
from support.memory import arena_of, check, keys_of
from support.needles import Needles
from support.telephone import Telephone, real_phone, silent, yes
from support.waiting import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may read the memory of avaultd at all")

PASSPHRASE = secrets.token_urlsafe(24).encode()
CONFIG = 'log_n = 16\nnetwork = true\nlog_level = "debug"\nmemory = "{}"\n'


@dataclass
class Scene:
    """A daemon and a phone; *needles* is what the scans look for."""

    daemon: RunningDaemon
    phone: Telephone
    needles: dict[str, bytes] = field(default_factory=dict[str, bytes])

    @property
    def pairing(self) -> Path:
        return self.daemon.state_dir / "pairing.json"

    async def run(self, *words: str, status: int = 0) -> None:
        """Run a command, proven by the passphrase unless by the phone."""
        passphrase = None if words[0] == "lock" or "--phone" in words else PASSPHRASE
        done = await trio.to_thread.run_sync(
            lambda: self.daemon.avault(*words, passphrase=passphrase, stdin=b"value")
        )
        assert done.returncode == status, (words, done.stderr)

    def learn(self) -> None:
        """Take for needles what is known by now: from the phone's screen, from the pairing, and what follows from both."""
        tokens = [bytes.fromhex(text.split()[-1]) for text in self.phone.screen]
        self.needles |= {f"token {number}": token for number, token in enumerate(tokens)}
        if self.pairing.exists():
            for slot, pairing in json.loads(self.pairing.read_text()).items():
                for kind, digits in pairing.items():
                    if digits is not None:
                        self.needles[f"{slot}'s {kind} {digits[:4]}"] = bytes.fromhex(digits)
                self._derive(slot, bytes.fromhex(pairing["client"]), tokens)

    def _derive(self, slot: str, client: bytes, tokens: list[bytes]) -> None:
        shared = coincurve.PublicKey(b"\2" + self.phone.signer.public).multiply(client).format()[1:]
        self.needles["x shared with the signer"] = shared
        self.needles["conversation with the signer"] = hmac.digest(b"nip44-v2", shared, "sha256")
        peppers = {
            label: value for label, value in self.needles.items() if label.startswith(f"{slot}'s pepper")
        }
        for label, pepper in peppers.items():
            for number, token in enumerate(tokens):
                prk = hmac.digest(slot.encode(), token + pepper, "sha256")
                self.needles[f"seal of token {number} and {label}"] = hmac.digest(
                    prk, b"avault-phone-v1\1", "sha256"
                )

    async def look(self, *, arena: bool = True) -> None:
        """Scan now; without *arena* nothing is mapped that would be left out."""
        self.learn()
        if not arena:  # a thread that was at work with the key gives it back a moment after the lock
            await trio.to_thread.run_sync(until, lambda: not arena_of(self.daemon.pid), "the arena goes")
        spans = arena_of(self.daemon.pid)
        await trio.to_thread.run_sync(
            lambda: check(self.daemon.pid, self.needles, {"signer": self.phone.signer.public}, ignore=spans)
        )

    async def while_waiting(self, *words: str) -> None:
        """Run a command that asks the phone, look while it waits, then let the phone say yes."""
        self.phone.mood = silent
        before = len(self.phone.screen)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.run, *words)
            await self.phone.relay.until(lambda: len(self.phone.screen) > before)
            await self.look()
            self.phone.mood = yes
            await self.phone.tap()


@asynccontextmanager
async def open_scene(folder: Path, memory: str) -> AsyncGenerator[Scene]:
    async with real_phone() as phone:
        with running_daemon(folder, config=CONFIG.format(memory)) as daemon:
            scene = Scene(daemon, phone)
            await scene.run("init")
            scene.needles |= {"passphrase": PASSPHRASE, **keys_of(daemon.home, PASSPHRASE)}
            await scene.run("set", "NAME")
            yield scene


@pytest.mark.parametrize("memory", ["memfd_secret", "mlock"])
async def test_no_copy_while_a_phone_is_asked(tmp_path: Path, memory: str) -> None:
    async with open_scene(tmp_path, memory) as scene:
        await scene.run("slot", "add", "phone", scene.phone.bunker, "--yes")
        await scene.look()  # after the pairing: what its trial showed, what it stored
        for _ in range(2):  # the first renewal's token is known from the second on
            await scene.run("lock")
            await scene.look(arena=False)
            await scene.while_waiting("unlock", "--phone", "--timeout", "40")
            await scene.look()
        await scene.run("rm", "NAME", "--phone")
        await scene.run("set", "NAME")
        await scene.look()
        await scene.run("lock")
        await scene.look(arena=False)
        assert len({value for label, value in scene.needles.items() if label.startswith("token")}) == 4
        assert len([label for label in scene.needles if "pepper" in label and "seal" not in label]) == 3
        look_at_what_was_written(scene)


def look_at_what_was_written(scene: Scene) -> None:
    """The pairing holds client key and pepper, and nothing else does; tokens are nowhere, not even there."""
    planted, tokens = Needles(), Needles()
    for label, value in scene.needles.items():
        planted.plant(label, value)
        if "client" not in label and not label.startswith("phone's pepper"):
            tokens.plant(label, value)
    files = [path for path in scene.daemon.folder.rglob("*") if path.is_file()]
    assert {scene.pairing, scene.daemon.log} <= set(files)
    for path in files:
        (tokens if path == scene.pairing else planted).check(path.name, path.read_bytes())
    assert {hit.label[:13] for hit in planted.found(scene.pairing.read_bytes())} == {
        "phone's clien",
        "phone's peppe",
    }


async def test_what_is_in_the_open_is_found(tmp_path: Path) -> None:
    """The control: a key that the daemon does hold in the open, the operator's public one, would be seen as a leak."""
    async with open_scene(tmp_path, "mlock") as scene:
        await scene.run("slot", "add", "phone", scene.phone.bunker, "--yes")
        scene.needles["public"] = scene.phone.operator.public
        with pytest.raises(AssertionError, match="copies"):
            await scene.look()
