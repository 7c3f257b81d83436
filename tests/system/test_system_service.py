"""The system's service: agents under other uids, told apart by the units that the system's manager runs."""

from __future__ import annotations

import subprocess

from support.host import PYTHON, Host
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


def test_a_users_own_manager_cannot_take_the_name_of_a_unit(
    system_service: Installed, user_service: Installed
) -> None:
    host, user = system_service.host, user_service.user
    system_service.make_vault(TOKEN="7250119083:AAF-a-token")
    system_service.grant("cobot/telegram", "TOKEN", units=["cobot.service"])
    command = ["systemd-run", "--user", "--quiet", "--wait", "--pipe", "--unit=cobot.service"]
    program = [f"--setenv=AVAULT_RUNTIME_DIR={system_service.runtime_dir}", PYTHON, "-c", GET]
    assert host.run(*command, *program, user=user).stdout == "unknown_agent\n"


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
