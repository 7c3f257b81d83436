"""The gate: decides on the snapshot of the moment, and puts every decision on record."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings, strategies as st

from avault_daemon.callers.gate import Gate
from avault_daemon.callers.policy import Agent, Policy, Selectors
from avault_daemon.callers.requests import Requests
from avault_daemon.callers.session import Session
from avault_daemon.vault import Vault
from avault_protocol import (
    LOCKED,
    STATES,
    UNLOCKED,
    AvaultError,
    BusyError,
    CorruptError,
    LockedError,
    NotFoundError,
    NotGrantedError,
)
from support.callers import make_caller
from support.clock import Clock
from support.records import Book

COBOT = Agent("cobot", Selectors(uids=[1001])).with_grants("telegram", ["TOKEN", "GONE"])


class Opened:
    """A value that was opened."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.version = 3
        self.kept = True


class FakeVault:
    """The part of a vault that the gate uses; it counts what is looked up."""

    def __init__(self) -> None:
        self.state = UNLOCKED
        self.policy = Policy({"cobot": COBOT})
        self.secrets = {"TOKEN", "OTHERS"}
        self.looked_up: list[str] = []
        self.error: AvaultError | None = None

    def value(self, name: str, version: int | None = None) -> Opened:
        self.looked_up.append(name)
        if self.error is not None:
            raise self.error
        if name not in self.secrets:
            raise NotFoundError(f"there is no secret {name}")
        return Opened(name)


class Room:
    """A gate with all that it stands between."""

    def __init__(self, directory: Path) -> None:
        self.vault = FakeVault()
        self.book = Book(directory)
        self.record = self.book.open()
        self.requests = Requests(Clock(), monotonic=Clock(), first=1)
        self.gate = Gate(cast("Vault", self.vault), self.record, self.requests, "user")
        self.session = Session(make_caller(), "cobot", "telegram", {"TOKEN", "OTHERS", "NOWHERE", "GONE"})

    def get(self, name: str, session: Session | None = None) -> Any:
        return self.gate.get(session or self.session, name)[0]

    def said(self) -> list[tuple[Any, ...]]:
        """Return what is on record: action, decision, secret, reason."""
        self.record.flush()
        return [
            (line["action"], line["decision"], line["secret"], line["reason"]) for line in self.book.lines()
        ]


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def test_what_is_declared_and_granted_is_opened_and_on_record(room: Room) -> None:
    assert room.get("TOKEN").version == 3
    assert room.said() == [("get_secret", "allowed", "TOKEN", None)]
    (line,) = room.book.lines()
    assert (line["agent"], line["plugin"], line["version"], line["uid"]) == ("cobot", "telegram", 3, 1001)
    assert room.requests.pending() == []


def test_nothing_is_on_record_before_the_flush(room: Room) -> None:
    room.get("TOKEN")
    assert room.book.lines() == []


def test_not_granted_and_not_there_are_the_same_answer(room: Room) -> None:
    answers: list[dict[str, object]] = []
    for name in ("OTHERS", "NOWHERE", "GONE"):
        with pytest.raises(NotGrantedError) as caught:
            room.get(name)
        answers.append(caught.value.to_wire())
        assert caught.value.__cause__ is None
        assert name not in str(caught.value)
    assert answers[0] == answers[1] == answers[2] == NotGrantedError().to_wire()
    assert {reason for _, _, _, reason in room.said()} == {"not_granted"}


def test_nothing_is_looked_up_before_it_is_decided(room: Room) -> None:
    for name in ("OTHERS", "NOWHERE", "UNDECLARED"):
        with pytest.raises(NotGrantedError):
            room.get(name)
    assert room.vault.looked_up == []


def test_what_is_refused_waits_for_the_operator(room: Room) -> None:
    for name in ("OTHERS", "NOWHERE", "OTHERS"):
        with pytest.raises(NotGrantedError):
            room.get(name)
    assert [request.to_json()["names"] for request in room.requests.pending()] == [["OTHERS"], ["NOWHERE"]]


def test_a_granted_secret_that_is_gone_is_not_asked_for_again(room: Room) -> None:
    with pytest.raises(NotGrantedError):
        room.get("GONE")
    assert room.requests.pending() == []


def test_what_was_not_declared_is_refused_whether_it_is_granted_or_there_or_not(room: Room) -> None:
    room.vault.policy = Policy({"cobot": COBOT.with_grants("telegram", ["OTHERS"])})
    room.session.declared.clear()
    answers: list[dict[str, object]] = []
    for name in ("TOKEN", "OTHERS", "NOWHERE"):
        with pytest.raises(NotGrantedError) as caught:
            room.get(name)
        answers.append(caught.value.to_wire())
    assert answers[0] == answers[1] == answers[2]
    assert "declare" in str(answers[0])
    assert room.requests.pending() == []
    assert len(room.said()) == 3


def test_declaring_more_later(room: Room) -> None:
    session = Session(make_caller(), "cobot", "telegram", set())
    with pytest.raises(NotGrantedError):
        room.get("TOKEN", session)
    session.request("TOKEN")
    assert room.get("TOKEN", session).name == "TOKEN"


@pytest.mark.parametrize("state", [state for state in STATES if state != UNLOCKED])
def test_while_not_unlocked_nothing_is_served_and_that_is_on_record(room: Room, state: str) -> None:
    room.vault.state = state
    for name in ("TOKEN", "OTHERS", "UNDECLARED"):
        with pytest.raises(LockedError):
            room.get(name)
    assert {(decision, reason) for _, decision, _, reason in room.said()} == {("refused", "locked")}
    assert room.vault.looked_up == []


def test_refusals_of_a_locked_vault_are_counted_not_written_each(room: Room) -> None:
    room.vault.state = LOCKED
    for _ in range(50):
        with pytest.raises(LockedError):
            room.get("TOKEN")
    assert len(room.said()) == 1


@pytest.mark.parametrize(
    "policy",
    [
        Policy(),
        Policy({"cobot": COBOT.without_grants("telegram")}),
        Policy({"cobot": COBOT.without_grants("telegram", ["TOKEN"])}),
        Policy({"cobot": COBOT.with_selectors(Selectors(uids=[1002]))}),
        Policy({"cobot": COBOT.with_selectors(Selectors(uids=[1001], socket=True))}),
        Policy({"cobot": COBOT}).locked(),
    ],
    ids=["agent gone", "plugin gone", "grant gone", "another uid", "a socket of its own", "locked"],
)
def test_a_revocation_acts_on_a_connection_that_is_open(room: Room, policy: Policy) -> None:
    room.get("TOKEN")
    room.vault.policy = policy
    with pytest.raises(NotGrantedError):
        room.get("TOKEN")
    assert room.vault.looked_up == ["TOKEN"]
    room.vault.policy = Policy({"cobot": COBOT})
    room.get("TOKEN")


def test_another_plugin_of_the_agent_has_its_own_grants(room: Room) -> None:
    with pytest.raises(NotGrantedError):
        room.get("TOKEN", Session(make_caller(), "cobot", "weather", {"TOKEN"}))


def test_what_was_given_is_given_again_and_each_time_on_record(room: Room) -> None:
    _, given = room.gate.get(room.session, "TOKEN")
    assert [room.gate.again(given), room.gate.again(given)] == [True, True]
    assert room.said() == [("get_secret", "allowed", "TOKEN", None)] * 3
    assert room.vault.looked_up == ["TOKEN"]


def test_what_is_not_open_any_more_is_not_given_again(room: Room) -> None:
    value, given = room.gate.get(room.session, "TOKEN")
    value.kept = False
    assert not room.gate.again(given)
    assert len(room.said()) == 1


def test_under_another_policy_nothing_is_given_again_not_even_one_that_says_the_same(room: Room) -> None:
    _, given = room.gate.get(room.session, "TOKEN")
    before, room.vault.policy = room.vault.policy, Policy({"cobot": COBOT})
    assert not room.gate.again(given)
    room.vault.policy = before
    assert room.gate.again(given)


def test_what_was_not_given_is_not_given_again(room: Room) -> None:
    assert not room.gate.again(None)
    assert room.said() == []


@pytest.mark.parametrize("error", [BusyError("the arena is full"), CorruptError(), LockedError()])
def test_what_opening_raises_is_on_record_and_passed_on(room: Room, error: AvaultError) -> None:
    room.vault.error = error
    with pytest.raises(type(error)):
        room.get("TOKEN")
    assert room.said() == [("get_secret", "refused", "TOKEN", error.code)]


def test_changes_and_refusals_of_other_kinds(room: Room) -> None:
    room.gate.note(make_caller(uid=1000), "grant", agent="cobot", plugin="telegram", secret="TOKEN")
    room.gate.refuse(make_caller(uid=6666), "hello", NotGrantedError(), plugin="telegram")
    assert room.said() == [
        ("grant", "allowed", "TOKEN", None),
        ("hello", "refused", None, "not_granted"),
    ]
    assert [line["uid"] for line in room.book.lines()] == [1000, 6666]


NAMES = st.sampled_from(["A", "B", "C"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("get"), NAMES),
        st.tuples(st.just("request"), NAMES),
        st.tuples(st.just("grant"), NAMES),
        st.tuples(st.just("revoke"), NAMES),
        st.tuples(st.just("store"), NAMES),
        st.tuples(st.just("remove"), NAMES),
        st.tuples(st.just("lock"), NAMES),
        st.tuples(st.just("unlock"), NAMES),
    ),
    max_size=40,
)


@settings(max_examples=80, deadline=None)
@given(steps=STEPS)
def test_whatever_happens_it_serves_just_what_is_declared_granted_there_and_unlocked(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]
) -> None:
    room = Room(tmp_path_factory.mktemp("room"))
    declared, granted, there, unlocked = set[str](), set[str](), set[str](), True
    session, room.vault.secrets, served = Session(make_caller(), "cobot", "p", set()), there, 0
    for step, name in steps:
        if step == "get":
            try:
                room.get(name, session)
                assert unlocked
                assert name in declared & granted & there
                served += 1
            except (NotGrantedError, LockedError):
                assert not unlocked or name not in declared & granted & there
        elif step == "request":
            session.request(name)
            declared.add(name)
        elif step in ("grant", "revoke"):
            (granted.add if step == "grant" else granted.discard)(name)
            room.vault.policy = Policy({"cobot": Agent("cobot", COBOT.selectors).with_grants("p", granted)})
        elif step in ("store", "remove"):
            (there.add if step == "store" else there.discard)(name)
        else:
            unlocked = step == "unlock"
            room.vault.state = UNLOCKED if unlocked else LOCKED
    assert [decision for _, decision, _, _ in room.said()].count("allowed") == served
    room.record.close()
