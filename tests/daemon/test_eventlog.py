"""The log: what was written is read; whatever was done to it afterwards shows, and names its line."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations, count, pairwise

import pytest
from hypothesis import given, settings, strategies as st

from avault_daemon.memory.arena import Arena
from avault_daemon.nostr.event import Event
from avault_daemon.nostr.keys import SecretKey
from avault_daemon.vault.eventlog import (
    COMMIT,
    KIND,
    Chain,
    Line,
    Log,
    Transaction,
    commit_content,
    genuine_slots,
    signed_line,
)
from avault_protocol import CorruptError
from support.logs import AGENT, SECRET, SLOT, Writer, written

WRITTEN = written()
DATA = WRITTEN.data
LINES = DATA.splitlines(keepends=True)
ENDS = [0, len(b"".join(LINES[:3])), len(b"".join(LINES[:6])), len(DATA)]
"""Where transactions end."""


def named(error: CorruptError) -> int:
    match = re.search(r"line (\d+)", error.message)
    assert match, error.message
    return int(match[1])


def test_reads_what_was_written() -> None:
    log = Log(DATA, strict=True)
    assert [line.d for line in log.lines] == [SLOT, SECRET, AGENT, SECRET, SECRET]
    assert [line.text for line in log.lines if line.d == SECRET] == ["AAAA", "CCCC", "DDDD"]
    assert log.lines[0].text == '{"type":"passphrase"}'
    assert (log.number, log.end, log.tail) == (8, len(DATA), None)
    assert sorted(log.commits) == [1, 2, 3]
    assert log.chain.public == WRITTEN.seal.public
    assert log.chain.head is not None
    assert log.chain.head.generation == 3
    assert b"".join(line.raw for line in log.lines) == b"".join(LINES[i] for i in (0, 1, 3, 4, 6))


def test_a_chain_reads_on_where_it_stopped() -> None:
    chain = Chain()
    first = chain.read(DATA[: ENDS[1]])
    assert isinstance(first, Transaction)
    assert chain == Chain()
    chain.accept(first)
    second = chain.read(DATA[ENDS[1] :])
    assert isinstance(second, Transaction)
    assert second.head.generation == 2


@pytest.mark.parametrize("bit", range(8))
def test_every_bit_flipped_shows(bit: int) -> None:
    """It names the altered line, or the next where the flip was in the first pubkey or in what divides two lines."""
    for index in range(len(DATA) - 1):
        line = DATA.count(b"\n", 0, index) + 1
        damaged = DATA[:index] + bytes([DATA[index] ^ (1 << bit)]) + DATA[index + 1 :]
        with pytest.raises(CorruptError) as caught:
            Log(damaged).refuse_tail()
        assert named(caught.value) in (line, line + 1)


def test_the_last_byte_flipped_is_a_tail() -> None:
    log = Log(DATA[:-1] + b" ")
    assert log.tail is not None
    assert (log.end, log.number, log.tail.number) == (ENDS[2], 6, 7)


def test_every_truncation_shows() -> None:
    for size in range(len(DATA)):
        if size in ENDS[1:]:  # nothing in the file itself says that there was more
            assert Log(DATA[:size]).end == size
            continue
        with pytest.raises(CorruptError, match="cut short"):
            Log(DATA[:size]).refuse_tail()


def test_a_truncated_file_keeps_its_whole_transactions() -> None:
    for size in range(ENDS[1], len(DATA)):
        log = Log(DATA[:size])
        assert log.end == max(end for end in ENDS if end <= size)
        assert (log.tail is None) == (size in ENDS)


def swapped(a: int, b: int) -> list[bytes]:
    lines = LINES.copy()
    lines[a], lines[b] = LINES[b], LINES[a]
    return lines


NUMBERS = range(len(LINES))
REARRANGED = [
    *((f"{a + 1} and {b + 1} swapped", swapped(a, b)) for a, b in combinations(NUMBERS, 2)),
    *(
        (f"{source + 1} doubled at {place + 1}", [*LINES[:place], LINES[source], *LINES[place:]])
        for source in NUMBERS
        for place in range(len(LINES) + 1)
    ),
    *((f"{gone + 1} removed", LINES[:gone] + LINES[gone + 1 :]) for gone in NUMBERS),
]


@pytest.mark.parametrize(("what", "lines"), REARRANGED)
def test_every_line_moved_doubled_or_removed_shows(what: str, lines: list[bytes]) -> None:
    with pytest.raises(CorruptError) as caught:
        Log(b"".join(lines)).refuse_tail()
    assert 1 <= named(caught.value) <= len(lines)


def test_transactions_removed_or_moved_show() -> None:
    first, second, third = (DATA[a:b] for a, b in pairwise(ENDS))
    for order in (
        [second, third],
        [first, third],
        [first, third, second],
        [first, second, third, third],
        [third],
    ):
        with pytest.raises(CorruptError):
            Log(b"".join(order)).refuse_tail()


def test_a_line_of_another_vault_shows() -> None:
    other = written().data.splitlines(keepends=True)
    for index in range(len(LINES)):
        with pytest.raises(CorruptError, match="another key"):
            Log(b"".join([*LINES[:index], other[index], *LINES[index + 1 :]])).refuse_tail()


def test_an_unclosed_line_of_the_vault_is_a_tail_but_a_foreign_one_is_not() -> None:
    line = WRITTEN.line(AGENT, '{"more":1}')
    assert Log(DATA + line).tail == (len(DATA), 9)
    forged = line.replace(b"more", b"evil")
    with pytest.raises(CorruptError, match=r"line 9 .*altered"):
        Log(DATA + forged)
    with pytest.raises(CorruptError, match=r"line 9 .*doubled"):
        Log(DATA + LINES[0])


@pytest.mark.parametrize("left", [b"{", b"\0" * 4096, b"\0\0\0\n\0", LINES[0][:-2]])
def test_what_a_broken_write_leaves_is_a_tail(left: bytes) -> None:
    """A part of a line, or zeroes where a file system has grown the file and not filled it."""
    assert Log(DATA + left).tail == (len(DATA), 9)
    assert Log(DATA + WRITTEN.line(AGENT, "{}") + left).tail == (len(DATA), 9)


@pytest.mark.parametrize("data", [b"", b"\n", b"\0", b"{}\n", b"x", LINES[0]])
def test_a_file_without_a_whole_transaction_is_none(data: bytes) -> None:
    with pytest.raises(CorruptError, match="line 1"):
        Log(data)


# --- the form of a line -------------------------------------------------------------------------------------------

ODD_FORMS = [
    (b'"kind":30078', b'"kind":1'),
    (b'"kind":30078', b'"kind":30078.0'),
    (b'"kind":30078', b'"kind": 30078'),
    (b'"created_at":1', b'"created_at":01'),
    (b'"created_at":1', b'"created_at":-1'),
    (b'"created_at":1', b'"created_at":1e'),
    (b'{"id"', b'{"id":"","id"'),
    (b'{"id"', b'{ "id"'),
    (b'{"id"', b'{"more":1,"id"'),
    (b',"sig"', b',"more":1,"sig"'),
    (b'}\n', b'}\r\n'),
    (b'}\n', b',"more":1}\n'),
    (b'"tags":[["d"', b'"tags":[["e"'),
    (b'"]],', b'"],["d","x"]],'),
    (b'"]],', b'","x"]],'),
    (b'"slot/passphrase"', b'"slot/"'),
    (b'"slot/passphrase"', b'"slot/Passphrase"'),
    (b'"slot/passphrase"', b'"slot/' + b"a" * 65 + b'"'),
    (b'"slot/passphrase"', b'"slots/passphrase"'),
    (b'"slot/passphrase"', b'"agent/"'),
    (b'"slot/passphrase"', b'"agent/a/b"'),
    (b'"slot/passphrase"', b'"' + b"0" * 31 + b'"'),
    (b'"slot/passphrase"', b'"' + b"A" * 32 + b'"'),
    (b'"slot/passphrase"', b'"commits"'),
    (b'"slot/passphrase"', b'""'),
    (b'{\\"type', b'{\\"t\\u0079pe'),
    (b'{\\"type', b'{\\"t\\/pe'),
    (b'{\\"type', b'{\\"t\x01pe'),
    (b'{\\"type', b'{\\"t\ttpe'),
    (b'{\\"type', b'{\\"t\xffpe'),
    (b'{\\"type', b'{\\"t\xed\xa0\x80pe'),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), ODD_FORMS)
def test_other_forms_of_a_line_are_errors(old: bytes, new: bytes) -> None:
    assert old in LINES[0]
    with pytest.raises(CorruptError, match=r"line 1 .* not in the form"):
        Log(LINES[0].replace(old, new, 1) + b"".join(LINES[1:]))


KEY = SecretKey.generate(Arena(1 << 12))
GRAMMAR = r"slot/[a-z0-9][a-z0-9_-]{0,63}|agent/[a-z0-9][a-z0-9_-]{0,63}|[0-9a-f]{32}|commit"
DS = st.from_regex(rf"\A(?:{GRAMMAR})\Z") | st.text("slotagencmi/0123456789-_AZ", max_size=40)


@given(d=DS, content=st.text(), created_at=st.integers(1, 10**15 - 1))
@settings(deadline=None)
def test_takes_and_writes_what_nip_01_does(d: str, content: str, created_at: int) -> None:
    """Our expression for a line is that of the general reader, our kind and our `d` alone."""
    try:
        event = Event.signed(KEY, created_at, KIND, (("d", d),), content)
    except ValueError:  # characters that NIP-01 cannot hold
        with pytest.raises((CorruptError, UnicodeEncodeError)):
            Line.of(signed_line(KEY, AGENT, created_at, content))
        return
    raw = event.line() + b"\n"
    if re.fullmatch(GRAMMAR, d):
        ours = Event.parse(signed_line(KEY, d, created_at, content)[:-1])
        assert (replace(ours, sig=event.sig), ours.valid_signature()) == (event, True)
        line = Line.of(raw)
        assert (line.d, line.created_at, line.text, line.raw) == (d, created_at, content, raw)
    else:
        with pytest.raises(CorruptError):
            Line.of(raw)


@given(
    line=st.sampled_from(LINES),
    cut=st.tuples(st.integers(0, 700), st.integers(0, 8)),
    patch=st.binary(max_size=8) | st.sampled_from([b'"', b"\\", b"\\u0041", b" ", b"0", b'"]]', b"\xc3\xa4"]),
)
@settings(deadline=None, max_examples=300)
def test_takes_no_more_than_nip_01_does(line: bytes, cut: tuple[int, int], patch: bytes) -> None:
    start, length = cut
    patched = line[:start] + patch + line[start + length :]
    try:
        taken = Line.of(patched)
    except CorruptError:
        return
    event = Event.parse(patched[:-1])
    assert (event.tags, event.created_at, event.content) == ((("d", taken.d),), taken.created_at, taken.text)


# --- commits ------------------------------------------------------------------------------------------------------


def wrong_commits() -> list[tuple[str, str]]:
    """Commits that the vault's own key signed, and that are wrong all the same."""
    head = Log(DATA).chain.head
    body = WRITTEN.line(AGENT, "{}")
    right = commit_content(head, body)
    assert '"generation":4' in right
    origin = f',"compacted_from":"{"0" * 64}"}}'
    return [
        ("out of its place", right.replace(":4", ":3")),
        ("out of its place", right.replace(":4", ":5")),
        ("out of its place", right.replace("}", origin)),
        ("no commit", right.replace(":4", ":04")),
        ("no commit", right.replace(",", ", ")),
        ("no commit", right.replace("}", ',"more":1}')),
        ("no commit", "{}"),
        ("other lines", commit_content(head, body + body)),
        ("other lines", commit_content(None, body).replace(":1", ":4")),
    ]


@pytest.mark.parametrize(("why", "content"), wrong_commits(), ids=count())
def test_a_wrong_commit_is_an_error(why: str, content: str) -> None:
    with pytest.raises(CorruptError, match=rf"line 10 .*{why}"):
        Log(DATA + WRITTEN.close(WRITTEN.line(AGENT, "{}"), content))


def test_a_commit_of_nothing_is_an_error() -> None:
    with pytest.raises(CorruptError, match="line 9"):
        Log(DATA + WRITTEN.close(b""))


def test_a_first_commit_is_the_first_or_says_what_it_came_from() -> None:
    head = Log(DATA).chain.head
    writer = Writer()
    body = writer.line(SLOT, "{}")
    compacted = commit_content(None, body, compacted_from=head)
    log = Log(writer.close(body, compacted))
    assert log.chain.head is not None
    assert log.chain.head.generation == 4
    orphan = compacted[: compacted.index(',"compacted_from')] + "}"
    with pytest.raises(CorruptError, match="out of its place"):
        Log(writer.close(body, orphan))
    with pytest.raises(CorruptError, match="out of its place"):
        Log(writer.close(body, compacted.replace(":4", ":1")))


def test_only_strict_looks_at_a_line_that_a_commit_covers() -> None:
    writer = Writer()
    line = writer.line(SLOT, "{}")
    body = line.replace(line[-131:-3], b"0" * 128)
    data = writer.close(body)
    Log(data)
    with pytest.raises(CorruptError, match=r"line 1 .*altered"):
        Log(data, strict=True)


@given(clocks=st.lists(st.integers(1, 2**40), min_size=1, max_size=5))
@settings(deadline=None, max_examples=20)
def test_times_rise_whatever_the_clock_says(clocks: list[int]) -> None:
    writer = Writer()
    times: list[int] = []
    for writer.now in clocks:
        times.append(writer.chain.time_for(SECRET, writer.now))
        writer.write({SECRET: "AAAA"})
    assert all(a < b for a, b in pairwise(times))
    assert all(taken >= clock for taken, clock in zip(times, clocks, strict=True))
    assert [line.created_at for line in Log(writer.data).lines] == times


def test_time_never_stands_still_for_commits() -> None:
    commits = [Event.parse(line[:-1]).created_at for line in LINES if b'"commit"' in line]
    assert commits == sorted(set(commits))
    assert Log(DATA).chain.newest[COMMIT] == commits[-1]


# --- what is left of a damaged file -------------------------------------------------------------------------------


def test_slots_are_found_in_whatever_is_left() -> None:
    public = WRITTEN.seal.public
    whole = Log(DATA).lines[:1]
    assert whole[0].d == SLOT
    for data in (
        DATA,
        DATA[: len(LINES[0])],
        LINES[3] + LINES[0] + LINES[1][:-9],
        b"junk\n\0\xff\n" + LINES[0],
    ):
        assert genuine_slots(data, public) == whole
    for data in (b"", b"\n", LINES[1] + LINES[3], LINES[0][:-2]):
        assert genuine_slots(data, public) == []


def test_slots_of_another_vault_are_nobodys() -> None:
    other = written()
    assert genuine_slots(other.data + DATA, WRITTEN.seal.public) == Log(DATA).lines[:1]
    forged = LINES[0].replace(WRITTEN.seal.public.encode(), other.seal.public.encode())
    assert genuine_slots(forged, other.seal.public) == []


@given(index=st.integers(0, len(LINES[0]) - 1), bit=st.integers(0, 7))
def test_a_slot_of_which_a_bit_is_another_is_none(index: int, bit: int) -> None:
    line = LINES[0]
    damaged = line[:index] + bytes([line[index] ^ (1 << bit)]) + line[index + 1 :]
    assert genuine_slots(damaged, WRITTEN.seal.public) == []
