"""Pairing and unlocking by phone as a person does it: the real command on a terminal, a real daemon, a phone on loopback."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import trio

from avault_client.cli.phone import ADVICE, npub
from support.daemon import BIN, CHEAP, RunningDaemon, running_daemon
from support.telephone import Telephone, no, real_phone, silent
from support.terminal import Terminal, on_terminal

T = TypeVar("T")
PASSPHRASE = "Xq7-vT2kLw9_pZr4-Hn8sBd3f"
QUESTION = "is this your phone, and your key? [y/N] "
INTERRUPTED = 130


@dataclass
class Desk:
    """A daemon, a phone, and a person at a terminal."""

    daemon: RunningDaemon
    phone: Telephone
    terminal: Terminal | None = None

    @asynccontextmanager
    async def command(self, *words: str, proven: bool = True) -> AsyncGenerator[Terminal]:
        """Run a command on a terminal, and type the passphrase."""
        with on_terminal([BIN / "avault", *words], self.daemon.env) as terminal:
            self.terminal = terminal
            if proven:
                await self.expect("passphrase for the vault: ")
                terminal.type(PASSPHRASE + "\n")
            yield terminal

    async def expect(self, text: str) -> str:
        assert self.terminal is not None
        return await trio.to_thread.run_sync(self.terminal.expect, text)

    async def ends(self) -> int:
        assert self.terminal is not None
        return await trio.to_thread.run_sync(self.terminal.finish)

    async def slots(self) -> list[str]:
        done = await trio.to_thread.run_sync(lambda: self.daemon.avault("slot", "list", "--json"))
        return [slot["id"] for slot in json.loads(done.stdout)["slots"]]

    async def nothing_is_written(self) -> None:
        """No slot, no keys; and nobody is connected to the relay any more."""
        assert await self.slots() == ["passphrase"]
        assert not (self.daemon.state_dir / "pairing.json").exists()
        with trio.fail_after(60):
            await self.phone.relay.until(lambda: not self.phone.relay.sessions)


@asynccontextmanager
async def open_desk(folder: Path) -> AsyncGenerator[Desk]:
    async with real_phone() as phone:
        config = f'network = true\nrelays = ["{phone.url}"]\n'
        with running_daemon(folder, config=config, command=CHEAP) as daemon:
            await trio.to_thread.run_sync(lambda: daemon.avault("init", passphrase=PASSPHRASE.encode()))
            yield Desk(daemon, phone)


async def scan(desk: Desk) -> str:
    """Point the phone at the screen once the daemon listens; return what was shown up to the address."""
    between = await desk.expect("nostrconnect://")
    rest = await desk.expect("\n")
    await desk.phone.relay.until(
        lambda: desk.phone.relay.sessions and desk.phone.relay.sessions[0].subscriptions
    )
    await desk.phone.scan(f"nostrconnect://{rest.strip()}")
    return between


async def test_pairing_by_what_is_on_the_screen(tmp_path: Path) -> None:
    async with open_desk(tmp_path) as desk:
        async with desk.command("slot", "add", "phone") as terminal:
            drawn = await scan(desk)
            assert len(re.findall("[█▀▄]", drawn)) > 200, "no code was drawn"
            assert ADVICE in drawn  # a signer asks what is allowed while it pairs, not later
            shown = await desk.expect(QUESTION)
            for key in (desk.phone.signer, desk.phone.operator):
                assert npub(key.public.hex()) in shown
            assert "waiting for your phone (" in terminal.seen
            assert "s left)" in terminal.seen
            terminal.type("y\n")
            await desk.expect("added slot phone")
            assert await desk.ends() == 0
            assert PASSPHRASE not in terminal.seen
        await trio.to_thread.run_sync(lambda: desk.daemon.avault("lock"))
        async with desk.command("unlock", "--phone", proven=False):
            await desk.expect(f"connected to {desk.phone.url}")
            await desk.expect("unlocked")
            assert await desk.ends() == 0


async def test_pairing_by_a_bunker_uri(tmp_path: Path) -> None:
    async with open_desk(tmp_path) as desk:
        async with desk.command("slot", "add", "phone", desk.phone.bunker) as terminal:
            assert ADVICE in await desk.expect(QUESTION)
            terminal.type("yes\n")
            assert await desk.ends() == 0
        assert await desk.slots() == ["passphrase", "phone"]


async def test_a_strange_key_is_declined(tmp_path: Path) -> None:
    async with open_desk(tmp_path) as desk:
        for typed in ("n\n", "\n"):
            async with desk.command("slot", "add", "phone") as terminal:
                await scan(desk)
                await desk.expect(QUESTION)
                terminal.type(typed)
                await desk.expect("error: nothing was paired")
                assert await desk.ends() == 1
            await desk.nothing_is_written()
        assert "nip44_decrypt" not in desk.phone.requests


async def test_interrupted_while_it_counts_down(tmp_path: Path) -> None:
    async with open_desk(tmp_path) as desk:
        async with desk.command("slot", "add", "phone") as terminal:
            await desk.expect("nostrconnect://")
            await desk.expect("s left)")
            terminal.type("\x03")
            assert await desk.ends() == INTERRUPTED
            assert "Traceback" not in terminal.seen
        await desk.nothing_is_written()


async def test_interrupted_while_it_asks(tmp_path: Path) -> None:
    async with open_desk(tmp_path) as desk:
        async with desk.command("slot", "add", "phone", desk.phone.bunker) as terminal:
            await desk.expect(QUESTION)
            terminal.type("\x03")
            assert await desk.ends() == INTERRUPTED
            assert "Traceback" not in terminal.seen
        await desk.nothing_is_written()


async def test_a_phone_that_does_not_come(tmp_path: Path) -> None:
    async with open_desk(tmp_path) as desk:
        desk.phone.mood = silent
        for words in ((), (desk.phone.bunker,)):
            async with desk.command("slot", "add", "phone", *words, "--timeout", "2"):
                await desk.expect("error: the phone did not answer in time")
                await desk.expect("hint: is the signer's app open, and online?")
                assert await desk.ends() == 7
            await desk.nothing_is_written()


async def test_a_trial_that_is_refused(tmp_path: Path) -> None:
    async with open_desk(tmp_path) as desk:
        desk.phone.mood = no
        async with desk.command("slot", "add", "phone", desk.phone.bunker, "--yes"):
            await desk.expect("error: the signer answers: user rejected")
            assert await desk.ends() == 7
        await desk.nothing_is_written()
