"""masked: whatever of 64 hex digits is in a text, the parsed value holds none of it, and all of it can be had."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import pytest
from hypothesis import example, given, strategies as st

from avault_daemon.memory.arena import Arena, Slot
from avault_daemon.memory.masked import Masked, masked_json
from avault_protocol import BusyError, CorruptError
from support.slots import filled

ARENA = Arena()
TOKEN = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
RUN = re.compile("[0-9a-f]{64,}")


def masked(text: str | bytes) -> Masked:
    with filled(ARENA, text.encode() if isinstance(text, str) else text) as slot:
        return masked_json(ARENA, slot)


def opened(slot: Slot) -> str:
    with slot:
        return bytes(slot.view).hex()


def test_a_token_in_a_text() -> None:
    with filled(ARENA, json.dumps({"result": f"unlock {TOKEN}", "id": "ab" * 16}).encode()) as slot:
        with masked_json(ARENA, slot) as found:
            assert found.value == {"result": f"unlock {'0' * 64}", "id": "ab" * 16}
            text = f"unlock {'0' * 64}"
            assert found.blank(text) == text
            assert [opened(token) for token in found.tokens(text)] == [TOKEN]
            assert found.reveal(text) == f"unlock {TOKEN}"
        assert TOKEN.encode() not in bytes(slot.view)
    assert ARENA.in_use == 0


def test_several_keep_apart() -> None:
    with masked(json.dumps({"a": TOKEN, "b": [OTHER, f"{TOKEN} {OTHER}"]})) as found:
        value: Any = found.value
        assert opened(found.take(value["a"])) == TOKEN
        assert opened(found.take(value["b"][0])) == OTHER
        assert [opened(token) for token in found.tokens(value["b"][1])] == [TOKEN, OTHER]
        assert found.blank(value["b"][1]) == f"{'0' * 64} {'0' * 64}"
    assert ARENA.in_use == 0


@pytest.mark.parametrize("length", [65, 128, 5000])
def test_a_longer_run_is_no_token_and_hidden_all_the_same(length: int) -> None:
    run = (TOKEN * 100)[:length]
    with masked(json.dumps([run])) as found:
        value: Any = found.value
        assert value == ["0" * length]
        assert found.tokens(value[0]) == []
        assert found.reveal(value[0]) == run
        with pytest.raises(CorruptError):
            found.take(value[0])


@pytest.mark.parametrize("run", [TOKEN[:63], TOKEN.upper()])
def test_what_is_no_run_stays(run: str) -> None:
    with masked(json.dumps(run)) as found:
        assert found.value == run


@pytest.mark.parametrize(
    "escape", ["\\f", "\\b", "\\n", "\\u000a", "\\u00e9", "\\u0041", "\\\\", "\\/", "\\u0020"]
)
def test_digits_of_an_escape_are_not_of_the_run(escape: str) -> None:
    with masked(f'"{escape}{TOKEN}"') as found:
        assert isinstance(found.value, str)
        assert [opened(token) for token in found.tokens(found.value)] == [TOKEN]
        assert found.reveal(found.value) == json.loads(f'"{escape}"') + TOKEN


@pytest.mark.parametrize("digit", "0123456789abcdef")
def test_a_digit_as_an_escape_is_refused(digit: str) -> None:
    with pytest.raises(CorruptError, match="escape"):
        masked(f'"\\u{ord(digit):04x}{TOKEN[1:]}"')
    assert ARENA.in_use == 0


@pytest.mark.parametrize("value", [None, 5, "", "0" * 63, f" {'0' * 64}", ["0" * 64]])
def test_take_takes_one_mark(value: object) -> None:
    with masked(json.dumps(TOKEN)) as found, pytest.raises(CorruptError):
        found.take(value)


@pytest.mark.parametrize(
    "text", ["", "{", f'"{TOKEN}', TOKEN, b"\xff", "[" * 20_000, f'{{"n": 1{"0" * 5000}}}']
)
def test_no_json(text: str | bytes) -> None:
    with (
        filled(ARENA, text.encode() if isinstance(text, str) else text or b" ")
        if text
        else ARENA.take(1) as slot
    ):
        with pytest.raises(CorruptError) as caught:
            masked_json(ARENA, slot)
        assert TOKEN not in str(caught.value)
        assert caught.value.__cause__ is None
    assert ARENA.in_use == 0


def test_a_full_arena_keeps_nothing() -> None:
    arena = Arena(4096)
    text = json.dumps([TOKEN] * 40).encode()
    with filled(arena, text) as slot, pytest.raises(BusyError):
        masked_json(arena, slot)
    assert arena.in_use == 0


def test_tokens_that_find_no_room_are_wiped() -> None:
    arena = Arena(4096)
    with (
        filled(arena, json.dumps(" ".join([TOKEN] * 20)).encode()) as slot,
        masked_json(arena, slot) as found,
    ):
        before = arena.in_use
        rest = arena.take(4096 - before - 64)
        assert isinstance(found.value, str)
        with pytest.raises(BusyError):
            found.tokens(found.value)
        rest.release()
        assert arena.in_use == before


PIECES = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.just(TOKEN),
        st.text("0123456789abcdef", min_size=60, max_size=140),
        st.just("\f"),
    ),
    max_size=5,
).map("".join)
VALUES = st.recursive(
    PIECES | st.none() | st.integers(-1000, 1000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PIECES, inner, max_size=3),
    max_leaves=6,
)


def _zeros(run: re.Match[str]) -> str:
    return "0" * len(run[0])


def walked(value: Any, change: Callable[[str], str]) -> object:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        items: list[Any] = [*value]  # pyright: ignore[reportUnknownArgumentType]
        return [walked(one, change) for one in items]
    if isinstance(value, dict):
        return {change(key): walked(one, change) for key, one in cast("dict[str, Any]", value).items()}
    return value


@given(value=VALUES, ascii_only=st.booleans())
@example(value={TOKEN: TOKEN + OTHER}, ascii_only=True)
def test_nothing_is_there_and_nothing_is_lost(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    try:
        data = text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return
    with masked(data) as found:
        shown: list[str] = []

        def note(text: str) -> str:
            shown.append(text)
            return text

        walked(found.value, note)
        assert all(int(run) < 100 for text in shown for run in RUN.findall(text))
        assert walked(found.value, found.reveal) == json.loads(text)
        assert walked(found.value, found.blank) == walked(
            json.loads(text), lambda text: RUN.sub(_zeros, text)
        )
    assert ARENA.in_use == 0


@given(st.binary(max_size=300))
@example(b'"\\u' + TOKEN.encode() + b'"')
def test_rubbish_never_does_more_than_fail(data: bytes) -> None:
    with filled(ARENA, data or b" ") as slot, suppress(CorruptError):
        masked_json(ARENA, slot).release()
    assert ARENA.in_use == 0
