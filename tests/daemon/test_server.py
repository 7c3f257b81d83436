"""Connections: what is served, in which order, and that nobody can harm anybody else."""

from __future__ import annotations

import errno
import fcntl
import gc
import math
import os
import select
import socket
import struct
import sys
import termios
import weakref
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest
import trio
import trio.lowlevel
import trio.testing

from avault_daemon.audit.chain import Chain
from avault_daemon.callers.processes import Process
from avault_daemon.serving import arrivals
from avault_daemon.serving.agent_api import AgentConversation
from avault_daemon.serving.agent_connection import AgentConnection
from avault_daemon.serving.agents import MOMENT, ROUND
from avault_daemon.serving.conversation import Answer, Wait
from avault_daemon.serving.inbox import MESSAGE_TIMEOUT
from avault_daemon.serving.openings import Openings
from avault_daemon.serving.outbox import MAX_QUEUED
from avault_daemon.settings import Settings
from avault_protocol import (
    AlreadyBoundError,
    AvaultError,
    BadRequestError,
    BusyError,
    InternalError,
    LockedError,
    NotGrantedError,
    Request,
    RequestTimeoutError,
    TooLargeError,
    UninitializedError,
    UnknownAgentError,
    limits,
    pack_notification,
    pack_request,
    pack_response,
)
from support.house import PASSPHRASE, House, Peer, open_house

VALUE = b"7250119083:AAF-a-token"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncGenerator[House]:
    async with open_house(tmp_path) as house:
        yield house


async def granted(house: House, **secrets: bytes) -> Peer:
    """Make a vault with secrets, all of them granted to cobot/telegram; return the operator's connection."""
    operator = await house.init()
    await house.put(operator, **(secrets or {"TOKEN": VALUE}))
    await operator.call(
        "grant",
        {
            "agent": "cobot",
            "plugin": "telegram",
            "secrets": list(secrets or {"TOKEN": VALUE}),
            "uids": [os.getuid()],
        },
    )
    return operator


async def test_a_granted_secret_is_served(house: House) -> None:
    await granted(house)
    agent = await house.agent()
    result, value = await agent.call("get_secret", {"name": "TOKEN"})
    assert result == {"name": "TOKEN", "version": 1, "encoding": "text"}
    assert value == VALUE


async def test_requests_that_come_together_are_answered_in_order(house: House) -> None:
    await granted(house, TOKEN=VALUE, OTHER=b"other value")
    agent = await house.agent(secrets=("TOKEN", "OTHER"))
    names = ["TOKEN", "OTHER", "NOWHERE", "TOKEN"] * 40  # more than one batch
    await agent.send(
        b"".join(pack_request(n, "get_secret", {"name": name}) for n, name in enumerate(names, 100))
    )
    for number, name in enumerate(names, 100):
        response, value = await agent.answer()
        assert response.id == number
        assert value == {"TOKEN": VALUE, "OTHER": b"other value", "NOWHERE": None}[name]
    assert house.core.record.number >= len(names) // 2


async def test_who_sends_much_at_once_does_not_keep_others_waiting(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await granted(house)
    greedy, modest = await house.agent(), await house.agent("weather")
    served: list[str] = []
    real = AgentConversation.handle

    def handle(self: AgentConversation, request: Request, *, waited: bool = False) -> Answer | Wait:
        assert self.session is not None
        served.append(self.session.plugin)
        return real(self, request, waited=waited)

    monkeypatch.setattr(AgentConversation, "handle", handle)
    many = 10 * ROUND  # what the socket takes of answers that nobody reads yet
    await greedy.send(pack_request(7, "nonsense", {}) * many)  # one segment, so it is received at once
    await modest.call("grants")
    assert served.index("weather") < many
    for _ in range(many):
        assert isinstance((await greedy.answer())[0].error, BadRequestError)
    assert served.count("telegram") == many


async def test_a_byte_at_a_time(house: House) -> None:
    await granted(house)
    agent = await house.agent()
    for byte in pack_request(7, "get_secret", {"name": "TOKEN"}):
        await agent.send(bytes([byte]))
        await trio.testing.wait_all_tasks_blocked()
    assert (await agent.answer())[1] == VALUE


async def test_who_asks_and_then_says_no_more_is_answered_to_the_end(house: House) -> None:
    await granted(house)
    agent = await house.agent()
    await agent.send(pack_request(7, "get_secret", {"name": "TOKEN"}) * 20)
    agent.sock.shutdown(socket.SHUT_WR)  # before the daemon has looked: it is told of both at once
    for _ in range(20):
        assert (await agent.answer())[1] == VALUE
    with pytest.raises(EOFError):
        await agent.answer()
    assert not house.server.agents


async def test_descriptors_hold_up_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read ends behind them, short of what has come, where the kernel lets them in."""
    monkeypatch.setattr(arrivals, "refuse_descriptors", id)
    async with open_house(tmp_path) as house:
        await granted(house)
        agent = await house.agent()
        await agent.ask("get_secret", {"name": "TOKEN"}, fds=(agent.sock.fileno(),))
        await agent.ask("get_secret", {"name": "TOKEN"})
        for _ in range(2):
            assert (await agent.answer())[1] == VALUE


async def test_who_does_not_read_is_not_answered_on(house: House) -> None:
    await granted(house, TOKEN=b"x" * limits.MAX_VALUE)
    agent = await house.agent()
    request = pack_request(7, "get_secret", {"name": "TOKEN"})
    await agent.send(request * 100)
    await trio.testing.wait_all_tasks_blocked()
    before = house.core.record.number
    for _ in range(20):
        await agent.send(request)
        await trio.testing.wait_all_tasks_blocked()
    assert house.core.record.number == before
    for _ in range(120):
        assert (await agent.answer())[1] == b"x" * limits.MAX_VALUE


async def test_a_half_sent_value_is_not_completed_by_anothers(house: House) -> None:
    operator = await granted(house, TOKEN=b"x" * limits.MAX_VALUE)
    agent = await house.agent()
    await agent.send(pack_request(1, "get_secret", {"name": "TOKEN"}) * 20)
    await trio.testing.wait_all_tasks_blocked()
    await operator.call("rm", {"name": "TOKEN"})
    await house.put(operator, TOKEN=b"y" * limits.MAX_VALUE)  # version 1 again, of the same size
    seen = bytearray()
    try:
        while data := await agent.sock.recv(1 << 20):
            seen += data
    except ConnectionResetError:
        pass
    assert b"x" * 100 in seen
    assert b"y" not in seen


@pytest.mark.parametrize(
    ("change", "error"),
    [("lock", LockedError), ("rm", NotGrantedError), ("agent_rm", NotGrantedError), ("anew", BusyError)],
)
async def test_what_changes_while_the_disk_is_waited_for_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, error: type[AvaultError]
) -> None:
    async with open_house(tmp_path, Settings(audit_sync="always")) as house:
        operator = await granted(house)
        agent = await house.agent()
        real, waiting, go_on = house.core.record.settle, trio.Event(), trio.Event()

        async def settle() -> None:
            await real()
            waiting.set()
            await go_on.wait()

        monkeypatch.setattr(house.core.record, "settle", settle)
        await agent.ask("get_secret", {"name": "TOKEN"})
        await waiting.wait()
        if change in ("rm", "anew"):
            await house.core.vault.rm("TOKEN")
        if change == "anew":
            await house.core.vault.put([("TOKEN", "text", memoryview(bytearray(VALUE)))], replace=True)
        if change == "lock":
            house.core.vault.lock()
        if change == "agent_rm":
            await house.core.vault.remove_agent("cobot")
        go_on.set()
        assert isinstance((await agent.answer())[0].error, error)
        operator.close()


async def test_what_was_asked_before_rubbish_is_answered(house: House) -> None:
    await granted(house)
    agent = await house.agent()
    await agent.send(pack_request(7, "get_secret", {"name": "TOKEN"}) * 3 + b"\xc1")
    for _ in range(3):
        assert (await agent.answer())[1] == VALUE
    response, _ = await agent.answer()
    assert response.id == 0
    assert isinstance(response.error, BadRequestError)


async def test_a_record_that_fails_in_an_odd_way_ends_nobody(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await granted(house)
    agent = await house.agent()

    def fail(self: Chain, entries: object) -> None:
        raise RuntimeError("a line that cannot be made")

    with monkeypatch.context() as patch:
        patch.setattr(Chain, "write", fail)
        with pytest.raises(InternalError):
            await agent.call("get_secret", {"name": "TOKEN"})
    assert (await agent.call("get_secret", {"name": "TOKEN"}))[1] == VALUE


async def test_hello_comes_first_and_once(house: House) -> None:
    await granted(house)
    peer = await house.connect(house.core.places.agent_socket)
    with pytest.raises(BadRequestError, match="hello comes first"):
        await peer.call("get_secret", {"name": "TOKEN"})
    hello = {"protocol": 1, "plugin": "telegram", "secrets": ["TOKEN"]}
    await peer.call("hello", hello)
    with pytest.raises(BadRequestError, match="said hello already"):
        await peer.call("hello", hello)
    assert (await peer.call("get_secret", {"name": "TOKEN"}))[1] == VALUE


async def test_another_protocol_is_refused_by_number(house: House) -> None:
    await granted(house)
    peer = await house.connect(house.core.places.agent_socket)
    with pytest.raises(BadRequestError, match="protocol 2"):
        await peer.call("hello", {"protocol": 2, "plugin": "telegram", "secrets": []})


@pytest.mark.parametrize("method", ["status", "lock", "put", "reveal", "nonsense", ""])
async def test_an_agents_socket_has_no_operators_methods(house: House, method: str) -> None:
    await granted(house)
    agent = await house.agent()
    with pytest.raises(BadRequestError, match="unknown method"):
        await agent.call(method)
    assert house.core.vault.unlocked


async def test_an_operators_socket_has_no_agents_methods(house: House) -> None:
    operator = await house.init()
    with pytest.raises(BadRequestError, match="unknown method"):
        await operator.call("get_secret", {"name": "TOKEN"})


async def test_without_a_vault_hello_says_so(house: House) -> None:
    with pytest.raises(UninitializedError):
        await house.agent()


async def test_no_hello_in_time_ends_the_connection(house: House, mock_clock: trio.testing.MockClock) -> None:
    house.patience = math.inf
    await granted(house)
    early = await house.agent()
    late = await house.connect(house.core.places.agent_socket)
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(limits.HELLO_TIMEOUT - 0.1)
    await trio.testing.wait_all_tasks_blocked()
    assert len(house.server.agents) == 2
    mock_clock.jump(0.1)
    assert isinstance(await late.closed(), RequestTimeoutError)
    assert (await early.call("get_secret", {"name": "TOKEN"}))[1] == VALUE


@pytest.mark.parametrize(
    ("rubbish", "kind"),
    [
        (b"\xc1", BadRequestError),
        (b"GET / HTTP/1.1\r\n\r\n", BadRequestError),
        (b"\x94\x00\x01\xa5hello\x91" + b"\x91" * 40, TooLargeError),
        (b"\xdd\xff\xff\xff\xff", TooLargeError),
        (b"\x94\x00\x01\xdb\x7f\xff\xff\xff", TooLargeError),
        (pack_response(1, {}), BadRequestError),
        (pack_request(1, "hello", {}, 3) + b"abc", BadRequestError),
    ],
)
async def test_rubbish_ends_the_connection_with_a_reason_and_nobody_else_notices(
    house: House, rubbish: bytes, kind: type[Exception]
) -> None:
    await granted(house)
    polite = await house.agent()
    peer = await house.connect(house.core.places.agent_socket)
    await peer.send(rubbish)
    assert isinstance(await peer.closed(), kind)
    assert (await polite.call("get_secret", {"name": "TOKEN"}))[1] == VALUE


async def test_notifications_from_clients_are_passed_over(house: House) -> None:
    await granted(house)
    for peer in (await house.agent(), await house.operator()):
        await peer.send(pack_notification("client_info", {"name": "x"}) + b"\x93\x02\xa4what\x92\x01\x02")
    assert (await house.peers[-2].call("get_secret", {"name": "TOKEN"}))[1] == VALUE
    assert (await house.peers[-1].call("status"))["state"] == "unlocked"


async def test_rubbish_on_the_operators_socket(house: House) -> None:
    await granted(house)
    for rubbish in (b"\xc1", b"GET / HTTP/1.1\r\n\r\n", pack_response(1, {})):
        peer = await house.connect(house.core.places.operator_socket)
        await peer.send(rubbish)
        assert isinstance(await peer.closed(), BadRequestError)
    peer = await house.connect(house.core.places.operator_socket)
    await peer.send(pack_request(1, "prove", {}, 1)[:-2] + b"\xc6\x00\x10\x00\x01")
    assert isinstance(await peer.closed(), TooLargeError)
    assert (await (await house.operator()).call("status"))["state"] == "unlocked"


async def test_without_memory_an_operator_is_told_so(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(size: int) -> NoReturn:
        raise InternalError("the kernel gives no memory", hint="raise the limit")

    monkeypatch.setattr(house.core.arena, "take", refuse)
    peer = await house.operator(proven=False)
    await peer.ask("status")
    error = await peer.closed()
    assert isinstance(error, InternalError)
    assert (error.message, error.hint) == ("the kernel gives no memory", "raise the limit")


async def test_a_connection_that_ends_within_a_message(house: House) -> None:
    await granted(house)
    peer = await house.connect(house.core.places.operator_socket)
    await peer.send(pack_request(1, "prove", {}, 20) + b"half")
    peer.sock.shutdown(socket.SHUT_WR)
    assert isinstance(await peer.closed(), BadRequestError)
    assert house.core.arena.in_use == (await idle_arena(house))


async def test_an_operator_who_sends_what_nobody_answers_is_not_the_only_one_who_is_heard(
    house: House,
) -> None:
    await granted(house)
    peer = await house.connect(house.core.places.operator_socket)
    await trio.testing.wait_all_tasks_blocked()
    with socket.socket(fileno=os.dup(peer.sock.fileno())) as line:
        assert line.send(pack_notification("x", {}) * 100_000) > 10_000
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        (waiting,) = struct.unpack("i", fcntl.ioctl(line, termios.TIOCOUTQ, bytes(4)))
    assert waiting > 0


async def idle_arena(house: House) -> int:
    """What the arena holds when nothing is under way: the keys."""
    await trio.testing.wait_all_tasks_blocked()
    return house.core.arena.in_use


async def test_an_operators_message_must_be_complete_in_time(
    house: House, mock_clock: trio.testing.MockClock
) -> None:
    house.patience = math.inf
    await granted(house)
    before = await idle_arena(house)
    peer = await house.connect(house.core.places.operator_socket)
    await peer.send(pack_request(1, "prove", {}, 20) + b"half")
    assert await idle_arena(house) > before
    mock_clock.jump(MESSAGE_TIMEOUT)
    assert isinstance(await peer.closed(), RequestTimeoutError)
    assert await idle_arena(house) == before


async def test_one_process_holds_a_plugin_and_may_say_so_again(house: House) -> None:
    await granted(house)
    first, second = await house.agent(), await house.agent()
    assert (await first.call("get_secret", {"name": "TOKEN"}))[1] == VALUE
    assert (await second.call("get_secret", {"name": "TOKEN"}))[1] == VALUE


async def test_another_process_is_refused_while_the_first_lives(house: House) -> None:
    await granted(house)
    await house.agent()
    code = (
        "import sys\nfrom avault_client import *\n"
        "try:\n Vault(agent='cobot', plugin='telegram', secrets=['TOKEN']).get_secret('TOKEN')\n"
        "except AvaultError as error:\n print(error.code)\n"
    )
    said = await trio.run_process(
        [sys.executable, "-c", code],
        env={**os.environ, "AVAULT_RUNTIME_DIR": str(house.core.places.runtime_dir)},
        capture_stdout=True,
    )
    assert said.stdout.decode().strip() == AlreadyBoundError.code


HELLO = pack_request(
    1, "hello", {"protocol": 1, "plugin": "telegram", "secrets": ["TOKEN"], "agent": "cobot"}
)
ASK = pack_request(2, "get_secret", {"name": "TOKEN"})


async def opened(house: House, *pieces: bytes) -> tuple[list[object], list[dict[str, object]]]:
    """Connect, send *pieces*; return the two answers, and the two lines that they left on the record."""
    last, answers = house.core.record.number, list[object]()
    peer = await house.connect(house.core.places.agent_socket)
    for piece in pieces:
        await peer.send(piece)
        await trio.testing.wait_all_tasks_blocked()
    for _ in range(2):
        response, value = await peer.answer()
        error = None if response.error is None else response.error.to_wire()
        answers.append((response.id, error, response.result, value))
    peer.close()
    lines = house.core.record.read(after=last)
    return answers, [{key: line[key] for key in line.keys() - {"n", "time"}} for line in lines]


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods that were not answered from what was answered before."""
    names: list[str] = []
    handle = AgentConversation.handle

    def noting(self: AgentConversation, request: Request, *, waited: bool = False) -> Answer | Wait:
        names.append(request.method)
        return handle(self, request, waited=waited)

    monkeypatch.setattr(AgentConversation, "handle", noting)
    return names


async def test_who_begins_as_before_is_answered_and_recorded_as_before(
    house: House, handled: list[str]
) -> None:
    await granted(house)
    first = await opened(house, HELLO + ASK)
    assert [line["action"] for line in first[1]] == ["hello", "get_secret"]
    assert handled == ["hello", "get_secret"]
    assert await opened(house, HELLO + ASK) == first
    assert await opened(house, HELLO, ASK) == first
    assert handled == ["hello", "get_secret"]
    assert await opened(house, HELLO[:9], HELLO[9:] + ASK) == first  # in pieces it is another beginning
    assert handled == ["hello", "get_secret"] * 2


async def test_who_begins_as_before_says_hello_once(house: House) -> None:
    await granted(house)
    for _ in range(2):
        (hello, again), _ = await opened(house, HELLO + HELLO)
        assert (cast("Any", hello)[1], cast("Any", again)[1]["code"]) == (None, "bad_request")


@pytest.mark.parametrize("change", ["revoke", "rm", "lock", "put", "agent_rm"])
async def test_what_has_changed_since_is_answered_as_it_is_now(
    house: House, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Openings, "clear", lambda self: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    operator = await granted(house)
    before = await opened(house, HELLO + ASK)
    match change:
        case "revoke":
            await operator.call("revoke", {"agent": "cobot", "plugin": "telegram"})
        case "rm":
            await operator.call("rm", {"name": "TOKEN"})
        case "put":
            await house.put(operator, TOKEN=b"another")
        case "lock":
            await operator.call("lock")
        case _:
            await operator.call("agent_rm", {"agent": "cobot"})
    now, lines = await opened(house, HELLO + ASK)
    assert now != before[0]
    assert lines != before[1]
    house.server.agents.openings = Openings()
    assert (await opened(house, HELLO + ASK))[0] == now


async def test_what_one_declares_later_is_not_given_to_another_that_began_alike(house: House) -> None:
    await granted(house, TOKEN=VALUE, OTHER=b"other")
    await opened(house, HELLO + ASK)
    asking, other = await house.agent(), await house.agent()
    assert await asking.call("request", {"name": "OTHER"}) == {"granted": True, "id": None}
    for _ in range(2):
        assert (await asking.call("get_secret", {"name": "OTHER"}))[1] == b"other"
    await other.call("grants")  # so that its next question has the bytes of the other's
    with pytest.raises(NotGrantedError):
        await other.call("get_secret", {"name": "OTHER"})


async def test_a_plugin_that_was_let_go_is_bound_anew(house: House, handled: list[str]) -> None:
    await granted(house)
    await opened(house, HELLO + ASK)
    bindings = house.core.bindings
    process = bindings.processes.latest(os.getpid())
    assert process is not None
    bindings.drop(process)
    assert not bindings.holders("cobot", "telegram")
    await opened(house, HELLO + ASK)
    assert bindings.holders("cobot", "telegram") == [os.getpid()]
    assert handled == ["hello", "get_secret"] * 2


async def test_an_unknown_caller_is_refused_and_filed(house: House) -> None:
    operator = await granted(house)
    with pytest.raises(UnknownAgentError):
        await house.agent(agent="stranger", plugin="helper")
    (request,) = (await operator.call("requests"))["requests"]
    assert (request["kind"], request["agent"], request["plugin"]) == ("agent", "stranger", "helper")
    assert request["pid"] == os.getpid()


async def test_what_is_not_granted_and_what_does_not_exist_look_the_same(house: House) -> None:
    operator = await granted(house, TOKEN=VALUE, SECRET=b"another's")
    await operator.call("revoke", {"agent": "cobot", "secrets": ["SECRET"]})
    agent = await house.agent(secrets=("TOKEN", "SECRET", "NOWHERE"))
    with pytest.raises(NotGrantedError) as other:
        await agent.call("get_secret", {"name": "SECRET"})
    with pytest.raises(NotGrantedError) as nobodys:
        await agent.call("get_secret", {"name": "NOWHERE"})
    assert other.value.to_wire() == nobodys.value.to_wire()


async def test_a_revocation_acts_on_open_connections(house: House) -> None:
    operator = await granted(house)
    agent = await house.agent()
    assert (await agent.call("get_secret", {"name": "TOKEN"}))[1] == VALUE
    await operator.call("revoke", {"agent": "cobot"})
    with pytest.raises(NotGrantedError):
        await agent.call("get_secret", {"name": "TOKEN"})


async def test_locked_and_waiting(house: House, mock_clock: trio.testing.MockClock) -> None:
    house.patience = math.inf
    operator = await granted(house)
    agent = await house.agent()
    await operator.call("lock")
    await agent.notified("locked")
    with pytest.raises(LockedError):
        await agent.call("get_secret", {"name": "TOKEN"})
    patient = await agent.ask("get_secret", {"name": "TOKEN", "wait": 5})
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(5)
    response, _ = await agent.answer()
    assert (response.id, type(response.error)) == (patient, LockedError)

    waiting = await agent.ask("get_secret", {"name": "TOKEN", "wait": 3600})
    with pytest.raises(LockedError):  # the one that waits does not hold up another
        await agent.call("get_secret", {"name": "TOKEN"})
    await operator.call("unlock", {}, PASSPHRASE)
    response, value = await agent.answer()
    assert (response.id, value) == (waiting, VALUE)
    await agent.notified("unlocked")


async def test_a_connection_may_have_only_so_many_waiting(house: House) -> None:
    operator = await granted(house)
    agent = await house.agent()
    await operator.call("lock")
    for _ in range(limits.MAX_OPEN_REQUESTS):
        await agent.ask("get_secret", {"name": "TOKEN", "wait": 60})
    with pytest.raises(BusyError):
        await agent.call("get_secret", {"name": "TOKEN", "wait": 60})
    await operator.call("unlock", {}, PASSPHRASE)
    for _ in range(limits.MAX_OPEN_REQUESTS):
        assert (await agent.answer())[1] == VALUE


async def test_notifications_of_grants_and_rotations(house: House) -> None:
    operator = await granted(house, TOKEN=VALUE)
    agent = await house.agent(secrets=("TOKEN", "LATER"))
    await house.put(operator, LATER=b"later")
    (request,) = (await operator.call("requests"))["requests"]
    assert request["names"] == ["LATER"]
    await operator.call("approve", {"ids": [request["id"]]})
    assert (await agent.notified("granted")).params == {"name": "LATER"}
    assert (await agent.call("get_secret", {"name": "LATER"}))[1] == b"later"
    await house.put(operator, LATER=b"newer", TOKEN=b"x", UNRELATED=b"y")
    rotated = {(await agent.notified("rotated")).params["name"] for _ in range(2)}
    assert rotated == {"LATER", "TOKEN"}


@pytest.mark.parametrize("event", ["policy", "rotated"])
async def test_an_event_costs_little_for_what_is_not_granted(house: House, event: str) -> None:
    """All are told at once, and meanwhile nobody is served: so a call for each name would be too many."""
    await granted(house)
    names = tuple(f"MISSING_{number}" for number in range(limits.MAX_DECLARED))
    peers = [await house.agent(secrets=names) for _ in range(4)]
    assert len(house.core.requests.pending()) == limits.MAX_REQUESTS_PER_AGENT
    house.core.vault.policy = replace(house.core.vault.policy)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    house.server.agents.tell(event, {"names": frozenset(names)})
    sys.setprofile(None)
    assert 0 < calls < len(peers) * limits.MAX_DECLARED


async def test_grants_and_requests_of_a_plugin(house: House) -> None:
    await granted(house)
    agent = await house.agent(secrets=("TOKEN", "OTHER"))
    assert await agent.call("grants") == {"granted": ["TOKEN"], "waiting": ["OTHER"]}
    assert await agent.call("request", {"name": "TOKEN"}) == {"granted": True, "id": None}
    asked = await agent.call("request", {"name": "THIRD", "reason": "to post"})
    assert asked["granted"] is False
    assert isinstance(asked["id"], int)


async def test_a_caller_that_cannot_be_let_in_does_not_end_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(process: Process) -> Process:
        raise OSError(errno.ENOSPC, "fs.epoll.max_user_watches is reached")

    def odd(process: Process) -> Process:
        raise RuntimeError("odd")

    async with open_house(tmp_path, Settings(max_connections_per_uid=2)) as house:
        await granted(house)
        for fail in (full, odd) * 2:  # they are not counted: these are more than a uid may have
            monkeypatch.setattr(house.core.bindings.processes, "join", fail)
            unlucky = await house.connect(house.core.places.agent_socket)
            told = await unlucky.closed()
            assert isinstance(told, BusyError) == (fail is full)
            assert told is None or "descriptors" in told.message
        monkeypatch.undo()
        assert (await (await house.agent()).call("get_secret", {"name": "TOKEN"}))[1] == VALUE


async def test_many_connections_of_one_uid(tmp_path: Path) -> None:
    async with open_house(tmp_path, Settings(max_connections_per_uid=3)) as house:
        operator = await house.init()
        peers = [await house.operator(proven=False) for _ in range(2)]
        one_more = await house.connect(house.core.places.operator_socket)
        assert isinstance(await one_more.closed(), BusyError)
        peers[0].close()
        await trio.testing.wait_all_tasks_blocked()
        assert (await (await house.operator(proven=False)).call("status"))["state"] == "unlocked"
        assert (await operator.call("status"))["state"] == "unlocked"


async def test_a_connection_that_has_ended_leaves_nothing_to_the_garbage_collector(house: House) -> None:
    await granted(house)
    agent = await house.agent()
    await agent.call("get_secret", {"name": "TOKEN"})
    connection = weakref.ref(next(iter(house.server.agents)))
    gc.disable()
    try:
        agent.close()
        await trio.testing.wait_all_tasks_blocked()
        assert connection() is None
    finally:
        gc.enable()


async def test_who_waits_to_be_let_in_counts_as_a_connection(tmp_path: Path) -> None:
    async with open_house(tmp_path, Settings(max_connections_per_uid=4)) as house:
        await house.init()
        crowd = [await house.connect(house.core.places.agent_socket) for _ in range(4)]
        assert isinstance(await crowd[-1].closed(), BusyError)
        assert len(house.server.agents) == 3


class FullEpoll:
    """Watches those that it watches, and nobody else."""

    def __init__(self, real: select.epoll) -> None:
        self.poll, self.modify = real.poll, real.modify

    def register(self, number: int, events: int) -> None:
        raise OSError(errno.ENOSPC, "fs.epoll.max_user_watches is reached")


async def test_a_connection_that_cannot_be_watched_ends_alone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await granted(house)
    polite = await house.agent()
    agents = house.server.agents
    monkeypatch.setattr(agents, "_epoll", FullEpoll(agents._epoll))  # pyright: ignore[reportPrivateUsage]
    assert await (await house.connect(house.core.places.agent_socket)).closed() is None
    assert len(agents) == 1
    assert (await polite.call("get_secret", {"name": "TOKEN"}))[1] == VALUE
    monkeypatch.undo()


async def test_a_peer_that_does_not_read_is_disconnected_and_holds_no_arena(
    house: House, mock_clock: trio.testing.MockClock
) -> None:
    house.patience = math.inf
    big = b"x" * limits.MAX_VALUE
    await granted(house, TOKEN=big)
    polite = await house.agent()
    assert (await polite.call("get_secret", {"name": "TOKEN"}))[1] == big
    before = await idle_arena(house)  # the value that was asked for stays open, once
    deaf = await house.agent()
    request = pack_request(1, "get_secret", {"name": "TOKEN"})
    deaf.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    house.nursery.start_soon(deaf.send, request * 200)
    assert await idle_arena(house) == before
    assert (await polite.call("get_secret", {"name": "TOKEN"}))[1] == big
    assert len(house.server.agents) == 2
    mock_clock.jump(limits.SEND_TIMEOUT)
    await trio.testing.wait_all_tasks_blocked()
    assert len(house.server.agents) == 1


async def test_a_slow_reader_gets_all_of_it(house: House) -> None:
    big = bytes(range(33, 123)) * 360
    await granted(house, TOKEN=big)
    agent = await house.agent()
    await agent.send(pack_request(1, "get_secret", {"name": "TOKEN"}) * 50)
    await trio.testing.wait_all_tasks_blocked()
    for _ in range(50):
        assert (await agent.answer())[1] == big


async def half_served(house: House) -> tuple[Peer, Peer]:
    """Return the operator's connection, and that of an agent that was sent a part of what it asked for."""
    operator = await granted(house, TOKEN=b"x" * limits.MAX_VALUE, OTHER=VALUE)
    agent = await house.agent(secrets=("TOKEN", "OTHER"))
    await agent.send(pack_request(1, "get_secret", {"name": "TOKEN"}) * 20)
    await trio.testing.wait_all_tasks_blocked()
    return operator, agent


async def values_until_the_end(agent: Peer) -> int:
    """Return how many whole values still come."""
    came = 0
    while True:
        try:
            came += (await agent.answer())[1] is not None
        except (EOFError, ConnectionResetError):
            return came


async def test_a_peer_that_does_not_read_does_not_disturb_a_lock(house: House) -> None:
    operator, deaf = await half_served(house)
    other = await house.agent("weather")
    assert await operator.call("lock") == {}
    await other.notified("locked")
    entries = (await operator.call("audit"))["entries"]
    assert entries[-1]["action"] == "lock"
    assert await values_until_the_end(deaf) < 20


@pytest.mark.parametrize("change", ["rm", "revoke", "agent_rm"])
async def test_what_was_taken_back_is_not_sent_on(house: House, change: str) -> None:
    operator, slow = await half_served(house)
    await operator.call(change, {"name": "TOKEN"} if change == "rm" else {"agent": "cobot"})
    await house.put(operator, OTHER=b"newer")
    assert (await operator.call("status"))["state"] == "unlocked"
    size = 20 * limits.MAX_VALUE
    kernel = slow.sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    assert await values_until_the_end(slow) * limits.MAX_VALUE <= 2 * kernel < size


async def test_a_connection_that_cannot_be_told_keeps_nobody_from_being_told(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = await granted(house)
    peers = [await house.agent(), await house.agent("weather")]
    broken = next(iter(house.server.agents))

    notify = AgentConnection.notify

    def fail(self: AgentConnection, event: str, detail: dict[str, object]) -> None:
        if self is broken:
            raise RuntimeError(event)
        notify(self, event, detail)

    monkeypatch.setattr(AgentConnection, "notify", fail)
    assert await operator.call("lock") == {}
    told = 0
    for peer in peers:
        try:
            await peer.notified("locked")
            told += 1
        except EOFError:
            pass
    assert told == 1


async def test_a_flood_of_notifications_to_a_peer_that_does_not_read(house: House) -> None:
    operator = await granted(house)
    deaf = await house.agent()
    assert len(house.server.agents) == 1
    deaf.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for _ in range(20 * MAX_QUEUED):
        house.server.agents.tell("rotated", {"names": frozenset({"TOKEN"})})
    await trio.testing.wait_all_tasks_blocked()
    assert not house.server.agents
    assert (await operator.call("status"))["state"] == "unlocked"


async def test_an_agents_own_socket(house: House) -> None:
    operator = await granted(house)
    made = await operator.call("agent_set", {"agent": "boxed", "socket": True})
    assert made["boundary"] == "sandbox"
    path = Path(made["mount"]) / "agent.sock"
    await operator.call("grant", {"agent": "boxed", "plugin": "telegram", "secrets": ["TOKEN"]})
    peer = await house.connect(path)
    hello = {"protocol": 1, "plugin": "telegram", "secrets": ["TOKEN"]}
    assert (await peer.call("hello", hello))["agent"] == "boxed"
    assert (await peer.call("get_secret", {"name": "TOKEN"}))[1] == VALUE
    common = await house.connect(house.core.places.agent_socket)
    with pytest.raises(UnknownAgentError):
        await common.call("hello", {**hello, "agent": "boxed"})
    other = await house.connect(path)
    with pytest.raises(UnknownAgentError):
        await other.call("hello", {**hello, "agent": "cobot"})
    await operator.call("agent_rm", {"agent": "boxed"})
    await trio.testing.wait_all_tasks_blocked()
    assert not path.exists()
    with pytest.raises(NotGrantedError):
        await peer.call("get_secret", {"name": "TOKEN"})


async def test_who_stands_in_line_when_its_socket_goes_is_refused(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = await granted(house)
    made = await operator.call("agent_set", {"agent": "boxed", "socket": True})
    vault, look = house.core.vault, arrivals.Arrivals.look

    def and_it_goes(self: arrivals.Arrivals) -> None:
        look(self)
        assert self.line.waiting
        vault.policy = vault.policy.without_agent("boxed")  # as when the operator removes it
        for listener in vault.listeners:
            listener("policy", {})

    monkeypatch.setattr(arrivals.Arrivals, "look", and_it_goes)
    late = await house.connect(Path(made["mount"]) / "agent.sock")
    assert isinstance(await late.closed(), UnknownAgentError)
    assert len(house.server.agents) == 0
    monkeypatch.undo()
    assert (await (await house.agent()).call("get_secret", {"name": "TOKEN"}))[1] == VALUE


@pytest.mark.parametrize(("moment", "first"), [(0, True), (MOMENT, True), (60, False)])
async def test_others_have_their_turn_beside_an_agent_that_asks_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: float, first: bool
) -> None:
    if not first:  # nor is it to take a pause of this machine for the end
        monkeypatch.setattr("avault_daemon.serving.agents._LEAST_WAIT", 0.5)
    async with open_house(tmp_path, moment=moment) as house:
        operator = await granted(house)
        agent = await house.agent()
        asked = 0

        def ask() -> None:
            nonlocal asked
            with socket.socket(fileno=os.dup(agent.sock.fileno())) as sock:
                sock.setblocking(True)
                while asked < 3000:
                    sock.send(pack_request(7, "get_secret", {"name": "TOKEN"}))
                    assert sock.recv(4096).endswith(VALUE)
                    asked += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, ask)
            while not asked:
                await trio.lowlevel.checkpoint()
            await operator.call("status")
            assert (asked < 3000) is first
