"""One transaction in the making: what it changes, and the bytes that say so. Works in a thread; nothing of it counts
before `LogFile` has written it.

The commit is signed last, when everything else is sealed and signed: a vault that was locked meanwhile has no key to
sign it with, so what was made with a wiped key is never written.
"""

from __future__ import annotations

from collections.abc import Iterable

from avault_protocol import BadRequestError, NotFoundError

from ..callers.policy import Agent
from ..slots.passphrase import is_utf8
from .catalog import Catalog, agent_content
from .eventlog import COMMIT, Chain, Head, Line, commit_content
from .logfile import LogFile
from .seal import Seal, SecretInfo


class Draft:
    """A change of *catalog*, signed by *seal*, that continues *chain*, at *now* (Unix seconds)."""

    def __init__(self, seal: Seal, catalog: Catalog, chain: Chain, now: int) -> None:
        self.seal = seal
        self.catalog = catalog.copy()
        self.compact = False
        self._chain = chain
        self._now = now
        self._added: list[Line] = []

    def put_secret(self, name: str, encoding: str, value: memoryview) -> SecretInfo:
        """Store *value* as the newest version of *name*; `BadRequestError` if it is not UTF-8."""
        if not is_utf8(value):
            raise BadRequestError(
                f"the value of {name} is not UTF-8", hint="declare it base64, and send it so"
            )
        d = self.seal.blind(name)
        created_at = self._chain.time_for(d, self._now)
        info = SecretInfo(name, self._newest_version(name, d) + 1, created_at, encoding)
        self.seal.remember(self._add(d, created_at, self.seal.seal_secret(info, value)), info)
        return info

    def _newest_version(self, name: str, d: str) -> int:
        versions = self.catalog.secrets.get(d)
        return self.seal.info(versions[-1]).version if versions else 0

    def refuse_existing(self, names: Iterable[str]) -> None:
        """Raise `BadRequestError` naming those of *names* that there are already."""
        existing = [name for name in names if self.seal.blind(name) in self.catalog.secrets]
        if existing:
            raise BadRequestError(
                f"already there: {', '.join(existing)}", hint="replace them, or leave them out"
            )

    def restore_secret(self, name: str, version: int) -> int:
        """Store the value of an earlier version as the newest; return its number. `NotFoundError`."""
        info, slot, _ = self.catalog.open(self.seal, name, version)
        with slot:
            return self.put_secret(name, info.encoding, slot.view).version

    def remove_secret(self, name: str) -> None:
        """Remove *name* with all its versions; `NotFoundError`."""
        d = self.seal.blind(name)
        if self.catalog.secrets.pop(d, None) is None:
            raise NotFoundError(f"there is no secret {name}")
        self.seal.forget(d)
        self.compact = True

    def put_agent(self, agent: Agent) -> None:
        """Store *agent*, in place of one of the same name."""
        self._put(f"agent/{agent.name}", agent_content(agent, self.seal))

    def remove_agent(self, name: str) -> None:
        """Remove an agent with its grants; `NotFoundError`."""
        if self.catalog.agents.pop(name, None) is None:
            raise NotFoundError(f"there is no agent {name}")
        self.compact = True

    def put_slot(self, slot: str, content: str) -> None:
        """Store a slot; what it replaces is gone from the file."""
        self.compact = self.compact or slot in self.catalog.slots
        self._put(f"slot/{slot}", content)

    def remove_slot(self, slot: str) -> None:
        """Remove a slot; `NotFoundError`, and `BadRequestError` if it is the last that a passphrase opens."""
        if slot not in self.catalog.slots:
            raise NotFoundError(f"there is no slot {slot}")
        if self.catalog.passphrase_slots() == [slot]:
            raise BadRequestError(
                f"{slot} is the last passphrase slot", hint="add another first: avault slot add passphrase"
            )
        del self.catalog.slots[slot]
        self.compact = True

    def _put(self, d: str, content: str) -> None:
        self._add(d, self._chain.time_for(d, self._now), content)

    def _add(self, d: str, created_at: int, content: str) -> Line:
        line = Line.of(self.seal.line(d, created_at, content))
        self._added.append(line)
        if self.catalog.add(line):
            self.compact = True
        return line

    def write(self, file: LogFile) -> Catalog:
        """Write it, durably; return the catalog that it leads to. `LockedError`, `StorageFailedError`."""
        if self.compact or self.catalog.overgrown or self._chain.head is None:
            return self.rewrite(file)
        body = b"".join(line.raw for line in self._added)
        file.append(body + self._commit(commit_content(self._chain.head, body)))
        return self.catalog

    def rewrite(self, file: LogFile) -> Catalog:
        """Write the whole file anew; return the catalog that it leads to. Errors as for `write`."""
        file.replace(self.whole(self._chain.head))
        self.catalog.superseded = 0
        return self.catalog

    def whole(self, compacted_from: Head | None) -> bytes:
        """Return a whole file of what counts after this change, in one transaction."""
        body = b"".join(line.raw for line in self.catalog.lines())
        return body + self._commit(commit_content(None, body, compacted_from=compacted_from))

    def _commit(self, content: str) -> bytes:
        return self.seal.line(COMMIT, self._chain.time_for(COMMIT, self._now), content)
