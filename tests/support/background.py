"""Something that runs in a thread of its own while a test goes on."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

WITHIN = 60.0
"""Seconds after which a test that would hang fails instead."""


class Background(Generic[T]):
    """Runs *function* in a thread."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._results: list[T] = []
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def done(self) -> bool:
        """Report whether it has ended."""
        return not self._thread.is_alive()

    def result(self) -> T:
        """Return what the function returned, or raise what it raised."""
        self._thread.join(WITHIN)
        assert not self._thread.is_alive(), "still running"
        if self._errors:
            raise self._errors[0]
        return self._results[0]

    def _run(self) -> None:
        try:
            self._results.append(self._function())
        except BaseException as error:  # noqa: BLE001 - handed to the test
            self._errors.append(error)
