"""Whatever the operator does, in whatever order, a vault holds what a plain dictionary would."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from avault_daemon.callers.policy import Agent, Selectors
from avault_daemon.vault import Vault
from avault_daemon.vault.catalog import HISTORY
from avault_protocol import (
    LOCKED,
    UNLOCKED,
    AvaultError,
    BadRequestError,
    LockedError,
    NotFoundError,
    WrongPassphraseError,
)
from support.vaults import CHEAP, PASSPHRASE, Place, value_of

T = TypeVar("T")
NAMES = st.sampled_from(["A", "B", "TOKEN", "a.b-c"])
VALUES = st.text(min_size=1, max_size=40)
PASSPHRASES = st.sampled_from([PASSPHRASE, "second passphrase", "third passphrase"])


def agent(name: str, uid: int, plugin: str, names: set[str], instances: int) -> Agent:
    return Agent(name, Selectors(uids=[uid])).with_grants(plugin, names).with_instances(instances)


AGENTS = st.builds(
    agent,
    st.sampled_from(["cobot", "hermes"]),
    st.integers(1000, 1002),
    st.sampled_from(["telegram", "weather"]),
    st.sets(NAMES, min_size=1),
    st.integers(1, 3),
)


class VaultModel(RuleBasedStateMachine):
    """The vault, and beside it what should be in it."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp(prefix="avault-model-"))
        self.place = Place(self.path)
        self.secrets: dict[str, list[tuple[int, str]]] = {}
        self.agents: dict[str, Agent] = {}
        self.slots: dict[str, str] = {}
        self.locked = False
        self.vault: Vault

    def do(self, work: Callable[[], Awaitable[T]], refusal: type[AvaultError] | None = None) -> T | None:
        """Run *work*, which is answered by *refusal*, if any, and while locked by that."""
        expected = LockedError if self.locked else refusal

        async def run() -> T | None:
            if expected is None:
                return await work()
            with pytest.raises(expected):
                await work()
            return None

        return trio.run(run)

    def fresh(self) -> Vault:
        self.vault = self.place.vault()
        self.vault.open()
        return self.vault

    @initialize()
    def init(self) -> None:
        self.fresh()
        self.do(lambda: self.place.init(self.vault))
        self.slots = {"passphrase": PASSPHRASE}

    # --- secrets ------------------------------------------------------------------------------------------------

    @rule(
        values=st.dictionaries(NAMES, VALUES, min_size=1, max_size=3),
        replace=st.booleans(),
        passed=st.integers(-5, 5),
    )
    def put(self, values: dict[str, str], replace: bool, passed: int) -> None:
        self.place.clock.now += passed
        taken = not replace and not self.secrets.keys().isdisjoint(values)
        stored = self.do(
            lambda: self.place.put(self.vault, replace, **values), BadRequestError if taken else None
        )
        for name, version in stored or []:
            versions = [*self.secrets.get(name, []), (version, values[name])]
            assert version == 1 + (versions[-2][0] if len(versions) > 1 else 0)
            self.secrets[name] = versions[-1 - HISTORY :]

    @rule(name=NAMES)
    def rm(self, name: str) -> None:
        there = name in self.secrets
        self.do(lambda: self.vault.rm(name), None if there else NotFoundError)
        if not self.locked:
            self.secrets.pop(name, None)

    @rule(name=NAMES, version=st.integers(1, 9))
    def restore(self, name: str, version: int) -> None:
        old = dict(self.secrets.get(name, [])).get(version)
        there = old is not None
        made = self.do(lambda: self.vault.restore(name, version), None if there else NotFoundError)
        if made is not None and old is not None:
            self.secrets[name] = [*self.secrets[name], (made, old)][-1 - HISTORY :]

    # --- agents and slots ---------------------------------------------------------------------------------------

    @rule(agent=AGENTS)
    def put_agent(self, agent: Agent) -> None:
        self.do(lambda: self.vault.put_agent(agent))
        if not self.locked:
            self.agents[agent.name] = agent

    @rule(name=st.sampled_from(["cobot", "hermes"]))
    def remove_agent(self, name: str) -> None:
        there = name in self.agents
        self.do(lambda: self.vault.remove_agent(name), None if there else NotFoundError)
        if not self.locked:
            self.agents.pop(name, None)

    @rule(passphrase=PASSPHRASES)
    def add_passphrase(self, passphrase: str) -> None:
        with self.place.secret(passphrase) as given:
            slot = self.do(lambda: self.vault.add_passphrase(given, CHEAP))
        if slot is not None:
            assert slot not in self.slots
            self.slots[slot] = passphrase

    @rule(passphrase=PASSPHRASES, data=st.data())
    def change_passphrase(self, passphrase: str, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.slots)))
        with self.place.secret(passphrase) as given:
            self.do(lambda: self.vault.change_passphrase(slot, given, CHEAP))
        if not self.locked:
            self.slots[slot] = passphrase

    @rule(data=st.data())
    def remove_slot(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.slots)))
        last = len(self.slots) == 1
        self.do(lambda: self.vault.remove_slot(slot), BadRequestError if last else None)
        if not self.locked and not last:
            del self.slots[slot]

    @rule(passphrase=PASSPHRASES, data=st.data())
    def rekey(self, passphrase: str, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.slots)))
        with self.place.secret(passphrase) as given:
            dropped = self.do(lambda: self.vault.rekey(given, CHEAP, slot))
        if dropped is not None:
            assert set(dropped) == self.slots.keys() - {slot}
            self.slots = {slot: passphrase}

    @precondition(lambda self: not self.locked)
    @rule(passphrase=PASSPHRASES)
    def export_and_restore(self, passphrase: str) -> None:
        copy = self.path / "copy"
        with self.place.secret(passphrase) as given:
            with copy.open("wb") as file:
                self.do(lambda: self.vault.export(file.fileno(), given, CHEAP))
            with copy.open("rb") as file:
                self.do(lambda: self.vault.restore_vault(file.fileno(), given))
        self.slots = {"passphrase": passphrase}

    # --- states -------------------------------------------------------------------------------------------------

    @rule()
    def lock(self) -> None:
        self.vault.lock()
        self.locked = True

    @rule()
    def restart(self) -> None:
        self.vault.close()
        assert self.place.arena.in_use == 0
        self.fresh()
        self.locked = True

    @precondition(lambda self: self.locked)
    @rule(passphrase=PASSPHRASES)
    def unlock(self, passphrase: str) -> None:
        self.locked = False
        if passphrase in self.slots.values():
            slot = self.do(lambda: self.place.unlock(self.vault, passphrase))
            assert slot is not None
            assert self.slots[slot] == passphrase
        else:
            self.do(lambda: self.place.unlock(self.vault, passphrase), WrongPassphraseError)
            self.locked = True

    # --- what always holds --------------------------------------------------------------------------------------

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        vault = self.vault
        assert vault.state == (LOCKED if self.locked else UNLOCKED)
        assert {slot.id for slot in vault.slots()} == self.slots.keys()
        assert vault.count == len(self.secrets)
        seen = {name: agent.selectors for name, agent in vault.policy.agents.items()}
        assert seen == {name: agent.selectors for name, agent in self.agents.items()}
        if self.locked:
            assert self.place.arena.in_use == 0
            return
        assert vault.policy.agents == self.agents
        assert [info.name for info in trio.run(vault.secrets)] == sorted(self.secrets)
        for name, versions in self.secrets.items():
            found = [(info.version, value_of(vault, name, info.version)) for info in vault.history(name)]
            assert found == versions[::-1]

    def teardown(self) -> None:
        self.vault.close()
        shutil.rmtree(self.path)


TestVaultModel: Any = VaultModel.TestCase
TestVaultModel.settings = settings(deadline=None, max_examples=25, stateful_step_count=25)
