"""The whole daemon against a plain dictionary: real sockets, real files, whatever order the operator and plugins take.

What a plugin is answered is what the model says, to the code of the refusal; every value that was given out, every
refusal and every change is on record, in order, whatever became of the daemon in between.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from support.house import LOG_N, PASSPHRASE

from .desk import Desk, Line, Plugin

NAMES = ("A", "B", "TOKEN")
SECRETS = st.sampled_from(NAMES)
VALUES = st.binary(min_size=1, max_size=40).map(lambda data: data.hex().encode())
AGENTS = st.sampled_from(("cobot", "hermes"))
PLUGINS = st.sampled_from(("telegram", "weather"))
PASSPHRASES = st.sampled_from((PASSPHRASE, b"another passphrase", b"a third passphrase"))
MOSTLY = st.sampled_from((True, True, True, False))
HISTORY = 4
"""Versions that can be read: the newest and three before it."""


def copy_if_there(source: str, target: str) -> None:
    """Copy a file, unless the sync has just given it its name for good: then the one of that name is as new."""
    with suppress(FileNotFoundError):
        shutil.copy2(source, target)


class DaemonModel(Desk):
    """A daemon, and beside it what it should answer."""

    # --- its life -----------------------------------------------------------------------------------------------

    @initialize()
    def init(self) -> None:
        self.folder.mkdir()
        self.start()
        assert isinstance(self.call("init", {"log_n": LOG_N}, PASSPHRASE), dict)
        self.served.append(("init", "allowed", None, None, None, None))
        for name in NAMES:
            self.put(name, b"first", replace=False)
        for agent, plugin in (("cobot", "telegram"), ("hermes", "weather")):
            for name in NAMES[:2]:
                self.grant(agent, plugin, name)
            self.bind(agent, plugin, {*NAMES[1:]}, foreign=agent == "hermes")

    @rule(unlocked=MOSTLY)
    def restart(self, unlocked: bool) -> None:
        """End it in order; what is open is lost, what is stored is not."""
        self.stop()
        self.come_back(unlocked)

    @rule(unlocked=MOSTLY)
    def crash(self, unlocked: bool) -> None:
        """What is on the disk at this moment is all that the next one has."""
        before = self.folder
        self.lives += 1
        self.loop.do(partial(self.copy_from, before))
        self.stop()
        shutil.rmtree(before)
        self.come_back(unlocked)

    async def copy_from(self, before: Path) -> None:
        """Copy what survives. In the loop, so that nothing is written meanwhile but by a sync that is under way."""
        for part in ("home", "state"):
            shutil.copytree(before / part, self.folder / part, copy_function=copy_if_there)
        (self.folder / "run").mkdir(mode=0o700)
        shutil.copy(before / "run" / "bindings.jsonl", self.folder / "run")

    def come_back(self, unlocked: bool) -> None:
        """Start again, locked; the plugins that were there come again, behind somebody who wants to be them."""
        plugins = self.plugins
        self.start()
        self.locked = True
        for of in plugins:
            self.bind(of.agent, of.plugin, of.declared, not of.foreign)
            self.bind(of.agent, of.plugin, of.declared, of.foreign)
        if unlocked:
            self.unlock()

    @rule(unlocked=MOSTLY)
    def lock(self, unlocked: bool) -> None:
        """Lock it; for most of the walk what follows is about an unlocked vault."""
        assert self.call("lock") == {}
        if not self.locked:
            self.served.append(("lock", "allowed", None, None, None, None))
        self.locked = True
        for name in NAMES:
            self.get(name)
        if unlocked:
            self.unlock()

    @rule()
    def unlock(self) -> None:
        answer = self.call("unlock", {}, self.state.passphrase)
        assert answer["already"] is not self.locked
        if self.locked:
            self.served.append(("unlock", "allowed", None, None, None, None))
        else:
            assert isinstance(self.call("prove", {}, self.state.passphrase), dict)
        self.locked = False

    @rule(name=SECRETS)
    def unproven(self, name: str) -> None:
        """Nobody changes or sees anything without proof, locked or not."""
        desk = self.loop.do(lambda: self.house.operator(proven=False))
        expected = "locked" if self.locked else "proof_required"
        for method in ("reveal", "rm"):
            assert self.ask(desk, method, {"name": name}) == expected
        self.hang_up(desk)

    # --- secrets ------------------------------------------------------------------------------------------------

    @rule(name=SECRETS, value=VALUES, replace=st.sampled_from((True, True, False)))
    def put(self, name: str, value: bytes, replace: bool) -> None:
        taken = name in self.state.secrets and not replace
        items = [{"name": name, "size": len(value), "encoding": "text"}]
        line: Line = ("put", "allowed", None, None, name, None)
        refusal = "bad_request" if taken else None
        answer = self.change(
            "put", {"items": items, "replace": replace}, value, refusal=refusal, on_record=[line]
        )
        if answer is not None:
            self.store(name, value, answer["stored"][0]["version"])

    def store(self, name: str, value: bytes, version: int) -> None:
        versions = self.state.secrets.get(name, [])
        assert version == 1 + (versions[-1][0] if versions else 0)
        self.state.secrets[name] = [*versions, (version, value)][-HISTORY:]

    @rule(name=SECRETS)
    def rm(self, name: str) -> None:
        refusal = None if name in self.state.secrets else "not_found"
        if self.change("rm", {"name": name}, refusal=refusal, on_record=self.about("rm", name)) is not None:
            del self.state.secrets[name]
        self.get(name)

    @rule(name=SECRETS, version=st.integers(1, 6))
    def restore(self, name: str, version: int) -> None:
        old = dict(self.state.secrets.get(name, [])).get(version)
        refusal, line = None if old is not None else "not_found", self.about("restore", name)
        answer = self.change("restore", {"name": name, "version": version}, refusal=refusal, on_record=line)
        if answer is not None and old is not None:
            self.store(name, old, answer["version"])

    @rule(name=SECRETS)
    def reveal(self, name: str) -> None:
        there = self.state.secrets.get(name)
        line = self.about("reveal", name)
        answer = self.change("reveal", {"name": name}, refusal=None if there else "not_found", on_record=line)
        if answer is not None and there:
            assert (answer[0]["version"], answer[1]) == there[-1]

    # --- grants -------------------------------------------------------------------------------------------------

    @rule(agent=AGENTS, plugin=PLUGINS, name=SECRETS)
    def grant(self, agent: str, plugin: str, name: str) -> None:
        params = {"agent": agent, "plugin": plugin, "secrets": [name], "uids": [os.getuid()]}
        refusal = None if name in self.state.secrets else "not_found"
        line = self.about("grant", name, agent, plugin)
        if self.change("grant", params, refusal=refusal, on_record=line) is not None:
            self.state.grants.setdefault(agent, {}).setdefault(plugin, set()).add(name)

    @rule(data=st.data(), agent=AGENTS, plugin=PLUGINS, name=SECRETS)
    def revoke(self, data: st.DataObject, agent: str, plugin: str, name: str) -> None:
        """Take back what is granted, or now and then what is not; connections that are open notice at once."""
        granted = [(a, p, n) for a, plugins in self.state.grants.items() for p in plugins for n in plugins[p]]
        agent, plugin, name = data.draw(st.sampled_from([*sorted(granted), (agent, plugin, name)]))
        plugins = self.state.grants.get(agent, {})
        refusal = None if name in plugins.get(plugin, set()) else "not_found"
        params: dict[str, object] = {"agent": agent, "plugin": plugin, "secrets": [name]}
        line = self.about("revoke", name, agent, plugin)
        if self.change("revoke", params, refusal=refusal, on_record=line) is not None:
            plugins[plugin].discard(name)
            if not plugins[plugin]:
                del plugins[plugin]
        self.get(name)

    @rule(agent=AGENTS)
    def agent_rm(self, agent: str) -> None:
        refusal = None if agent in self.state.grants else "not_found"
        line: Line = ("agent_rm", "allowed", agent, None, None, None)
        if self.change("agent_rm", {"agent": agent}, refusal=refusal, on_record=[line]) is not None:
            del self.state.grants[agent]
        self.get("B")

    # --- plugins ------------------------------------------------------------------------------------------------

    @rule(agent=AGENTS, plugin=PLUGINS, declared=st.sets(SECRETS), foreign=st.booleans())
    def bind(self, agent: str, plugin: str, declared: set[str], foreign: bool) -> None:
        """Say hello, ourselves or as the stranger: whoever came first holds a plugin for as long as it lives."""
        peer = self.connect(foreign=foreign)
        params = {"protocol": 1, "plugin": plugin, "secrets": sorted(declared), "agent": agent}
        answer = self.ask(peer, "hello", params)
        known = agent in self.state.grants
        if not known or self.holders.get((agent, plugin), foreign) is not foreign:
            assert answer == ("already_bound" if known else "unknown_agent")
            self.hang_up(peer)
            return
        self.holders[agent, plugin] = foreign
        granted = self.state.grants[agent].get(plugin, set()) & declared
        assert answer["granted"] == (None if self.locked else sorted(granted))
        self.served.append(("hello", "allowed", agent, plugin, None, None))
        self.plugins.append(Plugin(peer, agent, plugin, declared, foreign))

    @precondition(lambda self: self.stranger is not None)
    @rule()
    def kill_the_stranger(self) -> None:
        """What it held may be had again, and its connections are nobody's."""
        if self.stranger is not None:
            self.stranger.close()
        self.stranger = None
        self.plugins = [of for of in self.plugins if not of.foreign]
        self.holders = {held: False for held, foreign in self.holders.items() if not foreign}

    @rule(name=SECRETS)
    def get(self, name: str) -> None:
        """What all of this is for: each plugin that is connected asks."""
        for of in self.plugins:
            answer = self.ask(of.peer, "get_secret", {"name": name})
            granted = self.state.grants.get(of.agent, {}).get(of.plugin, set())
            versions = self.state.secrets.get(name)
            if self.locked or versions is None or name not in of.declared & granted:
                expected = "locked" if self.locked else "not_granted"
                assert answer == expected
                self.refused.add((of.agent, of.plugin, name, expected))
                continue
            version, value = versions[-1]
            assert answer == ({"name": name, "version": version, "encoding": "text"}, value)
            self.served.append(("get_secret", "allowed", of.agent, of.plugin, name, version))

    # --- the whole ----------------------------------------------------------------------------------------------

    @rule(passphrase=PASSPHRASES)
    def rekey(self, passphrase: bytes) -> None:
        if self.change("rekey", {"log_n": LOG_N}, passphrase) is not None:
            self.state.passphrase = passphrase

    @rule(passphrase=PASSPHRASES)
    def change_passphrase(self, passphrase: bytes) -> None:
        if self.change("change_passphrase", {"log_n": LOG_N}, passphrase) is not None:
            self.state.passphrase = passphrase

    @rule(passphrase=PASSPHRASES)
    def export_and_restore_vault(self, passphrase: bytes) -> None:
        """A copy holds the same, under a passphrase of its own."""
        copy = self.root / "copy"
        with copy.open("wb") as file:
            answer = self.change("export", {"log_n": LOG_N}, passphrase, fds=(file.fileno(),))
        if answer is None:
            return
        with copy.open("rb") as file:
            self.change("restore_vault", {}, passphrase, fds=(file.fileno(),))
        self.state.passphrase = passphrase

    # --- what always holds --------------------------------------------------------------------------------------

    @invariant()
    def says_what_there_is(self) -> None:
        status = self.call("status")
        assert status["state"] == ("locked" if self.locked else "unlocked")
        assert status["secrets"] == (None if self.locked else len(self.state.secrets))
        assert status["warnings"] == []
        if self.locked:
            assert self.call("list") == "locked"
            return
        listed = {
            found["name"]: (found["version"], found["readers"]) for found in self.call("list")["secrets"]
        }
        assert listed == {
            name: (versions[-1][0], self.readers(name)) for name, versions in self.state.secrets.items()
        }
