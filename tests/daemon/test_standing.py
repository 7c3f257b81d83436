"""What was asked before: only the very same question is answered as it was."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given, strategies as st

from avault_daemon.serving.conversation import Answer
from avault_daemon.serving.standing import LONGEST, MOST, Standing
from avault_protocol import Decoder, Request, pack_request


def answered() -> Answer:
    return Answer({}, allowed=cast("Any", object()))


def asking(name: str, id: int = 1) -> bytes:
    return pack_request(id, "get_secret", {"name": name})


def test_the_same_question_has_the_same_answer_under_any_short_id() -> None:
    standing, answer = Standing(), answered()
    standing.note(asking("A"), answer)
    for id in (0, 1, 127):
        found = standing.find(asking("A", id))
        assert found is not None
        assert (found[0], found[1] is answer) == (id, True)
    for id in (128, 65536):
        assert standing.find(asking("A", id)) is None


def test_the_last_ones_are_remembered() -> None:
    standing = Standing()
    for number in range(MOST):
        standing.note(asking(f"A{number}"), answered())
    standing.note(asking("A0"), newer := answered())
    standing.note(asking("B"), answered())
    there = [name for name in ("A0", "A1", "A2", "B") if standing.find(asking(name))]
    assert there == ["A0", "A2", "B"]
    assert standing.find(asking("A0")) == (1, newer)


@pytest.mark.parametrize(("longer", "remembered"), [(0, True), (1, False)])
def test_what_is_long_is_not_remembered(longer: int, remembered: bool) -> None:
    missing = LONGEST - len(pack_request(1, "get_secret", {"name": "x" * 200}))
    data = pack_request(1, "get_secret", {"name": "x" * (200 + missing + longer)})
    assert len(data) == LONGEST + longer
    standing = Standing()
    standing.note(data, answered())
    assert (standing.find(data) is not None) is remembered


def test_neither_is_what_was_not_given_nor_a_long_id() -> None:
    standing = Standing()
    standing.note(asking("A"), Answer({}))
    standing.note(asking("B", 128), answered())
    standing.note(b"\x95" + asking("C")[1:], answered())
    assert [standing.find(asking(name)) for name in "ABC"] == [None, None, None]


PIECES = st.sampled_from(
    (b"", b"\x94", b"\x94\0", b"\x94\0\1", b"\x94\1\1", b"\x93\0\1", b"\x94\0\xcc\x80", b"\x94\0\xe0")
)
RESTS = st.sampled_from((asking("A")[3:], asking("B")[3:], asking("A")[3:] + asking("A"), b""))


@given(st.builds(bytes.__add__, PIECES, RESTS) | st.binary(max_size=60))
def test_whatever_comes_only_that_one_question_is_found(data: bytes) -> None:
    standing = Standing()
    standing.note(asking("A"), answered())
    found = standing.find(data)
    decoder = Decoder()
    decoder.feed(data)
    if found is not None:
        message = decoder.next_message()
        assert isinstance(message, Request)
        assert not decoder.take_rest()
        assert (message.id, message.method, message.params) == (found[0], "get_secret", {"name": "A"})
    else:
        assert data not in {asking("A", id) for id in range(128)}
