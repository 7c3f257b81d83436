"""Passphrase slots: what is a good new passphrase, and what is in a slot."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings, strategies as st

from avault_daemon.memory.arena import Arena
from avault_daemon.nostr.keys import SecretKey
from avault_daemon.slots import passphrase as slots
from avault_protocol import BadRequestError, CorruptError, TooLargeError, WrongPassphraseError, limits
from support.vaults import CHEAP, put_in

ARENA = Arena(1 << 16)


def check(raw: bytes) -> None:
    with put_in(ARENA, raw) as slot:
        slots.check(slot)


@pytest.mark.parametrize(
    "good", ["12345678", "ßßßßßßßß", "🔑🔑🔑🔑🔑🔑🔑🔑", "x" * limits.MAX_PASSPHRASE, "\0" * 8]
)
def test_good_ones(good: str) -> None:
    check(good.encode())


@pytest.mark.parametrize("short", ["1", "1234567", "ßßßßßßß", "🔑🔑🔑🔑🔑🔑🔑"])
def test_characters_are_counted_not_bytes(short: str) -> None:
    with pytest.raises(BadRequestError, match="less than 8 characters"):
        check(short.encode())


def test_too_long_ones() -> None:
    with pytest.raises(TooLargeError, match="1024"):
        check(b"x" * (limits.MAX_PASSPHRASE + 1))


@given(raw=st.binary(max_size=8) | st.text(max_size=8).map(str.encode))
def test_utf_8_is_what_python_takes_for_it(raw: bytes) -> None:
    try:
        raw.decode()
        valid = True
    except UnicodeDecodeError:
        valid = False
    assert slots.is_utf8(memoryview(raw)) == valid


@pytest.mark.parametrize("code", [0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF])
def test_utf_8_at_its_edges(code: int) -> None:
    raw = chr(code).encode()
    assert slots.is_utf8(memoryview(raw))
    assert not slots.is_utf8(memoryview(raw[:-1] + b"\xc0"))
    if len(raw) > 1:
        assert not slots.is_utf8(memoryview(raw[1:]))
        assert not slots.is_utf8(memoryview(raw[:-1]))


def test_a_long_value_is_checked_where_it_lies() -> None:
    raw = "schlüssel 🔑 ".encode() * 2000
    assert slots.is_utf8(memoryview(raw))
    assert not slots.is_utf8(memoryview(raw + b"\x80"))


@given(passphrase=st.text(min_size=8, max_size=40))
@settings(deadline=None, max_examples=20)
def test_what_is_put_in_a_slot_comes_out(passphrase: str) -> None:
    with SecretKey.generate(ARENA) as key, put_in(ARENA, passphrase) as given:
        content = slots.make(ARENA, key, given, CHEAP)
        with slots.open_key(ARENA, content, given, min_log_n=CHEAP) as opened:
            assert opened.public == key.public
        with put_in(ARENA, passphrase + "x") as wrong, pytest.raises(WrongPassphraseError):
            slots.open_key(ARENA, content, wrong, min_log_n=CHEAP)
    assert slots.log_n_of(content) == CHEAP
    assert list(json.loads(content)) == ["type", "ncryptsec"]
    assert ARENA.in_use == 0


def content() -> str:
    with SecretKey.generate(ARENA) as key, put_in(ARENA, "a passphrase") as given:
        return slots.make(ARENA, key, given, CHEAP)


CONTENT = content()


@pytest.mark.parametrize(
    "odd",
    [
        "",
        "{}",
        CONTENT.replace(",", ", "),
        CONTENT.replace("}", ',"more":1}'),
        CONTENT.replace("passphrase", "phone"),
        CONTENT.replace("ncryptsec1", "NCRYPTSEC1"),
        CONTENT[:-3] + '"}',
        CONTENT[:60] + ("q" if CONTENT[60] != "q" else "p") + CONTENT[61:],
    ],
)
def test_other_contents_are_errors(odd: str) -> None:
    with pytest.raises(CorruptError):
        slots.log_n_of(odd)
    with put_in(ARENA, "a passphrase") as given, pytest.raises(CorruptError):
        slots.open_key(ARENA, odd, given, min_log_n=CHEAP)


def test_the_cost_is_looked_at_before_it_is_spent() -> None:
    with put_in(ARENA, "a passphrase") as given, pytest.raises(CorruptError, match="log_n 1"):
        slots.open_key(ARENA, CONTENT, given, min_log_n=16)
