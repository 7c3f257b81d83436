"""What one operator's connection has gained so far, and loses with its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from avault_protocol import BadRequestError, LockedError, Method, NotFoundError, ProofRequiredError

if TYPE_CHECKING:
    from ..phone.signers import Candidate
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
class Ticket:
    """*proven*: how a passphrase proved this connection, if one did."""

    proven: Proof | None = None
    _allowed: tuple[str, int] | None = None  # a method, and the vault's epoch when a phone allowed it
    _candidate: tuple[Candidate, int] | None = None  # a signer, and the epoch from which its keys are

    def check(self, vault: Vault) -> None:
        """Drop a proof that holds no more."""
        if self.proven is not None and not self.proven.holds(vault):
            self.proven = None

    def allow(self, method: str, vault: Vault) -> None:
        """Take note that a phone allowed one call of *method*."""
        self._allowed = method, vault.epoch

    def spend(self, method: Method, vault: Vault) -> None:
        """Take what a call of *method* costs; `ProofRequiredError` if it is not there.

        What a phone allowed is used up, whatever the method, and does not outlive a lock.
        """
        if not self.covers(method.name, vault):
            raise ProofRequiredError(f"{method.name} needs your passphrase, or your phone")

    def covers(self, method: str, vault: Vault) -> bool:
        """Report whether a passphrase proved the connection or a phone allowed *method*, which is used up by that."""
        allowed, self._allowed = self._allowed, None
        return self.proven is not None or allowed == (method, vault.epoch)

    def keep(self, candidate: Candidate, since: int) -> None:
        """Keep a signer until the operator has looked at it."""
        self.close()
        self._candidate = candidate, since

    def take_candidate(self, vault: Vault) -> Candidate:
        """Hand over the signer; `BadRequestError` if there is none, `LockedError` if its keys have been wiped."""
        if self._candidate is None:
            raise BadRequestError("phone_confirm: phone_pair comes first, on this connection")
        (candidate, since), self._candidate = self._candidate, None
        if since != vault.epoch:
            candidate.close()
            raise LockedError("the vault was locked meanwhile")
        return candidate

    def close(self) -> None:
        """Forget a signer that was not confirmed."""
        if self._candidate is not None:
            self._candidate[0].close()
        self._candidate = None
