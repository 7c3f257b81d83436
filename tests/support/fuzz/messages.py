"""Targets: the scanner of heads, against a recursive reader of MessagePack; the decoder, against what was packed."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import msgpack  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]
from hypothesis import strategies as st

from avault_protocol import (
    AvaultError,
    Decoder,
    Notification,
    Scanner,
    limits,
    pack_notification,
    pack_request,
    pack_response,
)
from support import wire

from .target import Target

_msgpack: Any = msgpack
Found = tuple[int, int, bool] | str | None
"""An extent, the code of an error, or None for what is not complete."""


# --- the scanner ----------------------------------------------------------------------------------------------------


class Stream(NamedTuple):
    """Bytes in pieces, behind *before* others, for a scanner with these limits."""

    data: bytes
    cuts: list[int]
    before: int
    max_head: int
    max_value: int


class _Stop(Exception):
    def __init__(self, found: Found) -> None:
        self.found = found


class _Walk:
    """Goes over one object, by recursion; ends by `_Stop`, or with *end* behind the object."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.end = 0
        self.children = 0

    def need(self, size: int) -> bytes:
        """Take the next *size* bytes."""
        start, self.end = self.end, self.end + size
        if self.end > self.stream.max_head:
            raise _Stop("too_large")
        if self.end > len(self.stream.data):
            raise _Stop(None)
        return self.stream.data[start : self.end]

    def number(self, size: int) -> int:
        return int.from_bytes(self.need(size), "big")

    def element(self, path: tuple[tuple[bool, bool], ...]) -> None:
        """Go over an element; *path*: of each container around it, whether it is an array, and this its last."""
        lead = self.need(1)[0]
        if lead in (0xC1, 0xC7, 0xC8, 0xC9, *range(0xD4, 0xD9)):
            raise _Stop("bad_request")
        if 0x80 <= lead <= 0x9F:
            self.container(path, lead & 15, is_array=lead >= 0x90)
        elif lead in (0xDC, 0xDD, 0xDE, 0xDF):
            self.container(path, self.number(2 << (lead & 1)), is_array=lead < 0xDE)
        elif lead in (0xC4, 0xC5, 0xC6):
            self.value(path, self.number(1 << lead - 0xC4))
        elif lead in (0xD9, 0xDA, 0xDB):
            self.need(self.number(1 << lead - 0xD9))
        elif 0xA0 <= lead <= 0xBF:
            self.need(lead & 31)
        elif 0xCA <= lead <= 0xD3:
            self.need((4, 8, 1, 2, 4, 8, 1, 2, 4, 8)[lead - 0xCA])

    def container(self, path: tuple[tuple[bool, bool], ...], size: int, *, is_array: bool) -> None:
        count = size if is_array else 2 * size
        self.children += count
        if self.children > limits.MAX_ELEMENTS or len(path) >= limits.MAX_DEPTH:
            raise _Stop("too_large")
        for number in range(1, count + 1):
            self.element((*path, (is_array, number == count)))

    def value(self, path: tuple[tuple[bool, bool], ...], size: int) -> None:
        if len(path) != 2 or not (path[0][1] and path[1][1] and path[1][0]):
            raise _Stop("bad_request")
        if size > self.stream.max_value:
            raise _Stop("too_large")
        raise _Stop((self.end, self.end + size, True))


def walked(stream: Stream) -> Found:
    """Return what SPEC.md says of the first message of *stream*."""
    walk = _Walk(stream)
    try:
        walk.element(())
    except _Stop as stop:
        return stop.found
    return walk.end, walk.end, False


def scanned(stream: Stream) -> Found:
    """Return what our scanner says when its buffer grows piece by piece."""
    scanner = Scanner(max_head=stream.max_head, max_value=stream.max_value)
    buffer = bytes(stream.before) + stream.data
    try:
        for stop in (*sorted(stream.cuts), len(stream.data)):
            extent = scanner.scan(buffer, stream.before, stream.before + min(stop, len(stream.data)))
            if extent is not None:
                return extent.head_end - stream.before, extent.end - stream.before, extent.has_value
    except AvaultError as error:
        return error.code
    return None


def _check_scanner(stream: Stream) -> None:
    assert scanned(stream) == walked(stream)


_PARTS = wire.scalars | wire.bins | wire.objects


@st.composite
def _messages(draw: st.DrawFn) -> bytes:
    """Draw an array that has another one in it, as its last element or elsewhere, which may end with a value."""
    inner = draw(st.lists(_PARTS, max_size=2)) + draw(st.lists(wire.bins, max_size=1))
    parts = draw(st.lists(wire.scalars, max_size=3))
    parts.insert(len(parts) - draw(st.sampled_from((0, 0, 0, 1))), wire.array(inner, draw(st.integers(0, 2))))
    whole = wire.array(parts, draw(st.integers(0, 2)))
    return wire.array([whole]) if draw(st.sampled_from((False,) * 5 + (True,))) else whole


MESSAGES = wire.anything | _messages()


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Draw bytes of *whole*, half of them with a few others in some place."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 2)))):
        start = draw(st.integers(0, len(data)))
        data[start : start + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data)


@st.composite
def _streams(draw: st.DrawFn) -> Stream:
    data = draw(damaged(MESSAGES))
    near = st.integers(max(1, len(data) - 9), len(data) + 3)
    return Stream(
        data,
        draw(st.lists(st.integers(0, len(data)), max_size=4)),
        draw(st.integers(0, 3)),
        draw(st.one_of(st.just(limits.MAX_HEAD), near)),
        draw(st.one_of(st.just(limits.MAX_VALUES), st.integers(0, 40))),
    )


# --- the decoder ----------------------------------------------------------------------------------------------------


class Frames(NamedTuple):
    """Messages, as packed and as they should be read, one behind the other and in pieces; what follows them."""

    messages: list[tuple[bytes, object]]
    rest: tuple[bytes, str | None]
    cuts: list[int]
    max_frame: int


def expected(frames: Frames) -> list[object]:
    """Return what must be read: messages up to the first that is too long, and then the error's code."""
    seen: list[object] = []
    for packed, message in frames.messages:
        if len(packed) > frames.max_frame:
            return [*seen, "too_large"]
        seen.append(message)
    rest, code = frames.rest
    if code is not None and len(rest) > frames.max_frame:
        code = "too_large"
    return seen if code is None else [*seen, code]


def decoded(frames: Frames) -> list[object]:
    """Return what our decoder reads; it must not hold what it has given out."""
    data = b"".join(packed for packed, _ in frames.messages) + frames.rest[0]
    decoder, seen, start = Decoder(max_frame=frames.max_frame), list[object](), 0
    for stop in (*sorted(frames.cuts), len(data)):
        decoder.feed(data[start:stop])
        start = max(start, stop)
        try:
            seen.extend(_plain(message) for message in decoder)
        except AvaultError as error:
            return [*seen, error.code]
    return seen


def _plain(message: Any) -> object:
    if isinstance(message, Notification):
        return [2, message.method, message.params]
    if hasattr(message, "method"):
        return [0, message.id, message.method, message.params]
    return [1, message.id, message.result]


def _check_decoder(frames: Frames) -> None:
    assert decoded(frames) == expected(frames)


Json = st.SearchStrategy[object]
_LEAVES: Json = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=20)
_FLAT: Json = (
    _LEAVES | st.lists(_LEAVES, max_size=3) | st.dictionaries(st.text(max_size=5), _LEAVES, max_size=3)
)
_VALUES: Json = _FLAT | st.lists(_FLAT, max_size=3) | st.dictionaries(st.text(max_size=5), _FLAT, max_size=3)
_MAPS = st.dictionaries(st.text(max_size=8), _VALUES, max_size=3)
_IDS = st.integers(0, 2**32 - 1)


@st.composite
def _frame(draw: st.DrawFn) -> tuple[bytes, object]:
    """Draw a message as we pack it, and what must be read."""
    number, name, params = draw(_IDS), draw(st.text(max_size=9)), draw(_MAPS)
    match draw(st.integers(0, 2)):
        case 0:
            return pack_request(number, name, params), [0, number, name, params]
        case 1:
            return pack_response(number, params), [1, number, params]
        case _:
            return pack_notification(name, params), [2, name, params]


def _repeated(messages: list[tuple[bytes, object]]) -> st.SearchStrategy[list[tuple[bytes, object]]]:
    """Draw some of the requests again, each under another id."""
    requests = [cast("list[Any]", read) for _, read in messages if cast("list[Any]", read)[0] == 0]

    def again(number: int, request: list[Any]) -> tuple[bytes, object]:
        _, _, name, params = request
        return pack_request(number, name, params), [0, number, name, params]

    drawn = st.builds(again, _IDS, st.sampled_from(requests or [[]]))
    return st.lists(drawn, max_size=3 if requests else 0)


_NO_KINDS = st.integers(3, 9) | st.booleans() | st.none() | st.text(max_size=3)
_NO_MESSAGES = (b"\xc1", b"\x80", b"\x00", b"\x90", b"\x93\xc3\xa1m\x90")


@st.composite
def _rest(draw: st.DrawFn) -> tuple[bytes, str | None]:
    """Draw what follows the messages: nothing, the beginning of another one, or an error."""
    match draw(st.sampled_from((0, 1, 2, 3, 3, 4))):
        case 0:
            return b"", None
        case 1:
            return b"\x94\x00\x07", None
        case 2:
            return draw(st.sampled_from(_NO_MESSAGES)), "bad_request"
        case 3:
            return pack_request(draw(_IDS), "put", {}, draw(st.integers(0, 300))), "bad_request"
        case _:
            return _msgpack.packb([draw(_NO_KINDS), 1, "get", [{}]]), "bad_request"


@st.composite
def _frames(draw: st.DrawFn) -> Frames:
    messages, rest = draw(st.lists(_frame(), max_size=4)), draw(_rest())
    messages += draw(_repeated(messages))
    size = draw(st.sampled_from([len(packed) for packed, _ in messages] or [1]))
    near = max(8, size + draw(st.integers(-2, 2)))
    cuts = draw(st.lists(st.integers(0, 99), max_size=4))
    return Frames(messages, rest, cuts, draw(st.sampled_from((limits.MAX_AGENT_FRAME, near))))


SCANNER = Target("scanner", _streams(), _check_scanner, 300)
DECODER = Target("decoder", _frames(), _check_decoder, 200)
