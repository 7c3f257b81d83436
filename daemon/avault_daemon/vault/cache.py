"""Values that are open: what was asked for last stays open in the arena, ready to be sent.

Beside the vault's key, which opens all of them, a value in the arena gives nothing away that is not there already
(docs/adr/0018-open-values.md).
"""

from __future__ import annotations

from avault_protocol import pack_result

from ..memory import sodium
from ..memory.arena import Arena, Slot
from .seal import Opened, SecretInfo

ROOM = 256 * 1024
"""Bytes of the arena that values may take between two requests: eight of the largest, or some thousands."""


class Value:
    """One version of a secret, open for as long as its cache keeps it. To be used on the loop's thread alone."""

    __slots__ = ("_slot", "encoding", "kept", "name", "result", "size", "source", "version", "view")

    def __init__(self, info: SecretInfo, slot: Slot, source: bytes) -> None:
        self.name = info.name
        self.version = info.version
        self.encoding = info.encoding
        self.size = slot.size
        self.source = source
        """The line of the vault file that it was opened from: no other version of any secret has the same."""
        self.result = pack_result(
            {"name": self.name, "version": self.version, "encoding": self.encoding}, self.size
        )
        """What an answer says of it, for `respond`."""
        self.kept = True
        """Whether it is still open."""
        self.view = slot.view
        """The bytes, in the arena. Once it is not `kept` any more the view is released: nobody can use it."""
        self._slot = slot

    @property
    def address(self) -> int:
        """Where they lie; only while it is `kept`."""
        if not self.kept:
            raise ValueError(f"the value of {self.name} is not open any more")
        return self._slot.address

    def close(self) -> None:
        """Wipe it. Doing so twice is fine."""
        self.kept = False
        self._slot.release()

    def __repr__(self) -> str:
        return f"<Value of {self.name} {self.version}>"


Key = tuple[str, int | None]
"""A name and a version; None is the newest."""


class Cache:
    """The values that were asked for last, of one commit of one vault."""

    def __init__(self, arena: Arena, room: int = ROOM) -> None:
        self._arena = arena
        self._room = room
        self._taken = 0
        # In the order in which the gate asked for them; it does not ask for what it gives again.
        self._kept: dict[Key, Value] = {}

    def get(self, key: Key) -> Value | None:
        """Return the value of *key* if it is open."""
        value = self._kept.pop(key, None)
        if value is not None:
            self._kept[key] = value
        return value

    def keep(self, key: Key, opened: Opened) -> Value:
        """Take over *opened*, and close others for it as far as need be. Raises `BusyError` where the arena is full."""
        info, whole, source = opened
        with whole:  # there is more in it than the value
            self._make_room(whole.size)
            slot = self._arena.take(whole.size)
            sodium.copy(slot.address, whole.address, whole.size)
        value = self._kept[key] = Value(info, slot, source)
        self._taken += value.size
        return value

    def _make_room(self, size: int) -> None:
        while self._kept and self._taken + size > self._room:
            oldest = self._kept.pop(next(iter(self._kept)))
            self._taken -= oldest.size
            oldest.close()

    def clear(self) -> None:
        """Close all: they may not be what the vault holds any more."""
        for value in self._kept.values():
            value.close()
        self._kept.clear()
        self._taken = 0
