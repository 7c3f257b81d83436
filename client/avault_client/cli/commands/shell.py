"""Many commands on one connection, proven once."""

from __future__ import annotations

import os
import shlex
import sys

from avault_client import cli
from avault_client.cli.grammar import PROOF_OR_PHONE, Command, WrongUse
from avault_client.cli.hidden import read_line
from avault_protocol import BadRequestError
from avault_protocol.limits import MAX_VALUE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from avault_client.cli.grammar import Parsed
    from avault_client.cli.hidden import Hidden
    from avault_client.cli.session import Session

STDIN = 0
MAX_LINE = 64 * 1024  # bytes; names of all secrets of a large import
PROMPT = "avault> "
END = ("exit", "quit")


def shell(session: Session, parsed: Parsed) -> int:
    """Run commands, one a line, until the end of input."""
    source, session.always_phone = session.source, session.phone
    source.keep("the vault")
    try:
        if os.isatty(STDIN):
            return _converse(session)
        session.line_of_input = _value
        return _obey(session)
    finally:
        source.forget()


def _converse(session: Session) -> int:
    """Talk with a person: an error ends nothing."""
    __import__("readline")  # line editing; what is typed here holds no values, and its history is not kept

    while True:
        try:
            line = input(PROMPT)
        except EOFError:
            print()
            return 0
        except KeyboardInterrupt:
            print()
            continue
        if line.strip() in END:
            return 0
        if cli.guarded(_run, line, session) == cli.INTERRUPTED:
            session.close()  # half an answer may be on its way


def _obey(session: Session) -> int:
    """Follow a script: the first error ends it, with its exit status."""
    while True:
        try:
            with read_line(STDIN, MAX_LINE, "a line") as read:
                line = read.view.tobytes().decode(errors="backslashreplace")
        except EOFError:
            return 0
        if line.strip() in END:
            return 0
        status = cli.guarded(_run, line, session)
        if status:
            return status


def _value(what: str) -> Hidden:
    try:
        return read_line(STDIN, MAX_VALUE, what)
    except EOFError:
        raise BadRequestError(f"there is no next line for {what}") from None


def _run(line: str, session: Session) -> int:
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise WrongUse(str(error).lower()) from None
    if words[:1] == ["shell"]:
        raise WrongUse("this is the shell already")
    status = cli.run(words, session) if words else 0
    sys.stdout.flush()
    return status


COMMANDS = (
    Command(
        "shell",
        "run many commands, with the passphrase given once",
        shell,
        options=PROOF_OR_PHONE,
        example="avault shell",
        details="""
Commands are written without the word avault, one a line. The passphrase is asked for when the first command needs
it; with --phone, your phone is asked for each that does. On a terminal an error ends nothing; otherwise lines are read
from standard input, the first error ends it, and set takes its value from the next line.""",
    ),
)
