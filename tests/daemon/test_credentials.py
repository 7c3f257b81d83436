"""Who fetches which credential: the address, whom it is believed of, and which agent that is."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, strategies as st

from avault_daemon.callers.policy import Agent, Policy, Selectors, Service
from avault_daemon.systemd.credentials import PLUGIN, Wanted, agent_of, check, may_ring, name_for, parse
from avault_protocol import AmbiguousAgentError, BadRequestError, UnknownAgentError, is_agent_name
from support.callers import make_caller

UNIT_CHARACTERS = string.ascii_letters + string.digits + ":-_.\\@"
UNITS = st.builds(
    "{}.{}".format,
    st.text(UNIT_CHARACTERS, min_size=1, max_size=60),
    st.sampled_from(["service", "socket", "mount", "swap"]),
)
PRINTABLE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in "/:")
CREDENTIALS = st.text(PRINTABLE, min_size=1, max_size=40)
TELEGRAM = Wanted("telegram.service", "TOKEN")
OWN = Agent("telegram", Selectors(units=["telegram.service"]))


@given(st.integers(0, 2**64 - 1), UNITS, CREDENTIALS)
def test_what_systemd_calls_itself_is_understood(number: int, unit: str, credential: str) -> None:
    address = (
        f"\0{number:x}/unit/{unit}/{credential}".encode()
    )  # as asprintf("@%" PRIx64 "/unit/%s/%s") has it
    assert parse(address) == Wanted(unit, credential)


@given(st.one_of(st.binary(max_size=108), st.text(max_size=20), st.none()))
def test_whatever_the_address_it_is_understood_in_one_way_or_not_at_all(address: object) -> None:
    wanted = parse(address)
    if wanted is not None:
        assert isinstance(address, bytes)
        assert address.endswith(f"/unit/{wanted.unit}/{wanted.credential}".encode())
        assert "/" not in wanted.unit + wanted.credential


@pytest.mark.parametrize(
    "address",
    [
        "",  # not bound
        "/tmp/0/unit/telegram.service/TOKEN",  # a path
        b"",
        b"\0",
        b"0/unit/telegram.service/TOKEN",
        b"\0/unit/telegram.service/TOKEN",
        b"\0x/unit/telegram.service/TOKEN",
        b"\0" + b"0" * 17 + b"/unit/telegram.service/TOKEN",
        b"\0A/unit/telegram.service/TOKEN",
        b"\0a/user/telegram.service/TOKEN",
        b"\0a/unit/telegram.service",
        b"\0a/unit/telegram.service/",
        b"\0a/unit//TOKEN",
        b"\0a/unit/telegram/TOKEN",
        b"\0a/unit/.service/TOKEN",
        b"\0a/unit/telegram.service/TO/KEN",
        b"\0a/unit/a/b.service/TOKEN",
        b"\0a/unit/telegram.service/TO:KEN",
        b"\0a/unit/telegram.service/TOKEN\n",
        b"\0a/unit/telegram.service/TOKEN\0",
        b"\0a/unit/telegram service.service/TOKEN",
        b"\0a/unit/telegr\xc3\xa4m.service/TOKEN",
    ],
)
def test_anything_else_is_no_address_of_systemds(address: object) -> None:
    assert parse(address) is None


def test_the_system_service_believes_uid_0_in_the_unit_that_it_names() -> None:
    caller = make_caller(uid=0, unit="telegram.service")
    assert check(caller, TELEGRAM, "system") is TELEGRAM


@pytest.mark.parametrize(
    ("uid", "unit", "why"),
    [
        (0, "weather.service", "a process in weather.service asks for a credential of telegram.service"),
        (0, None, "a process in no system unit asks"),
        (1000, "telegram.service", "uid 1000 asks for a credential of telegram.service"),
        (1000, None, "uid 1000 asks"),
    ],
)
def test_the_system_service_believes_nobody_else(uid: int, unit: str | None, why: str) -> None:
    with pytest.raises(UnknownAgentError, match=why) as caught:
        check(make_caller(uid=uid, unit=unit), TELEGRAM, "system")
    assert caught.value.hint


@given(st.integers(0, 2), st.sampled_from([None, "telegram.service", "weather.service"]))
def test_in_the_system_service_there_is_one_way_to_be_believed(uid: int, unit: str | None) -> None:
    try:
        check(make_caller(uid=uid, unit=unit), TELEGRAM, "system")
    except UnknownAgentError:
        assert (uid, unit) != (0, "telegram.service")
    else:
        assert (uid, unit) == (0, "telegram.service")


@pytest.mark.parametrize("uid", [0, 1000])
def test_in_the_user_service_the_unit_is_taken_for_a_name_alone(uid: int) -> None:
    assert check(make_caller(uid=uid), TELEGRAM, "user") is TELEGRAM


@pytest.mark.parametrize("service", ["user", "system"])
@pytest.mark.parametrize("credential", ["1TOKEN", "TO=KEN", ".", "A" * 129])
def test_a_name_that_no_secret_has(service: Service, credential: str) -> None:
    caller = make_caller(uid=0, unit="telegram.service")
    with pytest.raises(BadRequestError, match="no secret is called") as caught:
        check(caller, Wanted("telegram.service", credential), service)
    assert caught.value.hint


@pytest.mark.parametrize("service", ["user", "system"])
def test_who_names_nothing_is_told_what_the_socket_is_for(service: Service) -> None:
    with pytest.raises(BadRequestError, match="names no unit") as caught:
        check(make_caller(uid=0), None, service)
    assert "LoadCredential=" in str(caught.value.hint)


def policy(*agents: Agent) -> Policy:
    return Policy({agent.name: agent for agent in agents})


def test_the_agent_is_the_one_that_the_unit_fits() -> None:
    caller = make_caller(uid=0, unit="telegram.service")
    other = Agent("weather", Selectors(units=["weather.service"]))
    assert agent_of(policy(OWN, other), caller, TELEGRAM, "system") is OWN


def test_a_unit_that_nobody_knows_is_told_the_grant_that_would_help() -> None:
    caller = make_caller(uid=0, unit="bot@work.service")
    with pytest.raises(UnknownAgentError) as caught:
        agent_of(policy(OWN), caller, Wanted("bot@work.service", "KEY"), "system")
    assert str(caught.value.hint).endswith("avault grant bot-work/credentials KEY --unit bot@work.service")
    with pytest.raises(UnknownAgentError) as caught:
        agent_of(policy(OWN), make_caller(uid=1000), TELEGRAM, "user")
    assert str(caught.value.hint).endswith("avault grant telegram/credentials TOKEN --uid 1000")


def test_of_several_that_fit_the_one_called_like_the_unit_is_taken() -> None:
    caller = make_caller(uid=1000)
    agents = [Agent(name, Selectors(uids=[1000])) for name in ("cobot", "telegram")]
    assert agent_of(policy(*agents), caller, TELEGRAM, "user").name == "telegram"
    with pytest.raises(AmbiguousAgentError, match="cobot, telegram") as caught:
        agent_of(policy(*agents), caller, Wanted("weather.service", "TOKEN"), "user")
    assert "weather" in str(caught.value.hint)


def test_an_agent_with_a_socket_of_its_own_fetches_no_credentials() -> None:
    own_socket = Agent("telegram", Selectors(units=["telegram.service"], socket=True))
    caller = make_caller(uid=0, unit="telegram.service")
    with pytest.raises(UnknownAgentError):
        agent_of(policy(own_socket), caller, TELEGRAM, "system")
    assert not may_ring(policy(own_socket), "system")


@given(UNITS)
def test_a_unit_gives_the_name_of_an_agent(unit: str) -> None:
    assert is_agent_name(name_for(unit))


@pytest.mark.parametrize(
    ("unit", "name"),
    [
        ("telegram.service", "telegram"),
        ("Bot@Work.service", "bot-work"),
        ("_.service", PLUGIN),
        ("a" * 90 + ".service", "a" * 64),
    ],
)
def test_names_for_units(unit: str, name: str) -> None:
    assert name_for(unit) == name


@pytest.mark.parametrize(
    ("selectors", "system", "user"),
    [
        (Selectors(units=["telegram.service"]), True, True),
        (Selectors(uids=[1000]), False, True),
        (Selectors(socket=True), False, False),
    ],
)
def test_who_waits_may_ring_where_somebody_could_fetch(
    selectors: Selectors, system: bool, user: bool
) -> None:
    assert may_ring(policy(Agent("one", selectors)), "system") is system
    assert may_ring(policy(Agent("one", selectors)), "user") is user
    assert not may_ring(policy(), "user")
