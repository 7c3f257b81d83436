"""event: NIP-01 against nostr-sdk, one form a line, and everything else refused."""

from __future__ import annotations

import json
from typing import Any

import nostr_sdk  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]
import pytest
from hypothesis import example, given, strategies as st

from avault_daemon.memory.arena import Arena
from avault_daemon.nostr.event import MAX_TIME, Event
from avault_daemon.nostr.keys import SecretKey
from avault_protocol import CorruptError, LockedError
from support.slots import secret_key

ARENA = Arena(1 << 16)  # the key stays in it: small, for all of a process together may lock 8 MiB
KEY = secret_key(ARENA, "07" * 32)
TEXT = st.text(
    st.one_of(st.characters(exclude_categories=["Cs", "Cc"]), st.sampled_from('\n"\\\r\t\b\f\x7f\x80\u2028'))
)
TAGS = st.lists(st.lists(TEXT, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple)
UNFIT = [*map(chr, range(8)), "\x0b", *map(chr, range(0x0E, 0x20)), "\ud800", "\udfff"]


def event(content: str = "content", tags: tuple[tuple[str, ...], ...] = (("d", "x"),)) -> Event:
    return Event.signed(KEY, 1700000000, 30078, tags, content, bytes(32))


def test_the_form_of_a_line() -> None:
    made = event('a "b"\n\\é\x7f')
    assert (
        made.line()
        == (
            f'{{"id":"{made.id}","pubkey":"{KEY.public.hex()}","created_at":1700000000,"kind":30078,'
            f'"tags":[["d","x"]],"content":"a \\"b\\"\\n\\\\é\x7f","sig":"{made.sig}"}}'
        ).encode()
    )


@given(content=TEXT, tags=TAGS, kind=st.integers(0, 65535), created_at=st.integers(0, MAX_TIME))
@example(content='\n"\\\r\t\b\f', tags=(("d",),), kind=0, created_at=0)
@example(content="", tags=(), kind=65535, created_at=MAX_TIME)
def test_round_trip_and_nostr_sdk_agrees(
    content: str, tags: tuple[tuple[str, ...], ...], kind: int, created_at: int
) -> None:
    made = Event.signed(KEY, created_at, kind, tags, content)
    assert Event.parse(made.line()) == made
    assert made.valid_id()
    assert made.valid_signature()
    assert nostr_sdk.Event.from_json(made.line().decode()).verify()


@given(content=TEXT, tag=st.lists(TEXT, min_size=1, max_size=3))
def test_an_event_of_nostr_sdk_is_read(content: str, tag: list[str]) -> None:
    builder = nostr_sdk.EventBuilder(nostr_sdk.Kind(30078), content).tags([nostr_sdk.Tag.parse(tag)])
    fields: dict[str, Any] = json.loads(builder.finalize(nostr_sdk.Keys.generate()).as_json())
    assert fields["tags"] == [tag]
    fields["tags"] = (tuple(tag),)
    assert Event(**fields).valid_signature()


@given(position=st.integers(0), bit=st.integers(0, 7))
def test_no_altered_bit_passes(position: int, bit: int) -> None:
    line = bytearray(event("é").line())
    line[position % len(line)] ^= 1 << bit
    try:
        altered = Event.parse(bytes(line))
    except CorruptError:
        return
    assert not altered.valid_signature()


LINE = event().line()
FIELDS = json.loads(LINE)
NOTHING: list[str] = []


def dumps(**changes: object) -> bytes:
    return json.dumps({**FIELDS, **changes}, separators=(",", ":")).encode()


REFUSED: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{",
    "no map": b"[]",
    "a number": b"1",
    "a list of the names": json.dumps(list(FIELDS)).encode(),
    "not UTF-8": LINE.replace(b"content", b"\xff"),
    "a byte-order mark": b"\xef\xbb\xbf" + LINE,
    "space": LINE.replace(b":1700000000", b": 1700000000"),
    "space around": b" " + LINE,
    "a newline": LINE + b"\n",
    "something behind": LINE + b"{}",
    "another order": json.dumps(dict(reversed(FIELDS.items())), separators=(",", ":")).encode(),
    "a duplicate key": LINE.replace(b'"kind":', b'"kind":1,"kind":'),
    "a field more": dumps(more=1),
    "a field less": LINE.replace(b',"content":"content"', b""),
    "an escape for no need": LINE.replace(b'"content":"c', b'"content":"\\u0063'),
    "a slash escaped": event("/").line().replace(b'"/"', b'"\\/"'),
    "ASCII only": json.dumps(json.loads(event("é").line()), separators=(",", ":")).encode(),
    "a float": LINE.replace(b"1700000000", b"1700000000.0"),
    "an exponent": LINE.replace(b"1700000000", b"17e8"),
    "a leading zero": LINE.replace(b":1700000000", b":01700000000"),
    "true for 1": dumps(kind=True),
    "NaN": LINE.replace(b"30078", b"NaN"),
    "a huge integer": LINE.replace(b"30078", b"9" * 5000),
    "text for a number": dumps(kind="30078"),
    "null content": dumps(content=None),
    "content a list": dumps(content=[]),
    "tags a map": dumps(tags={}),
    "tags null": dumps(tags=None),
    "tags a string": dumps(tags="d"),
    "a tag a string": dumps(tags=["d"]),
    "a tag empty": dumps(tags=[NOTHING]),
    "a number in a tag": dumps(tags=[["d", 1]]),
    "a list in a tag": dumps(tags=[["d", ["x"]]]),
    "deep": dumps().replace(b'[["d","x"]]', b"[" * 100000 + b"]" * 100000),
    "a short id": dumps(id=FIELDS["id"][:-1]),
    "an id in capitals": dumps(id="A" * 64),
    "an id that is no hex": dumps(id="g" * 64),
    "an id with a newline": dumps(id="a" * 63 + "\n"),
    "a long key": dumps(pubkey=FIELDS["pubkey"] + "0"),
    "a short signature": dumps(sig=FIELDS["sig"][:-2]),
    "a number as id": dumps(id=1),
    "before 1970": dumps(created_at=-1),
    "after the end": dumps(created_at=MAX_TIME + 1),
    "a kind below": dumps(kind=-1),
    "a kind above": dumps(kind=65536),
    "a lone surrogate": dumps(content="\ud800"),
    "a control character": dumps(content="\x01"),
}


@pytest.mark.parametrize("line", REFUSED.values(), ids=REFUSED.keys())
def test_refused(line: bytes) -> None:
    with pytest.raises(
        CorruptError, match=r"^not an event: |^an event in a form other than its own$"
    ) as caught:
        Event.parse(line)
    assert len(caught.value.message) < 150


def test_an_error_quotes_nothing_of_the_line() -> None:
    with pytest.raises(CorruptError) as caught:
        Event.parse(b'{"id":"planted-text-planted-text')
    assert "planted" not in str(caught.value)
    assert caught.value.__cause__ is None


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_an_error(line: bytes) -> None:
    with pytest.raises(CorruptError):
        Event.parse(line)


@pytest.mark.parametrize("char", UNFIT, ids=ascii)
def test_what_has_no_agreed_form_is_not_signed(char: str) -> None:
    with pytest.raises(ValueError, match=r"surrogates|NIP-01 can hold"):
        event(f"a{char}b")
    with pytest.raises(ValueError, match=r"surrogates|NIP-01 can hold"):
        event(tags=(("d", f"a{char}b"),))


@pytest.mark.parametrize("field", ["id", "pubkey", "sig"])
def test_another_id_key_or_signature_is_not_valid(field: str) -> None:
    changed = Event.parse(dumps(**{field: ("0" if FIELDS[field][0] != "0" else "1") + FIELDS[field][1:]}))
    assert not changed.valid_signature()
    assert changed.valid_id() == (field == "sig")


def test_a_wiped_key_signs_nothing() -> None:
    arena = Arena()
    with SecretKey.generate(arena) as key:
        arena.wipe()
        with pytest.raises(LockedError):
            Event.signed(key, 1, 1, (), "")
