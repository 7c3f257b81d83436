"""One request of an operator while it is served."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from avault_protocol import BadRequestError, ProofRequiredError, limits

from ..memory import sodium
from ..serving.conversation import Answer, Params
from .ticket import Proof, Ticket

if TYPE_CHECKING:
    from ..callers.policy import Caller
    from ..core import Core
    from ..memory.arena import Slot


class Progress(Protocol):
    """Tells the operator how far a request has come."""

    def __call__(self, stage: str, **detail: object) -> None: ...


@dataclass(slots=True)
class Turn:
    """A request with all that a handler needs.

    *value* lies in the arena and is wiped when the handler returns, *fds* are closed then. *ticket* is what
    this connection has gained; a handler that checks a passphrase sets what it proves.
    """

    core: Core
    caller: Caller
    params: Params
    value: memoryview | None
    fds: list[int]
    progress: Progress
    ticket: Ticket

    @contextmanager
    def passphrase(self) -> Generator[Slot]:
        """Give the value as a passphrase in a slot of its own; raise `BadRequestError` if it can be none."""
        value = self.value
        if value is None or not 0 < len(value) <= limits.MAX_PASSPHRASE:
            raise BadRequestError(f"a passphrase has 1 to {limits.MAX_PASSPHRASE} bytes")
        with self.core.arena.take(len(value)) as slot:
            slot.view[:] = value
            sodium.scrub()  # the line above leaves some of it in registers
            yield slot

    @property
    def proof(self) -> str:
        """The id of the slot that proved this connection; raises `ProofRequiredError` if none has."""
        if self.ticket.proven is None:
            raise ProofRequiredError
        return self.ticket.proven.id

    def proofs(self) -> dict[str, Proof]:
        """Return what would be proven by each slot as it is now."""
        vault = self.core.vault
        return {slot.id: Proof(slot.id, vault.slot_content(slot.id)) for slot in vault.slots()}

    @property
    def log_n(self) -> int:
        """The scrypt cost asked for, or the one of the settings."""
        return int(self.params.get("log_n", self.core.settings.log_n))


Handler = Callable[[Turn], Awaitable[Answer]]
