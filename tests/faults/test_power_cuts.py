"""The power fails while several clients write and one reads: what was acknowledged before is there, what was given out is
on record (`audit_sync = "always"`), and the vault opens every time.

The disk is an ext4 of its own, told to forget what it has not written to its device (EXT4_IOC_SHUTDOWN, without its log
being flushed). What the device then holds is copied, and the next daemon starts on the copy.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from avault_daemon.settings import Settings
from support.attackers import Line
from support.campaign import report, size
from support.forked import PASSPHRASE, ForkedDaemon
from support.writers import Crowd, LostError, Reader, put

WRITERS = 3
MOST = 6
LONGEST = 0.01
"""Writes that are acknowledged before a cut, at most; and then it comes within so many seconds."""
DISK = 16 << 20
OF_ONE = 50
"""Cuts of one disk: its record grows, and fills it."""
READ = "READ"
VERIFY = 25
"""Cuts from one check of the whole record to the next: it takes ever longer."""
SEED = 20261121


@dataclass
class PowerCuts:
    """A machine whose power fails again and again; its *folder* has the images of its disk."""

    folder: Path
    weakness: str | None = None
    chance: random.Random = field(default_factory=lambda: random.Random(SEED))
    crowd: Crowd = field(default_factory=lambda: Crowd(WRITERS))
    done: int = 0
    given: int = 0
    _line: int = 0

    def __post_init__(self) -> None:
        image = self.folder / "disk-0"
        image.touch()
        os.truncate(image, DISK)
        subprocess.run(["mkfs.ext4", "-q", "-b", "1024", image], check=True)
        self.daemon = self._daemon(image)
        self.daemon.start()
        with closing(self.daemon.operator()) as desk:
            assert isinstance(desk.call("init", {"log_n": 1}, PASSPHRASE), dict)
            assert isinstance(desk.call("put", put(READ, READ), READ), dict)
            grant = {"agent": "cobot", "plugin": "telegram", "secrets": [READ], "uids": [os.getuid()]}
            assert isinstance(desk.call("grant", grant), dict)

    def _daemon(self, image: Path) -> ForkedDaemon:
        return ForkedDaemon(self.folder, self.weakness, image, Settings(audit_sync="always"))

    def run(self, cycles: int) -> None:
        """Do it so often."""
        for _ in range(cycles):
            self._cycle()

    def _cycle(self) -> None:
        """Write and read, cut, start on what is left, and see what is there; `LostError`."""
        reader = Reader(self.daemon.runtime_dir / "agent.sock", READ)
        self.crowd.start(self.daemon.runtime_dir / "operator.sock", PASSPHRASE)
        self.crowd.wait_for(self.chance.randrange(MOST))
        reader.wait_for(2)
        time.sleep(self.chance.uniform(0, LONGEST))
        # What is acknowledged later counts for nothing: while the disk is told to forget, a sync may still say it is done.
        acknowledged, given = self.crowd.acknowledged(), reader.given
        self.daemon.cut_the_power()
        self._start_on_a_copy(reader)
        with closing(self.daemon.operator()) as desk:
            if not isinstance(desk.call("unlock", {}, PASSPHRASE), dict):
                raise LostError(f"the vault does not open: {desk.error}")
            self.crowd.check(desk, acknowledged)
            self._check_record(desk, given)

    def _check_record(self, desk: Line, given: int) -> None:
        lines, more = 0, True
        while more:
            answer = desk.call("audit", {"after": self._line})
            assert isinstance(answer, dict)
            entries, more = answer["entries"], answer["more"]
            lines += sum((entry["action"], entry["secret"]) == ("get_secret", READ) for entry in entries)
            self._line = entries[-1]["n"]
        if lines < given:
            raise LostError(f"given out {given} times, on record {lines} times")
        self.given += given
        if self.done % VERIFY == 0:
            verdict = desk.call("audit_verify")
            if not isinstance(verdict, dict) or not verdict["ok"]:
                raise LostError(f"the record is not whole: {verdict}")

    def _start_on_a_copy(self, reader: Reader) -> None:
        image = self.daemon.image
        assert image is not None
        self.done += 1
        left = self.folder / f"disk-{self.done}"
        shutil.copyfile(image, left)
        self.daemon.stop()
        self.crowd.join()
        reader.join()
        image.unlink()
        self.daemon = self._daemon(left)
        self.daemon.start()


@pytest.fixture(autouse=True)
def mountable(tmp_path: Path) -> None:
    """Skip where no ext4 can be had."""
    if os.geteuid() != 0:
        pytest.skip("mounting a disk needs root")
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("there is no mkfs.ext4")
    image, disk = tmp_path / "try", tmp_path / "disk"
    image.touch()
    os.truncate(image, DISK)
    subprocess.run(["mkfs.ext4", "-q", "-b", "1024", image], check=True)
    disk.mkdir()
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-o", "loop", image, disk], check=False, capture_output=True
    )
    if tried.returncode:
        pytest.skip(f"no ext4 can be mounted here: {tried.stderr.decode().strip()}")
    image.unlink()
    disk.rmdir()


def test_nothing_that_was_acknowledged_is_lost_to_a_power_cut(quick: Path) -> None:
    disks = size(1, 40)
    writes = given = 0
    for number in range(disks):
        cuts = cut(quick / str(number), OF_ONE, number)
        writes, given = writes + cuts.crowd.writes, given + cuts.given
    report(
        f"power cuts: {disks * OF_ONE}; {writes} writes of {WRITERS} clients acknowledged, 0 lost; {given} gets,"
        " all on record; opened every time"
    )
    assert min(writes, given) > disks * OF_ONE


def cut(folder: Path, cycles: int, number: int, weakness: str | None = None) -> PowerCuts:
    """Do it in a folder of its own, which is then removed."""
    folder.mkdir()
    cuts = PowerCuts(folder, weakness, random.Random(SEED + number))
    try:
        cuts.run(cycles)
    finally:
        cuts.daemon.stop()
        shutil.rmtree(folder)
    return cuts


def test_a_daemon_that_does_not_sync_is_convicted(quick: Path) -> None:
    tries, convicted = size(10, 150), 0
    for number in range(tries):
        try:
            cut(quick / str(number), 1, number, "unsynced")
        except LostError:
            convicted += 1
    report(f"control, a daemon that does not sync: {convicted} of {tries} cuts convict it")
    assert convicted >= 0.9 * tries
