"""The vault's key at work, and what is left of it when the arena was wiped."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Generator
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

from avault_daemon.memory.arena import Arena, Slot
from avault_daemon.nostr.event import Event
from avault_daemon.nostr.keys import SecretKey, verify
from avault_daemon.vault.eventlog import Line
from avault_daemon.vault.seal import Seal, SecretInfo
from avault_protocol import BusyError, CorruptError, LockedError
from support.vaults import put_in

ARENA = Arena(1 << 18)
INFO = SecretInfo("TOKEN", 7, 1_700_000_000, "text")
VALUE = b"sesame"


@pytest.fixture
def seal() -> Generator[Seal]:
    seal = Seal.generate(ARENA)
    yield seal
    seal.close()
    assert ARENA.in_use == 0


def line_of(seal: Seal, content: str, d: str | None = None) -> Line:
    return Line.of(seal.line(d or seal.blind("TOKEN"), 1, content))


def sealed(seal: Seal, plain: bytes, d: str | None = None) -> Line:
    return line_of(seal, seal.seal_bytes(plain), d)


@given(
    info=st.builds(
        SecretInfo,
        st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_.-]{0,127}\Z"),
        st.integers(1, 10**10 - 1),
        st.integers(1, 10**15 - 1),
        st.sampled_from(["text", "base64"]),
    ),
    value=st.binary(min_size=1, max_size=300),
)
@settings(deadline=None, max_examples=40)
def test_a_secret_sealed_is_a_secret_opened(info: SecretInfo, value: bytes) -> None:
    seal = Seal.generate(ARENA)
    line = line_of(seal, seal.seal_secret(info, memoryview(bytearray(value))), seal.blind(info.name))
    for name in (None, info.name):
        found, slot, source = seal.open_secret(line, name)
        with slot:
            assert (found, bytes(slot.view), slot.size, source) == (info, value, len(value), line.raw)
    assert seal.info(line) == info
    seal.close()
    assert ARENA.in_use == 0


def test_what_is_known_of_a_line_is_known_until_another_of_its_secret_or_the_end(seal: Seal) -> None:
    line, newer = (
        line_of(seal, seal.seal_secret(info, memoryview(bytearray(VALUE))))
        for info in (INFO, replace(INFO, version=INFO.version + 1))
    )
    known = replace(INFO, created=7)
    seal.remember(line, known)
    assert seal.info(line) is known
    assert seal.info(newer).version == INFO.version + 1
    assert (seal.info(line), seal.info(line)) == (INFO, INFO)
    seal.remember(line, known)
    seal.forget(line.d)
    assert seal.info(line) == INFO
    with seal.held():
        ARENA.wipe()
        seal.close()
        with pytest.raises(LockedError):
            seal.info(line)


def test_names_are_hidden_as_the_format_says() -> None:
    with put_in(ARENA, bytes(31) + b"\1") as slot:
        seal = Seal(ARENA, SecretKey.adopt(slot))
    prk = hmac.digest(bytes(32), bytes(31) + b"\1", "sha256")
    index = hmac.digest(prk, b"avault-index\1", "sha256")
    assert seal.blind("TOKEN") == hmac.digest(index, b"secret/TOKEN", "sha256").hex()[:32]
    assert seal.public == "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    seal.close()


ODD_PLAINTEXTS = [
    b"no header at all",
    b'{"type":"secret","name":"TOKEN","version":1,"created":1,"encoding":"text"}',
    b'{"type":"secret","name":"TOKEN","version":1,"created":1,"encoding":"text"} \nx',
    b'{"type":"secret","name":"TOKEN","version":0,"created":1,"encoding":"text"}\nx',
    b'{"type":"secret","name":"TOKEN","version":01,"created":1,"encoding":"text"}\nx',
    b'{"type":"secret","name":"TOKEN","version":1,"created":1,"encoding":"hex"}\nx',
    b'{"type":"secret","name":"1TOKEN","version":1,"created":1,"encoding":"text"}\nx',
    b'{"type":"agent","name":"TOKEN","version":1,"created":1,"encoding":"text"}\nx',
    b'{"name":"TOKEN","type":"secret","version":1,"created":1,"encoding":"text"}\nx',
    b'{"type":"secret","name":"TOKEN","version":1,"created":1,"encoding":"text","more":1}\nx',
    b'x{"type":"secret","name":"TOKEN","version":1,"created":1,"encoding":"text"}\nx',
]


@pytest.mark.parametrize("plain", ODD_PLAINTEXTS)
def test_other_plaintexts_are_no_secrets(seal: Seal, plain: bytes) -> None:
    with pytest.raises(CorruptError, match="one form"):
        seal.open_secret(sealed(seal, plain))


def test_a_secret_under_the_name_of_another_is_refused(seal: Seal) -> None:
    line = line_of(seal, seal.seal_secret(INFO, memoryview(bytearray(VALUE))), seal.blind("OTHER"))
    for name in (None, "OTHER"):
        with pytest.raises(CorruptError, match="another name"):
            seal.open_secret(line, name)


def test_what_another_key_sealed_is_refused(seal: Seal) -> None:
    other = Seal.generate(ARENA)
    line = line_of(other, other.seal_secret(INFO, memoryview(bytearray(VALUE))))
    with pytest.raises(CorruptError, match=f"line for {line.d} cannot be opened: invalid MAC"):
        seal.open_secret(line)
    other.close()


def test_resealed_for_another_key(seal: Seal) -> None:
    other = Seal.generate(ARENA)
    line = line_of(seal, seal.seal_secret(INFO, memoryview(bytearray(VALUE))))
    moved = line_of(other, seal.reseal(line, other))
    info, slot, _ = other.open_secret(moved, "TOKEN")
    with slot:
        assert (info, bytes(slot.view)) == (INFO, VALUE)
    other.close()


def test_nothing_is_sealed_the_same_twice(seal: Seal) -> None:
    assert len({seal.seal_bytes(b"the same") for _ in range(10)}) == 10


def test_lines_are_events(seal: Seal) -> None:
    event = Event.parse(seal.line("agent/cobot", 7, "{}")[:-1])
    assert event.valid_signature()
    assert (event.pubkey, event.tags, event.created_at, event.kind) == (
        seal.public,
        (("d", "agent/cobot"),),
        7,
        30078,
    )


def test_signs(seal: Seal) -> None:
    digest = hashlib.sha256(b"").digest()
    assert verify(bytes.fromhex(seal.public), digest, seal.sign(digest))


def test_nothing_shows_a_value(seal: Seal) -> None:
    line = line_of(seal, seal.seal_secret(INFO, memoryview(bytearray(VALUE))))
    opened = seal.open_secret(line)
    with opened.slot:
        assert "sesame" not in repr(opened) + str(opened) + repr(seal)


# --- wiped --------------------------------------------------------------------------------------------------------


def use_all(seal: Seal, line: Line, other: Seal) -> list[Callable[[], object]]:
    return [
        lambda: seal.blind("TOKEN"),
        lambda: seal.seal_secret(INFO, memoryview(bytearray(VALUE))),
        lambda: seal.open_secret(line),
        lambda: seal.seal_bytes(b"x"),
        lambda: seal.open_bytes(line.text),
        lambda: seal.reseal(line, other),
        lambda: seal.line("agent/cobot", 7, "{}"),
        lambda: seal.sign(bytes(32)),
    ]


def test_a_wiped_key_does_nothing() -> None:
    seal, other = Seal.generate(ARENA), Seal.generate(Arena(1 << 16))
    line = line_of(seal, seal.seal_secret(INFO, memoryview(bytearray(VALUE))))
    ARENA.wipe()
    for use in use_all(seal, line, other):
        with pytest.raises(LockedError):
            use()
    seal.close()
    other.close()
    assert ARENA.in_use == 0


def test_a_held_key_keeps_its_room_until_it_is_let_go() -> None:
    """A thread that is late finds zeroes there, never another key."""
    seal = Seal.generate(ARENA)
    with seal.held():
        ARENA.wipe()
        seal.close()
        seal.close()
        taken = ARENA.in_use
        assert taken > 0
        other = Seal.generate(ARENA)
        with pytest.raises(LockedError):
            seal.sign(bytes(32))
        other.close()
        assert ARENA.in_use == taken
    assert ARENA.in_use == 0


def test_a_full_arena_leaves_nothing_taken() -> None:
    """Whatever step there is no room for."""
    for room in range(1, 12):
        arena = Arena(4096)
        blocks: list[Slot] = [arena.take(64) for _ in range(4096 // 64 - room)]
        taken = arena.in_use
        try:
            Seal.generate(arena).close()
        except BusyError:
            pass
        else:
            assert room > 4
        assert arena.in_use == taken
        for block in blocks:
            block.release()
