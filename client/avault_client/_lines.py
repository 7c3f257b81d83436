"""The connections that one `Vault` has in one process, and which thread may use which."""

from __future__ import annotations

from _thread import allocate_lock

from avault_protocol import DaemonUnavailableError, Notification

from ._connection import Connection, ConnectionLostError
from ._profile import checked
from ._question import Question

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ._conversation import Answer
    from ._profile import Profile


class Lines:
    """One connection that threads use in turn, and one more for each thread that waits.

    A turn takes microseconds, as nothing is asked on the shared connection that waits for a human. What does, an
    unlock or the next rotation, is waited for on a connection of its own, so no thread ever waits behind another's
    ``wait=``. All calls of an agent may be made twice, so a connection that turns out to be lost is replaced once.
    """

    __slots__ = ("_closed", "_open", "_profile", "_shared", "_turn")

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._turn = allocate_lock()
        self._shared: Connection | None = None
        self._open: set[Connection] = set()  # every connection; single operations on a set are atomic
        self._closed = False

    def call(self, question: Question) -> Answer:
        """Return the answer to a question that is answered at once."""
        timeout = self._profile.timeout
        if not self._turn.acquire(True, timeout):
            raise DaemonUnavailableError(f"another thread has had no answer for {timeout:g} s")
        try:
            if self._shared is not None:
                try:
                    return self._shared.call(question, timeout)
                except ConnectionLostError:
                    # As after a restart of the daemon. The new one gets its own hello.
                    self._end(self._shared)
            self._shared = self._new()
            return self._shared.call(question, timeout, self._profile.hello())
        finally:
            self._turn.release()

    def call_apart(self, question: Question, longer: float) -> Answer:
        """Return the answer to a question that may take *longer* seconds than others."""
        connection = self._connect()
        try:
            return connection.call(question, self._profile.timeout + longer)
        finally:
            self._end(connection)

    def listen(self, connected: Callable[[], None], notified: Callable[[Notification], None]) -> None:
        """Call *connected*, then *notified* for all that the daemon tells; return only by an exception."""
        connection = self._connect()
        try:
            connected()
            connection.listen(notified)
        finally:
            self._end(connection)

    def close(self) -> None:
        """Close every connection, from any thread. Calls under way end with an error."""
        self._closed = True
        self._end_shared(False)
        if not self._open:
            return
        for connection in tuple(self._open):
            connection.shutdown()
        # Only the shared connection may be in nobody's hands; the others are closed by the threads that hold them.
        self._end_shared(True)

    def abandon(self) -> None:
        """Close, in a child, the parent's connections. No locks: who held them is not in this process."""
        for connection in tuple(self._open):
            connection.close()

    def _connect(self) -> Connection:
        """Return a new connection on which hello has been said."""
        connection = self._new()
        try:
            checked(connection.call(self._profile.hello(), self._profile.timeout))
        except BaseException:
            self._end(connection)
            raise
        return connection

    def _new(self) -> Connection:
        connection = Connection(self._profile.path(), self._profile.timeout)
        self._open.add(connection)
        if self._closed:  # `close` sets it before it looks at the set, so one of the two sees the other
            self._end(connection)
            raise ValueError("the vault is closed")
        return connection

    def _end_shared(self, waiting: bool) -> None:
        """Close the shared connection once it is in nobody's hands, or, not *waiting*, if it is in nobody's now."""
        if not self._turn.acquire(waiting):
            return
        if self._shared is not None:
            self._end(self._shared)
            self._shared = None
        self._turn.release()

    def _end(self, connection: Connection) -> None:
        connection.close()
        self._open.discard(connection)
