"""Locking by itself: what the settings may say, idle time, and logind on a real bus."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, strategies as st

from avault_daemon import lock_on
from avault_daemon.clock import boottime
from avault_daemon.lock_on import MAX_IDLE, LockOn, logind as ours
from avault_daemon.settings import Settings, parse as parse_settings
from avault_protocol import BadRequestError, NotGrantedError
from support import login
from support.house import PASSPHRASE, House, Peer, open_house
from support.waiting import WITHIN, till

NOT_ONE = "an entry is not suspend, screen-lock or idle:DURATION, up to idle:30d"
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


# --- what may be said -------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 10**7),
    st.sampled_from("smhd"),
    st.permutations(["suspend", "screen-lock"]),
    st.integers(0, 2),
)
def test_any_order_means_the_same(number: int, unit: str, events: list[str], count: int) -> None:
    texts = [*events[:count], f"idle:{number}{unit}"]
    span = number * UNITS[unit]
    if span > MAX_IDLE:
        with pytest.raises(BadRequestError):
            lock_on.parse(texts)
    else:
        chosen = LockOn("suspend" in texts, "screen-lock" in texts, span)
        assert lock_on.parse(texts) == lock_on.parse(texts[::-1]) == chosen


@given(st.one_of(st.text(max_size=12), st.from_regex(r"idle:[0-9]{0,9}[a-z]?", fullmatch=True)))
def test_any_text_is_a_span_or_refused_and_not_repeated(text: str) -> None:
    try:
        span = lock_on.seconds(text)
    except BadRequestError as error:
        message = error.message
    else:
        message, text = NOT_ONE, f"idle:{span}s"
        assert 0 < lock_on.seconds(text) == span <= MAX_IDLE
    assert message == NOT_ONE


@pytest.mark.parametrize("text", ["idle:30d", "idle:720h", "idle:43200m", "idle:2592000s"])
def test_the_longest_span_is_thirty_days(text: str) -> None:
    assert lock_on.seconds(text) == MAX_IDLE
    number, unit = int(text[5:-1]), text[-1]
    with pytest.raises(BadRequestError):
        lock_on.seconds(f"idle:{number + 1}{unit}")


@pytest.mark.parametrize(
    "text",
    [
        "idle:0s",
        "idle:08h",
        "idle:8",
        "idle:h",
        "idle:8 h",
        "idle:-8h",
        "idle:8H",
        "idle:٣h",
        "Suspend",
        "idle:8h\n",
    ],
)
def test_what_is_nearly_right_is_refused(text: str) -> None:
    with pytest.raises(BadRequestError):
        lock_on.parse([text])


def test_settings_name_what_is_wrong() -> None:
    assert parse_settings(b'lock_on = ["suspend", "idle:8h"]', "f").lock_on == ("suspend", "idle:8h")
    for line, message in (
        ('["sleep"]', "f: lock_on: an entry is not suspend, "),
        ('["idle:1h", "idle:2h"]', "f: lock_on: there is more than one idle:DURATION"),
        ('["suspend", "suspend"]', "f: lock_on is a list, not a list of up to 3 texts, each once"),
        ('"suspend"', "f: lock_on is some text, not a list"),
        ('["suspend", "screen-lock", "idle:1h", "x"]', "f: lock_on is a list, not a list of up to 3 texts"),
    ):
        with pytest.raises(BadRequestError) as caught:
            parse_settings(f"lock_on = {line}".encode(), "f")
        assert caught.value.message.startswith(message)


def test_only_what_logind_knows_needs_a_bus() -> None:
    assert [one.needs_bus for one in (LockOn(True), LockOn(False, True), LockOn(idle=5), LockOn())] == [
        True,
        True,
        False,
        False,
    ]


# --- idle -------------------------------------------------------------------------------------------------------------


@dataclass
class Idle:
    """A daemon whose clock is turned by hand, with a secret in its vault that an agent may read."""

    house: House
    operator: Peer
    clock: trio.testing.MockClock
    folder: Path

    async def passes(self, seconds: float) -> bool:
        """Let time pass; report whether the vault is unlocked then."""
        self.clock.jump(seconds)
        await trio.testing.wait_all_tasks_blocked(0.01)
        return self.house.core.vault.unlocked


@asynccontextmanager
async def idle(folder: Path, clock: trio.testing.MockClock, *events: str) -> AsyncGenerator[Idle]:
    async with open_house(folder, Settings(lock_on=events)) as house:
        locker, gate = house.core.locker, house.core.gate
        locker._clock = gate._clock = trio.current_time  # pyright: ignore[reportPrivateUsage]
        gate.used_at = trio.current_time()
        house.patience = float("inf")
        operator = await house.init()
        await house.put(operator, TOKEN=b"one")
        await operator.call(
            "grant", {"agent": "cobot", "plugin": "telegram", "secrets": ["TOKEN"], "uids": [os.getuid()]}
        )
        yield Idle(house, operator, clock, folder)


def lock_lines(folder: Path) -> list[dict[str, object]]:
    lines = (json.loads(line) for line in (folder / "state/audit.jsonl").read_bytes().splitlines())
    return [line for line in lines if line["action"] == "lock"]


async def test_it_locks_after_so_long_without_a_use(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with idle(tmp_path, mock_clock, "idle:1h") as there:
        assert await there.passes(3599)
        assert not await there.passes(1.01)
        [line] = lock_lines(tmp_path)
        assert (line["decision"], line["reason"]) == ("note", "idle for 3600 s")


async def test_a_secret_that_is_read_puts_it_off_and_a_refusal_does_not(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with idle(tmp_path, mock_clock, "idle:1h") as there:
        agent = await there.house.agent(secrets=("TOKEN", "OTHER"))
        for _ in range(3):
            assert await there.passes(3500)
            await agent.call("get_secret", {"name": "TOKEN"})
        assert await there.passes(3500)
        with pytest.raises(NotGrantedError):
            await agent.call("get_secret", {"name": "OTHER"})
        assert not await there.passes(101)


async def test_a_look_at_the_status_does_not_put_it_off_and_an_unlock_does(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with idle(tmp_path, mock_clock, "idle:10m") as there:
        assert await there.passes(590)
        await there.operator.call("status")
        assert not await there.passes(11)
        await there.passes(10_000)
        await there.operator.call("unlock", {}, PASSPHRASE)
        assert await there.passes(590)
        assert not await there.passes(11)
        assert len(lock_lines(tmp_path)) == 2


async def test_by_default_it_never_locks(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    async with idle(tmp_path, mock_clock) as there:
        assert await there.passes(100 * 86400)
        assert (await there.operator.call("status"))["lock_on"] == []


def test_the_clock_goes_on() -> None:
    before = boottime()
    assert boottime() >= before > 0


# --- logind -----------------------------------------------------------------------------------------------------------


@dataclass
class Room:
    """A daemon that listens to a logind."""

    house: House
    operator: Peer
    logind: login.Logind
    folder: Path

    async def locks(self) -> None:
        await till(lambda: self.house.core.vault.locked)

    async def unlock(self) -> None:
        await self.operator.call("unlock", {}, PASSPHRASE)

    async def warnings(self) -> list[str]:
        return list((await self.operator.call("status"))["warnings"])

    async def warned(self, of: str) -> None:
        await till(lambda: of in (self.house.core.locker.problem or ""))
        assert any(of in warning for warning in await self.warnings())

    def reason(self) -> str:
        return str(lock_lines(self.folder)[-1]["reason"])


@asynccontextmanager
async def room(
    folder: Path, *events: str, denies: bool = False, service: str = "user"
) -> AsyncGenerator[Room]:
    with login.bus(folder) as address:
        async with login.logind(address) as there:
            there.denies = denies
            bus = ours.connect({"DBUS_SYSTEM_BUS_ADDRESS": address})
            async with open_house(
                folder, Settings(lock_on=events or ("suspend", "screen-lock")), bus=bus, service=service
            ) as house:
                operator = await house.init()
                if not events or "suspend" in events:
                    with trio.fail_after(WITHIN):
                        await there.taken.wait()
                yield Room(house, operator, there, folder)


async def test_the_machine_sleeps_when_the_vault_is_wiped(tmp_path: Path) -> None:
    async with room(tmp_path) as there:
        assert (await there.operator.call("status"))["lock_on"] == ["suspend", "screen-lock"]
        assert await there.warnings() == []
        for _ in range(2):
            await there.logind.sleep(going=True)
            with trio.fail_after(WITHIN):
                await there.logind.released()
            assert there.house.core.vault.locked  # already, as the delay is given up
            assert there.reason() == "suspend"
            there.logind.taken = trio.Event()
            await there.logind.sleep(going=False)
            with trio.fail_after(WITHIN):
                await there.logind.taken.wait()
            await there.unlock()


async def test_a_locked_screen_of_ones_own_locks_it_and_no_other_does(tmp_path: Path) -> None:
    mine, other = "/org/freedesktop/login1/session/c1", "/org/freedesktop/login1/session/c2"
    async with room(tmp_path) as there:
        there.logind.sessions = {mine: os.getuid(), other: os.getuid() + 1}
        await there.logind.lock_session(other)
        await there.logind.hint(other, locked=True)
        await there.logind.hint(mine, locked=False)
        await there.logind.sleep(going=False)  # what is heard is heard in order, and this shows in the delay
        for lock in (there.logind.lock_session(mine), there.logind.hint(mine, locked=True)):
            assert there.house.core.vault.unlocked
            await lock
            await there.locks()
            assert there.reason() == "screen-lock"
            await there.unlock()


async def test_a_session_that_is_over_is_nobodys(tmp_path: Path) -> None:
    async with room(tmp_path) as there:
        await there.logind.lock_session("/org/freedesktop/login1/session/gone")
        with trio.fail_after(WITHIN):
            await there.logind.told.wait()
        await trio.testing.wait_all_tasks_blocked(0.2)
        assert there.house.core.vault.unlocked


async def test_a_session_of_which_nothing_is_to_be_learned_counts(tmp_path: Path) -> None:
    async with room(tmp_path) as there:
        there.logind.of_sessions = "org.freedesktop.DBus.Error.NoReply"
        await there.logind.lock_session("/org/freedesktop/login1/session/c1")
        await there.locks()
        assert there.reason() == "screen-lock"


async def test_only_what_was_asked_for_locks(tmp_path: Path) -> None:
    mine = "/org/freedesktop/login1/session/c1"
    async with room(tmp_path, "screen-lock") as there:
        there.logind.sessions = {mine: os.getuid()}
        await there.logind.sleep(going=True)
        await there.logind.lock_session(mine)
        await there.locks()
        assert there.reason() == "screen-lock"
        assert there.logind.delays == []


async def test_a_signal_of_anybody_else_is_not_heard(tmp_path: Path) -> None:
    async with room(tmp_path, "suspend") as there:
        address = f"unix:path={tmp_path / 'bus'}"
        async with login.logind_impostor(address) as impostor:
            await impostor.sleep(going=True)
        await trio.testing.wait_all_tasks_blocked(0.2)
        assert there.house.core.vault.unlocked
        await there.logind.sleep(going=True)
        await there.locks()


async def test_a_long_message_of_anybody_costs_next_to_nothing(tmp_path: Path) -> None:
    """This one, of many small values, would take ten seconds to take apart."""
    bus = f"unix:path={tmp_path / 'bus'}"
    async with room(tmp_path, "suspend") as there, login.logind_impostor(bus) as impostor:
        before = time.thread_time()
        await impostor.flood(20_000_000, there.logind)
        await there.logind.sleep(going=True)
        await there.locks()
        assert time.thread_time() - before < 2


async def test_a_signal_that_calls_itself_an_answer_is_none(tmp_path: Path) -> None:
    mine, theirs = socket.socketpair()
    async with open_house(tmp_path, Settings(lock_on=("suspend",)), bus=mine) as house:
        await house.init()
        async with login.deceitful_bus(theirs) as there:
            with trio.fail_after(WITHIN):
                await there.taken.wait()
            await there.sleep(there.IMPOSTOR)
            await trio.testing.wait_all_tasks_blocked(0.2)
            assert house.core.vault.unlocked
            await there.sleep(there.LOGIND)
            await till(lambda: house.core.vault.locked)
            assert lock_lines(tmp_path)[-1]["reason"] == "suspend"


async def test_a_delay_that_is_denied_is_told_and_sleep_still_locks(tmp_path: Path) -> None:
    async with room(tmp_path, denies=True) as there:
        await there.warned("may sleep before the vault is wiped")
        await there.logind.sleep(going=True)
        await there.locks()


async def test_logind_may_come_and_go(tmp_path: Path) -> None:
    async with room(tmp_path) as there:
        await there.logind.connection.aclose()
        await there.warned("logind does not run")
        async with login.logind(f"unix:path={tmp_path / 'bus'}") as again:
            with trio.fail_after(WITHIN):
                await again.taken.wait()
            await till(lambda: there.house.core.locker.problem is None)
            await again.sleep(going=True)
            await there.locks()


async def test_a_bus_that_goes_away_locks_it_once_and_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with room(tmp_path) as there:
        os.kill(int((tmp_path / "bus.pid").read_text()), signal.SIGKILL)
        await there.locks()
        assert there.reason() == "the system bus is gone"
        [warning] = await there.warnings()
        assert warning.endswith(
            "lock_on does not work for suspend and screen-lock until avaultd is restarted"
        )
        assert warning in caplog.text
        await there.unlock()
        assert there.house.core.vault.unlocked


async def test_a_bus_that_talks_nonsense_takes_nobody_down(tmp_path: Path) -> None:
    mine, theirs = socket.socketpair()
    async with open_house(tmp_path, Settings(lock_on=("suspend",)), bus=mine) as house:
        operator = await house.init()
        theirs.sendall(b"l\x04\x01\x01" + struct.pack("<II", 0xFFFFFFFF, 1) + b"\xff" * 64)
        theirs.close()
        await till(lambda: house.core.vault.locked)
        [warning] = (await operator.call("status"))["warnings"]
        assert "lock_on does not work for suspend until" in warning


async def test_without_a_bus_that_is_told(tmp_path: Path) -> None:
    with pytest.raises(ours.BusGoneError, match="no system bus: no such file or directory") as caught:
        ours.connect({"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={tmp_path}/none"})
    async with open_house(tmp_path, Settings(lock_on=("suspend",)), bus=str(caught.value)) as house:
        operator = await house.init()
        [warning] = (await operator.call("status"))["warnings"]
        assert warning.startswith(
            "no system bus: no such file or directory; lock_on does not work for suspend"
        )


@pytest.mark.parametrize("address", ["", "nonsense", "tcp:host=127.0.0.1"])
def test_an_address_that_leads_to_no_bus_is_told(address: str) -> None:
    with pytest.raises(ours.BusGoneError, match="no system bus: "):
        ours.connect({"DBUS_SYSTEM_BUS_ADDRESS": address})


def test_a_bus_that_is_silent_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "bus"))
        silent.listen()
        with pytest.raises(ours.BusGoneError, match="no system bus: "):
            ours.connect({"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={tmp_path}/bus"}, patience=0.05)


async def test_whose_screens_count() -> None:
    mine = ours.concerns("user")
    assert await mine(os.getuid())
    assert not await mine(os.getuid() + 1)
    operators = ours.concerns("system")
    assert not await operators(64_999)
