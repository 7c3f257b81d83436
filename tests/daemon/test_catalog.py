"""What counts of a file's lines."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from hypothesis import given, strategies as st

from avault_daemon.callers.policy import Agent, Selectors
from avault_daemon.memory.arena import Arena
from avault_daemon.slots import passphrase
from avault_daemon.vault.catalog import HISTORY, Catalog, agent_content
from avault_daemon.vault.eventlog import Line
from avault_daemon.vault.seal import Seal
from avault_protocol import CorruptError, LockedError
from support.logs import SECRET
from support.vaults import CHEAP, put_in

ARENA = Arena(1 << 17)
COBOT = Agent("cobot", Selectors(uids=[1001])).with_grants("telegram", ["TOKEN"])


@pytest.fixture(scope="module")
def seal() -> Generator[Seal]:
    seal = Seal.generate(ARENA)
    yield seal
    seal.close()


def line(d: str, created_at: int = 1, content: str = "") -> Line:
    return Line(d, created_at, f'{{"content":"{content}'.encode() + b" " * 140, len('{"content":"'))


def slot_content(seal: Seal) -> str:
    with put_in(ARENA, "a passphrase") as given:
        return passphrase.make(ARENA, seal.key, given, CHEAP)


def signed(seal: Seal, d: str, content: str) -> Line:
    return Line.of(seal.line(d, 1, content))


@given(times=st.lists(st.just(1), max_size=9))
def test_a_secret_keeps_its_newest_versions(times: list[int]) -> None:
    catalog = Catalog()
    fell = [catalog.add(line(SECRET, number)) for number, _ in enumerate(times)]
    assert fell == [number > HISTORY for number, _ in enumerate(times)]
    kept = [version.created_at for version in catalog.secrets.get(SECRET, ())]
    assert kept == list(range(len(times)))[-1 - HISTORY :]
    assert catalog.superseded == 0


def test_a_slot_and_an_agent_keep_one_line() -> None:
    catalog = Catalog()
    for number in range(3):
        for d in ("slot/passphrase", "agent/cobot", "agent/passphrase"):
            assert not catalog.add(line(d, number))
    assert {name: kept.created_at for name, kept in catalog.agents.items()} == {"cobot": 2, "passphrase": 2}
    assert [kept.created_at for kept in catalog.slots.values()] == [2]
    assert catalog.superseded == 6
    assert [kept.d for kept in catalog.lines()] == ["slot/passphrase", "agent/cobot", "agent/passphrase"]


def test_a_copy_is_apart() -> None:
    catalog = Catalog()
    catalog.add(line(SECRET))
    copy = catalog.copy()
    copy.add(line(SECRET, 2))
    copy.add(line("agent/cobot"))
    assert (len(catalog.secrets[SECRET]), len(catalog.agents)) == (1, 0)


def test_overgrown_on_both_sides_of_the_limit() -> None:
    catalog = Catalog()
    for number in range(1026):
        assert not catalog.overgrown
        catalog.add(line("agent/cobot", number))
    catalog.add(line("agent/cobot", 2000))
    assert catalog.overgrown


def test_ids_for_another_passphrase(seal: Seal) -> None:
    catalog = Catalog()
    free: list[str] = []
    for _ in range(3):
        free.append(catalog.free_slot("passphrase"))
        catalog.add(signed(seal, f"slot/{free[-1]}", slot_content(seal)))
    assert free == ["passphrase", "passphrase-2", "passphrase-3"]
    del catalog.slots["passphrase-2"]
    assert catalog.free_slot("passphrase") == "passphrase-2"


def test_a_slot_of_a_later_version_is_kept_and_opened_by_no_passphrase(seal: Seal) -> None:
    catalog = Catalog.of(
        [signed(seal, "slot/phone", '{"type":"nip46"}'), signed(seal, "slot/passphrase", slot_content(seal))]
    )
    assert [(slot.id, slot.type, slot.log_n) for slot in map(catalog.slot, catalog.slots)] == [
        ("phone", "nip46", None),
        ("passphrase", "passphrase", CHEAP),
    ]
    assert catalog.passphrase_slots() == ["passphrase"]


def test_agents_are_known_by_their_selectors_until_there_is_a_key(seal: Seal) -> None:
    catalog = Catalog.of([signed(seal, "agent/cobot", agent_content(COBOT, seal))])
    assert catalog.policy(None).agents == {"cobot": COBOT.locked()}
    assert catalog.policy(seal).agents == {"cobot": COBOT}


def test_an_agent_whose_grants_are_not_known_is_not_stored(seal: Seal) -> None:
    with pytest.raises(LockedError):
        agent_content(COBOT.locked(), seal)


@pytest.mark.parametrize(
    ("d", "content"),
    [
        ("slot/passphrase", ""),
        ("slot/passphrase", "[]"),
        ("slot/passphrase", "{}"),
        ("slot/passphrase", '{"type":7}'),
        ("slot/passphrase", '{"type":"passphrase"}'),
        ("slot/passphrase", "[" * 5000),
        ("agent/cobot", ""),
        ("agent/cobot", "{}"),
        ("agent/cobot", '{"selectors":{"uids":[1],"units":[],"socket":false}}'),
        ("agent/cobot", '{"selectors":{"uids":[1],"units":[],"socket":false},"sealed":7}'),
        ("agent/cobot", '{"selectors":{"uids":[1],"units":[],"socket":false},"sealed":"","more":1}'),
        ("agent/cobot", '{"selectors":{"uids":[],"units":[],"socket":false},"sealed":""}'),
        ("agent/cobot", '{"selectors":7,"sealed":""}'),
    ],
)
def test_malformed_slots_and_agents_are_errors(seal: Seal, d: str, content: str) -> None:
    with pytest.raises(CorruptError):
        Catalog.of([signed(seal, d, content)])


def test_grants_that_another_key_sealed_are_an_error(seal: Seal) -> None:
    other = Seal.generate(ARENA)
    catalog = Catalog.of([signed(seal, "agent/cobot", agent_content(COBOT, other))])
    with pytest.raises(CorruptError, match="agent cobot: invalid MAC"):
        catalog.policy(seal)
    other.close()
