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
    State = tuple[int, int, tuple[int, ...], int, bool]


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


_LONG = -64  # the size, or the number of children, follows the lead byte; or it is no type of ours
_NO_CONTAINER = -1
_STRINGS = {0xD9: 1, 0xDA: 2, 0xDB: 4}  # lead byte -> bytes of the length that follows
_BINS = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_LONG_ARRAYS = {0xDC: 2, 0xDD: 4}
_LONG_MAPS = {0xDE: 2, 0xDF: 4}
_WIDTHS = _STRINGS | _BINS | _LONG_ARRAYS | _LONG_MAPS
_ARRAYS = frozenset((*range(0x90, 0xA0), *_LONG_ARRAYS))
# What a lead byte says: the size of its element; for a short container -1 - children; or `_LONG`.
_STEPS = (
    *(1,) * 128,  # 00 to 7f: small integers
    *range(-1, -33, -2),  # 80 to 8f: maps
    *range(-1, -17, -1),  # 90 to 9f: arrays
    *range(1, 33),  # a0 to bf: strings
    *(1, _LONG, 1, 1),  # c0 to c3: nil, unused, false, true
    *(_LONG,) * 6,  # c4 to c9: bins, extensions
    *(5, 9, 2, 3, 5, 9, 2, 3, 5, 9),  # ca to d3: floats, unsigned and signed integers
    *(_LONG,) * 12,  # d4 to df: extensions, strings, arrays, maps
    *(1,) * 32,  # e0 to ff: small negative integers
)


def _measure(buffer: Buffer, position: int, bound: int) -> tuple[int, int]:
    """Return where the `_LONG` element ends (a bin or container: its header), and its size or number of children.

    Strings count as `_NO_CONTAINER`. An end beyond *bound* says only that so much is needed to go on.
    """
    lead = buffer[position]
    if lead not in _WIDTHS:
        raise BadRequestError(f"an extension type, or not MessagePack: byte 0x{lead:02x}")
    end = position + 1 + _WIDTHS[lead]
    if end > bound:
        return end, _NO_CONTAINER
    length = int.from_bytes(buffer[position + 1 : end], "big")
    if lead in _STRINGS:
        return end + length, _NO_CONTAINER
    return end, 2 * length if lead in _LONG_MAPS else length


def _too_much(depth: int, most: int) -> TooLargeError:
    if depth > limits.MAX_DEPTH:
        return TooLargeError(f"a message is nested deeper than {limits.MAX_DEPTH}")
    return TooLargeError(f"a message has more than {most} elements")


class Scanner:
    """Finds the end of one head after another in a stream.

    *max_head* bounds the bytes of a head, the header of a value included; *max_value* those of a value; *max_elements*
    the members of arrays, keys and values of maps.
    """

    __slots__ = ("_fresh", "_max_elements", "_max_head", "_max_value", "_state")

    def __init__(
        self,
        *,
        max_head: int = limits.MAX_HEAD,
        max_value: int = limits.MAX_VALUES,
        max_elements: int = limits.MAX_ELEMENTS,
    ) -> None:
        self._max_head = max_head
        self._max_value = max_value
        self._max_elements = max_elements
        # What is kept between two calls; immutable, so that an error leaves it as it was: the offset of the first element
        # not yet passed, from the start of the message; how many elements are still to come in the innermost open
        # container (at first: the message itself), and in each of those around it; how many more elements the message
        # may have; whether the container within the outermost one is an array.
        self._fresh: State = (0, 1, (), max_elements, False)
        self._state: State = self._fresh

    @property
    def begun(self) -> bool:
        """Whether a part of the next message has been passed."""
        return self._state[0] > 0

    def scan(self, buffer: Buffer, start: int, stop: int) -> Extent | None:
        """Return where the message at *start* lies, or None if its head is not complete in ``buffer[start:stop]``.

        After None, call again with the same message at *start* (wherever that is by then) and more of it. After an
        `Extent` the scanner is ready for the next message. After `BadRequestError` (no MessagePack, an extension
        type, a bin that is not the message's last bytes) or `TooLargeError` the stream is of no more use.
        """
        offset, left, around, budget, in_array = self._state
        outer = list(around)
        position = end = start + offset
        limit = start + self._max_head
        bound = min(limit, stop)
        while position < bound:
            lead = buffer[position]
            step = _STEPS[lead]
            if step > 0:
                end, children = position + step, _NO_CONTAINER
            elif step == _LONG:
                end, children = _measure(buffer, position, bound)
            else:
                end, children = position + 1, -1 - step
            if end > bound:
                break
            position = end
            if children < 0:
                left -= 1
            elif lead in _BINS:
                return self._value(end, children, in_array and left == 1 and outer == [0, 0])
            else:
                outer.append(left - 1)
                left = children
                budget -= children
                if budget < 0 or len(outer) > limits.MAX_DEPTH:
                    raise _too_much(len(outer), self._max_elements)
                if len(outer) == 2:
                    in_array = lead in _ARRAYS
            while not left:
                if not outer:
                    self._state = self._fresh
                    return Extent(position, position, False)
                left = outer.pop()
        if max(end, position + 1) > limit:
            raise TooLargeError(f"the head of a message is longer than {self._max_head} bytes")
        self._state = position - start, left, tuple(outer), budget, in_array
        return None

    def _value(self, head_end: int, size: int, is_last: bool) -> Extent:
        if not is_last:
            raise BadRequestError("a bin that is not the last element of a message's parameters or result")
        if size > self._max_value:
            raise TooLargeError(f"a value of {size} bytes; the limit is {self._max_value}")
        self._state = self._fresh
        return Extent(head_end, head_end + size, True)
