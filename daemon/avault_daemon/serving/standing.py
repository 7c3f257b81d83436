"""What was asked on a connection and answered with a value, by the bytes in which it was asked.

Most of what plugins ask was asked before. Bytes that are the same ask the same, whatever id they come under: neither the
scanner nor MessagePack need see them again. Whether the answer still holds is for the gate to say.
"""

from __future__ import annotations

from .conversation import Answer

MOST = 8
"""Questions of one connection that are remembered."""
LONGEST = 256
"""Bytes of a question that is remembered: the longest name of a secret takes less."""

# A list of four; its first element says that this is a request; then the id, if it is below 128 in one byte.
_REQUEST = b"\x94\0"
_ID = 2
_BEHIND_ID = 3


class Standing:
    """Questions with their answers, those that were noted last."""

    __slots__ = ("_answers",)

    def __init__(self) -> None:
        self._answers: dict[bytes, Answer] = {}

    def find(self, data: bytes) -> tuple[int, Answer] | None:
        """Return the id under which *data* asks, and the answer, if it is one question that was answered, and nothing else."""
        answer = self._answers.get(data[_BEHIND_ID:])
        if answer is None or not data.startswith(_REQUEST) or data[_ID] > 127:
            return None
        return data[_ID], answer

    def note(self, data: bytes, answer: Answer) -> None:
        """Remember *answer* to *data*, which is one request; unless nothing was given, or the request or its id is long."""
        plain = data.startswith(_REQUEST) and data[_ID] < 128 and len(data) <= LONGEST
        if answer.allowed is None or not plain:
            return
        question = data[_BEHIND_ID:]
        self._answers.pop(question, None)
        if len(self._answers) >= MOST:
            del self._answers[next(iter(self._answers))]
        self._answers[question] = answer
