"""A fresh user, and a fresh machine: `avault install-service`, then what a day needs; and `avault doctor` on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from support.host import BIN, Host
from support.waiting import until

PASSPHRASE = "correct horse battery staple\n"
INIT = ("avault", "init", "--log-n", "16", "--passphrase-fd", "0")
_numbers = count()


@pytest.fixture
def user(host: Host) -> Iterator[str]:
    """A user with a manager, as if logged in, and no avault yet."""
    name = f"fresh{next(_numbers)}"
    host.add_user(name)
    host.run("systemctl", "start", f"user@{host.uid(name)}.service")
    until(host.path(f"/run/user/{host.uid(name)}/bus").exists, "no session bus")
    yield name
    host.run("systemctl", "stop", f"user@{host.uid(name)}.service")
    host.run("rm", "-f", f"/var/lib/systemd/linger/{name}")


def doctor(host: Host, user: str | None) -> tuple[int, dict[str, dict[str, Any]]]:
    done = host.run("avault", "doctor", "--json", user=user, check=False)
    assert done.stderr == ""
    return done.returncode, {found["what"]: found for found in json.loads(done.stdout)["findings"]}


def failing(host: Host, user: str | None) -> set[str]:
    status, found = doctor(host, user)
    broken = {what for what, finding in found.items() if finding["level"] == "fail"}
    assert status == (1 if broken else 0)
    return broken


def unit(host: Host, user: str) -> str:
    return str(host.path(f"/home/{user}/.config/systemd/user/avault.service"))


def test_a_fresh_user_installs_it_makes_a_vault_and_all_is_well(host: Host, user: str) -> None:
    assert failing(host, user) == {"daemon"}
    host.run("loginctl", "enable-linger", user)  # where there is polkit, a user may do so, too
    done = host.run("avault", "install-service", "--linger", user=user).stdout.splitlines()
    assert [line.split(":")[0] for line in done] == [
        *["wrote"] * 4,
        "enabled",
        "started",
        "unchanged",
    ]
    host.run(*INIT, user=user, stdin=PASSPHRASE)
    assert json.loads(host.run("avault", "status", "--json", user=user).stdout)["state"] == "unlocked"
    status, found = doctor(host, user)
    assert status == 0, found
    for what in ("daemon", "vault", "seclusion", "confinement", "namespace", "memory limit", "service"):
        assert found[what]["level"] == "ok", found[what]
    for what in ("started by", "linger", "directory", "operator socket", "core dumps", "vault file"):
        assert found[what]["level"] == "ok", found[what]
    assert "refused" in found["seclusion"]["detail"]


def test_done_again_it_changes_nothing(host: Host, user: str) -> None:
    host.run("avault", "install-service", "--no-linger", user=user)
    pid = host.run("systemctl", "--user", "show", "--value", "-p", "MainPID", "avault", user=user).stdout
    again = host.run("avault", "install-service", "--no-linger", user=user).stdout.splitlines()
    assert [line.split(":")[0] for line in again][:5] == ["unchanged"] * 5
    assert again[5].startswith("no linger")
    assert len(again) == 6
    after = host.run("systemctl", "--user", "show", "--value", "-p", "MainPID", "avault", user=user).stdout
    assert after == pid


def test_a_unit_that_was_edited_is_shown_and_kept_unless_it_may_be_replaced(host: Host, user: str) -> None:
    host.run("avault", "install-service", "--no-linger", user=user)
    path = f"/home/{user}/.config/systemd/user/avault.service"
    host.run("sh", "-c", f"echo '# mine' >>{path}", user=user)
    refused = host.run("avault", "install-service", "--no-linger", user=user, check=False)
    assert refused.returncode == 1
    assert "-# mine" in refused.stderr.splitlines()
    assert "drop-in" in refused.stderr
    assert host.path(path).read_text().endswith("# mine\n")
    kept = host.run("avault", "install-service", "--remove", user=user).stdout
    assert f"left, since it was edited: {path}" in kept
    host.run("avault", "install-service", "--no-linger", "--replace", user=user)
    assert "# mine" not in host.path(path).read_text()


def test_a_drop_in_is_left_alone_and_heeded(host: Host, user: str) -> None:
    folder = f"/home/{user}/.config/systemd/user/avault.service.d"
    host.write(f"{folder}/mine.conf", f"[Service]\nEnvironment=AVAULT_HOME=/home/{user}/elsewhere\n", user)
    host.run("avault", "install-service", "--no-linger", user=user)
    host.run("avault", "install-service", "--no-linger", user=user)
    status = json.loads(host.run("avault", "status", "--json", user=user).stdout)
    assert status["home"] == f"/home/{user}/elsewhere"


def test_remove_takes_away_what_was_installed_and_leaves_the_vault(host: Host, user: str) -> None:
    host.run("avault", "install-service", "--no-linger", user=user)
    host.run(*INIT, user=user, stdin=PASSPHRASE)
    done = host.run("avault", "install-service", "--remove", user=user).stdout
    assert done.count("removed: ") == 4
    assert host.run("systemctl", "--user", "is-active", "avault", user=user, check=False).stdout != "active\n"
    units = host.path(f"/home/{user}/.config/systemd/user")
    assert [path.name for path in units.rglob("avault*")] == []
    assert host.path(f"/home/{user}/.local/share/avault/vault.jsonl").exists()
    again = host.run("avault", "install-service", "--remove", user=user).stdout.splitlines()
    assert again == ["the vault, the record and the settings stay where they are"]


def test_a_daemon_that_was_started_by_hand_is_not_pushed_aside(host: Host, user: str) -> None:
    host.run(
        "avault", "init", "--start", "--log-n", "16", "--passphrase-fd", "0", user=user, stdin=PASSPHRASE
    )
    refused = host.run("avault", "install-service", "--no-linger", user=user, check=False)
    assert refused.returncode == 1
    assert "was not started by its unit" in refused.stderr
    assert host.run("avault", "status", user=user).returncode == 0
    pid = json.loads(host.run("avault", "status", "--json", user=user).stdout)["pid"]
    host.run("kill", str(pid))
    until(lambda: not host.path(f"/proc/{pid}").exists(), "it does not end")
    host.run("avault", "install-service", "--no-linger", user=user)


def test_an_installation_in_an_odd_place_runs_from_there(host: Host, user: str) -> None:
    odd = f"/home/{user}/a b %h %% $HOME ${{HOME}} ; @-é"
    host.run("mkdir", odd, user=user)
    for program in ("avault", "avaultd"):
        host.run("cp", f"{BIN}/{program}", odd, user=user)
    host.run(f"{odd}/avault", "install-service", "--no-linger", user=user)
    pid = json.loads(host.run("avault", "status", "--json", user=user).stdout)["pid"]
    assert f"{odd}/avaultd" in host.run("cat", f"/proc/{pid}/cmdline", user=user).stdout.split("\0")


def test_an_installation_where_systemd_runs_nothing_from_is_refused(host: Host, user: str) -> None:
    odd = f'/home/{user}/a "b"'
    host.run("mkdir", odd, user=user)
    for program in ("avault", "avaultd"):
        host.run("cp", f"{BIN}/{program}", odd, user=user)
    refused = host.run(f"{odd}/avault", "install-service", "--no-linger", user=user, check=False)
    assert refused.returncode == 1
    assert "systemd runs no program of such a name" in refused.stderr


def test_linger_is_asked_for_and_once_only(host: Host, user: str) -> None:
    assert "no linger" in host.run("avault", "install-service", user=user).stdout  # no terminal to ask on
    assert not host.path(f"/var/lib/systemd/linger/{user}").exists()
    host.run("loginctl", "enable-linger", user)
    assert "unchanged: linger" in host.run("avault", "install-service", "--linger", user=user).stdout


def test_doctor_names_what_is_broken_one_by_one(host: Host, user: str) -> None:
    host.run("avault", "install-service", "--no-linger", user=user)
    host.run(*INIT, user=user, stdin=PASSPHRASE)
    run, home = f"/run/user/{host.uid(user)}/avault", f"/home/{user}/.local/share/avault"
    for path, wrong, right, what in (
        (run, "755", "700", "directory"),
        (f"{run}/agent.sock", "666", "600", "agent socket"),
        (f"{run}/operator.sock", "606", "600", "operator socket"),
        (home, "750", "700", "vault directory"),
        (f"{home}/vault.jsonl", "644", "600", "vault file"),
    ):
        assert failing(host, user) == set()
        host.run("chmod", wrong, path, user=user)
        assert failing(host, user) == {what}
        host.run("chmod", right, path, user=user)
    host.run("systemctl", "--user", "disable", "avault-agent.socket", user=user)
    status, found = doctor(host, user)
    assert (status, found["service"]["level"]) == (0, "warn")
    assert "avault-agent.socket" in found["service"]["detail"]
    assert found["service"]["mend"] == "run: avault install-service --user"
    host.run("avault", "install-service", "--no-linger", user=user)
    assert doctor(host, user)[1]["service"]["level"] == "ok"
    host.run(
        "systemctl",
        "--user",
        "stop",
        "avault-agent.socket",
        "avault-operator.socket",
        "avault-credentials.socket",
        "avault",
        user=user,
    )
    assert failing(host, user) == {"daemon", "service"}


def test_a_socket_that_was_removed_comes_back_by_the_mend(host: Host, user: str) -> None:
    host.run("avault", "install-service", "--no-linger", user=user)
    host.run("rm", f"/run/user/{host.uid(user)}/avault/agent.sock", user=user)
    assert failing(host, user) == {"agent socket"}
    mend = doctor(host, user)[1]["agent socket"]["mend"]
    host.run("sh", "-ec", mend.removeprefix("run: ").partition("; without")[0], user=user)
    assert failing(host, user) == set()


def test_a_service_that_failed_too_often_comes_back_when_its_settings_are_mended(
    host: Host, user: str
) -> None:
    settings = f"/home/{user}/.config/avault/config.toml"
    host.run("avault", "install-service", "--no-linger", user=user)
    host.write(settings, "log_m = 16\n", user)
    host.run("systemctl", "--user", "restart", "avault.service", user=user, check=False)
    until(lambda: failing(host, user) == {"daemon", "service"}, lambda: str(doctor(host, user)))
    host.write(settings, "", user)
    host.run("avault", "install-service", "--no-linger", user=user)
    assert failing(host, user) == set()


@pytest.mark.parametrize(
    ("drop_in", "what"),
    [
        ("LimitMEMLOCK=1M", "daemon"),
        ("LimitNOFILE=512", "descriptors"),
        ("PrivateUsers=yes", "namespace"),
    ],
)
def test_doctor_names_what_a_drop_in_spoils(host: Host, user: str, drop_in: str, what: str) -> None:
    folder = f"/home/{user}/.config/systemd/user/avault.service.d"
    host.write(f"{folder}/mine.conf", f"[Service]\n{drop_in}\n", user)
    host.run("avault", "install-service", "--no-linger", user=user)
    level = "warn" if what == "descriptors" else "fail"
    status, found = doctor(host, user)
    assert found[what]["level"] == level, found
    assert found[what]["mend"]
    assert status == (0 if level == "warn" else 1)


def test_log_lines_are_in_the_journal_with_their_fields(host: Host, user: str) -> None:
    host.run("avault", "install-service", "--no-linger", user=user)
    host.run(*INIT, user=user, stdin=PASSPHRASE)
    agent = "from avault_client import Vault; Vault(agent='nobody', plugin='telegram', secrets=['TOKEN']).get_secret('TOKEN')"
    refused = host.run(f"{BIN}/python", "-c", agent, user=user, check=False)
    assert "UnknownAgentError" in refused.stderr

    def lines() -> list[dict[str, str]]:
        shown = host.run(
            "journalctl", "--quiet", "--output=json", "AVAULT_AGENT=nobody", f"_UID={host.uid(user)}"
        ).stdout
        return [json.loads(line) for line in shown.splitlines()]

    until(lines, "nothing is in the journal")
    [line] = lines()
    assert (line["AVAULT_ACTION"], line["AVAULT_PLUGIN"], line["AVAULT_REASON"]) == (
        "hello",
        "telegram",
        "unknown_agent",
    )
    assert (line["PRIORITY"], line["SYSLOG_IDENTIFIER"], line["_TRANSPORT"]) == ("6", "avaultd", "journal")
    assert line["CODE_FILE"].endswith("echo.py")


def test_a_locked_session_locks_the_vault(host: Host, user: str) -> None:
    host.write(f"/home/{user}/.config/avault/config.toml", 'lock_on = ["suspend", "screen-lock"]\n', user)
    host.run("avault", "install-service", "--no-linger", user=user)
    host.run(*INIT, user=user, stdin=PASSPHRASE)
    host.add_user(f"{user}b")
    for name in (f"{user}b", user):
        host.run(
            "systemd-run",
            f"--uid={name}",
            "-p",
            "PAMName=login",
            f"--unit=session-of-{name}",
            "sleep",
            "1000",
        )

    def state() -> str:
        return str(json.loads(host.run("avault", "status", "--json", user=user).stdout)["state"])

    def session(name: str) -> str:
        rows = host.run("loginctl", "list-sessions", "--no-legend").stdout.splitlines()
        return next((row.split()[0] for row in rows if row.split()[2] == name), "")

    for name in (f"{user}b", user):
        until(lambda name=name: session(name), "no session")  # type: ignore[misc]
    assert state() == "unlocked"
    host.run("loginctl", "lock-session", session(f"{user}b"))
    delays = host.run("systemd-inhibit", "--list", "--no-legend").stdout
    assert [line.split()[0] for line in delays.splitlines() if user in line and " sleep " in line] == [
        "avault"
    ]
    assert state() == "unlocked"
    host.run("loginctl", "lock-session", session(user))
    until(lambda: state() == "locked", "it does not lock")
    assert "screen-lock" in host.run("avault", "audit", user=user).stdout


# --- the system's service ---------------------------------------------------------------------------------------------


def test_a_fresh_machine_installs_it_and_operators_use_it(host: Host) -> None:
    host.add_user("ann")
    try:
        denied = host.run("avault", "install-service", "--system", user="ann", check=False)
        assert "only root installs a system service" in denied.stderr
        done = host.run("avault", "install-service").stdout
        assert done.count("wrote: ") == 5
        host.run("usermod", "--append", "--groups", "avault-operators", "ann")
        host.run(*INIT, user="ann", stdin=PASSPHRASE)
        assert json.loads(host.run("avault", "status", "--json", user="ann").stdout)["service"] == "system"
        for who in ("ann", None):
            status, found = doctor(host, who)
            assert status == 0, found
            for what in (
                "seclusion",
                "confinement",
                "namespace",
                "memory",
                "service",
                "operators",
                "started by",
            ):
                assert found[what]["level"] == "ok", (who, found[what])
        assert host.run("avault", "install-service").stdout.count("unchanged: ") == 6
        host.run("chmod", "666", "/run/avault/operator.sock")
        assert failing(host, "ann") == {"operator socket"}
    finally:
        host.run("avault", "install-service", "--remove")
        host.run("rm", "-rf", "/var/lib/avault")
    assert host.run("systemctl", "is-active", "avault-system", check=False).stdout != "active\n"


def test_the_system_service_is_not_run_from_where_others_write(host: Host) -> None:
    host.add_user("bob")
    host.run("mkdir", "/opt/shared")
    for program in ("avault", "avaultd"):
        host.run("cp", f"{BIN}/{program}", "/opt/shared")
    host.run("chown", "bob", "/opt/shared")
    refused = host.run("/opt/shared/avault", "install-service", check=False)
    assert "others than root may replace" in refused.stderr
    host.run("cp", "-r", "/opt/shared", "/root/shared")
    refused = host.run("/root/shared/avault", "install-service", check=False)
    assert "sees no home directories" in refused.stderr
    assert not host.path("/etc/systemd/system/avault-system.service").exists()
