"""What is packed is what is unpacked; what is no message is refused; what another library writes is understood."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import msgpack  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]
import pytest
from hypothesis import given, strategies as st

from avault_protocol import (
    MAX_ID,
    AvaultError,
    BadRequestError,
    LockedError,
    Notification,
    Request,
    Response,
    Scanner,
    TooLargeError,
    limits,
    pack_error,
    pack_notification,
    pack_request,
    pack_response,
    unpack_head,
)
from support import wire

_msgpack: Any = msgpack

ids = st.integers(0, MAX_ID)
maps = st.dictionaries(
    st.text(max_size=10),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats(allow_nan=False)
        | st.text(max_size=40),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=5,
)
sizes = st.none() | st.integers(0, limits.MAX_VALUES)


def receive(head: bytes, size: int | None) -> Request | Response | Notification:
    """Return the message that a scanner and unpack_head find, once they agree that all of it is the head."""
    extent = Scanner().scan(head, 0, len(head))
    assert extent is not None
    assert (extent.head_end, extent.end, extent.has_value) == (
        len(head),
        len(head) + (size or 0),
        size is not None,
    )
    return unpack_head(head, extent.has_value)


@given(ids, st.text(max_size=20), maps, sizes)
def test_requests(id: int, method: str, params: dict[str, object], size: int | None) -> None:
    message = receive(pack_request(id, method, params, size), size)
    assert isinstance(message, Request)
    assert (message.id, message.method, message.params) == (id, method, params)
    assert message.has_value == (size is not None)


@given(ids, maps, sizes)
def test_responses(id: int, result: dict[str, object], size: int | None) -> None:
    message = receive(pack_response(id, result, size), size)
    assert isinstance(message, Response)
    assert (message.id, message.error, message.result) == (id, None, result)
    assert message.has_value == (size is not None)


@given(st.text(max_size=20), maps)
def test_notifications(method: str, params: dict[str, object]) -> None:
    message = receive(pack_notification(method, params), None)
    assert isinstance(message, Notification)
    assert (message.method, message.params) == (method, params)


def test_errors() -> None:
    message = receive(pack_error(3, LockedError("it is shut", hint="open it")), None)
    assert isinstance(message, Response)
    assert (message.id, message.result, message.has_value) == (3, {}, False)
    assert isinstance(message.error, LockedError)
    assert (message.error.message, message.error.hint) == ("it is shut", "open it")


def test_the_value_follows_the_head() -> None:
    head = pack_request(1, "unlock", {}, 9)
    assert _msgpack.unpackb(head + b"correct h") == [0, 1, "unlock", [{}, b"correct h"]]


@pytest.mark.parametrize(
    ("size", "header"),
    [
        (0, b"\xc4\x00"),
        (255, b"\xc4\xff"),
        (256, b"\xc5\x01\x00"),
        (65_535, b"\xc5\xff\xff"),
        (65_536, b"\xc6\x00\x01\x00\x00"),
    ],
)
def test_the_shortest_header(size: int, header: bytes) -> None:
    assert pack_response(1, {}, size) == b"\x94\x01\x01\xc0\x92\x80" + header


@pytest.mark.parametrize("number", [0xC400, 0xC4C4C4C4, 0xC50000, 0xC6000001, 0xC6C5C4])
@pytest.mark.parametrize("size", [0, 0xC4, 0xC5C4, 0x1C4C4, 0xC5C4C4])
def test_a_map_that_ends_like_a_header(number: int, size: int) -> None:
    """The bytes before the header look like one themselves; only one reading is a message."""
    head = pack_request(1, "m", {"n": number}).replace(b"\x91\x81", b"\x92\x81")
    for choice in range(3):
        header = wire.header(None, ((0xC4, 1), (0xC5, 2), (0xC6, 4)), size, choice)
        message = unpack_head(head + header, True)
        assert isinstance(message, Request)
        assert message.params == {"n": number}


@pytest.mark.parametrize("params", [[], [{}]])
def test_no_parameters(params: list[object]) -> None:
    message = unpack_head(_msgpack.packb([0, 1, "status", params]), False)
    assert isinstance(message, Request)
    assert message.params == {}


@pytest.mark.parametrize("params", [None, {}, 0, "", "a", [{}, {}], [{}, {}, {}]])
def test_a_request_without_the_array_of_parameters_can_still_be_answered(params: object) -> None:
    message = unpack_head(_msgpack.packb([0, 5, "status", params]), False)
    assert isinstance(message, Request)
    assert (message.id, message.method, message.params) == (5, "status", None)


@pytest.mark.parametrize("params", [["a"], [None], [[]], [1]])
def test_a_request_with_something_else_for_a_map_can_still_be_answered(params: list[object]) -> None:
    message = unpack_head(_msgpack.packb([0, 5, "status", params]), False)
    assert isinstance(message, Request)
    assert message.params == params[0]


def test_a_value_behind_two_maps_can_still_be_answered() -> None:
    head = _msgpack.packb([0, 5, "put", [{}, {}, b""]])
    message = unpack_head(head, True)
    assert isinstance(message, Request)
    assert (message.params, message.has_value) == (None, True)


@pytest.mark.parametrize("id", [0, MAX_ID])
def test_ids_at_their_limits(id: int) -> None:
    message = unpack_head(_msgpack.packb([0, id, "status", []]), False)
    assert isinstance(message, Request)
    assert message.id == id


NO_MESSAGES: list[object] = [
    None,
    0,
    "GET / HTTP/1.1",
    {},
    [],
    [0],
    [0, 1, "m"],
    [0, 1, "m", [{}], None],
    [3, 1, "m", [{}]],
    [-1, 1, "m", [{}]],
    [False, 1, "m", [{}]],
    [0.0, 1, "m", [{}]],
    ["0", 1, "m", [{}]],
    [0, -1, "m", [{}]],
    [0, MAX_ID + 1, "m", [{}]],
    [0, True, "m", [{}]],
    [0, 1.0, "m", [{}]],
    [0, None, "m", [{}]],
    [0, 1, None, [{}]],
    [0, 1, 1, [{}]],
    [1, 1, None, None],
    [1, 1, None, []],
    [1, 1, None, [{}]],
    [1, 1, None, "a"],
    [1, 1, {"code": "locked"}, {}],
    [1, MAX_ID + 1, None, {}],
    [True, 1, None, {}],
    [2, "m"],
    [2, 1, [{}]],
    [2, "m", [{}], None],
]


@pytest.mark.parametrize("params", [{}, ["a"], [{}, {}], None])
def test_a_notification_of_other_peoples_form_has_no_params(params: object) -> None:
    message = unpack_head(_msgpack.packb([2, "m", params]), False)
    assert isinstance(message, Notification)
    assert message.params == {}


@pytest.mark.parametrize("message", NO_MESSAGES)
def test_refuses(message: object) -> None:
    with pytest.raises(BadRequestError):
        unpack_head(_msgpack.packb(message), False)


@pytest.mark.parametrize(
    "head",
    [
        _msgpack.packb([1, 1, None, {}]),  # no header at the end
        _msgpack.packb([1, 1, None, b""]),
        _msgpack.packb([1, 1, None, [b""]]),
        _msgpack.packb([1, 1, None, [{}, {}, b""]]),
        _msgpack.packb([1, 1, {"code": "locked"}, [{}, b""]]),
        _msgpack.packb([2, "m", [{}, b""]]),
        b"\xc4\x00",
        b"\xc4",
        b"",
        b"\x94\x01\x01\xc0\x92\xc4\x00",  # an element is missing
    ],
)
def test_refuses_with_a_value(head: bytes) -> None:
    with pytest.raises(BadRequestError):
        unpack_head(head, True)


@pytest.mark.parametrize(
    "map_",
    [
        b"\x82\xa1k\x00\xa1k\x01",  # a key twice
        b"\x81\x01\x00",  # a number as key
        b"\x81\xc0\x00",
        b"\x81\x90\x00",
        b"\x81\x80\x00",
        b"\x81\xa1k\xa1\xff",  # not UTF-8
        b"\x81\xa1\xff\x00",
        b"\x81\xa1k\xa3\xed\xa0\x80",  # half a surrogate pair
        b"\x81\xa1k\xc4\x01a",  # a bin
        b"\x81\xa1k\xd4\x01\x00",  # an extension
        b"\x81\xa1k\xd6\xff\x00\x00\x00\x00",  # a timestamp
        b"\x81\xa1k",  # cut short
        b"\x80\x00",  # something behind
    ],
)
def test_refuses_maps(map_: bytes) -> None:
    with pytest.raises(BadRequestError) as caught:
        unpack_head(b"\x94\x00\x01\xa1m\x91" + map_, False)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@given(wire.anything | st.binary(max_size=100), st.booleans())
def test_anything_is_a_message_or_a_bad_request(data: bytes, has_value: bool) -> None:
    with contextlib.suppress(BadRequestError):
        assert isinstance(unpack_head(data, has_value), Request | Response | Notification)


def test_an_unknown_error_says_so() -> None:
    message = unpack_head(_msgpack.packb([1, 1, {"code": "tired", "message": "not today"}, None]), False)
    assert isinstance(message, Response)
    assert isinstance(message.error, AvaultError)
    assert message.error.code == "internal"
    assert "tired" in message.error.message


def test_nothing_is_packed_that_the_receiver_would_refuse_for_its_size() -> None:
    fits = limits.MAX_HEAD - len(pack_response(1, {"a": ""})) - 4
    assert len(pack_response(1, {"a": "x" * fits})) == limits.MAX_HEAD
    calls: list[Callable[[], bytes]] = [
        lambda: pack_response(1, {"a": "x" * (fits + 1)}),
        lambda: pack_request(1, "m", {"a": "x" * limits.MAX_HEAD}),
        lambda: pack_notification("m", {"a": "x" * limits.MAX_HEAD}),
        lambda: pack_error(1, LockedError("x" * limits.MAX_HEAD)),
        lambda: pack_response(1, {}, limits.MAX_VALUES + 1),
        lambda: pack_request(1, "m", {}, limits.MAX_VALUES + 1),
    ]
    for call in calls:
        with pytest.raises(TooLargeError):
            call()


def test_nothing_but_plain_data_is_packed() -> None:
    with pytest.raises(TypeError):
        pack_response(1, {"a": object()})
