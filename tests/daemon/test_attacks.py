"""Attackers on a real daemon get nothing that is not theirs; each beside somebody who does the same, and may.

Two services: one as a system service is, under a uid of its own with agents under others, and one as a user's. How one
may try to pass for an agent is in tests/faults/test_attestation.py.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from avault_daemon.serving.inbox import MAX_DESCRIPTORS
from avault_protocol import METHODS, OPERATOR, limits, pack_request
from support.attackers import ENDED, Line, Puppet, hello
from support.attacks import ATTACKS, SPARE_UID, attack
from support.pids import end, needs_pids
from support.services import DAEMON, PASSPHRASE, Service, system_service, user_service
from support.waiting import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several others")

COBOT, HERMES, BOXED, STRANGER, CLERK, GUESSER = range(60001, 60007)
TOKEN, WEATHER, BOX = "7250119083:AAF-a-token", "a-weather-key", "a-boxed-value"
TRUSTED = ("/bin/sleep", "1000")
Start = Callable[..., Puppet]


def furnish(service: Service) -> Service:
    """Three agents by uid, one of them with a socket of its own; each may read one secret."""
    service.put(TOKEN=TOKEN, WEATHER=WEATHER, BOX=BOX)
    service.grant("cobot/telegram", "TOKEN", uids=[COBOT])
    service.grant("hermes/weather", "WEATHER", uids=[HERMES])
    service.grant("boxed/box", "BOX", uids=[BOXED], socket=True)
    return service


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """One system service for all tests that leave it as it was."""
    with system_service() as service:
        yield furnish(service)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A user's service, where that user is root."""
    with user_service(tmp_path_factory.mktemp("user")) as service:
        service.put(TOKEN=TOKEN, BOX=BOX)
        service.grant("cobot/telegram", "TOKEN", uids=[0])
        service.grant("boxed/box", "BOX", socket=True)
        yield service


@pytest.fixture
def start() -> Iterator[Start]:
    """Start puppets, all of which are dead afterwards."""
    puppets: list[Puppet] = []

    def start(uid: int, *, groups: tuple[int, ...] = (), pid: int | None = None) -> Puppet:
        puppets.append(Puppet.start(uid, groups=groups, pid=pid))
        return puppets[-1]

    yield start
    for puppet in puppets:
        puppet.die()


@contextmanager
def busy(service: Service) -> Generator[None]:
    """Whatever happens meanwhile, the daemon finds it all at once."""
    os.kill(service.daemon.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(service.daemon.pid, signal.SIGCONT)


def agent_of(service: Service, start: Start) -> Puppet:
    """Return a process that is the agent cobot, as its plugin telegram."""
    puppet = start(COBOT)
    assert puppet.connect(service.agent_socket) == "connected"
    assert puppet.hello() == "cobot"
    return puppet


# --- other uids ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("claim", [None, "cobot"])
def test_another_uid_is_nobody_whatever_it_calls_itself(
    service: Service, start: Start, claim: str | None
) -> None:
    agent, stranger = agent_of(service, start), start(STRANGER)
    assert agent.get() == TOKEN
    assert stranger.connect(service.agent_socket) == "connected"
    assert stranger.get() == "bad_request"
    assert stranger.hello(agent=claim) == "unknown_agent"
    assert stranger.get() == "bad_request"
    filed = [request for request in service.must("requests")["requests"] if request["pid"] == stranger.pid]
    assert [(request["uid"], request["agent"], request["names"]) for request in filed] == [
        (STRANGER, claim, ["TOKEN"])
    ]


def test_the_agent_of_another_gets_its_own_and_no_more(service: Service, start: Start) -> None:
    hermes = start(HERMES)
    hermes.connect(service.agent_socket)
    assert hermes.hello("weather", ["WEATHER", "TOKEN", "NOPE"]) == "hermes"
    assert [hermes.get(name) for name in ("WEATHER", "TOKEN", "NOPE", "BOX")] == [
        WEATHER,
        *["not_granted"] * 3,
    ]
    hermes.connect(service.agent_socket)
    assert hermes.hello("weather", agent="cobot") == "unknown_agent"


def test_only_its_operators_reach_the_operators_socket(service: Service, start: Start) -> None:
    for uid in (COBOT, STRANGER):
        assert start(uid).connect(service.operator_socket) == "EACCES"
    clerk = start(CLERK, groups=(DAEMON,))
    assert clerk.connect(service.operator_socket) == "connected"
    assert clerk.call("status")["state"] == "unlocked"
    assert (
        clerk.call("reveal", {"name": "TOKEN"}) == "proof_required"
    )  # another's proof is not this connection's
    assert clerk.call("prove", {}, PASSPHRASE) == {"slot": "passphrase"}
    assert clerk.call("reveal", {"name": "TOKEN"}) == TOKEN


def test_nobody_else_comes_near_a_users_service(own: Service, start: Start) -> None:
    own.daemon.folder.chmod(0o755)  # what keeps others away is the runtime directory, and the modes in it
    for path in (own.agent_socket, own.operator_socket, own.own_socket("boxed")):
        assert start(STRANGER).connect(path) == "EACCES"
        assert start(0).connect(path) == "connected"
    modes = {path.name: path.stat().st_mode & 0o777 for path in (own.agent_socket, own.operator_socket)}
    assert modes == {"agent.sock": 0o600, "operator.sock": 0o600}


# --- children and heirs -------------------------------------------------------------------------------------------


def test_a_child_is_not_its_parent_while_that_lives(service: Service, start: Start) -> None:
    parent = agent_of(service, start)
    child = parent.fork()
    assert child.get() == TOKEN  # by its parent's own connection: they are one to the kernel
    child.connect(service.agent_socket)
    assert child.hello() == "already_bound"
    assert child.get() == "bad_request"
    assert parent.get() == TOKEN
    parent.die()
    assert child.hello() == "cobot"  # nobody holds it now, and the uid is right
    assert child.get() == TOKEN
    child.die()


@pytest.mark.parametrize("greeted", [True, False])
def test_a_connection_ends_with_the_process_that_made_it(
    service: Service, start: Start, greeted: bool
) -> None:
    parent = start(COBOT)
    parent.connect(service.agent_socket)
    assert not greeted or parent.hello() == "cobot"
    heir = parent.fork()
    assert not greeted or heir.get() == TOKEN
    parent.die()
    assert (heir.get() if greeted else heir.hello()) == ENDED
    heir.die()


def test_an_operators_heir_is_not_served_in_the_moment_of_the_death(service: Service, start: Start) -> None:
    for _ in range(8):
        parent = start(CLERK, groups=(DAEMON,))
        parent.connect(service.operator_socket)
        assert parent.call("prove", {}, PASSPHRASE) == {"slot": "passphrase"}
        heir = parent.fork()
        assert heir.call("reveal", {"name": "TOKEN"}) == TOKEN
        with busy(service):
            parent.die()
            heir.ask("reveal", {"name": "TOKEN"})
        assert heir.hear() == ENDED
        heir.die()


def test_an_heir_is_not_served_what_its_parent_waits_for(service: Service, start: Start) -> None:
    parent = agent_of(service, start)
    heir = parent.fork()
    other = start(HERMES)
    other.connect(service.agent_socket)
    assert other.hello("weather", ["WEATHER"]) == "hermes"
    service.must("lock")
    parent.ask("get_secret", {"name": "TOKEN", "wait": 60})
    other.ask("get_secret", {"name": "WEATHER", "wait": 60})
    parent.die()
    assert isinstance(service.unlock(), dict)
    assert heir.hear() == ENDED
    assert other.hear() == WEATHER
    heir.die()


# --- numbers that are given away again ------------------------------------------------------------------------------


@pytest.mark.alone
@needs_pids
def test_a_dead_agents_pid_is_worth_nothing(service: Service, start: Start) -> None:
    agent = agent_of(service, start)
    heir = agent.fork()
    agent.die()
    successor = start(COBOT)
    successor.connect(service.agent_socket)
    assert successor.hello() == "cobot"
    namesake = start(COBOT, pid=agent.pid)
    namesake.connect(service.agent_socket)
    assert namesake.hello() == "already_bound"
    assert heir.get() == ENDED
    heir.die()


@pytest.mark.alone
@needs_pids
def test_a_dead_agents_pid_is_worth_nothing_after_a_restart(start: Start) -> None:
    with system_service() as service:
        furnish(service)
        living, dead = agent_of(service, start), start(HERMES)
        dead.connect(service.agent_socket)
        assert dead.hello("weather", ["WEATHER"]) == "hermes"
        service.daemon.stop(signal.SIGKILL)
        dead.die()
        namesake = start(HERMES, pid=dead.pid)
        service.daemon.start()
        assert isinstance(service.unlock(), dict)
        held = {
            agent["name"]: [pid for plugin in agent["plugins"] for pid in plugin["pids"]]
            for agent in service.must("agents")["agents"]
        }
        assert held == {"cobot": [living.pid], "hermes": [], "boxed": []}
        successor, intruder = start(HERMES), start(COBOT)
        successor.connect(service.agent_socket)
        assert successor.hello("weather", ["WEATHER"]) == "hermes"
        assert successor.get("WEATHER") == WEATHER
        for late, plugin in ((namesake, "weather"), (intruder, "telegram")):
            late.connect(service.agent_socket)
            assert late.hello(plugin) == "already_bound"
        living.connect(service.agent_socket)  # the control: the holder that lived on is known again
        assert living.hello() == "cobot"
        assert living.get() == TOKEN


# --- programs that are trusted --------------------------------------------------------------------------------------


def test_becoming_another_program_after_hello_keeps_what_it_had(service: Service, start: Start) -> None:
    """One process all the time, so its connection goes on; that of a stranger gains nothing."""
    agent, stranger = agent_of(service, start), start(STRANGER)
    stranger.connect(service.agent_socket)
    for puppet, before, after in ((agent, TOKEN, TOKEN), (stranger, "bad_request", "unknown_agent")):
        listener = puppet.fork()
        assert listener.get() == before
        puppet.become(*TRUSTED)
        assert (listener.get() if puppet is agent else listener.hello()) == after
        listener.die()


# --- sockets of their own -------------------------------------------------------------------------------------------


def test_an_agents_own_socket_is_its_own_and_leads_to_nothing_else(service: Service, start: Start) -> None:
    boxed, cobot, stranger = start(BOXED), start(COBOT), start(STRANGER)
    for puppet in (boxed, cobot, stranger):
        assert puppet.connect(service.own_socket("boxed")) == "connected"
    assert boxed.hello("box", ["BOX", "TOKEN"]) == "boxed"
    assert [boxed.get("BOX"), boxed.get("TOKEN")] == [BOX, "not_granted"]
    for puppet in (cobot, stranger):  # here the directory is everybody's: the uid counts too
        assert puppet.hello("box", ["BOX"]) == "unknown_agent"
        assert puppet.hello("telegram", ["TOKEN"], "cobot") == "unknown_agent"
    boxed.connect(service.agent_socket)
    assert boxed.hello("box", ["BOX"]) == "unknown_agent"
    assert boxed.hello("box", ["BOX"], "boxed") == "unknown_agent"


def test_in_a_users_service_the_socket_is_enough(own: Service, start: Start) -> None:
    boxed, cobot = start(0), start(0)
    boxed.connect(own.own_socket("boxed"))
    assert boxed.hello("box", ["BOX", "TOKEN"]) == "boxed"
    assert [boxed.get("BOX"), boxed.get("TOKEN")] == [BOX, "not_granted"]
    boxed.connect(own.own_socket("boxed"))
    assert boxed.hello("telegram", ["TOKEN"], "cobot") == "unknown_agent"
    cobot.connect(own.agent_socket)
    assert cobot.hello("box", ["BOX"], "boxed") == "unknown_agent"
    assert cobot.hello() == "cobot"
    assert cobot.get() == TOKEN


def test_in_a_system_service_a_socket_alone_describes_nobody(service: Service, start: Start) -> None:
    outcome = service.desk.call("agent_set", {"agent": "anyone", "socket": True})
    assert outcome == "bad_request"
    assert service.desk.error is not None
    assert service.desk.error.hint == "add --uid U or --unit U: anyone may enter the directory of its socket"


# --- the daemon's own process ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["system", "user"])
def test_no_process_of_the_daemons_own_uid_gets_into_it(kind: str) -> None:
    with system_service(uid=SPARE_UID, kind=kind) as service:
        service.put(TOKEN=TOKEN)
        assert attack(service.daemon.pid, SPARE_UID) == []
    plain = subprocess.Popen(["sleep", "1000"], user=SPARE_UID, group=SPARE_UID, extra_groups=[])
    try:
        assert attack(plain.pid, SPARE_UID) == [way.__name__ for way in ATTACKS]
    finally:
        end(plain)


# --- the wrong vocabulary, the wrong hands ----------------------------------------------------------------------------

VALUES = {
    "put": "x",
    "init": PASSPHRASE,
    "unlock": PASSPHRASE,
    "prove": PASSPHRASE,
    "restore_vault": PASSPHRASE,
}


def test_no_method_of_the_one_socket_is_known_on_the_other(service: Service, start: Start) -> None:
    agent, desk = agent_of(service, start), Line.to(str(service.operator_socket))
    assert isinstance(desk.call("prove", {}, PASSPHRASE), dict)
    for name, method in METHODS.items():
        params = {key: "TOKEN" for key in method.fields if key == "name"}
        value = PASSPHRASE if method.takes_value else None
        if method.socket == OPERATOR:
            # A value on an agent's socket is no message of it at all, and ends the connection.
            assert agent.call(name, params, value) == "bad_request"
            if value is not None:
                agent.connect(service.agent_socket)
                assert agent.hello() == "cobot"
        else:
            assert desk.call(name, params, value) == "bad_request"
            assert desk.error is not None
            assert desk.error.message.startswith("unknown method")
    desk.close()


def test_a_connection_that_is_handed_on_stays_that_of_its_maker(service: Service, start: Start) -> None:
    agent, stranger = agent_of(service, start), start(STRANGER)
    agent.give(stranger)
    assert stranger.get() == TOKEN  # what it could as well have been given
    assert agent.get() == TOKEN
    agent.die()
    assert stranger.get() == ENDED


def test_proof_that_is_handed_on_ends_with_its_maker(service: Service, start: Start) -> None:
    clerk, stranger = start(CLERK, groups=(DAEMON,)), start(STRANGER)
    clerk.connect(service.operator_socket)
    assert clerk.call("prove", {}, PASSPHRASE) == {"slot": "passphrase"}
    clerk.give(stranger)
    assert stranger.call("reveal", {"name": "TOKEN"}) == TOKEN
    clerk.die()
    assert stranger.call("reveal", {"name": "TOKEN"}) == ENDED


# --- guessing, crowds and floods ------------------------------------------------------------------------------------


def seconds_to_prove(puppet: Puppet) -> float:
    began = time.monotonic()
    assert puppet.call("prove", {}, PASSPHRASE) == {"slot": "passphrase"}
    return time.monotonic() - began


def test_guesses_on_many_connections_at_once_are_one_uids_guesses(service: Service, start: Start) -> None:
    guesser, clerk = (start(uid, groups=(DAEMON,)) for uid in (GUESSER, CLERK))
    guesser.order("gather", str(service.operator_socket), 40)
    clerk.connect(service.operator_socket)
    alone = seconds_to_prove(clerk)
    guesser.order("crowd_ask", "prove", {}, "not the passphrase")
    beside = seconds_to_prove(clerk)  # behind one guess at most
    outcomes = guesser.order("crowd_hear")[0]
    assert sorted(set(outcomes)) == ["throttled", "wrong_passphrase"]
    assert outcomes.count("wrong_passphrase") <= 2  # a second one may come after the first second
    assert beside < 15 * max(alone, seconds_to_prove(clerk))
    guesser.order("disperse")
    guesser.connect(service.operator_socket)
    told: list[object] = []

    def tried() -> bool:
        for passphrase in ("not the passphrase", PASSPHRASE):
            guesser.ask("prove", {}, passphrase)
        told[:] = guesser.hear(), guesser.hear()
        return told[0] == "wrong_passphrase"

    until(tried, "it may not guess any more")
    assert told[1] == "throttled"  # it does not help to be right now


def test_descriptors_that_nobody_asked_for_are_closed(service: Service, start: Start) -> None:
    clerk = start(CLERK, groups=(DAEMON,))
    clerk.connect(service.operator_socket)
    assert isinstance(clerk.call("status"), dict)
    before = service.descriptors()
    request = pack_request(9, "status", {}).hex()
    for _ in range(20):
        clerk.order("flood", request, 4, 5)
        assert [isinstance(clerk.hear(), dict) for _ in range(5)] == [True] * 5
    assert service.settles_at(before)
    for data, descriptors, times in (("94", 4, 30), (request, 253, 3), ("94", 253, 3)):
        clerk.connect(service.operator_socket)
        clerk.order("flood", data, descriptors, times)
        assert service.settles_at(before + MAX_DESCRIPTORS)
    clerk.connect(service.agent_socket)  # there nothing takes descriptors at all
    clerk.order("flood", pack_request(1, "hello", hello()).hex(), 253, 1)
    assert clerk.hear() == "unknown_agent"
    clerk.connect(service.operator_socket)
    assert isinstance(clerk.call("status"), dict)
    # Of who comes again while it is known the cgroup's file is kept, too.
    assert service.settles_at(before + 1)


def test_a_crowd_that_says_nothing_keeps_nobody_from_being_served(service: Service, start: Start) -> None:
    agent, late, desk = agent_of(service, start), start(HERMES), service.desk
    before, memory = service.descriptors(), service.resident()
    crowd = start(STRANGER)
    assert crowd.order("gather", str(service.agent_socket), 2000)[0] == []
    assert service.settles_at(before + 2 + limits.MAX_CONNECTIONS_PER_UID)
    began = time.monotonic()
    assert agent.get() == TOKEN
    late.connect(service.agent_socket)
    assert late.hello("weather", ["WEATHER"]) == "hermes"
    assert isinstance(desk.call("status"), dict)
    assert time.monotonic() - began < 5
    crowd.order("disperse")
    until(lambda: service.descriptors() <= before + 2, "it keeps descriptors")
    assert service.resident() < memory + (16 << 20)


def test_crowds_of_several_uids_do_not_use_up_the_descriptors(start: Start) -> None:
    """Under the limit that a service manager sets, which is 1,024 unless asked for more."""
    prlimit = ("prlimit", "--nofile=1024:16384")
    with system_service(prefix=prlimit) as service:
        furnish(service)
        agent = agent_of(service, start)
        crowds = [start(uid) for uid in range(61001, 61007)]
        for crowd in crowds:
            assert crowd.order("gather", str(service.agent_socket), limits.MAX_CONNECTIONS_PER_UID)[0] == []
        late = start(HERMES)
        late.connect(service.agent_socket)
        assert late.hello("weather", ["WEATHER"]) == "hermes"
        assert agent.get() == TOKEN
        assert isinstance(service.desk.call("status"), dict)
        service.put(TOKEN="another")
        assert agent.get() == "another"
        assert "waiting" not in service.daemon.log.read_text()


# --- a second daemon --------------------------------------------------------------------------------------------------


def second(service: Service, *, home: Path, state: Path, run: Path) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [*service.daemon.command]
    command += ["--home", home, "--state-dir", state, "--runtime-dir", run]
    return subprocess.run(
        command, env=service.daemon.env, check=False, capture_output=True, text=True, timeout=30
    )


def as_it_was(service: Service) -> dict[str, bytes]:
    """What of the first daemon a second one might disturb; the record goes on by itself."""
    places = (service.daemon.home, service.daemon.state_dir, service.daemon.runtime_dir)
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    found = {str(path): path.read_bytes() for path in files if path.suffix == ".json" or "vault" in path.name}
    sockets = {
        str(path): str(path.stat().st_ino).encode() for path in service.daemon.runtime_dir.rglob("*.sock")
    }
    return found | sockets


@pytest.mark.parametrize("shared", ["home", "state", "run"])
def test_a_second_daemon_is_refused_and_disturbs_nothing(
    service: Service, start: Start, shared: str, tmp_path: Path
) -> None:
    daemon = service.daemon
    agent = agent_of(service, start)
    places = {"home": daemon.home, "state": daemon.state_dir, "run": daemon.runtime_dir}
    apart = Path(tempfile.mkdtemp(dir=daemon.folder))
    os.chown(apart, DAEMON, DAEMON)
    service.must("audit_verify")  # the last lines are signed, and the anchor knows
    before = as_it_was(service)
    chosen = {name: place if name == shared else apart / name for name, place in places.items()}
    done = second(service, **chosen)
    shutil.rmtree(apart)
    lines = done.stderr.splitlines()
    assert done.returncode == 1, done.stderr
    assert [line.split(":")[1] for line in lines if line.startswith("avaultd")] == [" error", " hint"], (
        done.stderr
    )
    assert str(places[shared]) in lines[-2]
    assert as_it_was(service) == before
    assert agent.get() == TOKEN
    late = start(HERMES)
    late.connect(service.agent_socket)
    assert late.hello("weather", ["WEATHER"]) == "hermes"
    assert isinstance(service.desk.call("status"), dict)
