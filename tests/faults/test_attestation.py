"""Nobody passes for an agent who is not, by any way that we know, where docs/threats.md promises it.

Each way is tried on each ground; on those that promise nothing it is seen that what the page says of them is true.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support import attestation, cgroups
from support.attackers import Line, Puppet
from support.attestation import PLUGIN, WAYS, Ground, Way, given_away, obtains
from support.campaign import report, size
from support.forked import PASSPHRASE, ForkedDaemon
from support.pids import needs_pids, orphanage
from support.services import Service, system_service

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several others"),
    pytest.mark.alone,
    needs_pids,
]

COBOT, BOXED, STRANGER, OWNER = range(63001, 63005)
UNIT = "cobot.service"
AGENTS: dict[str, dict[str, dict[str, Any]]] = {
    "system": {
        "by-uid": {"uids": [COBOT]},
        "by-unit": {"units": [UNIT]},
        "by-both": {"uids": [COBOT], "units": [UNIT]},
        "boxed": {"uids": [BOXED], "socket": True},
    },
    "user": {"by-uid": {"uids": [OWNER]}, "boxed": {"socket": True}, "other": {"socket": True}},
}
# What a sandbox leaves of the machine: no processes, nothing of the daemon's but the one directory, at /mnt.
SANDBOX = (
    *("unshare", "--mount", "--propagation", "private", "sh", "-c"),
    'mount --bind "$0/run/agents/other" /mnt && mount -t tmpfs none "$0" && mount -t tmpfs none /proc && exec "$@"',
)
DIED = ("pid_reuse", "inherited_connection")
"""Of these nothing is obtained anywhere: who made the connection is dead."""


Role = tuple[int, Path | None, tuple[str, ...]]


@dataclass
class Machine:
    """Cgroups as a manager of the system makes them, puppets, and a library to preload."""

    unit: Path
    elsewhere: Path
    squats: tuple[Path, ...]
    library: Path
    stack: ExitStack
    _known: dict[Role, Puppet] = field(default_factory=dict[Role, Puppet])

    def puppet(self, *role: *Role) -> Puppet:
        """Return a process of some uid, in some cgroup, started by some command; always the same."""
        if role not in self._known:
            uid, cgroup, under = role
            self._known[role] = puppet = Puppet.start(uid, under=under)
            self.stack.callback(puppet.die)
            if cgroup is not None:
                (cgroup / "cgroup.procs").write_text(str(puppet.pid))
        return self._known[role]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    folder = Path(tempfile.mkdtemp(prefix="avault-", dir="/tmp"))
    folder.chmod(0o755)
    users = f"user.slice/user-{COBOT}.slice/user@{COBOT}.service/app.slice/{UNIT}"
    units = (UNIT, "other.service", users, f"other.service/{UNIT}")
    with cgroups.made(*units) as made, orphanage(), ExitStack() as stack:
        library = attestation.made_library(folder)
        yield Machine(made[0], made[1], (made[2], made[3]), library, stack)
    shutil.rmtree(folder)


@dataclass
class Deployment:
    """One daemon, of the pid *daemon*, with agents and a secret for each."""

    machine: Machine
    kind: str
    daemon: int
    folder: Path
    desk: Line

    def __post_init__(self) -> None:
        for agent, selectors in AGENTS[self.kind].items():
            name, value = self.secret(agent)
            items = [{"name": name, "size": len(value), "encoding": "text"}]
            self.must("put", {"items": items}, value)
            self.must("grant", {"agent": agent, "plugin": PLUGIN, "secrets": [name], **selectors})

    def must(self, method: str, params: dict[str, Any], value: str | None = None) -> None:
        outcome = self.desk.call(method, params, value)
        assert isinstance(outcome, dict), (method, outcome, self.desk.error)

    @staticmethod
    def secret(agent: str) -> tuple[str, str]:
        name = agent.upper().replace("-", "_")
        return name, f"the value that is {agent}'s alone"

    def door(self, agent: str) -> Path:
        own = self.folder / "run" / "agents" / agent / "agent.sock"
        return own if AGENTS[self.kind][agent].get("socket") else self.folder / "run" / "agent.sock"

    def ground(
        self,
        agent: str,
        uid: int,
        cgroup: Path | None = None,
        *,
        honest: int,
        held: bool = False,
        sandboxed: bool = False,
    ) -> Ground:
        """Return where a process of *uid* in *cgroup* attacks *agent*, whose own processes are of uid *honest*."""
        under = (*SANDBOX, str(self.folder)) if sandboxed else ()
        name, value = self.secret(agent)
        unit = self.machine.unit
        hostile = self.machine.puppet(uid, cgroup, under)
        return Ground(
            agent=agent,
            secret=name,
            value=value,
            daemon=self.daemon,
            door=self.door(agent),
            honest=self.machine.puppet(honest, unit if agent in ("by-unit", "by-both") else None, ()),
            hostile=hostile,
            uid=uid,
            cgroup=cgroup,
            way_in=Path("/mnt/agent.sock") if sandboxed else self.door(agent),
            unit=unit,
            squats=self.machine.squats,
            library=self.machine.library,
            held=held,
            inside=("nsenter", f"--mount=/proc/{hostile.pid}/ns/mnt") if sandboxed else (),
        )


def real(machine: Machine, service: Service, kind: str) -> Deployment:
    return Deployment(machine, kind, service.daemon.pid, service.daemon.folder, service.desk)


@pytest.fixture(scope="module")
def system(machine: Machine) -> Iterator[Deployment]:
    with system_service() as service:
        yield real(machine, service, "system")


@pytest.fixture(scope="module")
def user(machine: Machine) -> Iterator[Deployment]:
    with system_service(uid=OWNER, kind="user") as service:
        yield real(machine, service, "user")


Place = Callable[[Deployment], Ground]
PROMISED: dict[str, Place] = {
    "system service, agent by uid; another uid": lambda d: d.ground("by-uid", STRANGER, honest=COBOT),
    "system service, agent by unit; its uid, in another unit": lambda d: d.ground(
        "by-unit", COBOT, d.machine.elsewhere, honest=COBOT
    ),
    "system service, agent by uid and unit; another uid, in that unit": lambda d: d.ground(
        "by-both", STRANGER, d.machine.unit, honest=COBOT
    ),
    "system service, agent by uid and socket; another uid, at that socket": lambda d: d.ground(
        "boxed", STRANGER, honest=BOXED
    ),
    "system service, a plugin that runs; a tool of its agent": lambda d: d.ground(
        "by-uid", COBOT, honest=COBOT, held=True
    ),
    "user service, agent by uid; another uid": lambda d: d.ground("by-uid", STRANGER, honest=OWNER),
    "user service, agent by socket; its uid, in a sandbox with another socket": lambda d: d.ground(
        "boxed", OWNER, honest=OWNER, sandboxed=True
    ),
    "user service, a plugin that runs; a tool of its agent": lambda d: d.ground(
        "by-uid", OWNER, honest=OWNER, held=True
    ),
}
NOT_PROMISED: dict[str, Place] = {
    "system service, agent by uid; its uid": lambda d: d.ground("by-uid", COBOT, honest=COBOT),
    "user service, agent by uid; its uid": lambda d: d.ground("by-uid", OWNER, honest=OWNER),
    "user service, agent by socket; its uid, in no sandbox": lambda d: d.ground("boxed", OWNER, honest=OWNER),
}


def deployment(request: pytest.FixtureRequest, name: str) -> Deployment:
    found: Deployment = request.getfixturevalue(name.partition(" ")[0])
    return found


def tries_of(way: Way) -> int:
    """Two as a rule; the programs that are started anew are slow."""
    slow = way in (attestation.ld_preload, attestation.python_c, attestation.moved_cgroup)
    return size(1, 60) if slow else size(2, 400)


def counted(ground: Ground, ways: tuple[Way, ...]) -> dict[str, tuple[int, int]]:
    """Return for each way how often it obtained the secret, and of how many tries."""
    return {
        way.__name__: (sum(obtains(ground, way, number) for number in range(tries_of(way))), tries_of(way))
        for way in ways
    }


def shown(outcomes: dict[str, tuple[int, int]]) -> str:
    return ", ".join(f"{way.replace('_', ' ')} {got} of {tries}" for way, (got, tries) in outcomes.items())


@pytest.mark.parametrize("name", PROMISED)
def test_no_way_obtains_what_is_promised_to_be_anothers(request: pytest.FixtureRequest, name: str) -> None:
    ways = tuple(way for way in WAYS if way is not attestation.shared_connection)
    outcomes = counted(PROMISED[name](deployment(request, name)), ways)
    report(f"{name}: {shown(outcomes)}; its plugin each time")
    assert [way for way, (got, _) in outcomes.items() if got] == []


@pytest.mark.parametrize("name", NOT_PROMISED)
def test_where_nothing_is_promised_nearly_every_way_obtains_it(
    request: pytest.FixtureRequest, name: str
) -> None:
    outcomes = counted(NOT_PROMISED[name](deployment(request, name)), WAYS)
    report(f"not promised: {name}: {shown(outcomes)}")
    assert [way for way, (got, _) in outcomes.items() if not got] == list(DIED)


# --- controls -----------------------------------------------------------------------------------------------------


@contextmanager
def forked(machine: Machine, kind: str, weakness: str | None) -> Generator[Deployment]:
    """Run a daemon that is wrong on purpose; root's, and not confined, unlike those above."""
    folder = Path(tempfile.mkdtemp(prefix="avault-", dir="/tmp"))
    folder.chmod(0o711)
    daemon = ForkedDaemon(folder, weakness, service=kind)
    try:
        daemon.start()
        desk = daemon.operator()
        assert isinstance(desk.call("init", {"log_n": 1}, PASSPHRASE), dict)
        with closing(desk):
            yield Deployment(machine, kind, daemon.pid, folder, desk)
    finally:
        daemon.stop()
        shutil.rmtree(folder)


BY_UID, BY_UNIT, _, _, HELD = list(PROMISED)[:5]
CONTROLS: dict[str, list[tuple[Way, str]]] = {
    "by name": [(attestation.stranger, BY_UID)],
    "by pid": [(attestation.pid_reuse, BY_UID), (attestation.pid_reuse, BY_UNIT)],
    "by sleep": [
        (attestation.exec_after_connect, BY_UID),
        (attestation.send_fork_exec, BY_UID),
        (attestation.ld_preload, BY_UNIT),
    ],
    "by python": [(attestation.python_c, BY_UNIT)],
    "by any unit": [(attestation.squatted_unit, BY_UNIT)],
    "unheld": [(attestation.double_fork, HELD)],
    "deathless": [(attestation.inherited_connection, BY_UID)],
}


@pytest.mark.parametrize("weakness", CONTROLS)
def test_each_way_obtains_it_from_a_weak_daemon(machine: Machine, weakness: str) -> None:
    with forked(machine, "system", weakness) as deployment:
        for way, name in CONTROLS[weakness]:
            outcomes = counted(PROMISED[name](deployment), (way,))
            report(f"control, {weakness}: {name}: {shown(outcomes)}")
            assert outcomes[way.__name__][0]


def test_a_daemon_that_is_not_weakened_is_not_convicted(machine: Machine) -> None:
    with forked(machine, "system", None) as deployment:
        for way, name in (control for controls in CONTROLS.values() for control in controls):
            assert not counted(PROMISED[name](deployment), (way,))[way.__name__][0], way


def test_in_a_cgroup_that_was_given_away_the_attacker_is_the_unit(system: Deployment) -> None:
    """What keeps others out of a unit is who may write to its cgroup."""
    ground = PROMISED[BY_UNIT](system)
    with given_away(ground.unit, ground.unit.parent, uid=COBOT):
        outcomes = counted(ground, (attestation.moved_cgroup,))
    report(f"control, a unit's cgroup is its user's: {shown(outcomes)}")
    assert outcomes["moved_cgroup"][0]
