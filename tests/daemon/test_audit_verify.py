"""Checking a record with public keys only: whatever is done to it before the last checkpoint shows."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings, strategies as st

from avault_daemon.anchor import Point
from avault_daemon.audit import Record, Verdict
from avault_daemon.audit.lines import Entry, chained, checkpoint_line, hash_of, note
from support.records import Book, run_for, use
from support.signing import Key


async def signed(book: Book, uses: int = 4) -> Record:
    """Make a record of some uses, and a checkpoint after each two."""
    record = book.open()
    book.unlock(record)
    for number in range(uses):
        use(record, f"N{number}")
        if number % 2:
            await run_for(record, book, 1)
    return record


def made(directory: Path) -> Book:
    """Return the folder of a daemon that has ended: six lines, the third and the sixth are checkpoints."""
    book = Book(directory)

    async def make() -> None:
        (await signed(book)).close()

    trio.run(make, clock=trio.testing.MockClock())
    assert book.actions() == ["get_secret", "get_secret", "checkpoint"] * 2
    return book


@pytest.fixture
def book(quick: Path) -> Book:
    return made(quick)


def forget(book: Book) -> None:
    """Let the anchor know the vault, and nothing of the record."""
    book.anchor.update(record=None)


def test_a_whole_record_is_complete(book: Book) -> None:
    assert book.verify() == Verdict(complete_to=6, last=6, problem=None)
    assert book.verify().ok
    assert book.verify().unsigned == 0


def test_no_record_at_all_is_none_of_which_anything_was_on_the_disk(tmp_path: Path) -> None:
    assert Book(tmp_path).verify() == Verdict(0, 0, None)


def test_what_follows_the_last_checkpoint_is_unsigned(book: Book) -> None:
    record = book.open()
    for _ in range(3):
        use(record)
    verdict = book.verify()
    assert (verdict.ok, verdict.complete_to, verdict.last, verdict.unsigned) == (True, 6, 9, 3)


def test_a_line_that_is_just_being_written_is_not_counted(book: Book) -> None:
    with book.current.open("ab") as file:
        file.write(b'{"n":7,')
    assert book.verify() == Verdict(6, 6, None)


def test_every_changed_bit_shows(book: Book) -> None:
    """In every byte, the newlines too; in the last line also the bit between upper and lower case."""
    whole = book.current.read_bytes()
    last = whole.rindex(b"\n", 0, -1)
    for place in range(len(whole)):
        for bit in (1, 32) if place >= last else (1,):
            changed = bytearray(whole)
            changed[place] ^= bit
            book.current.write_bytes(changed)
            verdict = book.verify()
            assert verdict.problem is not None, (place, bit)
            assert verdict.complete_to < 6


def test_every_changed_bit_before_the_last_checkpoint_shows_without_the_anchors_help(book: Book) -> None:
    """But one that makes the last checkpoint be none: that is a record that ends with an earlier one."""
    forget(book)
    whole = book.current.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for place in range(last):
        changed = bytearray(whole)
        changed[place] ^= 1
        book.current.write_bytes(changed)
        assert book.verify().problem is not None, place


@pytest.mark.parametrize("helped", [True, False])
def test_every_removed_and_every_swapped_line_shows(book: Book, helped: bool) -> None:
    if not helped:
        forget(book)
    lines = book.current.read_bytes().splitlines(keepends=True)
    for first in range(len(lines)):
        removed = lines[:first] + lines[first + 1 :]
        doubled = lines[: first + 1] + lines[first:]
        swaps: list[list[bytes]] = []
        for second in range(first):
            swapped = lines[:]
            swapped[first], swapped[second] = swapped[second], swapped[first]
            swaps.append(swapped)
        for changed in [removed, doubled, *swaps]:
            if changed == lines[:-1] and not helped:
                continue  # a record that was cut off: only the anchor knows
            book.current.write_bytes(b"".join(changed))
            assert book.verify().problem is not None


def test_a_record_that_was_cut_off_shows_by_the_anchor(book: Book) -> None:
    lines = book.current.read_bytes().splitlines(keepends=True)
    for length in range(len(lines)):
        book.current.write_bytes(b"".join(lines[:length]))
        verdict = book.verify()
        assert verdict.problem == f"the record ends at line {length}; line 6 was on the disk"
        assert verdict.complete_to == (3 if length >= 3 else 0)
    book.current.unlink()
    assert book.verify().problem is not None


def rechained(book: Book, entries: list[Entry], key: Key, **words: str) -> None:
    """Write a record as someone would who knows how, with *key*."""
    data, prev = chained([note(entry) for entry in entries], 1, 0, "0" * 64)
    line = checkpoint_line(len(entries) + 1, 1, prev, key.hex, key.sign, **words)
    book.current.write_bytes(data + line + b"\n")


FORGED = [Entry("get_secret", "allowed", "HARMLESS")] * 5


def test_a_record_made_anew_does_not_have_the_line_that_was_on_the_disk(book: Book) -> None:
    """Even with the vault's key: the anchor knows better."""
    rechained(book, FORGED, book.key)
    assert book.verify().problem == "line 6 is not the one that was on the disk"


def test_a_checkpoint_by_a_strange_key_is_a_problem(book: Book) -> None:
    forget(book)
    rechained(book, FORGED, Key(66))
    verdict = book.verify()
    assert verdict.problem == "the checkpoint at line 6 is by a key that this vault never had"
    assert verdict.complete_to == 0


@pytest.mark.parametrize("word", ["after", "next_key"])
def test_a_strange_key_cannot_make_itself_known(book: Book, word: str) -> None:
    """It may say what it likes of the vault's key, in a line that the anchor does not know."""
    forget(book)
    rechained(book, FORGED, Key(66), **{word: book.key.hex})
    assert book.verify().problem is not None


def test_a_strange_key_behind_the_anchors_line_cannot_either(book: Book) -> None:
    stranger, last = Key(66), book.current.read_bytes().splitlines()[-1]
    line = checkpoint_line(7, 1, hash_of(last), stranger.hex, stranger.sign, next_key=book.key.hex)
    with book.current.open("ab") as file:
        file.write(line + b"\n")
    verdict = book.verify()
    assert verdict.problem == "the checkpoint at line 7 is by a key that this vault never had"
    assert verdict.complete_to == 6


def test_without_a_vault_no_checkpoint_counts(book: Book) -> None:
    book.anchor.update(current=None)
    verdict = book.verify()
    assert (verdict.ok, verdict.complete_to) == (False, 0)
    assert verdict.problem == "no vault is known here whose key could vouch for the record"


# --- other keys -------------------------------------------------------------------------------------------------------------


def now_of(book: Book, key: Key) -> None:
    book.anchor.update(current=Point(key.hex, 2, "0" * 64))


async def test_after_a_rekey_all_before_and_after_counts(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    book, new = Book(tmp_path), Key(2)
    record = await signed(book)
    record.rekeyed(new.public)
    now_of(book, new)
    record.signer = new.sign
    use(record)
    await run_for(record, book, 1)
    verdict = book.verify()
    assert (verdict.problem, verdict.complete_to) == (None, record.number)


async def test_when_the_rekey_is_the_last_thing_the_old_keys_word_counts(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    """The daemon ended between the change of keys and the new key's first checkpoint."""
    book, new = Book(tmp_path), Key(2)
    record = await signed(book)
    record.rekeyed(new.public)
    record.signer = None
    await run_for(record, book, 0.2)
    now_of(book, new)
    assert book.verify() == Verdict(record.number, record.number, None)


async def test_when_the_rekey_came_to_nothing_the_old_key_goes_on(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    book = Book(tmp_path)
    record = await signed(book)
    record.rekeyed(Key(2).public)
    use(record)
    await run_for(record, book, 1)
    assert book.verify() == Verdict(record.number, record.number, None)


async def test_a_copy_that_was_brought_back_vouches_for_the_vault_before_it(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    """The vault was locked, or damaged: its key could not say anything; the copy's key says which one came before."""
    book, copy = Book(tmp_path), Key(2)
    record = await signed(book)
    record.signer = record.public = None
    record.rekeyed(copy.public)
    now_of(book, copy)
    book.unlock(record, copy)
    await run_for(record, book, 0.2)
    assert book.lines()[-1]["after"] == book.key.hex
    assert book.verify() == Verdict(record.number, record.number, None)


async def test_an_older_vault_that_was_brought_back_vouches_for_the_younger(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    book, second = Book(tmp_path), Key(2)
    record = await signed(book)
    for key in (second, book.key):
        record.rekeyed(key.public)
        now_of(book, key)
        record.signer = key.sign
        use(record)
        await run_for(record, book, 1)
    assert book.verify() == Verdict(record.number, record.number, None)


async def test_files_are_checked_across_and_a_missing_one_shows(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    book = Book(tmp_path, max_segment=600)
    record = await signed(book, 12)
    paths = book.paths()
    assert len(paths) > 3
    assert book.verify() == Verdict(record.number, record.number, None)
    for path in paths:
        content = path.read_bytes()
        if not content:
            continue
        path.unlink()
        assert book.verify().problem is not None
        path.write_bytes(content)
    assert book.verify().ok


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Book:
    return made(tmp_path_factory.mktemp("record"))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_edit_of_any_size_shows(edited: Book, data: st.DataObject) -> None:
    """Cut a piece out of a record and put something in its place."""
    whole = edited.current.read_bytes()
    start = data.draw(st.integers(0, len(whole) - 1))
    end = data.draw(st.integers(start, min(len(whole), start + 400)))
    piece = data.draw(st.binary(max_size=40) | st.just(whole[max(0, start - 80) : start]))
    changed = whole[:start] + piece + whole[end:]
    edited.current.write_bytes(changed)
    try:
        # What is behind the last line, and is no line yet, is not part of the record.
        assert (edited.verify().problem is None) == changed.startswith(whole)
    finally:
        edited.current.write_bytes(whole)
