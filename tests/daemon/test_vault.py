"""The vault in use: secrets, versions, agents, slots, and what a restart finds of them."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from avault_daemon.callers.policy import Agent, Selectors
from avault_daemon.vault import Vault
from avault_protocol import (
    LOCKED,
    UNINITIALIZED,
    UNLOCKED,
    AvaultError,
    BadRequestError,
    BusyError,
    LockedError,
    NotFoundError,
    TooLargeError,
    UninitializedError,
    WrongPassphraseError,
    limits,
)
from support.vaults import CHEAP, Place, make_vault, value_of

COBOT = Agent("cobot", Selectors(uids=[1001])).with_grants("telegram", ["TOKEN"])


class House:
    """A vault, and the place it is in."""

    def __init__(self, place: Place, vault: Vault) -> None:
        self.place = place
        self.vault = vault
        self.heard: list[tuple[str, dict[str, object]]] = []
        vault.listeners.append(lambda event, detail: self.heard.append((event, detail)))

    async def reopened(self) -> Vault:
        """Restart the daemon and unlock."""
        self.vault.close()
        self.vault = self.place.vault()
        self.vault.open()
        await self.place.unlock(self.vault)
        return self.vault

    async def now_and_after_a_restart(self) -> AsyncGenerator[Vault]:
        yield self.vault
        yield await self.reopened()

    def raw(self) -> bytes:
        return self.place.file.read_bytes()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncGenerator[House]:
    place, vault = await make_vault(tmp_path)
    house = House(place, vault)
    yield house
    house.vault.close()
    assert place.arena.in_use == 0, "something was not given back to the arena"


# --- secrets ------------------------------------------------------------------------------------------------------


async def test_what_was_put_is_there_after_a_restart(house: House) -> None:
    assert await house.place.put(house.vault, TOKEN="one", EMOJI="schlüssel 🔑") == [
        ("TOKEN", 1),
        ("EMOJI", 1),
    ]
    async for vault in house.now_and_after_a_restart():
        assert (value_of(vault, "TOKEN"), value_of(vault, "EMOJI")) == ("one", "schlüssel 🔑")
        assert [info.name for info in await vault.secrets()] == ["EMOJI", "TOKEN"]
        assert (vault.count, vault.has("TOKEN"), vault.has("OTHER")) == (2, True, False)


async def test_metadata_is_what_was_declared(house: House) -> None:
    house.place.clock.now += 60
    await house.place.put(house.vault, BLOB=b"AAEC", TEXT="x")
    value = house.vault.value("BLOB")
    assert (value.name, value.version, value.encoding) == ("BLOB", 1, "base64")
    assert (value.size, bytes(value.view)) == (4, b"AAEC")
    assert "AAEC" not in repr(value)
    assert house.vault.value("BLOB") is value
    house.vault.lock()
    assert not value.kept
    with pytest.raises(ValueError, match="released memoryview"):
        assert value.view


async def test_the_file_shows_neither_names_nor_values(house: House) -> None:
    await house.place.put(house.vault, MY_TOKEN="sesame-open-wide")
    for clear in (b"MY_TOKEN", b"sesame", b"MY_TOKEN".hex().encode()):
        assert clear not in house.raw()


async def test_three_earlier_versions_stay_and_older_ones_are_gone_from_the_file(house: House) -> None:
    sizes: list[int] = []
    for number in range(1, 8):
        house.place.clock.now += 1
        assert await house.place.put(house.vault, TOKEN=f"value {number}") == [("TOKEN", number)]
        sizes.append(house.raw().count(b"\n"))
    assert sizes == [4, 6, 8, 10, 6, 6, 6]  # slot and commit; then a line and a commit each; then compacted
    async for vault in house.now_and_after_a_restart():
        assert [info.version for info in vault.history("TOKEN")] == [7, 6, 5, 4]
        assert [value_of(vault, "TOKEN", version) for version in (7, 4)] == ["value 7", "value 4"]
        with pytest.raises(NotFoundError, match="version 3"):
            vault.value("TOKEN", 3)


async def test_restore_makes_an_earlier_version_the_newest(house: House) -> None:
    await house.place.put(house.vault, TOKEN=b"b25l")
    await house.place.put(house.vault, TOKEN="two")
    assert await house.vault.restore("TOKEN", 1) == 3
    value = house.vault.value("TOKEN")
    assert (value.version, value.encoding, bytes(value.view)) == (3, "base64", b"b25l")
    with pytest.raises(NotFoundError):
        await house.vault.restore("TOKEN", 9)
    with pytest.raises(NotFoundError):
        await house.vault.restore("OTHER", 1)


async def test_rm_leaves_nothing_in_the_file(house: House) -> None:
    await house.place.put(house.vault, TOKEN="one", OTHER="two")
    await house.place.put(house.vault, TOKEN="three")
    before = house.raw()
    d = house.vault._need().blind("TOKEN").encode()  # pyright: ignore[reportPrivateUsage]
    assert before.count(d) == 2
    await house.vault.rm("TOKEN")
    assert d not in house.raw()
    assert {path.name for path in house.place.home.iterdir()} == {"vault.lock", "vault.jsonl"}
    async for vault in house.now_and_after_a_restart():
        assert [info.name for info in await vault.secrets()] == ["OTHER"]
        with pytest.raises(NotFoundError):
            vault.value("TOKEN")
    with pytest.raises(NotFoundError):
        await house.vault.rm("TOKEN")
    assert await house.place.put(house.vault, TOKEN="anew") == [("TOKEN", 1)]


async def test_existing_names_are_refused_by_name_unless_they_may_be_replaced(house: House) -> None:
    await house.place.put(house.vault, A="1", B="2")
    with pytest.raises(BadRequestError, match="already there: A, B"):
        await house.place.put(house.vault, False, A="3", B="4", C="5")
    assert house.vault.count == 2
    await house.place.put(house.vault, False, C="5")


async def test_values_are_told_apart_from_their_metadata(house: House) -> None:
    """A value may look like anything, also like what stands before it."""
    await house.place.put(house.vault, A="first")
    [info] = await house.vault.secrets()
    tricky = info.header().decode() * 2 + "\n"
    await house.place.put(house.vault, A=tricky, B="\n", C="\0")
    assert [value_of(house.vault, name) for name in "ABC"] == [tricky, "\n", "\0"]


@pytest.mark.parametrize("raw", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"abc\xe2\x82", b"\xf4\x90\x80\x80"])
async def test_what_is_not_utf_8_is_refused_by_name(house: House, raw: bytes) -> None:
    with house.place.secret(raw) as slot, pytest.raises(BadRequestError, match="A is not UTF-8"):
        await house.vault.put([("A", "text", slot.view)], replace=True)


async def test_the_largest_value(house: House) -> None:
    largest = "x" * limits.MAX_VALUE
    await house.place.put(house.vault, A=largest)
    assert value_of(house.vault, "A") == largest


async def test_the_most_secrets_at_once(house: House) -> None:
    most = {f"S{number}": "v" for number in range(limits.MAX_ITEMS)}
    await house.place.put(house.vault, **most)
    assert (house.vault.count, house.vault.generation) == (limits.MAX_ITEMS, 2)


async def test_rotated_is_told_of_new_versions_only(house: House) -> None:
    await house.place.put(house.vault, A="1", B="1")
    house.heard.clear()
    await house.place.put(house.vault, A="2", B="2", C="1")
    await house.vault.restore("A", 1)
    assert house.heard == [
        ("counted", {}),
        ("rotated", {"names": {"A", "B"}}),
        ("rotated", {"names": {"A"}}),
    ]


async def test_counted_is_told_when_there_are_more_or_fewer_secrets(house: House) -> None:
    await house.place.put(house.vault, A="1", B="1")
    assert house.heard == [("counted", {})]
    await house.place.put(house.vault, A="2")
    assert house.heard == [("counted", {}), ("rotated", {"names": {"A"}})]
    await house.vault.rm("A")
    assert house.heard[2:] == [("counted", {})]


async def test_times_rise_when_the_clock_goes_back(house: House) -> None:
    await house.place.put(house.vault, A="1")
    house.place.clock.now -= 1_000_000
    await house.place.put(house.vault, A="2")
    newest, older = house.vault.history("A")
    assert newest.created == older.created + 1
    await house.reopened()


# --- agents -------------------------------------------------------------------------------------------------------


async def test_grants_are_known_while_unlocked_and_selectors_always(house: House) -> None:
    await house.vault.put_agent(COBOT)
    assert house.vault.policy.agents == {"cobot": COBOT}
    assert house.heard == [("policy", {})]
    house.vault.lock()
    assert house.vault.policy.agents == {"cobot": COBOT.locked()}
    vault = await house.reopened()
    assert vault.policy.agents == {"cobot": COBOT}
    assert b"telegram" not in house.raw()
    assert b"1001" in house.raw()


async def test_an_agent_is_replaced_and_removed(house: House) -> None:
    await house.vault.put_agent(COBOT)
    changed = COBOT.without_grants("telegram").with_instances(3)
    await house.vault.put_agent(changed)
    assert house.vault.policy.agents == {"cobot": changed}
    await house.vault.remove_agent("cobot")
    assert b"agent/cobot" not in house.raw()
    assert (await house.reopened()).policy.agents == {}
    with pytest.raises(NotFoundError):
        await house.vault.remove_agent("cobot")


async def test_a_snapshot_once_taken_stays_as_it_is(house: House) -> None:
    await house.vault.put_agent(COBOT)
    snapshot = house.vault.policy
    await house.vault.remove_agent("cobot")
    assert snapshot.agents == {"cobot": COBOT}


async def test_what_counts_no_more_is_compacted_in_the_end(house: House) -> None:
    lines: list[int] = []
    for number in range(1030):
        await house.vault.put_agent(COBOT.with_instances(1 + number % 9))
        lines.append(house.raw().count(b"\n"))
    assert max(lines) < 2 * 1030
    assert lines[-1] < 30
    assert (await house.reopened()).policy.agents["cobot"].instances == 1 + 1029 % 9


# --- slots --------------------------------------------------------------------------------------------------------


async def add(house: House, passphrase: str) -> str:
    with house.place.secret(passphrase) as slot:
        return await house.vault.add_passphrase(slot, CHEAP)


async def test_each_passphrase_opens_its_slot(house: House) -> None:
    assert await add(house, "second passphrase") == "passphrase-2"
    assert await add(house, "third passphrase") == "passphrase-3"
    assert [slot.id for slot in house.vault.slots()] == ["passphrase", "passphrase-2", "passphrase-3"]
    assert {slot.log_n for slot in house.vault.slots()} == {CHEAP}
    house.vault.lock()
    assert await house.place.unlock(house.vault, "third passphrase") == "passphrase-3"
    house.vault.lock()
    with pytest.raises(WrongPassphraseError):
        await house.place.unlock(house.vault, "third passphrase", "passphrase-2")
    assert await house.place.unlock(house.vault, "second passphrase", "passphrase-2") == "passphrase-2"


async def test_a_removed_slot_is_gone_and_its_id_free(house: House) -> None:
    await add(house, "second passphrase")
    await house.vault.remove_slot("passphrase")
    assert b'"slot/passphrase"' not in house.raw()
    with pytest.raises(WrongPassphraseError):
        await house.reopened()
    assert await house.place.unlock(house.vault, "second passphrase") == "passphrase-2"
    assert await add(house, "another passphrase") == "passphrase"


async def test_the_last_passphrase_slot_stays(house: House) -> None:
    with pytest.raises(BadRequestError, match="last passphrase"):
        await house.vault.remove_slot("passphrase")
    with pytest.raises(NotFoundError):
        await house.vault.remove_slot("passphrase-2")


async def test_a_changed_passphrase_replaces_the_old_one_in_the_file(house: House) -> None:
    old = house.raw().splitlines()[0]
    with house.place.secret("a new passphrase") as slot:
        await house.vault.change_passphrase("passphrase", slot, CHEAP)
    assert old not in house.raw()
    house.vault.lock()
    with pytest.raises(WrongPassphraseError):
        await house.place.unlock(house.vault)
    await house.place.unlock(house.vault, "a new passphrase")
    with house.place.secret("a new passphrase") as slot, pytest.raises(NotFoundError):
        await house.vault.change_passphrase("passphrase-2", slot, CHEAP)


@pytest.mark.parametrize("bad", ["1234567", "ßßßßßßß", b"1234567\xff", "x" * (limits.MAX_PASSPHRASE + 1)])
async def test_bad_new_passphrases_are_refused_everywhere(house: House, bad: str | bytes) -> None:
    error = TooLargeError if len(bad) > limits.MAX_PASSPHRASE else BadRequestError
    with house.place.secret(bad) as slot:
        for attempt in (
            lambda: house.vault.add_passphrase(slot, CHEAP),
            lambda: house.vault.change_passphrase("passphrase", slot, CHEAP),
            lambda: house.vault.rekey(slot, CHEAP, "passphrase"),
            lambda: house.vault.export(-1, slot, CHEAP),
        ):
            with pytest.raises(error, match="passphrase"):
                await attempt()


@pytest.mark.parametrize("log_n", [0, 23])
async def test_costs_out_of_bounds_are_refused(house: House, log_n: int) -> None:
    with house.place.secret("long enough") as slot, pytest.raises(BadRequestError, match="log_n"):
        await house.vault.add_passphrase(slot, log_n)


# --- states -------------------------------------------------------------------------------------------------------


async def attempt_all(house: House) -> dict[str, type[Exception] | None]:
    """Try everything that needs the vault unlocked; return what each attempt came to."""
    vault, place = house.vault, house.place
    outcomes: dict[str, type[Exception] | None] = {}
    with place.secret("another passphrase") as slot:
        attempts: dict[str, Callable[[], object]] = {
            "has": lambda: vault.has("A"),
            "value": lambda: vault.value("A"),
            "secrets": vault.secrets,
            "history": lambda: vault.history("A"),
            "sign": lambda: vault.sign(bytes(32)),
            "put": lambda: place.put(vault, A="x"),
            "rm": lambda: vault.rm("A"),
            "restore": lambda: vault.restore("A", 1),
            "put_agent": lambda: vault.put_agent(COBOT),
            "remove_agent": lambda: vault.remove_agent("cobot"),
            "add_passphrase": lambda: vault.add_passphrase(slot, CHEAP),
            "remove_slot": lambda: vault.remove_slot("passphrase"),
            "change_passphrase": lambda: vault.change_passphrase("passphrase", slot, CHEAP),
            "rekey": lambda: vault.rekey(slot, CHEAP, "passphrase"),
            "export": lambda: vault.export(-1, slot, CHEAP),
        }
        for name, attempt in attempts.items():
            try:
                made = attempt()
                if inspect.isawaitable(made):
                    await made
                outcomes[name] = None
            except AvaultError as error:
                outcomes[name] = type(error)
    return outcomes


async def test_a_locked_vault_gives_nothing(house: House) -> None:
    await house.place.put(house.vault, A="x")
    house.vault.lock()
    raw = house.raw()
    assert set((await attempt_all(house)).values()) == {LockedError}
    assert house.raw() == raw
    assert (house.vault.state, house.vault.count, house.place.arena.mapped) == (LOCKED, 1, False)


async def test_without_a_vault_there_is_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with place.opened() as vault:
        assert (vault.state, vault.public, vault.generation, vault.slots()) == (UNINITIALIZED, None, 0, [])
        assert set((await attempt_all(House(place, vault))).values()) == {UninitializedError}
        with pytest.raises(UninitializedError):
            await place.unlock(vault)
        vault.lock()
        assert vault.state == UNINITIALIZED


async def test_there_is_one_vault(house: House) -> None:
    with pytest.raises(BadRequestError, match="already"):
        await house.place.init(house.vault)
    house.vault.lock()
    with pytest.raises(BadRequestError, match="already"):
        await house.place.init(house.vault)


async def test_a_second_daemon_is_refused(house: House) -> None:
    with pytest.raises(BusyError, match="another avaultd"):
        house.place.vault().open()
    assert house.vault.state == UNLOCKED


async def test_directories_and_files_are_for_their_owner_alone(house: House) -> None:
    for path in (house.place.home, house.place.state_dir):
        assert path.stat().st_mode & 0o777 == 0o700
    for path in (*house.place.home.iterdir(), *house.place.state_dir.iterdir()):
        assert path.stat().st_mode & 0o777 == 0o600


async def test_writers_take_turns(house: House) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(partial(house.place.put, house.vault, **{f"S{number}": str(number)}))
            nursery.start_soon(house.vault.put_agent, COBOT.with_instances(1 + number))
    vault = await house.reopened()
    assert [value_of(vault, f"S{number}") for number in range(20)] == [str(number) for number in range(20)]
    assert vault.generation == 41


async def test_a_caller_that_goes_away_leaves_a_whole_write_behind(house: House) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(house.place.put, house.vault, A="1"))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert value_of(house.vault, "A") == "1"
    assert (await house.reopened()).generation == 2
