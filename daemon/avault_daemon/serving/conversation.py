"""What the conversations on both sockets have in common: admitting a request, and its answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from avault_protocol import (
    ERRORS,
    METHODS,
    SERVE,
    WAIT,
    BadRequestError,
    LockedError,
    Method,
    Request,
)

if TYPE_CHECKING:
    from ..callers.gate import Allowed
    from ..vault import Value

Params = dict[str, Any]
"""Checked by `Method.check`, so each key has the type that the table of methods says."""


@dataclass(slots=True)
class Answer:
    """The result of a request, or the *value* that is given out for it, with what it says of itself.

    *allowed*: what the gate needs to allow the same again. *packed*: the result for `respond`, once it was sent.
    """

    result: dict[str, object]
    value: Value | None = None
    allowed: Allowed | None = None
    packed: bytes | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Not an answer yet: ask again after an unlock, for at most *seconds*."""

    seconds: float


def parse(request: Request, socket: str) -> tuple[Method, Params]:
    """Return the method of *socket* that *request* names, and its checked parameters.

    A method of the other socket is as unknown as one that does not exist. Raises `BadRequestError`, which repeats
    nothing that was sent.
    """
    method = METHODS.get(request.method)
    if method is None or method.socket != socket:
        raise BadRequestError("unknown method")
    if request.has_value != method.takes_value:
        raise BadRequestError(
            f"{method.name}: {'a value is missing' if method.takes_value else 'takes no value'}"
        )
    return method, method.check(request.params)


def admit(method: Method, state: str, wait: float = 0) -> Wait | None:
    """Raise the error that *method* gives while the vault is in *state*; return a `Wait` where it may wait.

    Locked is the default: what the table does not let through is refused here, before any code of the method runs.
    """
    outcome = method.states[state]
    if outcome == SERVE:
        return None
    if outcome == WAIT:
        if wait > 0:
            return Wait(wait)
        raise LockedError
    if outcome == "bad_request":
        raise BadRequestError(f"{method.name}: there is a vault already", hint="avault status says where")
    raise ERRORS[outcome]
