"""The main job of avault, for real, in a temporary folder: one line for what each step proves.

Everything goes through what a user has: the daemon `avaultd`, the command `avault`, the library `avault_client`. The
plugins are processes of their own. Ends with exit status 0 only if every step did what it says.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BIN = Path(sys.prefix) / "bin"
PASSPHRASE = "correct horse battery staple"
SECRETS = {
    "TELEGRAM_BOT_TOKEN": "7250119083:AAF-demo-telegram-token-r4nd0m",
    "WEATHER_API_KEY": "wx_demo_51d0e7c9a2b84f6fb3",
    "SPARE_KEY": "spare-demo-0c2f19be77aa41",
}
# What a plugin does: say who it is, ask for one secret, print a fingerprint of it or why not.
PLUGIN = """
import hashlib, sys
from avault_client import AvaultError, Vault
agent, plugin, name = sys.argv[1:]
try:
    with Vault(agent=agent, plugin=plugin, secrets=[name]) as vault, vault.get_secret(name) as secret:
        print("got", hashlib.sha256(secret.reveal().encode()).hexdigest())
except AvaultError as error:
    print("refused", error.code)
"""


class Failed(Exception):
    """A step did not do what it says."""


def expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise Failed(otherwise)


def say(step: str) -> None:
    print(f"  ok  {step}", flush=True)


class Demo:
    """One daemon with its vault in *folder*, and what is done with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.env = {
            "PATH": f"{BIN}:/usr/bin:/bin",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "AVAULT_HOME": str(self.home),
            "AVAULT_RUNTIME_DIR": str(folder / "run"),
            "XDG_STATE_HOME": str(folder / "state"),
        }
        (folder / "passphrase").touch(0o600)
        (folder / "passphrase").write_text(PASSPHRASE)

    @contextmanager
    def daemon(self) -> Iterator[subprocess.Popen[bytes]]:
        log = (self.folder / "avaultd.log").open("wb")
        process = subprocess.Popen([BIN / "avaultd"], env=self.env, stdin=subprocess.DEVNULL, stderr=log)
        try:
            deadline = time.monotonic() + 20
            while not (self.folder / "run/operator.sock").exists() and process.poll() is None:
                expect(time.monotonic() < deadline, "avaultd does not answer")
                time.sleep(0.05)
            expect(process.poll() is None, (self.folder / "avaultd.log").read_text())
            yield process
            process.terminate()
            expect(process.wait(20) == 0, "avaultd did not stop cleanly")
        finally:
            process.kill()
            process.wait()
            log.close()

    def avault(self, *arguments: str, proof: bool = False, status: int = 0) -> str:
        command = [str(BIN / "avault"), *arguments]
        if proof:
            command += ["--passphrase-file", str(self.folder / "passphrase")]
        done = subprocess.run(
            command, check=False, env=self.env, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        said = f"avault {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        expect(done.returncode == status, said)
        return done.stdout

    def plugin(self, agent: str, plugin: str, name: str) -> str:
        """Run a plugin in a process of its own; return what it says."""
        command = [sys.executable, "-c", PLUGIN, agent, plugin, name]
        done = subprocess.run(command, check=False, env=self.env, capture_output=True, text=True)
        expect(done.returncode == 0, done.stderr)
        return done.stdout.strip()


def got(name: str) -> str:
    return "got " + hashlib.sha256(SECRETS[name].encode()).hexdigest()


def readable_copies(pid: int) -> int | None:
    """Count the copies of any value in the memory of *pid*; None if not even that may be read (only root may)."""
    needles = [value.encode() for value in SECRETS.values()]
    found = 0
    try:
        memory = open(f"/proc/{pid}/mem", "rb", buffering=0)  # noqa: SIM115
    except PermissionError:
        return None
    with memory, open(f"/proc/{pid}/maps") as maps:
        for line in maps:
            span, mode = line.split()[:2]
            start, end = (int(edge, 16) for edge in span.split("-"))
            if mode.startswith("r"):
                found += sum(_read(memory.fileno(), start, end).count(needle) for needle in needles)
    return found


def _read(descriptor: int, start: int, end: int) -> bytes:
    try:
        return os.pread(descriptor, end - start, start)
    except OSError:  # memory that the kernel shows to nobody, or [vvar]
        return b""


def memory_step(daemon: subprocess.Popen[bytes], when: str) -> None:
    copies = readable_copies(daemon.pid)
    expect(copies in (0, None), f"{copies} copies of values in the memory of avaultd")
    if copies is None:
        say(
            f"{when}: the memory of avaultd is closed to every process of this user (root may look: run this as root)"
        )
        return
    expect(
        (readable_copies(os.getpid()) or 0) > 0, "the scan does not even find the values in this very process"
    )
    say(
        f"{when}: root finds 0 copies of the values in the memory of avaultd, and finds them in this script's"
    )


def store(demo: Demo) -> None:
    demo.avault("init", proof=True)
    say("avault init: a vault, encrypted under a passphrase, and unlocked")

    env_file = demo.folder / "agent.env"
    env_file.touch(0o600)
    env_file.write_text("".join(f"{name}={value}\n" for name, value in SECRETS.items()))
    printed = demo.avault("import", "--env-file", str(env_file), proof=True)
    env_file.unlink()
    expect(all(name in printed for name in SECRETS), "import does not list the names")
    expect(not any(value in printed for value in SECRETS.values()), "import printed a value")
    say("avault import: three secrets from an env file, names shown, values not")

    uid = str(os.getuid())
    demo.avault("grant", "cobot/telegram", "TELEGRAM_BOT_TOKEN", "--uid", uid, proof=True)
    demo.avault("grant", "cobot/weather", "WEATHER_API_KEY", proof=True)
    say("avault grant: one secret for plugin telegram, one for plugin weather of agent cobot")


def serve(demo: Demo) -> None:
    expect(demo.plugin("cobot", "telegram", "TELEGRAM_BOT_TOKEN") == got("TELEGRAM_BOT_TOKEN"), "not served")
    say("telegram gets its own secret")
    expect(demo.plugin("cobot", "telegram", "WEATHER_API_KEY") == "refused not_granted", "served to telegram")
    say("telegram is refused weather's secret")


def admit(demo: Demo) -> None:
    expect(demo.plugin("stranger", "helper", "SPARE_KEY") == "refused unknown_agent", "a stranger was let in")
    waiting = json.loads(demo.avault("requests", "--json"))["requests"]
    strangers = [request for request in waiting if request["agent"] == "stranger"]
    expect([request["names"] for request in strangers] == [["SPARE_KEY"]], "not among the requests")
    say("a process that no agent describes is refused, and appears among the requests")
    demo.avault("approve", str(strangers[0]["id"]), proof=True)
    expect(demo.plugin("stranger", "helper", "SPARE_KEY") == got("SPARE_KEY"), "approved, and not let in")
    say("approving it lets it in")


def inspect(demo: Demo) -> None:
    written = b"".join(path.read_bytes() for path in demo.folder.glob("*/**/*") if path.is_file())
    expect(len(written) > 1000, "the vault is not where it should be")
    expect(not any(value.encode() in written for value in SECRETS.values()), "plaintext in a file")
    expect(PASSPHRASE.encode() not in written, "the passphrase in a file")
    say("no file of the vault, the record or the state holds a value or the passphrase")

    demo.avault("audit", "--verify")
    record = demo.avault("audit")
    expect("TELEGRAM_BOT_TOKEN" in record and "not_granted" in record, "uses or refusals are not on record")
    say("every use and every refusal is on record, and the record verifies")


def lock(demo: Demo, daemon: subprocess.Popen[bytes]) -> None:
    memory_step(daemon, "unlocked")
    demo.avault("lock")
    expect(demo.plugin("cobot", "telegram", "TELEGRAM_BOT_TOKEN") == "refused locked", "served while locked")
    say("after avault lock nothing is served")
    memory_step(daemon, "locked")


def run(demo: Demo) -> None:
    with demo.daemon() as daemon:
        store(demo)
        serve(demo)
        admit(demo)
        inspect(demo)
        lock(demo, daemon)


def main() -> int:
    print("avault: the main job, in a temporary folder")
    with tempfile.TemporaryDirectory(prefix="avault-demo-") as folder:
        try:
            run(Demo(Path(folder)))
        except Failed as failed:
            print(f"FAILED: {failed}", file=sys.stderr)
            return 1
    print("all steps did what they say")
    return 0


if __name__ == "__main__":
    sys.exit(main())
