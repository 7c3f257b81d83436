"""Asking on a real terminal."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import AbstractContextManager

import pytest

from support.terminal import Terminal, on_terminal

ASK = """
from avault_client.cli.terminal import ask
from avault_protocol import AvaultError
try:
    with ask("what? ", "the answer", {limit}) as answer:
        print("got", answer.size, bytes(answer.view[:20]))
except (AvaultError, EOFError, OSError) as error:
    print("not:", type(error).__name__, error)
except KeyboardInterrupt:
    print("interrupted")
"""


def asking(limit: int = 40_000, prefix: str = "") -> AbstractContextManager[Terminal]:
    return on_terminal([sys.executable, "-c", prefix + ASK.format(limit=limit)])


def test_what_is_typed_is_not_shown() -> None:
    with asking() as terminal:
        terminal.expect("what? ")
        assert not terminal.echoes()
        terminal.type("hunter2\n")
        terminal.expect("got 7")
        assert terminal.finish() == 0
        assert terminal.echoes()
    assert terminal.seen.count("hunter2") == 1  # what the program prints itself


def test_a_line_may_be_edited() -> None:
    with asking() as terminal:
        terminal.expect("what? ")
        terminal.type("wrong\x15hunterr\x7f2\n")  # ^U, and a backspace
        terminal.expect("got 7 b'hunter2'")


@pytest.mark.parametrize(("typed", "said"), [("\x04", "EOFError"), ("abc\x04\x04", "got 3")])
def test_the_end_of_input_ends_the_line(typed: str, said: str) -> None:
    with asking() as terminal:
        terminal.expect("what? ")
        terminal.type(typed)
        terminal.expect(said)


def test_an_interrupt_gives_the_echo_back() -> None:
    with asking() as terminal:
        terminal.expect("what? ")
        terminal.type("hunt\x03")
        terminal.expect("interrupted")
        assert terminal.finish() == 0
        assert terminal.echoes()
    assert "hunt" not in terminal.seen


def test_what_was_typed_before_the_question_is_no_answer() -> None:
    early = "import os, sys; print('early'); sys.stdin.readline()\n"
    with asking(prefix=early) as terminal:
        terminal.expect("early")
        terminal.type("first\nsecond\n")
        terminal.expect("what? ")
        terminal.type("third\n")
        terminal.expect("got 5 b'third'")


def test_several_lines_are_refused_and_do_not_reach_the_shell() -> None:
    after = (
        ASK.format(limit=1000)
        + "\nimport sys, termios, fcntl\nprint('left', fcntl.ioctl(0, termios.FIONREAD, bytes(4)))"
    )
    with on_terminal([sys.executable, "-c", after]) as terminal:
        terminal.expect("what? ")
        terminal.type("-----BEGIN KEY-----\nhunter2\n-----END KEY-----\n")
        terminal.expect("not: BadRequestError more than one line was typed for the answer")
        terminal.expect(r"left b'\x00\x00\x00\x00'")
    assert "hunter2" not in terminal.seen


@pytest.mark.parametrize(
    ("size", "said"), [(4093, "got 4093"), (4094, "not: TooLargeError a terminal takes no line")]
)
def test_a_line_that_a_terminal_would_cut_is_refused(size: int, said: str) -> None:
    with asking() as terminal:
        terminal.expect("what? ")
        terminal.type("x" * size + "\n")
        terminal.expect(said)


def test_a_line_over_its_limit_is_refused() -> None:
    with asking(limit=10) as terminal:
        terminal.expect("what? ")
        terminal.type("x" * 11 + "\n")
        terminal.expect("not: TooLargeError the answer has more than 10 bytes")


def test_without_a_terminal_there_is_an_error() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK.format(limit=10)], capture_output=True, start_new_session=True, check=True
    )
    assert done.stdout.startswith(b"not: OSError")


def test_a_stop_and_a_go_leave_the_question_open() -> None:
    with asking() as terminal:
        terminal.expect("what? ")
        terminal.process.send_signal(signal.SIGSTOP)
        terminal.process.send_signal(signal.SIGCONT)
        terminal.type("hunter2\n")
        terminal.expect("got 7")
