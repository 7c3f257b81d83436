"""Every method takes what its table says, and names what is wrong with anything else."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given, strategies as st

from avault_protocol import (
    AGENT,
    ERRORS,
    METHODS,
    NOTIFICATIONS,
    OPERATOR,
    SERVE,
    STATES,
    UNINITIALIZED,
    WAIT,
    BadRequestError,
    Method,
    limits,
)

NAMES_129 = "A" * 129
ITEM = {"name": "A", "size": 1, "encoding": "text"}

SECRET: list[object] = [None, 1, True, [], {}, "", "9", "A/B", NAMES_129]
AGENT_NAME: list[object] = [None, 1, True, [], {}, "", "A", "a b", "a" * 65]
FLAG: list[object] = [None, 0, 1, "true", [], {}]
LOG_N: list[object] = [None, 0, 23, 18.0, "18", True, []]
IDS: list[object] = [None, 1, {}, [0], [True], ["1"], [1.0], [2**63], [1, 1], list(range(1, 1026))]
NAMES: list[object] = [None, "A", {}, ["9"], [None], ["A", "A"], [f"A{i}" for i in range(257)]]
UIDS: list[object] = [None, 0, {}, [-1], [2**32 - 1], ["0"], [True], [7, 7], list(range(65))]
UNITS: list[object] = [
    None,
    "cobot.service",
    [""],
    ["cobot"],
    ["a/b.service"],
    ["é.service"],
    ["a\n.service"],
    ["a" * 248 + ".service"],
    ["a.service", "a.service"],
    [1],
    [f"a{i}.service" for i in range(65)],
]
POSITIVE: list[object] = [None, 0, -1, True, 1.0, "1", [], 2**31 + 1]
URI: list[object] = [None, 1, True, [], b"bunker://", "", "bunker://\n", "bunker://\u00e9", "b" * 4097]
PATIENCE: list[object] = [None, 0, 3601, 1.0, "1", True, []]
SELECTORS = {"uids": UIDS, "units": UNITS, "socket": FLAG}
GOOD_SELECTORS: dict[str, object] = {
    "uids": [0, 2**32 - 2],
    "units": ["cobot.service", "a" * 247 + ".service"],
    "socket": True,
}

# For each method: parameters that are good, all of them; and for each parameter what is not.
GOOD: dict[str, dict[str, object]] = {
    "hello": {"protocol": 1, "plugin": "telegram", "secrets": ["A", "B"], "agent": "cobot"},
    "get_secret": {"name": "A" * 128, "wait": limits.MAX_WAIT},
    "request": {"name": "A", "reason": "é" * limits.MAX_REASON},
    "grants": {},
    "status": {},
    "lock": {},
    "list": {"after": "TOKEN", "limit": 10},
    "agents": {"agent": "a" * 64},
    "requests": {},
    "history": {"name": "_"},
    "slots": {},
    "audit": {"since": 0, "after": 2**62, "agent": "cobot", "secret": "A", "limit": 1000},
    "audit_verify": {},
    "init": {"log_n": 22},
    "unlock": {"slot": "passphrase"},
    "prove": {"slot": "passphrase-2"},
    "phone_unlock": {"timeout": 3600},
    "phone_prove": {"action": "reveal", "timeout": 1},
    "phone_pair": {"bunker": "b" * 4096, "relays": [f"wss://{i}.example" for i in range(8)], "timeout": 180},
    "phone_confirm": {"timeout": 180},
    "keyring_unlock": {},
    "keyring_add": {},
    "credential_add": {"log_n": 16},
    "put": {"items": [ITEM, {"name": "B", "size": limits.MAX_VALUE, "encoding": "base64"}], "replace": False},
    "reveal": {"name": "A", "version": 1},
    "rm": {"name": "A"},
    "restore": {"name": "A", "version": 2**31},
    "agent_set": {"agent": "cobot", **GOOD_SELECTORS, "instances": 1024},
    "agent_rm": {"agent": "cobot"},
    "grant": {"agent": "cobot", "plugin": "telegram", "secrets": ["A"], **GOOD_SELECTORS},
    "revoke": {"agent": "cobot", "plugin": "telegram", "secrets": [f"A{i}" for i in range(256)]},
    "approve": {"ids": [1, 2**63 - 1], "all": "cobot", "agent": "hermes"},
    "deny": {"ids": list(range(1, 1025))},
    "slot_add": {"type": "passphrase", "log_n": 16},
    "slot_remove": {"slot": "passphrase"},
    "change_passphrase": {"slot": "passphrase", "log_n": 1},
    "rekey": {"log_n": 18},
    "export": {"log_n": 18},
    "restore_vault": {},
}
ITEMS: list[object] = [
    None,
    ITEM,
    [],
    [None],
    [{}],
    [{**ITEM, "name": "9"}],
    [{**ITEM, "size": 0}],
    [{**ITEM, "size": limits.MAX_VALUE + 1}],
    [{**ITEM, "size": "1"}],
    [{**ITEM, "encoding": "utf-8"}],
    [{**ITEM, "encoding": ["text"]}],
    [{**ITEM, "value": "x"}],
    [{"name": "A", "size": 1}],
    [ITEM, ITEM],
    [{**ITEM, "name": f"A{i}"} for i in range(limits.MAX_ITEMS + 1)],
]
BAD: dict[str, dict[str, list[object]]] = {
    "hello": {
        "protocol": [None, 0, -1, "1", 1.0, True, 2**31 + 1],
        "plugin": AGENT_NAME,
        "secrets": NAMES,
        "agent": AGENT_NAME,
    },
    "get_secret": {
        "name": SECRET,
        "wait": [None, "1", True, [], -1, -0.1, math.nan, math.inf, limits.MAX_WAIT + 1, 2**64 - 1],
    },
    "request": {
        "name": SECRET,
        "reason": [None, 1, [], "a\n", "\x1b[2J", "\u202e", "a" * (limits.MAX_REASON + 1)],
    },
    "agents": {"agent": AGENT_NAME},
    "history": {"name": SECRET},
    "list": {"after": SECRET, "limit": [None, 0, 1001, "1", True]},
    "audit": {
        "since": [None, -1, 1.0, "0", True, 2**62 + 1],
        "after": [None, -1, 1.0, "0", True, 2**62 + 1],
        "agent": AGENT_NAME,
        "secret": SECRET,
        "limit": [None, 0, 1001, "1", True],
    },
    "init": {"log_n": LOG_N},
    "unlock": {"slot": AGENT_NAME},
    "prove": {"slot": AGENT_NAME},
    "phone_unlock": {"timeout": PATIENCE},
    "phone_prove": {"action": [None, 1, "", "a\n", "a" * 257], "timeout": PATIENCE},
    "phone_pair": {
        "bunker": URI,
        "relays": [None, "wss://a", {}, *([uri] for uri in URI), ["a", "a"], [f"{i}" for i in range(9)]],
        "timeout": PATIENCE,
    },
    "phone_confirm": {"timeout": PATIENCE},
    "keyring_unlock": {},
    "keyring_add": {},
    "credential_add": {"log_n": LOG_N},
    "put": {"items": ITEMS, "replace": FLAG},
    "reveal": {"name": SECRET, "version": POSITIVE},
    "rm": {"name": SECRET},
    "restore": {"name": SECRET, "version": POSITIVE},
    "agent_set": {"agent": AGENT_NAME, **SELECTORS, "instances": [None, 0, 1025, True, "1"]},
    "agent_rm": {"agent": AGENT_NAME},
    "grant": {"agent": AGENT_NAME, "plugin": AGENT_NAME, "secrets": NAMES, **SELECTORS},
    "revoke": {"agent": AGENT_NAME, "plugin": AGENT_NAME, "secrets": NAMES},
    "approve": {"ids": IDS, "all": AGENT_NAME, "agent": AGENT_NAME},
    "deny": {"ids": IDS},
    "slot_add": {"type": [None, 1, True, [], {}, b"a", "", "a\n", "a" * 257], "log_n": LOG_N},
    "slot_remove": {"slot": AGENT_NAME},
    "change_passphrase": {"slot": AGENT_NAME, "log_n": LOG_N},
    "rekey": {"log_n": LOG_N},
    "export": {"log_n": LOG_N},
}

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
every_parameter = pytest.mark.parametrize(
    ("method", "key"), [(method, key) for method in METHODS.values() for key in method.fields]
)


def test_these_tests_know_every_method_and_parameter() -> None:
    assert list(GOOD) == list(METHODS)
    for name, method in METHODS.items():
        assert set(GOOD[name]) == set(BAD.get(name, {})) == set(method.fields), name


@every_method
def test_takes_all_its_parameters(method: Method) -> None:
    assert method.check(GOOD[method.name]) == GOOD[method.name]


@every_method
def test_takes_the_required_ones_alone(method: Method) -> None:
    required = {key: value for key, value in GOOD[method.name].items() if method.fields[key].required}
    assert method.check(required) == required


@every_parameter
def test_refuses_wrong_ones(method: Method, key: str) -> None:
    for wrong in BAD[method.name][key]:
        with pytest.raises(BadRequestError) as caught:
            method.check({**GOOD[method.name], key: wrong})
        assert caught.value.message.isprintable(), wrong
        assert len(caught.value.message) < 200, wrong


@every_parameter
def test_a_missing_one(method: Method, key: str) -> None:
    rest = {other: value for other, value in GOOD[method.name].items() if other != key}
    if method.fields[key].required:
        with pytest.raises(BadRequestError, match=f"{method.name}: parameter {key} is missing"):
            method.check(rest)
    else:
        assert method.check(rest) == rest


@every_method
def test_an_unknown_one(method: Method) -> None:
    with pytest.raises(BadRequestError, match=f"{method.name}: unknown parameter$") as caught:
        method.check({**GOOD[method.name], "colour": "red"})
    assert caught.value.hint == f"the parameters are: {', '.join(method.fields) or 'none'}"


@every_method
@pytest.mark.parametrize("params", [None, [], "name", 1, True])
def test_no_map(method: Method, params: object) -> None:
    with pytest.raises(BadRequestError, match=f"{method.name}: the parameters are no map"):
        method.check(params)


@given(
    st.sampled_from(list(METHODS.values())),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=2),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
    st.data(),
)
def test_anything_else_is_a_bad_request(method: Method, value: object, data: st.DataObject) -> None:
    """Whatever is in the place of a parameter: it is taken as it is, or refused, and nothing else happens."""
    params = dict(GOOD[method.name])
    if method.fields:
        params[data.draw(st.sampled_from(list(method.fields)))] = value
    with contextlib.suppress(BadRequestError):
        assert method.check(params) == params


@every_method
def test_says_what_it_does_in_each_state(method: Method) -> None:
    assert set(method.states) == set(STATES)
    assert set(method.states.values()) <= {SERVE, WAIT, *ERRORS}
    assert method.socket in (AGENT, OPERATOR)


def test_without_a_vault_only_what_needs_none_is_served() -> None:
    served = {name for name, method in METHODS.items() if method.states[UNINITIALIZED] == SERVE}
    free = {"status", "lock", "requests", "audit", "audit_verify"}
    assert served == {*free, "init", "restore_vault"}


def test_an_agent_has_its_four_methods_and_sends_no_value() -> None:
    agents = {name: method for name, method in METHODS.items() if method.socket == AGENT}
    assert list(agents) == ["hello", "get_secret", "request", "grants"]
    assert not any(method.takes_value or method.proof for method in agents.values())


def test_what_changes_or_releases_needs_proof() -> None:
    reads = {"status", "list", "agents", "requests", "history", "slots", "audit", "audit_verify"}
    passphrase = {"init", "unlock", "prove", "restore_vault"}
    others = {"phone_unlock", "phone_prove", "keyring_unlock"}
    free = {name for name, method in METHODS.items() if method.socket == OPERATOR and not method.proof}
    assert free == {"lock", *reads, *passphrase, *others}


def test_only_two_methods_return_a_value() -> None:
    assert [name for name, method in METHODS.items() if method.returns_value] == ["get_secret", "reveal"]


def test_notifications_are_no_methods() -> None:
    assert not NOTIFICATIONS.keys() & METHODS.keys()
