"""The operator's socket, for the `avault` command: one call after another, blocking."""

from __future__ import annotations

from avault_protocol import METHODS, Notification

from ._connection import Connection
from ._paths import operator_socket
from ._patience import FOR_EVER
from ._question import Question

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Self

    from ._conversation import Answer

    Progress = Callable[[dict[str, object]], None]


# Seconds to connect, and for the daemon to take a request; how long an answer may take, `call` is told.
TIMEOUT = 10.0
# Bytes. Lists of everything in a vault: 10,000 secrets of 200 bytes each are 2 MB.
MAX_HEAD = 16 * 1024 * 1024


class OperatorConnection:
    """One connection to the operator's socket. Proof holds for the connection it was given on, and ends with it."""

    __slots__ = ("_checked", "_connection")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._checked = False

    @classmethod
    def connect(cls, path: str | None = None, *, timeout: float = TIMEOUT) -> Self:
        """Connect to *path*, or where `operator_socket` finds it. Raises `DaemonUnavailableError`."""
        return cls(Connection(operator_socket(path), timeout, max_head=MAX_HEAD))

    @property
    def path(self) -> str:
        """Where it is connected to."""
        return self._connection.path

    def check_server(self) -> None:
        """Raise `DeniedError` unless the server may be given a passphrase. `call` does it before a value goes out."""
        self._connection.check_server()
        self._checked = True

    def call(
        self,
        method: str,
        params: Mapping[str, object] | None = None,
        value: memoryview | None = None,
        fds: Sequence[int] = (),
        on_progress: Progress | None = None,
        timeout: float | None = None,
    ) -> dict[str, object]:
        """Return the result of *method*; of one that also returns a value, use `fetch`.

        *value* (a passphrase, or values) is sent from where it lies, never copied; *fds* are passed along with it.
        *on_progress* gets the map of each `progress` notification. The answer may take *timeout* seconds; None is for
        ever. Raises the error that the daemon answers; `DaemonUnavailableError` if it goes away or is silent, and
        whatever `Connection.call` raises, after which the connection is closed.
        """

        def notified(notification: Notification) -> None:
            if on_progress is not None and notification.method == "progress":
                on_progress(notification.params)

        if METHODS[method].returns_value:
            raise TypeError(f"{method} returns a value: use fetch()")
        if value is not None and not self._checked:
            self.check_server()
        return dict(self._call(method, params, timeout, value, fds=fds, notified=notified).result)

    def fetch(
        self, method: str, params: Mapping[str, object] | None = None, timeout: float | None = None
    ) -> tuple[dict[str, object], bytearray]:
        """Return the result and the value of `reveal`, as `call` does; the caller wipes the value."""
        answer = self._call(method, params, timeout)
        if answer.value is None:
            raise TypeError(f"{method} returns no value: use call()")
        return dict(answer.result), answer.value

    def _call(
        self,
        method: str,
        params: Mapping[str, object] | None,
        timeout: float | None,
        value: memoryview | None = None,
        **more: Any,
    ) -> Answer:
        question = Question(method, params or {}, None if value is None else len(value))
        longest = FOR_EVER if timeout is None else timeout
        answer = self._connection.call(question, longest, value=value, **more)
        if answer.error is not None:
            raise answer.error
        return answer

    def close(self) -> None:
        """Close the connection. To close twice does nothing."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
