"""The `avault` command: what an operator does with a vault, from a terminal or a script.

Importing this imports little: `avault status` and `avault get` are run from prompts and scripts.
"""

from __future__ import annotations

import os
import sys

from avault_protocol import WRONG_USE, AvaultError

from . import commands, output
from .grammar import WrongUse
from .passphrases import Source
from .session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STDERR = 2
FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
BROKEN_PIPE = 141  # 128 + SIGPIPE


def main() -> int:
    """Run the command line; return its exit status."""
    _have_streams()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    session = Session()
    try:
        return guarded(_run_and_flush, sys.argv[1:], session)
    finally:
        session.close()


def _have_streams() -> None:
    """Fill standard streams that were closed, or a socket of ours would become one; to write there still fails."""
    while (fd := os.open(os.devnull, os.O_RDONLY)) <= STDERR:
        os.set_inheritable(fd, True)
    os.close(fd)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - for as long as we live
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def _run_and_flush(words: Sequence[str], session: Session) -> int:
    status = run(words, session)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        error.filename = "standard output"
        raise
    return status


def guarded(work: Callable[..., int], *arguments: object) -> int:
    """Return the exit status of *work*, or that of the error that ended it, which is reported."""
    try:
        return work(*arguments)
    except WrongUse as error:
        output.report(error.message, error.hint)
        return WRONG_USE
    except AvaultError as error:
        output.report(error.message, error.hint)
        return error.exit_status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _silence()
        return BROKEN_PIPE
    except OSError as error:
        output.report(_described(error))
        _silence()
        return FAILED


def _described(error: OSError) -> str:
    reason = (error.strerror or str(error)).lower()
    return reason if error.filename is None else f"{os.fsdecode(error.filename)}: {reason}"


def _silence() -> None:
    """Let what is still buffered go nowhere, or the interpreter would try once more as it ends, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(words: Sequence[str], session: Session) -> int:
    """Run one command; return its exit status."""
    if not words:
        raise WrongUse("no command", "see: avault --help")
    if words[0] in ("--help", "-h", "help"):
        return _help(words[1:])
    if words[0] == "--version":
        return _version()
    command, rest = commands.find(words)
    parsed = command.parse(rest)
    if parsed.flag("help"):
        print(command.help(), end="")
        return 0
    source = Source.given(parsed)
    if parsed.flag("phone") and not source.asks:
        raise WrongUse("--phone stands in place of a passphrase")
    session.phone = parsed.flag("phone") or (session.always_phone and source.asks)
    if not source.asks:
        session.source = source
    outcome = command.run(session, parsed)
    if isinstance(outcome, dict):
        output.show(command, outcome, as_json=parsed.flag("json"))
        return 0
    return outcome or 0


def _help(words: Sequence[str]) -> int:
    print(commands.find(words)[0].help() if words else commands.overview(), end="")
    return 0


def _version() -> int:
    from importlib.metadata import version

    print(f"avault {version('avault-client')}")
    return 0
