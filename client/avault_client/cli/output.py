"""What a person reads. Results go to standard output, everything else to standard error."""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Self

    from .grammar import Command, Result

MINUTE = 60
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def escaped(text: object) -> str:
    """Return *text* with everything that could move a cursor, or turn the reading order, spelled out.

    Whatever a caller may have chosen (reasons, paths, names of units) goes through here.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Yield *rows* as aligned lines under *head*, escaped; only a last column may be long."""
    lines = [list(head), *([escaped(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def ago(then: float | None, now: float | None = None) -> str:
    """Return how long before *now* the Unix time *then* was, in its largest whole unit."""
    if then is None:
        return "never"
    seconds = int((time.time() if now is None else now) - then)
    for unit, size in (("d", DAY), ("h", HOUR), ("min", MINUTE)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return "now"


def moment(then: float) -> str:
    """Return the Unix time *then* as local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(then))


def some(count: int, noun: str) -> str:
    """Return *count* and *noun*, in its number."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def show(command: Command, result: Result, *, as_json: bool) -> None:
    """Print the result of *command*."""
    if as_json:
        print_json(result)
    elif command.lines:
        for line in command.lines(result):
            print(line)


def print_json(result: object, *, indent: int | None = 2) -> None:
    """Print *result* as JSON, in ASCII alone."""
    import json

    print(json.dumps(result, indent=indent))


def note(text: str) -> None:
    """Say something beside the result."""
    print(escaped(text), file=sys.stderr)


def report(message: str, hint: str | None = None) -> None:
    """Say what went wrong, and what to do about it."""
    note(f"error: {message}")
    if hint:
        note(f"hint: {hint}")


def write_all(fd: int, content: memoryview) -> None:
    """Write *content* to *fd*, past all buffers."""
    while content:
        content = content[os.write(fd, content) :]


class Working:
    """A line on the terminal that is gone once the work is done; nothing elsewhere, nor without a *text*."""

    def __init__(self, text: str | None) -> None:
        self._text = text
        self._on = text is not None and sys.stderr.isatty()

    def __enter__(self) -> Self:
        self._draw(self._text)
        return self

    def progress(self, told: Mapping[str, object]) -> None:
        """Show the stage that a notification of the daemon tells of."""
        self._draw(told.get("stage"))

    def _draw(self, text: object) -> None:
        if self._on:
            print(f"\r\033[K{escaped(text)} …", end="", file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self._on:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        self._clear()
