"""Where the daemon's sockets are, and whether the one that answers there is to be trusted with a passphrase."""

from __future__ import annotations

import os
from _socket import SO_PEERCRED, SOL_SOCKET
from _struct import calcsize, unpack

from avault_protocol import DaemonUnavailableError, DeniedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable, Mapping

AGENT_SOCKET = "agent.sock"
OPERATOR_SOCKET = "operator.sock"
SYSTEM_DIRECTORY = "/run/avault"
SYSTEM_USER = "avault"


def agent_socket(path: str | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """Return the path of the agents' socket.

    *path* if given, else ``AVAULT_SOCKET``, else the socket in ``AVAULT_RUNTIME_DIR``, else the one in
    ``$XDG_RUNTIME_DIR/avault`` if that directory is there, else the one in ``/run/avault``. Raises
    `DaemonUnavailableError`, saying where it looked, if it comes to neither.
    """
    return path or environ.get("AVAULT_SOCKET") or runtime_directory(environ) + "/" + AGENT_SOCKET


def operator_socket(path: str | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """Return the path of the operator's socket, found like `agent_socket`, but for ``AVAULT_SOCKET``."""
    return path or runtime_directory(environ) + "/" + OPERATOR_SOCKET


def runtime_directory(environ: Mapping[str, str], system: str = SYSTEM_DIRECTORY) -> str:
    """Return the directory of the sockets; see `agent_socket`."""
    given = environ.get("AVAULT_RUNTIME_DIR")
    if given:
        return given
    session = environ.get("XDG_RUNTIME_DIR")
    for directory in (session and session + "/avault", system):
        if directory and os.path.isdir(directory):
            return directory
    looked = session + "/avault" if session else "$XDG_RUNTIME_DIR/avault (XDG_RUNTIME_DIR is not set)"
    raise DaemonUnavailableError(f"no avault daemon: neither {looked} nor {system} is there")


def check_server(sock: socket, path: str) -> None:
    """Raise `DeniedError` unless the process that listens on *path* may be given a passphrase.

    Its uid, as SO_PEERCRED (unix(7)) has it, must be our own; below ``/run/avault``, where the system service is, root
    or the user ``avault``.
    """
    uid = server_uid(sock)
    if uid not in trusted_uids(path):
        raise DeniedError(
            f"the server at {path} runs as uid {uid}: it gets no passphrase",
            hint="is this the socket you meant? avault trusts a daemon of your own uid, or the system service",
        )


def server_uid(sock: socket) -> int:
    """Return the uid of the process that listens at the other end of *sock*."""
    pid_uid_gid = "@iII"
    uid: int = unpack(pid_uid_gid, sock.getsockopt(SOL_SOCKET, SO_PEERCRED, calcsize(pid_uid_gid)))[1]
    return uid


def trusted_uids(
    path: str, *, own: int | None = None, uid_of: Callable[[str], int] | None = None
) -> frozenset[int]:
    """Return whom a passphrase may be sent to at *path*. *own* and *uid_of* are this process's uid and pwd's look-up."""
    if not os.path.realpath(path).startswith(SYSTEM_DIRECTORY + "/"):
        return frozenset({os.geteuid() if own is None else own})
    try:
        return frozenset({0, (uid_of or _uid_of)(SYSTEM_USER)})
    except KeyError:
        return frozenset({0})


def _uid_of(name: str) -> int:
    from pwd import getpwnam

    return getpwnam(name).pw_uid
