"""Look through the whole memory of another process, and its registers, for copies of what should not be there.

`scan` reads every readable map of ``/proc/PID/mem``, and each thread's general and vector registers (what is left there
lands on the stack with the next signal), and reports each run of at least 16 bytes (or the whole needle, if
it is shorter) of a needle in any of its forms: as it is, reversed (a number in limbs), as hex, and as HMAC's two
pads. Needles must be random enough that such a run is no accident. The scanned process must hold nothing that was told
what the needles are, and the scanner must be another process: root, or a parent with a dumpable child.

`check` is the test: planted copies found, or the run is void; needles absent.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes import c_long, c_size_t, c_void_p
from dataclasses import dataclass, replace
from pathlib import Path

RUN = 16
"""Bytes in a row that count as a copy."""
_WORD = 8
_CHUNK, _BLOCK, _OVERLAP = 4 << 20, 64 << 10, 4096
REGISTERS = "registers"
"""How the place of a hit begins that is none in memory."""
_PTRACE_SEIZE, _PTRACE_INTERRUPT, _PTRACE_DETACH, _PTRACE_GETREGSET = 0x4206, 0x4207, 17, 0x4204
_PTRACE_CONT, _PTRACE_O_TRACEEXIT, _PTRACE_EVENT_EXIT = 7, 0x40, 6
_WALL = 0x40000000
# NT_PRSTATUS, NT_PRFPREG, NT_X86_XSTATE (x86 only)
_REGISTERS = {"general": 1, "floating-point": 2, "vector": 0x202}
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = c_long
_libc.ptrace.argtypes = (c_long, c_long, c_void_p, c_void_p)
_NEVER = ("[vvar]", "[vvar_vclock]", "[vsyscall]")


@dataclass(frozen=True, slots=True)
class Hit:
    """A copy, of *length* bytes, of part of the needle *label*."""

    label: str
    form: str
    address: int
    length: int
    where: str


@dataclass(frozen=True, slots=True)
class Image:
    """What root can read of a process at one moment: (where, address, bytes), and the maps that the kernel lets nobody read."""

    parts: list[tuple[str, int, bytes]]
    unreadable: list[tuple[int, int]]

    @property
    def size(self) -> int:
        """Bytes that were read."""
        return sum(len(content) for _, _, content in self.parts)


@dataclass(frozen=True, slots=True)
class Scan:
    """What a scan found, how many bytes it read, and the maps (start, end) that the kernel let nobody read."""

    hits: list[Hit]
    size: int
    unreadable: list[tuple[int, int]]


def forms(needle: bytes) -> dict[str, bytes]:
    """Return what a copy of *needle* may look like."""
    return {
        "raw": needle,
        "reversed": needle[::-1],
        "hex": needle.hex().encode(),
        "HEX": needle.hex().upper().encode(),
        "inner pad": bytes(byte ^ 0x36 for byte in needle),
        "outer pad": bytes(byte ^ 0x5C for byte in needle),
    }


class _Index:
    """The needles by each of their 8-byte words: 16 bytes in a row hold a whole aligned word, wherever they lie."""

    def __init__(self, needles: Mapping[str, bytes]) -> None:
        self.words: dict[int, list[tuple[str, str, bytes, int]]] = {}
        self.short: list[tuple[str, str, bytes]] = []
        for label, needle in needles.items():
            for form, text in forms(needle).items():
                self._add(label, form, text)

    def _add(self, label: str, form: str, text: bytes) -> None:
        if len(text) < RUN:
            self.short.append((label, form, text))
            return
        for offset in range(len(text) - _WORD + 1):
            word = text[offset : offset + _WORD]
            if len(set(word)) > 1:
                self.words.setdefault(int.from_bytes(word, "little"), []).append((label, form, text, offset))

    def find(self, chunk: bytes) -> Iterator[tuple[str, str, int, int]]:
        """Yield label, form, offset in *chunk* (a whole number of words) and length of each copy."""
        words = memoryview(chunk).cast("Q")
        if not self.words.keys().isdisjoint(words):
            seen: set[tuple[str, str, int]] = set()
            for position, word in enumerate(words):
                for label, form, text, offset in self.words.get(word, ()):
                    start, length = _extend(chunk, position * _WORD, text, offset)
                    if length >= RUN and (label, form, start) not in seen:
                        seen.add((label, form, start))
                        yield label, form, start, length
        for label, form, text in self.short:
            if (start := chunk.find(text)) >= 0:
                yield label, form, start, len(text)


def _extend(chunk: bytes, position: int, text: bytes, offset: int) -> tuple[int, int]:
    start, end = position, position + _WORD
    while (
        start > 0
        and start - position + offset > 0
        and chunk[start - 1] == text[start - 1 - position + offset]
    ):
        start -= 1
    while (
        end < len(chunk)
        and end - position + offset < len(text)
        and chunk[end] == text[end - position + offset]
    ):
        end += 1
    return start, end - start


class Scanner:
    """Looks for *needles* in a process, again and again: what has not changed and held none is not looked through twice.

    *planted* are needles, too, that each scan must find, or it is void.
    """

    def __init__(self, needles: Mapping[str, bytes], planted: Mapping[str, bytes] | None = None) -> None:
        self.needles, self.planted = needles, planted or {}
        self._index = _Index({**needles, **self.planted})
        self._clean: dict[tuple[str, int], bytes] = {}

    def scan(self, pid: int, *, ignore: Sequence[tuple[int, int]] = (), registers: bool = True) -> Scan:
        """Stop the process, read it, let it go on, and look through what was read; what is planted is no hit."""
        with stopped(pid):
            image = read(pid, ignore=ignore, registers=registers)
        found = self.look(image)
        missed = self.planted.keys() - {hit.label for hit in found.hits}
        assert not missed, f"void: planted copies were not found: {missed}"
        return replace(found, hits=[hit for hit in found.hits if hit.label in self.needles])

    def look(self, image: Image) -> Scan:
        """Return what is in *image*."""
        hits = [hit for where, address, content in image.parts for hit in self._look(where, address, content)]
        return Scan(hits, image.size, image.unreadable)

    def _look(self, where: str, address: int, content: bytes) -> Iterator[Hit]:
        for start in range(0, len(content), _BLOCK):
            # Blocks overlap, so that no copy falls between two.
            block = content[start : start + _BLOCK + _OVERLAP]
            place = where, address + start
            if self._clean.get(place) == block:
                continue
            found = list(self._index.find(block)) if block.count(0) < len(block) else []
            if not found:
                self._clean[place] = block
            for label, form, offset, length in found:
                yield Hit(label, form, address + start + offset, length, where)


def scan(
    pid: int,
    needles: Mapping[str, bytes],
    *,
    ignore: Sequence[tuple[int, int]] = (),
    registers: bool = True,
) -> Scan:
    """Look once through all of the process's memory but the ranges in *ignore*, and its *registers* if nobody traces it."""
    return Scanner(needles).look(read(pid, ignore=ignore, registers=registers))


def read(pid: int, *, ignore: Sequence[tuple[int, int]] = (), registers: bool = True) -> Image:
    """Read what `scan` looks through."""
    image = Image([], [])
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for start, end, name in _maps(pid):
            if not any(first <= start and end <= last for first, last in ignore):
                image.parts.append((name, start, _read_map(memory.fileno(), start, end, image)))
    for thread in map(int, os.listdir(f"/proc/{pid}/task")) if registers else ():
        for kind, content in _registers(thread):
            image.parts.append((f"{REGISTERS} of thread {thread}: {kind}", 0, content))
    return image


def _read_map(memory: int, start: int, end: int, image: Image) -> bytes:
    chunks: list[bytes] = []
    position = start
    while position < end:
        try:
            chunk = os.pread(memory, min(_CHUNK, end - position), position)
        except OSError:
            chunk = b""
        if not chunk:
            image.unreadable.append((position, end))
            break
        chunks.append(chunk)
        position += len(chunk)
    return b"".join(chunks)


def _registers(thread: int) -> list[tuple[str, bytes]]:
    room = ctypes.create_string_buffer(16 << 10)
    found: list[tuple[str, bytes]] = []
    with attached(thread):
        for name, number in _REGISTERS.items():
            vector = (c_size_t * 2)(ctypes.addressof(room), len(room))  # a struct iovec
            if _ptrace(_PTRACE_GETREGSET, thread, number, ctypes.addressof(vector), missing_ok=True):
                found.append((name, room.raw[: vector[1]]))
    return found


@contextmanager
def attached(thread: int) -> Generator[None]:
    """Be the tracer of *thread*, which stands still meanwhile."""
    _ptrace(_PTRACE_SEIZE, thread, 0, 0)
    try:
        _ptrace(_PTRACE_INTERRUPT, thread, 0, 0)
        os.waitpid(thread, _WALL)
        yield
    finally:
        _ptrace(_PTRACE_DETACH, thread, 0, 0)


def _ptrace(request: int, thread: int, address: int, data: int, *, missing_ok: bool = False) -> bool:
    if _libc.ptrace(request, thread, address, data) == 0:
        return True
    if missing_ok:
        return False
    raise OSError(ctypes.get_errno(), f"ptrace request {request:#x} of thread {thread}")


def _maps(pid: int) -> list[tuple[int, int, str]]:
    maps: list[tuple[int, int, str]] = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, mode, _offset, _device, _inode, *name = line.split(None, 5)
        start, _, end = span.partition("-")
        if mode[0] == "r" and name[:1] != [""] and not (name and name[0] in _NEVER):
            maps.append((int(start, 16), int(end, 16), f"{name[0] if name else 'anonymous'} {mode}"))
    return maps


@contextmanager
def stopped(pid: int) -> Generator[None]:
    """Hold the process still meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "tT":
            pass
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def at_exit(pid: int) -> Generator[Callable[[], None]]:
    """Yield what waits until the process is about to end by itself, its memory still there; it ends after the block."""

    def reached() -> None:
        while True:
            _, status = os.waitpid(pid, _WALL)
            assert os.WIFSTOPPED(status), "it has ended unseen"
            if status >> 16 == _PTRACE_EVENT_EXIT:
                return
            signum = os.WSTOPSIG(status) if status >> 16 == 0 else 0
            _ptrace(_PTRACE_CONT, pid, 0, signum)

    _ptrace(_PTRACE_SEIZE, pid, 0, _PTRACE_O_TRACEEXIT)
    try:
        yield reached
    finally:
        _ptrace(_PTRACE_DETACH, pid, 0, 0, missing_ok=True)


def check(
    pid: int,
    needles: Mapping[str, bytes],
    planted: Mapping[str, bytes],
    *,
    ignore: Sequence[tuple[int, int]] = (),
) -> Scan:
    """Scan the stopped process; fail if any needle is there, or if any of *planted* is not."""
    result = Scanner(needles, planted).scan(pid, ignore=ignore)
    assert not result.hits, f"{len(result.hits)} copies: {result.hits[:10]}"
    return result


def arena_of(pid: int) -> list[tuple[int, int]]:
    """With `mlock` root may read the arena itself: what lies in it is where it belongs, and is not counted."""
    spans: list[tuple[int, int]] = []
    span = (0, 0)
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            start, end = (int(edge, 16) for edge in first.split("-"))
            span = (start, end)
        elif line.startswith("VmFlags:") and " lo " in line and " dd " in line:
            spans.append(span)
    return spans


def keys_of(home: Path, passphrase: bytes) -> dict[str, bytes]:
    """Return every long-lived key of the vault in *home*, derived by other people's software in another process.

    In another process, since a test must not be able to leak into what it scans; and it is the one place where nostr-sdk
    and `cryptography` say what avault's own code should have derived.
    """
    script = Path(__file__).with_name("vault_keys.py")
    command = [sys.executable, "-P", str(script), str(home / "vault.jsonl")]
    lines = subprocess.run(command, input=passphrase, capture_output=True, check=True).stdout.decode().split()
    names = ("vault key", "shared x", "conversation key", "index key", "scrypt key")
    return dict(zip(names, map(bytes.fromhex, lines), strict=True))
