"""Fetching a credential as systemd does: connect from an address that says for whom, say nothing, read to the end.

Also a program, for fetching as another uid and from a cgroup of one's choice:
``python fetching.py SOCKET UID CGROUP ADDRESS``, CGROUP "" for staying where one is, ADDRESS in hex. It prints how many
bytes came, and the first of them in hex.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

LIMIT = 1024 * 1024
"""systemd's CREDENTIAL_SIZE_MAX: with more the unit does not start."""
_SHOWN = 64 * 1024


@dataclass(frozen=True)
class Fetched:
    """What came: how many bytes, and the first of them."""

    size: int
    head: bytes

    @property
    def refused(self) -> bool:
        """Whether systemd would not start the unit."""
        return self.size > LIMIT


def address(unit: str = "telegram.service", credential: str = "TOKEN") -> bytes:
    """Return the address that systemd takes for that."""
    return f"\0{secrets.randbits(64):x}/unit/{unit}/{credential}".encode()


def connect(path: Path, bound_to: bytes) -> socket.socket:
    """Connect to the socket of credentials, from the address *bound_to* if that is not empty."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        if bound_to:
            sock.bind(bound_to)
        sock.settimeout(60)
        sock.connect(str(path))
    except BaseException:
        sock.close()
        raise
    return sock


def read_all(sock: socket.socket) -> Fetched:
    """Read to the end."""
    size, head = 0, b""
    while data := sock.recv(65536):
        size += len(data)
        head = (head + data)[:_SHOWN]
    return Fetched(size, head)


def fetch(path: Path, bound_to: bytes) -> Fetched:
    """Fetch what is there for whoever has the address *bound_to*."""
    with connect(path, bound_to) as sock:
        return read_all(sock)


def fetch_as(path: Path, bound_to: bytes, *, uid: int = 0, cgroup: Path | None = None) -> Fetched:
    """Fetch as *uid* and from *cgroup*, which takes root."""
    command = [sys.executable, "-P", __file__, str(path), str(uid), str(cgroup or ""), bound_to.hex()]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    size, head = done.stdout.splitlines()
    return Fetched(int(size), bytes.fromhex(head))


def main() -> None:
    path, uid, cgroup, bound_to = sys.argv[1:]
    if cgroup:
        Path(cgroup, "cgroup.procs").write_text("0")
    if int(uid):
        os.setgroups([])
        os.setgid(int(uid))
        os.setuid(int(uid))
    fetched = fetch(Path(path), bytes.fromhex(bound_to))
    print(f"{fetched.size}\n{fetched.head.hex()}")  # noqa: T201


if __name__ == "__main__":
    main()
