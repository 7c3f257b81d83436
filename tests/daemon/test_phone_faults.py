"""A row for each fault that signers and relays were seen with, and what avault does; the signer and relay are others'.

Relays' own faults are in test_nostr_relay.py, those of single messages in test_nostr_nip01.py and test_nostr_nip46.py.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import coincurve
import pytest
import trio
import trio.testing

from avault_daemon.memory.arena import Arena
from avault_daemon.nostr.keys import SecretKey
from avault_daemon.nostr.nip44 import Conversation
from avault_daemon.nostr.nip46 import REPEAT, Request, Signer
from avault_daemon.nostr.remote import Remote, open_remote
from avault_daemon.nostr.uris import nostrconnect_uri, parse_bunker
from avault_protocol import DeniedError
from support import rig
from support.rig import Lines
from support.slots import filled
from support.waiting import WITHIN, till

pytestmark = pytest.mark.skipif(rig.missing() is not None, reason=str(rig.missing()))

ARENA = Arena(1 << 16)
TOKEN = "0123456789abcdef" * 4
MASKED = f"avault unlock host {'0' * 64}"
OPERATOR = coincurve.PrivateKey(bytes.fromhex(rig.USER)).public_key.format()[1:]
SIGNER = coincurve.PrivateKey(bytes.fromhex(rig.SIGNER)).public_key.format()[1:]
WAIT = 1.5
"""Seconds after which an answer that should be dropped would have come."""


class Vault:
    """Its key, the payload that the phone opens, and what happened."""

    def __init__(self) -> None:
        self.key = SecretKey.generate(ARENA)
        self.stages: list[tuple[str, str]] = []
        self._news = trio.Event()
        text = f"avault unlock host {TOKEN}".encode()
        with Conversation.between(ARENA, self.key, OPERATOR) as to_operator, filled(ARENA, text) as slot:
            self.payload = to_operator.encrypt(slot)

    def stage(self, stage: str, url: str, text: str) -> None:
        self.stages.append((stage, text))
        self._news.set()
        self._news = trio.Event()

    async def reached(self, stage: str) -> None:
        """Wait for a stage."""
        with trio.fail_after(WITHIN):
            while stage not in [name for name, _ in self.stages]:
                await self._news.wait()

    def request(self, remote: Remote) -> Request:
        return remote.signer.nip44_decrypt(self.key.public, self.payload)

    async def open(self, remote: Remote, repeat: float = REPEAT) -> tuple[str, list[str]]:
        """Have the phone decrypt the payload; return the text and the tokens."""
        request = self.request(remote)
        request.repeat = repeat
        with trio.fail_after(WITHIN):
            answer = await remote.ask(request)
        with answer:
            return answer.text, [bytes(token.view).hex() for token in answer.tokens]


GOOD = (MASKED, [TOKEN])


async def reach(remote: Remote) -> None:
    """Wait for the signer, which prints its URI before it listens."""
    ping = remote.signer.ping()
    ping.repeat = 0.2
    with trio.fail_after(WITHIN):
        await remote.ask(ping)


@asynccontextmanager
async def paired(
    auth: str = "NONE", /, **settings: object
) -> AsyncGenerator[tuple[Vault, Remote, Lines], None]:
    """A relay, a signer and a client that are paired; nothing stays in the arena."""
    before, vault = ARENA.in_use, Vault()
    client = SecretKey.generate(ARENA)
    async with (
        rig.local_relay(auth) as url,
        rig.signer(url, client=client.public.hex(), **settings) as (phone, _),
    ):
        core = Signer(ARENA, client, SIGNER)
        async with open_remote(core, [url], on_stage=vault.stage) as remote:
            await reach(remote)
            vault.stages.clear()
            yield vault, remote, phone
        core.close()
    client.close()
    vault.key.close()
    assert ARENA.in_use == before


@pytest.mark.parametrize("auth", ["NONE", "READ", "WRITE", "BOTH"])
@pytest.mark.parametrize("way", ["bunker", "nostrconnect"])
async def test_pair_ask_and_leave(way: str, auth: str) -> None:
    vault, client = Vault(), SecretKey.generate(ARENA)
    async with rig.local_relay(auth) as url, rig.signer(url) as (phone, uri):
        core = Signer(ARENA, client, parse_bunker(uri).signer if way == "bunker" else None)
        async with open_remote(core, [url], on_stage=vault.stage) as remote:
            with trio.fail_after(WITHIN):
                if way == "bunker":
                    connect = core.connect(parse_bunker(uri).secret, "host")
                    connect.repeat = 0.5
                    with await remote.ask(connect) as said:
                        assert said.text == "secret-of-the-uri"
                else:
                    await vault.reached("connected")
                    await phone.write(nostrconnect_uri(client.public, [url], "cafe" * 8, "host"))
                    with await remote.ask(core.pairing("cafe" * 8)) as said:
                        assert said.text == "cafe" * 8
                assert core.public == SIGNER
                assert (await remote.ask(core.get_public_key())).text == OPERATOR.hex()
                assert (await remote.ask(core.ping())).text == "pong"
                assert await vault.open(remote) == GOOD
                assert (await remote.ask(core.logout())).text == "ack"
            assert await phone.until("left") == client.public.hex()
            assert set(core.dropped) <= {"not the id of an open request"}  # a second answer to a repeated one


class Row(NamedTuple):
    """A fault of a signer, its settings, and what avault makes of it."""

    fault: str
    settings: dict[str, object]
    outcome: Callable[[Vault, Remote], Awaitable[None]]


async def opens(vault: Vault, remote: Remote, repeat: float = REPEAT) -> None:
    assert await vault.open(remote, repeat) == GOOD


async def waits(vault: Vault, remote: Remote) -> None:
    """Nothing comes, and the request stays open until the caller's patience ends."""
    with trio.move_on_after(WAIT) as scope:
        await vault.open(remote)
    assert scope.cancelled_caught
    assert ("sent", "") in vault.stages


async def stays_open(vault: Vault, remote: Remote, come: Callable[[], bool]) -> None:
    """What comes is not believed, nor does it end the request."""

    async def ask() -> None:
        said = await vault.open(remote)
        raise AssertionError(f"it was believed: {said}")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await till(come)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def drops(vault: Vault, remote: Remote) -> None:
    """What comes is counted."""
    ping = remote.signer.ping()
    ping.repeat = WITHIN
    await remote.ask(ping)  # earlier ones, which were repeated, have all been answered then
    remote.signer.dropped.clear()
    await stays_open(vault, remote, lambda: remote.signer.dropped.total() > 0)


async def is_denied(vault: Vault, remote: Remote) -> None:
    with pytest.raises(DeniedError, match="user rejected"):
        await vault.open(remote)


async def shows_url_then_opens(vault: Vault, remote: Remote) -> None:
    await opens(vault, remote)
    assert [text for stage, text in vault.stages if stage == "auth_url"] == ["https://127.0.0.1:9/approve"]


async def shows_url_and_waits(vault: Vault, remote: Remote) -> None:
    await stays_open(vault, remote, lambda: "auth_url" in [stage for stage, _ in vault.stages])
    assert [text for stage, text in vault.stages if stage == "auth_url"] == ["https://127.0.0.1:9/approve"]


async def shows_no_url(vault: Vault, remote: Remote) -> None:
    await opens(vault, remote)
    assert "auth_url" not in [stage for stage, _ in vault.stages]


async def opens_and_warns(vault: Vault, remote: Remote) -> None:
    await opens(vault, remote)
    assert "skew" in [stage for stage, _ in vault.stages]


async def hands_on_text(vault: Vault, remote: Remote) -> None:
    """It is the signer's word; what is sealed under the token tells that it is wrong."""
    text, tokens = await vault.open(remote)
    assert (text, tokens) != GOOD
    assert text == "0" * 64 or text.startswith("AAAA")


TABLE = [
    Row("none", {}, opens),
    Row("silent", {}, waits),
    Row("duplicate", {}, opens),
    Row("noise_then_ok", {}, opens),
    Row("error_then_ok", {}, opens),
    Row("error_as_result", {}, is_denied),
    Row("auth_url", {}, shows_url_then_opens),
    Row("auth_url", {"never": True}, shows_url_and_waits),
    Row("auth_url", {"url": "javascript:alert(1)"}, shows_no_url),
    Row("wrong_id", {}, drops),
    Row("wrong_result", {}, hands_on_text),
    Row("empty_result", {}, drops),
    Row("null_result", {}, drops),
    Row("no_result", {}, drops),
    Row("number_result", {}, drops),
    Row("object_result", {}, drops),
    Row("huge_result", {}, hands_on_text),
    Row("not_object", {}, drops),
    Row("bad_json", {}, drops),
    Row("bad_cipher", {}, drops),
    Row("bad_mac", {}, drops),
    Row("impostor", {}, drops),
    Row("old_stamp", {}, opens_and_warns),
    Row("future_stamp", {}, opens_and_warns),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: " ".join([row.fault, *row.settings]))
async def test_what_avault_does(row: Row) -> None:
    async with paired("NONE", fault=row.fault, **row.settings) as (vault, remote, phone):
        await row.outcome(vault, remote)
        if row.outcome in (waits, drops, shows_url_and_waits):
            # One bad answer ends nothing: the next request is answered.
            await phone.set(fault="none")
            await opens(vault, remote)


async def test_denied() -> None:
    async with paired(mode="deny") as (vault, remote, _):
        with pytest.raises(DeniedError):
            await vault.open(remote)


@pytest.mark.parametrize("word", ["approve", "deny"])
async def test_prompted(word: str) -> None:
    async with paired(mode="prompt") as (vault, remote, phone), trio.open_nursery() as nursery:
        done = trio.Event()

        async def ask() -> None:
            if word == "approve":
                await opens(vault, remote)
            else:
                with pytest.raises(DeniedError):
                    await vault.open(remote)
            done.set()

        nursery.start_soon(ask)
        assert await phone.until("asked") == "nip44_decrypt"
        assert not done.is_set()
        await phone.write(word)
        await done.wait()


async def test_asleep() -> None:
    async with paired() as (vault, remote, phone), trio.open_nursery() as nursery:
        phone.sleep()
        nursery.start_soon(opens, vault, remote)
        await vault.reached("sent")
        phone.wake()


async def come_back(url: str, client: SecretKey, vault: Vault) -> None:
    """Start the signer once a request was sent in vain."""
    await vault.reached("sent")
    async with rig.signer(url, client=client.public.hex()):
        await trio.sleep_forever()


async def test_offline_then_online() -> None:
    """No relay keeps the request: it is sent again, and the phone that comes late is asked all the same."""
    async with paired() as (vault, remote, phone), trio.open_nursery() as nursery:
        await phone.end()
        nursery.start_soon(come_back, remote.relays.urls[0], remote.signer.client, vault)
        await opens(vault, remote, 0.3)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("fault", ["auth_url", "impostor", "wrong_result", "noise_then_ok"])
async def test_pairing_with_a_fault(fault: str) -> None:
    """Before the secret nothing is shown and nobody is pinned."""
    vault, client = Vault(), SecretKey.generate(ARENA)
    async with rig.local_relay() as url, rig.signer(url, fault=fault, result="ack") as (phone, _):
        core = Signer(ARENA, client)
        async with open_remote(core, [url], on_stage=vault.stage) as remote:
            await vault.reached("connected")
            await phone.write(nostrconnect_uri(client.public, [url], "cafe" * 8, "host"))
            comes = fault in ("auth_url", "noise_then_ok")
            with trio.move_on_after(WITHIN if comes else WAIT):
                said = await remote.ask(core.pairing("cafe" * 8))
                assert said.text == "cafe" * 8
            if fault != "impostor":
                assert core.public == (SIGNER if comes else None)
            assert "auth_url" not in [stage for stage, _ in vault.stages]


async def test_the_relay_goes_and_comes_back() -> None:
    port = rig.free_port()
    url = f"ws://127.0.0.1:{port}"
    vault, client = Vault(), SecretKey.generate(ARENA)
    core = Signer(ARENA, client, SIGNER)
    async with open_remote(core, [url], on_stage=vault.stage) as remote:
        await vault.reached("lost")
        async with rig.local_relay(port=port), rig.signer(url, client=client.public.hex()):
            await opens(vault, remote, 0.5)
    core.close()
