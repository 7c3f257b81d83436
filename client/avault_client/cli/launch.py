"""Starting `avaultd` for ``--start``: detached, with this environment, its messages in a file."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from avault_protocol import DaemonUnavailableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from .session import Session

PROGRAM = "avaultd"
PATIENCE = 10.0  # seconds: reading and checking a vault of 10,000 secrets takes less than one
PAUSE = 0.05
# What a service manager says to this command, if it runs in a service, is not for the daemon: sd_notify(3).
NOT_ITS = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
MAX_SHOWN = 2000  # bytes of what a daemon that ended at once had to say


def ensure(session: Session) -> None:
    """Start the daemon if none answers; return when one does.

    Raises:
        DaemonUnavailableError: it is not to be found, ended at once (with what it said), or does not answer in time.

    """
    try:
        session.connection()
    except DaemonUnavailableError:
        _start(session)


def _start(session: Session) -> None:
    program = find_program()
    with _open_log() as log:
        begin = log.tell()
        # The copies of standard input and output would keep a pipeline waiting for its end.
        process = subprocess.Popen(  # noqa: S603 - our own daemon, found beside this command
            [program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={name: value for name, value in os.environ.items() if name not in NOT_ITS},
            start_new_session=True,
        )
    try:
        _wait(session, process, begin)
    finally:
        process.returncode = 0  # it is to outlive us: no warning that it does


def find_program() -> str:
    """Return the path of `avaultd`: beside this command, in its environment, or on PATH."""
    for directory in _places():
        candidate = Path(directory, PROGRAM)
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return str(candidate)
    raise DaemonUnavailableError(
        f"{PROGRAM} is not installed here", hint="install it: pip install avault-daemon"
    )


def _places() -> Iterator[str]:
    yield os.path.dirname(os.path.realpath(sys.argv[0]))
    yield os.path.join(sys.prefix, "bin")
    yield from os.get_exec_path()


def log_path() -> Path:
    """Return the file that a daemon started by us writes its messages to."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return Path(state, "avault", "avaultd.log")


def _open_log() -> BinaryIO:
    path = log_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    log = os.fdopen(fd, "ab")
    log.seek(0, os.SEEK_END)
    return log


def _wait(session: Session, process: subprocess.Popen[bytes], begin: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        try:
            session.connection()
        except DaemonUnavailableError:
            # A daemon that found another one running ends, and that other one answers: ask once more, then complain.
            if ended:
                raise _ended(begin) from None
            time.sleep(PAUSE)
        else:
            return
    raise DaemonUnavailableError(
        f"{PROGRAM} does not answer within {PATIENCE:.0f} s", hint=f"its messages are in {log_path()}"
    )


def _ended(begin: int) -> DaemonUnavailableError:
    with log_path().open("rb") as log:
        log.seek(begin)
        said = log.read()[-MAX_SHOWN:].decode(errors="backslashreplace").strip()
    last = said.replace(f"{PROGRAM}: error: ", "").replace(f"\n{PROGRAM}: hint: ", "; ")
    return DaemonUnavailableError(
        f"{PROGRAM} ended at once: {last or 'without a word'}", hint=f"its messages are in {log_path()}"
    )
