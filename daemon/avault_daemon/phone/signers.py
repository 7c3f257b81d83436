"""How signers are reached from this machine: paired ones by the keys of their pairing, new ones by new keys."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from avault_protocol import BadRequestError

from ..memory import sodium
from ..memory.arena import Arena
from ..nostr.keys import SecretKey
from ..nostr.nip46 import Signer
from ..nostr.relay import NETWORK, Network, OnStage
from ..nostr.remote import Remote, open_remote
from ..nostr.uris import check_relay, check_relays, nostrconnect_uri, parse_bunker
from ..slots.phone import KEY, Phone
from .pairings import Pairing
from .patience import PATIENCE, in_time

_SECRET = 16  # bytes of the secret in a nostrconnect URI


@dataclass(slots=True)
class Candidate:
    """A signer that answered, before the operator has looked at it; `close` it if it comes to nothing."""

    phone: Phone
    pairing: Pairing

    def close(self) -> None:
        """Forget its keys."""
        self.pairing.close()


class Signers:
    """Reaches signers on *network*, if that is *enabled*.

    *host*: how this machine is called on their screens; *plain_hosts*: those whose relays may be reached by ``ws://``.
    """

    def __init__(
        self,
        arena: Arena,
        host: str,
        *,
        enabled: bool,
        plain_hosts: Sequence[str] = (),
        network: Network = NETWORK,
    ) -> None:
        self.host = host
        self.enabled = enabled
        self._arena = arena
        self._plain_hosts = plain_hosts
        self._network = network

    def check(self) -> None:
        """Raise `BadRequestError` if the daemon may not use the network."""
        if not self.enabled:
            raise BadRequestError(
                "this daemon keeps itself from the network",
                hint="set network = true in the settings, then restart avaultd",
            )

    async def pair_bunker(self, uri: str, on_stage: OnStage, *, patience: float = PATIENCE) -> Candidate:
        """Pair with the signer that a ``bunker://`` URI names."""
        self.check()
        bunker = parse_bunker(uri, allow_plain=self._plain_hosts)
        with in_time(patience, on_stage) as stages:
            async with self._new(bunker.signer, bunker.relays, stages) as (remote, pairing):
                with await remote.ask(remote.signer.connect(bunker.secret, self.host)):
                    return await self._meet(remote, bunker.relays, pairing)

    async def pair_nostrconnect(
        self, relays: Sequence[str], on_stage: OnStage, *, patience: float = PATIENCE
    ) -> Candidate:
        """Show a ``nostrconnect://`` URI, as stage ``scan``, and pair with whoever says its secret."""
        self.check()
        urls = check_relays([check_relay(url, allow_plain=self._plain_hosts) for url in relays])
        secret = sodium.random(_SECRET).hex()
        with in_time(patience, on_stage) as stages:
            async with self._new(None, urls, stages) as (remote, pairing):
                request = remote.signer.pairing(secret)
                on_stage("scan", "", nostrconnect_uri(remote.signer.client.public, urls, secret, self.host))
                with await remote.ask(request):
                    return await self._meet(remote, urls, pairing)

    async def _meet(self, remote: Remote, relays: tuple[str, ...], pairing: Pairing) -> Candidate:
        with await remote.ask(remote.signer.get_public_key()) as answer:
            return Candidate(Phone(answer.text, (remote.signer.public or b"").hex(), relays), pairing)

    @asynccontextmanager
    async def _remote(
        self, pairing: Pairing, public: bytes | None, relays: Sequence[str], on_stage: OnStage
    ) -> AsyncGenerator[Remote]:
        """Reach the signer *public*, or whoever proves to be it, by the key of *pairing*."""
        with self._arena.take(KEY) as copy:
            sodium.copy(copy.address, pairing.client.address, KEY)
            client = SecretKey.adopt(copy)
        signer = Signer(self._arena, client, public)
        try:
            async with open_remote(signer, relays, on_stage=on_stage, network=self._network) as remote:
                yield remote
        finally:
            signer.close()
            client.close()

    def paired(
        self, phone: Phone, pairing: Pairing, on_stage: OnStage
    ) -> AbstractAsyncContextManager[Remote]:
        """Reach the signer of *phone*, which is known."""
        return self._remote(pairing, bytes.fromhex(phone.signer), phone.relays, on_stage)

    @asynccontextmanager
    async def _new(
        self, public: bytes | None, relays: Sequence[str], on_stage: OnStage
    ) -> AsyncGenerator[tuple[Remote, Pairing]]:
        """Reach a signer that is not paired yet, by a new key; the pairing is closed if the block raises."""
        pairing = Pairing.fresh(self._arena)
        try:
            async with self._remote(pairing, public, relays, on_stage) as remote:
                yield remote, pairing
        except BaseException:
            pairing.close()
            raise
