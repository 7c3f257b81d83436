"""How callers began before: only the very same caller, in the very same words, is found."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given, strategies as st

from avault_daemon.callers.policy import Caller
from avault_daemon.serving.openings import CALLERS, LONGEST, MOST, Opening, Openings
from avault_daemon.serving.standing import Standing
from avault_protocol import Decoder, Request, pack_request

CALLER = Caller(pid=7, uid=1001, gid=1001, unit="a.service", exe="/bin/a", socket_agent=None, started=99)
OTHERS: list[dict[str, object]] = [
    {"pid": 8},
    {"uid": 1002},
    {"gid": 1002},
    {"unit": None},
    {"exe": "/bin/b"},
    {"socket_agent": "cobot"},
    {"started": 98},
]


def hello(plugin: str = "telegram") -> bytes:
    return pack_request(1, "hello", {"plugin": plugin})


def opening(said: bytes) -> Opening:
    return Opening(said, 1, cast("Any", object()), "cobot", "telegram", frozenset(), Standing())


@pytest.mark.parametrize("different", OTHERS, ids=lambda one: next(iter(one)))
def test_a_caller_of_whom_anything_is_different_is_another(different: dict[str, Any]) -> None:
    openings = Openings()
    openings.note(CALLER, opening(hello()))
    assert openings.find(CALLER._replace(), hello()) is not None
    assert openings.find(CALLER._replace(**different), hello()) is None


def test_of_each_caller_the_last_ones_are_remembered() -> None:
    openings = Openings()
    for number in range(MOST):
        openings.note(CALLER, opening(hello(f"p{number}")))
    openings.note(CALLER, newer := opening(hello("p0")))
    openings.note(CALLER, opening(hello("more")))
    there = [plugin for plugin in ("p0", "p1", "p2", "more") if openings.find(CALLER, hello(plugin))]
    assert there == ["p0", "p2", "more"]
    assert openings.find(CALLER, hello("p0")) is newer


def test_the_last_callers_are_remembered() -> None:
    openings = Openings()
    callers = [CALLER._replace(pid=pid) for pid in range(1, CALLERS + 2)]
    for caller in (*callers[:-1], callers[0], callers[-1]):
        openings.note(caller, opening(hello()))
    assert [one.pid for one in callers if not openings.find(one, hello())] == [2]


@pytest.mark.parametrize(("size", "remembered"), [(LONGEST, True), (LONGEST + 1, False)])
def test_what_is_long_is_not_remembered(size: int, remembered: bool) -> None:
    openings = Openings()
    openings.note(CALLER, opening(bytes(size)))
    assert (openings.find(CALLER, bytes(size)) is not None) is remembered


def test_all_is_forgotten_when_cleared() -> None:
    openings = Openings()
    openings.note(CALLER, opening(hello()))
    openings.clear()
    assert openings.find(CALLER, hello()) is None


SAID = st.sampled_from((hello(), hello("a"), hello()[:-1], pack_request(2, "hello", {}), b"")) | st.binary(
    max_size=30
)


@given(SAID, SAID)
def test_what_is_found_is_the_first_message(first: bytes, rest: bytes) -> None:
    openings = Openings()
    openings.note(CALLER, opening(hello()))
    data = first + rest
    found = openings.find(CALLER, data)
    assert (found is not None) == data.startswith(hello())
    if found is not None:
        decoder = Decoder()
        decoder.feed(data)
        message = decoder.next_message()
        assert isinstance(message, Request)
        assert message.params == {"plugin": "telegram"}
        assert decoder.take_rest() == data[len(found.hello) :]
