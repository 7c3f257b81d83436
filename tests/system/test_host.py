"""The machine that the other tests run on is what they take it for."""

from __future__ import annotations

from pathlib import Path

from support.host import BIN, Host


def test_systemd_runs_it_and_nothing_failed(host: Host) -> None:
    assert host.run("cat", "/proc/1/comm").stdout == "systemd\n"
    failed = host.run("systemctl", "--failed", "--plain", "--no-legend").stdout
    assert failed == ""


def test_users_have_managers_of_their_own(host: Host) -> None:
    host.add_user("lena")
    host.linger("lena")
    assert host.run("systemctl", "--user", "is-system-running", user="lena").stdout == "running\n"


def test_the_avault_inside_is_this_one(host: Host) -> None:
    host.add_user("kim")
    where = "import avault_daemon, avault_client; print(avault_daemon.__path__[0], avault_client.__path__[0])"
    printed = host.run(f"{BIN}/python", "-c", where, user="kim").stdout
    assert printed == "/opt/avault/source/daemon/avault_daemon /opt/avault/source/client/avault_client\n"
    assert host.run("avaultd", "--version", user="kim").stdout.startswith("avaultd ")


def test_what_is_written_there_is_written_nowhere_else(host: Host) -> None:
    host.write("/etc/avault-was-here", "yes")
    assert host.path("/etc/avault-was-here").read_text() == "yes"
    assert not Path("/etc/avault-was-here").exists()
