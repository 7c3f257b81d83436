"""A signer on its relays: ask, and wait for the answer. Deadlines are the caller's (trio's cancel scopes)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import trio

from avault_protocol import RequestTimeoutError

from .event import Event
from .nip46 import SKEW, Answer, Request, Signer
from .relay import NETWORK, Network, OnStage, Relays, ignore


class Remote:
    """A signer that can be reached, or may become so; see `open_remote`."""

    def __init__(self, signer: Signer, urls: Sequence[str], on_stage: OnStage, network: Network) -> None:
        self.signer = signer
        self.relays = Relays(urls, signer.client, self._take_event, self._take_stage, network)
        self._on_stage = on_stage
        self._news = trio.Event()  # set, and replaced, when an `ask` should look again

    async def ask(self, request: Request) -> Answer:
        """Send a request of `signer` until it is answered; it is closed afterwards, and also when cancelled.

        The answer is the caller's. Further stages: ``auth_url`` with an address that the operator should open,
        ``skew`` if the clocks differ. Raises DeniedError with the signer's words,
        RequestTimeoutError if no relay is left that would take it, LockedError if the keys have been wiped.
        """
        shown: set[str] = set()
        try:
            while True:
                now = trio.current_time()
                if (answer := request.outcome(now)) is not None:
                    self._mind_clock()
                    return answer
                self._send_if_due(request, now)
                self._show(request, shown)
                with trio.move_on_at(request.next_at()):
                    await self._news.wait()
        finally:
            self.relays.forget(request.id)
            self.signer.close_request(request)

    def _send_if_due(self, request: Request, now: float) -> None:
        if self.relays.hopeless:
            raise RequestTimeoutError(f"no relay is left: {self.relays.complaint()}")
        if request.is_due(now):
            request.sent(now)
            if request.method:
                self.relays.publish(request.id, self.signer.event(request))

    def _show(self, request: Request, shown: set[str]) -> None:
        url = request.auth_url
        if url is not None and url not in shown:
            shown.add(url)
            self._on_stage("auth_url", "", url)

    def _mind_clock(self) -> None:
        skew = round(self.signer.skew)
        if abs(skew) > SKEW:
            direction = "ahead of" if skew > 0 else "behind"
            self._on_stage(
                "skew", "", f"the signer's clock is {abs(skew)} s {direction} ours: one of them is wrong"
            )

    def _take_event(self, event: Event) -> None:
        """Hand an event of a relay to the signer."""
        if self.signer.receive(event, trio.current_time()) is not None:
            self._wake()

    def _take_stage(self, stage: str, url: str, text: str) -> None:
        """Pass on what a relay did."""
        self._on_stage(stage, url, text)
        if stage == "hopeless":
            self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()


@asynccontextmanager
async def open_remote(
    signer: Signer, urls: Sequence[str], *, on_stage: OnStage = ignore, network: Network = NETWORK
) -> AsyncGenerator[Remote, None]:
    """Connect to a signer's relays for as long as the block lasts; see `relay.open_relays`."""
    remote = Remote(signer, urls, on_stage, network)
    async with remote.relays.opened():
        yield remote
