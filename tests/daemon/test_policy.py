"""Who is who, and what it may read: the rules one by one, and all of them against an oracle written apart."""

from __future__ import annotations

import doctest
import json
from typing import Any, Literal

import pytest
from hypothesis import given, strategies as st

from avault_daemon.callers import policy as policy_module
from avault_daemon.callers.policy import MAX_INSTANCES, MAX_SEALED, Agent, Caller, Policy, Selectors, boundary
from avault_protocol import (
    AmbiguousAgentError,
    BadRequestError,
    CorruptError,
    LockedError,
    NotFoundError,
    TooLargeError,
    UnknownAgentError,
)
from support.callers import make_caller

SERVICES: list[Literal["user", "system"]] = ["user", "system"]


def policy_of(*agents: Agent) -> Policy:
    return Policy({agent.name: agent for agent in agents})


def test_the_example_in_the_docstring() -> None:
    assert doctest.testmod(policy_module).failed == 0
    assert doctest.testmod(policy_module).attempted >= 8


# --- who is who ---------------------------------------------------------------------------------------------------


def test_selectors_of_different_kinds_must_all_fit() -> None:
    agent = Agent("cobot", Selectors(uids=[1001], units=["cobot.service"]))
    assert agent.fits(make_caller(uid=1001, unit="cobot.service"), "system")
    assert not agent.fits(make_caller(uid=1002, unit="cobot.service"), "system")
    assert not agent.fits(make_caller(uid=1001, unit="other.service"), "system")


def test_of_one_kind_any_fits() -> None:
    agent = Agent("cobot", Selectors(uids=[1001, 1002], units=["a.service", "b.service"]))
    for uid in (1001, 1002):
        for unit in ("a.service", "b.service"):
            assert agent.fits(make_caller(uid=uid, unit=unit), "system")


def test_a_caller_without_a_unit_fits_no_unit() -> None:
    assert not Agent("cobot", Selectors(units=["cobot.service"])).fits(make_caller(unit=None), "system")


def test_an_agents_own_socket_is_that_agent_and_no_other() -> None:
    cobot, hermes = Agent("cobot", Selectors(socket=True)), Agent("hermes", Selectors(uids=[1001]))
    policy = policy_of(cobot, hermes)
    assert policy.identify(make_caller(socket_agent="cobot"), None, service="user") is cobot
    with pytest.raises(UnknownAgentError):
        policy.identify(make_caller(socket_agent="cobot"), "hermes", service="user")
    with pytest.raises(UnknownAgentError):
        policy.identify(make_caller(socket_agent="hermes"), None, service="user")


def test_an_agent_with_a_socket_is_not_reachable_through_the_common_one() -> None:
    policy = policy_of(Agent("cobot", Selectors(uids=[1001], socket=True)))
    with pytest.raises(UnknownAgentError):
        policy.identify(make_caller(), "cobot", service="user")


def test_in_the_system_service_a_socket_alone_fits_nobody() -> None:
    caller = make_caller(socket_agent="cobot")
    assert Agent("cobot", Selectors(socket=True)).fits(caller, "user")
    assert not Agent("cobot", Selectors(socket=True)).fits(caller, "system")
    assert Agent("cobot", Selectors(socket=True, uids=[1001])).fits(caller, "system")
    assert not Agent("cobot", Selectors(socket=True, uids=[1002])).fits(caller, "system")


def test_of_several_the_named_one_is_taken() -> None:
    cobot, hermes = Agent("cobot", Selectors(uids=[1001])), Agent("hermes", Selectors(uids=[1001, 7]))
    policy = policy_of(cobot, hermes)
    with pytest.raises(AmbiguousAgentError, match="cobot, hermes"):
        policy.identify(make_caller(), None, service="user")
    assert policy.identify(make_caller(), "hermes", service="user") is hermes
    assert policy.identify(make_caller(uid=7), None, service="user") is hermes


@pytest.mark.parametrize("named", ["other", "nobody"])
def test_a_named_agent_that_does_not_fit_is_as_unknown_as_one_that_does_not_exist(named: str) -> None:
    policy = policy_of(Agent("cobot", Selectors(uids=[1001])), Agent("other", Selectors(uids=[1002])))
    with pytest.raises(UnknownAgentError) as caught:
        policy.identify(make_caller(), named, service="user")
    assert caught.value.to_wire() == UnknownAgentError().to_wire()


UIDS = st.sampled_from([1000, 1001, 1002])
UNITS = st.sampled_from(["a.service", "b.service", "c.scope"])
NAMES = st.sampled_from(["cobot", "hermes", "nano"])
PLUGINS = st.sampled_from(["telegram", "weather"])
SECRETS = st.sampled_from(["TOKEN", "KEY", "_x", "a.b-c"])
CONDITIONS: st.SearchStrategy[Any] = st.sampled_from([{}, {"until": 5}, {"new": None}])
SelectorArguments = tuple[frozenset[int], frozenset[str], bool]
SELECTORS: st.SearchStrategy[SelectorArguments] = st.tuples(
    st.frozensets(UIDS), st.frozensets(UNITS), st.booleans()
).filter(any)
GRANTS: st.SearchStrategy[dict[str, dict[str, Any]]] = st.dictionaries(
    PLUGINS, st.dictionaries(SECRETS, CONDITIONS, min_size=1)
)
Described = dict[str, tuple[SelectorArguments, dict[str, dict[str, Any]] | None]]
AGENTS: st.SearchStrategy[Described] = st.dictionaries(NAMES, st.tuples(SELECTORS, st.none() | GRANTS))
CALLERS = st.builds(
    make_caller, uid=UIDS, unit=st.none() | UNITS, socket_agent=st.none() | NAMES | st.just("gone")
)


def build(agents: Described) -> Policy:
    return Policy(
        {
            name: Agent(name, Selectors(*selectors), 1, plugins)
            for name, (selectors, plugins) in agents.items()
        }
    )


def who(agents: Described, caller: Caller, named: str | None, service: str) -> list[str]:
    """The oracle: cross off every agent for which some rule speaks against this caller."""
    left = set(agents)
    for name, ((uids, units, socket), _) in agents.items():
        objections = [
            caller.socket_agent is not None and caller.socket_agent != name,
            caller.socket_agent is not None and not socket,
            caller.socket_agent is None and socket,
            service == "system" and socket and len(uids) + len(units) == 0,
            len(uids) > 0 and caller.uid not in uids,
            len(units) > 0 and caller.unit is None,
            len(units) > 0 and caller.unit not in units,
            named is not None and named != name,
        ]
        if any(objections):
            left.discard(name)
    return sorted(left)


@given(AGENTS, CALLERS, st.none() | NAMES, st.sampled_from(SERVICES))
def test_identify_agrees_with_the_oracle(
    agents: Described, caller: Caller, named: str | None, service: Literal["user", "system"]
) -> None:
    expected = who(agents, caller, named, service)
    try:
        found = [build(agents).identify(caller, named, service=service).name]
    except UnknownAgentError:
        found = []
    except AmbiguousAgentError:
        assert len(expected) > 1
        return
    assert found == expected


@given(AGENTS, NAMES, PLUGINS, st.sets(SECRETS), SECRETS)
def test_allows_agrees_with_the_oracle(
    agents: Described, agent: str, plugin: str, declared: set[str], secret: str
) -> None:
    grants: set[tuple[str, str, str]] = set()
    for name, (_, plugins) in agents.items():
        for plug, secrets in (plugins or {}).items():
            grants |= {(name, plug, s) for s in secrets if secrets[s] == {}}
    policy = build(agents)
    assert policy.allows(agent, plugin, declared, secret) == (
        secret in declared and (agent, plugin, secret) in grants
    )
    assert policy.readers(secret) == sorted(f"{a}/{p}" for a, p, s in grants if s == secret)
    locked = policy.locked()
    assert not locked.allows(agent, plugin, declared, secret)
    assert locked.agents.keys() == policy.agents.keys()


def test_a_condition_that_is_not_known_means_no() -> None:
    agent = Agent("cobot", Selectors(uids=[1]), 1, {"telegram": {"TOKEN": {"weekdays": True}, "KEY": {}}})
    assert agent.allowed("telegram") == {"KEY"}


# --- selectors and boundaries ---------------------------------------------------------------------------------------


def test_at_least_one_selector() -> None:
    with pytest.raises(BadRequestError, match="at least one selector"):
        Selectors()


@pytest.mark.parametrize("uid", [-1, 2**32 - 1, True, "0", 1.0])
def test_no_uid(uid: Any) -> None:
    with pytest.raises(BadRequestError, match="user id"):
        Selectors(uids=[uid])


@pytest.mark.parametrize(
    "unit", ["", "cobot", "a/b.service", "ü.service", "a\n.service", "x" * 248 + ".service", 5]
)
def test_no_unit(unit: Any) -> None:
    with pytest.raises(BadRequestError, match="unit"):
        Selectors(units=[unit])


def test_the_limits_of_selectors() -> None:
    unit = "x" * 247 + ".service"
    assert len(unit) == 255
    assert Selectors(uids=[0, 2**32 - 2], units=[unit]).units == {unit}


@pytest.mark.parametrize(
    ("selectors", "user", "system"),
    [
        (Selectors(uids=[1]), "none (accidents only)", "own uid"),
        (Selectors(units=["a.service"]), "none (accidents only)", "own uid"),
        (Selectors(socket=True), "sandbox", "none (accidents only)"),
        (Selectors(socket=True, uids=[1]), "sandbox", "own uid"),
    ],
)
def test_boundary(selectors: Selectors, user: str, system: str) -> None:
    assert boundary(selectors, "user") == user
    assert boundary(selectors, "system") == system


# --- changes --------------------------------------------------------------------------------------------------------

COBOT = Agent("cobot", Selectors(uids=[1001]))


def test_grants_are_added_and_taken_and_the_agent_before_stays_as_it_was() -> None:
    one = COBOT.with_grants("telegram", ["TOKEN", "KEY"])
    two = one.with_grants("weather", ["KEY"])
    three = two.without_grants("telegram", ["KEY"])
    assert COBOT.plugins == {}
    assert one.plugins == {"telegram": {"TOKEN": {}, "KEY": {}}}
    assert two.allowed("weather") == {"KEY"}
    assert three.plugins == {"telegram": {"TOKEN": {}}, "weather": {"KEY": {}}}


def test_a_plugin_left_with_nothing_goes() -> None:
    agent = COBOT.with_grants("telegram", ["TOKEN"]).with_grants("weather", ["KEY"])
    assert agent.without_grants("telegram").plugins == {"weather": {"KEY": {}}}
    assert agent.without_grants(secrets=["KEY"]).plugins == {"telegram": {"TOKEN": {}}}
    assert agent.without_grants().plugins == {}
    assert COBOT.without_grants().plugins == {}


def test_a_grant_without_conditions_replaces_one_with() -> None:
    agent = Agent("cobot", Selectors(uids=[1]), 1, {"telegram": {"TOKEN": {"until": 5}}})
    assert agent.with_grants("telegram", ["TOKEN"]).allowed("telegram") == {"TOKEN"}


@pytest.mark.parametrize(("plugin", "secrets"), [("weather", None), ("telegram", ["KEY"]), (None, ["KEY"])])
def test_what_is_not_granted_cannot_be_taken(plugin: str | None, secrets: list[str] | None) -> None:
    agent = COBOT.with_grants("telegram", ["TOKEN"])
    with pytest.raises(NotFoundError, match="granted to cobot"):
        agent.without_grants(plugin, secrets)


def test_grants_of_a_locked_vault_cannot_be_changed() -> None:
    locked = COBOT.locked()
    for change in (lambda: locked.with_grants("p", ["A"]), locked.without_grants, locked.to_sealed):
        with pytest.raises(LockedError):
            change()


def test_locking_keeps_who_it_is_and_how_many() -> None:
    agent = COBOT.with_instances(3).with_grants("telegram", ["TOKEN"]).locked()
    assert (agent.plugins, agent.instances, agent.selectors) == (None, 3, COBOT.selectors)


def test_other_selectors_keep_the_grants() -> None:
    agent = COBOT.with_grants("telegram", ["TOKEN"]).with_selectors(Selectors(socket=True))
    assert agent.allowed("telegram") == {"TOKEN"}
    assert agent.selectors.socket


def test_grants_fit_the_payload_of_older_libraries() -> None:
    names = [f"{'N' * 120}{number:06}" for number in range(600)]
    room = (MAX_SEALED - len(COBOT.to_sealed()) - len('"p":{}')) // len(f'"{names[0]}":{{}},')
    assert len(COBOT.with_grants("p", names[:room]).to_sealed()) <= MAX_SEALED
    with pytest.raises(TooLargeError, match=str(MAX_SEALED)):
        COBOT.with_grants("p", names[: room + 1])


def test_agents_come_and_go() -> None:
    policy = Policy().with_agent(COBOT).with_agent(COBOT.with_grants("p", ["A"]))
    assert policy.readers("A") == ["cobot/p"]
    assert policy.without_agent("cobot").agents == {}
    assert not policy.without_agent("cobot").allows("cobot", "p", {"A"}, "A")
    with pytest.raises(NotFoundError, match="hermes"):
        policy.without_agent("hermes")


# --- the vault's lines ----------------------------------------------------------------------------------------------

INSTANCES = st.integers(1, MAX_INSTANCES)


@given(NAMES, SELECTORS, INSTANCES, GRANTS)
def test_an_agent_comes_back_from_its_two_parts(
    name: str, selectors: Any, instances: int, grants: Any
) -> None:
    agent = Agent(name, Selectors(*selectors), instances, grants)
    public = json.loads(json.dumps(agent.to_public()))
    locked = Agent.from_public(name, public)
    assert locked.plugins is None
    assert (locked.selectors, locked.instances) == (agent.selectors, agent.instances)
    assert locked.unsealed(memoryview(agent.to_sealed())) == agent
    assert agent.locked().unsealed(agent.to_sealed()) == agent


@pytest.mark.parametrize(
    "public",
    [
        None,
        [],
        {},
        {"uids": [], "units": [], "socket": False, "instances": 1},
        {"uids": [1], "units": [], "instances": 1},
        {"uids": [1], "units": [], "socket": False},
        {"uids": [1], "units": [], "socket": False, "instances": 0},
        {"uids": [1], "units": [], "socket": False, "instances": 1025},
        {"uids": [1], "units": [], "socket": False, "instances": True},
        {"uids": [1], "units": [], "socket": False, "instances": 1.0},
        {"instances": 1, "uids": [1], "units": [], "socket": False},
        {"uids": [1], "units": [], "socket": 0, "instances": 1},
        {"uids": [1], "units": [], "socket": False, "instances": 1, "more": 1},
        {"units": [], "uids": [1], "socket": False, "instances": 1},
        {"uids": [2, 1], "units": [], "socket": False, "instances": 1},
        {"uids": [1, 1], "units": [], "socket": False, "instances": 1},
        {"uids": [True], "units": [], "socket": False, "instances": 1},
        {"uids": [[1]], "units": [], "socket": False, "instances": 1},
        {"uids": ["1"], "units": [], "socket": False, "instances": 1},
        {"uids": [], "units": ["cobot"], "socket": False, "instances": 1},
        {"uids": 1, "units": [], "socket": False, "instances": 1},
    ],
)
def test_odd_selectors_are_corrupt(public: object) -> None:
    with pytest.raises(CorruptError, match="selectors"):
        Agent.from_public("cobot", public)


def test_an_odd_name_is_corrupt() -> None:
    with pytest.raises(CorruptError, match="Cobot"):
        Agent.from_public("Cobot", COBOT.to_public())


@pytest.mark.parametrize(
    "sealed",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"plugins":[]}',
        b'{"plugins":{"Telegram":{"A":{}}}}',
        b'{"plugins":{"telegram":{}}}',
        b'{"plugins":{"telegram":["A"]}}',
        b'{"plugins":{"telegram":{"A B":{}}}}',
        b'{"plugins":{"telegram":{"A":1}}}',
        b'{"plugins":{"telegram":{"A":{},"A":{}}}}',
        b'{"plugins":{"telegram":{"B":{},"A":{}}}}',
        b'{"plugins":{"b":{"A":{}},"a":{"A":{}}}}',
        b'{"plugins":{},"plugins":{}}',
        b'{"plugins":{},"more":0}',
        b'{"plugins": {}}',
        b'{"plugins":{}}\n',
        b"[" * 20000,
    ],
)
def test_an_odd_sealed_part_is_corrupt(sealed: bytes) -> None:
    with pytest.raises(CorruptError, match="cobot"):
        COBOT.locked().unsealed(sealed)


@given(GRANTS, st.data())
def test_any_changed_byte_is_noticed_or_means_the_changed_thing(grants: Any, data: st.DataObject) -> None:
    """A sealed part is in its one form: what parses to an agent is exactly what that agent is written as."""
    sealed = bytearray(Agent("cobot", COBOT.selectors, 1, grants).to_sealed())
    sealed[data.draw(st.integers(0, len(sealed) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = COBOT.locked().unsealed(bytes(sealed))
    except CorruptError:
        return
    assert found.to_sealed() == bytes(sealed)
