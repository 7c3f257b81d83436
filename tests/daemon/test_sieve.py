"""What comes from a bus, taken apart: nothing is lost, nothing long is held."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest
from hypothesis import given, strategies as st

from avault_daemon.lock_on.sieve import CHUNK, LIMIT, Sieve

_jeepney: Any = importlib.import_module("jeepney")
_fds: Any = importlib.import_module("jeepney.fds")
AT = _jeepney.DBusAddress("/a", interface="a.b")


def signal(length: int, serial: int = 1) -> bytes:
    """Return a signal of exactly *length* bytes."""
    empty = len(_jeepney.new_signal(AT, "C", "s", ("",)).serialise(serial))
    data: bytes = _jeepney.new_signal(AT, "C", "s", ("x" * (length - empty),)).serialise(serial)
    assert len(data) == length
    return data


def sieved(data: bytes, step: int) -> list[int]:
    """Return the serials of what comes through, at most *step* bytes at a time."""
    sieve, serials = Sieve(), list[int]()
    while data:
        count = min(step, sieve.bytes_desired())
        assert 0 < count <= CHUNK
        sieve.add_data(data[:count])
        data = data[count:]
        assert len(sieve._data) <= LIMIT  # pyright: ignore[reportPrivateUsage]
        message = sieve.get_next_message()
        if message is not None:
            serials.append(message.header.serial)
    assert sieve.get_next_message() is None
    return serials


LENGTHS = st.one_of(st.integers(100, 2000), st.integers(LIMIT - 2, LIMIT + 2), st.integers(LIMIT, 5 * CHUNK))


@given(st.lists(LENGTHS, max_size=6), st.one_of(st.integers(1, 40), st.integers(1, 2 * CHUNK)))
def test_all_comes_through_that_is_not_too_long(lengths: list[int], step: int) -> None:
    data = b"".join(signal(length, serial) for serial, length in enumerate(lengths, 1))
    step = max(step, len(data) // 2000)
    assert sieved(data, step) == [serial for serial, n in enumerate(lengths, 1) if n <= LIMIT]


def test_the_limit_is_exact() -> None:
    assert sieved(signal(LIMIT), CHUNK) == [1]
    assert sieved(signal(LIMIT + 1), CHUNK) == []


@pytest.mark.parametrize("length", [200, LIMIT + 1])
def test_descriptors_stay_with_their_message(length: int) -> None:
    """Even those that it does not speak of; and they are closed with it."""
    sieve, (mine, theirs) = Sieve(), os.pipe()
    data = signal(length)
    stray = _fds.FileDescriptor(theirs)
    sieve.add_data(data[:16], [stray])
    sieve.add_data(data[16:])
    sieve.get_next_message()
    stray.close()
    assert sieve._descriptors == []  # pyright: ignore[reportPrivateUsage]
    assert os.read(mine, 1) == b""
    os.close(mine)
    other = signal(200, 7)
    sieve.add_data(other[:16])
    sieve.add_data(other[16:])
    assert sieve.get_next_message().header.serial == 7


def test_what_is_no_message_is_told() -> None:
    with pytest.raises(ValueError, match=r"no message of D-Bus begins so"):
        Sieve().add_data(b"x" * 16)
