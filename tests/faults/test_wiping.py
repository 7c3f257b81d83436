"""From what calls for a lock to an arena of zeroes: how long, on every path; seen from outside, by root.

With the kind of arena that root can read. The other is wiped by the same line of code, and unmapped with it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median

import pytest
import trio

from avault_protocol import limits, pack_request
from support import login
from support.attackers import Line
from support.campaign import GIVEN, report, size
from support.daemon import RunningDaemon, running_daemon
from support.load import load
from support.treasure import Treasure
from support.wiping import AIM, Took, Watch, told, watch

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may read the memory of avaultd at all")

CONFIG = 'log_n = 16\nmemory = "mlock"\n'
SESSION = "/org/freedesktop/login1/session/c1"
STOPPING = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT]
KILLING = [signal.SIGKILL, signal.SIGABRT]
"""SIGABRT is what systemd's watchdog sends."""


class Scene:
    """A daemon with a treasure in its vault, and its operator."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self.daemon, self.treasure = daemon, Treasure(100)
        self.desk = self._connect()
        self.must("init", {"log_n": 16}, self.treasure.passphrase)
        self.treasure.fill(self.must)

    def _connect(self) -> Line:
        return Line.to(str(self.daemon.runtime_dir / "operator.sock"))

    def must(self, method: str, params: dict[str, object] | None = None, value: str | None = None) -> None:
        self.desk.call(method, params or {}, value)
        assert self.desk.error is None, (method, self.desk.error)

    def unlock(self) -> None:
        self.must("unlock", {}, self.treasure.passphrase)

    def half_a_put(self, value: str) -> Line:
        """Send, on a connection of its own, a request with *value*, but for its second half."""
        line = self._connect()
        assert isinstance(line.call("prove", {}, self.treasure.passphrase), dict)
        params = {"items": [{"name": "BIG", "size": len(value), "encoding": "text"}]}
        line.send(pack_request(9, "put", params, len(value)) + value[: len(value) // 2].encode())
        return line

    def restart(self) -> None:
        """Start it again, which has ended."""
        self.desk.close()
        self.daemon.start()
        self.desk = self._connect()
        self.unlock()


@contextmanager
def open_scene(folder: Path, config: str = CONFIG, env: dict[str, str] | None = None) -> Generator[Scene]:
    with running_daemon(folder, config=config, env=env) as daemon:
        scene = Scene(daemon)
        yield scene
        scene.desk.close()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Generator[Scene]:
    """One for all tests that want nothing special; each leaves it unlocked."""
    with open_scene(tmp_path_factory.mktemp("scene")) as scene:
        yield scene


def judge(what: str, trials: list[Took]) -> None:
    """Report; where there are many, half of them within the aim is the least."""
    late = sum(took.seconds > AIM for took in trials)
    report(f"{what}: {len(trials)} times, {told(trials)}; {late} over {AIM * 1e3:.0f} ms")
    assert len(trials) < 10 or median(took.seconds for took in trials) <= AIM


def timed(scene: Scene, times: int) -> list[Took]:
    """Lock so often, and see how long it takes."""
    trials: list[Took] = []
    for _ in range(times):
        with watch(scene.daemon.pid) as seen:
            trials.append(seen.after(lambda: scene.desk.ask("lock")))
            assert isinstance(scene.desk.hear(), dict)
        scene.unlock()
    return trials


def test_lock(scene: Scene) -> None:
    judge("avault lock", timed(scene, size(3, 100)))


def test_lock_answers_when_all_is_wiped(scene: Scene) -> None:
    with watch(scene.daemon.pid) as seen:
        assert not seen.zero()
        scene.must("lock")
        assert seen.zero()
    scene.unlock()


def test_lock_while_others_are_served(scene: Scene) -> None:
    with load(scene.daemon.runtime_dir, scene.treasure) as end:
        trials = timed(scene, size(3, 100))
        end()
    judge("avault lock, while four clients get secrets", trials)


def test_lock_with_a_mebibyte_on_its_way_in(scene: Scene) -> None:
    """Most of a `put` has arrived, and lies in the arena."""
    content = "x" * limits.MAX_VALUES
    trials: list[Took] = []
    for _ in range(size(1, 20)):
        with closing(scene.half_a_put(content)), watch(scene.daemon.pid, least=len(content) // 2) as seen:
            trials.append(seen.after(lambda: scene.desk.ask("lock")))
            assert isinstance(scene.desk.hear(), dict)
        scene.unlock()
    judge("avault lock, with a put of 1 MiB on its way in", trials)


def test_what_is_wiped_before_the_first_look_is_known_to_no_better() -> None:
    room = ctypes.create_string_buffer(b"x", 32)
    with open("/proc/self/mem", "rb") as memory:
        seen = Watch(memory.fileno(), ctypes.addressof(room), len(room))
        assert not seen.zero()
        took = seen.after(lambda: ctypes.memset(room, 0, len(room)))
        assert seen.zero()
    assert 0 < took.unseen == took.seconds


def test_a_signal_that_stops_it(scene: Scene) -> None:
    stopping = STOPPING if GIVEN else STOPPING[:1]
    for signum in stopping:
        judge(signum.name, ended_by(scene, signum))


def test_a_signal_that_kills_it(scene: Scene) -> None:
    """Memory is gone with the process: what is timed is until nothing can be read any more."""
    for signum in KILLING:
        judge(f"{signum.name}, until its memory is gone", ended_by(scene, signum))


def ended_by(scene: Scene, signum: signal.Signals) -> list[Took]:
    trials: list[Took] = []
    for _ in range(size(1, 20)):
        with watch(scene.daemon.pid) as seen:
            trials.append(seen.after(lambda: os.kill(scene.daemon.pid, signum)))
        assert scene.daemon.process is not None
        scene.daemon.process.wait(60)
        scene.restart()
    return trials


def test_idle(tmp_path: Path) -> None:
    trials: list[Took] = []
    with open_scene(tmp_path, f'{CONFIG}lock_on = ["idle:1s"]\n') as scene:
        for _ in range(size(1, 20)):
            scene.unlock()
            with watch(scene.daemon.pid) as seen:
                begin = time.monotonic()
                scene.must("reveal", {"name": next(iter(scene.treasure.values))})
                trials.append(seen.since(begin + 1))
    judge("idle, from a second after the last use was asked for", trials)


# --- what logind says ---------------------------------------------------------------------------------------------------


async def test_sleep_and_a_locked_screen(tmp_path: Path) -> None:
    config = f'{CONFIG}lock_on = ["suspend", "screen-lock"]\n'
    with login.bus(tmp_path) as address:
        async with login.logind(address) as there:
            there.sessions = {SESSION: os.getuid()}
            env = {"DBUS_SYSTEM_BUS_ADDRESS": address}
            with open_scene(tmp_path, config, env) as scene:
                await there.taken.wait()
                bus = int((tmp_path / "bus.pid").read_text())
                times = size(2, 50)
                judge("suspend", await heard(scene, bus, lambda: there.sleep(going=True), times))
                judge("screen-lock", await heard(scene, bus, lambda: there.lock_session(SESSION), times))
                judge("the bus ends", await heard(scene, bus, lambda: end(bus), 1))


async def heard(scene: Scene, bus: int, say: Callable[[], Awaitable[None]], times: int) -> list[Took]:
    """Let something be said on the bus, so often, and see how long it takes."""
    trials: list[Took] = []
    for _ in range(times):
        with watch(scene.daemon.pid, bus) as seen, seen.apart() as wiped:
            begin = time.monotonic()
            await say()
            trials.append(await trio.to_thread.run_sync(wiped, begin))
        await trio.to_thread.run_sync(scene.unlock)
    return trials


async def end(bus: int) -> None:
    os.kill(bus, signal.SIGKILL)
