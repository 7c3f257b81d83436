"""An operator's desk at a daemon that comes and goes, the model of what the daemon holds, and the record at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from hypothesis.stateful import RuleBasedStateMachine

from avault_daemon.audit.refusals import PER_UID
from avault_protocol import AvaultError
from support.house import PASSPHRASE, Peer

from .loop import Loop
from .stranger import Stranger

MEMORY = Path("/dev/shm")


@dataclass
class Plugin:
    """A plugin's connection, and what the model knows of it."""

    peer: Peer
    agent: str
    plugin: str
    declared: set[str]
    foreign: bool
    """Whether the stranger is at the other end."""


@dataclass
class State:
    """What a vault holds: versions of each secret, and of each agent what is granted to each plugin."""

    secrets: dict[str, list[tuple[int, bytes]]] = field(default_factory=dict[str, list[tuple[int, bytes]]])
    grants: dict[str, dict[str, set[str]]] = field(default_factory=dict[str, dict[str, set[str]]])
    passphrase: bytes = PASSPHRASE


Line = tuple[str, str, str | None, str | None, str | None, int | None]
"""Of the record: action, decision, agent, plugin, secret, version."""


class Desk(RuleBasedStateMachine):
    """What the rules of `DaemonModel` go by."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(
            tempfile.mkdtemp(prefix="avault-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None)
        )
        self.loop = Loop()
        self.lives = 0
        self.state = State()
        self.locked = False
        self.plugins: list[Plugin] = []
        self.stranger: Stranger | None = None
        self.holders: dict[tuple[str, str], bool] = {}
        """Of each plugin that a live process holds, whether that is the stranger."""
        self.served: list[Line] = []
        """What must be on record as allowed, in this order."""
        self.refused: set[tuple[str, str, str, str]] = set()
        """Who was refused what, and why; of a kind the record has one line, and counts the others."""

    @property
    def folder(self) -> Path:
        return self.root / str(self.lives)

    def start(self) -> None:
        self.house, self.stop = self.loop.start(self.folder)
        self.plugins = []
        self.desk = self.loop.do(lambda: self.house.operator(proven=False))

    # --- asking -------------------------------------------------------------------------------------------------

    def ask(
        self,
        peer: Peer,
        method: str,
        params: Mapping[str, object] | None = None,
        value: bytes | None = None,
        fds: tuple[int, ...] = (),
    ) -> Any:
        """Return what is answered, or the code of the error."""
        try:
            return self.loop.do(lambda: peer.call(method, params, value, fds))
        except AvaultError as error:
            return error.code

    def connect(self, *, foreign: bool) -> Peer:
        """Connect as an agent: ourselves, or as the stranger."""
        path = self.house.core.places.agent_socket
        if not foreign:
            return self.loop.do(lambda: self.house.connect(path))
        self.stranger = self.stranger or Stranger()
        peer = Peer(trio.socket.from_stdlib_socket(self.stranger.connect(path)))
        self.house.peers.append(peer)
        return peer

    def hang_up(self, peer: Peer) -> None:
        async def close() -> None:
            peer.close()

        self.loop.do(close)

    def call(
        self,
        method: str,
        params: Mapping[str, object] | None = None,
        value: bytes | None = None,
        fds: tuple[int, ...] = (),
    ) -> Any:
        """Ask at the operator's desk."""
        return self.ask(self.desk, method, params, value, fds)

    def change(
        self,
        method: str,
        params: Mapping[str, object],
        value: bytes | None = None,
        *,
        refusal: str | None = None,
        on_record: list[Line] | None = None,
        fds: tuple[int, ...] = (),
    ) -> Any:
        """Ask for what needs proof; return the answer, or None where it is refused as it must be."""
        expected = "locked" if self.locked else refusal
        if not self.locked:
            self.served += [(method, "allowed", None, None, None, None)] if on_record is None else on_record
        answer = self.call(method, params, value, fds)
        if expected is not None:
            assert answer == expected
            return None
        assert not isinstance(answer, str), answer
        return answer

    def known(self, name: str) -> bool:
        """Whether the record may show *name*: it is there, or granted."""
        granted = any(name in names for plugins in self.state.grants.values() for names in plugins.values())
        return name in self.state.secrets or granted

    def about(
        self, method: str, name: str, agent: str | None = None, plugin: str | None = None
    ) -> list[Line]:
        return [(method, "allowed", agent, plugin, name if self.known(name) else None, None)]

    def readers(self, name: str) -> list[str]:
        grants = self.state.grants.items()
        return sorted(
            f"{agent}/{plugin}"
            for agent, plugins in grants
            for plugin, names in plugins.items()
            if name in names
        )

    # --- the record at the end ----------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if hasattr(self, "desk"):
                self.check_record()
        finally:
            if hasattr(self, "stop"):
                self.stop()
            if self.stranger is not None:
                self.stranger.close()
            self.loop.close()
            shutil.rmtree(self.root)

    def check_record(self) -> None:
        entries = self.entries()
        of = [
            tuple(entry[key] for key in ("action", "decision", "agent", "plugin", "secret", "version"))
            for entry in entries
        ]
        assert [line for line in of if line[1] == "allowed"] == self.served
        refused = {
            (entry["agent"], entry["plugin"], entry["secret"], entry["reason"])
            for entry in entries
            if entry["action"] == "get_secret" and entry["decision"] == "refused"
        }
        assert refused <= self.refused
        if sum(entry["decision"] == "refused" for entry in entries) < PER_UID:  # else some were only counted
            assert refused == self.refused
        assert self.call("audit_verify")["ok"] is True

    def entries(self) -> list[dict[str, Any]]:
        """Return the whole record."""
        entries: list[dict[str, Any]] = []
        more = True
        while more:
            params: Mapping[str, object] = {"after": entries[-1]["n"]} if entries else {"after": 0}
            answer = self.call("audit", params)
            entries, more = entries + answer["entries"], answer["more"]
        return entries
