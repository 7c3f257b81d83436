"""The decoder gives the same messages however they arrive, and holds no more than it must."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, strategies as st

from avault_protocol import (
    AvaultError,
    BadRequestError,
    Decoder,
    Notification,
    Request,
    TooLargeError,
    limits,
    pack_notification,
    pack_request,
    pack_response,
)
from support.feeding import feed_all_ways

GET = pack_request(7, "get_secret", {"name": "A"})


def decode(chunks: Iterable[bytes]) -> list[object]:
    """Return the ids of the messages (the methods, of notifications), and the code of the error that ended it."""
    decoder, seen = Decoder(), list[object]()
    for chunk in chunks:
        decoder.feed(chunk)
        try:
            seen.extend(name(message) for message in decoder)
        except AvaultError as error:
            return [*seen, error.code]
    return seen


def name(message: object) -> object:
    """Return what tells a message from the others of a test."""
    return message.method if isinstance(message, Notification) else getattr(message, "id", None)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=10))
def test_any_number_of_messages(ids: list[int]) -> None:
    stream = b"".join(pack_request(id, "get_secret", {"name": "A"}) for id in ids)
    assert feed_all_ways(stream, decode) == ids


def test_every_kind_of_message() -> None:
    stream = GET + pack_response(8, {"a": [1]}) + pack_notification("locked", {})
    assert feed_all_ways(stream, decode) == [7, 8, "locked"]


def test_nothing_yet() -> None:
    decoder = Decoder()
    assert decoder.next_message() is None
    decoder.feed(GET[:-1])
    assert decoder.next_message() is None
    decoder.feed(memoryview(GET)[-1:])
    message = decoder.next_message()
    assert isinstance(message, Request)
    assert message.params == {"name": "A"}
    assert decoder.next_message() is None


@pytest.mark.parametrize("fault", [b"GET / HTTP/1.1\r\n", b"\x80", b"\xc1", pack_request(1, "put", {}, 0)])
def test_messages_before_a_fault_are_given_and_none_behind_it(fault: bytes) -> None:
    assert feed_all_ways(GET + fault + GET, decode) == [7, "bad_request"]


@pytest.mark.parametrize("size", [0, 1, 300, limits.MAX_VALUES])
def test_no_value(size: int) -> None:
    assert feed_all_ways(pack_request(1, "put", {}, size), decode) == ["bad_request"]


@pytest.mark.parametrize("fault", [b"\x80", b"\xc1", pack_request(1, "put", {}, 1), b"\xdb\xff\xff\xff\xff"])
def test_an_error_stays(fault: bytes) -> None:
    decoder = Decoder()
    decoder.feed(fault)
    for _ in range(3):
        with pytest.raises((BadRequestError, TooLargeError)):
            decoder.next_message()
        decoder.feed(GET)


def test_max_frame() -> None:
    assert decode_within(len(GET)) == 7
    with pytest.raises(TooLargeError):
        decode_within(len(GET) - 1)


def decode_within(max_frame: int) -> object:
    """Return the id of the one message."""
    decoder = Decoder(max_frame=max_frame)
    decoder.feed(GET)
    return name(decoder.next_message())


def test_an_agents_largest_hello_fits() -> None:
    names = [f"{i:03}".rjust(128, "A") for i in range(limits.MAX_DECLARED)]
    hello = pack_request(1, "hello", {"protocol": 1, "plugin": "p" * 64, "agent": "a" * 64, "secrets": names})
    assert len(hello) <= limits.MAX_AGENT_FRAME
    assert decode([hello]) == [1]


@pytest.mark.parametrize(("pairs", "read"), [(141, [1]), (142, ["too_large"])])
def test_an_agents_message_has_so_many_elements(pairs: int, read: list[object]) -> None:
    params = {f"{number:03}": None for number in range(pairs)}
    assert limits.MAX_AGENT_ELEMENTS - 1 == 4 + 1 + 2 * 141
    assert decode([pack_request(1, "hello", params)]) == read


def test_more_than_an_agents_frame_is_refused_before_it_is_there() -> None:
    size = limits.MAX_AGENT_FRAME
    assert decode([b"\x94\x00\x01\xa1m\x91\x81\xa1k\xdb" + size.to_bytes(4, "big")]) == ["too_large"]
