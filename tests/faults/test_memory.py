"""The claim about memory, for the real daemon: another process, as root, reads all of it and finds no copy of any secret,
passphrase or key outside the arena; unlocked, while it serves, right after a lock, however it was started.

A scan must find the canaries in the daemon's environment, or it is void; a daemon that keeps copies is convicted of every
single one. The services of systemd are in tests/system/test_memory.py.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support import as_weak
from support.attackers import Line, Outcome
from support.campaign import GIVEN, report, size
from support.daemon import RunningDaemon, environment, running_daemon
from support.holder import holder
from support.load import load
from support.memory import REGISTERS, Scanner, arena_of
from support.readers import READERS, Reader, core_file, missing
from support.treasure import Treasure, look, within
from support.waiting import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may read the memory of avaultd at all")

SECRETS = 1_000 if GIVEN else 100
KINDS = ["memfd_secret", "mlock"]


@dataclass
class Scene:
    """A daemon that holds a treasure, and what looks for it. *desk*: its operator's proven connection."""

    pid: int
    daemon: RunningDaemon
    treasure: Treasure
    desk: Line
    scanner: Scanner

    @classmethod
    def of(cls, pid: int, daemon: RunningDaemon, treasure: Treasure, *, made: bool = False) -> Scene:
        """Give the daemon its treasure; its vault is *made* already, or not."""
        scene = cls(pid, daemon, treasure, Line.to(str(daemon.runtime_dir / "operator.sock")), Scanner({}))
        scene.must(*("prove", {}) if made else ("init", {"log_n": 16}), treasure.passphrase)
        treasure.fill(scene.must)
        scene.scanner = treasure.scanner(daemon.home)
        return scene

    def must(self, method: str, params: dict[str, Any] | None = None, value: str | None = None) -> Outcome:
        outcome = self.desk.call(method, params or {}, value)
        assert self.desk.error is None, (method, outcome, self.desk.error)
        return outcome

    def unlock(self) -> None:
        self.must("unlock", {}, self.treasure.passphrase)

    def sought(self) -> str:
        """Say what is looked for."""
        return self.treasure.sought(self.scanner)


@contextmanager
def open_scene(folder: Path, kind: str, *, weakness: str = "") -> Generator[Scene]:
    """Start `avaultd` as a user would."""
    treasure = Treasure(SECRETS)
    command = [sys.executable, "-P", as_weak.__file__, weakness] if weakness else []
    config = f'log_n = 16\nmemory = "{kind}"\n'
    with running_daemon(folder, config=config, env=treasure.canaries, command=command) as daemon:
        scene = Scene.of(daemon.pid, daemon, treasure)
        with closing(scene.desk):
            yield scene


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Of the arena."""
    return str(request.param)


@pytest.fixture(scope="module")
def scene(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Scene]:
    """One for all tests with that kind of arena, each of which leaves it unlocked."""
    with open_scene(tmp_path_factory.mktemp("scene"), kind) as scene:
        yield scene


# --- unlocked, and locked ---------------------------------------------------------------------------------------------


def test_no_copy_unlocked_and_none_locked(scene: Scene, kind: str) -> None:
    def see(what: str, *, locked: bool = False) -> None:
        report(f"{kind}, {what}: {look(scene.pid, scene.scanner, None if locked else kind)}")

    report(f"looked for: {scene.sought()}")
    see("unlocked and idle")
    scene.treasure.get_all(scene.daemon.runtime_dir, 1_000 // SECRETS)
    see("after 1000 gets")
    exercise(scene)
    see("after all else that is done with values and passphrases")
    scene.must("lock")
    see("locked", locked=True)
    scene.unlock()
    see("unlocked again")


def exercise(scene: Scene) -> None:
    """Every other way that a value or a passphrase takes through the daemon."""
    name, passphrase = next(iter(scene.treasure.values)), scene.treasure.passphrase
    scene.treasure.put(scene.must, [name])
    scene.must("reveal", {"name": name})
    scene.must("restore", {"name": name, "version": 1})
    scene.must("history", {"name": name})
    scene.must("list")
    scene.must("prove", {}, passphrase)
    scene.must("slot_add", {"type": "passphrase", "log_n": 16}, passphrase)
    scene.must("slot_remove", {"slot": "passphrase-2"})
    scene.must("change_passphrase", {"log_n": 16}, passphrase)
    with tempfile.TemporaryFile() as copy:
        assert isinstance(scene.desk.call("export", {"log_n": 16}, passphrase, (copy.fileno(),)), dict)


def test_no_copy_right_after_a_lock(scene: Scene, kind: str) -> None:
    """Nothing else is done before the scan that might overwrite by chance what was left."""
    trials = size(2, 50)
    for _ in range(trials):
        scene.treasure.get_all(scene.daemon.runtime_dir)
        scene.must("lock")
        look(scene.pid, scene.scanner, None)
        scene.unlock()
    report(f"{kind}: {trials} locks, scanned at once for {scene.sought()}: 0 copies")


# --- while it serves --------------------------------------------------------------------------------------------------


def test_no_whole_copy_while_it_serves(scene: Scene, kind: str) -> None:
    scans, seen, spans = size(5, 1_000), Counter[str](), arena_of(scene.pid)
    with load(scene.daemon.runtime_dir, scene.treasure) as end:
        for _ in range(scans):
            hits = [hit for hit in scene.scanner.scan(scene.pid).hits if not within(hit, spans)]
            memory = [hit for hit in hits if not hit.where.startswith(REGISTERS)]
            whole = [hit for hit in memory if hit.length >= len(scene.scanner.needles[hit.label])]
            seen.update(block=bool(memory), whole=bool(whole), registers=len(hits) > len(memory))
            for hit in memory:
                report(f"{hit.label} as {hit.form}: {hit.length} bytes at {hit.address:#x} in {hit.where}")
        done = end()
    report(
        f"{kind}: {scans} scans for {scene.sought()} during {done['gets']} gets and {done['puts']} puts: "
        f"{seen['whole']} show a whole one in memory, {seen['block']} any 16 bytes of one, "
        f"{seen['registers']} any in a register"
    )
    assert done["gets"] > scans
    assert seen["whole"] == 0
    assert seen["block"] <= max(1, scans // 100)


# --- the arena itself -------------------------------------------------------------------------------------------------


def obtained(reader: Reader, scene: Scene, folder: Path) -> bool:
    """Report whether *reader* gets any key or value out of the arena."""
    [span] = arena_of(scene.pid)
    got = reader(scene.pid, span, folder)
    return any(needle in got for needle in scene.scanner.needles.values())


@pytest.mark.parametrize("kind", KINDS)
def test_what_root_reads_of_the_arena(tmp_path: Path, kind: str) -> None:
    """Nothing, or all but what is in core files; which shows that the attempts are real ones."""
    tried = [reader for reader in READERS if missing(reader) is None]
    report("; ".join(f"not tried: {why}" for reader in READERS if (why := missing(reader))))
    with open_scene(tmp_path, kind) as scene:
        read = [reader.__name__ for reader in tried if obtained(reader, scene, tmp_path)]
    report(f"{kind}: {len(read)} of {len(tried)} get anything out of the arena: {', '.join(read) or 'none'}")
    able = [] if kind == "memfd_secret" else [reader.__name__ for reader in tried if reader is not core_file]
    assert read == able


CRASHING = """
import os, sys
from avault_daemon.memory.arena import Arena
slot = Arena(kind=sys.argv[1]).take(64)
os.readv(0, [slot.view])
os.chdir(sys.argv[2])
open_copy = bytes(slot.view[:32])
print("ready", flush=True)
os.read(0, 1)
"""


@pytest.mark.skipif(missing(core_file) is not None, reason=str(missing(core_file)))
@pytest.mark.parametrize("kind", KINDS)
def test_a_core_file_leaves_the_arena_out(tmp_path: Path, kind: str) -> None:
    """Even of a process that has not forbidden it. The control: what lies elsewhere is in it."""
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip(
            "who imports the daemon may have no core files any more, nor its children: run this alone"
        )
    secret = os.urandom(64)
    with holder(secret, CRASHING, kind, str(tmp_path)) as process:
        assert process.says.readline() == b"ready\n"
        core = core_file(process.pid, (0, 0), tmp_path)
    report(
        f"{kind}: a core file of {len(core) >> 20} MiB has what lies outside of the arena, and nothing of it"
    )
    assert secret[:32] in core
    assert secret[32:48] not in core


# --- how it was started -----------------------------------------------------------------------------------------------


def test_no_copy_in_a_daemon_that_the_command_started(tmp_path: Path, kind: str) -> None:
    treasure = Treasure(SECRETS)
    env = environment(tmp_path, f'log_n = 16\nmemory = "{kind}"\n') | treasure.canaries
    daemon = RunningDaemon(tmp_path, env=env)
    made = daemon.avault("init", "--start", passphrase=treasure.passphrase.encode())
    assert made.returncode == 0, made.stderr
    pid: int = json.loads(daemon.avault("status", "--json").stdout)["pid"]
    try:
        scene = Scene.of(pid, daemon, treasure, made=True)
        with closing(scene.desk):
            treasure.get_all(daemon.runtime_dir)
            report(f"avault --start, {kind}, {scene.sought()}: {look(pid, scene.scanner, kind)}")
    finally:
        os.kill(pid, signal.SIGTERM)
        until(lambda: not Path(f"/proc/{pid}/fd").exists(), "it does not end")


# --- controls ---------------------------------------------------------------------------------------------------------


def test_a_daemon_that_keeps_copies_is_convicted_of_each(tmp_path: Path) -> None:
    """So what the scans look for is what the daemon holds, and each of it would be found."""
    with open_scene(tmp_path, "memfd_secret", weakness="hoarding") as scene:
        scene.treasure.get_all(scene.daemon.runtime_dir)
        scene.must("lock")
        scene.unlock()
        found = {hit.label for hit in scene.scanner.scan(scene.pid).hits}
        report(f"control, a daemon that keeps copies: {len(found)} of {len(scene.scanner.needles)} found")
        assert found == scene.scanner.needles.keys()
