"""The listening sockets, by name: handed over by the service manager, or made here.

Those that are handed over have outlived the daemon before this one, and whoever connected meanwhile is waiting in them.
"agent" and "operator" come from socket units; ``agents/NAME``, agent NAME's own, was made by an earlier run of the
daemon and kept by the manager since. Any of them is taken for nothing but the socket at its place with its mode, or not
at all.

Source: sd_listen_fds(3), systemd.socket(5), unix(7).
"""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from avault_protocol import BadRequestError

from .supervisor import Supervisor

log = logging.getLogger(__name__)

BACKLOG = 512
_FIRST = 3  # SD_LISTEN_FDS_START


class Sockets:
    """The sockets of one daemon: *handed* over ones by their names, others made when they are asked for."""

    def __init__(
        self, handed: Mapping[str, socket.socket] | None = None, supervisor: Supervisor | None = None
    ) -> None:
        self._handed = dict(handed or {})
        self._supervisor = supervisor or Supervisor()

    def open(self, name: str, path: Path, mode: int, group: int | None = None) -> socket.socket:
        """Return the socket *name*, listening on *path* with *mode* at most, which the caller owns.

        `BadRequestError`: what was handed over as *name* is something else, or by `listen`.
        """
        handed = self._handed.pop(name, None)
        if handed is None:
            return listen(path, mode, group)
        try:
            check(handed, path, mode)
        except BaseException:
            handed.close()
            raise
        return handed

    def open_kept(self, name: str, path: Path, mode: int) -> socket.socket:
        """Return the socket *name* as `open` does, but made anew if what was kept is not it; from now on it is kept."""
        handed = self._handed.pop(name, None)
        if handed is not None:
            try:
                check(handed, path, mode)
            except BadRequestError as error:
                log.warning("%s; it is made anew", error.message)
                handed.close()
            else:
                return handed
        sock = listen(path, mode)
        self._supervisor.keep(name, sock)
        return sock

    def remove(self, name: str, path: Path) -> None:
        """Remove the kept socket *name*, whose owner has closed it."""
        self._supervisor.drop(name)
        path.unlink(missing_ok=True)

    def close_rest(self) -> None:
        """Close what was handed over and not asked for: nobody would ever accept what comes there."""
        for name, sock in self._handed.items():
            log.warning("nobody listens on the socket %s, which was handed over", ascii(name))
            self._supervisor.drop(name)
            sock.close()
        self._handed.clear()


def listen(path: Path, mode: int, group: int | None = None) -> socket.socket:
    """Return a socket listening on *path* with *mode*.

    `BadRequestError`: nobody can, for instance because the path is too long. Whatever lies at *path* is removed: the
    directory has been claimed (`Places.claim`), so no live daemon listens there.
    The socket gets its mode before it listens, so nobody connects while it is wider than asked for.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        path.unlink(missing_ok=True)
        sock.bind(str(path))
        path.chmod(mode)
        if group is not None:
            os.chown(path, -1, group)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise BadRequestError(
            f"{path}: {(error.strerror or str(error)).lower()}", hint="choose another --runtime-dir"
        ) from error
    except BaseException:
        sock.close()
        raise
    return sock


def check(sock: socket.socket, path: Path, mode: int) -> None:
    """Check that *sock* listens on *path*, and that this is open to nobody beyond *mode*; `BadRequestError`."""
    if not (
        sock.family == socket.AF_UNIX
        and sock.type == socket.SOCK_STREAM
        and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        raise BadRequestError(
            f"what was handed over for {path} is no listening Unix socket",
            hint="ListenStream= with that path",
        )
    where = sock.getsockname()
    if not isinstance(where, str) or os.path.realpath(where) != os.path.realpath(path):
        raise BadRequestError(
            f"what was handed over for {path} listens elsewhere",
            hint="let ListenStream= of the socket and --runtime-dir of the service agree",
        )
    try:
        found = path.lstat().st_mode
    except OSError as error:
        why = (error.strerror or "unusable").lower()
        raise BadRequestError(f"{path}: {why}", hint="restart its socket unit") from error
    if not stat.S_ISSOCK(found):
        raise BadRequestError(f"{path} is no socket any more", hint="restart its socket unit")
    if stat.S_IMODE(found) & ~mode:
        raise BadRequestError(
            f"{path} is open to more than it should be (mode {stat.S_IMODE(found):04o})",
            hint=f"SocketMode={mode:04o}",
        )


def handed_over(environ: MutableMapping[str, str]) -> dict[str, socket.socket]:
    """Return the sockets that the service manager hands over, by name; none if *environ* speaks to another process.

    The variables are taken out. `BadRequestError`: they are not what sd_listen_fds(3) says, or a name is there twice.
    To be called once, before this process opens anything.
    """
    count, pid, names = (
        environ.pop(variable, "") for variable in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
    )
    if pid != str(os.getpid()):
        return {}
    listed = names.split(":") if names else []
    if count != str(len(listed)) or len({*listed}) != len(listed):
        raise BadRequestError(
            "the sockets handed over are not one for each of their names", hint="FileDescriptorName="
        )
    return {name: _adopt(number) for number, name in enumerate(listed, _FIRST)}


def _adopt(number: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=number)
    except OSError as error:
        raise BadRequestError(f"descriptor {number}, which was handed over, is no socket") from error
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock
