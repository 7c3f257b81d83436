"""Every error that avault knows, and the one table code <-> exception <-> exit status.

::

    AvaultError
    +-- LockedError            locked             3
    +-- UninitializedError     uninitialized      3
    +-- DaemonUnavailableError daemon_unavailable 4   (client side only)
    +-- UnknownAgentError      unknown_agent      5
    +-- AmbiguousAgentError    ambiguous_agent    5
    +-- AlreadyBoundError      already_bound      5
    +-- NotGrantedError        not_granted        5
    +-- NotFoundError          not_found          6   (operator only)
    +-- ProofRequiredError     proof_required     7
    +-- WrongPassphraseError   wrong_passphrase   7
    +-- ThrottledError         throttled          7
    +-- DeniedError            denied             7
    +-- RequestTimeoutError    timeout            7
    +-- CorruptError           corrupt            8
    +-- RollbackError          rollback           8
    +-- TooLargeError          too_large          1
    +-- BadRequestError        bad_request        1   (also: the peer broke the protocol)
    +-- BusyError              busy               1
    +-- AuditFailedError       audit_failed       1
    +-- StorageFailedError     storage_failed     1
    +-- InternalError          internal           1

On the wire an error is a map ``{code, message, hint?}``. A message says what is wrong and with what, a hint what to
do; both are lower case without a final period, and neither ever holds a value, a passphrase or a key.
"""

from __future__ import annotations

from ._shapes import is_map


class AvaultError(Exception):
    """The root of all errors of avault.

    *message* says what is wrong and with what, *hint* what to do about it.
    """

    code = "internal"
    exit_status = 1
    default_message = "something went wrong inside avault"
    default_hint: str | None = None

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        self.message = message or self.default_message
        self.hint = hint or self.default_hint
        super().__init__(self.message)

    def to_wire(self) -> dict[str, object]:
        """Return this error as its map on the wire."""
        wire: dict[str, object] = {"code": self.code, "message": self.message}
        if self.hint is not None:
            wire["hint"] = self.hint
        return wire


class LockedError(AvaultError):
    """The vault is locked."""

    code = "locked"
    exit_status = 3
    default_message = "the vault is locked"
    default_hint = "run: avault unlock"


class UninitializedError(AvaultError):
    """There is no vault yet."""

    code = "uninitialized"
    exit_status = 3
    default_message = "there is no vault yet"
    default_hint = "run: avault init"


class DaemonUnavailableError(AvaultError):
    """No daemon answers, or it went away. Raised by clients; never on the wire."""

    code = "daemon_unavailable"
    exit_status = 4
    default_message = "no avault daemon answers"
    default_hint = "start it with: avaultd"


class UnknownAgentError(AvaultError):
    """No agent of the vault describes the caller."""

    code = "unknown_agent"
    exit_status = 5
    default_message = "no agent of this vault describes the calling process"
    default_hint = "the operator sees it with: avault requests"


class AmbiguousAgentError(AvaultError):
    """Several agents describe the caller, and hello named none of them."""

    code = "ambiguous_agent"
    exit_status = 5
    default_message = "several agents describe the calling process"
    default_hint = "name one: Vault(agent=...) or AVAULT_AGENT"


class AlreadyBoundError(AvaultError):
    """Another live process holds this plugin."""

    code = "already_bound"
    exit_status = 5
    default_message = "another live process holds this plugin"
    default_hint = "end that process first, or allow several: avault agent set AGENT --instances N"


class NotGrantedError(AvaultError):
    """The caller may not have this secret, or it does not exist: the answer is the same."""

    code = "not_granted"
    exit_status = 5
    default_message = "this secret is not granted to this plugin"
    default_hint = "the operator sees the request with: avault requests"


class NotFoundError(AvaultError):
    """The operator named something that does not exist."""

    code = "not_found"
    exit_status = 6
    default_message = "there is nothing of that name"


class ProofRequiredError(AvaultError):
    """The method needs proof on this connection."""

    code = "proof_required"
    exit_status = 7
    default_message = "this needs your passphrase, or your phone"
    default_hint = "use --passphrase-fd, --passphrase-file or --phone, or run it on a terminal"


class WrongPassphraseError(AvaultError):
    """The passphrase opens no slot."""

    code = "wrong_passphrase"
    exit_status = 7
    default_message = "wrong passphrase"


class ThrottledError(AvaultError):
    """Too many wrong passphrases from this uid."""

    code = "throttled"
    exit_status = 7
    default_message = "too many wrong passphrases"


class DeniedError(AvaultError):
    """The operator, or what stands for them, said no."""

    code = "denied"
    exit_status = 7
    default_message = "the operator denied it"


class RequestTimeoutError(AvaultError):
    """Nobody answered in time; this counts as a no."""

    code = "timeout"
    exit_status = 7
    default_message = "nobody answered in time"


class CorruptError(AvaultError):
    """A file is not what avault wrote."""

    code = "corrupt"
    exit_status = 8
    default_message = "a file of the vault is damaged"
    default_hint = "avault restore-vault FILE brings a copy back"


class RollbackError(AvaultError):
    """The vault file is older than what this machine remembers."""

    code = "rollback"
    exit_status = 8
    default_message = "the vault file is older than the last one seen here"
    default_hint = "avault restore-vault FILE accepts an older file"


class TooLargeError(AvaultError):
    """Something is over its limit."""

    code = "too_large"
    default_message = "over the limit"


class BadRequestError(AvaultError):
    """The request is not one of the protocol."""

    code = "bad_request"
    default_message = "malformed request"


class BusyError(AvaultError):
    """A limit of what goes on at once is reached, or something exclusive is under way."""

    code = "busy"
    default_message = "busy"
    default_hint = "try again in a moment"


class AuditFailedError(AvaultError):
    """The record could not be written, so nothing was served."""

    code = "audit_failed"
    default_message = "the record could not be written, so nothing was served"
    default_hint = "is the disk full? see: avault status"


class StorageFailedError(AvaultError):
    """The vault file could not be written; whether the change is there is known only after a restart."""

    code = "storage_failed"
    default_message = "the vault file could not be written; the outcome is unknown"
    default_hint = "mend the disk, then restart avaultd: it reads what is really there"


class InternalError(AvaultError):
    """A fault in avault itself."""

    code = "internal"


ERRORS: dict[str, type[AvaultError]] = {
    error.code: error
    for error in (
        LockedError,
        UninitializedError,
        DaemonUnavailableError,
        UnknownAgentError,
        AmbiguousAgentError,
        AlreadyBoundError,
        NotGrantedError,
        NotFoundError,
        ProofRequiredError,
        WrongPassphraseError,
        ThrottledError,
        DeniedError,
        RequestTimeoutError,
        CorruptError,
        RollbackError,
        TooLargeError,
        BadRequestError,
        BusyError,
        AuditFailedError,
        StorageFailedError,
        InternalError,
    )
}
"""Code -> exception; `AvaultError.code` and `AvaultError.exit_status` complete the table."""

WRONG_USE = 2
"""Exit status of the command for wrong use (not an error of the table)."""


def error_from_wire(wire: object) -> AvaultError:
    """Return the exception for an error map; a malformed or unknown one becomes an `InternalError` that says so."""
    if not is_map(wire):
        return InternalError("the daemon sent an error that is no map")
    code = wire.get("code")
    message, hint = (text if isinstance(text := wire.get(key), str) else None for key in ("message", "hint"))
    kind = ERRORS.get(code) if isinstance(code, str) else None
    if kind is None:
        return InternalError(f"the daemon sent an unknown error: {ascii(code)[:40]}: {message}", hint=hint)
    return kind(message, hint=hint)
