"""A secret's value, in a buffer that is wiped, behind a name that is safe to print."""

from __future__ import annotations

from avault_protocol import BadRequestError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, Self

TEXT = "text"
BASE64 = "base64"
# A bytearray, as what it overwrites: of anything else Python makes one first, each time.
ZERO = bytearray(1)


def wipe(buffer: bytearray) -> None:
    """Overwrite *buffer* with zeroes, in place."""
    buffer[:] = ZERO * len(buffer)


class Secret:
    """One version of one secret.

    Printed, formatted, logged or given to ``json.dumps(default=str)`` it is ``Secret('NAME')``; pickling and copying
    raise `TypeError`; two are equal only if they are the same object. The value is to be had by `reveal` alone, and
    what that returns is an ordinary object which nobody can wipe: ask for it where it is used, and keep the `Secret`.

    `close`, the end of a ``with`` block, or the garbage collector wipes the buffer.
    """

    __slots__ = ("_buffer", "_open", "encoding", "name", "version")

    def __init__(self, name: str, version: int, encoding: str, buffer: bytearray) -> None:
        """Take *buffer* over: it is wiped in the end, and nobody else may use it."""
        self.name = name
        self.version = version
        self.encoding = encoding
        self._buffer = buffer
        self._open = True

    def reveal(self) -> str:
        """Return the value as text.

        Raises `TypeError` for a secret that was stored as bytes (`reveal_bytes` has it), `ValueError` once closed.
        """
        if self.encoding != TEXT:
            raise TypeError(f"secret {self.name} is bytes, not text: use reveal_bytes()")
        text = _decoded(self._value())
        if text is None:
            raise BadRequestError(f"the daemon sent a text that is not UTF-8: secret {self.name}")
        return text

    def reveal_bytes(self) -> bytes:
        """Return the value as bytes: of a text, its UTF-8. Raises `ValueError` once closed."""
        if self.encoding != BASE64:
            return bytes(self._value())
        content = _from_base64(self._value())
        if content is None:
            raise BadRequestError(f"the daemon sent bytes that are not base64: secret {self.name}")
        return content

    def close(self) -> None:
        """Wipe the value. To close twice does nothing."""
        if self._open:
            self._open = False
            wipe(self._buffer)

    def _value(self) -> bytearray:
        if not self._open:
            raise ValueError(f"secret {self.name} is closed")
        return self._buffer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    __del__ = close

    def __repr__(self) -> str:
        return f"Secret({self.name!r})"

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"secret {self.name} is neither pickled nor copied")


# A UnicodeDecodeError carries the bytes that it is about, and an exception raised in its `except` block would carry it
# along as __context__, `from None` or not; and a traceback may be shown with the variables of its frames. So these
# return None, and who raises holds no value.
def _decoded(value: bytearray) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _from_base64(value: bytearray) -> bytes | None:
    from binascii import Error, a2b_base64

    try:
        return a2b_base64(value, strict_mode=True)
    except Error:
        return None
