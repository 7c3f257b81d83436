"""A whole daemon in a process of its own that is there in a few hundredths of a second, to be killed as often as one likes.

It is forked from a process that has imported everything; every part of it is real but scrypt, which is cheap, and the
confinement, which a fork of a test cannot have. On its own disk, if it is given one (root only).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import struct
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context, reduction
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import trio

from avault_daemon.settings import Settings
from support import injection, weak
from support.attackers import Line, Outcome
from support.house import PASSPHRASE as _PASSPHRASE, open_house

PASSPHRASE = _PASSPHRASE.decode()
START_TIMEOUT = 60.0
_FORKS = get_context("forkserver")
_FORKS.set_forkserver_preload(["avault_daemon.main", "multiprocessing.reduction"])
_PR_SET_PDEATHSIG = 1
_CLONE_NEWNS, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x20000, 0x1000, 0x4000, 0x40000
_EXT4_IOC_SHUTDOWN, _NOLOGFLUSH = 0x8004587D, 2


@dataclass
class ForkedDaemon:
    """A daemon in *folder*; *weakness* is one of `weak.WEAKNESSES`, *image* a disk for its home and its state.

    SIGUSR1 closes the file of its record under it. *injected*: its calls on files pass through `injector`, of which the *arming* is in force from the first call on.
    """

    folder: Path
    weakness: str | None = None
    image: Path | None = None
    settings: Settings | None = None
    injected: bool = False
    service: str = "user"
    arming: tuple[int, injection.Fault] | None = None
    injector: injection.Injector | None = None
    _process: ForkServerProcess | None = field(default=None, repr=False)

    @property
    def runtime_dir(self) -> Path:
        return self.folder / "run"

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    @property
    def pid(self) -> int:
        assert self._process is not None
        assert self._process.pid is not None
        return self._process.pid

    def begin(self) -> Connection:
        """Start it; return where it says that it is ready."""
        ours, its = _FORKS.Pipe()
        self._process = _FORKS.Process(
            target=_live,
            args=(self.folder, self.weakness, self.image, self.settings, self.injected, self.service, its),
            daemon=True,
        )
        self._process.start()
        its.close()
        if self.injected:
            self._inject(ours)
        return ours

    def _inject(self, wire: Connection) -> None:
        listener = reduction.recv_handle(wire)
        places = [self.folder / "home", self.folder / "state"]
        self.injector = injection.Injector(listener, self.pid, places)
        if self.arming is not None:
            self.injector.arm(*self.arming)
        wire.send("go on")

    def start(self) -> None:
        """Start it and wait until it answers; EOFError if it ends instead."""
        wire = self.begin()
        try:
            assert wire.poll(START_TIMEOUT), "the daemon does not get ready"
            assert wire.recv() == "ready"
        finally:
            wire.close()

    def send(self, signum: int) -> None:
        """Signal it."""
        os.kill(self.pid, signum)

    def stop(self, signum: int = signal.SIGKILL) -> None:
        """Signal it and wait until it is gone."""
        if self.alive:
            with suppress(ProcessLookupError):  # it has just ended by itself
                self.send(signum)
        self.wait()

    def wait(self) -> None:
        """Wait until it is gone, however it came to that."""
        assert self._process is not None
        self._process.join()
        self._process.close()
        self._process = None
        if self.injector is not None:
            self.injector.join()
            self.injector = None

    def operator(self) -> Line:
        """Connect as the operator."""
        return Line.to(str(self.runtime_dir / "operator.sock"))

    def unlocked(self) -> tuple[Line, Outcome]:
        """Connect as the operator and unlock; return what came of it too."""
        line = self.operator()
        return line, line.call("unlock", {}, PASSPHRASE)

    def cut_the_power(self) -> None:
        """Let its disk forget what was not synced, and take no more."""
        disk = os.open(f"/proc/{self.pid}/root{self.folder}/disk", os.O_RDONLY)
        try:
            fcntl.ioctl(disk, _EXT4_IOC_SHUTDOWN, struct.pack("=I", _NOLOGFLUSH))
        finally:
            os.close(disk)


def _live(
    folder: Path,
    weakness: str | None,
    image: Path | None,
    settings: Settings | None,
    injected: bool,
    service: str,
    wire: Connection,
) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if weakness is not None:
        weak.weaken(weakness)
    if image is not None:
        _mount(folder, image)
    if injected:
        listener = injection.listen()
        reduction.send_handle(wire, listener, os.getppid())
        os.close(listener)
        wire.recv()

    def close_the_record(signum: int, frame: object) -> None:
        _close_the_record(folder)

    signal.signal(signal.SIGUSR1, close_the_record)
    trio.run(_serve, folder, settings, service, wire)


def _mount(folder: Path, image: Path) -> None:
    """Mount the disk for this process alone, so that it is gone with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(_CLONE_NEWNS))
    _check(libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))
    disk = folder / "disk"
    disk.mkdir(exist_ok=True)
    # Its journal is not written of the kernel's own accord, which it would be after five seconds.
    subprocess.run(["mount", "-o", "loop,commit=600", image, disk], check=True)
    for name in ("home", "state"):
        for directory in (disk / name, folder / name):
            directory.mkdir(mode=0o700, exist_ok=True)
        _check(libc.mount(os.fsencode(disk / name), os.fsencode(folder / name), None, _MS_BIND, None))


def _check(status: int) -> None:
    if status:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _close_the_record(folder: Path) -> None:
    for entry in list(Path("/proc/self/fd").iterdir()):
        if entry.is_symlink() and entry.readlink() == folder / "state" / "audit.jsonl":
            os.close(int(entry.name))


async def _serve(folder: Path, settings: Settings | None, service: str, wire: Connection) -> None:
    async with open_house(folder, settings, service=service):
        wire.send("ready")
        await trio.sleep_forever()
