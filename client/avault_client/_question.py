"""A request that may be made again and again: what stays the same, of it and of its answer."""

from __future__ import annotations

from avault_protocol import METHODS, REQUEST_STARTS, RESPONSE_STARTS, START, pack_request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# One request is open at a time, so a few ids do: those that MessagePack says in a single byte. 0 is never one of ours.
MAX_ID = len(REQUEST_STARTS) - 1
# Bytes. The longest name of a secret, and what is said of its version, take less than half.
LONGEST_HEAD = 512
MOST = 64
"""Questions that a process remembers for vaults to come."""


class Head:
    """The head of an answer, which was read and passed every check; the *result* that it says, and how long a value follows.

    The daemon answers the same question with the same head, but for the id, until the secret has a new version. Bytes
    that are the same say the same: neither the scanner nor MessagePack need see them again.
    """

    __slots__ = ("_behind_id", "result", "size")

    def __init__(self, head: bytearray, size: int, result: Mapping[str, object]) -> None:
        self.size = size
        self.result = dict(result)
        self._behind_id = bytes(head[START:])

    def under(self, id: int) -> bytes:
        """Return the head, as it would come under *id*."""
        return RESPONSE_STARTS[id] + self._behind_id


class Question:
    """A call of *method* with *params*. To ask it again costs less, on any connection and by any thread.

    With *value_size*, so many bytes of value must follow it. Raises `TooLargeError` for what the daemon would refuse.
    """

    __slots__ = ("_behind_id", "answered", "returns_value")

    def __init__(self, method: str, params: Mapping[str, object], value_size: int | None = None) -> None:
        self.returns_value = METHODS[method].returns_value
        self.answered: Head | None = None  # that of the last answer, if it is worth remembering
        self._behind_id = pack_request(1, method, params, value_size)[START:]

    def under(self, id: int) -> bytes:
        """Return the request, under an *id* from 1 to `MAX_ID`."""
        return REQUEST_STARTS[id] + self._behind_id

    def note(self, id: int, head: bytearray, size: int, result: Mapping[str, object]) -> None:
        """Remember what was answered under *id*, unless that is long, or written otherwise than we do."""
        plain = len(head) <= LONGEST_HEAD and head.startswith(RESPONSE_STARTS[id])
        self.answered = Head(head, size, result) if plain else None


_made: dict[tuple[object, ...], Question] = {}


def the_same(key: tuple[object, ...], make: Callable[[], Question]) -> Question:
    """Return the question of *key*: what *make* has made of the same key before in this process, or makes now."""
    try:
        question = _made.get(key)
    except TypeError:  # it holds what is no name, which is for *make* to say
        return make()
    if question is None:
        question = make()
        if len(_made) >= MOST:
            _made.clear()
        question = _made.setdefault(key, question)
    return question
