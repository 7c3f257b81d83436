"""relay and remote: connections that fail in every way, over memory streams and a clock of the test's."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from avault_daemon.memory.arena import Arena
from avault_daemon.nostr import relay as relays_module
from avault_daemon.nostr.event import Event
from avault_daemon.nostr.keys import SecretKey
from avault_daemon.nostr.nip01 import MAX_MESSAGE, Hopeless
from avault_daemon.nostr.nip46 import GRACE, REPEAT_SOON, Signer
from avault_daemon.nostr.relay import CONNECT_TIMEOUT, PING, READY_TIMEOUT, Network, Relays, explain
from avault_daemon.nostr.remote import Remote, open_remote
from avault_protocol import DeniedError, LockedError, RequestTimeoutError
from support.clock import Clock
from support.relays import FaultRelay, Handler, Message, Session, fault_relay, serve
from support.signers import NOW, FakeSigner

ARENA = Arena(1 << 16)
CLIENT = SecretKey.generate(ARENA)
PHONE = FakeSigner(ARENA, CLIENT.public)
URL = "ws://relay"
TOKEN = "0123456789abcdef" * 4


class Watch:
    """What happened, as the callbacks were told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.stages: list[tuple[str, str, str]] = []
        self.times: list[tuple[float, str]] = []

    def stage(self, stage: str, url: str, text: str) -> None:
        self.stages.append((stage, url, text))
        self.times.append((trio.current_time(), stage))

    def names(self, url: str = URL) -> list[str]:
        return [stage for stage, where, _ in self.stages if where == url]

    def text_of(self, stage: str) -> str:
        return next(text for name, _, text in self.stages if name == stage)


def network(*relays: FaultRelay) -> Network:
    """Return a network of hosts "relay", "relay1", …"""
    hosts = {"relay" + (str(index) if index else ""): relay for index, relay in enumerate(relays)}

    async def dial(host: str, port: int) -> trio.abc.Stream:
        return await hosts[host].dial(host, port)

    return Network(dial=dial, clock=Clock(NOW), jitter=lambda: 0.5)


@asynccontextmanager
async def opened(*relays: FaultRelay) -> AsyncGenerator[tuple[Relays, Watch], None]:
    watch = Watch()
    urls = [URL + (str(index) if index else "") for index in range(len(relays))]
    made = Relays(urls, CLIENT, watch.events.append, watch.stage, network(*relays))
    async with made.opened():
        yield made, watch


def event(content: str = "x") -> Event:
    return PHONE.wrap(content)


async def test_subscribed_before_anything_is_published(autojump_clock: MockClock) -> None:
    async with fault_relay() as relay, opened(relay) as (relays, watch):
        relays.publish("one", event())
        await relay.until(lambda: relay.events)
        await trio.testing.wait_all_tasks_blocked()
        assert [message[0] for message in relay.seen] == ["REQ", "EVENT"]
        assert watch.names() == ["connecting", "connected", "sent", "accepted"]
        assert [one.content for one in watch.events] == ["x"]
    assert relay.sessions == []


async def test_without_eose_it_goes_on(autojump_clock: MockClock) -> None:
    async def mute(session: Session, message: Message) -> None:
        if message[0] == "EVENT":
            await serve(session, message)

    async with fault_relay(mute) as relay, opened(relay) as (relays, _):
        relays.publish("one", event())
        await relay.until(lambda: relay.events)
        assert trio.current_time() == READY_TIMEOUT


async def test_what_is_open_is_published_again_after_a_cut(autojump_clock: MockClock) -> None:
    async with fault_relay() as relay, opened(relay) as (relays, watch):
        relays.publish("one", event("one"))
        relays.publish("gone", event("gone"))
        await relay.until(lambda: len(relay.events) == 2)
        relays.forget("gone")
        relays.forget("never there")
        await relay.cut()
        await relay.until(lambda: len(relay.events) == 3)
        await trio.testing.wait_all_tasks_blocked()
        assert [one.content for one in relay.events] == ["one", "gone", "one"]
        assert trio.current_time() == 1.0
        assert (
            watch.names()[4:] == ["sent", "accepted", "lost", "connecting", "connected", "sent", "accepted"]
            or "lost" in watch.names()
        )
        assert relays.problems == {}


async def test_attempts_come_slower_and_slower(autojump_clock: MockClock) -> None:
    async with fault_relay() as relay, opened(relay) as (relays, watch):
        relay.refuse = True
        await trio.sleep(100)
        at = [when for when, stage in watch.times if stage == "lost"]
        assert [later - earlier for earlier, later in pairwise(at)] == [1, 2, 4, 8, 16, 30, 30]
        assert relays.complaint() == f"{URL}: connection refused"
        relay.refuse = False
        await trio.sleep(31)
        assert watch.names()[-1] == "connected"
        assert relays.complaint() == ""


async def test_a_relay_that_accepts_and_says_nothing(autojump_clock: MockClock) -> None:
    async with fault_relay() as relay, opened(relay) as (_, watch):
        relay.silent = True
        await trio.sleep(CONNECT_TIMEOUT + 0.5)
        assert watch.text_of("lost") == "it does not answer in time"


async def test_a_connection_that_only_looks_open(autojump_clock: MockClock) -> None:
    async with fault_relay() as relay, opened(relay) as (_, watch):
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(1)
        (session,) = relay.sessions
        stop = trio.Event()

        stream: Any = session.socket.stream
        stream.send_stream.send_all_hook = stop.wait
        await trio.sleep(2 * PING + 2)
        assert "lost" in watch.names()
        stop.set()


@pytest.mark.parametrize(
    "status", [HTTPStatus.NOT_FOUND, HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.TEMPORARY_REDIRECT]
)
async def test_no_websocket_and_no_redirect(autojump_clock: MockClock, status: HTTPStatus) -> None:
    async with fault_relay() as relay:
        relay.status, relay.location = status, "ws://relay/elsewhere"
        async with opened(relay) as (_, watch):
            await trio.sleep(0.5)
            assert watch.text_of("lost") == f"it is no relay: HTTP status {int(status)}"
            assert relay.dialled == 1


def once(verb: str, *instead: Callable[[Session, Message], Awaitable[None]]) -> Handler:
    """Return a handler that does something else for messages of one kind."""

    async def handle(session: Session, message: Message) -> None:
        if message[0] != verb:
            await serve(session, message)
            return
        for step in instead:
            await step(session, message)

    return handle


def ok_false(words: str, *, number: str | None = None) -> Handler:
    async def refuse(session: Session, message: Message) -> None:
        await session.say("OK", message[1]["id"] if number is None else number, False, words)

    return once("EVENT", refuse)


@pytest.mark.parametrize(
    ("words", "stage"),
    [
        ("mute: no one was listening to your ephemeral event", "absent"),
        ("rate-limited: slow down", "refused"),
        ("invalid: too old", "refused"),
        ("duplicate: have it", "accepted"),
        ("blocked: you", "hopeless"),
        ("restricted: you", "hopeless"),
        ("pow: 28", "hopeless"),
    ],
)
@pytest.mark.parametrize("number", [None, ""])
async def test_an_event_that_is_refused(
    autojump_clock: MockClock, words: str, stage: str, number: str | None
) -> None:
    async with fault_relay(ok_false(words, number=number)) as relay, opened(relay) as (relays, watch):
        relays.publish("one", event())
        await trio.sleep(0.5)
        assert watch.names() == ["connecting", "connected", "sent", stage]
        assert relays.hopeless is (stage == "hopeless")


async def flood(session: Session, message: Message) -> None:
    for _ in range(5000):
        await session.raw('["NOTICE","x"]')


async def huge(session: Session, _: Message) -> None:
    await session.raw("x" * (MAX_MESSAGE + 1))


async def rubbish(session: Session, message: Message) -> None:
    for text in ("", "not json", "[]", "{}", '["EVENT"]', '["EVENT","nobody",{}]', "null", b"\xff\xfe"):
        await session.raw(text)
    await serve(session, message)


@pytest.mark.parametrize(
    ("fault", "words"),
    [(flood, "more than it should"), (huge, "ended the connection: ")],
    ids=["flood", "huge"],
)
async def test_one_bad_relay_is_dropped_alone(autojump_clock: MockClock, fault: Handler, words: str) -> None:
    async with (
        fault_relay(once("REQ", fault)) as bad,
        fault_relay() as good,
        opened(bad, good) as (relays, watch),
    ):
        relays.publish("one", event())
        await good.until(lambda: good.events)
        await trio.sleep(0.5)
        assert words in watch.text_of("lost")
        assert watch.names(URL + "1") == ["connecting", "connected", "sent", "accepted"]


async def test_rubbish_in_between_is_passed_over(autojump_clock: MockClock) -> None:
    async with fault_relay(rubbish) as relay, opened(relay) as (relays, watch):
        relays.publish("one", event())
        await relay.until(lambda: relay.events)
        await trio.sleep(0.5)
        assert watch.names() == ["connecting", "connected", "sent", "accepted"]
        assert len(watch.events) == 1


async def test_the_errors_of_the_block_come_out_as_they_are(autojump_clock: MockClock) -> None:
    async with fault_relay() as relay:
        with pytest.raises(KeyError, match="mine"):
            async with opened(relay):
                raise KeyError("mine")
        with trio.move_on_after(1) as scope:
            async with opened(relay):
                await trio.sleep_forever()
        assert scope.cancelled_caught


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(113, "No route to host"), "no route to host"),
        (trio.TooSlowError(), "it does not answer in time"),
        (Hopeless("restricted: x"), "restricted: x"),
        (ExceptionGroup("", [OSError(1, "less"), Hopeless("more")]), "more"),
        (ssl.SSLError(1, "x"), "no TLS with it: failed"),
        (RuntimeError("odd"), "it speaks no WebSocket (RuntimeError)"),
    ],
)
def test_explain(error: Exception, words: str) -> None:
    assert explain(relays_module._worst(error)) == words  # pyright: ignore[reportPrivateUsage]


def test_explain_looks_for_the_cause() -> None:
    outer = trio.BrokenResourceError()
    outer.__cause__ = ssl.SSLCertVerificationError(1, "x")
    outer.__cause__.verify_message = "self-signed certificate"
    assert explain(outer) == "its certificate is not accepted: self-signed certificate"


# --- remote ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def paired(*relays: FaultRelay) -> AsyncGenerator[tuple[Remote, Watch], None]:
    """Open a proven signer on *relays*; nothing of it stays in the arena."""
    before, watch = ARENA.in_use, Watch()
    signer = Signer(ARENA, CLIENT, PHONE.public, clock=Clock(NOW))
    urls = [URL + (str(index) if index else "") for index in range(len(relays))]
    async with open_remote(signer, urls, on_stage=watch.stage, network=network(*relays)) as remote:
        yield remote, watch
    signer.close()
    assert ARENA.in_use == before


def phone(*answers: Callable[[str], Event]) -> Handler:
    """Return a relay on which the phone is connected: it gives one answer a request, then none."""
    left = list(answers)

    async def handle(session: Session, message: Message) -> None:
        await serve(session, message)
        if message[0] == "EVENT" and left:
            number = PHONE.read(Event.from_wire(message[1]))["id"]
            await session.deliver(left.pop(0)(number))

    return handle


def pong(number: str) -> Event:
    return PHONE.answer(number, "pong")


async def test_ask(autojump_clock: MockClock) -> None:
    async with fault_relay(phone(pong)) as relay, paired(relay) as (remote, _):
        assert (await remote.ask(remote.signer.ping())).text == "pong"
        assert trio.current_time() == 0.0


async def test_ask_again_with_the_same_id_in_a_fresh_event(autojump_clock: MockClock) -> None:
    def silent(_: str) -> Event:
        return PHONE.answer("other", "pong")

    async with fault_relay(phone(silent, silent, pong)) as relay, paired(relay) as (remote, _):
        assert (await remote.ask(remote.signer.ping())).text == "pong"
        assert trio.current_time() == 2 * REPEAT_SOON
        assert len({one.id for one in relay.events}) == 3
        assert len({PHONE.read(one)["id"] for one in relay.events}) == 1


async def test_one_good_relay_is_enough(autojump_clock: MockClock) -> None:
    async with fault_relay() as bad, fault_relay(phone(pong)) as good, paired(bad, good) as (remote, _):
        bad.refuse = True
        assert (await remote.ask(remote.signer.ping())).text == "pong"


async def test_the_same_answer_from_two_relays(autojump_clock: MockClock) -> None:
    answer: list[Event] = []

    def same(number: str) -> Event:
        if not answer:
            answer.append(pong(number))
        return answer[0]

    async with (
        fault_relay(phone(same)) as one,
        fault_relay(phone(same)) as two,
        paired(one, two) as (remote, _),
    ):
        assert (await remote.ask(remote.signer.ping())).text == "pong"
        await trio.sleep(1)


async def test_two_requests_at_once(autojump_clock: MockClock) -> None:
    answers = phone(
        lambda number: PHONE.answer(number, error="no"), lambda number: PHONE.answer(number, error="no")
    )
    async with fault_relay(answers) as relay, paired(relay) as (remote, _), trio.open_nursery() as nursery:

        async def denied() -> None:
            with pytest.raises(DeniedError):
                await remote.ask(remote.signer.ping())

        nursery.start_soon(denied)
        nursery.start_soon(denied)
    assert trio.current_time() == GRACE


async def test_patience_is_the_callers(autojump_clock: MockClock) -> None:
    async with fault_relay() as relay, paired(relay) as (remote, _):
        with trio.move_on_after(40) as scope:
            await remote.ask(remote.signer.ping())
        assert scope.cancelled_caught
        assert len(relay.events) == 40 / REPEAT_SOON
        await relay.cut()
        await trio.sleep(5)
        assert len(relay.events) == 40 / REPEAT_SOON


async def test_no_relay_is_left(autojump_clock: MockClock) -> None:
    async with fault_relay(ok_false("restricted: members only")) as relay, paired(relay) as (remote, _):
        with pytest.raises(RequestTimeoutError, match=r"ws://relay: restricted: members only"):
            await remote.ask(remote.signer.ping())
        assert trio.current_time() == 0.0


async def test_auth_url_is_shown_once_each(autojump_clock: MockClock) -> None:
    def sends_away(url: str) -> Callable[[str], Event]:
        return lambda number: PHONE.answer(number, "auth_url", url)

    answers = phone(sends_away("https://a/1"), sends_away("https://a/1"), sends_away("https://a/2"), pong)
    async with fault_relay(answers) as relay, paired(relay) as (remote, watch):
        await remote.ask(remote.signer.ping())
        assert [text for stage, _, text in watch.stages if stage == "auth_url"] == [
            "https://a/1",
            "https://a/2",
        ]


@pytest.mark.parametrize(
    ("late", "words"), [(121, "121 s ahead of"), (-121, "121 s behind"), (120, None), (-120, None)]
)
async def test_a_wrong_clock_is_said(autojump_clock: MockClock, late: int, words: str | None) -> None:
    answers = phone(lambda number: PHONE.answer(number, "pong", at=NOW + late))
    async with fault_relay(answers) as relay, paired(relay) as (remote, watch):
        await remote.ask(remote.signer.ping())
        said = [text for stage, _, text in watch.stages if stage == "skew"]
        assert [f"the signer's clock is {words} ours: one of them is wrong"] * (words is not None) == said


async def test_an_answer_with_a_token_is_the_callers(autojump_clock: MockClock) -> None:
    answers = phone(lambda number: PHONE.answer(number, f"avault unlock h {TOKEN}"))
    async with fault_relay(answers) as relay, paired(relay) as (remote, _):
        with await remote.ask(remote.signer.nip44_decrypt(PHONE.public, "x")) as answer:
            assert [bytes(token.view).hex() for token in answer.tokens] == [TOKEN]


async def test_wiped_keys_end_a_request(autojump_clock: MockClock) -> None:
    arena = Arena()
    client = SecretKey.generate(arena)
    phone_of = FakeSigner(ARENA, client.public)
    signer = Signer(arena, client, phone_of.public)
    async with fault_relay() as relay, open_remote(signer, [URL], network=network(relay)) as remote:
        request = signer.ping()
        arena.wipe()
        with pytest.raises(LockedError):
            await remote.ask(request)


async def test_pairing_sends_nothing_and_waits(autojump_clock: MockClock) -> None:
    signer = Signer(ARENA, CLIENT, clock=Clock(NOW))
    async with fault_relay() as relay, open_remote(signer, [URL], network=network(relay)) as remote:
        async with trio.open_nursery() as nursery:

            async def scan() -> None:
                await trio.sleep(100)
                await relay.deliver(PHONE.answer("x", "ack"))
                await trio.sleep(1)
                await relay.deliver(PHONE.answer("x", "cafe" * 8))

            nursery.start_soon(scan)
            await remote.ask(signer.pairing("cafe" * 8))
        assert trio.current_time() == 101
        assert signer.public == PHONE.public
        assert [message[0] for message in relay.seen] == ["REQ"]
    signer.close()
