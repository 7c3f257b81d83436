"""What a vault holds after one commit: which lines still count, by what they are for.

A catalog is not changed once it is published: a transaction works on a copy. Secrets stay sealed here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import cast

from avault_protocol import CorruptError, NotFoundError

from ..callers.policy import Agent, Policy
from ..slots import passphrase
from .eventlog import Line
from .seal import Opened, Seal

HISTORY = 3
"""Versions of a secret that stay readable beside the newest."""
_SLACK = 1024
"""Superseded lines that a file may carry beyond as many as still count, before a write compacts it."""


@dataclass(frozen=True, slots=True)
class SlotInfo:
    """One way to unlock. *content*: what its line says."""

    id: str
    type: str
    content: str

    @property
    def log_n(self) -> int | None:
        """The cost of scrypt; None for slots of types without. `CorruptError` if the content is malformed."""
        return passphrase.log_n_of(self.content) if self.type in passphrase.KINDS else None


@dataclass(slots=True)
class Catalog:
    """The lines that count: of a slot and an agent the newest, of a secret (by `d`) also the earlier versions."""

    slots: dict[str, Line] = field(default_factory=dict[str, Line])
    agents: dict[str, Line] = field(default_factory=dict[str, Line])
    secrets: dict[str, tuple[Line, ...]] = field(default_factory=dict[str, tuple[Line, ...]])
    superseded: int = 0
    """Lines that were taken in and count no more."""

    @classmethod
    def of(cls, lines: Iterable[Line]) -> Catalog:
        """Return what a file of these lines holds; `CorruptError` if a slot or an agent is malformed."""
        catalog = cls()
        for line in lines:
            catalog.add(line)
        for slot in catalog.slots:
            _ = catalog.slot(slot).log_n
        catalog.policy(None)
        return catalog

    def copy(self) -> Catalog:
        """Return a catalog that can be changed without this one."""
        return Catalog(self.slots.copy(), self.agents.copy(), self.secrets.copy(), self.superseded)

    def add(self, line: Line) -> bool:
        """Take in a new line; report whether a version of a secret fell out of its history."""
        kind, _, name = line.d.rpartition("/")
        if kind:
            table = self.slots if kind == "slot" else self.agents
            self.superseded += name in table
            table[name] = line
            return False
        versions = (*self.secrets.get(line.d, ()), line)
        self.secrets[line.d] = versions[-1 - HISTORY :]
        return len(versions) > 1 + HISTORY

    def lines(self) -> Iterator[Line]:
        """Every line that counts, in the order of a compacted file."""
        yield from self.slots.values()
        yield from self.agents.values()
        for versions in self.secrets.values():
            yield from versions

    @property
    def overgrown(self) -> bool:
        """Whether the file carries so much that counts no more that it should be compacted."""
        return self.superseded > len(self.slots) + len(self.agents) + len(self.secrets) + _SLACK

    # --- secrets ------------------------------------------------------------------------------------------------

    def versions(self, seal: Seal, name: str) -> tuple[Line, ...]:
        """Return the lines of *name*, oldest first; `NotFoundError`."""
        found = self.secrets.get(seal.blind(name))
        if found is None:
            raise NotFoundError(f"there is no secret {name}")
        return found

    def open(self, seal: Seal, name: str, version: int | None = None) -> Opened:
        """Open the newest value of *name*, or an earlier one; the caller releases its slot. `NotFoundError`."""
        for line in reversed(self.versions(seal, name)):
            opened = seal.open_secret(line, name)
            if version is None or opened.info.version == version:
                return opened
            opened.slot.release()
        raise NotFoundError(f"version {version} of {name} is not there", hint=f"see: avault history {name}")

    # --- slots --------------------------------------------------------------------------------------------------

    def slot_line(self, slot: str) -> Line:
        """Return the line of a slot; `NotFoundError`."""
        if slot not in self.slots:
            raise NotFoundError(f"there is no slot {slot}", hint="see: avault slot list")
        return self.slots[slot]

    def slot(self, slot: str) -> SlotInfo:
        """Describe a slot; `CorruptError` if its line has no type."""
        content = self.slots[slot].text
        kind = _object(content, f"slot {slot}").get("type")
        if not isinstance(kind, str):
            raise CorruptError(f"slot {slot} has no type")
        return SlotInfo(slot, kind, content)

    def passphrase_slots(self, kind: passphrase.Kind = passphrase.TYPE) -> list[str]:
        """Return the ids of the slots that a passphrase opens, or one that the service manager has."""
        return [slot for slot in self.slots if self.slot(slot).type == kind]

    def free_slot(self, kind: str) -> str:
        """Return an id for another slot of this kind: "passphrase", "passphrase-2", …"""
        number = 1
        while (slot := kind if number == 1 else f"{kind}-{number}") in self.slots:
            number += 1
        return slot

    # --- agents -------------------------------------------------------------------------------------------------

    def policy(self, seal: Seal | None) -> Policy:
        """Return the policy, without grants unless there is a *seal* to open them; `CorruptError`."""
        return Policy({name: self._agent(name, line, seal) for name, line in self.agents.items()})

    def _agent(self, name: str, line: Line, seal: Seal | None) -> Agent:
        content = _object(line.text, f"agent {name}")
        sealed = content.get("sealed")
        if content.keys() != {"selectors", "sealed"} or not isinstance(sealed, str):
            raise CorruptError(f"agent {name} is no map of selectors and what is sealed")
        agent = Agent.from_public(name, content["selectors"])
        if seal is None:
            return agent
        try:
            return agent.unsealed(seal.open_bytes(sealed))
        except CorruptError as error:
            raise CorruptError(f"agent {name}: {error.message}") from None


def agent_content(agent: Agent, seal: Seal) -> str:
    """Return the content of an agent's line; `LockedError` if its grants are not known."""
    content = {"selectors": agent.to_public(), "sealed": seal.seal_bytes(agent.to_sealed())}
    return json.dumps(content, separators=(",", ":"))


def _object(content: str, what: str) -> dict[str, object]:
    try:
        value: object = json.loads(content)
    except (ValueError, RecursionError):
        raise CorruptError(f"{what} is no JSON") from None
    if not isinstance(value, dict):
        raise CorruptError(f"{what} is no JSON object")
    return cast("dict[str, object]", value)
