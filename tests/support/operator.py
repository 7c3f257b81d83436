"""An operator's connection that leads nowhere: it keeps what it is told, and answers what it was given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from avault_client._operator import OperatorConnection
from avault_protocol import AvaultError, DeniedError

EMPTY: dict[str, Any] = {}


class Operator:
    """Answers each method by a result, an error, or a function of the parameters; *calls* is what was asked."""

    def __init__(
        self, **replies: Mapping[str, Any] | AvaultError | Callable[[Any], Mapping[str, Any]]
    ) -> None:
        self.replies = replies
        self.calls: list[tuple[str, Any, bytes | None]] = []
        self.connections = 0
        self.impostor = False
        self.closed = 0

    def connect(self) -> OperatorConnection:
        self.connections += 1
        return cast(OperatorConnection, self)

    def call(
        self,
        method: str,
        params: Mapping[str, object] | None = None,
        value: memoryview | None = None,
        fds: Sequence[int] = (),
        on_progress: object = None,
        timeout: float | None = None,
    ) -> Mapping[str, Any]:
        self.calls.append((method, params or {}, None if value is None else bytes(value)))
        reply = self.replies.get(method, EMPTY)
        if isinstance(reply, AvaultError):
            raise reply
        return reply(params) if callable(reply) else reply

    def fetch(self, method: str, params: Mapping[str, object]) -> tuple[Mapping[str, Any], bytearray]:
        result = dict(self.call(method, params))
        return result, result.pop("value")

    def check_server(self) -> None:
        if self.impostor:
            raise DeniedError("the server is somebody else")

    def close(self) -> None:
        self.closed += 1

    @property
    def methods(self) -> list[str]:
        return [method for method, _, _ in self.calls]
