"""From the first client to the last: what the service manager and avaultd do for each other, under both units."""

from __future__ import annotations

import os
import signal
import stat
import time

from support.background import Background
from support.host import PYTHON
from support.units import Installed, socket_units
from support.waiting import until

HEALTHY = 0.5
"""Seconds from a crash to an answer."""


def test_the_first_client_starts_it_and_is_served(service: Installed) -> None:
    assert service.pid == 0
    pid = service.answers()
    assert pid == service.pid
    assert service.show("ActiveState") == "active"
    assert sorted(service.sockets()) == socket_units("user" if service.user else "system")


def test_an_agent_starts_it_too(service: Installed) -> None:
    assert service.desk.connect(service.agent_socket) == "connected"
    assert service.desk.hello() == "uninitialized"
    assert service.pid > 0


def test_it_is_started_with_its_sockets_if_nobody_asks(service: Installed) -> None:
    service.systemctl("stop", *service.sockets())
    service.systemctl("start", service.name)
    assert service.answers() == service.pid


def test_the_manager_shows_the_state_of_the_vault(service: Installed) -> None:
    service.answers()
    service.until_status("uninitialized")
    service.make_vault(A="1")
    service.until_status("unlocked, 1 secret")
    service.put(B="2", C="3")
    service.until_status("unlocked, 3 secrets")
    service.must("lock")
    service.until_status("locked")


def test_one_that_is_stuck_is_restarted_within_twice_the_time(service: Installed) -> None:
    patience = 3
    service.drop_in(f"[Service]\nWatchdogSec={patience}\n")
    before = service.answers()
    os.kill(service.outside, signal.SIGSTOP)
    begun = time.monotonic()
    until(lambda: service.pid not in (0, before), "it is not restarted")
    assert time.monotonic() - begun <= 2 * patience
    assert service.answers() != before
    assert service.show("NRestarts") == "1"


def test_one_that_gives_signs_of_life_is_left_alone(service: Installed) -> None:
    service.drop_in("[Service]\nWatchdogSec=2\n")
    before = service.answers()
    stamp = service.show("WatchdogTimestampMonotonic")
    begun = time.monotonic()
    until(lambda: service.show("WatchdogTimestampMonotonic") != stamp, "no sign of life")
    until(lambda: time.monotonic() - begun > 3, "time stands still")
    assert service.answers() == before


def test_after_a_crash_nobody_is_refused_and_an_answer_comes_soon(service: Installed) -> None:
    """Within half a second; on a slow or busy machine, within four times what a bare interpreter takes to import trio."""
    service.answers()
    spans: list[float] = []
    bound = HEALTHY
    while not spans or (min(spans) > bound and len(spans) < 9):  # a busy machine may be slow once
        begun = time.monotonic()
        service.host.run(PYTHON, "-c", "import trio")
        bound = max(bound, 4 * (time.monotonic() - begun))
        before, outside = service.pid, service.outside
        begun = time.monotonic()
        os.kill(outside, signal.SIGKILL)
        after = service.answers()
        spans.append(time.monotonic() - begun)
        assert after != before
    assert min(spans) <= bound


def test_settings_are_read_again_and_connections_kept(service: Installed) -> None:
    service.make_vault()
    pid = service.pid
    service.configure('log_n = 16\nmax_connections_per_uid = 1\nmemory = "mlock"\n')
    service.systemctl("reload", service.name)
    until(lambda: "the settings were read again; for a restart: memory" in service.log(), service.log)
    until(lambda: service.show("ActiveState") == "active", "it is still reloading")
    assert service.must("status")["pid"] == pid  # on the connection from before
    other = service.host.puppet(service.user or "avault")
    assert other.connect(service.agent_socket) == "connected"
    outcome = other.call("hello", {}) if service.user else "busy"  # two uids there, one here
    assert outcome == "busy"
    other.die()


def test_settings_with_a_mistake_are_left_as_they_were(service: Installed) -> None:
    pid = service.answers()
    service.configure("log_m = 16\n")
    service.systemctl("reload", service.name)
    until(lambda: "the settings are left as they were" in service.log(), service.log)
    until(lambda: service.show("ActiveState") == "active", "it is still reloading")
    assert service.must("status")["pid"] == pid


def test_it_stops_cleanly_and_in_time(service: Installed) -> None:
    service.make_vault(A="1")
    begun = time.monotonic()
    service.systemctl("stop", service.name)
    assert time.monotonic() - begun < 10  # TimeoutStopSec, when it would be killed
    assert service.show("Result") == "success"
    assert "stopping on SIGTERM" in service.log()
    service.unlock()  # the next client starts it again
    assert service.must("status")["secrets"] == 1


def test_a_restart_under_load_loses_nothing_that_was_acknowledged(service: Installed) -> None:
    service.make_vault()
    acknowledged: list[str] = []
    for number in range(3):
        restart = Background(lambda: service.systemctl("restart", service.name))
        for name in (f"S_{number}_{count}" for count in range(1000)):
            item = {"name": name, "size": 1, "encoding": "text"}
            if not isinstance(service.desk.call("put", {"items": [item]}, "x"), dict):
                break
            acknowledged.append(name)
        restart.result()
        service.unlock()
        assert acknowledged == those_there(service, acknowledged)
    assert acknowledged


def those_there(service: Installed, expected: list[str]) -> list[str]:
    """Return those of *expected* that are there."""
    there = {secret["name"] for secret in service.must("list")["secrets"]}
    return [name for name in expected if name in there]


def test_an_agents_own_socket_outlives_restarts_and_crashes(service: Installed) -> None:
    box(service)
    own = service.own_socket("boxed")
    inode = service.host.path(own).stat().st_ino
    assert service.show("NFileDescriptorStore") == "1"
    agent = service.host.puppet(service.desk_user)
    before = service.pid
    os.kill(service.outside, signal.SIGKILL)
    assert agent.connect(own) == "connected"  # whether or not anybody is there already
    assert agent.hello() == "boxed"
    service.systemctl("restart", service.name)
    assert agent.connect(own) == "connected"
    assert agent.hello() == "boxed"
    assert service.pid != before
    assert service.host.path(own).stat().st_ino == inode
    service.unlock()
    assert agent.get() == "7250119083:AAF-a-token"
    service.must("agent_rm", {"agent": "boxed"})
    until(lambda: service.show("NFileDescriptorStore") == "0", "it is still kept")
    agent.die()


def box(service: Installed) -> None:
    """Make an agent with a socket of its own."""
    service.make_vault(TOKEN="7250119083:AAF-a-token")
    uids = [] if service.user else [service.host.uid(service.desk_user)]
    service.must("agent_set", {"agent": "boxed", "socket": True, "uids": uids})
    service.grant("boxed/telegram", "TOKEN")


def test_an_agents_own_socket_is_made_anew_after_a_stop(service: Installed) -> None:
    box(service)
    service.systemctl("stop", service.name)
    service.answers()
    agent = service.host.puppet(service.desk_user)
    assert agent.connect(service.own_socket("boxed")) == "connected"
    assert agent.hello() == "boxed"
    agent.die()


WAIT = """
from avault_client import Vault
with Vault(agent="cobot", plugin="telegram", secrets=["TOKEN"], wait=50) as vault:
    print(vault.get_secret("TOKEN").reveal())
"""


def test_a_client_that_waits_gets_its_secret_after_a_restart(service: Installed) -> None:
    service.make_vault(TOKEN="7250119083:AAF-a-token")
    user = service.desk_user
    service.grant("cobot/telegram", "TOKEN", uids=[service.host.uid(user)])
    service.must("lock")
    waiting = Background(lambda: service.host.run(PYTHON, "-c", WAIT, user=user).stdout)
    until(lambda: "hello" in str(service.must("audit", {"agent": "cobot"})), service.log)
    service.systemctl("restart", service.name)
    assert not waiting.done()
    service.unlock()
    assert waiting.result() == "7250119083:AAF-a-token\n"


def test_who_holds_a_plugin_holds_it_after_a_restart(service: Installed) -> None:
    service.make_vault(TOKEN="7250119083:AAF-a-token")
    user = service.desk_user
    service.grant("cobot/telegram", "TOKEN", uids=[service.host.uid(user)])
    holder, other = service.host.puppet(user), service.host.puppet(user)
    assert holder.connect(service.agent_socket) == "connected"
    assert holder.hello() == "cobot"
    service.systemctl("restart", service.name)
    assert other.connect(service.agent_socket) == "connected"
    assert other.hello() == "already_bound"
    assert holder.connect(service.agent_socket) == "connected"
    assert holder.hello() == "cobot"
    holder.die()
    other.die()


def test_the_sockets_have_the_modes_of_the_design(service: Installed) -> None:
    box(service)
    user = service.user is not None
    for path, mode in {
        service.runtime_dir: 0o700 if user else 0o711,
        service.agent_socket: 0o600 if user else 0o666,
        service.operator_socket: 0o600 if user else 0o660,
        service.own_socket("boxed"): 0o600 if user else 0o666,
    }.items():
        status = service.host.path(path).stat()
        assert (path, stat.S_IMODE(status.st_mode), status.st_uid) == (path, mode, service.uid)


def test_what_it_has_to_say_at_its_start_reaches_the_journal(service: Installed) -> None:
    service.configure("log_m = 16\n")
    service.desk.connect(service.operator_socket)
    until(lambda: "did you mean log_n?" in service.log(), service.log)
