"""Descriptors that others pass (unix(7), SCM_RIGHTS): to close one may take as long as its maker likes.

Whoever holds the last descriptor of a TCP socket waits, in close(2), for as long as its maker has set by SO_LINGER
(socket(7)), and so it is where the kernel throws away what was passed and not received. So nothing of the kind is closed
on the loop's thread.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import trio

log = logging.getLogger(__name__)

_SO_PASSRIGHTS = 83  # Linux 6.16; the same number on all machines but PA-RISC and SPARC


def refuse_descriptors(listener: socket.socket) -> None:
    """Have the kernel refuse (EPERM, to the sender) descriptors on connections that come in from now on.

    Before Linux 6.16 it cannot: then who connects can hold up everybody (docs/threats.md).
    """
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
        log.info("this kernel cannot refuse descriptors on a socket (Linux 6.16 can)")


def close_elsewhere(fds: Sequence[int]) -> None:
    """Close *fds*, in a thread where that may take time; errors are nobody's business any more."""
    slow: list[int] = []
    for fd in fds:
        if _is_file(fd):
            _close([fd])
        else:
            slow.append(fd)
    if slow:
        trio.lowlevel.start_thread_soon(partial(_close, slow), lambda outcome: None)


def part(sock: socket.socket) -> None:
    """End a connection on which descriptors may have been passed that nobody has received."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)  # so that the peer knows at once
    trio.lowlevel.start_thread_soon(sock.close, lambda outcome: None)


def _is_file(fd: int) -> bool:
    return stat.S_ISREG(os.fstat(fd).st_mode)


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        with suppress(OSError):
            os.close(fd)
