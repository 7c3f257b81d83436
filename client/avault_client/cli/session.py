"""One run of the command, or of its shell: a connection, made when first needed, and whether it is proven.

Proof belongs to the connection: it is given at most once, and is gone when the connection is.
"""

from __future__ import annotations

from avault_client._operator import OperatorConnection
from avault_protocol import ERRORS, METHODS, SERVE, WAIT, DaemonUnavailableError, ProofRequiredError

from .output import Working
from .passphrases import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .grammar import Result
    from .hidden import Hidden


class Session:
    """What a command works with."""

    def __init__(self, connect: Callable[[], OperatorConnection] = OperatorConnection.connect) -> None:
        self._connect = connect
        self._connection: OperatorConnection | None = None
        self.proven = False
        self.phone = False
        self.always_phone = False  # in a shell
        self._allowed: str | None = None
        self.source = Source()
        self.line_of_input: Callable[[str], Hidden] | None = None

    def close(self) -> None:
        """Close the connection, if there is one; proof ends with it."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self.proven = False
        self._allowed = None

    def connection(self) -> OperatorConnection:
        """Return the connection; raise `DaemonUnavailableError` if nobody answers."""
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def call(
        self,
        method: str,
        params: Mapping[str, object] | None = None,
        value: memoryview | None = None,
        fds: Sequence[int] = (),
        *,
        working: str | None = None,
        timeout: float | None = None,
    ) -> Result:
        """Return the result of *method*, proven first if it needs that; *working* shows while it takes time."""
        self._pay(method)
        with self._display(method, working) as display:
            try:
                return self.connection().call(method, params, value, fds, display.progress, timeout)
            except DaemonUnavailableError:
                self.close()
                raise
            except ProofRequiredError:
                self.proven = False  # what was proven opens the vault no more; the next command asks again
                raise

    def fetch(self, method: str, params: Mapping[str, object]) -> tuple[Result, bytearray]:
        """Return what is known of a secret, and its value, which the caller wipes; proven first if it needs that."""
        self._pay(method)
        try:
            return self.connection().fetch(method, params)
        except DaemonUnavailableError:
            self.close()
            raise

    def _display(self, method: str, working: str | None) -> Working:
        if not method.startswith("phone_") or working is None:
            return Working(working)
        from .phone import ADVICE, Waiting

        pairing = method == "phone_pair"  # which is when signers ask what is allowed, not later
        return Waiting(working, ADVICE if pairing else "")

    def _pay(self, method: str) -> None:
        """Have *method* proven; what a phone allowed is used up by it."""
        self.prove(method)
        if METHODS[method].proof:
            self._allowed = None

    def require(self, method: str) -> None:
        """Raise, before anyone is asked for a passphrase, the error that *method* would give in the present state,
        or the one for a server that no passphrase is sent to."""
        self.connection().check_server()
        code = METHODS[method].states[self.call("status")["state"]]
        if code not in (SERVE, WAIT):
            raise ERRORS[code]()

    def prove(self, method: str) -> None:
        """Prove this connection, if *method* needs that and it is not proven yet; by a phone, for this method alone."""
        if not METHODS[method].proof or self.proven or self._allowed == method:
            return
        self.require(method)
        self.prove_now(method)

    def prove_now(self, method: str) -> None:
        """Have a phone allow *method*, or ask for the vault's passphrase and prove this connection with it."""
        if self.phone:
            self.call("phone_prove", {"action": method}, working="asking your phone")
            self._allowed = method
            return
        with self.source.read("the vault") as passphrase:
            self.call("prove", value=passphrase.view, working="checking the passphrase")
        self.proven = True
