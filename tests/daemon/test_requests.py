"""What waits for the operator: coalesced, bounded, immutable."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from avault_daemon.callers.requests import (
    DENIED_FOR,
    MAX_CALLERS,
    MAX_CALLERS_PER_UID,
    CallerRequest,
    Requests,
    SecretRequest,
)
from avault_daemon.callers.session import Session
from avault_protocol import NotFoundError
from avault_protocol.limits import MAX_REQUESTS_PER_AGENT
from support.callers import make_caller
from support.clock import Clock


def session(agent: str = "cobot", plugin: str = "telegram", **caller: Any) -> Session:
    return Session(make_caller(**caller), agent, plugin, set())


def make(clock: Clock | None = None) -> tuple[Requests, Clock]:
    clock = clock or Clock()
    return Requests(clock, monotonic=clock, first=1), clock


def test_a_wanted_secret_is_shown_with_who_wants_it_and_why() -> None:
    requests, clock = make()
    assert requests.file_secret(session(unit="cobot.service"), ["TOKEN"], "to post") == [1]
    assert [request.to_json() for request in requests.pending()] == [
        {
            "id": 1,
            "kind": "secret",
            "agent": "cobot",
            "plugin": "telegram",
            "names": ["TOKEN"],
            "reason": "to post",
            "pid": 4711,
            "uid": 1001,
            "unit": "cobot.service",
            "exe": "/usr/bin/python3",
            "since": int(clock.now),
        }
    ]


def test_an_unknown_caller_is_shown_with_what_is_known_of_it() -> None:
    requests, clock = make()
    assert requests.file_caller(make_caller(uid=1007, exe=None), "hermes", "weather", ["KEY", "TOKEN"]) == 1
    assert requests.get(1).to_json() == {
        "id": 1,
        "kind": "agent",
        "agent": "hermes",
        "plugin": "weather",
        "names": ["KEY", "TOKEN"],
        "reason": "",
        "pid": 4711,
        "uid": 1007,
        "unit": None,
        "exe": None,
        "since": int(clock.now),
    }


def test_the_same_again_is_the_same_request_and_it_never_changes() -> None:
    requests, _ = make()
    requests.file_secret(session(), ["TOKEN"], "to post")
    before = requests.get(1)
    assert requests.file_secret(session(pid=9), ["TOKEN", "KEY"], "something else") == [1, 2]
    assert requests.get(1) is before
    caller = make_caller(uid=1007)
    third = requests.file_caller(caller, None, "weather", ["KEY", "TOKEN"])
    assert requests.file_caller(make_caller(uid=1007, pid=10), None, "weather", ["TOKEN", "KEY"]) == third


@pytest.mark.parametrize(
    "other", [session("hermes"), session(plugin="weather")], ids=["other agent", "other plugin"]
)
def test_what_another_wants_is_another_request(other: Session) -> None:
    requests, _ = make()
    assert requests.file_secret(session(), ["TOKEN"]) == [1]
    assert requests.file_secret(other, ["TOKEN"]) == [2]


def test_an_agent_has_thirty_two_requests_and_another_has_its_own() -> None:
    requests, _ = make()
    names = [f"N{number}" for number in range(MAX_REQUESTS_PER_AGENT + 1)]
    assert requests.file_secret(session(), names[:-1]) == list(range(1, MAX_REQUESTS_PER_AGENT + 1))
    assert requests.file_secret(session(plugin="weather"), names[-1:]) == []
    assert requests.file_secret(session(), names[:1]) == [1]
    assert requests.file_secret(session("hermes"), names[-1:]) == [MAX_REQUESTS_PER_AGENT + 1]
    requests.take(1)
    assert requests.file_secret(session(), names[-1:]) == [MAX_REQUESTS_PER_AGENT + 2]


def test_a_uid_has_eight_unknown_callers() -> None:
    requests, _ = make()
    for number in range(MAX_CALLERS_PER_UID):
        assert requests.file_caller(make_caller(), None, f"p{number}", []) is not None
    assert requests.file_caller(make_caller(), None, "one-more", []) is None
    assert requests.file_caller(make_caller(uid=1002), None, "one-more", []) is not None


def test_all_unknown_callers_together_have_a_limit() -> None:
    requests, _ = make()
    for uid in range(MAX_CALLERS):
        assert requests.file_caller(make_caller(uid=uid), None, "p", []) is not None
    assert requests.file_caller(make_caller(uid=9999), None, "p", []) is None
    assert requests.file_secret(session(), ["TOKEN"]) != []


def test_a_denial_holds_for_an_hour() -> None:
    requests, clock = make()
    requests.file_secret(session(), ["TOKEN", "KEY"])
    requests.deny([1])
    clock.now += DENIED_FOR - 1
    assert requests.file_secret(session(), ["TOKEN", "KEY"]) == [2]
    clock.now += 1
    assert requests.file_secret(session(), ["TOKEN"]) == [3]


def test_a_denied_caller_is_not_heard_for_an_hour_either() -> None:
    requests, clock = make()
    requests.file_caller(make_caller(), None, "p", ["A"])
    requests.deny([1])
    assert requests.file_caller(make_caller(pid=5), None, "p", ["A"]) is None
    clock.now += DENIED_FOR
    assert requests.file_caller(make_caller(), None, "p", ["A"]) == 2


def test_denying_one_that_is_not_there_denies_none() -> None:
    requests, _ = make()
    requests.file_secret(session(), ["TOKEN"])
    with pytest.raises(NotFoundError, match="no request 7"):
        requests.deny([1, 7])
    assert [request.id for request in requests.pending()] == [1]


def test_what_was_approved_is_taken_out_once() -> None:
    requests, _ = make()
    requests.file_secret(session(), ["TOKEN"])
    taken = requests.take(1)
    assert isinstance(taken, SecretRequest)
    assert requests.pending() == []
    with pytest.raises(NotFoundError):
        requests.take(1)
    assert requests.file_secret(session(), ["TOKEN"]) == [2]


def test_a_grant_settles_what_waited_for_it_and_forgets_a_denial() -> None:
    requests, _ = make()
    requests.file_secret(session(), ["TOKEN", "KEY", "OTHER"])
    requests.deny([1])
    requests.settle("cobot", "telegram", ["TOKEN", "KEY", "NEVER_ASKED"])
    assert [request.to_json()["names"] for request in requests.pending()] == [["OTHER"]]
    assert requests.file_secret(session(), ["TOKEN"]) == [4]


def test_a_caller_that_only_calls_itself_so_is_not_among_the_agents_requests() -> None:
    requests, _ = make()
    requests.file_secret(session("cobot"), ["TOKEN"])
    requests.file_caller(make_caller(uid=6666), "cobot", "telegram", ["TOKEN"])
    assert [request.id for request in requests.for_agent("cobot")] == [1]


def test_ids_begin_elsewhere_after_a_restart() -> None:
    starts = {Requests(Clock()).file_secret(session(), ["TOKEN"])[0] for _ in range(8)}
    assert len(starts) > 1


class Waiting(RuleBasedStateMachine):
    """Against a model that only knows lists."""

    def __init__(self) -> None:
        super().__init__()
        self.requests, self.clock = make()
        self.waiting: dict[int, tuple[Any, ...]] = {}
        self.snapshots: dict[int, Any] = {}
        self.denied: dict[tuple[Any, ...], float] = {}
        self.used: set[int] = set()

    def note(self, key: tuple[Any, ...], found: int | None, limited: bool) -> None:
        known = [number for number, other in self.waiting.items() if other == key]
        if known:
            assert found == known[0]
        elif limited or self.denied.get(key, 0) > self.clock.now:
            assert found is None
        else:
            assert found is not None
            assert found not in self.used
            self.used.add(found)
            self.waiting[found] = key
            self.snapshots[found] = self.requests.get(found)

    @rule(agent=st.sampled_from(["a", "b"]), plugin=st.sampled_from(["p", "q"]), number=st.integers(0, 40))
    def want(self, agent: str, plugin: str, number: int) -> None:
        key = (agent, plugin, f"N{number}")
        mine = sum(1 for other in self.waiting.values() if other[0] == agent)
        found = self.requests.file_secret(session(agent, plugin), [key[2]])
        self.note(key, found[0] if found else None, mine >= MAX_REQUESTS_PER_AGENT)

    @rule(agent=st.sampled_from(["a", "b"]))
    def want_much(self, agent: str) -> None:
        for number in range(20):
            self.want(agent, "p", number)

    @rule(uid=st.integers(1, 12), plugin=st.sampled_from("pqrstuvwxyz"))
    def call(self, uid: int, plugin: str) -> None:
        callers = [other for other in self.waiting.values() if isinstance(other[0], int)]
        full = len(callers) >= MAX_CALLERS or sum(1 for c in callers if c[0] == uid) >= MAX_CALLERS_PER_UID
        found = self.requests.file_caller(make_caller(uid=uid), None, plugin, [])
        self.note((uid, plugin, ""), found, full)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.waiting)))
        assert self.requests.take(number) is self.snapshots[number]
        del self.waiting[number]

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def deny(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.waiting)))
        self.requests.deny([number])
        self.denied[self.waiting.pop(number)] = self.clock.now + DENIED_FOR

    @rule(seconds=st.sampled_from([1, DENIED_FOR / 2, DENIED_FOR]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def all_that_waits_is_there_unchanged_in_order(self) -> None:
        pending = self.requests.pending()
        assert [request.id for request in pending] == sorted(self.waiting)
        assert all(request is self.snapshots[request.id] for request in pending)
        assert {type(request) for request in pending} <= {SecretRequest, CallerRequest}


TestWaiting = Waiting.TestCase
TestWaiting.settings = settings(max_examples=60, stateful_step_count=40)
