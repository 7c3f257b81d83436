"""One request of an operator while it is served."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from avault_protocol import BadRequestError, NotFoundError, ProofRequiredError, limits

from .. import sodium
from ..conversation import Answer, Params

if TYPE_CHECKING:
    from ..arena import Slot
    from ..core import Core
    from ..policy import Caller
    from ..vault import Vault


@dataclass(frozen=True, slots=True)
class Proof:
    """That a connection knows what opened the slot *id* while *content* was what the vault file said of it."""

    id: str
    content: str

    def holds(self, vault: Vault) -> bool:
        """Report whether that still opens the vault: it may have another key, or the slot another passphrase."""
        try:
            return vault.slot_content(self.id) == self.content
        except NotFoundError:
            return False


@dataclass(slots=True)
class Turn:
    """A request with all that a handler needs.

    *value* lies in the arena and is wiped when the handler returns, *fds* are closed then. *proven* is how this
    connection has proven itself; a handler that checks a passphrase sets it.
    """

    core: Core
    caller: Caller
    params: Params
    value: memoryview | None
    fds: list[int]
    progress: Callable[[str], None]
    proven: Proof | None

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
        if self.proven is None:
            raise ProofRequiredError
        return self.proven.id

    def proofs(self) -> dict[str, Proof]:
        """Return what would be proven by each slot as it is now."""
        vault = self.core.vault
        return {slot.id: Proof(slot.id, vault.slot_content(slot.id)) for slot in vault.slots()}

    @property
    def log_n(self) -> int:
        """The scrypt cost asked for, or the one of the settings."""
        return int(self.params.get("log_n", self.core.settings.log_n))


Handler = Callable[[Turn], Awaitable[Answer]]
