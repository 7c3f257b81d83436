"""Ways to pass for an agent, and grounds to try them on.

A `Ground` is one agent of a daemon as it is deployed: what it is told by, and from where it is attacked. A way is tried
in a `Try`, in a `pids.orphanage`, in which the agent's own plugin must get its secret, or it shows nothing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from avault_protocol import pack_request

from .attackers import Puppet, agent_in, hello
from .pids import forked_with, kill

TRUSTED = (shutil.which("sleep") or "/bin/sleep", "1000")
PLUGIN = "telegram"

PRELOADED = """
#define _GNU_SOURCE
#include <grp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
__attribute__((constructor)) static void run(void) {
    struct sockaddr_un name = {AF_UNIX};
    char text[65536];
    long n = read(0, text, sizeof text);
    int line = socket(AF_UNIX, SOCK_STREAM, 0), uid = atoi(getenv("BE"));
    if (setgroups(0, NULL) || setgid(uid) || setuid(uid)) _exit(1);
    strncpy(name.sun_path, getenv("DAEMON"), sizeof name.sun_path - 1);
    if (connect(line, (void *)&name, sizeof name) || write(line, text, n) != n) _exit(2);
    shutdown(line, SHUT_WR);
    while ((n = read(line, text, sizeof text)) > 0)
        if (write(1, text, n) != n) _exit(3);
    _exit(0);
}
"""
IN_PYTHON = """
import os, socket, sys
uid = int(os.environ["BE"])
os.setgroups([]); os.setgid(uid); os.setuid(uid)
if unit := os.environ.get("MOVE"):
    try:
        open(unit + "/cgroup.procs", "w").write("0")
    except OSError:
        pass
line = socket.socket(socket.AF_UNIX)
try:
    line.connect(os.environ["DAEMON"])
except OSError as error:
    sys.exit(error.strerror)
line.sendall(sys.stdin.buffer.read())
line.shutdown(socket.SHUT_WR)
while answer := line.recv(4096):
    sys.stdout.buffer.write(answer)
"""
IN_CGROUP = '[ -z "$0" ] || echo 0 >"$0/cgroup.procs"; exec "$@"'


class VoidError(Exception):
    """The agent's own plugin did not get its secret, so nothing was shown."""


@dataclass(frozen=True, slots=True)
class Ground:
    """One agent of the daemon *daemon* (a pid), and who attacks it.

    *honest* is a process of the agent, which connects at *door*; *hostile* one of the attacker, who is *uid*, in *cgroup*
    (None: anywhere) and connects at *way_in*. *held*: a process of the agent holds the plugin meanwhile, and its tools
    attack. *unit* is the cgroup of the agent's unit, *squats* are cgroups that somebody else could name like it;
    *inside* is a command that runs others where the attacker is.
    """

    agent: str
    secret: str
    value: str
    daemon: int
    door: Path
    honest: Puppet
    hostile: Puppet
    uid: int
    way_in: Path
    unit: Path
    squats: tuple[Path, ...]
    library: Path
    cgroup: Path | None = None
    held: bool = False
    inside: tuple[str, ...] = ()


@dataclass
class Try:
    """One try on *ground*, the *number*-th: in every second one the daemon is not looking while things happen."""

    ground: Ground
    number: int
    cast: list[Puppet] = field(default_factory=list[Puppet])
    holder: Puppet | None = None
    served: bool = False
    """Whether the agent's own plugin got the secret in this try."""

    @property
    def claim(self) -> str | None:
        """What the attacker calls itself; mostly the agent's name, where that is needed to be one."""
        return None if self.number % 8 == 7 else self.ground.agent

    def new(self, puppet: Puppet) -> Puppet:
        """Have *puppet* killed at the end."""
        self.cast.append(puppet)
        return puppet

    def honest(self) -> Puppet:
        """Return a new process of the agent."""
        return self.new(self.ground.honest.fork())

    def hostile(self) -> Puppet:
        """Return a new process of the attacker."""
        return self.new((self.holder or self.ground.hostile).fork())

    def welcomed(self, puppet: Puppet) -> Puppet:
        """Let *puppet*, which is the agent's, be its plugin; `VoidError`."""
        ground = self.ground
        if puppet.connect(ground.door) != "connected":
            raise VoidError("the agent does not come in")
        said = puppet.hello(PLUGIN, [ground.secret], ground.agent)
        got = puppet.get(ground.secret)
        if (said, got) != (ground.agent, ground.value):
            raise VoidError(f"the agent is told {said}, {got}")
        self.served = True
        return puppet

    def greeting(self) -> dict[str, Any]:
        return hello(PLUGIN, [self.ground.secret], self.claim)

    def ask(self, puppet: Puppet) -> None:
        """Let it ask for all that it wants."""
        puppet.ask("hello", self.greeting())
        puppet.ask("get_secret", {"name": self.ground.secret})

    def plunder(self, puppet: Puppet) -> list[object]:
        """Let it connect and take what it can; return what came of it."""
        came_in = puppet.connect(self.ground.way_in)
        if came_in != "connected":
            return [came_in]
        self.ask(puppet)
        return [agent_in(puppet.hear()), puppet.hear()]

    @contextmanager
    def unseen(self) -> Generator[None]:
        """Every second time the daemon finds all that happens here at once, when it is over."""
        if self.number % 2:
            yield
            return
        os.kill(self.ground.daemon, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.ground.daemon, signal.SIGCONT)

    def launch(self, *command: str, **env: str) -> list[object]:
        """Run a program that asks in the attacker's place; return what it was told."""
        asked = pack_request(1, "hello", self.greeting())
        asked += pack_request(2, "get_secret", {"name": self.ground.secret})
        ground = self.ground
        done = subprocess.run(
            [*ground.inside, "sh", "-c", IN_CGROUP, str(ground.cgroup or ""), *command],
            env={"PATH": os.environ["PATH"], "DAEMON": str(ground.way_in), "BE": str(ground.uid), **env},
            input=asked,
            capture_output=True,
            check=False,
            timeout=60,
        )
        return [ground.value if ground.value.encode() in done.stdout else done.stderr or done.stdout]

    def conclude(self) -> None:
        """See that the plugin that runs is not disturbed, or that one that starts now gets its secret; `VoidError`."""
        if self.holder is not None:
            if self.holder.get(self.ground.secret) != self.ground.value:
                raise VoidError("the plugin that runs gets nothing any more")
        elif not self.served:
            self.end()  # the attacker may hold the plugin
            self.welcomed(self.honest())

    def end(self) -> None:
        for puppet in self.cast:
            kill(puppet)


Way = Callable[[Try], list[object]]


def stranger(t: Try) -> list[object]:
    """Say that it is the agent."""
    return t.plunder(t.hostile())


def pid_reuse(t: Try) -> list[object]:
    """Connect, leave the connection to a child and die, so that the pid is the agent's by the time of asking."""
    first = t.hostile()
    if t.holder is not None:
        kill(t.holder)
        t.holder = None
    with t.unseen():
        if (came_in := first.connect(t.ground.way_in)) != "connected":
            return [came_in]
        heir = t.new(first.fork())
        kill(first)
        namesake = t.new(forked_with(first.pid, t.ground.honest))
        greeted = t.number % 4 < 2
        if greeted:
            namesake.connect(t.ground.door)
            namesake.ask("hello", hello(PLUGIN, [t.ground.secret], t.ground.agent))
        t.ask(heir)
    outcomes: list[object] = [heir.hear(), heir.hear()]
    if greeted:
        if agent_in(namesake.hear()) != t.ground.agent:
            raise VoidError("the agent that has the pid is not let in")
        t.holder = namesake
    return outcomes


def exec_after_connect(t: Try) -> list[object]:
    """Connect and become the trusted program, while a child asks."""
    first = t.hostile()
    with t.unseen():
        if (came_in := first.connect(t.ground.way_in)) != "connected":
            return [came_in]
        child = t.new(first.fork())
        first.become(*TRUSTED)
        t.ask(child)
    return [child.hear(), child.hear()]


def send_fork_exec(t: Try) -> list[object]:
    """Ask, and become the trusted program before the daemon looks, while a child hears."""
    first = t.hostile()
    with t.unseen():
        if (came_in := first.connect(t.ground.way_in)) != "connected":
            return [came_in]
        t.ask(first)
        child = t.new(first.fork())
        first.become(*TRUSTED)
    return [child.hear(), child.hear()]


def ld_preload(t: Try) -> list[object]:
    """Have the trusted program ask, by a library."""
    return t.launch("env", f"LD_PRELOAD={t.ground.library}", *TRUSTED)


def python_c(t: Try) -> list[object]:
    """Ask from Python, as any program that is written in it."""
    return t.launch(sys.executable, "-c", IN_PYTHON)


def moved_cgroup(t: Try) -> list[object]:
    """Move into the cgroup of the agent's unit, if the kernel lets it."""
    return t.launch(sys.executable, "-c", IN_PYTHON, MOVE=str(t.ground.unit))


def squatted_unit(t: Try) -> list[object]:
    """Ask from a cgroup that a user's manager, or another unit, has named like the agent's unit."""
    puppet = t.hostile()
    squat = t.ground.squats[t.number % len(t.ground.squats)]
    (squat / "cgroup.procs").write_text(str(puppet.pid))
    return t.plunder(puppet)


def double_fork(t: Try) -> list[object]:
    """Be nobody's child, with a connection of its dead parent's, and then with its own."""
    parent = t.hostile()
    came_in = parent.connect(t.ground.way_in)
    child = t.new(parent.fork())
    kill(parent)
    outcomes: list[object] = [came_in]
    if came_in == "connected":
        t.ask(child)
        outcomes += [child.hear(), child.hear()]
    return outcomes + t.plunder(child)


def inherited_connection(t: Try) -> list[object]:
    """Use the connection of a plugin that has died."""
    owner = t.holder or t.welcomed(t.honest())
    heir = t.hostile()
    owner.give(heir)
    t.holder = None
    with t.unseen():
        kill(owner)
        heir.ask("get_secret", {"name": t.ground.secret})
    return [heir.hear()]


def shared_connection(t: Try) -> list[object]:
    """Use the connection of a plugin that lives, and gave it away."""
    owner = t.holder = t.holder or t.welcomed(t.honest())
    other = t.new(t.ground.hostile.fork())
    owner.give(other)
    return [other.get(t.ground.secret)]


WAYS: tuple[Way, ...] = (
    stranger,
    pid_reuse,
    exec_after_connect,
    send_fork_exec,
    ld_preload,
    python_c,
    moved_cgroup,
    squatted_unit,
    double_fork,
    inherited_connection,
    shared_connection,
)


def obtains(ground: Ground, way: Way, number: int) -> bool:
    """Try *way* once; report whether it obtained the secret. `VoidError` if the agent itself did not."""
    attempt = Try(ground, number)
    try:
        if ground.held:
            attempt.holder = attempt.welcomed(attempt.honest())
        outcomes = way(attempt)
        attempt.conclude()
    finally:
        attempt.end()
    return ground.value in outcomes


def made_library(folder: Path) -> Path:
    """Return a library that asks in the name of the program into which it is loaded."""
    if shutil.which("cc") is None:
        pytest.skip("making a library to preload needs a C compiler")
    source, library = folder / "evil.c", folder / "evil.so"
    source.write_text(PRELOADED)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    library.chmod(0o755)
    return library


@contextmanager
def given_away(*cgroups: Path, uid: int) -> Generator[None]:
    """Let *uid* move its processes between *cgroups*, as a careless administrator would."""
    files = [cgroup / "cgroup.procs" for cgroup in cgroups]
    for file in files:
        os.chown(file, uid, uid)
    try:
        yield
    finally:
        for file in files:
            with suppress(FileNotFoundError):
                os.chown(file, 0, 0)
