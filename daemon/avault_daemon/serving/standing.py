"""What was asked on a connection and answered with a value, by the bytes in which it was asked.

Most of what plugins ask was asked before. Bytes that are the same ask the same, whatever id they come under: neither the
scanner nor MessagePack need see them again. Whether the answer still holds is for the gate to say.
"""

from __future__ import annotations

from avault_protocol import REQUEST_STARTS, START

from .conversation import Answer

MOST = 8
"""Questions of one connection that are remembered."""
LONGEST = 256
"""Bytes of a question that is remembered: the longest name of a secret takes less."""

_IDS = {start: id for id, start in enumerate(REQUEST_STARTS)}


class Standing:
    """Questions with their answers, those that were noted last."""

    __slots__ = ("_answers",)

    def __init__(self) -> None:
        self._answers: dict[bytes, Answer] = {}

    def find(self, data: bytes) -> tuple[int, Answer] | None:
        """Return the id under which *data* asks, and the answer, if it is one question that was answered, and nothing else."""
        id, answer = _IDS.get(data[:START]), self._answers.get(data[START:])
        return None if id is None or answer is None else (id, answer)

    def note(self, data: bytes, answer: Answer) -> None:
        """Remember *answer* to *data*, which is one request; unless nothing was given, or the request or its id is long."""
        if answer.allowed is None or data[:START] not in _IDS or len(data) > LONGEST:
            return
        question = data[START:]
        self._answers.pop(question, None)
        if len(self._answers) >= MOST:
            del self._answers[next(iter(self._answers))]
        self._answers[question] = answer
