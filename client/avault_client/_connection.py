"""A blocking connection to one of the daemon's sockets: one thread calls, and waits for the answer.

Written on ``_socket``, the C module that ``socket`` decorates: importing ``socket`` costs more than all of this package.
"""

from __future__ import annotations

from _socket import (
    AF_UNIX,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    SCM_RIGHTS,
    SHUT_RDWR,
    SO_SNDTIMEO,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
)
from _struct import pack
from select import POLLIN, poll
from time import monotonic

from avault_protocol import DaemonUnavailableError, Notification, limits

from ._conversation import Answer, Conversation
from ._paths import check_server
from ._patience import FOR_EVER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._question import Question

    Notified = Callable[[Notification], None]

# Milliseconds. poll(2) knows nothing longer: it is asked again then.
LONGEST = 2**31 - 1


class ConnectionLostError(DaemonUnavailableError):
    """The daemon closed a connection, so a request that may be made twice is made again on a new one."""


def unreachable(path: str, error: OSError) -> DaemonUnavailableError:
    """Return the error for a daemon that *path* does not lead to."""
    return DaemonUnavailableError(f"no avault daemon answers at {path}: {error.strerror or error}".lower())


def lost(path: str) -> ConnectionLostError:
    """Return the error for a connection that ended before its time."""
    return ConnectionLostError(f"the avault daemon at {path} closed the connection")


def silent(path: str, timeout: float) -> DaemonUnavailableError:
    """Return the error for a daemon that took longer than *timeout* seconds."""
    return DaemonUnavailableError(
        f"the avault daemon at {path} did not answer within {timeout:g} s",
        hint="is it stopped? see: avault status",
    )


class Connection:
    """One conversation with the daemon, over a blocking socket.

    The timeout of sending is the kernel's own (SO_SNDTIMEO; socket(7)): ``settimeout`` would poll before every call, and
    a non-blocking connect to a Unix socket fails at once where the listener's queue is full (connect(2), EAGAIN). What is
    to be received is waited for by poll(2): who waits in recv(2) is woken when the peer takes what was sent, too.
    """

    __slots__ = ("_conversation", "_readable", "_socket", "path", "timeout")

    def __init__(self, path: str, timeout: float, *, max_head: int = limits.MAX_HEAD) -> None:
        """Connect to *path*. *timeout*: seconds to connect, and for the daemon to take a request.

        Raises `DaemonUnavailableError`.
        """
        self.path = path
        self.timeout = timeout
        self._conversation = Conversation(max_head=max_head)
        self._socket = socket(AF_UNIX, SOCK_STREAM)
        self._readable = poll()
        self._readable.register(self._socket, POLLIN)
        try:
            self._socket.setsockopt(SOL_SOCKET, SO_SNDTIMEO, _timeval(timeout))
            self._socket.connect(path)
        except OSError as error:
            self.close()
            raise unreachable(path, error) from None

    @property
    def closed(self) -> bool:
        """Whether it is closed; after an exception of `call` it is."""
        return self._socket.fileno() < 0

    def check_server(self) -> None:
        """Raise `DeniedError` unless the server may be given a passphrase (see `_paths.check_server`)."""
        check_server(self._socket, self.path)

    def call(
        self,
        question: Question,
        timeout: float,
        hello: Question | None = None,
        notified: Notified | None = None,
        value: memoryview | None = None,
        fds: Sequence[int] = (),
    ) -> Answer:
        """Ask, and return the answer, which may be an error; with *hello* before it, whose error is raised.

        It may take *timeout* seconds (`FOR_EVER` is one). *value* is sent from where it lies; *fds*
        are passed along with the first byte. Notifications that come before the answer go to *notified*.

        Raises `DaemonUnavailableError`, or `BadRequestError` and the like for an answer outside the protocol. After
        any exception, KeyboardInterrupt too, the connection is closed: half an answer may be in it.
        """
        if self._socket.fileno() < 0:
            raise lost(self.path)
        try:
            self._send(self._conversation.ask(question, hello), value, fds)
            return self._receive(timeout, notified)
        except BaseException:
            self.close()
            raise

    def listen(self, notified: Notified) -> None:
        """Give *notified* what the daemon tells; return never, but by the exceptions of `call`."""
        try:
            self._receive(FOR_EVER, notified)
        finally:
            self.close()

    def shutdown(self) -> None:
        """End the connection from another thread than the one that is in a call: that one gets an error."""
        try:  # noqa: SIM105 - contextlib costs more to import than this module
            self._socket.shutdown(SHUT_RDWR)
        except OSError:
            pass  # not connected any more

    def close(self) -> None:
        """Close the connection, and wipe what it received. To close twice does nothing."""
        self._socket.close()
        self._conversation.close()

    def _send(self, head: bytes, value: memoryview | None, fds: Sequence[int]) -> None:
        try:
            if value is None and not fds:
                self._socket.sendall(head, MSG_NOSIGNAL)
            else:
                self._send_apart([memoryview(head), value or memoryview(b"")], fds)
        except BlockingIOError:
            raise silent(self.path, self.timeout) from None
        except OSError:
            pass  # the daemon hung up; why, it may have told before: receiving finds that, or the end

    def _send_apart(self, rest: list[memoryview], fds: Sequence[int]) -> None:
        passed = [(SOL_SOCKET, SCM_RIGHTS, pack(f"@{len(fds)}i", *fds))] if fds else []
        while rest:
            rest = _behind(self._socket.sendmsg(rest, passed, MSG_NOSIGNAL), rest)
            passed = []

    def _receive(self, timeout: float, notified: Notified | None) -> Answer:
        talk, deadline = self._conversation, monotonic() + timeout
        event = talk.next_event()
        while not isinstance(event, Answer):
            if event is None:
                left = deadline - monotonic()
                if left <= 0:
                    raise silent(self.path, timeout)
                self._readable.poll(min(left * 1000, LONGEST))
                event = talk.heard(self._take())
            else:
                if notified is not None:
                    notified(event)
                event = talk.next_event()
        return event

    def _take(self) -> int:
        # Without waiting: whoever forked behind Python's back may have taken what there was.
        try:
            count = self._socket.recv_into(self._conversation.space(), 0, MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError:
            count = 0
        if not count:
            raise lost(self.path)
        return count


def _timeval(seconds: float) -> bytes:
    microseconds = 0 if seconds == FOR_EVER else int(seconds * 1_000_000)  # 0 is no limit
    return pack("@ll", *divmod(microseconds, 1_000_000))


def _behind(count: int, buffers: list[memoryview]) -> list[memoryview]:
    """Return what of *buffers* lies behind the first *count* bytes."""
    rest: list[memoryview] = []
    for buffer in buffers:
        if count < len(buffer):
            rest.append(buffer[count:])
        count = max(count - len(buffer), 0)
    return rest
