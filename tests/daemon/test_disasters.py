"""What a full disk and a damaged file leave of a real daemon's vault: all that was acknowledged.

Kills, power cuts and calls that fail have campaigns of their own, in tests/faults.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pytest

from support.attackers import Line, Outcome, hello
from support.daemon import CHEAP, running_daemon
from support.services import PASSPHRASE, Service, user_service

TOKEN = "7250119083:AAF-a-token"
SMALL = 512 * 1024
"""Bytes of a disk that is soon full."""


def agent(service: Service) -> Line:
    """Connect as a plugin, in this process."""
    line = Line.to(str(service.agent_socket))
    assert isinstance(line.call("hello", hello("telegram", ["TOKEN"])), dict)
    return line


def furnish(service: Service) -> None:
    service.put(TOKEN=TOKEN)
    service.grant("cobot/telegram", "TOKEN", uids=[os.getuid()])


# --- a full disk --------------------------------------------------------------------------------------------------


@dataclass
class Disk:
    """A small disk of one directory, which only the daemon has mounted there; *seen* is where the test sees it."""

    seen: Path

    @property
    def filler(self) -> Path:
        return self.seen / "filler"

    def fill(self, leave: int = 0) -> None:
        """Leave so many bytes."""
        disk = os.statvfs(self.seen)
        with self.filler.open("ab") as file:
            file.write(bytes(disk.f_bavail * disk.f_frsize - leave))

    def free(self) -> None:
        self.filler.unlink()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[tuple[Service, Disk, Disk]]:
    """A service whose home and whose state directory are on small disks of their own."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    home, state = tmp_path / "home", tmp_path / "state"
    for directory in (home, state):
        directory.mkdir()
    mounts = " && ".join(f"mount -t tmpfs -o size={SMALL},mode=700 small {path}" for path in (home, state))
    script = f"{mounts} && echo mounted && exec sleep 1000"
    with subprocess.Popen(["unshare", "--mount", "sh", "-c", script], stdout=subprocess.PIPE) as keeper:
        try:
            assert keeper.stdout is not None
            if keeper.stdout.readline() != b"mounted\n":
                pytest.skip("this root may not mount")
            command = ["nsenter", f"--mount=/proc/{keeper.pid}/ns/mnt", *CHEAP]
            with user_service(tmp_path, command=command, config="") as service:
                furnish(service)
                root = Path(f"/proc/{keeper.pid}/root")
                yield service, Disk(root / home.relative_to("/")), Disk(root / state.relative_to("/"))
        finally:
            keeper.kill()


def big(letter: str) -> str:
    return letter * 8192


def test_where_the_vault_is_full_nothing_acknowledged_is_lost(small: tuple[Service, Disk, Disk]) -> None:
    service, home, _ = small
    kept = {"TOKEN": TOKEN}
    plugin = agent(service)
    home.fill(leave=96 * 1024)
    refused: Outcome | None = None
    for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz"):
        outcome = service.desk.call("put", put(f"N{number}", big(letter)), big(letter))
        if not isinstance(outcome, dict):
            refused = outcome
            break
        kept[f"N{number}"] = big(letter)
    assert refused == "storage_failed"
    assert hint_of(service.desk) == "mend the disk, then restart avaultd: it reads what is really there"
    assert len(kept) > 3
    assert service.desk.call("put", put("N", "x"), "x") == "storage_failed"  # until it is known what is there
    assert "restart" in str(service.desk.error)
    # Others notice nothing of it.
    assert plugin.call("get_secret", {"name": "TOKEN"}) == TOKEN
    assert {name: service.desk.call("reveal", {"name": name}) for name in kept} == kept
    assert service.desk.call("lock") == {}
    assert service.must("status")["state"] == "locked"
    assert isinstance(service.unlock(), dict)
    # It starts again, on a disk that is as full as it was, and then on one that is not.
    service.restart(signal.SIGKILL)
    assert {name: service.desk.call("reveal", {"name": name}) for name in kept} == kept
    assert service.desk.call("put", put("N", "x"), "x") == "storage_failed"
    assert any("never finished" in warning for warning in service.must("status")["warnings"])
    home.free()
    service.restart()
    assert {name: service.desk.call("reveal", {"name": name}) for name in kept} == kept
    service.put(TOKEN="another")
    assert service.desk.call("reveal", {"name": "TOKEN"}) == "another"
    plugin.close()


def put(name: str, value: str) -> dict[str, object]:
    return {"items": [{"name": name, "size": len(value), "encoding": "text"}], "replace": True}


def hint_of(line: Line) -> str | None:
    assert line.error is not None
    return line.error.hint


def test_where_the_record_is_full_nothing_is_served(small: tuple[Service, Disk, Disk]) -> None:
    service, _, state = small
    plugin = agent(service)
    served = sum(plugin.call("get_secret", {"name": "TOKEN"}) == TOKEN for _ in range(3))
    state.fill()
    outcomes = [plugin.call("get_secret", {"name": "TOKEN"}) for _ in range(200)]
    assert set(outcomes) <= {TOKEN, "audit_failed"}  # what still fits into the last block is served
    assert outcomes[-1] == "audit_failed"
    assert hint_of(plugin) == "is the disk full? see: avault status"
    served += outcomes.count(TOKEN)
    for method, params, value in (
        ("reveal", {"name": "TOKEN"}, None),
        ("put", put("N", "x"), "x"),
        ("rm", {"name": "TOKEN"}, None),
        ("grant", {"agent": "cobot", "plugin": "other", "secrets": ["TOKEN"]}, None),
    ):
        assert service.desk.call(method, params, value) == "audit_failed"
    late = Line.to(str(service.agent_socket))
    assert late.call("hello", hello("late")) == "audit_failed"
    late.close()
    status = service.must("status")
    assert status["record"]["ok"] is False
    assert any("record could not be written" in warning for warning in status["warnings"])
    assert service.desk.call("lock") == {}
    assert service.must("status")["state"] == "locked"
    state.free()
    assert isinstance(service.unlock(), dict)
    assert plugin.call("get_secret", {"name": "TOKEN"}) == TOKEN
    served += 1
    entries = service.must("audit")["entries"]
    assert (
        sum(entry["action"] == "get_secret" and entry["decision"] == "allowed" for entry in entries) == served
    )
    assert service.must("audit_verify")["ok"] is True
    service.put(TOKEN="another")
    assert plugin.call("get_secret", {"name": "TOKEN"}) == "another"
    plugin.close()


def test_it_starts_on_disks_that_are_full(small: tuple[Service, Disk, Disk]) -> None:
    service, home, state = small
    home.fill()
    state.fill()
    service.daemon.restart(signal.SIGKILL)
    service.open_desk()
    assert service.must("status")["state"] == "locked"
    outcome = service.unlock()
    assert outcome == "audit_failed" or isinstance(outcome, dict)
    assert service.desk.call("lock") == {}
    home.free()
    state.free()
    service.restart()
    assert service.desk.call("reveal", {"name": "TOKEN"}) == TOKEN
    assert service.must("audit_verify")["ok"] is True


# --- damage -------------------------------------------------------------------------------------------------------

COPY = "a passphrase for the copy"


def flip(path: Path, number: int) -> None:
    """Change one bit in the middle of a line."""
    lines = path.read_bytes().splitlines(keepends=True)
    line = bytearray(lines[number])
    line[len(line) // 2] ^= 1
    lines[number] = bytes(line)
    path.write_bytes(b"".join(lines))


def flip_a_secret(path: Path) -> None:
    flip(path, 2)


def flip_the_slot(path: Path) -> None:
    flip(path, 0)


def lose_a_line(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))


def lose_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def lose_it(path: Path) -> None:
    path.unlink()


def roll_back(path: Path) -> None:
    path.write_bytes(path.with_name("older").read_bytes())


Damage: TypeAlias = tuple[Callable[[Path], None], str, str, bool]
# What is done to the file, the code of what comes of it, a word of the message, and whether the old passphrase is of
# any use to prove.
DAMAGES: list[Damage] = [
    (flip_a_secret, "corrupt", "line 3 of the vault file", True),
    (flip_the_slot, "corrupt", "line 1 of the vault file", False),
    (lose_a_line, "corrupt", "line ", True),
    (lose_the_end, "rollback", "line ", True),
    (roll_back, "rollback", "line ", True),
    (lose_it, "rollback", "is gone", False),
]


@dataclass
class Damaged:
    """A service whose vault file has come to harm; *folder* has the file as it was, and an export of it."""

    service: Service
    folder: Path

    def avault(self, *arguments: str, passphrase: str | None = None) -> tuple[int, str]:
        """Run the command; return its exit status and what it says of errors."""
        given = None if passphrase is None else passphrase.encode()
        done = self.service.daemon.avault(*arguments, passphrase=given)
        return done.returncode, done.stderr.decode()

    def restore(self, file: str, copys: str, passphrase: str | None = None) -> tuple[int, str]:
        """Run `avault restore-vault` with the copy's passphrase in a file, and the old vault's, if it is given."""
        secret = self.folder / "copy-passphrase"
        secret.write_text(copys)
        arguments = ("restore-vault", str(self.folder / file), "--copy-passphrase-file", str(secret))
        return self.avault(*arguments, passphrase=passphrase)

    def check(self, passphrase: str) -> None:
        """All is well again: it serves, writes, verifies, and does so after a restart."""
        service = self.service
        for _ in range(2):
            assert self.avault("audit", "--verify") == (0, "")
            service.daemon.restart()
            service.open_desk()
            assert isinstance(service.desk.call("unlock", {}, passphrase), dict)
            assert service.desk.call("reveal", {"name": "TOKEN"}) == TOKEN
            assert service.must("audit_verify")["ok"] is True
            assert service.must("status")["warnings"] == []
            service.put(N="new")


@pytest.fixture(params=DAMAGES, ids=lambda damage: damage[0].__name__)
def damage(request: pytest.FixtureRequest) -> Damage:
    found: Damage = request.param
    return found


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the home and the state of a service, an older file of its vault, and a copy."""
    folder = tmp_path_factory.mktemp("template")
    with user_service(folder, command=CHEAP, config="") as service:
        furnish(service)
        file = service.daemon.home / "vault.jsonl"
        with (folder / "export").open("wb") as copy:
            assert service.desk.call("export", {}, COPY, [copy.fileno()]) == {}
        file.with_name("older").write_bytes(file.read_bytes())
        service.put(TOKEN=TOKEN)
        assert service.must("audit_verify")["ok"] is True
    (folder / "good").write_bytes(file.read_bytes())
    shutil.rmtree(folder / "run")
    return folder


@pytest.fixture
def damaged(tmp_path: Path, template: Path, damage: Damage) -> Iterator[Damaged]:
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    damage[0](tmp_path / "home" / "vault.jsonl")
    with running_daemon(tmp_path, command=CHEAP, config="") as daemon:
        service = Service(daemon, Line.to(str(daemon.runtime_dir / "operator.sock")))
        yield Damaged(service, tmp_path)
        service.desk.close()


def test_a_damaged_vault_says_so_and_serves_nothing(damaged: Damaged, damage: Damage) -> None:
    _, code, word, _ = damage
    service = damaged.service
    status = service.must("status")
    assert status["state"] == "locked"
    assert [word in warning for warning in status["warnings"]] == [True]
    assert service.unlock() == code
    assert word in str(service.desk.error)
    assert str(hint_of(service.desk)).startswith("avault restore-vault FILE")
    exit_status, said = damaged.avault("unlock", passphrase=PASSPHRASE)
    assert exit_status == 8
    assert word in said
    assert "hint: avault restore-vault FILE" in said
    assert service.desk.call("init", {}, PASSPHRASE) == "bad_request"
    plugin = Line.to(str(service.agent_socket))
    assert plugin.call("hello", hello()) == "unknown_agent"
    plugin.close()
    assert damaged.avault("audit", "--verify")[0] == 0


def test_the_file_as_it_was_comes_back_by_its_own_passphrase(damaged: Damaged) -> None:
    """It is under the key that is remembered, so who opens it has proven; an older one of the same vault as well."""
    status, said = damaged.restore("good", PASSPHRASE)
    assert status == 0, said
    damaged.check(PASSPHRASE)


def test_an_export_comes_back_with_proof_where_there_is_anything_to_prove_by(
    damaged: Damaged, damage: Damage
) -> None:
    provable, service = damage[3], damaged.service
    if provable:
        assert damaged.restore("export", COPY)[0] == 7  # there is no terminal to ask for it
        status, said = damaged.restore("export", COPY, PASSPHRASE)
        assert status == 0, said
        damaged.check(COPY)
        return
    # Nobody is asked for a passphrase that nothing could be compared with.
    status, said = damaged.restore("export", COPY)
    assert status == 8
    anchor = service.daemon.state_dir / "anchor.json"
    assert f"hint: move {service.daemon.home / 'vault.jsonl'} and {anchor} away, restart avaultd" in said
    (service.daemon.home / "vault.jsonl").unlink(missing_ok=True)
    anchor.unlink()
    service.daemon.restart()
    status, said = damaged.restore("export", COPY)
    assert status == 0, said
    damaged.check(COPY)


@pytest.mark.parametrize("damage", [DAMAGES[0], DAMAGES[1]], ids=["provable", "not"], indirect=True)
def test_nobody_else_puts_a_vault_in_the_place_of_a_damaged_one(
    damaged: Damaged, damage: Damage, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whoever reaches the socket and knows no passphrase of this vault does not get theirs under the operator."""
    with user_service(tmp_path_factory.mktemp("other"), command=CHEAP, config="") as other:
        (damaged.folder / "foreign").write_bytes((other.daemon.home / "vault.jsonl").read_bytes())
    before = damaged.service.must("status")["vault"]
    assert damaged.service.unlock() == damage[1]
    assert damaged.restore("foreign", PASSPHRASE)[0] == (7 if damage[3] else 8)
    assert damaged.restore("good", "not the passphrase")[0] == 7
    assert damaged.service.must("status")["vault"] == before
    entries = [
        entry for entry in damaged.service.must("audit")["entries"] if entry["action"] == "restore_vault"
    ]
    assert [entry["decision"] for entry in entries[:2]] == ["allowed", "refused"]
