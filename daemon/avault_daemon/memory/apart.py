"""C functions on a stack that lies in the arena.

What a function keeps on its stack while it runs, an HMAC's pads, the key of ChaCha20, the nonce of a signature, it wipes
at its end. But on a thread's own stack it lies in the open until then, and a busy daemon is in the midst of one in every
fiftieth look that root takes at it. So whoever opens keys lends a piece of the arena, and they run there.

There is one stack for all threads: the functions keep the GIL, and `LOCK` holds the two calls together that each takes.
Where the C library has no such calls (musl) functions stay on the thread's own stack.

Source: makecontext(3).
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from ctypes import c_int, c_uint64, c_void_p
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .arena import Slot

SIZE = 32 << 10
"""Bytes of a stack: four times what a function here takes, and the registers that a signal saves."""
LOCK = threading.Lock()
"""Held while something is on the stack, if only the way back: whoever wipes the arena must hold it."""

_libc: Any = ctypes.PyDLL(None)
_THERE_IS = hasattr(_libc, "makecontext")
_CONTEXT = 8 << 10  # ucontext_t takes 968 bytes on x86-64, 4,560 on aarch64
_here, _there = ctypes.create_string_buffer(_CONTEXT), ctypes.create_string_buffer(_CONTEXT)
_fields = (c_uint64 * 5).from_buffer(_there)  # uc_flags, uc_link; ss_sp, ss_flags, ss_size of the stack
_UC_LINK, _SS_SP, _SS_SIZE = 1, 2, 4
_lent: list[Slot] = []


class Stack:
    """Lets functions run in *slot*, of `SIZE` bytes, until `close`; if there are several, in the newest."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        with LOCK:
            _lent.append(slot)
            _choose()

    def close(self) -> None:
        """Give the slot back, wiped. Doing so twice is fine."""
        with LOCK:
            if self._slot not in _lent:
                return
            _lent.remove(self._slot)
            _choose()
        self._slot.release()


def _choose() -> None:
    if _lent:
        _fields[_SS_SP] = _lent[-1].address


def apart(function: Any) -> Callable[..., None]:
    """Return *function*, of a `ctypes.PyDLL`, to be run on the stack that is lent. What it returns is lost.

    It takes at most five integers and pointers.
    """
    if not _THERE_IS:
        return function  # type: ignore[no-any-return]
    address, count = ctypes.cast(function, c_void_p).value, len(function.argtypes)
    prepare = _libc["makecontext"]
    prepare.restype, prepare.argtypes = None, (c_void_p, c_void_p, c_int, *function.argtypes)

    def call(*arguments: int | bytes) -> None:
        with LOCK:
            if _lent:
                prepare(_there, address, count, *arguments)
                _libc.swapcontext(_here, _there)
            else:
                function(*arguments)

    return call


if _THERE_IS:
    _libc.getcontext(_there)
    _fields[_UC_LINK], _fields[_SS_SIZE] = ctypes.addressof(_here), SIZE
