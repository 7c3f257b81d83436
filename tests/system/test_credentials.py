"""avault gives systemd the credentials of units, and is itself unlocked by one, on a machine of a real systemd."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from support.host import PYTHON, SUPPORT, Host
from support.waiting import until

PASSPHRASE = "correct horse battery staple\n"
TOKEN = "7250119083:AAF-a-token"
BYTES = bytes(range(256))
SOCKET = "/run/avault/credentials.sock"
REFUSED = "243"  # EXIT_CREDENTIALS
_numbers = count()


class Machine:
    """A machine with the system's avault on it."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def avault(self, *arguments: str, stdin: bytes | None = None, check: bool = True) -> str:
        """Run `avault` as root, its passphrase in a file that only this machine has."""
        proof = ["--passphrase-file", "/root/passphrase"] if arguments[0] not in FREE else []
        text = stdin.decode("latin-1") if stdin is not None else ""
        return self.host.run("avault", *arguments, *proof, stdin=text, check=check).stdout

    def state(self) -> str:
        return str(json.loads(self.avault("status", "--json"))["state"])

    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.avault("audit", "--json").splitlines()]

    def unit(self, *credentials: str, socket: str = SOCKET, more: str = "") -> Unit:
        """Write a unit that keeps what it was given in /run, and waits."""
        name = f"agent{next(_numbers)}"
        loads = "".join(f"LoadCredential={credential}:{socket}\n" for credential in credentials)
        keep = f"cp $CREDENTIALS_DIRECTORY/* /run/{name}/ && exec sleep 1000"
        text = (
            f"[Service]\nUser=nobody\nRuntimeDirectory={name}\nRuntimeDirectoryPreserve=yes\n{loads}{more}"
            f"ExecStart=/bin/sh -c '{keep}'\n"
        )
        self.host.write(f"/etc/systemd/system/{name}.service", text)
        self.host.run("systemctl", "daemon-reload")
        return Unit(self.host, name)

    def log(self) -> str:
        self.host.run("journalctl", "--sync")
        return self.host.run("journalctl", "--unit=avault-system", "--output=cat").stdout


FREE = ("status", "audit", "lock", "install-service", "requests")


class Unit:
    """One unit that wants credentials."""

    def __init__(self, host: Host, name: str) -> None:
        self.host, self.name = host, name

    @property
    def full(self) -> str:
        return f"{self.name}.service"

    def start(self) -> None:
        self.host.run("systemctl", "start", self.name, check=False)

    def show(self, what: str) -> str:
        return self.host.run("systemctl", "show", self.name, "--value", "-p", what).stdout.strip()

    def got(self, credential: str) -> bytes:
        """Wait until the unit runs; return what it was given."""
        file = self.host.path(f"/run/{self.name}/{credential}")
        until(lambda: file.exists() or self.show("ActiveState") == "failed", f"{self.name} got nothing")
        assert self.show("ActiveState") == "active", self.show("ExecMainStatus")
        until(lambda: self.running_sleep(), "not all was copied")
        return file.read_bytes()

    def running_sleep(self) -> bool:
        pid = self.show("MainPID")
        return pid != "0" and self.host.path(f"/proc/{pid}/comm").read_text() == "sleep\n"

    def refused(self) -> bool:
        """Wait until the unit has failed; report whether that was for its credentials."""
        until(lambda: self.show("ActiveState") == "failed", f"{self.name} does not fail")
        return (
            self.show("ExecMainStatus") == REFUSED and not self.host.path(f"/run/{self.name}/TOKEN").exists()
        )


@pytest.fixture(scope="module")
def machine(host: Host) -> Iterator[Machine]:
    machine = Machine(host)
    host.write("/root/passphrase", PASSPHRASE)
    host.write("/etc/avault/config.toml", "log_n = 16\n")
    host.run("avault", "install-service", "--system")
    machine.avault("init")
    machine.avault("set", "TOKEN", stdin=TOKEN.encode())
    machine.avault("set", "OTHER", stdin=b"another unit's")
    yield machine
    host.run("systemctl", "stop", "agent*.service")
    host.run("sh", "-c", "rm /etc/systemd/system/agent*.service")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "reset-failed")
    host.run("avault", "install-service", "--remove")
    host.run("rm", "-rf", "/var/lib/avault", "/run/avault", "/etc/avault", "/etc/credstore.encrypted")


def test_a_unit_gets_what_is_granted_to_it_and_the_record_says_so(machine: Machine) -> None:
    unit = machine.unit("TOKEN")
    machine.avault("grant", f"{unit.name}/credentials", "TOKEN", "--unit", unit.full)
    unit.start()
    assert unit.got("TOKEN") == TOKEN.encode()
    entry = machine.entries()[-1]
    expected = {"action": "get_secret", "decision": "allowed", "secret": "TOKEN", "agent": unit.name}
    assert entry.items() >= {**expected, "plugin": "credentials", "unit": unit.full, "uid": 0}.items()
    mode = machine.host.path(f"/run/credentials/{unit.full}/TOKEN").stat().st_mode & 0o777
    assert mode == 0o400


def test_bytes_come_as_bytes(machine: Machine) -> None:
    machine.host.path("/root/bytes").write_bytes(BYTES)
    put = "avault set BYTES --passphrase-file /root/passphrase </root/bytes"
    machine.host.run("sh", "-c", put)
    unit = machine.unit("BYTES", "TOKEN")
    machine.avault("grant", f"{unit.name}/credentials", "BYTES", "TOKEN", "--unit", unit.full)
    unit.start()
    assert unit.got("BYTES") == BYTES
    assert unit.got("TOKEN") == TOKEN.encode()


def test_without_a_grant_the_unit_does_not_start_and_the_journal_says_what_to_do(machine: Machine) -> None:
    unit = machine.unit("TOKEN")
    unit.start()
    assert unit.refused()
    grant = f"avault grant {unit.name}/credentials TOKEN --unit {unit.full}"
    (line,) = [line for line in machine.log().splitlines() if grant in line]
    assert line.startswith(f"refused: credential TOKEN of {unit.full}: ")
    assert TOKEN not in machine.log()
    fields = machine.host.run("journalctl", f"AVAULT_UNIT={unit.full}", "AVAULT_SECRET=TOKEN", "-o", "cat")
    assert grant in fields.stdout
    machine.avault(*grant.split()[1:])
    unit.start()
    assert unit.got("TOKEN") == TOKEN.encode()


def test_each_unit_has_its_own_and_none_has_anothers(machine: Machine) -> None:
    one, two = machine.unit("TOKEN"), machine.unit("OTHER")
    machine.avault("grant", f"{one.name}/credentials", "TOKEN", "--unit", one.full)
    machine.avault("grant", f"{two.name}/credentials", "OTHER", "--unit", two.full)
    for unit in (one, two):
        unit.start()
    assert one.got("TOKEN") == TOKEN.encode()
    assert two.got("OTHER") == b"another unit's"
    three = machine.unit("TOKEN", "OTHER")
    machine.avault("grant", f"{three.name}/credentials", "OTHER", "--unit", three.full)
    three.start()
    assert three.refused()


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_a_unit_that_poses_as_another_gets_nothing(machine: Machine, user: str) -> None:
    good = machine.unit("TOKEN")
    machine.avault("grant", f"{good.name}/credentials", "TOKEN", "--unit", good.full)
    address = f"\0abc{next(_numbers)}/unit/{good.full}/TOKEN".encode().hex()
    fetch = f"{PYTHON} -P {SUPPORT}/fetching.py {SOCKET} 0 '' {address}"
    done = machine.host.run(
        *("systemd-run", "--pipe", "--wait", "--collect", f"--uid={user}", "--quiet"),
        *("sh", "-c", fetch),
        check=False,
    )
    if user == "root":
        assert int(done.stdout.splitlines()[0]) > 1024 * 1024, done.stderr
    else:
        assert "PermissionError" in done.stderr
    assert TOKEN.encode().hex() not in done.stdout


def test_a_unit_that_starts_while_locked_waits_also_for_another_daemon(machine: Machine) -> None:
    unit = machine.unit("TOKEN")
    machine.avault("grant", f"{unit.name}/credentials", "TOKEN", "--unit", unit.full)
    machine.avault("lock")
    unit.start()
    until(lambda: "a unit waits for a credential" in machine.log(), "nobody waits")
    machine.host.run("systemctl", "restart", "avault-system")
    machine.host.run("systemctl", "kill", "--signal=KILL", "avault-system")
    until(lambda: machine.state() == "locked", "it is not back")
    assert unit.show("ActiveState") == "active"  # Type=simple: for systemd it runs as soon as it is forked
    assert not unit.running_sleep()
    machine.avault("unlock")
    assert unit.got("TOKEN") == TOKEN.encode()


def test_a_unit_waits_no_longer_than_its_start_may_take(machine: Machine) -> None:
    unit = machine.unit("TOKEN", more="Type=exec\nTimeoutStartSec=1\n")
    machine.avault("grant", f"{unit.name}/credentials", "TOKEN", "--unit", unit.full)
    machine.avault("lock")
    unit.start()
    assert unit.show("Result") == "timeout"
    machine.avault("unlock")
    unit.start()
    assert unit.got("TOKEN") == TOKEN.encode()


def test_a_credential_unlocks_the_vault_at_the_start(machine: Machine) -> None:
    encrypt = (
        "head -c 32 /dev/urandom | base64 -w0 | systemd-creds encrypt --with-key=host --name=avault.passphrase - "
        "/etc/credstore.encrypted/avault.passphrase"
    )
    machine.host.run("install", "-d", "-m", "700", "/etc/credstore.encrypted")
    machine.host.run("sh", "-c", encrypt)
    machine.host.run("systemctl", "restart", "avault-system")
    machine.avault("unlock")
    machine.avault("slot", "add", "systemd-credential")
    assert "systemd-credential" in machine.host.run("avault", "slot", "list").stdout
    machine.host.run("systemctl", "restart", "avault-system")
    until(lambda: machine.state() == "unlocked", machine.log())
    assert machine.entries()[-1].items() >= {"action": "credential_unlock"}.items()
    # A unit that starts with the machine needs nobody.
    unit = machine.unit("TOKEN")
    machine.avault("grant", f"{unit.name}/credentials", "TOKEN", "--unit", unit.full)
    machine.host.run("systemctl", "stop", "avault-system")
    unit.start()
    assert unit.got("TOKEN") == TOKEN.encode()
    # Another one opens nothing.
    machine.host.run("sh", "-c", f"rm /etc/credstore.encrypted/avault.passphrase; {encrypt}")
    machine.host.run("systemctl", "restart", "avault-system")
    until(lambda: "the credential did not unlock it" in machine.log(), "it says nothing")
    assert machine.state() == "locked"
    machine.avault("unlock")


def test_in_the_user_service_the_uid_is_the_identity(machine: Machine) -> None:
    host = machine.host
    host.add_user("una")
    host.linger("una")
    host.write("/home/una/passphrase", PASSPHRASE, "una")
    host.write("/home/una/.config/avault/config.toml", "log_n = 16\n", "una")
    host.run("avault", "install-service", "--user", "--no-linger", user="una")
    proof, uid = ("--passphrase-file", "/home/una/passphrase"), str(host.uid("una"))
    socket = f"/run/user/{uid}/avault/credentials.sock"
    host.run("avault", "init", *proof, user="una")
    host.run("avault", "set", "TOKEN", *proof, user="una", stdin=TOKEN)
    host.run("avault", "grant", "bot/credentials", "TOKEN", "--uid", uid, *proof, user="una")
    run = ("systemd-run", "--user", "--pipe", "--wait", "--quiet", "--collect")
    load = ("-p", f"LoadCredential=TOKEN:{socket}")
    got = host.run(*run, *load, "sh", "-c", "cat $CREDENTIALS_DIRECTORY/TOKEN", user="una").stdout
    assert got == TOKEN
    # And so does any other program of that uid, whatever unit it says that it is.
    address = b"\0abc/unit/whatever.service/TOKEN".hex()
    fetch = [PYTHON, "-P", f"{SUPPORT}/fetching.py", socket, "0", "", address]
    assert host.run(*fetch, user="una").stdout.splitlines()[1] == TOKEN.encode().hex()
