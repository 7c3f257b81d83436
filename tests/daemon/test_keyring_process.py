"""A real `avaultd`, confined as ever, with its helper and a real Secret Service (gnome-keyring)."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from avault_daemon.phone.stores import POINTER
from support.daemon import CONFIG, RunningDaemon, running_daemon
from support.house import PASSPHRASE
from support.keyrings import SecretService, secret_service
from support.memory import check
from support.telephone import real_phone
from support.waiting import until

KEYRING = CONFIG + "keyring = true\nnetwork = true\n"


@pytest.fixture
def service(tmp_path: Path) -> Generator[SecretService]:
    folder = tmp_path / "session"
    folder.mkdir()
    with secret_service(folder) as service:
        yield service


@contextmanager
def daemon_in(folder: Path, env: dict[str, str], config: str = KEYRING) -> Generator[RunningDaemon]:
    with running_daemon(folder, config=config, env={"DBUS_SESSION_BUS_ADDRESS": "", **env}) as daemon:
        yield daemon


def bus(service: SecretService) -> dict[str, str]:
    return {"DBUS_SESSION_BUS_ADDRESS": service.env["DBUS_SESSION_BUS_ADDRESS"]}


def must(daemon: RunningDaemon, *words: str, proof: bool = False) -> dict[str, Any]:
    """Run a command that succeeds; return what it says as JSON."""
    done = daemon.avault(*words, "--json", passphrase=PASSPHRASE if proof else None)
    assert done.returncode == 0, done.stderr.decode()
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def refused(daemon: RunningDaemon, *words: str, proof: bool = False) -> str:
    """Run a command that fails; return its complaint."""
    done: subprocess.CompletedProcess[bytes] = daemon.avault(*words, passphrase=PASSPHRASE if proof else None)
    assert done.returncode != 0
    return done.stderr.decode()


def helper_of(daemon: RunningDaemon) -> int:
    """Return the pid of the daemon's one child."""
    (pid,) = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    return int(pid)


def ended(pid: int) -> bool:
    """Report whether a process is gone, or only waits for its parent to take note."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def leaks_on_disk(folder: Path, *values: bytes) -> list[Path]:
    """Return the files of avault that hold one of *values*, as they are or in hex."""
    forms = [form for value in values for form in (value, value.hex().encode(), value.hex().upper().encode())]
    files = [path for path in folder.rglob("*") if path.is_file() and "session" not in path.parts]
    assert len(files) > 3
    return [path for path in files if any(form in path.read_bytes() for form in forms)]


def test_add_lock_unlock_restart_unlock(tmp_path: Path, service: SecretService) -> None:
    with daemon_in(tmp_path, bus(service)) as daemon:
        must(daemon, "init", proof=True)
        added = daemon.avault("slot", "add", "keyring", passphrase=PASSPHRASE)
        assert added.stdout == b"added slot keyring\n"
        assert b"what this gives up" in added.stderr
        status = must(daemon, "status")
        assert status["keyring"] == {"backend": "SecretService", "ok": True, "slots": 1}
        assert "seccomp" in status["confined"]
        ((name, key),) = service.items().items()
        assert name.startswith(f"{daemon.home}: key ")
        assert len(key) == 32
        must(daemon, "lock")
        assert must(daemon, "unlock", "--keyring")["slot"] == "keyring"
        daemon.restart()
        assert must(daemon, "unlock", "--keyring")["slot"] == "keyring"
        (tmp_path / "new").write_bytes(PASSPHRASE)
        new = ("--new-passphrase-file", str(tmp_path / "new"))
        assert must(daemon, "rekey", *new, proof=True)["dropped"] == []
        must(daemon, "lock")
        must(daemon, "unlock", "--keyring")
        assert leaks_on_disk(tmp_path, key) == []
        must(daemon, "slot", "remove", "keyring", proof=True)
        assert service.items() == {}


def test_the_helper_is_closed_and_holds_nothing_of_the_daemons(
    tmp_path: Path, service: SecretService
) -> None:
    with daemon_in(tmp_path, bus(service)) as daemon:
        helper = helper_of(daemon)
        proc = Path(f"/proc/{helper}")
        status = dict(
            line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line
        )
        assert (status["Name"], status["NoNewPrivs"], status["Threads"]) == ("avault-keyring", "1", "1")
        limits = next(line for line in (proc / "limits").read_text().splitlines() if "core file" in line)
        assert limits.split()[4:6] == ["0", "0"]
        assert (proc / "mem").stat().st_uid == 0  # not dumpable: proc(5)
        if os.geteuid() == 0:
            held = [os.readlink(fd) for fd in (proc / "fd").iterdir()]
            assert sorted(name.split(":")[0] for name in held) == [
                "/dev/null",
                "/dev/null",
                "/dev/null",
                "socket",
            ]
        daemon.stop(signal.SIGKILL)
        until(lambda: ended(helper), "it goes on")


def test_a_helper_that_was_killed(tmp_path: Path, service: SecretService) -> None:
    with daemon_in(tmp_path, bus(service)) as daemon:
        must(daemon, "init", proof=True)
        must(daemon, "slot", "add", "keyring", proof=True)
        must(daemon, "lock")
        os.kill(helper_of(daemon), signal.SIGKILL)
        said = refused(daemon, "unlock", "--keyring")
        assert said == "error: the keyring's helper process has ended\nhint: restart avaultd\n"
        must(daemon, "unlock", proof=True)
        daemon.restart()
        must(daemon, "unlock", "--keyring")


def test_a_keyring_that_is_locked(tmp_path: Path, service: SecretService) -> None:
    with daemon_in(tmp_path, bus(service)) as daemon:
        must(daemon, "init", proof=True)
        must(daemon, "slot", "add", "keyring", proof=True)
        must(daemon, "lock")
        service.lock()
        assert refused(daemon, "unlock", "--keyring").startswith("error: the keyring is locked\nhint: ")
        must(daemon, "unlock", proof=True)
        assert "the keyring is locked" in refused(daemon, "slot", "add", "keyring", proof=True)
        assert [slot["id"] for slot in must(daemon, "slot", "list")["slots"]] == ["passphrase", "keyring"]


def test_no_bus(tmp_path: Path) -> None:
    with daemon_in(tmp_path, {}) as daemon:
        must(daemon, "init", proof=True)
        assert "no keyring answers" in refused(daemon, "slot", "add", "keyring", proof=True)
        status = must(daemon, "status")
        assert "keyring = true, but no keyring answers" in status["warnings"]
        assert status["phone"]["kind"] == "file"


async def in_thread(work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    return await trio.to_thread.run_sync(lambda: work(*arguments, **named))


def document_of(service: SecretService) -> dict[str, bytes]:
    """Return the keys of the one pairing in the keyring, by name."""
    (text,) = [value for name, value in service.items().items() if name.endswith(": pairings")]
    (fields,) = json.loads(text).values()
    return {name: bytes.fromhex(value) for name, value in fields.items() if value is not None}


async def test_a_phones_keys_lie_in_the_keyring(tmp_path: Path, service: SecretService) -> None:
    async with real_phone() as phone:
        with daemon_in(tmp_path, bus(service)) as daemon:
            await in_thread(must, daemon, "init", proof=True)
            await in_thread(must, daemon, "slot", "add", "phone", phone.bunker, "--yes", proof=True)
            before = document_of(service)
            await in_thread(must, daemon, "lock")
            for _ in range(2):
                assert (await in_thread(must, daemon, "unlock", "--phone", "--timeout", "30"))[
                    "slot"
                ] == "phone"
                await in_thread(daemon.restart)
            after = document_of(service)
            assert after["client"] == before["client"]
            assert after["pepper"] != before["pepper"]
            assert (daemon.state_dir / "pairing.json").read_bytes() == POINTER
            assert leaks_on_disk(tmp_path, *before.values(), *after.values()) == []
            status = await in_thread(must, daemon, "status")
            where = f"{daemon.home}: pairings (keyring, service avault)"
            assert (status["phone"]["kind"], status["phone"]["where"]) == ("keyring", where)
            await in_thread(must, daemon, "unlock", proof=True)
            await in_thread(must, daemon, "slot", "remove", "phone", proof=True)
            assert service.items() == {}


async def test_switched_on_switched_off_and_without_a_bus(tmp_path: Path, service: SecretService) -> None:
    """What is in pairing.json goes to the keyring; from then on nothing is lost, nor asked of anything else."""
    async with real_phone() as phone:
        file = tmp_path / "state" / "pairing.json"
        with daemon_in(tmp_path, bus(service), CONFIG + "network = true\n") as daemon:
            await in_thread(must, daemon, "init", proof=True)
            await in_thread(must, daemon, "slot", "add", "phone", phone.bunker, "--yes", proof=True)
            assert (stat.S_IMODE(file.stat().st_mode), service.items()) == (0o600, {})
        with daemon_in(tmp_path, {}):
            assert file.stat().st_size > len(POINTER)  # no keyring answers: it stays
        with daemon_in(tmp_path, bus(service)) as daemon:
            await in_thread(until, lambda: file.read_bytes() == POINTER, "it stays there")
            keys = document_of(service)
            assert leaks_on_disk(tmp_path, *keys.values()) == []
            await in_thread(must, daemon, "unlock", "--phone", "--timeout", "30")
        for env, config, why in (
            (bus(service), CONFIG + "network = true\n", "hint: set keyring = true in the settings"),
            ({}, KEYRING, "error: no keyring answers"),
        ):
            with daemon_in(tmp_path, env, config) as daemon:
                assert why in await in_thread(refused, daemon, "unlock", "--phone", "--timeout", "30")
                where = (await in_thread(must, daemon, "status"))["phone"]["where"]
                assert where == f"{daemon.home}: pairings (keyring, service avault)"
        with daemon_in(tmp_path, bus(service)) as daemon:
            await in_thread(must, daemon, "unlock", "--phone", "--timeout", "30")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may read the memory of avaultd at all")
async def test_nothing_of_it_stays_in_memory(tmp_path: Path, service: SecretService) -> None:
    async with real_phone() as phone:
        with daemon_in(tmp_path, bus(service)) as daemon:
            await in_thread(must, daemon, "init", proof=True)
            await in_thread(must, daemon, "slot", "add", "phone", phone.bunker, "--yes", proof=True)
            await in_thread(must, daemon, "slot", "add", "keyring", proof=True)
            peppers = [document_of(service)]
            for way in ("--keyring", "--phone"):
                await in_thread(must, daemon, "lock")
                await in_thread(must, daemon, "unlock", way)
            peppers.append(document_of(service))
            (key,) = [value for name, value in service.items().items() if ": key " in name]
            needles = {"keyring key": key}
            for number, keys in enumerate(peppers):
                needles |= {f"{name} {number}": value for name, value in keys.items()}
            needles |= {f"{name} in hex": value.hex().encode() for name, value in needles.items()}
            planted = {"home": str(daemon.home).encode()}
            await in_thread(check, daemon.pid, needles, planted)
            await in_thread(check, helper_of(daemon), needles, {"service": b"avault-keyring"})
            await in_thread(must, daemon, "lock")
            await in_thread(check, daemon.pid, needles, planted)
