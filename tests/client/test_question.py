"""A question that is asked again: its answers are what they would be if it had been asked for the first time."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from avault_client._conversation import Answer, Conversation
from avault_client._question import LONGEST_HEAD, MAX_ID, MOST, Question, the_same
from avault_protocol import (
    AvaultError,
    BadRequestError,
    LockedError,
    Notification,
    TooLargeError,
    limits,
    pack_error,
    pack_notification,
    pack_request,
    pack_response,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


VALUE = b"hunter2-hunter2"
SAID = {"name": "A", "version": 3, "encoding": "text"}
TOLD = pack_notification("rotated", {"name": "A"})


def question() -> Question:
    return Question("get_secret", {"name": "A"})


def answer(id: int, value: bytes = VALUE, said: Mapping[str, object] = SAID) -> bytes:
    return pack_response(id, said, len(value)) + value


def received(conversation: Conversation, data: bytes) -> list[Answer | Notification]:
    """Hand over *data* in one piece, and return the events."""
    space = conversation.space()
    assert len(data) <= len(space)
    space[: len(data)] = data
    events: list[Answer | Notification] = []
    event = conversation.heard(len(data))
    while event is not None:
        events.append(event)
        event = conversation.next_event()
    return events


def taken(conversation: Conversation, data: bytes) -> tuple[bytes | None, Mapping[str, object]]:
    (event,) = received(conversation, data)
    assert isinstance(event, Answer)
    return None if event.value is None else bytes(event.value), event.result


@pytest.fixture
def again() -> tuple[Conversation, Question]:
    """Return a conversation on which the question has been answered under 1, and is open under 2."""
    conversation, asked = Conversation(), question()
    conversation.ask(asked)
    assert taken(conversation, answer(1)) == (VALUE, SAID)
    assert asked.answered is not None
    conversation.ask(asked)
    return conversation, asked


def test_under_every_id_it_is_the_request_of_the_protocol() -> None:
    asked = question()
    for id in range(1, MAX_ID + 1):
        assert asked.under(id) == pack_request(id, "get_secret", {"name": "A"})


@pytest.mark.parametrize("size", [0, 300, limits.MAX_VALUES])
def test_one_with_a_value_ends_where_that_begins(size: int) -> None:
    assert Question("put", {"items": []}, size).under(9) == pack_request(9, "put", {"items": []}, size)


def test_one_that_is_too_large_is_none() -> None:
    with pytest.raises(TooLargeError):
        Question("put", {}, limits.MAX_VALUES + 1)


def test_the_same_head_is_recognised_under_every_id(again: tuple[Conversation, Question]) -> None:
    """Were it read anew, it would be remembered anew."""
    conversation, asked = again
    before = asked.answered
    for number in range(2, 2 * MAX_ID):
        value = number.to_bytes(len(VALUE), "big")
        assert taken(conversation, answer((number - 1) % MAX_ID + 1, value)) == (value, SAID)
        assert asked.answered is before
        assert not any(conversation.buffer)
        conversation.ask(asked)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (VALUE, {**SAID, "version": 4}),
        (VALUE, {**SAID, "version": 300}),
        (VALUE, {**SAID, "encoding": "base64"}),
        (VALUE, {**SAID, "name": "B"}),
        (VALUE, {}),
        (VALUE[1:], SAID),
        (VALUE + b"3", SAID),
        (b"", SAID),
        (bytes(300), SAID),
    ],
)
def test_another_head_is_read_and_remembered_instead(
    again: tuple[Conversation, Question], value: bytes, said: Mapping[str, object]
) -> None:
    conversation, asked = again
    before = asked.answered
    assert taken(conversation, answer(2, value, said)) == (value, said)
    assert asked.answered is not before
    assert not any(conversation.buffer)
    conversation.ask(asked)
    assert taken(conversation, answer(3, value, said)) == (value, said)


def wide(data: bytes, id: bytes) -> bytes:
    """Write the id of *data* as *id*, of more bytes than it needs."""
    return data[:2] + id + data[3:]


@pytest.mark.parametrize("id", [b"\xcc\x02", b"\xcd\0\x02", b"\xce\0\0\0\x02"])
def test_an_id_in_more_bytes_is_the_same_id_and_not_remembered(
    again: tuple[Conversation, Question], id: bytes
) -> None:
    conversation, asked = again
    assert taken(conversation, wide(answer(2), id)) == (VALUE, SAID)
    assert asked.answered is None
    conversation.ask(asked)
    assert taken(conversation, answer(3)) == (VALUE, SAID)


def test_a_list_in_more_bytes_is_the_same_list_and_not_remembered(
    again: tuple[Conversation, Question],
) -> None:
    conversation, asked = again
    assert taken(conversation, b"\xdc\0\x04" + answer(2)[1:]) == (VALUE, SAID)
    assert asked.answered is None


@pytest.mark.parametrize("data", [answer(1), answer(3), answer(0), wide(answer(2), b"\xcc\x03")])
def test_an_answer_under_another_id_is_an_error(again: tuple[Conversation, Question], data: bytes) -> None:
    with pytest.raises(BadRequestError, match="not open"):
        received(again[0], data)


def test_a_request_with_the_bytes_of_an_answer_is_an_error(again: tuple[Conversation, Question]) -> None:
    with pytest.raises(BadRequestError):
        received(again[0], b"\x94\0" + answer(2)[2:])


def test_a_second_answer_is_an_error(again: tuple[Conversation, Question]) -> None:
    with pytest.raises(BadRequestError, match="not open"):
        received(again[0], 2 * answer(2))


def test_an_answer_to_nothing_is_an_error(again: tuple[Conversation, Question]) -> None:
    conversation, _ = again
    taken(conversation, answer(2))
    for data in (answer(2), answer(3)):
        with pytest.raises(BadRequestError, match="not open"):
            received(conversation, data)


@pytest.mark.parametrize("cut", range(1, len(answer(2))))
def test_wherever_the_bytes_are_cut_it_is_the_same(again: tuple[Conversation, Question], cut: int) -> None:
    conversation, asked = again
    for id in (2, 3):
        data = answer(id)
        assert received(conversation, data[:cut]) == []
        assert taken(conversation, data[cut:]) == (VALUE, SAID)
        assert not any(conversation.buffer)
        conversation.ask(asked)
    assert taken(conversation, answer(4)) == (VALUE, SAID)


@pytest.mark.parametrize("cut", range(1, len(answer(2))))
def test_an_answer_that_began_before_its_question_is_read_to_its_end(cut: int) -> None:
    """A scanner that was left within it would take the next message for the rest of this one."""
    conversation, asked = Conversation(), question()
    conversation.ask(asked)
    early = answer(2)[:cut]
    assert len(received(conversation, answer(1) + early)) == 1
    conversation.ask(asked)
    assert taken(conversation, answer(2)[cut:]) == (VALUE, SAID)
    conversation.ask(asked)
    assert taken(conversation, answer(3)) == (VALUE, SAID)


@pytest.mark.parametrize("cut", range(len(TOLD) + 1))
def test_notifications_before_and_behind_are_told(again: tuple[Conversation, Question], cut: int) -> None:
    conversation, asked = again
    events = received(conversation, TOLD[:cut])
    for id in (2, 3):
        events += received(conversation, TOLD[cut:] + answer(id) + TOLD[:cut])
        conversation.ask(asked)
    assert [type(event) for event in events[:4]] == [Notification, Answer, Notification, Answer]
    assert [event.value for event in events if isinstance(event, Answer)] == 2 * [bytearray(VALUE)]


def test_an_error_in_between_changes_nothing(again: tuple[Conversation, Question]) -> None:
    conversation, asked = again
    before = asked.answered
    (refused,) = received(conversation, pack_error(2, LockedError()))
    assert isinstance(refused, Answer)
    assert isinstance(refused.error, LockedError)
    assert refused.value is None
    conversation.ask(asked)
    assert taken(conversation, answer(3)) == (VALUE, SAID)
    assert asked.answered is before


def test_no_value_is_no_answer_the_second_time_either(again: tuple[Conversation, Question]) -> None:
    with pytest.raises(BadRequestError, match="sent no value"):
        received(again[0], pack_response(2, SAID))


def test_what_one_connection_learned_holds_on_another(again: tuple[Conversation, Question]) -> None:
    """As for threads, and after a restart: only what is the same byte for byte is taken to be the same."""
    _, asked = again
    other = Conversation()
    before = asked.answered
    other.ask(asked)
    assert taken(other, answer(1)) == (VALUE, SAID)
    assert asked.answered is before


@pytest.mark.parametrize("size", [LONGEST_HEAD, LONGEST_HEAD + 1])
def test_a_head_over_the_limit_is_not_remembered(size: int) -> None:
    conversation, asked = Conversation(), question()
    bare = len(pack_response(1, {"name": "x" * 256}, len(VALUE)))
    said: dict[str, object] = {"name": "x" * (256 + size - bare)}
    for id in (1, 2):
        conversation.ask(asked)
        assert taken(conversation, answer(id, said=said)) == (VALUE, said)
        assert (asked.answered is not None) == (size == LONGEST_HEAD)


def outcomes(script: list[list[bytes]], asked: list[Question], hello: Question | None = None) -> list[object]:
    """Return what becomes of answers on one connection, each in the pieces it arrives in, up to the first error."""
    conversation = Conversation()
    found: list[object] = []
    try:
        for pieces, one in zip(script, asked, strict=True):
            conversation.ask(one, hello)
            events = [event for piece in pieces for event in received(conversation, piece)]
            found += [seen(event) for event in events]
            if not any(isinstance(event, Answer) for event in events):
                break  # it waits for more
    except AvaultError as error:
        found.append(str(error))
    return [*found, bytes(conversation.buffer).strip(b"\0")]


def seen(event: Answer | Notification) -> object:
    """Return all that there is to see of *event*."""
    if isinstance(event, Notification):
        return event.method, event.params
    return event.result, event.value, repr(event.error)


ANSWERS = st.tuples(
    st.sampled_from([1, 1, 1, 2]),  # what is added to the id, less one
    st.sampled_from([VALUE, VALUE, VALUE[::-1], b""]),
    st.sampled_from([3, 3, 3, 4]),  # its version
    st.none() | st.tuples(st.integers(0, 60), st.integers(0, 255)),  # a byte that is replaced
    st.sampled_from([b"", b"", b"", TOLD]),  # before it
    st.sampled_from([b"", b"", b"", b"", TOLD, TOLD[:5], answer(1)]),  # and behind
    st.just([]) | st.lists(st.integers(1, 80), max_size=2),  # where it is cut
)


def arrives(
    number: int,
    drawn: tuple[int, bytes, int, tuple[int, int] | None, bytes, bytes, list[int]],
) -> list[bytes]:
    """Return the pieces in which the answer to the question before the *number*-th arrives."""
    more, value, version, change, before, behind, cuts = drawn
    data = bytearray(answer(number + more, value, {**SAID, "version": version}))
    if change is not None and change[0] < len(data):
        data[change[0]] = change[1]
    whole = before + bytes(data) + behind
    ends = [0, *sorted({cut for cut in cuts if cut < len(whole)}), len(whole)]
    return [whole[start:end] for start, end in pairwise(ends)]


@given(st.lists(ANSWERS, max_size=6))
def test_who_remembers_and_who_does_not_come_to_the_same(
    script: list[tuple[int, bytes, int, tuple[int, int] | None, bytes, bytes, list[int]]],
) -> None:
    sent = [[answer(1)], *(arrives(number, drawn) for number, drawn in enumerate(script, start=1))]
    asked = question()
    assert outcomes(sent, [asked] * len(sent)) == outcomes(sent, [question() for _ in sent])


# --- and on a new connection, behind a hello ------------------------------------------------------------------------

GREETED = {"protocol": 1, "agent": "cobot", "granted": ["A"]}


def hello() -> Question:
    return Question("hello", {"protocol": 1, "plugin": "p", "secrets": ["A"]})


def test_a_greeting_that_is_the_same_is_recognised_with_the_answer_behind_it() -> None:
    greeting, asked = hello(), question()
    stream = pack_response(1, GREETED) + answer(2)
    remembered: list[object] = []
    for _ in range(3):
        conversation = Conversation()
        conversation.ask(asked, greeting)
        assert taken(conversation, stream) == (VALUE, SAID)
        assert not any(conversation.buffer)
        remembered.append((greeting.answered, asked.answered))
        conversation.ask(asked)
        assert taken(conversation, answer(3)) == (VALUE, SAID)
    assert remembered[1:] == remembered[:1] * 2  # were they read anew, they would be remembered anew


def test_a_hello_alone_has_no_value_the_second_time_either() -> None:
    greeting = hello()
    Conversation().ask(question(), greeting)
    for asked, before in ((question(), greeting), (greeting, None)):
        conversation = Conversation()
        conversation.ask(asked, before)
        if before is not None:
            assert taken(conversation, pack_response(1, GREETED) + answer(2)) == (VALUE, SAID)
            assert greeting.answered is not None
        else:
            assert taken(conversation, pack_response(1, GREETED)) == (None, GREETED)


GREETINGS = st.sampled_from(
    [pack_response(1, GREETED)] * 4
    + [pack_response(1, {**GREETED, "granted": []}), pack_error(1, LockedError()), b"", TOLD]
)


@given(st.lists(st.tuples(GREETINGS, ANSWERS), max_size=4))
def test_who_remembers_a_greeting_and_who_does_not_come_to_the_same(
    script: list[tuple[bytes, tuple[int, bytes, int, tuple[int, int] | None, bytes, bytes, list[int]]]],
) -> None:
    greeting, asked = hello(), question()
    connections = [[pack_response(1, GREETED) + answer(2)]]
    for greeted, drawn in script:
        first, *others = arrives(1, drawn)
        connections.append([greeted + first, *others])
    for pieces in connections:
        assert outcomes([pieces], [asked], greeting) == outcomes([pieces], [question()], hello())


# --- what a process remembers ---------------------------------------------------------------------------------------


def test_what_was_asked_by_one_is_the_same_to_the_next() -> None:
    first = the_same(("a", None), question)
    assert the_same(("a", None), question) is first
    assert the_same(("a", "b"), question) is not first


def test_a_process_remembers_so_many() -> None:
    keys = [("one of many", number) for number in range(MOST)]
    made = [the_same(key, question) for key in keys]
    for key in (("one", "more"), ("and", "another")):
        the_same(key, question)
    again = [the_same(key, question) for key in keys]
    assert sum(one is other for one, other in zip(made, again, strict=True)) < MOST


def test_what_cannot_be_remembered_is_made_each_time() -> None:
    assert the_same(([],), question) is not the_same(([],), question)
