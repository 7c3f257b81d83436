"""The thread that tells a plugin of new versions."""

from __future__ import annotations

import sys
import threading

from avault_protocol import AvaultError, Notification

from ._patience import FOR_EVER, Patience

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ._lines import Lines

# Seconds between two tries to find the daemon again. It may be away, or refuse us, for days.
LONGEST_PAUSE = 30.0


def rotated_name(notification: Notification) -> str | None:
    """Return the name of the secret that *notification* says has a new version; None if it says something else."""
    name = notification.params.get("name")
    return name if notification.method == "rotated" and isinstance(name, str) else None


class Listener(threading.Thread):
    """Holds a connection of its own, and calls *on_rotated* with the name of each secret that has a new version."""

    def __init__(self, lines: Lines, on_rotated: Callable[[str], object]) -> None:
        super().__init__(name="avault-rotated", daemon=True)
        self._lines = lines
        self._on_rotated = on_rotated
        self._ended = threading.Event()
        self._patience = Patience(FOR_EVER, longest=LONGEST_PAUSE)

    def run(self) -> None:
        """Listen until `end`, finding a lost daemon again."""
        self._start_over()
        while not self._ended.is_set():
            try:
                self._lines.listen(self._start_over, self._notified)
            except AvaultError:
                self._ended.wait(self._patience.pause())
            except ValueError:
                return  # the lines are closed

    def end(self) -> None:
        """Let the thread end. A callback that is under way is not waited for."""
        self._ended.set()

    def _start_over(self) -> None:
        self._patience = Patience(FOR_EVER, longest=LONGEST_PAUSE)

    def _notified(self, notification: Notification) -> None:
        name = rotated_name(notification)
        if name is None or self._ended.is_set():
            return
        try:
            self._on_rotated(name)
        except Exception:  # noqa: BLE001 - the plugin's own; reported as a thread's, and the next rotation is still told
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), self)))
