"""arena: the allocator against a model, what the kernel promises about its pages, and every way to leave it."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from pickle import PickleBuffer

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from avault_daemon.memory import arena as arena_module
from avault_daemon.memory.arena import ALIGNMENT, Arena, Kind, Slot
from avault_protocol import BusyError, InternalError
from support.holder import holder
from support.slots import filled, has_secret_memory

KINDS = [
    pytest.param(
        "memfd_secret",
        marks=pytest.mark.skipif(not has_secret_memory(), reason="this kernel gives no memfd_secret"),
    ),
    "mlock",
]
SMALL = 2 * mmap.PAGESIZE


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    return request.param  # type: ignore[no-any-return]


def peek(address: int, size: int) -> bytes:
    return ctypes.string_at(address, size)


def flags(address: int) -> set[str]:
    """Return the kernel's flags of the map at *address*; empty if there is none."""
    here = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            start, _, end = first.partition("-")
            here = int(start, 16) <= address < int(end, 16)
        elif here and first == "VmFlags:":
            return set(line.split()[1:])
    return set()


def test_it_is_mapped_only_while_something_is_in_it(kind: Kind) -> None:
    arena = Arena(SMALL, kind)
    assert (arena.kind, arena.mapped, arena.in_use, arena.size) == (kind, False, 0, SMALL)
    one, two = arena.take(1), arena.take(65)
    assert (arena.mapped, arena.in_use) == (True, 3 * ALIGNMENT)
    address = one.address
    one.release()
    assert (arena.mapped, arena.in_use) == (True, 2 * ALIGNMENT)
    two.release()
    assert (arena.mapped, arena.in_use) == (False, 0)
    assert not flags(address)
    with arena.take(1):
        assert arena.mapped
    assert not arena.mapped


def test_what_the_kernel_promises(kind: Kind) -> None:
    """lo: locked; dd: never dumped; dc, wf: not in a child, or zero there."""
    with Arena(SMALL, kind).take(1) as slot:
        assert flags(slot.address) >= {"lo", "dd", "dc" if kind == "memfd_secret" else "wf"}


def test_no_descriptor_stays_open(kind: Kind) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with Arena(SMALL, kind).take(1):
        assert set(os.listdir("/proc/self/fd")) == before


def test_auto_takes_the_best_that_there_is() -> None:
    assert Arena().kind == ("memfd_secret" if has_secret_memory() else "mlock")
    assert Arena().size == 4 << 20


@pytest.mark.parametrize("size", [0, -4096, 100])
def test_its_size_is_whole_pages(size: int) -> None:
    with pytest.raises(ValueError, match="no whole pages"):
        Arena(size)


def test_a_slot_is_aligned_zero_and_wiped(kind: Kind) -> None:
    arena = Arena(SMALL, kind)
    with arena.take(10) as first:
        assert first.address % ALIGNMENT == 0
        assert (first.size, len(first.view), bytes(first.view)) == (10, 10, bytes(10))
        second = filled(arena, b"secret")
        assert peek(second.address, 6) == b"secret"
        address = second.address
        second.release()
        assert peek(address, ALIGNMENT) == bytes(ALIGNMENT)


def test_a_released_slot_is_unusable() -> None:
    arena = Arena(SMALL)
    with arena.take(1):
        slot = arena.take(10)
        slot.release()
        slot.release()
        with pytest.raises(ValueError, match="released memoryview"):
            slot.view[0] = 1
        with pytest.raises(AttributeError):
            _ = slot.address


def test_its_repr_shows_no_byte() -> None:
    with filled(Arena(SMALL), b"secret") as slot:
        assert repr(slot) == "<Slot of 6 bytes>"


@pytest.mark.parametrize("size", [0, -1])
def test_a_slot_has_a_byte(size: int) -> None:
    with pytest.raises(ValueError, match="a slot of"):
        Arena(SMALL).take(size)


def test_full_is_busy_and_changes_nothing() -> None:
    arena = Arena(SMALL)
    with pytest.raises(BusyError, match=f"{SMALL + ALIGNMENT} bytes: 0 of {SMALL} are taken"):
        arena.take(SMALL + 1)
    with arena.take(SMALL) as slot:
        assert arena.in_use == SMALL
        with pytest.raises(BusyError):
            arena.take(1)
        assert len(slot.view) == SMALL
    arena.take(SMALL).release()


def test_a_request_that_never_fits_maps_nothing() -> None:
    arena = Arena(SMALL)
    with pytest.raises(BusyError):
        arena.take(SMALL + 1)
    assert not arena.mapped


def test_narrow() -> None:
    arena = Arena(SMALL)
    with arena.take(1):
        slot = filled(arena, b"..secret....")
        address = slot.address
        assert slot.narrow(2, 6) is slot
        assert (slot.address, slot.size, bytes(slot.view)) == (address + 2, 6, b"secret")
        with pytest.raises(ValueError, match="bytes 1 to 7 of a slot of 6"):
            slot.narrow(1, 6)
        with pytest.raises(ValueError, match="bytes -1 to 2"):
            slot.narrow(-1, 3)
        slot.release()
        assert peek(address, 12) == bytes(12)
        assert arena.in_use == ALIGNMENT


def test_wipe_zeroes_what_stays_taken(kind: Kind) -> None:
    arena = Arena(SMALL, kind)
    arena.wipe()
    assert not arena.mapped
    slots = [filled(arena, b"secret" * 20) for _ in range(5)]
    slots.pop(2).release()
    arena.wipe()
    assert all(bytes(slot.view) == bytes(120) for slot in slots)
    assert arena.in_use == 4 * 2 * ALIGNMENT
    for slot in slots:
        slot.release()
    assert not arena.mapped


def test_a_view_in_use_by_a_call_keeps_its_room() -> None:
    arena = Arena(SMALL)
    slot = filled(arena, b"secret")
    in_a_call = PickleBuffer(slot.view)  # holds the buffer as a system call does
    with pytest.raises(BufferError):
        slot.release()
    assert bytes(in_a_call) == bytes(6)
    assert arena.in_use == ALIGNMENT
    in_a_call.release()
    slot.release()
    assert not arena.mapped


def test_a_view_that_was_kept_reads_zero_and_crashes_nothing(kind: Kind) -> None:
    arena = Arena(SMALL, kind)
    slot = filled(arena, b"secret")
    address, kept = slot.address, slot.view[1:]
    slot.release()
    assert not arena.mapped
    assert bytes(kept) == bytes(5)
    with filled(arena, b"another") as other:
        assert other.address != address
    kept.release()
    assert not flags(address)


def test_threads_share_it(kind: Kind) -> None:
    arena = Arena(4 * mmap.PAGESIZE, kind)
    faults: list[str] = []

    def use(mark: int) -> None:
        for turn in range(300):
            with arena.take(1 + (turn * 37 + mark) % 500) as slot:
                if any(slot.view):
                    faults.append("not zero")
                slot.view[:] = bytes((mark,)) * slot.size
                if bytes(slot.view) != bytes((mark,)) * slot.size:
                    faults.append("not alone")

    threads = [threading.Thread(target=use, args=(mark,)) for mark in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert (arena.mapped, arena.in_use) == (False, 0)


@settings(max_examples=60, stateful_step_count=60, deadline=None)
class Model(RuleBasedStateMachine):
    """Offsets are told from the address of a slot that is taken first, at the start, and kept."""

    SIZE = mmap.PAGESIZE

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena(self.SIZE, "mlock")
        self.slots: dict[Slot, bytes] = {}
        self.base = 0

    def occupied(self) -> list[tuple[int, int]]:
        return sorted(
            (slot.address - self.base, -(-slot.size // ALIGNMENT) * ALIGNMENT) for slot in self.slots
        )

    def largest_gap(self) -> int:
        gap = end = 0
        for start, size in [*self.occupied(), (self.SIZE, 0)]:
            gap, end = max(gap, start - end), start + size
        return gap

    @rule(size=st.integers(1, 1500), content=st.binary(min_size=1, max_size=8))
    def take(self, size: int, content: bytes) -> None:
        room = self.largest_gap()
        try:
            slot = self.arena.take(size)
        except BusyError:
            assert room < size
            return
        assert room >= size
        assert bytes(slot.view) == bytes(size)
        if not self.slots:
            self.base = slot.address
        data = (content * size)[:size]
        slot.view[:] = data
        self.slots[slot] = data

    @precondition(lambda self: self.slots)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(list(self.slots)))
        address, size = slot.address, slot.size
        slot.release()
        del self.slots[slot]
        assert not self.slots or peek(address, size) == bytes(size)

    @rule()
    def wipe(self) -> None:
        self.arena.wipe()
        self.slots = {slot: bytes(slot.size) for slot in self.slots}

    @invariant()
    def nobody_touches_anothers(self) -> None:
        for slot, content in self.slots.items():
            assert bytes(slot.view) == content
            assert slot.address % ALIGNMENT == 0

    @invariant()
    def nothing_overlaps(self) -> None:
        end = 0
        for start, size in self.occupied():
            assert end <= start
            end = start + size
        assert end <= self.SIZE

    @invariant()
    def the_sums_are_right(self) -> None:
        assert self.arena.in_use == sum(size for _, size in self.occupied())
        assert self.arena.mapped == bool(self.slots)

    def teardown(self) -> None:
        for slot in self.slots:
            slot.release()


TestModel = Model.TestCase


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, check=False)


FORK = """
import os, sys
from avault_daemon.memory.arena import Arena
slot = Arena(kind=sys.argv[1]).take(6)
slot.view[:] = b"secret"
child = os.fork()
if child == 0:
    os.write(1, bytes(slot.view))
    os._exit(0)
os.write(2, b"%d" % os.waitpid(child, 0)[1])
"""


def test_a_forked_child_has_none_of_it(kind: Kind) -> None:
    done = run(FORK, kind)
    died, zeroes = (b"", b"11"), (bytes(6), b"0")
    assert (done.stdout, done.stderr) == (died if kind == "memfd_secret" else zeroes)


HOLD = """
import os, sys
from avault_daemon.memory.arena import Arena
slot = Arena(kind=sys.argv[1]).take(16)
os.readv(0, [slot.view])
os.write(1, slot.address.to_bytes(8, "little"))
os.read(0, 1)
"""


def test_another_process_cannot_read_it(kind: Kind) -> None:
    """Of the kind mlock it can, and that shows that the attempt on the other is a real one."""
    secret = os.urandom(16)
    with holder(secret, HOLD, kind) as process:
        address = int.from_bytes(process.says.read(8), "little")
        with open(f"/proc/{process.pid}/mem", "rb", buffering=0) as memory:
            if kind == "memfd_secret":
                with pytest.raises(OSError, match="Input/output error"):
                    os.pread(memory.fileno(), 16, address)
            else:
                assert os.pread(memory.fileno(), 16, address) == secret


NO_LIMIT = """
import os, resource, sys
from avault_daemon.memory.arena import Arena
from avault_protocol import InternalError
if os.getuid() == 0:
    os.setresuid(65534, 65534, 65534)
resource.setrlimit(resource.RLIMIT_MEMLOCK, (int(sys.argv[2]),) * 2)
arena = Arena(kind=sys.argv[1])
try:
    arena.take(1)
except InternalError as error:
    sys.stdout.write(f"{error.message}|{error.hint}|{arena.mapped}|{arena.in_use}")
else:
    sys.stdout.write("mapped")
"""


def test_without_memory_that_may_be_locked_it_refuses(kind: Kind) -> None:
    message, hint, mapped, in_use = run(NO_LIMIT, kind, "65536").stdout.decode().split("|")
    assert message.startswith(f"the kernel gives no memory of kind {kind}: ")
    assert hint == "raise the limit of locked memory to 8 MiB (ulimit -l, LimitMEMLOCK=)"
    assert (mapped, in_use) == ("False", "0")


def test_with_enough_it_does_not(kind: Kind) -> None:
    assert run(NO_LIMIT, kind, str(4 << 20)).stdout == b"mapped"


def test_a_failure_after_the_map_leaves_no_map(monkeypatch: pytest.MonkeyPatch, kind: Kind) -> None:
    arena = Arena(SMALL, kind)
    monkeypatch.setattr(mmap, "MADV_DONTDUMP", 12345)
    before = Path("/proc/self/maps").read_text().count("\n")
    gc.freeze()  # garbage is looked for each time
    for _ in range(20):
        with pytest.raises(InternalError, match="invalid argument"):
            arena.take(1)
    gc.unfreeze()
    assert Path("/proc/self/maps").read_text().count("\n") < before + 10
    assert not arena.mapped


def test_a_map_that_is_refused_is_tried_again_without_what_garbage_keeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Garbage:
        itself: Garbage

    garbage = Garbage()
    garbage.itself, kept = garbage, weakref.ref(garbage)
    really = arena_module._map  # pyright: ignore[reportPrivateUsage]

    def only_without_garbage(kind: Kind, size: int) -> int:
        if kept() is not None:
            raise InternalError("no memory")
        return really(kind, size)

    monkeypatch.setattr(arena_module, "_map", only_without_garbage)
    del garbage
    with Arena(SMALL).take(1) as slot:
        assert kept() is None
        assert slot.size == 1
