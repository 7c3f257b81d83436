"""The arena: the only room where a secret's bytes lie open.

A mapping that no other process reads, root's debugger included (``memfd_secret``), or at least one that is never
swapped, dumped or inherited (``mlock``). It is mapped with the first slot taken and unmapped with the last one
released, because a ``memfd_secret`` keeps the whole machine from hibernating. Free room is always zero.

Sources: memfd_secret(2), mlock(2), madvise(2).
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import threading
import weakref
from bisect import bisect_left
from ctypes import c_char, c_int, c_long, c_size_t, c_void_p
from types import TracebackType
from typing import Literal, Self

from avault_protocol import BusyError, InternalError

from . import apart, sodium

Kind = Literal["memfd_secret", "mlock"]

ALIGNMENT = 64
"""Bytes: a cache line, so that no two slots share one."""
SIZE = 4 << 20
"""Bytes of an arena: half of the 8 MiB that a kernel lets an ordinary process lock."""

_SYS_MEMFD_SECRET = 447  # the same on every architecture
_MADV_WIPEONFORK = 18
_MAP_FAILED = c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = c_long
_libc.mmap.restype = c_void_p
_libc.mmap.argtypes = (c_void_p, c_size_t, c_int, c_int, c_int, c_long)
_libc.munmap.argtypes = (c_void_p, c_size_t)
_libc.mlock.argtypes = (c_void_p, c_size_t)
_libc.madvise.argtypes = (c_void_p, c_size_t, c_int)


class Slot:
    """A piece of the arena, its owner's until released. Zero when taken, wiped when released.

    ``view`` is its bytes, ``address`` where they lie, ``size`` how many. No slice of the view may outlive the slot:
    the same room is another's soon.
    """

    __slots__ = ("address", "arena", "size", "view")

    def __init__(self, arena: Arena, address: int, view: memoryview) -> None:
        self.arena = arena
        self.address = address
        self.view = view
        self.size = len(view)

    def __repr__(self) -> str:
        return f"<Slot of {self.size} bytes>"

    def narrow(self, start: int, size: int) -> Slot:
        """Show only *size* bytes from *start* on; the rest stays with the slot until release."""
        if not 0 <= start <= start + size <= self.size:
            raise ValueError(f"bytes {start} to {start + size} of a slot of {self.size}")
        self.view, whole = self.view[start : start + size], self.view
        whole.release()
        self.address += start
        self.size = size
        return self

    def release(self) -> None:
        """Wipe the bytes and give the room back. Doing so twice is fine.

        Raises BufferError, with the bytes wiped but the room kept, while a system call in another thread uses the view.
        """
        self.arena.give_back(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Arena:
    """Room for *size* bytes of secrets. Threads may share it."""

    def __init__(self, size: int = SIZE, kind: Literal["auto", "memfd_secret", "mlock"] = "auto") -> None:
        if size <= 0 or size % mmap.PAGESIZE:
            raise ValueError(f"an arena of {size} bytes, which are no whole pages")
        self.size = size
        self.kind: Kind = _best_kind() if kind == "auto" else kind
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._view: memoryview | None = None
        self._base = 0
        self._reached = 0  # no byte at or beyond this offset was ever handed out
        self._free = [(0, self.size)]  # start and end, sorted, never adjacent
        self._in_use = 0
        self._taken: dict[Slot, tuple[int, int]] = {}

    @property
    def mapped(self) -> bool:
        """Whether there is a mapping at this moment."""
        return self._view is not None

    @property
    def in_use(self) -> int:
        """Bytes that are taken, rounded up to `ALIGNMENT`."""
        return self._in_use

    def take(self, size: int) -> Slot:
        """Return a zeroed slot of *size* bytes, at an address that is a multiple of `ALIGNMENT`.

        Raises BusyError if there is no room, InternalError if the kernel gives no such memory.
        """
        if size <= 0:
            raise ValueError(f"a slot of {size} bytes")
        span = -(-size // ALIGNMENT) * ALIGNMENT
        with self._lock:
            start = self._carve(span)
            view = self._mapped_view()[start : start + size]
            self._in_use += span
            self._reached = max(self._reached, start + span)
            slot = Slot(self, self._base + start, view)
            self._taken[slot] = start, start + span
            return slot

    def give_back(self, slot: Slot) -> None:
        """Do what `Slot.release` says."""
        with self._lock:
            if slot not in self._taken:
                return
            start, end = self._taken[slot]
            sodium.memzero(self._base + start, end - start)
            slot.view.release()
            del slot.address, self._taken[slot]
            self._in_use -= end - start
            if self._taken:
                self._merge(start, end)
            else:
                self._forget()

    def wipe(self) -> None:
        """Zero everything, in one call under the GIL. Slots stay taken; their owners find zeroes."""
        with self._lock, apart.LOCK:
            if self._view is not None:
                sodium.memzero(self._base, self._reached)

    def _mapped_view(self) -> memoryview:
        if self._view is not None:
            return self._view
        try:
            self._base = self._mapped()
        except BaseException:
            self._forget()
            raise
        memory = (c_char * self.size).from_address(self._base)
        # A view that somebody kept keeps the mapping too, wiped: reading it later is wrong, but no crash.
        weakref.finalize(memory, _libc.munmap, self._base, self.size).atexit = False
        self._view = memoryview(memory).cast("B")
        return self._view

    def _mapped(self) -> int:
        try:
            return _map(self.kind, self.size)
        except InternalError:
            # The traceback of an old error may keep a view, and with it the last mapping; a user has room for two.
            gc.collect()
            return _map(self.kind, self.size)

    def _carve(self, span: int) -> int:
        for index, (start, end) in enumerate(self._free):
            if end - start >= span:
                self._free[index : index + 1] = [(start + span, end)] if end - start > span else []
                return start
        raise BusyError(f"no room in memory for {span} bytes: {self._in_use} of {self.size} are taken")

    def _merge(self, start: int, end: int) -> None:
        free = self._free
        index = last = bisect_left(free, (start, end))
        if index and free[index - 1][1] == start:
            index -= 1
            start = free[index][0]
        if last < len(free) and free[last][0] == end:
            end = free[last][1]
            last += 1
        free[index:last] = [(start, end)]


def _best_kind() -> Kind:
    descriptor = _libc.syscall(_SYS_MEMFD_SECRET, os.O_CLOEXEC)
    if descriptor < 0:
        return "mlock"
    os.close(descriptor)
    return "memfd_secret"


def _map(kind: Kind, size: int) -> int:
    try:
        return _map_secret(size) if kind == "memfd_secret" else _map_locked(size)
    except OSError as error:
        raise InternalError(
            f"the kernel gives no memory of kind {kind}: {(error.strerror or '?').lower()}",
            hint=f"raise the limit of locked memory to {2 * size >> 20} MiB (ulimit -l, LimitMEMLOCK=)",
        ) from error


def _map_secret(size: int) -> int:
    descriptor = _checked(_libc.syscall(_SYS_MEMFD_SECRET, os.O_CLOEXEC))
    try:
        os.ftruncate(descriptor, size)
        address = _mmap(size, mmap.MAP_SHARED, descriptor)
    finally:
        # Whoever got hold of the descriptor (pidfd_getfd(2)) could map it; `mmap.mmap` would keep one.
        os.close(descriptor)
    return _advised(address, size, mmap.MADV_DONTFORK)


def _map_locked(size: int) -> int:
    return _advised(_mmap(size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1), size, _MADV_WIPEONFORK, lock=True)


def _mmap(size: int, flags: int, descriptor: int) -> int:
    address = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, descriptor, 0)
    if address == _MAP_FAILED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(address)


def _advised(address: int, size: int, in_child: int, *, lock: bool = False) -> int:
    try:
        for advice in (mmap.MADV_DONTDUMP, in_child):
            _checked(_libc.madvise(address, size, advice))
        if lock:
            _checked(_libc.mlock(address, size))
    except OSError:
        _libc.munmap(address, size)
        raise
    return address


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
