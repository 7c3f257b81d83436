"""Values on their way into the vault and out of it."""

from __future__ import annotations

import os
import sys

from avault_protocol import BadRequestError, TooLargeError
from avault_protocol.limits import MAX_VALUE

from .hidden import NEWLINE, Hidden, read_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .session import Session

STDIN = 0
STDOUT = 1
TEXT = "text"
BASE64 = "base64"


def read(session: Session, name: str) -> Hidden:
    """Return the value for *name*: typed without echo, or all of standard input, or a shell's next line.

    Of standard input one final newline is dropped, if it is the only one: `echo value | avault set NAME` means the
    value, and a key file keeps its form. It may have as many bytes as a stored value.
    """
    what = f"the value of {name}"
    if session.line_of_input is not None:
        return session.line_of_input(what)
    if not os.isatty(STDIN):
        return without_lone_newline(read_all(STDIN, MAX_VALUE, what))
    from .terminal import ask

    try:
        return ask(f"value of {name}: ", what, MAX_VALUE)
    except EOFError:
        raise BadRequestError(f"no value was given for {name}") from None


def without_lone_newline(value: Hidden) -> Hidden:
    """Return *value* without its final newline, unless it has others."""
    last = value.size - 1
    if value.buffer.find(NEWLINE, 0, value.size) == last >= 0:
        value.buffer[last] = 0
        value.size = last
    return value


def encoded(value: Hidden, name: str) -> tuple[Hidden, str]:
    """Return *value* as it is stored, and its encoding: bytes that are not UTF-8 are stored as base64.

    Raises:
        BadRequestError: it is empty.
        TooLargeError: it is larger than `MAX_VALUE`, as stored.

    """
    if value.size == 0:
        raise BadRequestError(f"the value of {name} is empty")
    encoding = TEXT if _is_text(value) else BASE64
    stored = value if encoding == TEXT else _to_base64(value)
    if stored.size > MAX_VALUE:
        raise TooLargeError(
            f"the value of {name} has {stored.size:,} bytes as {encoding}, more than {MAX_VALUE:,}",
            hint="keep the key in the vault, and the file elsewhere, encrypted with it",
        )
    return stored, encoding


def _is_text(value: Hidden) -> bool:
    if value.buffer.isascii():
        return True
    try:
        str(value.view, "utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _to_base64(value: Hidden) -> Hidden:
    from binascii import b2a_base64

    with value:
        return Hidden.of(b2a_base64(value.view, newline=False))


def decoded(value: bytearray, encoding: str) -> bytes | bytearray:
    """Return the bytes that were put in, of *value* as it is stored."""
    if encoding == TEXT:
        return value
    from binascii import a2b_base64

    return a2b_base64(value)


def write(value: bytes | bytearray) -> None:
    """Write *value* to standard output as it is; a newline follows on a terminal only."""
    from .output import write_all

    sys.stdout.flush()
    write_all(STDOUT, memoryview(value))
    if os.isatty(STDOUT):
        write_all(STDOUT, memoryview(b"\n"))
