"""The scanner agrees with msgpack about where a message ends, or refuses it; and cannot be made to work or to wait."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgpack  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]
import pytest
from hypothesis import given, strategies as st

from avault_protocol import (
    AvaultError,
    BadRequestError,
    Extent,
    Scanner,
    TooLargeError,
    limits,
    pack_request,
    pack_response,
    unpack_head,
)
from support import wire
from support.feeding import feed_all_ways, single_bytes

Outcome = tuple[int, int, bool] | str | None
Buffers = Callable[[bytes], bytes | bytearray | memoryview]
_msgpack: Any = msgpack

GET = pack_request(7, "get_secret", {"name": "TELEGRAM_BOT_TOKEN"})


def outcome(scanner: Scanner, buffer: bytes | bytearray | memoryview, start: int = 0) -> Outcome:
    """Return what the scanner says of the whole of *buffer*, relative to *start*: an extent, None, or a code."""
    try:
        extent = scanner.scan(buffer, start, len(buffer))
    except AvaultError as error:
        return error.code
    return None if extent is None else (extent.head_end - start, extent.end - start, extent.has_value)


def decode(chunks: Iterable[bytes], scanner: Scanner | None = None) -> Outcome:
    """Return the first thing that a scanner says when its buffer grows by one chunk after another."""
    scanner = scanner or Scanner()
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        if (found := outcome(scanner, buffer)) is not None:
            return found
    return None


def msgpack_extent(data: bytes) -> int | None:
    """Return where msgpack says that the first object of *data* ends; None if it is not complete or not valid."""
    unpacker = _msgpack.Unpacker(max_buffer_size=0, strict_map_key=False)
    unpacker.feed(data)
    try:
        unpacker.skip()
    except (_msgpack.OutOfData, ValueError):
        return None
    end: int = unpacker.tell()
    return end


def test_a_request() -> None:
    assert feed_all_ways(GET, decode) == (len(GET), len(GET), False)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_535, 65_536, limits.MAX_VALUES])
def test_a_value_is_what_follows_the_head(size: int) -> None:
    head = pack_response(7, {"name": "A"}, size)
    assert feed_all_ways(head, decode) == (len(head), len(head) + size, True)


def test_a_message_somewhere_in_a_buffer() -> None:
    scanner = Scanner()
    assert outcome(scanner, b"junk" + GET + GET, 4) == (len(GET), len(GET), False)
    extent = scanner.scan(b"junk" + GET + GET, 4 + len(GET), 4 + 2 * len(GET))
    assert extent is not None
    assert extent.end == 4 + 2 * len(GET)


def test_resumes_where_it_stopped_wherever_the_buffer_went() -> None:
    """The receiver may move a half message to the start of its buffer, or into a larger one."""
    for cut in range(len(GET)):
        scanner = Scanner()
        assert scanner.scan(b"x" * 9 + GET, 9, 9 + cut) is None
        assert outcome(scanner, memoryview(bytearray(b"y" + GET)), 1) == (len(GET), len(GET), False)


def test_never_looks_beyond_stop() -> None:
    for stop in range(len(GET)):
        assert Scanner().scan(GET, 0, stop) is None


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer(kind: Buffers) -> None:
    assert outcome(Scanner(), kind(GET)) == (len(GET), len(GET), False)


@pytest.mark.parametrize(
    "data",
    [
        b"\xc1",
        b"\xc7\x01\x01\x00",  # ext 8
        b"\xc8\x00\x01\x01\x00",
        b"\xc9\x00\x00\x00\x01\x01\x00",
        *(bytes((lead, 1)) for lead in range(0xD4, 0xD9)),  # fixext
        b"\xd6\xff\x00\x00\x00\x00",  # timestamp
        b"\x94\x00\x01\xa1m\xc1",
        b"\xc4\x01a",  # a bin that is the message
        b"\x91\xc4\x01a",  # in the outermost array
        b"\x92\x91\xc4\x01a\xc0",  # not last
        b"\x94\x00\x01\xa1m\x92\xc4\x01a\x80",  # before the map
        b"\x94\x00\x01\xa1m\x91\x81\xa1k\xc4\x01a",  # within the map
        b"\x94\x00\x01\xa1m\x81\xa1k\xc4\x01a",  # a map in place of the array
        b"\x94\x00\x01\xa1m\xde\x00\x01\xa1k\xc4\x01a",
        b"\x94\x00\x01\xa1m\x91\x91\xc4\x01a",  # one deeper
        b"\x94\x00\x01\xc4\x01m\x91\x80",  # as the method
        b"\x81\xc4\x01a\xc0",  # as a key
    ],
)
def test_refuses(data: bytes) -> None:
    assert feed_all_ways(data, decode) == "bad_request"


def test_a_value_behind_long_containers() -> None:
    """The value is found whatever the encoding of what is around it."""
    for choice in range(3):
        value = wire.array([wire.mapping([], choice), wire.binary(b"secret", choice)], choice)
        message = wire.array([b"\x00", b"\x01", wire.string("put", choice), value], choice)
        head_end = len(message) - len(b"secret")
        assert decode([message]) == (head_end, len(message), True)
        assert getattr(unpack_head(message[:head_end], True), "params") == {}  # noqa: B009


# --- limits, on both sides ----------------------------------------------------------------------------------


def test_max_head() -> None:
    text = wire.string("a" * 100, 1)
    assert decode([text], Scanner(max_head=len(text))) == (len(text), len(text), False)
    assert decode([text], Scanner(max_head=len(text) - 1)) == "too_large"


@pytest.mark.parametrize("max_head", range(1, len(GET)))
def test_a_head_too_long_is_refused_whatever_it_is_cut_at(max_head: int) -> None:
    def bounded(chunks: Iterable[bytes]) -> Outcome:
        return decode(chunks, Scanner(max_head=max_head))

    assert feed_all_ways(GET, bounded) == "too_large"


def test_a_head_with_a_value_has_the_same_limit() -> None:
    head = pack_response(7, {}, 300)
    assert decode([head], Scanner(max_head=len(head))) == (len(head), len(head) + 300, True)
    assert decode([head], Scanner(max_head=len(head) - 1)) == "too_large"


def test_max_value() -> None:
    head = pack_response(7, {}, 300)
    assert decode([head], Scanner(max_value=300)) == (len(head), len(head) + 300, True)
    assert decode([head], Scanner(max_value=299)) == "too_large"


def test_the_default_limits() -> None:
    exactly = limits.MAX_HEAD - 5
    assert decode([b"\xdb" + exactly.to_bytes(4, "big")]) is None
    assert decode([b"\xdb" + (exactly + 1).to_bytes(4, "big")]) == "too_large"
    value = b"\x94\x01\x07\xc0\x92\x80\xc6"
    assert decode([value + limits.MAX_VALUES.to_bytes(4, "big")]) == (11, 11 + limits.MAX_VALUES, True)
    assert decode([value + (limits.MAX_VALUES + 1).to_bytes(4, "big")]) == "too_large"


def test_max_depth() -> None:
    deepest = b"\x91" * limits.MAX_DEPTH + b"\x00"
    assert feed_all_ways(deepest, decode) == (len(deepest), len(deepest), False)
    assert feed_all_ways(b"\x91" + deepest, decode) == "too_large"
    assert decode([b"\x81\xa0" * (limits.MAX_DEPTH + 1)]) == "too_large"


def test_depth_is_not_length() -> None:
    wide = wire.array([b"\x91\x90"] * 1000)
    assert decode([wide]) == (len(wide), len(wide), False)


def test_max_elements() -> None:
    """An array as wide as it may be, its elements in two halves; and one more."""
    half = wire.array([b"\x00"] * (limits.MAX_ELEMENTS // 2 - 1))
    most = wire.array([half, half])
    assert decode([most]) == (len(most), len(most), False)
    more = wire.array([half, half, b"\x00"])
    assert decode([more]) == "too_large"
    assert decode([more[:100], more[100:]]) == "too_large", "counted from the start of the message"


@pytest.mark.parametrize("lead", [0xDB, 0xDD, 0xDF])
def test_a_length_is_refused_as_soon_as_it_is_declared(lead: int) -> None:
    assert feed_all_ways(bytes((0x91, lead)) + b"\xff\xff\xff\xff", decode) == "too_large"


def test_a_map_counts_twice() -> None:
    half = limits.MAX_ELEMENTS // 2
    assert decode([b"\xdf" + half.to_bytes(4, "big")]) is None
    assert decode([b"\xdf" + (half + 1).to_bytes(4, "big")]) == "too_large"


# --- hostile streams ----------------------------------------------------------------------------------------


class Watched(bytes):
    """Bytes that count how often they are looked at."""

    looks = 0

    def __getitem__(self, key: Any) -> Any:
        Watched.looks += 1
        return super().__getitem__(key)  # pyright: ignore[reportUnknownVariableType]


@pytest.mark.parametrize(
    "data",
    [
        wire.array([wire.string("a" * 20_000)] * 3),
        wire.array([b"\xcf" + b"\0" * 8] * 3_000),
        wire.array([wire.mapping([(b"\xa1k", b"\x90")])] * 3_000),
    ],
)
def test_single_bytes_cost_no_more_than_a_few_looks_each(data: bytes) -> None:
    Watched.looks = 0
    scanner = Scanner()
    watched = Watched(data)
    for stop in range(len(data)):
        assert scanner.scan(watched, 0, stop) is None
    assert scanner.scan(watched, 0, len(data)) is not None
    assert Watched.looks <= 3 * len(data) + 10


def test_an_error_stays() -> None:
    """Nobody gets a second opinion by calling again."""
    scanner = Scanner()
    stream = bytearray(b"\x94\x00\x01\xa1m\x91\x81")
    assert scanner.scan(stream, 0, len(stream)) is None
    stream += b"\xa1k\xc4\x01a" + GET
    for _ in range(3):
        with pytest.raises(BadRequestError):
            scanner.scan(stream, 0, len(stream))


def test_one_scanner_serves_a_stream() -> None:
    with_value = pack_response(8, {}, 3)
    stream = GET + with_value + b"abc" + GET
    scanner, start, extents = Scanner(), 0, list[Extent]()
    while (extent := scanner.scan(stream, start, len(stream))) is not None:
        extents.append(extent)
        start = extent.end
    assert [extent.has_value for extent in extents] == [False, True, False]
    assert start == len(stream)


@pytest.mark.parametrize("size", [None, 3])
def test_nothing_of_a_message_that_came_in_pieces_is_left_for_the_next(size: int | None) -> None:
    scanner = Scanner()
    assert decode(single_bytes(pack_response(8, {}, size)), scanner) is not None
    assert outcome(scanner, GET) == (len(GET), len(GET), False)


# --- properties ---------------------------------------------------------------------------------------------


@given(wire.anything)
def test_any_object_has_the_extent_that_msgpack_says_or_is_refused(data: bytes) -> None:
    found = feed_all_ways(data, decode)
    if isinstance(found, str):
        assert found in {"bad_request", "too_large"}
    else:
        assert found is not None
        assert found[1] == msgpack_extent(data) == len(data)


@given(wire.objects)
def test_what_has_neither_bins_nor_extensions_is_refused_for_its_depth_alone(data: bytes) -> None:
    found = feed_all_ways(data, decode)
    assert found in {(len(data), len(data), False), "too_large"}


@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    found = feed_all_ways_or_none(data)
    if found is None or isinstance(found, str):
        return
    head_end, end, has_value = found
    assert 0 < head_end <= len(data)
    assert head_end == end or has_value
    if end <= len(data):
        assert msgpack_extent(data) == end


def feed_all_ways_or_none(data: bytes) -> Outcome:
    """Feed random bytes: what follows an incomplete message would complete it, so nothing does."""
    whole = decode([data])
    assert decode(single_bytes(data)) == whole
    return whole


@given(st.data(), st.integers(0, 2**32 - 1), st.binary(max_size=300))
def test_a_damaged_message(data: st.DataObject, id: int, value: bytes) -> None:
    message = bytearray(pack_request(id, "put", {"items": [{"name": "A", "size": 1}]}, len(value)) + value)
    for _ in range(data.draw(st.integers(1, 3))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    try:
        extent = Scanner().scan(message, 0, len(message))
        if extent is not None:
            unpack_head(message[: extent.head_end], extent.has_value)
    except (BadRequestError, TooLargeError):
        pass
