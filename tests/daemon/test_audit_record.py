"""Writing the record: what is promised when `flush` returns, and that every fault fails closed."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio.testing

from avault_daemon.audit.lines import hash_of
from avault_daemon.audit.record import SIGN_LINES, SYNC_DELAY
from avault_protocol import AuditFailedError, BusyError
from support.callers import make_caller
from support.faults import FaultyFiles, file_size_limit
from support.records import CALLER, Book, refuse, run_for, use
from support.signing import Key


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path)


# --- lines ------------------------------------------------------------------------------------------------------------


def test_a_use_is_written_with_all_that_is_known_and_in_a_chain(book: Book) -> None:
    record = book.open()
    use(record)
    use(record, "KEY")
    raw = book.current.read_bytes().splitlines()
    one, two = book.lines()
    assert one == {
        "n": 1,
        "time": int(book.clock.now),
        "prev": "0" * 64,
        "action": "get_secret",
        "decision": "allowed",
        "secret": "TOKEN",
        "version": 1,
        "agent": "cobot",
        "plugin": "telegram",
        "pid": CALLER.pid,
        "uid": CALLER.uid,
        "unit": None,
        "exe": CALLER.exe,
        "reason": None,
    }
    assert (two["n"], two["prev"]) == (2, hashlib.sha256(raw[0]).hexdigest())
    assert record.number == 2
    assert book.current.stat().st_mode & 0o777 == 0o600


def test_nothing_is_written_before_flush_and_then_by_one_write(book: Book) -> None:
    record = book.open()
    book.disk.calls.clear()
    for _ in range(5):
        use(record, flush=False)
    assert book.current.read_bytes() == b""
    record.flush()
    assert len(book.lines()) == 5
    assert book.disk.calls == ["write"]
    record.flush()
    assert book.disk.calls == ["write"]


def test_a_reopened_record_goes_on_with_the_chain(book: Book) -> None:
    record = book.open()
    use(record)
    record.close()
    again = book.open()
    use(again, "KEY")
    assert [line["n"] for line in book.lines()] == [1, 2]
    assert book.verify().problem is None
    assert (again.last_use("TOKEN"), again.last_use("KEY"), again.last_use("OTHER")) == (
        int(book.clock.now),
        int(book.clock.now),
        None,
    )


def test_the_last_use_is_that_of_what_was_given_out(book: Book) -> None:
    record = book.open()
    use(record)
    book.clock.now += 100
    refuse(record)
    record.append(CALLER, "reveal", secret="TOKEN")
    record.flush()
    assert record.last_use("TOKEN") == int(book.clock.now) - 100
    assert book.open().last_use("TOKEN") == int(book.clock.now) - 100


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_repeated_refusals_are_counted_and_written_at_the_next_line(book: Book) -> None:
    record = book.open()
    for _ in range(100):
        refuse(record)
    assert len(book.lines()) == 1
    book.clock.now += 60
    refuse(record, "KEY")
    assert [(line["secret"], line.get("times")) for line in book.lines()] == [
        ("TOKEN", None),
        ("TOKEN", 99),
        ("KEY", None),
    ]


def test_what_is_still_counted_when_the_daemon_ends_is_written(book: Book) -> None:
    record = book.open()
    for _ in range(3):
        refuse(record)
    record.close()
    assert [line.get("times") for line in book.lines()] == [None, 2]


def test_nobody_fills_the_disk_with_refusals(book: Book) -> None:
    record = book.open()
    for number in range(5000):
        refuse(record, f"N{number}", pid=number, exe="/" + "\x7f" * 4000)
    assert book.current.stat().st_size < 100_000
    assert len(book.lines()) == 30


# --- faults: fail closed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("short", [False, True])
def test_a_failed_write_leaves_no_line_and_the_next_one_may_work(book: Book, code: int, short: bool) -> None:
    record = book.open()
    use(record)
    before = book.current.read_bytes()
    book.disk.fail(1, code=code, short=short)
    use(record, "KEY", flush=False)
    with pytest.raises(AuditFailedError, match=os.strerror(code)):
        record.flush()
    assert book.current.read_bytes() == before
    assert record.number == 1
    assert record.last_use("KEY") is None
    assert os.strerror(code) in str(record.problem)
    book.disk.heal()
    use(record, "OTHER")
    assert record.problem is None
    assert [(line["action"], line["secret"]) for line in book.lines()] == [
        ("get_secret", "TOKEN"),
        ("get_secret", "OTHER"),
        ("record", None),
    ]
    assert book.lines()[-1]["times"] == 1
    assert book.verify().problem is None


def test_a_short_write_is_completed(book: Book) -> None:
    class Slow(FaultyFiles):
        def write(self, fd: int, data: bytes | memoryview) -> int:
            return super().write(fd, memoryview(data)[:100])

    book.disk = Slow()
    record = book.open()
    use(record, flush=False)
    use(record)
    assert len(book.lines()) == 2
    assert book.disk.calls.count("write") > 2
    assert book.verify().last == 2


def test_a_file_that_may_not_grow(book: Book) -> None:
    """The kernel itself refuses, in the middle of a line."""
    record = book.open()
    use(record)
    size = book.current.stat().st_size
    use(record, flush=False)
    with file_size_limit(size + 10), pytest.raises(AuditFailedError, match="too large"):
        record.flush()
    assert book.current.stat().st_size == size
    use(record)
    assert book.verify().last == 3


def test_a_write_that_can_not_be_cut_back_latches(book: Book) -> None:
    record = book.open()
    use(record)
    book.disk.fail(1, code=errno.ENOSPC, dead=True)
    use(record, flush=False)
    with pytest.raises(AuditFailedError):
        record.flush()
    book.disk.heal()
    use(record, flush=False)
    with pytest.raises(AuditFailedError, match="nor cut back") as caught:
        record.flush()
    assert caught.value.hint is not None
    assert "restart" in caught.value.hint
    assert len(book.lines()) == 1


def test_a_descriptor_that_was_closed_latches(book: Book) -> None:
    record = book.open()
    use(record)
    for entry in Path("/proc/self/fd").iterdir():
        if entry.is_symlink() and os.readlink(entry) == str(book.current):
            os.close(int(entry.name))
            break
    else:
        pytest.fail("the record's descriptor was not found")
    use(record, flush=False)
    for _ in range(2):
        with pytest.raises(AuditFailedError):
            record.flush()


def test_what_failed_is_forgotten_and_does_not_come_with_the_next(book: Book) -> None:
    record = book.open()
    book.disk.fail(1)
    use(record, "WITHHELD", flush=False)
    with pytest.raises(AuditFailedError):
        record.flush()
    book.disk.heal()
    record.flush()
    use(record)
    assert "WITHHELD" not in book.current.read_text()


def test_try_flush_never_raises(book: Book) -> None:
    record = book.open()
    book.disk.fail(1, dead=True)
    use(record, flush=False)
    record.try_flush()
    assert record.problem is not None


@pytest.mark.parametrize("kind", ["clean", "done", "short", "dead"])
@pytest.mark.parametrize("at", range(1, 45))
async def test_whichever_call_fails_what_was_served_is_on_record(
    tmp_path: Path, at: int, kind: str, mock_clock: trio.testing.MockClock
) -> None:
    """Every system call from the opening on, in four ways; then the daemon starts anew on a disk that works."""
    book, served = Book(tmp_path, max_segment=900), list[str]()
    book.disk.fail(at, code=errno.ENOSPC, done=kind == "done", short=kind == "short", dead=kind == "dead")
    record = book.open()
    book.unlock(record)
    for number in range(8):
        use(record, f"N{number}", flush=False)
        try:
            record.flush()
            served.append(f"N{number}")
        except AuditFailedError:
            assert record.problem is not None
        await run_for(record, book, 0.3)
    record.close()
    book.disk.heal()
    again = book.open()
    assert again.problem is None
    used = [line["secret"] for line in book.lines() if line["action"] == "get_secret"]
    assert set(served) <= set(used)
    assert used == sorted(used)
    use(again, "LAST")
    assert book.verify().problem is None
    again.close()


SERVER = """
import sys
from pathlib import Path
from support.records import Book, use

book = Book(Path(sys.argv[1]))
record = book.open()
for number in range(10**9):
    use(record, f"N{number}")
    print(number, flush=True)
"""


def test_what_was_served_before_a_kill_is_on_record(tmp_path: Path) -> None:
    book, served = Book(tmp_path), -1
    for patience in (1, 50, 300):
        command = [sys.executable, "-c", SERVER, str(tmp_path)]
        environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            for _ in range(patience):
                served = int(process.stdout.readline())
            process.kill()
            served = max([served, *map(int, process.stdout.read().split())])
        record = book.open()
        assert record.problem is None
        assert record.last_use(f"N{served}") is not None
        assert book.verify().problem is None
        record.close()


# --- what a crash leaves --------------------------------------------------------------------------------------------------


def test_a_torn_last_line_is_set_aside_with_a_note(book: Book) -> None:
    record = book.open()
    for name in ("A", "B", "C"):
        use(record, name)
    record.close()
    whole = book.current.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for cut in (start + 1, start + 5, start + 100, len(whole) - 2, len(whole) - 1):
        book.current.write_bytes(whole[:cut])
        again = book.open()
        assert again.number == 2
        assert again.problem is None
        use(again, "D")
        assert [(line["secret"], line["action"]) for line in book.lines()[2:]] == [
            (None, "record"),
            ("D", "get_secret"),
        ]
        assert "did not fit" in book.lines()[2]["reason"]
        assert book.verify().problem is None
        again.close()
    aside = (book.directory / "audit.jsonl.torn").read_bytes()
    assert whole[start:-1] in aside


@pytest.mark.parametrize("junk", [b"\0" * 300 + b"\n", b"{}\n{}\n", b"\n", b"x"])
def test_what_a_power_cut_makes_of_the_end_is_set_aside(book: Book, junk: bytes) -> None:
    record = book.open()
    use(record)
    record.close()
    with book.current.open("ab") as file:
        file.write(junk)
    again = book.open()
    assert (again.number, again.problem) == (1, None)
    assert (book.directory / "audit.jsonl.torn").read_bytes() == junk


def test_a_line_from_elsewhere_does_not_fit(book: Book) -> None:
    record = book.open()
    use(record)
    use(record)
    record.close()
    raw = book.current.read_bytes()
    book.current.write_bytes(raw + raw.splitlines(keepends=True)[1])
    assert book.open().number == 2
    assert book.current.read_bytes() == raw


async def test_less_than_the_anchor_knows_is_refused(book: Book, mock_clock: trio.testing.MockClock) -> None:
    record = book.open()
    book.unlock(record)
    for _ in range(3):
        use(record)
    await run_for(record, book, 1.5)
    record.close()
    assert book.anchor.record is not None
    whole = book.current.read_bytes().splitlines(keepends=True)
    damaged = [
        b"",
        b"".join(whole[:-1]),
        b"".join([whole[0].replace(b"TOKEN", b"TAKEN"), *whole[1:]]),
        b"".join([*whole[:2], *whole[3:]]),
    ]
    for content in damaged:
        book.current.write_bytes(content)
        again = book.open()
        assert again.problem is not None
        assert "was on the disk" in again.problem
        use(again, flush=False)
        with pytest.raises(AuditFailedError):
            again.flush()
        assert book.current.read_bytes() == content, "what is damaged stays as it was found"
        again.close()
    book.current.unlink()
    assert book.open().problem is not None
    book.current.write_bytes(b"".join(whole))
    assert book.open().problem is None


def test_a_directory_that_cannot_be_written_is_a_problem_not_a_crash(book: Book) -> None:
    for at in (1, 2):
        book.disk.fail(at, code=errno.EROFS)
        record = book.open()
        assert "cannot be opened" in str(record.problem)
        use(record, flush=False)
        with pytest.raises(AuditFailedError):
            record.flush()
        record.close()
        book.disk.heal()


def test_setting_aside_that_fails_leaves_all_as_it_was(book: Book) -> None:
    record = book.open()
    use(record)
    record.close()
    torn = book.current.read_bytes() + b'{"n":2'
    book.current.write_bytes(torn)
    for at in (1, 2, 3):
        book.disk.fail(at, code=errno.ENOSPC)
        again = book.open()
        assert again.problem is not None
        assert book.current.read_bytes() == torn
        again.close()
    book.disk.heal()
    assert book.open().problem is None


# --- syncing and signing ----------------------------------------------------------------------------------------------------


async def test_a_line_is_synced_within_a_tenth_of_a_second(
    book: Book, mock_clock: trio.testing.MockClock
) -> None:
    record = book.open()
    use(record)
    book.disk.calls.clear()
    await run_for(record, book, 0.03)
    assert book.disk.calls == []
    await run_for(record, book, 0.03)
    assert book.disk.calls == ["fdatasync"]
    await run_for(record, book, 100)
    assert book.disk.calls == ["fdatasync"]


@pytest.mark.parametrize("done", [False, True])
async def test_an_error_of_a_sync_latches_until_a_restart(
    book: Book, done: bool, mock_clock: trio.testing.MockClock
) -> None:
    record = book.open()
    use(record)
    book.disk.fail(1, done=done)
    await run_for(record, book, 0.2)
    book.disk.heal()
    for _ in range(2):
        use(record, flush=False)
        with pytest.raises(AuditFailedError, match="could not be synced"):
            record.flush()
    with pytest.raises(AuditFailedError):
        record.flush()
    await run_for(record, book, 2)
    assert len(book.lines()) == 1
    assert book.disk.calls == []
    again = book.open()
    use(again)
    assert len(book.lines()) == 2


async def test_always_waits_for_the_sync(book: Book, mock_clock: trio.testing.MockClock) -> None:
    record = book.open(sync="always")
    assert record.always
    book.disk.calls.clear()
    use(record)
    await record.settle()
    assert book.disk.calls == ["write", "fdatasync"]
    await record.settle()
    assert book.disk.calls == ["write", "fdatasync"]
    book.disk.fail(2)
    use(record)
    with pytest.raises(AuditFailedError):
        await record.settle()


async def test_those_who_wait_at_the_same_time_share_a_sync(
    book: Book, mock_clock: trio.testing.MockClock
) -> None:
    record = book.open(sync="always")
    book.disk.calls.clear()
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            use(record)
            nursery.start_soon(record.settle)
    assert book.disk.calls.count("fdatasync") == 1


async def test_batch_does_not_wait(book: Book) -> None:
    record = book.open()
    assert not record.always
    use(record)
    book.disk.calls.clear()
    await record.settle()
    assert book.disk.calls == []


async def test_a_checkpoint_follows_an_unlock_at_once(book: Book, mock_clock: trio.testing.MockClock) -> None:
    record = book.open()
    use(record)
    await run_for(record, book, 3)
    assert book.actions() == ["get_secret"]
    book.unlock(record)
    await run_for(record, book, 0.2)
    assert book.actions() == ["get_secret", "checkpoint"]
    assert book.anchor.record == (2, hashlib.sha256(book.current.read_bytes().splitlines()[1]).hexdigest())
    assert book.verify().complete_to == 2
    await run_for(record, book, 5)
    assert len(book.lines()) == 2, "a checkpoint needs no checkpoint"


async def test_a_checkpoint_follows_a_line_within_a_second(
    book: Book, mock_clock: trio.testing.MockClock
) -> None:
    record = book.open()
    book.unlock(record)
    await run_for(record, book, 0.2)
    use(record)
    await run_for(record, book, 0.5)
    assert book.actions()[-1] == "get_secret"
    await run_for(record, book, 0.5)
    assert book.actions()[-1] == "checkpoint"


@pytest.mark.parametrize(("lines", "signed"), [(SIGN_LINES - 1, False), (SIGN_LINES, True)])
async def test_a_checkpoint_of_so_many_lines_goes_to_the_disk_with_them(
    book: Book, lines: int, signed: bool, mock_clock: trio.testing.MockClock
) -> None:
    record = book.open()
    book.unlock(record)
    await run_for(record, book, 0.2)
    book.disk.calls.clear()
    for _ in range(lines):
        use(record)
    await run_for(record, book, SYNC_DELAY / 2)
    assert book.actions()[-1] == "get_secret"
    await run_for(record, book, SYNC_DELAY)
    assert (book.actions()[-1] == "checkpoint") is signed
    assert book.disk.calls.count("fdatasync") == 1
    reached = (record.number, hash_of(book.current.read_bytes().splitlines()[-1]))
    assert (book.anchor.record == reached) is signed


async def test_a_crowd_gets_one_checkpoint_for_each_sync(
    book: Book, mock_clock: trio.testing.MockClock
) -> None:
    record = book.open()
    book.unlock(record)
    await run_for(record, book, 0.2)
    book.disk.calls.clear()
    for _ in range(11):
        for _ in range(SIGN_LINES):
            use(record)
        await run_for(record, book, 0.01)
    await run_for(record, book, SYNC_DELAY)
    assert book.actions()[-1] == "checkpoint"
    assert book.actions().count("checkpoint") - 1 == book.disk.calls.count("fdatasync")
    assert 2 <= book.disk.calls.count("fdatasync") <= 3


async def test_a_lock_between_takes_the_signer_away(book: Book, mock_clock: trio.testing.MockClock) -> None:
    record = book.open()
    book.unlock(record)
    book.key.locked = True
    use(record)
    await run_for(record, book, 2)
    assert book.actions() == ["get_secret"]
    assert record.signer is None
    book.key.locked = False
    book.unlock(record)
    await run_for(record, book, 0.2)
    assert book.actions() == ["get_secret", "checkpoint"]


async def test_what_was_counted_is_written_when_its_minute_is_over(
    book: Book, mock_clock: trio.testing.MockClock
) -> None:
    record = book.open()
    for _ in range(4):
        refuse(record)
    await run_for(record, book, 59)
    assert len(book.lines()) == 1
    await run_for(record, book, 2)
    assert [line.get("times") for line in book.lines()] == [None, 3]


async def test_the_anchor_learns_of_a_checkpoint_only_after_the_sync(
    book: Book, mock_clock: trio.testing.MockClock
) -> None:
    record = book.open()
    use(record)
    book.unlock(record)
    book.disk.fail(2)  # 1: the checkpoint's line, 2: its sync
    await run_for(record, book, 0.5)
    assert book.actions() == ["get_secret", "checkpoint"]
    assert book.anchor.record is None


async def test_an_anchor_that_cannot_be_written_is_tried_again_at_the_next_checkpoint(
    book: Book, mock_clock: trio.testing.MockClock
) -> None:
    record = book.open()
    book.unlock(record)
    book.directory.joinpath("anchor.json.new").mkdir()
    await run_for(record, book, 0.2)
    assert (book.anchor.record, record.problem) == (None, None)
    book.directory.joinpath("anchor.json.new").rmdir()
    use(record)
    await run_for(record, book, 1)
    assert (book.anchor.record or (0, ""))[0] == record.number == 3


# --- another key --------------------------------------------------------------------------------------------------------------


async def test_the_old_key_names_the_new_one_and_the_new_one_the_old(
    book: Book, mock_clock: trio.testing.MockClock
) -> None:
    record, new = book.open(), Key(2)
    book.unlock(record)
    use(record)
    record.rekeyed(new.public)
    record.signer = new.sign  # who asks the vault to sign now gets the new key's signature
    use(record)
    await run_for(record, book, 1.5)
    checkpoints = [line for line in book.lines() if line["action"] == "checkpoint"]
    assert [(c["key"], c.get("next"), c.get("after")) for c in checkpoints] == [
        (book.key.hex, new.hex, None),
        (new.hex, None, book.key.hex),
    ]
    assert record.public == new.public


def test_while_locked_another_key_comes_without_the_old_ones_word(book: Book) -> None:
    record = book.open()
    record.rekeyed(Key(2).public)
    assert book.lines() == []


def test_a_record_that_fails_keeps_another_key_from_coming(book: Book) -> None:
    record = book.open()
    book.unlock(record)
    book.disk.fail(1)
    with pytest.raises(AuditFailedError):
        record.rekeyed(Key(2).public)


async def test_a_key_that_is_being_replaced_is_asked_again(
    book: Book, mock_clock: trio.testing.MockClock
) -> None:
    record, busy = book.open(), True

    def sign(digest: bytes) -> bytes:
        if busy:
            raise BusyError
        return book.key.sign(digest)

    record.public, record.signer = book.key.public, sign
    await run_for(record, book, 0.5)
    assert book.lines() == []
    busy = False
    await run_for(record, book, 1)
    assert book.actions() == ["checkpoint"]


async def test_a_signature_by_another_key_is_not_written(
    book: Book, mock_clock: trio.testing.MockClock
) -> None:
    record = book.open()
    record.public, record.signer = book.key.public, Key(3).sign
    use(record)
    await run_for(record, book, 3)
    assert book.actions() == ["get_secret"]


# --- files ------------------------------------------------------------------------------------------------------------------


async def test_files_rotate_by_size_and_the_chain_goes_on(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    book = Book(tmp_path, max_segment=1000)
    record = book.open()
    descriptors = len(os.listdir("/proc/self/fd"))
    book.unlock(record)
    for _ in range(20):
        use(record)
        await run_for(record, book, 0.3)
    await run_for(record, book, 1.5)
    names = [path.name for path in book.paths()]
    assert names[:2] == ["audit-000001.jsonl", "audit-000002.jsonl"]
    assert names[-1] == "audit.jsonl"
    assert len(names) > 4
    assert [line["n"] for line in book.lines()] == list(range(1, record.number + 1))
    verdict = book.verify()
    assert (verdict.problem, verdict.complete_to) == (None, record.number)
    record.close()
    again = book.open()
    assert (again.number, again.problem) == (record.number, None)
    use(again)
    assert book.verify().last == record.number + 1
    assert len(os.listdir("/proc/self/fd")) == descriptors


async def test_what_follows_the_change_of_files_is_synced_though_the_task_had_nothing_to_do(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    """The change comes with a sync that takes longer than the task slept, so that it sleeps for good by then."""
    book, go_on = Book(tmp_path, max_segment=100), threading.Event()

    class Held(FaultyFiles):
        def fdatasync(self, fd: int) -> None:
            assert go_on.wait(10)
            super().fdatasync(fd)

    book.disk = Held()
    record = book.open()
    async with trio.open_nursery() as nursery:
        await nursery.start(record.run)
        use(record)
        nursery.start_soon(record.checkpoint)
        await trio.testing.wait_all_tasks_blocked()
        pass_by(book, mock_clock, 1)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        await until(lambda: len(book.paths()) == 2)
        book.disk.calls.clear()
        use(record)
        pass_by(book, mock_clock, 0.1)
        await until(lambda: "fdatasync" in book.disk.calls)
        nursery.cancel_scope.cancel()


def pass_by(book: Book, clock: trio.testing.MockClock, seconds: float) -> None:
    book.clock.now += seconds
    clock.jump(seconds)


async def until(true: Callable[[], object]) -> None:
    """Wait for what a thread does."""
    give_up = time.monotonic() + 10
    while not true():
        assert time.monotonic() < give_up
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("at", [1, 2])
async def test_a_next_file_that_cannot_be_made_latches(
    tmp_path: Path, at: int, mock_clock: trio.testing.MockClock
) -> None:
    book = Book(tmp_path, max_segment=100)
    record = book.open()
    use(record)
    book.disk.fail(1 + at)  # after the sync: rename, open
    await run_for(record, book, 0.2)
    book.disk.heal()
    use(record, flush=False)
    with pytest.raises(AuditFailedError, match="next file"):
        record.flush()
    again = book.open()
    use(again)
    assert book.verify().last == 2


async def test_what_a_power_cut_takes_from_a_full_file_takes_all_that_follows(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    book = Book(tmp_path, max_segment=500)
    record = book.open()
    for _ in range(3):
        use(record)
    await run_for(record, book, 0.2)
    use(record)
    record.close()
    full, current = book.paths()
    full.write_bytes(full.read_bytes()[:-5])
    behind = current.read_bytes()
    again = book.open()
    assert (again.number, again.problem) == (2, None)
    assert current.read_bytes() == b""
    assert (tmp_path / "audit.jsonl.torn").read_bytes().endswith(behind)
    use(again)
    assert book.verify().problem is None


# --- reading ----------------------------------------------------------------------------------------------------------------


async def test_reading_what_fits(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    book = Book(tmp_path, max_segment=1000)
    record = book.open()
    book.unlock(record)
    start = int(book.clock.now)
    for number in range(12):
        use(record, f"N{number % 3}", agent=f"a{number % 2}")
        await run_for(record, book, 0.1)
        book.clock.now += 10
    assert len(book.paths()) > 2
    everything = record.read()
    assert [entry["secret"] for entry in everything] == [f"N{number % 3}" for number in range(12)]
    assert "checkpoint" in book.actions()
    assert {entry["agent"] for entry in record.read(agent="a1")} == {"a1"}
    assert len(record.read(agent="a1")) == 6
    assert len(record.read(secret="N0")) == 4
    assert record.read(secret="N0", agent="a0", limit=1) == everything[:1]
    assert record.read(since=start + 55) == [entry for entry in everything if entry["time"] >= start + 55]
    for entry in everything:
        assert record.read(after=entry["n"]) == [other for other in everything if other["n"] > entry["n"]]
    assert record.read(after=10**9) == []
    assert record.read(limit=5) == everything[:5]


def test_reading_passes_over_a_line_that_is_being_written(book: Book) -> None:
    record = book.open()
    use(record)
    with book.current.open("ab") as file:
        file.write(b'{"n":2,"time"')
    assert len(record.read()) == 1


def test_a_hostile_name_of_a_program_is_shown_and_not_obeyed(book: Book) -> None:
    record = book.open()
    exe = '/tmp/"}\n{"n":9,"decision":"allowed\u202e\x1b[2J'
    refuse(record, exe=exe)
    assert len(book.current.read_bytes().splitlines()) == 1
    assert record.read()[0]["exe"] == exe
    assert make_caller().exe != exe
