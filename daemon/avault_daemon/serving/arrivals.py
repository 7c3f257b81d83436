"""Where agents come in: their listening sockets, and the line of those who have connected and are still to be let in.

The kernel has one line for a socket, in which whoever comes behind a crowd stands behind all of it. So that line is
emptied as fast as can be, and who has left already is dropped; what takes time, asking who somebody is, is done when it
is the turn of its uid.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
from collections.abc import Callable
from typing import NamedTuple

import trio

from ..callers.caller import Credentials
from .descriptors import refuse_descriptors
from .turns import Turns

log = logging.getLogger(__name__)

AT_ONCE = 4
"""Connections taken from the kernel's line of one socket in one round, at most: others wait for the round meanwhile."""
PAUSE = 0.1
"""Seconds to wait when it is the machine that is at its limit, not who comes."""

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}


class Newcomer(NamedTuple):
    """Who has connected on *sock*, at the socket of *agent* or at the common one, and is still to be let in."""

    sock: socket.socket
    peer: Credentials
    agent: str | None


class Listener(socket.socket):
    """A listening Unix socket in place of *sock*, which is used up; it does not block.

    `accept` asks for these two each time. Elsewhere they make an enum of a number first, which takes longer than the rest.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(fileno=sock.detach())
        self.setblocking(False)

    @property
    def family(self) -> socket.AddressFamily:
        """Return that it is local."""
        return socket.AF_UNIX

    @property
    def type(self) -> socket.SocketKind:
        """Return that it is a stream."""
        return socket.SOCK_STREAM


class Arrivals:
    """The listening sockets of agents, and who comes there.

    *greet* returns the newcomer on a connection, or None where it has refused it; *admit* lets one in. Neither raises.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        greet: Callable[[socket.socket, str | None], Newcomer | None],
        admit: Callable[[Newcomer], None],
    ) -> None:
        self._nursery = nursery
        self._greet = greet
        self._admit = admit
        self._epoll = select.epoll()
        self._listeners: dict[int, tuple[Listener, str | None]] = {}
        self.line = Turns[Newcomer]()
        """Who waits to be let in."""

    def fileno(self) -> int:
        """Return a descriptor that is readable while `look` would find somebody."""
        return self._epoll.fileno()

    def open(self, listener: socket.socket, agent: str | None = None) -> None:
        """Let in who comes to *listener*, which is this object's from now on."""
        refuse_descriptors(listener)
        own = Listener(listener)
        self._epoll.register(own.fileno(), select.EPOLLIN)
        self._listeners[own.fileno()] = own, agent

    def shut(self, agent: str) -> None:
        """Close the socket of *agent*."""
        for number, (listener, whose) in tuple(self._listeners.items()):
            if whose == agent:
                del self._listeners[number]
                self._epoll.unregister(number)  # a service manager may keep it open
                listener.close()

    def close(self) -> None:
        """Close all of them, and the connections of those in line."""
        for listener, _ in self._listeners.values():
            listener.close()
        self._listeners.clear()
        while self.line.waiting:
            for newcomer in self.line.deal(AT_ONCE):
                newcomer.sock.close()
        self._epoll.close()

    def look(self) -> None:
        """Line up who has connected."""
        for _ in range(AT_ONCE):
            # Asked each time: to be told so is cheaper than to find out by an accept that fails.
            if not (came := self._epoll.poll(0)):
                return
            for number, _ in came:
                self._take(number)

    def _take(self, number: int) -> None:
        """Line up the next one of the socket *number*."""
        listener, agent = self._listeners[number]
        try:
            sock = accept(listener)
        except OSError as error:
            log.warning("accept: %s; waiting", os.strerror(error.errno or 0))
            self._epoll.modify(number, 0)
            self._nursery.start_soon(self._pause, number)
            return
        if sock is None:
            return
        if has_left(sock):
            sock.close()
        elif (newcomer := self._greet(sock, agent)) is not None:
            self.line.add(newcomer.peer.uid, newcomer)

    async def _pause(self, number: int) -> None:
        await trio.sleep(PAUSE)
        if number in self._listeners:
            self._epoll.modify(number, select.EPOLLIN)

    def let_in(self) -> None:
        """Let in the one whose turn it is."""
        for newcomer in self.line.deal(1):
            self._admit(newcomer)


def accept(listener: socket.socket) -> socket.socket | None:
    """Return the next connection, None if there is none any more; OSError if the machine is at its limit."""
    try:
        sock, _ = listener.accept()
    except OSError as error:
        if error.errno in _EXHAUSTED:
            raise
        return None
    sock.setblocking(False)
    return sock


def has_left(sock: socket.socket) -> bool:
    """Report whether the peer has closed the connection, and said nothing before that."""
    try:
        return not sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
