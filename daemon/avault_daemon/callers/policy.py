"""Who is calling, and what may it have: agents, selectors and grants as immutable data and pure functions.

The rules, in the order in which they apply:

1. An agent is described by *selectors*: uids, system units, a socket of its own. At least one. Selectors of different
   kinds must all fit; of one kind, any.
2. A connection on an agent's own socket is that agent and no other. An agent with a socket of its own is not reachable
   through the common socket.
3. In the system service anyone may enter the directory of the sockets, so there `socket` counts only together with a
   uid or a unit; alone it fits nobody.
4. A unit fits only a caller whose unit the kernel attests; a caller without one fits no unit.
5. No agent fits: `UnknownAgentError`. Several: the one that was named, else `AmbiguousAgentError`. One that was named
   and does not fit is unknown, whether it exists or not.
6. A secret is allowed if the plugin declared it *and* it is granted to that plugin of that agent *and* every condition
   of the grant holds. There are no conditions yet, so a condition is one that a later version wrote: it means no.
7. While the vault is locked grants are not known (`Agent.plugins` is None), and nothing is allowed.

An example::

    >>> cobot = Agent("cobot", Selectors(uids={1001}, units={"cobot.service"})).with_grants("telegram", ["TOKEN"])
    >>> policy = Policy({"cobot": cobot})
    >>> caller = Caller(pid=7, uid=1001, gid=1001, unit="cobot.service", exe=None, socket_agent=None, started=99)
    >>> policy.identify(caller, None, service="system").name
    'cobot'
    >>> policy.allows("cobot", "telegram", {"TOKEN", "OTHER"}, "TOKEN")
    True
    >>> policy.allows("cobot", "telegram", {"TOKEN", "OTHER"}, "OTHER")    # declared, not granted
    False
    >>> policy.allows("cobot", "weather", {"TOKEN"}, "TOKEN")              # granted to another plugin
    False
    >>> boundary(cobot.selectors, "system")
    'own uid'
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, cast

from avault_protocol import (
    AmbiguousAgentError,
    BadRequestError,
    CorruptError,
    LockedError,
    NotFoundError,
    TooLargeError,
    UnknownAgentError,
    is_agent_name,
    is_secret_name,
)

Service = Literal["user", "system"]
Conditions = Mapping[str, object]
Plugins = Mapping[str, Mapping[str, Conditions]]
"""plugin -> secret -> conditions."""

MAX_SEALED = 65535
"""Bytes of an agent's sealed part: the plaintext at which older NIP-44 libraries stop."""
MAX_INSTANCES = 1024


class Caller(NamedTuple):
    """Who is on the other end of a connection, as the kernel attests it.

    *exe* is what the caller makes of it and serves the record only. *socket_agent* is the agent on whose own socket
    the connection came, None for the common one. *started* is in clock ticks since boot (proc(5), stat, field 22).
    """

    pid: int
    uid: int
    gid: int
    unit: str | None
    exe: str | None
    socket_agent: str | None
    started: int


def _check_uid(uid: object) -> None:
    if type(uid) is not int or not 0 <= uid < 2**32 - 1:
        raise BadRequestError("not a numeric user id")


def _check_unit(unit: object) -> None:
    if not isinstance(unit, str) or not 0 < len(unit) <= 255 or not (unit.isascii() and unit.isprintable()):
        raise BadRequestError("not the name of a unit")
    if "/" in unit or "." not in unit:
        raise BadRequestError("not the full name of a unit, such as cobot.service")


@dataclass(frozen=True, slots=True)
class Selectors:
    """What a caller must be like to be a certain agent; `BadRequestError` if nothing is asked of it."""

    uids: frozenset[int] = frozenset()
    units: frozenset[str] = frozenset()
    socket: bool = False

    def __init__(self, uids: Iterable[int] = (), units: Iterable[str] = (), socket: bool = False) -> None:
        object.__setattr__(self, "uids", frozenset(uids))
        object.__setattr__(self, "units", frozenset(units))
        object.__setattr__(self, "socket", socket)
        for uid in self.uids:
            _check_uid(uid)
        for unit in self.units:
            _check_unit(unit)
        if not (self.uids or self.units or self.socket):
            raise BadRequestError(
                "an agent needs at least one selector", hint="--uid U, --unit U or --socket"
            )

    def fit(self, caller: Caller, service: Service) -> bool:
        """Report whether *caller* is like this; whose socket it came on is the agent's business."""
        if service == "system" and not (self.uids or self.units):
            return False
        return (not self.uids or caller.uid in self.uids) and (not self.units or caller.unit in self.units)

    def to_json(self) -> dict[str, object]:
        """Return these selectors as a JSON object, in the one form that `from_json` takes."""
        return {"uids": sorted(self.uids), "units": sorted(self.units), "socket": self.socket}

    @classmethod
    def from_json(cls, value: object) -> Selectors:
        """Return the selectors that *value* describes; `CorruptError` unless it is exactly what `to_json` makes."""
        match value:
            case {"uids": list(), "units": list(), "socket": bool()}:
                found = cls._checked(**cast("dict[str, Any]", value))
            case _:
                raise CorruptError("selectors of an agent are no map of uids, units and socket")
        if _dumps(found.to_json()) != _dumps(value):
            raise CorruptError("selectors of an agent are not in their one form")
        return found

    @classmethod
    def _checked(cls, **selectors: Any) -> Selectors:
        try:
            return cls(**selectors)
        except (
            BadRequestError,
            TypeError,
        ) as error:  # TypeError: one kind too many, or one that cannot be hashed
            raise CorruptError(f"selectors of an agent: {error}") from None


def boundary(selectors: Selectors, service: Service) -> str:
    """Return what stands between an agent of these selectors and the secrets of others, in the words of threats.md."""
    if service == "system" and (selectors.uids or selectors.units):
        return "own uid"
    if service == "user" and selectors.socket:
        return "sandbox"
    return "none (accidents only)"


def _met(conditions: Conditions) -> bool:
    # Every key is unknown to this version; a restriction that is not understood must not be skipped.
    return not conditions


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent of the vault: who it is, and what its plugins may read.

    *plugins* is None while the vault is locked. *instances* is how many live processes a plugin may have; like the
    selectors it is known while locked, when a second instance may say hello just as well.
    """

    name: str
    selectors: Selectors
    instances: int = 1
    plugins: Plugins | None = field(default_factory=dict[str, Mapping[str, Conditions]])

    def fits(self, caller: Caller, service: Service) -> bool:
        """Report whether *caller* is this agent."""
        own_socket = self.name if self.selectors.socket else None
        return caller.socket_agent == own_socket and self.selectors.fit(caller, service)

    def allowed(self, plugin: str) -> frozenset[str]:
        """Return the names granted to *plugin* whose conditions hold; empty while locked."""
        grants = (self.plugins or {}).get(plugin, {})
        return frozenset(secret for secret, conditions in grants.items() if _met(conditions))

    def locked(self) -> Agent:
        """Return this agent as a locked vault shows it."""
        return replace(self, plugins=None)

    def with_selectors(self, selectors: Selectors) -> Agent:
        """Return this agent under other selectors."""
        return replace(self, selectors=selectors)

    def with_instances(self, instances: int) -> Agent:
        """Return this agent with *instances* live processes allowed to a plugin."""
        return replace(self, instances=instances)

    def with_grants(self, plugin: str, secrets: Iterable[str]) -> Agent:
        """Return this agent with *secrets* granted to *plugin*, anew and without conditions where they were before.

        `LockedError` while the grants are not known, `TooLargeError` over `MAX_SEALED`.
        """
        plugins = self._known()
        granted: dict[str, Conditions] = {**plugins.get(plugin, {}), **{secret: {} for secret in secrets}}
        changed = replace(self, plugins={**plugins, plugin: granted})
        if len(changed.to_sealed()) > MAX_SEALED:
            raise TooLargeError(f"agent {self.name}: its grants are over {MAX_SEALED} bytes")
        return changed

    def without_grants(self, plugin: str | None = None, secrets: Iterable[str] | None = None) -> Agent:
        """Return this agent with *secrets* (None: all) taken from *plugin* (None: each).

        A plugin left with nothing goes. `NotFoundError` if the plugin, or one of the secrets, has no grant.
        """
        plugins = self._known()
        if plugin is not None and plugin not in plugins:
            raise NotFoundError(f"nothing is granted to {self.name}/{plugin}")
        touched = plugins if plugin is None else {plugin: plugins[plugin]}
        names = {secret for grants in touched.values() for secret in grants}
        gone = names if secrets is None else set(secrets)
        if missing := sorted(gone - names):
            whose = self.name if plugin is None else f"{self.name}/{plugin}"
            raise NotFoundError(f"{missing[0]} is not granted to {whose}")
        left = {p: {s: c for s, c in plugins[p].items() if s not in gone} for p in touched}
        return replace(self, plugins={p: grants for p, grants in {**plugins, **left}.items() if grants})

    def _known(self) -> Plugins:
        if self.plugins is None:
            raise LockedError
        return self.plugins

    def to_public(self) -> dict[str, object]:
        """Return what the vault file shows of this agent, as a JSON object: its selectors and its instances."""
        return {**self.selectors.to_json(), "instances": self.instances}

    def to_sealed(self) -> bytes:
        """Return what the vault file seals of this agent, as JSON in its one form; `LockedError` if not known."""
        plugins = {p: dict(sorted(grants.items())) for p, grants in sorted(self._known().items())}
        return _dumps({"plugins": plugins}).encode("ascii")

    @classmethod
    def from_public(cls, name: str, public: object) -> Agent:
        """Return the locked agent that *public*, a parsed JSON object, describes; `CorruptError` if it is odd."""
        if not is_agent_name(name):
            raise CorruptError(f"not the name of an agent: {ascii(name)[:80]}")
        form = _dumps(public)
        fields = {**cast("dict[str, object]", public)} if isinstance(public, dict) else {}
        instances = fields.pop("instances", None)
        if type(instances) is not int or not 0 < instances <= MAX_INSTANCES:
            raise CorruptError(f"agent {name}: its selectors are no map with its instances")
        found = cls(name, Selectors.from_json(fields), instances, plugins=None)
        # This also finds another order.
        if _dumps(found.to_public()) != form:
            raise CorruptError(f"agent {name}: its selectors are not in their one form")
        return found

    def unsealed(self, sealed: bytes | memoryview) -> Agent:
        """Return this agent with what was sealed of it; `CorruptError` unless it is exactly what `to_sealed` makes."""
        raw = bytes(sealed)
        try:
            value: object = json.loads(raw)
        except (ValueError, RecursionError):
            raise CorruptError(f"agent {self.name}: its sealed part is no JSON") from None
        match value:
            case {"plugins": dict()}:
                grants = _grants(self.name, cast("Any", value)["plugins"])
            case _:
                raise CorruptError(f"agent {self.name}: its sealed part is no map of plugins")
        found = replace(self, plugins=grants)
        # This also finds what json.loads passes over: duplicate keys, spaces, another order.
        if found.to_sealed() != raw:
            raise CorruptError(f"agent {self.name}: its sealed part is not in its one form")
        return found


def _grants(agent: str, plugins: dict[str, dict[str, dict[str, object]]]) -> Plugins:
    for plugin, secrets in plugins.items():
        if not is_agent_name(plugin) or not isinstance(cast("object", secrets), dict) or not secrets:
            raise CorruptError(f"agent {agent}: odd plugin {ascii(plugin)[:80]}")
        for secret, conditions in secrets.items():
            if not is_secret_name(secret) or not isinstance(cast("object", conditions), dict):
                raise CorruptError(f"agent {agent}: odd grant {ascii(secret)[:80]}")
    return plugins


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Policy:
    """Every agent of the vault after one commit; an immutable snapshot."""

    agents: Mapping[str, Agent] = field(default_factory=dict[str, Agent])

    def identify(self, caller: Caller, named: str | None, *, service: Service) -> Agent:
        """Return the agent that *caller* is, of several the one *named*.

        `UnknownAgentError`, `AmbiguousAgentError`.
        """
        fitting = [agent for agent in self.agents.values() if agent.fits(caller, service)]
        if named is not None:
            fitting = [agent for agent in fitting if agent.name == named]
        if not fitting:
            raise UnknownAgentError
        if len(fitting) > 1:
            names = ", ".join(sorted(agent.name for agent in fitting))
            raise AmbiguousAgentError(f"several agents describe the calling process: {names}")
        return fitting[0]

    def allows(self, agent: str, plugin: str, declared: Collection[str], secret: str) -> bool:
        """Report whether *plugin* of *agent*, having declared *declared*, may read *secret*."""
        return secret in declared and secret in self.allowed(agent, plugin)

    def allowed(self, agent: str, plugin: str) -> frozenset[str]:
        """Return what *plugin* of *agent* may read if it declares it."""
        found = self.agents.get(agent)
        return found.allowed(plugin) if found else frozenset()

    def readers(self, secret: str) -> list[str]:
        """Return each ``agent/plugin`` that may read *secret*, sorted."""
        return sorted(
            f"{agent.name}/{plugin}"
            for agent in self.agents.values()
            for plugin, grants in (agent.plugins or {}).items()
            if secret in grants and _met(grants[secret])
        )

    def with_agent(self, agent: Agent) -> Policy:
        """Return the policy with *agent* in it, in place of one of the same name."""
        return Policy({**self.agents, agent.name: agent})

    def without_agent(self, name: str) -> Policy:
        """Return the policy without the agent *name*; `NotFoundError` if there is none."""
        if name not in self.agents:
            raise NotFoundError(f"there is no agent {name}")
        return Policy({n: agent for n, agent in self.agents.items() if n != name})

    def locked(self) -> Policy:
        """Return the policy as a locked vault shows it: who is who, and no grants."""
        return Policy({name: agent.locked() for name, agent in self.agents.items()})
