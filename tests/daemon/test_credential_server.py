"""Credentials over the socket: what comes, what is refused and how, and that nobody can harm anybody else."""

from __future__ import annotations

import math
import os
import socket
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from avault_daemon.settings import Settings
from avault_daemon.systemd import credential_server as module
from avault_daemon.systemd.credential_server import (
    LIMIT,
    MAX_OPEN,
    MAX_OPEN_PER_UNIT,
    MAX_SAID,
    REFUSAL_TIMEOUT,
    SAID_AGAIN,
    Refusals,
)
from avault_daemon.systemd.credentials import Wanted
from avault_protocol import BusyError, limits
from support.faults import file_size_limit
from support.fetching import Fetched, address, connect, fetch, read_all
from support.house import PASSPHRASE, House, Peer, open_house

VALUE = b"7250119083:AAF-a-token"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncGenerator[House]:
    async with open_house(tmp_path) as house:
        yield house


async def granted(house: House, *, encoding: str = "text", **secrets: bytes) -> Peer:
    """Make a vault with secrets, all of them granted to the units of this uid; return the operator's connection."""
    secrets = secrets or {"TOKEN": VALUE}
    operator = await house.init()
    items = [{"name": name, "size": len(value), "encoding": encoding} for name, value in secrets.items()]
    await operator.call("put", {"items": items}, b"".join(secrets.values()))
    grant = {"agent": "units", "plugin": "credentials", "secrets": [*secrets], "uids": [os.getuid()]}
    await operator.call("grant", grant)
    return operator


async def fetched(house: House, bound_to: bytes | None = None) -> Fetched:
    path = house.core.places.credentials_socket
    return await trio.to_thread.run_sync(fetch, path, address() if bound_to is None else bound_to)


async def lines(house: House, operator: Peer, action: str = "get_secret") -> list[dict[str, Any]]:
    found = (await operator.call("audit"))["entries"]
    return [line for line in found if line["action"] == action]


# --- what is given ------------------------------------------------------------------------------------------------


async def test_what_is_granted_comes_as_it_is_and_is_on_record(house: House) -> None:
    operator = await granted(house)
    assert await fetched(house) == Fetched(len(VALUE), VALUE)
    (line,) = await lines(house, operator)
    expected = {"decision": "allowed", "secret": "TOKEN", "version": 1, "agent": "units"}
    assert line.items() >= {**expected, "plugin": "credentials", "uid": os.getuid()}.items()


@pytest.mark.parametrize("value", [b"\0", b"\xff\xfe\n", bytes(range(256)), b"\n", b"x" * 24_000])
async def test_bytes_come_as_bytes(house: House, value: bytes) -> None:
    await granted(house, encoding="base64", TOKEN=b64encode(value))
    assert await fetched(house) == Fetched(len(value), value)
    # The vault's key, and nothing of what was open.
    in_use = house.core.arena.in_use
    await fetched(house)
    assert house.core.arena.in_use == in_use


async def test_the_largest_value_comes_whole_and_is_far_below_what_systemd_takes(house: House) -> None:
    value = b"v" * limits.MAX_VALUE
    assert limits.MAX_VALUE < LIMIT
    await granted(house, TOKEN=value)
    assert await fetched(house) == Fetched(len(value), value)


@pytest.mark.parametrize("value", [b"====", b"Zm9v!", b"Zm9v\n", b"Zg", "Zmü".encode()])
async def test_what_only_says_that_it_is_base64_is_refused(house: House, value: bytes) -> None:
    await granted(house, encoding="base64", TOKEN=value)
    assert (await fetched(house)).refused


async def test_a_new_version_is_what_the_next_start_gets(house: House) -> None:
    operator = await granted(house)
    await house.put(operator, TOKEN=b"rotated")
    assert (await fetched(house)).head == b"rotated"


async def test_the_value_is_given_only_when_it_is_on_record(house: House) -> None:
    await granted(house)
    record = house.core.places.state_dir / "audit.jsonl"
    with file_size_limit(record.stat().st_size + 10):
        got = await fetched(house)
    assert got.refused
    assert VALUE not in got.head


async def test_with_audit_sync_always_it_is_on_the_disk_first(tmp_path: Path) -> None:
    async with open_house(tmp_path, Settings(audit_sync="always")) as house:
        await granted(house)
        assert (await fetched(house)).head == VALUE


async def test_what_is_taken_back_during_a_sync_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_house(tmp_path, Settings(audit_sync="always")) as house:
        operator = await granted(house)
        settle, revoked = house.core.record.settle, trio.Event()

        async def slow() -> None:
            monkeypatch.setattr(house.core.record, "settle", settle)
            await operator.call("revoke", {"agent": "units"})
            revoked.set()

        monkeypatch.setattr(house.core.record, "settle", slow)
        assert (await fetched(house)).refused
        assert revoked.is_set()


# --- what is refused ------------------------------------------------------------------------------------------------


async def test_what_is_not_granted_is_refused_on_record_in_the_log_and_waits_for_the_operator(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    operator = await granted(house)
    got = await fetched(house, address(credential="OTHER"))
    assert got.refused
    assert b"avaultd refuses" in got.head
    (line,) = await lines(house, operator)
    expected = {"decision": "refused", "secret": "OTHER", "agent": "units", "reason": "not_granted"}
    assert line.items() >= expected.items()
    (request,) = (await operator.call("requests"))["requests"]
    assert request.items() >= {"agent": "units", "plugin": "credentials", "names": ["OTHER"]}.items()
    assert "credential OTHER of telegram.service" in caplog.text
    assert "avault grant units/credentials OTHER" in caplog.text


async def test_approving_an_unknown_caller_makes_the_agent(house: House) -> None:
    operator = await house.init()
    await house.put(operator, TOKEN=VALUE)
    assert (await fetched(house)).refused
    (request,) = (await operator.call("requests"))["requests"]
    assert request.items() >= {"agent": "telegram", "plugin": "credentials", "names": ["TOKEN"]}.items()
    await operator.call("approve", {"ids": [request["id"]]})
    assert (await fetched(house)).head == VALUE


@pytest.mark.parametrize("bound_to", [b"", b"\0nonsense", address(credential="1TOKEN")], ids=count())
async def test_who_does_not_speak_as_systemd_does_is_refused(house: House, bound_to: bytes) -> None:
    operator = await granted(house)
    assert (await fetched(house, bound_to + os.urandom(4).hex().encode() * (bound_to[:2] == b"\0n"))).refused
    (line,) = await lines(house, operator)
    assert (line["secret"], line["reason"]) == (None, "bad_request")


async def test_a_fault_of_ours_is_refused_too(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await granted(house)

    def broken(*_: object) -> None:
        raise RuntimeError(VALUE.decode())

    monkeypatch.setattr(module, "agent_of", broken)
    assert (await fetched(house)).refused
    assert "RuntimeError" in caplog.text
    assert VALUE.decode() not in caplog.text
    monkeypatch.undo()
    assert (await fetched(house)).head == VALUE


async def test_a_part_of_a_value_never_passes_for_the_whole(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await granted(house, TOKEN=b"v" * limits.MAX_VALUE)
    real = socket.socket.accept

    def narrow(self: socket.socket) -> tuple[socket.socket, Any]:
        sock, peer = real(self)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        return sock, peer

    monkeypatch.setattr(socket.socket, "accept", narrow)
    assert (await fetched(house)).refused
    assert "wmem_default" in caplog.text


async def test_who_speaks_instead_of_listening_harms_only_itself(house: House) -> None:
    operator = await granted(house)
    await operator.call("lock")
    with connect(house.core.places.credentials_socket, address()) as sock:
        sock.sendall(b"\xc1" * 4096)
        await operator.call("unlock", {}, PASSPHRASE)
        with pytest.raises(ConnectionResetError):
            await trio.to_thread.run_sync(read_all, sock)
    assert (await fetched(house)).head == VALUE


# --- locked ---------------------------------------------------------------------------------------------------------


async def test_who_comes_while_locked_waits_for_the_unlock(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    operator = await granted(house)
    await operator.call("lock")
    got: list[Fetched] = []

    async def wait() -> None:
        got.append(await fetched(house))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert not got
        await operator.call("unlock", {}, PASSPHRASE)
    assert got == [Fetched(len(VALUE), VALUE)] * 5


async def test_who_comes_before_there_is_a_vault_waits_too(house: House) -> None:
    with connect(house.core.places.credentials_socket, address()) as sock:
        await wait_all_tasks_blocked()
        await granted(house)
        # It was served at the first unlock, when nothing was granted.
        assert (await trio.to_thread.run_sync(read_all, sock)).refused


def heard(house: House, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return for what the bell is being rung from now on."""
    rung: list[str] = []

    def waiting(why: str) -> AbstractContextManager[None]:
        rung.append(why)
        return nullcontext()

    monkeypatch.setattr(house.core.bell, "waiting", waiting)
    return rung


async def test_who_waits_rings_the_phone_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    rung = heard(house, monkeypatch)
    operator = await granted(house)
    await operator.call("lock")
    with (
        connect(house.core.places.credentials_socket, address()) as one,
        connect(house.core.places.credentials_socket, address()) as two,
    ):
        await wait_all_tasks_blocked()
        assert rung == ["a unit's credential"]
        await operator.call("unlock", {}, PASSPHRASE)
        for sock in (one, two):
            assert (await trio.to_thread.run_sync(read_all, sock)).head == VALUE


async def test_nobody_rings_where_no_agent_could_fetch(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rung = heard(house, monkeypatch)
    operator = await house.init()
    await operator.call("lock")
    with connect(house.core.places.credentials_socket, address()):
        await wait_all_tasks_blocked()
        assert "a unit waits" in caplog.text
        assert rung == []


# --- the end of the daemon ------------------------------------------------------------------------------------------


async def test_a_daemon_that_ends_leaves_nobody_with_an_empty_secret(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        operator = await granted(house)
        await operator.call("lock")
        waiting = connect(house.core.places.credentials_socket, address())
        await wait_all_tasks_blocked()
    with waiting, pytest.raises(ConnectionResetError):
        waiting.recv(1)


async def test_who_is_being_served_then_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[Fetched] = []
    syncing = trio.Event()

    async def for_ever() -> None:
        syncing.set()
        await trio.sleep_forever()

    async def read(sock: socket.socket) -> None:
        with sock:
            got.append(await trio.to_thread.run_sync(read_all, sock))

    always = Settings(audit_sync="always")
    async with trio.open_nursery() as reader, open_house(tmp_path, always) as house:
        await granted(house)
        monkeypatch.setattr(house.core.record, "settle", for_ever)
        reader.start_soon(read, connect(house.core.places.credentials_socket, address()))
        await syncing.wait()
    assert got[0].refused


# --- many, and slow ones --------------------------------------------------------------------------------------------


async def test_who_never_reads_keeps_nobody_waiting(house: House, mock_clock: MockClock) -> None:
    house.patience = math.inf
    await granted(house)
    path = house.core.places.credentials_socket
    per_unit = range(2 * MAX_OPEN_PER_UNIT)
    stuck = [connect(path, address(f"bad{n % 4}.service", "OTHER")) for n in (*per_unit, *per_unit)]
    await wait_all_tasks_blocked()
    assert (await fetched(house)).head == VALUE
    mock_clock.jump(REFUSAL_TIMEOUT)
    await wait_all_tasks_blocked()
    for sock in stuck:
        with sock:
            assert 0 < read_all(sock).size <= LIMIT


async def test_a_unit_with_too_many_refusals_open_is_not_waited_for(
    house: House, mock_clock: MockClock
) -> None:
    house.patience = math.inf
    await granted(house)
    path = house.core.places.credentials_socket
    patient = [connect(path, address(credential="OTHER")) for _ in range(MAX_OPEN_PER_UNIT)]
    await wait_all_tasks_blocked()
    with connect(path, address(credential="OTHER")) as one_more:
        await wait_all_tasks_blocked()
        assert 0 < read_all(one_more).size <= LIMIT
    assert (await fetched(house, address("other.service", "OTHER"))).refused
    for sock in patient:
        with sock:
            assert (await trio.to_thread.run_sync(read_all, sock)).refused
    assert (await fetched(house, address(credential="OTHER"))).refused


async def test_beyond_so_many_connections_the_others_wait(house: House, mock_clock: MockClock) -> None:
    house.patience = math.inf
    await granted(house)
    path = house.core.places.credentials_socket
    stuck = [connect(path, address(f"bad{n}.service", "OTHER")) for n in range(MAX_OPEN)]
    await wait_all_tasks_blocked()
    with connect(path, address()) as sock:
        await wait_all_tasks_blocked()
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        mock_clock.jump(REFUSAL_TIMEOUT)
        await wait_all_tasks_blocked()
        assert sock.recv(100) == VALUE
    for other in stuck:
        other.close()


async def test_who_is_gone_before_the_answer_harms_nobody(house: House) -> None:
    operator = await granted(house)
    await operator.call("lock")
    for credential in ("TOKEN", "OTHER") * 10:
        connect(house.core.places.credentials_socket, address(credential=credential)).close()
    await operator.call("unlock", {}, PASSPHRASE)
    assert (await fetched(house)).head == VALUE


async def test_a_machine_at_its_limit_is_waited_for(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await granted(house)
    real, failures = socket.socket.accept, [OSError(24, "Too many open files")]

    def accept(self: socket.socket) -> tuple[socket.socket, Any]:
        if failures:
            raise failures.pop()
        return real(self)

    monkeypatch.setattr(socket.socket, "accept", accept)
    assert (await fetched(house)).head == VALUE
    assert "waiting" in caplog.text


async def test_no_room_for_a_pidfd_is_a_refusal(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await granted(house)

    def full(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(module, "identify", full)
    assert (await fetched(house)).refused


async def test_the_log_says_the_same_once_a_minute_and_only_so_much_of_one(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = Refusals()

    def say(unit: str, credential: str) -> int:
        caplog.clear()
        refusals.say((0, unit), Wanted(unit, credential), BusyError())
        return len(caplog.records)

    assert [say("a.service", "TOKEN") for _ in range(3)] == [1, 0, 0]
    assert sum(say("a.service", f"TOKEN{n}") for n in range(100)) == MAX_SAID - 1
    assert say("b.service", "TOKEN") == 1
    mock_clock.jump(SAID_AGAIN)
    assert [say("a.service", "TOKEN") for _ in range(3)] == [1, 0, 0]


def test_a_line_of_the_log_has_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    Refusals(clock=lambda: 0.0).say(
        (0, "a.service"), Wanted("a.service", "TOKEN"), BusyError("why", hint="do")
    )
    (line,) = caplog.records
    assert line.getMessage() == "refused: credential TOKEN of a.service: why; do"
    fields = {"avault_secret": "TOKEN", "avault_unit": "a.service", "avault_uid": 0, "avault_reason": "busy"}
    assert vars(line).items() >= fields.items()
