"""MessagePack by hand, in every encoding that it allows, valid and not: what msgpack itself would never write."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from hypothesis import strategies as st

_INTEGERS = ((0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8), (0xD0, 1), (0xD1, 2), (0xD2, 4), (0xD3, 8))
_EXTENSIONS = (b"\xd4\x01\x00", b"\xd5\x01\x00\x00", b"\xc7\x02\x01\x00\x00", b"\xd6\xff\x00\x00\x00\x00")


def header(short: int | None, longs: Sequence[tuple[int, int]], size: int, choice: int) -> bytes:
    """Return one of the headers that can announce *size*: the short form, or a lead byte and its width."""
    forms = [bytes((lead,)) + size.to_bytes(width, "big") for lead, width in longs if size < 1 << 8 * width]
    if short is not None:
        forms.insert(0, bytes((short | size,)))
    return forms[choice % len(forms)]


def string(text: str, choice: int = 0) -> bytes:
    """Return *text* as a string."""
    data = text.encode()
    short = 0xA0 if len(data) < 32 else None
    return header(short, ((0xD9, 1), (0xDA, 2), (0xDB, 4)), len(data), choice) + data


def array(items: Sequence[bytes], choice: int = 0) -> bytes:
    """Return *items* as an array."""
    short = 0x90 if len(items) < 16 else None
    return header(short, ((0xDC, 2), (0xDD, 4)), len(items), choice) + b"".join(items)


def mapping(items: Sequence[tuple[bytes, bytes]], choice: int = 0) -> bytes:
    """Return *items* as a map."""
    short = 0x80 if len(items) < 16 else None
    start = header(short, ((0xDE, 2), (0xDF, 4)), len(items), choice)
    return start + b"".join(key + value for key, value in items)


def binary(data: bytes, choice: int = 0) -> bytes:
    """Return *data* as a bin."""
    return header(None, ((0xC4, 1), (0xC5, 2), (0xC6, 4)), len(data), choice) + data


_choices = st.integers(0, 3)
scalars: st.SearchStrategy[bytes] = st.one_of(
    st.sampled_from((b"\xc0", b"\xc2", b"\xc3", b"\x00", b"\x7f", b"\xe0", b"\xff")),
    st.sampled_from(_INTEGERS).flatmap(
        lambda form: st.binary(min_size=form[1], max_size=form[1]).map(lambda data: bytes((form[0],)) + data)
    ),
    st.floats(width=32).map(lambda number: struct.pack(">Bf", 0xCA, number)),
    st.floats().map(lambda number: struct.pack(">Bd", 0xCB, number)),
    st.builds(string, st.text(max_size=40), _choices),
)
bins: st.SearchStrategy[bytes] = st.builds(binary, st.binary(max_size=40), _choices)
extensions: st.SearchStrategy[bytes] = st.sampled_from(_EXTENSIONS)


def nested(leaves: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Return a strategy for any object made of *leaves*, arrays, and maps with string keys."""
    keys = st.builds(string, st.text(max_size=8), _choices)

    def extend(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
        pairs = st.lists(st.tuples(keys, inner), max_size=18)
        return st.builds(array, st.lists(inner, max_size=20), _choices) | st.builds(mapping, pairs, _choices)

    return st.recursive(leaves, extend, max_leaves=30)


anything: st.SearchStrategy[bytes] = nested(st.one_of(scalars, bins, extensions))
objects: st.SearchStrategy[bytes] = nested(scalars)
