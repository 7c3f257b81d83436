"""Slots of an arena that hold what a test knows, and the kinds of arena that this machine gives."""

from __future__ import annotations

from avault_daemon.memory.arena import Arena, Slot
from avault_daemon.nostr.keys import SecretKey
from avault_protocol import InternalError


def filled(arena: Arena, data: bytes) -> Slot:
    """Return a slot that holds *data*."""
    slot = arena.take(len(data))
    slot.view[:] = data
    return slot


def secret_key(arena: Arena, secret: str) -> SecretKey:
    """Return the key whose secret is given in hex."""
    return SecretKey.adopt(filled(arena, bytes.fromhex(secret)))


def has_secret_memory() -> bool:
    """Report whether this kernel has memfd_secret, and lets this user have some."""
    try:
        Arena(kind="memfd_secret").take(1).release()
    except InternalError:
        return False
    return True
