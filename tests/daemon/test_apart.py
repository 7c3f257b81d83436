"""C functions on a stack in the arena."""

from __future__ import annotations

import ctypes
import hmac
import os
import subprocess
import sys
from ctypes import c_int, c_uint64, c_void_p
from typing import Any

import pytest
from hypothesis import given, strategies as st

from avault_daemon.memory import apart, sodium
from avault_daemon.memory.arena import Arena, Slot
from support.holder import holder
from support.memory import Scanner

ARENA = Arena(1 << 18)
_libc: Any = ctypes.PyDLL(None)
_getcontext = _libc["getcontext"]
_getcontext.argtypes = (c_void_p,)
_there = apart.apart(_getcontext)
_room = ctypes.create_string_buffer(8 << 10)


def runs_in(slot: Slot) -> bool:
    """Report whether functions run there: getcontext(3) says where its caller's stack is."""
    ctypes.memset(_room, 0, len(_room))
    _there(ctypes.addressof(_room))
    words = memoryview(_room).cast("B").cast("Q")
    return any(slot.address <= word <= slot.address + apart.SIZE for word in words)


def test_they_run_on_the_newest_stack_or_on_the_threads_own() -> None:
    first, second = ARENA.take(apart.SIZE), ARENA.take(apart.SIZE)
    assert not runs_in(first)
    one = apart.Stack(first)
    assert runs_in(first)
    two = apart.Stack(second)
    assert (runs_in(first), runs_in(second)) == (False, True)
    one.close()
    assert runs_in(second)
    two.close()
    two.close()
    assert ARENA.in_use == 0
    with ARENA.take(apart.SIZE) as slot:
        assert not runs_in(slot)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=500))
def test_what_they_do_is_the_same(key: bytes, data: bytes) -> None:
    stack = apart.Stack(ARENA.take(apart.SIZE))
    with ARENA.take(32) as out:
        sodium.hmac_sha256(out.address, data, len(data), key)
        assert bytes(out.view) == hmac.digest(key, data, "sha256")
    stack.close()


def test_all_arguments_arrive_whole() -> None:
    """Numbers of 64 bits, and five of them: snprintf(3) says what it was given."""
    function = _libc["snprintf"]
    function.restype, function.argtypes = c_int, (c_void_p, c_uint64, c_void_p, c_uint64, c_uint64)
    stack = apart.Stack(ARENA.take(apart.SIZE))
    apart.apart(function)(ctypes.addressof(_room), 100, b"%lu %lu", 2**64 - 1, 2**63)
    stack.close()
    assert _room.value == f"{2**64 - 1} {2**63}".encode()


def test_without_makecontext_they_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "_THERE_IS", False)
    assert apart.apart(_getcontext) is _getcontext


BUSY = """
import os, sys
from avault_daemon.memory import apart, sodium
from avault_daemon.memory.arena import Arena
from avault_daemon.nostr.keys import SecretKey

arena = Arena()
stack = apart.Stack(arena.take(apart.SIZE)) if sys.argv[1] == "apart" else None
slot, out = arena.take(32), arena.take(512)
os.readv(0, [slot.view])
address, again = slot.address, arena.take(32)
sodium.copy(again.address, address, 32)
key = SecretKey.adopt(again)
print("busy", flush=True)
while True:
    for _ in range(50):
        sodium.hmac_sha256(out.address, bytes(64), 64, address)
        sodium.chacha20_xor(out.address, bytes(512), 512, bytes(12), address)
    key.sign(bytes(32))
"""


def seen_of(secret: bytes, where: str, scans: int) -> set[str]:
    """Return as what *secret* was seen in the memory of a process that works with it *where*, in so many looks or fewer."""
    scanner, forms = Scanner({"secret": secret}), set[str]()
    with holder(secret, BUSY, where) as process:
        assert process.says.readline() == b"busy\n"
        for _ in range(scans):
            hits = scanner.scan(process.pid, registers=False).hits
            forms |= {hit.form for hit in hits}
            if forms:
                break
    return forms


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may read the memory of another process")
def test_a_key_at_work_is_not_seen_on_the_stack() -> None:
    assert seen_of(os.urandom(32), "apart", 20) == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may read the memory of another process")
def test_on_a_threads_own_stack_it_is_seen() -> None:
    """The control."""
    assert seen_of(os.urandom(32), "here", 1_000)


STRAIN = """
import ctypes, hmac, signal, sys, threading
from avault_daemon.memory import apart, sodium
from avault_daemon.memory.arena import Arena

arena, over, key, wrong = Arena(kind=sys.argv[1]), threading.Event(), bytes(range(32)), []
expected = hmac.digest(key, b"data", "sha256")

def work():
    out = ctypes.create_string_buffer(32)
    while not over.is_set():
        sodium.hmac_sha256(ctypes.addressof(out), b"data", 4, key)
        if out.raw != expected:
            wrong.append(out.raw)

sys.setswitchinterval(1e-6)
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(100):
    stack = apart.Stack(arena.take(apart.SIZE))
    for _ in range(5):
        arena.wipe()
    stack.close()
over.set()
for thread in threads:
    thread.join()
signal.setitimer(signal.ITIMER_REAL, 0)
print(len(wrong), arena.in_use)
"""


@pytest.mark.parametrize("kind", ["memfd_secret", "mlock"])
def test_threads_signals_and_wipes_do_no_harm(kind: str) -> None:
    """A stack that is wiped, or given back, while somebody is about to run on it would end the process."""
    done = subprocess.run([sys.executable, "-c", STRAIN, kind], capture_output=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == (b"0 0\n", b"", 0)
