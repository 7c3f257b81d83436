"""The system's service: agents under other uids, told apart by the units that the system's manager runs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from support.campaign import report
from support.host import PYTHON, SUPPORT, Host
from support.units import Installed

GET = """
from avault_client import AvaultError, Vault
try:
    with Vault(plugin="telegram", secrets=["TOKEN"]) as vault:
        print(vault.get_secret("TOKEN").reveal())
except AvaultError as error:
    print(error.code)
"""


def asked_by(host: Host, unit: str, user: str, *options: str) -> str:
    """Return what an agent gets that the system's manager runs as *unit*, under *user*."""
    command = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--unit={unit}", f"--uid={user}"]
    done: subprocess.CompletedProcess[str] = host.run(*command, *options, PYTHON, "-c", GET, check=False)
    return done.stdout


def test_a_unit_gets_what_is_granted_to_it_and_another_gets_nothing(system_service: Installed) -> None:
    host = system_service.host
    system_service.make_vault(TOKEN="7250119083:AAF-a-token")
    system_service.grant("cobot/telegram", "TOKEN", units=["cobot.service"])
    assert system_service.must("status")["boundary"] == "own uid"
    agent = system_service.desk_user
    assert asked_by(host, "cobot.service", agent) == "7250119083:AAF-a-token\n"
    assert asked_by(host, "other.service", agent) == "unknown_agent\n"
    assert (
        host.run("setpriv", f"--reuid={agent}", "--clear-groups", PYTHON, "-c", GET).stdout
        == "unknown_agent\n"
    )


# Ways to pass for cobot.service as its own uid, which has a manager of its own: what a process of it runs.
UNIT = "cobot.service"
AS_UNIT = f"/sys/fs/cgroup/system.slice/{UNIT}"
MOVE = f'echo 0 >{AS_UNIT}/cgroup.procs; exec "$@"'
NEST = f'mkdir $0/{UNIT} && echo 0 >$0/{UNIT}/cgroup.procs; exec "$@"'
DELEGATED = ("systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--property=Delegate=yes")
NOT_STARTED = "trusted name asked of the system's manager"
WAYS: dict[str, Callable[[str], list[str]]] = {
    "stranger": lambda user: [],
    "trusted name in the user's manager": lambda user: [
        *("systemd-run", "--user", "--quiet", "--wait", "--pipe", "--collect", f"--unit={UNIT}"),
        "--setenv=AVAULT_RUNTIME_DIR=/run/avault",
    ],
    NOT_STARTED: lambda user: [
        "systemd-run",
        "--wait",
        "--pipe",
        f"--unit={UNIT}",
    ],
    "moved cgroup": lambda user: ["sh", "-c", MOVE, "sh"],
    "double fork": lambda user: ["sh", "-c", '(setsid "$@" &) | cat', "sh"],
}
AS_ROOT: dict[str, Callable[[str], list[str]]] = {
    "another unit": lambda user: [*DELEGATED, f"--uid={user}", "--unit=other.service"],
    "moved cgroup, from a unit that has its own": lambda user: [
        *(*DELEGATED, f"--uid={user}", "--unit=other.service", "sh", "-c", MOVE, "sh"),
    ],
    "trusted name below another unit": lambda user: [
        *(*DELEGATED, f"--uid={user}", "--unit=other.service"),
        *("sh", "-c", NEST, "/sys/fs/cgroup/system.slice/other.service"),
    ],
}
"""Units that root has made for that uid, as it would any; what runs in them is the attacker's."""
GIVEN = "7250119083:AAF-a-token"


def said_to(service: Installed, user: str) -> dict[str, str]:
    """Try each way as *user*; return what each is told. The unit itself, which is there meanwhile, gets the secret."""
    host = service.host
    host.run("systemd-run", "--collect", f"--unit={UNIT}", f"--uid={user}", "sleep", "1000")
    here = {"AVAULT_RUNTIME_DIR": service.runtime_dir}  # it has a service of its own, too
    tried = {
        way: host.run(*command(user), PYTHON, "-c", GET, user=who, env=here, check=False)
        for ways, who in ((WAYS, user), (AS_ROOT, None))
        for way, command in ways.items()
    }
    host.run("systemctl", "stop", UNIT)
    assert asked_by(host, UNIT, user) == f"{GIVEN}\n"
    return {way: done.stdout.strip() for way, done in tried.items()}


def test_no_way_passes_for_a_unit(system_service: Installed, user_service: Installed) -> None:
    system_service.make_vault(TOKEN=GIVEN)
    system_service.grant("cobot/telegram", "TOKEN", units=[UNIT])
    outcomes = said_to(system_service, user_service.desk_user)
    report(f"passing for a unit of a real systemd: {outcomes}; the unit itself gets it")
    assert outcomes.pop(NOT_STARTED) == ""
    assert set(outcomes.values()) == {"unknown_agent"}


def test_who_believes_any_unit_is_deceived(system_service: Installed, user_service: Installed) -> None:
    weakened = f"{PYTHON} -P {SUPPORT}/weakened.py 'by any unit' --runtime-dir=/run/avault"
    system_service.drop_in(f"[Service]\nExecStart=\nExecStart={weakened}\n")
    system_service.make_vault(TOKEN=GIVEN)
    system_service.grant("cobot/telegram", "TOKEN", units=[UNIT])
    outcomes = said_to(system_service, user_service.desk_user)
    deceived = [way for way, told in outcomes.items() if told == GIVEN]
    report(f"control, it believes any unit: {deceived}")
    assert deceived == ["trusted name in the user's manager", "trusted name below another unit"]


def test_a_uid_and_a_unit_must_both_fit(system_service: Installed, host: Host) -> None:
    system_service.make_vault(TOKEN="7250119083:AAF-a-token")
    uid = host.uid(system_service.desk_user)
    system_service.grant("cobot/telegram", "TOKEN", units=["cobot.service"], uids=[uid])
    assert asked_by(host, "cobot.service", system_service.desk_user) == "7250119083:AAF-a-token\n"
    assert asked_by(host, "cobot.service", "nobody") == "unknown_agent\n"


def test_only_operators_reach_the_operators_socket(system_service: Installed, host: Host) -> None:
    system_service.make_vault()
    stranger = host.puppet("nobody")
    assert stranger.connect(system_service.operator_socket) == "EACCES"
    assert stranger.connect(system_service.agent_socket) == "connected"
    stranger.die()
