from __future__ import annotations

from collections.abc import Generator

import pytest
from hypothesis import given, strategies as st

from avault_daemon.memory.arena import Arena
from avault_daemon.vault.cache import Cache, Value
from avault_daemon.vault.seal import Opened, SecretInfo
from avault_protocol import BusyError

ARENA = Arena(64 * 1024)


@pytest.fixture(autouse=True)
def given_back() -> Generator[None]:
    yield
    assert ARENA.in_use == 0


def opened(name: str, content: bytes, version: int = 1) -> Opened:
    slot = ARENA.take(len(content))
    slot.view[:] = content
    return Opened(SecretInfo(name, version, 1_700_000_000, "text"), slot, b"its line")


def keep(cache: Cache, name: str, content: bytes = b"value") -> Value:
    return cache.keep((name, None), opened(name, content))


def test_what_was_kept_is_there_with_all_that_an_answer_says_of_it() -> None:
    cache = Cache(ARENA)
    value = cache.keep(("A", None), opened("A", b"a value", 3))
    assert cache.get(("A", None)) is value
    assert (value.name, value.version, value.encoding, value.size) == ("A", 3, "text", 7)
    assert (bytes(value.view), value.kept, repr(value)) == (b"a value", True, "<Value of A 3>")
    assert value.result.endswith(b"\xc4\x07")
    assert (cache.get(("A", 3)), cache.get(("B", None))) == (None, None)
    cache.clear()


def test_only_the_value_itself_takes_room() -> None:
    cache = Cache(ARENA)
    whole = ARENA.take(1000)
    whole.view[:] = b"x" * 1000
    value = cache.keep(
        ("A", None), Opened(SecretInfo("A", 1, 1_700_000_000, "text"), whole.narrow(500, 10), b"")
    )
    assert ARENA.in_use == 64
    assert bytes(value.view) == b"x" * 10
    cache.clear()


def test_cleared_they_are_wiped_and_say_so() -> None:
    cache = Cache(ARENA)
    holder = ARENA.take(1)  # or the arena would be unmapped
    value = keep(cache, "A")
    view = memoryview(value.view)
    view.release()
    cache.clear()
    assert (value.kept, cache.get(("A", None))) == (False, None)
    with pytest.raises(ValueError, match="released memoryview"):
        bytes(value.view)
    with pytest.raises(ValueError, match="the value of A is not open any more"):
        _ = value.address
    value.close()
    cache.clear()
    holder.release()


@pytest.mark.parametrize(("size", "kept"), [(50, True), (51, False)])
def test_room_is_made_for_what_is_new(size: int, kept: bool) -> None:
    cache = Cache(ARENA, room=100)
    first = keep(cache, "A", b"a" * 50)
    keep(cache, "B", b"b" * size)
    assert first.kept is kept
    assert (cache.get(("A", None)) is not None) is kept
    cache.clear()


def test_what_was_asked_for_last_stays() -> None:
    cache = Cache(ARENA, room=100)
    keep(cache, "A", b"a" * 40)
    keep(cache, "B", b"b" * 40)
    cache.get(("A", None))
    keep(cache, "C", b"c" * 40)
    assert [cache.get((name, None)) is not None for name in "ABC"] == [True, False, True]
    cache.clear()


def test_a_value_larger_than_all_the_room_is_alone() -> None:
    cache = Cache(ARENA, room=10)
    keep(cache, "A")
    large = keep(cache, "B", b"b" * 11)
    assert (cache.get(("A", None)), cache.get(("B", None))) == (None, large)
    assert keep(cache, "A").kept
    assert not large.kept
    cache.clear()


def test_a_full_arena_is_an_error_and_nothing_is_lost() -> None:
    cache = Cache(ARENA)
    other = opened("A", b"value")
    with ARENA.take(ARENA.size - ARENA.in_use), pytest.raises(BusyError):
        cache.keep(("A", None), other)
    assert cache.get(("A", None)) is None


@given(st.lists(st.tuples(st.sampled_from("ABCDEF"), st.integers(1, 60)), max_size=40))
def test_never_more_than_its_room(asked: list[tuple[str, int]]) -> None:
    cache = Cache(ARENA, room=120)
    sizes: dict[str, int] = {}  # in the order of use: the model
    for name, size in asked:
        if cache.get((name, None)) is None:
            keep(cache, name, bytes((size,)) * size)
        else:
            size = sizes[name]
        sizes.pop(name, None)
        sizes[name] = size
        while sum(sizes.values()) > 120:
            del sizes[next(iter(sizes))]
        there = {name: cache.get((name, None)) for name in tuple(sizes)}
        assert {name: value and bytes(value.view) for name, value in there.items()} == {
            name: bytes((size,)) * size for name, size in sizes.items()
        }
    cache.clear()
