"""Where log lines go: to the journal with their fields when standard error leads there, else to it as plain text.

A line that is about something says so: ``log.info("…", extra={"avault_agent": name, "avault_secret": name})``. What
begins with ``avault_`` becomes a field of the journal, so that ``journalctl AVAULT_AGENT=cobot`` finds it; a line of
plain text is its message alone, which therefore names what matters, too. None is ever a value.

The socket is connected when the handler is made, because a confined process connects to nothing any more. It is that of
systemd-journald.socket, which outlives the journal's restarts.

Sources: systemd.exec(5) on ``$JOURNAL_STREAM``, systemd.journal-fields(7), systemd's JOURNAL_NATIVE_PROTOCOL, sd-daemon(3).
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping

SOCKET = "/run/systemd/journal/socket"
STDERR = 2
MAX_VALUE = 8192
"""Bytes of one field; what is longer is cut off, so that a line is always one datagram."""

_PREFIX = "avault_"
# sd-daemon(3), syslog(3): the levels of the journal.
_DEBUG, _INFO, _WARNING, _ERROR = 7, 6, 4, 3


def handler(environ: Mapping[str, str], *, descriptor: int = STDERR, path: str = SOCKET) -> logging.Handler:
    """Return what takes the log lines: the journal's handler if *descriptor* leads to the journal and it is there."""
    if leads_to_journal(environ, descriptor):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(path)
        except OSError:
            sock.close()
        else:
            return JournalHandler(sock)
    plain = logging.StreamHandler()
    plain.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    return plain


def leads_to_journal(environ: Mapping[str, str], descriptor: int = STDERR) -> bool:
    """Report whether *descriptor* is the one that ``$JOURNAL_STREAM`` speaks of: an heir of it may lead elsewhere."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class JournalHandler(logging.Handler):
    """Sends each line as one datagram over *sock*, and never waits.

    A line that the journal has no room for is lost, and the next one that arrives says how many were; if nobody
    receives any more, lines go to standard error.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._socket = sock
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Send *record*. Never raises."""
        fields = dict(fields_of(record))
        if self._lost:
            fields["MESSAGE"] += f" ({self._lost} lines before this one were lost)"
        try:
            self._socket.send(encode(fields.items()))
        except BlockingIOError:
            self._lost += 1
        except OSError:
            self._say(fields)
        else:
            self._lost = 0

    def _say(self, fields: Mapping[str, str]) -> None:
        try:
            print(f"<{fields['PRIORITY']}>{fields['MESSAGE']}", file=sys.stderr, flush=True)  # noqa: T201
        except OSError:
            self._lost += 1

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def fields_of(record: logging.LogRecord) -> Iterator[tuple[str, str]]:
    """Yield the fields of *record*, without those that are None. A traceback is none of them: it may hold anything."""
    yield "MESSAGE", record.getMessage()
    yield "PRIORITY", str(priority(record.levelno))
    yield "SYSLOG_IDENTIFIER", "avaultd"
    yield "SYSLOG_PID", str(record.process)
    yield "LOGGER", record.name
    yield "CODE_FILE", record.pathname
    yield "CODE_LINE", str(record.lineno)
    yield "CODE_FUNC", record.funcName or ""
    for name, value in vars(record).items():
        if name.startswith(_PREFIX) and value is not None:
            yield name.upper(), str(value)


def priority(level: int) -> int:
    """Return the journal's level for one of `logging`."""
    for least, found in ((logging.ERROR, _ERROR), (logging.WARNING, _WARNING), (logging.INFO, _INFO)):
        if level >= least:
            return found
    return _DEBUG


def encode(fields: Iterable[tuple[str, str]]) -> bytes:
    """Return *fields* as the journal's native protocol has them: by length where a value holds a newline."""
    return b"".join(_field(name.encode("ascii"), _bytes(value)) for name, value in fields)


def _bytes(value: str) -> bytes:
    content = value.encode("utf-8", "backslashreplace")
    return content if len(content) <= MAX_VALUE else content[:MAX_VALUE].decode("utf-8", "ignore").encode()


def _field(name: bytes, value: bytes) -> bytes:
    if b"\n" not in value:
        return name + b"=" + value + b"\n"
    return name + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
