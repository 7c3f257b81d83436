"""JSON with secrets in it, read without one of them becoming a Python object.

avault's keys and tokens are 64 lower-case hex digits in a text. Before the text is parsed, every run of 64 or more such
digits moves into a slot of its own, and in its place stands a *mark*: the run's number, with zeros before it to the
same length. So whoever sees the parsed value sees marks, and asks here for what was there.
"""

from __future__ import annotations

import json
import re
from types import TracebackType
from typing import Any, Self

from avault_protocol import CorruptError

from . import sodium
from .arena import Arena, Slot

DIGITS = 64
"""Hex digits of a secret."""

# Escapes come first, so that the digits of one are not taken for digits of a run: "\f", "\u00e9".
_TOKEN = re.compile(
    rb"(?P<digit>\\u00(?:3[0-9]|6[1-6]))|\\(?:u[0-9a-fA-F]{4}|.)|(?P<run>[0-9a-f]{64,})", re.DOTALL
)
_MARK = re.compile("[0-9a-f]{64,}")
_VALUE = bytes(int(chr(code), 16) if chr(code) in "0123456789abcdef" else 0 for code in range(256))


class Masked:
    """A parsed value, and the runs that its marks stand for, which are wiped with `release`."""

    __slots__ = ("_arena", "_runs", "value")

    def __init__(self, arena: Arena, value: object, runs: list[Slot]) -> None:
        self._arena = arena
        self._runs = runs
        self.value = value

    def take(self, text: object) -> Slot:
        """Return the 32 bytes behind *text*, one mark and nothing else; the caller's.

        Raises CorruptError if it is anything else: it never names what.
        """
        if not isinstance(text, str) or len(text) != DIGITS or not _MARK.fullmatch(text):
            raise CorruptError(f"not {DIGITS} lower-case hex digits")
        return self._decoded(self._run(text))

    def tokens(self, text: str) -> list[Slot]:
        """Return the 32 bytes behind each run of exactly 64 digits in *text*, in order; the caller's."""
        found: list[Slot] = []
        try:
            found.extend(self.take(mark) for mark in _MARK.findall(text) if len(mark) == DIGITS)
        except BaseException:
            for slot in found:
                slot.release()
            raise
        return found

    def blank(self, text: str) -> str:
        """Return *text* with zeros for the digits of each run."""
        return _MARK.sub(lambda mark: "0" * len(mark[0]), text)

    def reveal(self, text: str) -> str:
        """Return *text* as it was. For what is no secret: a public key, an address."""
        return _MARK.sub(lambda mark: bytes(self._run(mark[0]).view).decode(), text)

    def release(self) -> None:
        """Wipe the runs. Doing so twice is fine."""
        for slot in self._runs:
            slot.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _run(self, mark: str) -> Slot:
        return self._runs[int(mark[-DIGITS:])]  # Python refuses to read a number of more than 4300 digits

    def _decoded(self, run: Slot) -> Slot:
        slot = self._arena.take(DIGITS // 2)
        for index in range(DIGITS // 2):
            slot.view[index] = _VALUE[run.view[2 * index]] << 4 | _VALUE[run.view[2 * index + 1]]
        return slot


def masked_json(arena: Arena, slot: Slot) -> Masked:
    """Parse the JSON text in *slot*, whose runs of digits are overwritten; the slot stays the caller's.

    Raises CorruptError if it is no JSON in UTF-8, or writes a hex digit as an escape (nobody needs to, and a secret
    could pass that way); BusyError if the arena is full.
    """
    runs: list[Slot] = []
    try:
        for number, (start, end) in enumerate(_runs(slot)):
            run = arena.take(end - start)
            runs.append(run)
            sodium.copy(run.address, slot.address + start, end - start)
            slot.view[start:end] = f"{number:0{end - start}}".encode()
        return Masked(arena, _parsed(slot), runs)
    except BaseException:
        for run in runs:
            run.release()
        raise


def _runs(slot: Slot) -> list[tuple[int, int]]:
    """Return where the runs are. A match refers to the view, not to a copy of what it found."""
    found: list[tuple[int, int]] = []
    for match in _TOKEN.finditer(slot.view):
        if match.lastgroup == "digit":
            raise CorruptError("a hex digit is written as an escape")
        if match.lastgroup == "run":
            found.append(match.span())
    return found


def _parsed(slot: Slot) -> Any:
    try:
        return json.loads(bytes(slot.view).decode())
    except (ValueError, RecursionError):
        # Its text would quote what it read.
        raise CorruptError("not JSON in UTF-8") from None
