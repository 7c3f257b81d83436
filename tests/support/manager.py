"""A service manager, as far as it can be told something: a socket that a test reads."""

from __future__ import annotations

import os
import socket

from avault_daemon.systemd.supervisor import Supervisor


class Manager:
    """Listens at *address*, a path or an abstract name with @; `environ` is what it would start a service with."""

    def __init__(self, address: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind("\0" + address[1:] if address[0] == "@" else address)
        self.sock.setblocking(False)
        self.environ = {"NOTIFY_SOCKET": address}
        self.passed: list[int] = []
        self._supervisors: list[Supervisor] = []

    def supervisor(self, **environ: str) -> Supervisor:
        """Return what a service that it starts tells it by."""
        self._supervisors.append(Supervisor.of({**self.environ, **environ}))
        return self._supervisors[-1]

    def heard(self) -> list[str]:
        """Return what has come; descriptors that came with it go to `passed`."""
        messages: list[str] = []
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.sock, 4096, 4)
            except BlockingIOError:
                return messages
            messages.append(data.decode())
            self.passed += fds

    def close(self) -> None:
        """Close everything, the other ends too."""
        for supervisor in self._supervisors:
            supervisor.close()
        for fd in self.passed:
            os.close(fd)
        self.sock.close()
