"""The conversation without I/O: whatever way the bytes arrive, the answers are the same, and nothing stays behind."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from avault_client._conversation import FIRST_BUFFER, Answer, Conversation
from avault_client._question import MAX_ID, Question
from avault_protocol import (
    AvaultError,
    BadRequestError,
    BusyError,
    Decoder,
    LockedError,
    Notification,
    Request,
    TooLargeError,
    limits,
    pack_error,
    pack_notification,
    pack_request,
    pack_response,
)

VALUE = b"hunter2-hunter2"


def feed(conversation: Conversation, data: bytes) -> list[Answer | Notification]:
    """Hand over *data* as a socket would, and return the events."""
    events: list[Answer | Notification] = []
    while data:
        space = conversation.space()
        count = min(len(space), len(data))
        space[:count] = data[:count]
        data = data[count:]
        event = conversation.heard(count)
        while event is not None:
            events.append(event)
            event = conversation.next_event()
    return events


def only_answer(conversation: Conversation, data: bytes) -> Answer:
    (event,) = feed(conversation, data)
    assert isinstance(event, Answer)
    return event


def value_of(answer: Answer) -> bytes | None:
    return None if answer.value is None else bytes(answer.value)


def left_in(conversation: Conversation) -> bytes:
    return bytes(conversation.buffer)


def test_a_request_is_one_of_the_protocol() -> None:
    decoder = Decoder()
    decoder.feed(Conversation().ask(Question("get_secret", {"name": "A"})))
    request = decoder.next_message()
    assert isinstance(request, Request)
    assert (request.id, request.method, request.params) == (1, "get_secret", {"name": "A"})


def test_a_value_is_taken_out_and_wiped_behind() -> None:
    conversation = Conversation()
    conversation.ask(Question("get_secret", {"name": "A"}))
    answer = only_answer(conversation, pack_response(1, {"name": "A"}, len(VALUE)) + VALUE)
    assert value_of(answer) == VALUE
    assert answer.result == {"name": "A"}
    assert not any(left_in(conversation))


def test_what_follows_a_value_is_kept_and_the_value_is_not() -> None:
    conversation = Conversation()
    conversation.ask(Question("get_secret", {"name": "A"}))
    following = pack_notification("rotated", {"name": "A"})
    answer, notification = feed(
        conversation, pack_response(1, {}, len(VALUE)) + VALUE + following + following[:3]
    )
    assert isinstance(answer, Answer)
    assert isinstance(notification, Notification)
    assert notification.params == {"name": "A"}
    assert VALUE[-3:] not in left_in(conversation)
    (again,) = feed(conversation, following[3:])
    assert isinstance(again, Notification)


def test_half_a_value_that_was_moved_to_the_front_leaves_nothing_where_it_was() -> None:
    conversation = Conversation()
    conversation.ask(Question("get_secret", {"name": "A"}))
    stream = pack_notification("locked", {}) + pack_response(1, {}, len(VALUE)) + VALUE
    (notification,) = feed(conversation, stream[:-1])
    assert isinstance(notification, Notification)
    assert left_in(conversation).count(VALUE[:-1]) == 1
    assert value_of(only_answer(conversation, stream[-1:])) == VALUE
    assert not any(left_in(conversation))


def test_close_wipes_half_a_value() -> None:
    conversation = Conversation()
    conversation.ask(Question("get_secret", {"name": "A"}))
    assert feed(conversation, pack_response(1, {}, len(VALUE)) + VALUE[:-1]) == []
    assert VALUE[:-1] in left_in(conversation)
    conversation.close()
    assert not any(left_in(conversation))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["value", "map", "error"]),
            st.binary(max_size=300),
            st.lists(st.sampled_from(["locked", "unlocked", "new-in-a-later-version"]), max_size=2),
        ),
        max_size=5,
    ),
    st.lists(st.integers(1, 200), min_size=1, max_size=10),
)
def test_however_the_bytes_are_cut_the_answers_are_the_same(
    script: list[tuple[str, bytes, list[str]]], cuts: list[int]
) -> None:
    conversation = Conversation()
    for number, (kind, value, told) in enumerate(script, start=1):
        conversation.ask(Question("get_secret" if kind == "value" else "grants", {}))
        stream = b"".join(pack_notification(method, {}) for method in told)
        if kind == "value":
            stream += pack_response(number, {"n": number}, len(value)) + value
        elif kind == "map":
            stream += pack_response(number, {"n": number})
        else:
            stream += pack_error(number, LockedError())
        events: list[Answer | Notification] = []
        position, turn = 0, 0
        while position < len(stream):
            size = cuts[turn % len(cuts)]
            events += feed(conversation, stream[position : position + size])
            position, turn = position + size, turn + 1
        *notifications, answer = events
        assert [event.method for event in notifications if isinstance(event, Notification)] == told
        assert isinstance(answer, Answer)
        assert value_of(answer) == (value if kind == "value" else None)
        assert answer.result == ({} if kind == "error" else {"n": number})
        assert isinstance(answer.error, LockedError) == (kind == "error")
        assert not any(left_in(conversation))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_an_error_or_not_an_answer_yet(noise: bytes) -> None:
    conversation = Conversation()
    conversation.ask(Question("get_secret", {"name": "A"}))
    try:
        events = feed(conversation, noise)
    except AvaultError:
        return
    assert not [event for event in events if isinstance(event, Answer) and event.error is None]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (pack_response(2, {}, 1) + b"x", "not open"),
        (pack_response(0, {}, 1) + b"x", "not open"),
        (pack_response(1, {}), "sent no value"),
        (pack_request(1, "status", {}), "sent a request"),
        (b"\xc1", "not MessagePack"),
        (b"\x93\x01\x02\x03", "neither a request"),
    ],
)
def test_what_is_no_answer_to_the_question_is_an_error(data: bytes, said: str) -> None:
    conversation = Conversation()
    conversation.ask(Question("get_secret", {"name": "A"}))
    with pytest.raises(BadRequestError, match=said):
        feed(conversation, data)


def test_a_value_where_none_was_due_is_an_error() -> None:
    conversation = Conversation()
    conversation.ask(Question("grants", {}))
    with pytest.raises(BadRequestError, match="where none was due"):
        feed(conversation, pack_response(1, {}, len(VALUE)) + VALUE)


def test_a_second_answer_is_an_error() -> None:
    conversation = Conversation()
    conversation.ask(Question("grants", {}))
    with pytest.raises(BadRequestError, match="not open"):
        feed(conversation, 2 * pack_response(1, {}))


def test_an_answer_before_any_question_is_an_error() -> None:
    with pytest.raises(BadRequestError, match="not open"):
        feed(Conversation(), pack_response(1, {}))


def test_a_second_question_before_the_answer_is_a_bug_of_ours() -> None:
    conversation = Conversation()
    conversation.ask(Question("grants", {}))
    with pytest.raises(RuntimeError, match="is open"):
        conversation.ask(Question("grants", {}))


def test_a_question_that_cannot_be_sent_leaves_the_conversation_as_it_was() -> None:
    conversation = Conversation()
    with pytest.raises(TooLargeError):
        conversation.ask(Question("request", {"reason": "x" * limits.MAX_HEAD}))
    conversation.ask(Question("grants", {}))
    assert only_answer(conversation, pack_response(1, {})).result == {}


def test_what_the_daemon_says_of_the_whole_connection_is_raised() -> None:
    conversation = Conversation()
    conversation.ask(Question("hello", {}))
    with pytest.raises(BusyError, match="too many"):
        feed(conversation, pack_error(0, BusyError("too many connections")))


@pytest.mark.parametrize("most", [100, FIRST_BUFFER])
def test_a_value_of_the_limit_passes_and_one_byte_more_does_not(most: int) -> None:
    for size in (most, most + 1):
        conversation = Conversation(max_head=64, max_value=most)
        conversation.ask(Question("get_secret", {"name": "A"}))
        data = pack_response(1, {}, size) + bytes(size)
        if size == most:
            assert value_of(only_answer(conversation, data)) == bytes(size)
        else:
            with pytest.raises(TooLargeError):
                feed(conversation, data)


def test_a_buffer_that_grows_leaves_nothing_in_the_old_one() -> None:
    conversation = Conversation(max_value=2 * FIRST_BUFFER)
    conversation.ask(Question("get_secret", {"name": "A"}))
    first = conversation.buffer
    value = b"V" * (FIRST_BUFFER + 1)
    answer = only_answer(conversation, pack_response(1, {}, len(value)) + value)
    assert value_of(answer) == value
    assert conversation.buffer is not first
    assert not any(first)
    assert not any(left_in(conversation))


def test_a_long_value_makes_it_grow_once() -> None:
    conversation = Conversation()
    conversation.ask(Question("get_secret", {"name": "A"}))
    value = b"V" * 32 * FIRST_BUFFER
    data, spaces, answer = pack_response(1, {}, len(value)) + value, 0, conversation.next_event()
    while data:
        space = memoryview(conversation.space())
        spaces += 1
        part, data = data[: len(space)], data[len(space) :]
        space[: len(part)] = part
        answer = conversation.heard(len(part))
    assert isinstance(answer, Answer)
    assert value_of(answer) == value
    assert spaces == 2


def test_a_head_over_the_limit_is_refused_while_it_arrives() -> None:
    conversation = Conversation(max_head=64, max_value=64)
    conversation.ask(Question("grants", {}))
    with pytest.raises(TooLargeError):
        feed(conversation, pack_response(1, {"granted": ["A" * 30] * 5}))


HELLO = Question("hello", {"protocol": 1, "plugin": "p", "secrets": ["A"]})
GET = Question("get_secret", {"name": "A"})


def test_a_hello_goes_before_the_first_question_in_the_same_bytes() -> None:
    decoder = Decoder()
    decoder.feed(Conversation().ask(GET, HELLO))
    requests = list(decoder)
    assert [(request.id, request.method) for request in requests if isinstance(request, Request)] == [
        (1, "hello"),
        (2, "get_secret"),
    ]


def test_of_a_hello_nothing_is_said_wherever_the_bytes_are_cut() -> None:
    told = pack_notification("locked", {})
    stream = pack_response(1, {"protocol": 1}) + told + pack_response(2, {"name": "A"}, len(VALUE)) + VALUE
    for cut in range(len(stream)):
        conversation = Conversation()
        conversation.ask(GET, HELLO)
        notification, answer = feed(conversation, stream[:cut]) + feed(conversation, stream[cut:])
        assert isinstance(notification, Notification)
        assert isinstance(answer, Answer)
        assert value_of(answer) == VALUE
        assert not any(left_in(conversation))
        conversation.ask(GET)
        again = only_answer(conversation, pack_response(3, {"name": "A"}, len(VALUE)) + VALUE)
        assert value_of(again) == VALUE


def test_a_hello_that_is_refused_is_the_error_and_no_answer_follows() -> None:
    conversation = Conversation()
    conversation.ask(GET, HELLO)
    stream = pack_error(1, BusyError("no room")) + pack_response(2, {"name": "A"}, len(VALUE)) + VALUE
    with pytest.raises(BusyError, match="no room"):
        feed(conversation, stream)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (pack_response(2, {}, 1) + b"x", "not open"),  # the question's, before the hello's
        (2 * pack_response(1, {}), "not open"),
        (pack_response(3, {}), "not open"),
        (pack_response(1, {}, 1) + b"x", "where none was due"),
    ],
)
def test_what_is_no_answer_to_a_hello_is_an_error(data: bytes, said: str) -> None:
    conversation = Conversation()
    conversation.ask(GET, HELLO)
    with pytest.raises(BadRequestError, match=said):
        feed(conversation, data)


@pytest.mark.parametrize("last_id", [MAX_ID - 2, MAX_ID - 1, MAX_ID])
def test_a_hello_and_its_question_have_ids_of_one_byte(last_id: int) -> None:
    conversation = Conversation(last_id=last_id)
    conversation.ask(GET, HELLO)
    first, second = last_id % MAX_ID + 1, (last_id + 1) % MAX_ID + 1
    stream = pack_response(first, {}) + pack_response(second, {}, len(VALUE)) + VALUE
    assert value_of(only_answer(conversation, stream)) == VALUE


def test_ids_begin_again_at_one() -> None:
    """0 is never an id of ours: the daemon answers under it what it could not read."""
    conversation = Conversation(last_id=MAX_ID - 1)
    conversation.ask(Question("grants", {}))
    assert only_answer(conversation, pack_response(MAX_ID, {})).error is None
    conversation.ask(Question("grants", {}))
    assert only_answer(conversation, pack_response(1, {})).error is None
