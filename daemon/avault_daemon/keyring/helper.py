"""The process that reaches the keyring of the operator's desktop for the daemon, which is confined and could not.

It is forked before the daemon confines itself, so it is as closed to other processes as the daemon (a program that is
executed would start out open), and it holds one end of a socket pair and nothing else of the daemon's. It answers one
request at a time, each in a child of its own that ends with the answer: the library deals in `str`, which cannot be
wiped, so what a value left behind goes with the process. It is not confined: the session bus leads everywhere anyway.

A request is one message: what to do (`GET`, `PUT`, `DELETE`), the item's name in UTF-8, a zero byte, and of `PUT` the value;
that is followed by `GO`, or anything else if it is not to be stored after all. An answer is one message: one byte (`OK`,
`NONE`, `LOCKED`, `FAILED`), and then the value, or the kind of failure. The first answer, unasked, names the keyring.

Sources: prctl(2), unix(7); the library is https://pypi.org/project/keyring/.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import select
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import ClassVar, NoReturn, Protocol

SERVICE = "avault"
MAX_MESSAGE = 128 * 1024
PATIENCE = 60
"""Seconds for one request: the keyring may have to ask for its own passphrase on the screen."""
MAX_START = 10
"""Seconds to find out which keyring there is."""
GET, PUT, DELETE, GO = b"G", b"P", b"D", b"!"
OK, NONE, LOCKED, FAILED = b"+", b"0", b"L", b"X"

# Named one by one: the library's own choice may be set, by environment and file, to one that keeps plain text.
BACKENDS = (
    "keyring.backends.SecretService:Keyring",
    "keyring.backends.kwallet:DBusKeyring",
    "keyring.backends.libsecret:Keyring",
)
_ENOUGH = 1.0  # the library's mark of what it recommends
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_NO_NEW_PRIVS = 1, 15, 38
_DONE = 0  # the exit status of a child that has answered


class Backend(Protocol):
    """What is used of the library's ``KeyringBackend``."""

    priority: ClassVar[float]

    def get_password(self, service: str, username: str) -> str | None: ...
    def set_password(self, service: str, username: str, password: str) -> None: ...
    def delete_password(self, service: str, username: str) -> None: ...


def start() -> tuple[socket.socket, int]:
    """Fork the helper; return the daemon's end of the socket pair, and the helper's pid.

    Before the first thread and before anything secret is in memory.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent = os.getpid()
    if (pid := os.fork()) == 0:
        _be_helper(theirs, parent)
    theirs.close()
    return ours, pid


def _be_helper(connection: socket.socket, parent: int) -> NoReturn:
    try:
        serve(_alone(connection, parent), BACKENDS)
    finally:
        os._exit(0)  # nothing of the daemon's is to run here, not even what it does on its way out


def _alone(connection: socket.socket, parent: int) -> socket.socket:
    """Keep *connection*, let go of all else, and end with *parent*."""
    os.setsid()  # the terminal's signals are for the daemon, which ends this one by closing its end
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(signum, signal.SIG_IGN)
    os.dup2(connection.detach(), 3)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    os.chdir("/")
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_NAME, b"avault-keyring", 0, 0, 0)
    _end_with(parent)
    return socket.socket(fileno=3)


def _end_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def serve(connection: socket.socket, backends: Sequence[str]) -> None:
    """Answer on *connection* from the best of *backends* (``module:class``), until the other end is closed."""
    with suppress(BrokenPipeError, _Closed):
        best = _in_child(connection, lambda: _best(backends), MAX_START)
        if best is None or not 0 < best <= len(backends):
            connection.send(NONE)
            return
        backend = _load(backends[best - 1])
        connection.send(OK + backend.__module__.rpartition(".")[2].encode())
        while True:
            _wait_for(connection)
            # Read in the child: this process, from which all the others are forked, never sees a value.
            done = _in_child(connection, lambda: _serve_one(connection, backend), PATIENCE)
            if done != _DONE:
                connection.send(FAILED + (b"no answer in time" if done is None else b"it broke down"))


class _Closed(Exception):
    """The other end of the socket pair is closed."""


def _wait_for(connection: socket.socket, child: int | None = None) -> None:
    """Wait for a request, or for the end of the process behind the pidfd *child*; `_Closed`."""
    poll = select.poll()
    poll.register(connection, select.POLLIN if child is None else 0)
    if child is not None:
        poll.register(child, select.POLLIN)
    if any(event & select.POLLHUP for fd, event in poll.poll() if fd != child):
        raise _Closed


def _in_child(connection: socket.socket, work: Callable[[], int], patience: int) -> int | None:
    """Return what *work* returns (0 to 254) in a process of its own; 255 if it failed, None if it took too long.

    `_Closed`, with that process ended, if *connection* is closed meanwhile.
    """
    parent = os.getpid()
    if (pid := os.fork()) == 0:
        status = 255
        try:
            _end_with(parent)
            signal.alarm(patience)
            status = work()
        finally:
            os._exit(status)
    child = os.pidfd_open(pid)
    try:
        _wait_for(connection, child)
    except _Closed:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(child)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return None if status == -signal.SIGALRM else status if status >= 0 else 255


def _load(backend: str) -> type[Backend]:
    module, _, name = backend.partition(":")
    found: type[Backend] = getattr(importlib.import_module(module), name)
    return found


def _best(backends: Sequence[str]) -> int:
    """Return the number, from 1, of the backend that the library thinks most of; 0 if none is there."""
    ranks: list[tuple[float, int]] = []
    for number, backend in enumerate(backends, 1):
        with suppress(Exception):  # how they say that they are not there
            ranks.append((float(_load(backend).priority), -number))
    rank, number = max(ranks, default=(0.0, 0))
    return -number if rank >= _ENOUGH else 0


def _serve_one(connection: socket.socket, backend: type[Backend]) -> int:
    request = connection.recv(MAX_MESSAGE)
    wanted = not request.startswith(PUT) or connection.recv(1) == GO
    answer = _answer(request, backend) if wanted else NONE
    signal.alarm(0)
    connection.send(answer)
    return _DONE


def _answer(request: bytes, backend: type[Backend]) -> bytes:
    from keyring.errors import KeyringLocked

    action, (name, _, value) = request[:1], request[1:].partition(b"\0")
    try:
        return _do(backend(), action, name.decode(), value)
    except KeyringLocked:
        return LOCKED
    except Exception as error:  # noqa: BLE001 - of whatever library; its text might quote a value
        return FAILED + type(error).__name__.encode()


def _do(keyring: Backend, action: bytes, name: str, value: bytes) -> bytes:
    """Values are kept as hex digits: keyrings take text."""
    if action == PUT:
        keyring.set_password(SERVICE, name, value.hex())
        return OK
    found = keyring.get_password(SERVICE, name)
    if found is None:
        return NONE
    if action == GET:
        return OK + bytes.fromhex(found)
    keyring.delete_password(SERVICE, name)
    return OK
