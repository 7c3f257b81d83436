"""Relays, while they are needed: connected all at once, one good one is enough, and what one does, it does alone.

Each is subscribed before anything is published there, and after a lost connection all that is still open is published
again. The proxies of the environment are not used, redirects not followed, messages not compressed.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import random
from time import time
from typing import NoReturn, cast

import trio
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.trio.client import ClientConnection, connect
from websockets.uri import parse_uri

from .event import Event
from .keys import SecretKey
from .nip01 import MAX_MESSAGE, Hopeless, Lost, Talk

CONNECT_TIMEOUT = 15.0
"""Seconds for name, TCP, TLS and WebSocket; Tor takes some."""
READY_TIMEOUT = 5.0
"""Seconds to wait for the word that a subscription stands."""
SEND_TIMEOUT = 10.0
PING = 20.0
"""Seconds between pings, and for an answer to one: a connection that only looks open is found out."""
FIRST_DELAY, LONGEST_DELAY = 1.0, 30.0
"""Seconds between attempts, doubled each time."""

Dial = Callable[[str, int], Awaitable[trio.abc.Stream]]
"""Host and port to a connection; OSError."""
OnStage = Callable[[str, str, str], None]
"""Called with a stage, the relay's URL ("" if it is none's), and words for the operator, printable.

``connecting``; ``connected`` (and subscribed); ``sent``; ``accepted`` (not all relays say so); ``absent`` (the relay
knows that nobody listens: the phone is not connected); ``refused`` (the event, with reason); ``lost`` (it is tried
again); ``hopeless`` (it is not).
"""

_log = logging.getLogger(__name__)


def ignore(stage: str, url: str, text: str) -> None:
    """Take a stage and do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """How relays are reached. *tls*: None for the machine's certificates; *clock*: Unix seconds; *jitter*: 0 to 1."""

    dial: Dial = trio.open_tcp_stream
    tls: ssl.SSLContext | None = None
    clock: Callable[[], float] = time
    jitter: Callable[[], float] = random


NETWORK = Network()
"""The network as it is."""


class _Connect(connect):
    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc  # the operator chose this host, nobody else may


class _Link:
    """One open connection."""

    def __init__(self, socket: ClientConnection, talk: Talk) -> None:
        self.socket = socket
        self.talk = talk
        self._wake = trio.Event()

    def publish(self, event: Event) -> None:
        self.talk.publish(event)
        self._wake.set()

    async def read(self, take: Callable[[_Link], None]) -> NoReturn:
        while True:  # iterating instead leaves a generator behind
            self.talk.receive(await self.socket.recv(), trio.current_time())
            take(self)
            self._wake.set()

    async def write(self) -> None:
        """Send what there is. Cancelled in the middle of a message, the connection ends with it."""
        while True:
            while self.talk.outgoing:
                with trio.fail_after(SEND_TIMEOUT):
                    await self.socket.send(self.talk.outgoing.pop(0))
            self._wake = trio.Event()
            await self._wake.wait()

    async def be_ready(self, take: Callable[[_Link], None]) -> None:
        await trio.sleep(READY_TIMEOUT)
        self.talk.be_ready()
        take(self)


class Relays:
    """Relays, connected to as *key* for as long as a block of `opened` lasts.

    Every well-formed event goes to *on_event*, as often as relays send it; nothing about it is checked beyond its form.
    The callbacks may not raise. The URLs are taken as checked (`uris.check_relay`).
    """

    def __init__(
        self,
        urls: Sequence[str],
        key: SecretKey,
        on_event: Callable[[Event], None],
        on_stage: OnStage,
        network: Network,
    ) -> None:
        self.problems: dict[str, str] = {}  # URL -> what is wrong with it now
        self.urls = tuple(urls)
        self._tried = set(urls)  # all but those that were given up
        self._key, self._on_event, self._on_stage, self._network = key, on_event, on_stage, network
        self._links: dict[str, _Link] = {}  # those that are ready
        self._open: dict[str, Event] = {}

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None, None]:
        """Connect to all of them, at once and again and again, until the block ends."""
        try:
            async with trio.open_nursery() as nursery:
                for url in sorted(self._tried):
                    nursery.start_soon(self._keep, url)
                yield
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _only(group) from None

    @property
    def hopeless(self) -> bool:
        """Whether every relay was given up."""
        return not self._tried

    def complaint(self) -> str:
        """Say what is wrong with each relay that does not work now."""
        return "; ".join(f"{url}: {problem}" for url, problem in self.problems.items())

    def publish(self, name: str, event: Event) -> None:
        """Publish *event* wherever we are connected, and wherever we will be until `forget` or another of that name."""
        self._open[name] = event
        for url, link in self._links.items():
            self._publish(url, link, event)

    def forget(self, name: str) -> None:
        """Publish that event no more."""
        self._open.pop(name, None)

    def _publish(self, url: str, link: _Link, event: Event) -> None:
        link.publish(event)
        self._on_stage("sent", url, "")

    async def _keep(self, url: str) -> None:
        """Stay connected to one relay, until cancelled or given up. Never raises for what the relay does."""
        delay = FIRST_DELAY
        while True:
            began = trio.current_time()
            problem = await self._visited(url)
            self.problems[url] = explain(problem)
            if isinstance(problem, Hopeless):
                self._tried.discard(url)
                self._on_stage("hopeless", url, self.problems[url])
                return
            self._on_stage("lost", url, self.problems[url])
            if trio.current_time() - began > LONGEST_DELAY:
                delay = FIRST_DELAY
            await trio.sleep(delay * (0.5 + self._network.jitter()))
            delay = min(2 * delay, LONGEST_DELAY)

    async def _visited(self, url: str) -> BaseException:
        """Return why the connection ended."""
        self._on_stage("connecting", url, "")
        try:
            await self._visit(url)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other relays go on
            _log.debug("%s: %r", url, error)
            return _worst(error)

    async def _visit(self, url: str) -> NoReturn:
        async with await self._connected(url) as socket, trio.open_nursery() as nursery:
            link = _Link(socket, Talk(url, self._key, self._network.clock, trio.current_time()))

            def take(link: _Link) -> None:
                self._take(url, link)

            nursery.start_soon(link.write)
            nursery.start_soon(link.be_ready, take)
            try:
                await link.read(take)
            finally:
                self._links.pop(url, None)

    async def _connected(self, url: str) -> _Connect:
        address = parse_uri(url)
        tls = self._network.tls if address.secure else None
        with trio.fail_after(CONNECT_TIMEOUT):
            if address.secure and tls is None:
                tls = await trio.to_thread.run_sync(ssl.create_default_context)
            stream = await self._network.dial(address.host, address.port)
        return _Connect(
            url, stream=stream, ssl=tls, proxy=None, compression=None, open_timeout=CONNECT_TIMEOUT,
            ping_interval=PING, ping_timeout=PING, close_timeout=1, max_size=MAX_MESSAGE,
        )  # fmt: skip

    def _take(self, url: str, link: _Link) -> None:
        while link.talk.news:
            news = link.talk.news.pop(0)
            if isinstance(news, Event):
                self._on_event(news)
            elif news.stage == "ready":
                self._ready(url, link)
            else:
                self._on_stage(news.stage, url, news.text)

    def _ready(self, url: str, link: _Link) -> None:
        self._links[url] = link
        self.problems.pop(url, None)
        self._on_stage("connected", url, "")
        for event in self._open.values():
            self._publish(url, link, event)


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the one error in *group*, if there is just one: the tasks raise nothing, so it is the block's own."""
    rest = group.split(trio.Cancelled)[1]
    return rest.exceptions[0] if rest is not None and len(rest.exceptions) == 1 else group


def explain(error: BaseException) -> str:
    """Say what went wrong with a connection, in words for the operator; the cause, if there is a better one."""
    match error:
        case Lost() | Hopeless():
            return str(error)
        case ssl.SSLCertVerificationError():
            return f"its certificate is not accepted: {error.verify_message}"
        case ssl.SSLError():
            return (
                f"no TLS with it: {str(getattr(error, 'reason', None) or 'failed').lower().replace('_', ' ')}"
            )
        case TimeoutError() | trio.TooSlowError():
            return "it does not answer in time"
        case ConnectionClosed():
            return f"it ended the connection{_reason(error)}"
        case InvalidStatus():
            return f"it is no relay: HTTP status {error.response.status_code}"
        case _ if error.__cause__ is not None:
            return explain(_worst(error.__cause__))
        case OSError(errno=int(number)) if number > 0:
            return os.strerror(number).lower()  # its own words may repeat the address
        case OSError(strerror=str(reason)):
            return reason[:1].lower() + reason[1:]
        case _:
            return f"it speaks no WebSocket ({type(error).__name__})"


def _reason(error: ConnectionClosed) -> str:
    if error.sent is not None and error.rcvd is None:
        return f": {error.sent.reason or error.sent.code}"[:200]
    return ""


def _worst(error: BaseException) -> BaseException:
    """Return the one of a group that says most: tasks that end because another did say less."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    leaves = [_worst(one) for one in group.exceptions]
    return min(leaves, key=lambda one: 0 if isinstance(one, Hopeless) else 1 if isinstance(one, Lost) else 2)
