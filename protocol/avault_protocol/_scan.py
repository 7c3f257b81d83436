"""Find where a message's head ends, without making an object of anything in it.

A secret's value is the last bytes of its message, of MessagePack type *bin*. The scanner walks over the head byte by
byte and stops there, so that the value can be received into memory of the caller's choice and msgpack sees only the
head. It trusts nothing: depth, number of elements and every declared length are bounded before anything is waited
for, and it resumes where it stopped, so that a peer that sends single bytes costs no more than one that does not.
"""

from __future__ import annotations

from . import limits
from ._errors import BadRequestError, TooLargeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    Buffer = bytes | bytearray | memoryview


class Extent:
    """Where one message lies in a buffer, as offsets from the start of that buffer.

    The head is everything up to *head_end*; with a value it ends just behind the header of the value, whose bytes are
    those up to *end*. These may not have arrived yet; all others have.
    """

    __slots__ = ("end", "has_value", "head_end")

    def __init__(self, head_end: int, end: int, has_value: bool) -> None:
        self.head_end = head_end
        self.end = end
        self.has_value = has_value


def _step(lead: int) -> int:
    """Return what a lead byte says: the element's size; or -1 - children of a short container; or `_LONG`."""
    if 0x80 <= lead <= 0x8F:
        return -1 - 2 * (lead & 0x0F)
    if 0x90 <= lead <= 0x9F:
        return -1 - (lead & 0x0F)
    if 0xA0 <= lead <= 0xBF:
        return 1 + (lead & 0x1F)
    scalars = {0xC0: 1, 0xC2: 1, 0xC3: 1, 0xCA: 5, 0xCB: 9}
    integers = {0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}
    return (scalars | integers).get(lead, _LONG if 0xC0 < lead < 0xE0 else 1)


_LONG = -64
"""The size or the number of children follows the lead byte; or it is an extension, or no MessagePack at all."""
_STEPS = tuple(_step(lead) for lead in range(256))
_STRINGS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_BINS = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_ARRAYS = {0xDC: 2, 0xDD: 4}
_MAPS = {0xDE: 2, 0xDF: 4}
_WIDTHS = _STRINGS | _BINS | _ARRAYS | _MAPS
_ARRAY_LEADS = frozenset((*range(0x90, 0xA0), *_ARRAYS))


class Scanner:
    """Finds the end of one head after another in a stream.

    *max_head* bounds the bytes of a head, the header of a value included; *max_value* those of a value.
    """

    __slots__ = ("_budget", "_in_array", "_left", "_max_head", "_max_value", "_offset", "_outer")

    def __init__(self, *, max_head: int = limits.MAX_HEAD, max_value: int = limits.MAX_VALUES) -> None:
        self._max_head = max_head
        self._max_value = max_value
        self._reset()

    def _reset(self) -> None:
        self._offset = 0  # of the first element not yet passed, from the start of the message
        self._left = 1  # elements still to come in the innermost open container; at first, the message itself
        self._outer: list[int] = []  # the same for the containers around it
        self._budget = limits.MAX_ELEMENTS
        self._in_array = False  # whether the container in the message's outermost array is an array

    def scan(self, buffer: Buffer, start: int, stop: int) -> Extent | None:
        """Return where the message at *start* lies, or None if its head is not complete in ``buffer[start:stop]``.

        After None, call again with the same message at *start* (wherever it lies by then) and more of it. After an
        `Extent` the scanner is ready for the next message. After `BadRequestError` (no MessagePack, an extension
        type, a bin that is not the message's last bytes) or `TooLargeError` the stream is of no more use.
        """
        steps = _STEPS
        outer = self._outer
        left = self._left
        position = start + self._offset
        limit = start + self._max_head
        bound = min(limit, stop)
        end = position + 1
        while position < bound:
            lead = buffer[position]
            step = steps[lead]
            if step > 0:
                end = position + step
                if end > bound:
                    break
                left -= 1
            else:
                if step == _LONG:
                    end, children = self._long(buffer, position, bound)
                    if end > bound:
                        break
                    if lead in _BINS:
                        return self._value(end, children, left)
                else:
                    end, children = position + 1, -1 - step
                if lead in _STRINGS:
                    left -= 1
                else:
                    outer.append(left - 1)
                    self._open(lead, children)
                    left = children
            position = end
            while not left:
                if not outer:
                    self._reset()
                    return Extent(position, position, False)
                left = outer.pop()
            end = position + 1
        if end > limit:
            raise TooLargeError(f"the head of a message is longer than {self._max_head} bytes")
        self._offset = position - start
        self._left = left
        return None

    def _long(self, buffer: Buffer, position: int, bound: int) -> tuple[int, int]:
        """Return where the element at *position* ends (for a container or bin: its header), and its length."""
        lead = buffer[position]
        if lead not in _WIDTHS:
            raise BadRequestError(f"not MessagePack, or an extension type: byte 0x{lead:02x}")
        end = position + 1 + _WIDTHS[lead]
        if end > bound:
            return end, 0
        length = int.from_bytes(buffer[position + 1 : end], "big")
        if lead in _STRINGS:
            return end + length, length
        return end, 2 * length if lead in _MAPS else length

    def _open(self, lead: int, children: int) -> None:
        depth = len(self._outer)
        if depth > limits.MAX_DEPTH:
            raise TooLargeError(f"a message is nested deeper than {limits.MAX_DEPTH}")
        self._budget -= children
        if self._budget < 0:
            raise TooLargeError(f"a message has more than {limits.MAX_ELEMENTS} elements")
        if depth == 2:
            self._in_array = lead in _ARRAY_LEADS

    def _value(self, head_end: int, size: int, left: int) -> Extent:
        if left != 1 or self._outer != [0, 0] or not self._in_array:
            raise BadRequestError("a bin that is not the last element of a message's parameters or result")
        if size > self._max_value:
            raise TooLargeError(f"a value of {size} bytes; the limit is {self._max_value}")
        self._reset()
        return Extent(head_end, head_end + size, True)
