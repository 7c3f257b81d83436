"""Asking on the terminal, without echo and without leaving a copy behind."""

from __future__ import annotations

import fcntl
import os
import termios

from avault_protocol import BadRequestError, TooLargeError

from .hidden import Hidden, read_line
from .output import escaped

# Linux hands over at most 4,095 bytes of an edited line and drops the rest without a word (termios(3), ICANON).
MAX_LINE = 4094
LOCAL_FLAGS = 3


def ask(prompt: str, what: str, limit: int) -> Hidden:
    """Ask on the controlling terminal; whatever standard input and output are, they stay out of it.

    Raises:
        OSError: there is no terminal.
        EOFError: nothing was typed but the end of input.
        BadRequestError: more than one line came, as when a key file is pasted; the rest is thrown away.
        TooLargeError: *what* is longer than *limit* bytes, or than a terminal's line.

    """
    fd = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        return _ask(fd, prompt, what, limit)
    finally:
        os.close(fd)


def _ask(fd: int, prompt: str, what: str, limit: int) -> Hidden:
    before = termios.tcgetattr(fd)
    silent = before[:]
    silent[LOCAL_FLAGS] = before[LOCAL_FLAGS] & ~termios.ECHO | termios.ICANON
    try:
        # Echo is off before the prompt shows, so nobody who waits for the prompt types too early.
        termios.tcsetattr(fd, termios.TCSAFLUSH, silent)
        os.write(fd, prompt.encode())
        line = read_line(fd, limit, what)
        _check(fd, line, what)
        return line
    finally:
        # Flushed: what was typed too much must not reach the shell, which would show it and run it.
        termios.tcsetattr(fd, termios.TCSAFLUSH, before)
        os.write(fd, b"\n")


def _check(fd: int, line: Hidden, what: str) -> None:
    waiting = int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), "little")
    if waiting:
        line.wipe()
        raise BadRequestError(
            f"more than one line was typed for {what}", hint="give several lines on standard input"
        )
    if line.size >= MAX_LINE:
        line.wipe()
        raise TooLargeError(
            f"a terminal takes no line of more than {MAX_LINE:,} bytes", hint="give it on standard input"
        )


def confirmed(question: str, hint: str) -> bool:
    """Ask *question* on the controlling terminal; `BadRequestError` with *hint* if there is none."""
    try:
        terminal = open("/dev/tty", "r+b", buffering=0)  # noqa: SIM115
    except OSError:
        raise BadRequestError("there is no terminal to ask on", hint=hint) from None
    with terminal:
        terminal.write(f"{escaped(question)} [y/N] ".encode())
        return terminal.readline(100).strip().lower() in (b"y", b"yes")
