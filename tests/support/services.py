"""A real daemon with a vault in it, as a system service or as a user's, for attackers to try.

A system service runs here as `DAEMON`, a uid of its own; its operators are in that uid's group, since machines that run
tests have no group ``avault-operators``. Its folder lies directly in ``/tmp``, where every uid may pass.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import as_user
from .attackers import Line, Outcome
from .daemon import CONFIG, RunningDaemon, running_daemon

PASSPHRASE = "correct horse battery staple"
DAEMON = 64001


@dataclass
class Service:
    """One daemon; *desk* is the operator's proven connection to it."""

    daemon: RunningDaemon
    desk: Line

    @property
    def agent_socket(self) -> Path:
        return self.daemon.runtime_dir / "agent.sock"

    @property
    def operator_socket(self) -> Path:
        return self.daemon.runtime_dir / "operator.sock"

    def own_socket(self, agent: str) -> Path:
        return self.daemon.runtime_dir / "agents" / agent / "agent.sock"

    def must(
        self, method: str, params: dict[str, Any] | None = None, value: str | None = None
    ) -> dict[str, Any]:
        """Ask the daemon as its operator; any error fails the test."""
        outcome = self.desk.call(method, params, value)
        assert isinstance(outcome, dict), (method, outcome, self.desk.error)
        return outcome

    def put(self, **values: str) -> None:
        items = [{"name": name, "size": len(value), "encoding": "text"} for name, value in values.items()]
        self.must("put", {"items": items, "replace": True}, "".join(values.values()))

    def grant(self, who: str, *secrets: str, **selectors: Any) -> None:
        agent, plugin = who.split("/")
        self.must("grant", {"agent": agent, "plugin": plugin, "secrets": list(secrets), **selectors})

    def open_desk(self) -> None:
        """Connect as the operator anew."""
        self.desk.close()
        self.desk = Line.to(str(self.operator_socket))

    def unlock(self) -> Outcome:
        """Connect anew, unlock and prove."""
        self.open_desk()
        return self.desk.call("unlock", {}, PASSPHRASE)

    def restart(self, signum: int = 15) -> None:
        """Stop the daemon by a signal, start it, unlock."""
        self.daemon.restart(signum)
        outcome = self.unlock()
        assert isinstance(outcome, dict), outcome

    def descriptors(self) -> int:
        """Count the daemon's descriptors, as root can."""
        return len(os.listdir(f"/proc/{self.daemon.pid}/fd"))

    def settles_at(self, most: int) -> bool:
        """Report whether the daemon comes down to *most* descriptors: what it has just received it may hold a moment."""
        deadline = time.monotonic() + 60
        while self.descriptors() > most:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def resident(self) -> int:
        """Return the daemon's resident memory in bytes."""
        return int(Path(f"/proc/{self.daemon.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def user_service(folder: Path, **options: Any) -> Generator[Service]:
    """Run a daemon as whoever runs the tests; there is a vault, unlocked."""
    with running_daemon(folder, **options) as daemon:
        service = Service(daemon, Line.to(str(daemon.runtime_dir / "operator.sock")))
        service.must("init", {}, PASSPHRASE)
        try:
            yield service
        finally:
            service.desk.close()


@contextmanager
def system_service(
    *,
    uid: int = DAEMON,
    prefix: Sequence[str] = (),
    kind: str = "system",
    config: str = "",
    program: str = as_user.__file__,
) -> Generator[Service]:
    """Run a daemon as *uid*, started by *prefix*, a command that runs another in its own process.

    *config* is added to its settings; *program* stands for `support.as_user`, which it calls.
    """
    folder = Path(tempfile.mkdtemp(prefix="avault-", dir="/tmp"))
    folder.chmod(0o711)
    os.chown(folder, uid, uid)
    command = [*prefix, sys.executable, "-P", program, str(uid)]
    try:
        with user_service(folder, config=f'{CONFIG}service = "{kind}"\n{config}', command=command) as service:
            yield service
    finally:
        shutil.rmtree(folder)
