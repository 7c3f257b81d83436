"""A real `avaultd`, started as a user would, in a folder of its own.

scrypt costs log_n 16 here, the least that the daemon takes: some 150 ms for each passphrase. `CHEAP` takes less.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

BIN = Path(sys.executable).parent
CONFIG = "log_n = 16\n"
CHEAP = (sys.executable, "-P", str(Path(__file__).with_name("as_cheap.py")))
"""The command for a daemon to which a passphrase costs next to nothing, where its settings say nothing of log_n."""
START_TIMEOUT = 60.0
STOP_TIMEOUT = 60.0


@dataclass
class RunningDaemon:
    """One daemon and its places; `env` is for whatever is to talk to it."""

    folder: Path
    arguments: Sequence[str] = ()
    env: dict[str, str] = field(default_factory=dict[str, str])
    process: subprocess.Popen[bytes] | None = None
    command: Sequence[str] = (str(BIN / "avaultd"),)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def runtime_dir(self) -> Path:
        return self.folder / "run"

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    @property
    def log(self) -> Path:
        return self.folder / "avaultd.log"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it and wait until it answers; AssertionError with its log if it ends instead."""
        command = [*self.command, "--state-dir", str(self.state_dir), *self.arguments]
        with self.log.open("ab") as log:
            before = log.tell()  # an earlier one may have had the same pid
            self.process = subprocess.Popen(
                command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_TIMEOUT
        while b" is ready" not in self.log.read_bytes()[before:]:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, "avaultd does not get ready"
            time.sleep(0.02)

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Signal it and return how it ended."""
        assert self.process is not None
        self.process.send_signal(signum)
        return self.process.wait(STOP_TIMEOUT)

    def restart(self, signum: int = signal.SIGTERM) -> None:
        """Stop and start it again on the same places."""
        self.stop(signum)
        self.start()

    def avault(
        self, *arguments: str, passphrase: bytes | None = None, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the command `avault`; *passphrase* reaches it by a descriptor."""
        if passphrase is None:
            return subprocess.run(
                [BIN / "avault", *arguments], check=False, env=self.env, input=stdin, capture_output=True
            )
        read, write = os.pipe()
        try:
            os.write(write, passphrase)
            os.close(write)
            return subprocess.run(
                [BIN / "avault", *arguments, "--passphrase-fd", str(read)],
                check=False,
                env=self.env,
                input=stdin,
                capture_output=True,
                pass_fds=[read],
            )
        finally:
            os.close(read)


@contextmanager
def running_daemon(
    folder: Path,
    *,
    config: str = CONFIG,
    arguments: Sequence[str] = (),
    env: dict[str, str] | None = None,
    command: Sequence[str] = (),
) -> Generator[RunningDaemon]:
    """Run a daemon in *folder* for as long as the block lasts; *command* stands for `avaultd` and runs in its process."""
    daemon = RunningDaemon(folder, arguments, environment(folder, config) | (env or {}))
    daemon.command = command or daemon.command
    daemon.start()
    try:
        yield daemon
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.stop()


def environment(folder: Path, config: str = CONFIG) -> dict[str, str]:
    """Write the settings of a daemon in *folder*, and return the environment by which it and its command go."""
    (folder / "config.toml").write_text(config)
    home, runtime_dir = RunningDaemon(folder).home, RunningDaemon(folder).runtime_dir
    return {
        "PATH": f"{BIN}:/usr/bin:/bin",
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "AVAULT_HOME": str(home),
        "AVAULT_RUNTIME_DIR": str(runtime_dir),
        "AVAULT_CONFIG": str(folder / "config.toml"),
    }
