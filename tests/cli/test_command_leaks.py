"""No value, passphrase or key where the real daemon and the real command leave anything: their logs and messages, all
files that they ever make, their command lines and environments.

Everything is watched while it runs (`support.watch`); what is looked for is in `support.needles`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from avault_client.cli.commands import all_commands
from support.daemon import BIN, CHEAP, RunningDaemon, running_daemon
from support.needles import Needles, odd, token
from support.telephone import real_phone
from support.terminal import Terminal, on_terminal
from support.watch import Files, Processes

KEYS = Path(__file__).parents[1] / "support" / "vault_keys.py"
CONFIG = 'log_level = "debug"\nnetwork = true\n'
UID = str(os.getuid())
PLUGIN = """
import sys
from avault_client import AvaultError, Vault
with Vault(plugin=sys.argv[1], secrets=sys.argv[2:]) as vault:
    for name in vault.secrets:
        try:
            print(len(vault.get_secret(name).reveal()))
        except AvaultError as error:
            print(error.code)
"""
# Every file that there is meant to be at any time, in the folders that are watched.
MEANT = re.compile(
    r"/(config\.toml|avaultd\.log|copy\.jsonl|home|home/vault\.(jsonl|jsonl\.new|lock)|state|run"
    r"|state/(anchor\.json|anchor\.json\.new|audit\.jsonl|pairing\.json|pairing\.json\.new)|run/agents(/cobot(/agent\.sock)?)?"
    r"|run/((agent|operator|credentials)\.sock|bindings\.(jsonl|new)))"
)


class Scene:
    """A daemon, what was planted, and who watches."""

    def __init__(self, daemon: RunningDaemon, inputs: Path, files: Files, processes: Processes) -> None:
        self.daemon, self.inputs, self.files, self.processes = daemon, inputs, files, processes
        self.needles = Needles()
        self.ran: set[str] = set()
        self.seen_there: set[str] = set()
        """Labels of what was given in a command line or environment: there, and there alone, it is seen."""
        for label in ("passphrase", "new passphrase", "copy's passphrase"):
            (inputs / label).write_text(self.needles.plant(label) + "\n")

    def kept(self, label: str) -> str:
        """Return the file that holds the passphrase *label*."""
        return str(self.inputs / label)

    def raw(self, label: str) -> bytes:
        return self.needles.values[label]

    def file(self, name: str, content: str | bytes) -> str:
        """Make a file that a command reads; nobody watches these."""
        path = self.inputs / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def run(
        self, *words: str, proven: bool = False, stdin: bytes = b"", status: int = 0, told: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command, and look at what it printed; *told* are labels of what its user may be told."""
        passphrase = self.raw("passphrase") if proven else None
        done = self.daemon.avault(*words, passphrase=passphrase, stdin=stdin)
        assert done.returncode == status or status < 0, (words, done.stderr)
        assert b"Traceback" not in done.stderr, (words, done.stderr)
        self.needles.check(f"what {words} printed", done.stderr, but=told)
        if words[0] != "get":
            self.needles.check(f"what {words} printed", done.stdout, but=told)
        names = {" ".join(words[:1]), " ".join(words[:2])} & COMMANDS
        self.ran.update(names)
        return done

    def plugin(self, name: str, *secrets: str) -> list[str]:
        """Run a plugin in a process of its own; return how long its secrets are, or why it has none."""
        done = subprocess.run(
            [sys.executable, "-c", PLUGIN, name, *secrets],
            env=self.daemon.env,
            capture_output=True,
            check=True,
        )
        self.needles.check("what a plugin printed", done.stdout + done.stderr)
        return done.stdout.decode().split()

    def plant_keys(self, passphrase: str, which: str) -> None:
        """Plant every long-lived key of the vault, as third-party software finds them."""
        script = [sys.executable, "-P", str(KEYS), str(self.daemon.home / "vault.jsonl")]
        done = subprocess.run(script, input=self.raw(passphrase), capture_output=True, check=True)
        for number, key in enumerate(done.stdout.split()):
            self.needles.plant(f"{which} key {number}", bytes.fromhex(key.decode()))

    def look(self) -> None:
        """Look at all files there are now."""
        assert self.needles.check_files(self.daemon.folder) > 5

    def look_back(self) -> None:
        """Look at all that was seen by those who watched."""
        self.needles.check("the daemon's log", self.daemon.log.read_bytes())
        self.needles.check("a file that there was", self.files.contents())
        folder = str(self.daemon.folder)
        assert {name for name in self.files.names if not MEANT.fullmatch(name.removeprefix(folder))} == set()
        self.needles.check("a command line", b"\0".join(self.processes.commands), but=self.seen_there)
        self.needles.check("an environment", b"\0".join(self.processes.environments), but=self.seen_there)
        self.needles.check("what ps prints", b"\n".join(self.processes.lines), but=self.seen_there)


COMMANDS = {command.name for command in all_commands()}


@contextmanager
def open_scene(folder: Path) -> Generator[Scene]:
    watched, inputs, temporary = folder / "d", folder / "inputs", folder / "tmp"
    for made in (watched, inputs, temporary):
        made.mkdir()
    env = {"TMPDIR": str(temporary), "TMP": str(temporary), "XDG_STATE_HOME": str(folder / "tmp")}
    with (
        Files(watched, temporary) as files,
        Processes() as processes,
        running_daemon(watched, config=CONFIG, env=env, command=CHEAP) as daemon,
    ):
        yield Scene(daemon, inputs, files, processes)


@pytest.fixture
def scene(tmp_path: Path) -> Generator[Scene]:
    with open_scene(tmp_path) as scene:
        yield scene
    scene.look()
    scene.look_back()


def test_every_command(scene: Scene) -> None:
    limits = Path(f"/proc/{scene.daemon.pid}/limits").read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
    scene.run("init", proven=True)
    scene.plant_keys("passphrase", "old")
    for stage in (put_in, take_out, let_agents_in, ask, copy_and_rekey, change_slots, lock_and_unlock):
        stage(scene)
        scene.look()
    assert scene.ran == COMMANDS


def put_in(scene: Scene) -> None:
    run, plant = scene.run, scene.needles.plant
    for label in ("first value", "value"):
        run("set", "TOKEN", proven=True, stdin=plant(label).encode() + b"\n")
    plant("binary", b"\xff\0" + os.urandom(40) + b"\0")  # a newline at its end would be taken off
    run("set", "BINARY", proven=True, stdin=scene.raw("binary"))
    env = f"export A='{plant('in an env file', token())}'\nWANTED=\"{plant('in another line', token())}\"\n"
    run("import", "--env-file", scene.file(".env", env), proven=True)
    document = json.dumps({"J": plant("in a JSON file")})
    run("import", "--json-file", scene.file("j.json", document), proven=True)
    scene.daemon.env["OUTSIDE"] = plant("in the environment", token())
    scene.seen_there.add("in the environment")
    run("import", "--env", "OUTSIDE", proven=True)
    del scene.daemon.env["OUTSIDE"]
    script = b"set TYPED\n" + plant("in a shell's script").encode() + b"\nlist\nhistory TYPED\n"
    run("shell", proven=True, stdin=script)


def take_out(scene: Scene) -> None:
    run = scene.run
    assert run("get", "TOKEN", proven=True).stdout == scene.raw("value")
    assert run("get", "BINARY", proven=True).stdout == scene.raw("binary")
    shown = json.loads(run("get", "TOKEN", "--version", "1", "--json", proven=True).stdout)
    assert shown["value"].encode() == scene.raw("first value")
    run("restore", "TOKEN", "1", proven=True)
    run("rm", "A", proven=True)


def let_agents_in(scene: Scene) -> None:
    run = scene.run
    run("agent", "set", "cobot", "--uid", UID, "--socket", proven=True)
    run("agent", "set", "cobot", "--uid", UID, "--instances", "9", proven=True)
    run("agent", "rm", "cobot", proven=True)
    run("grant", "cobot/telegram", "TOKEN", "BINARY", "--uid", UID, proven=True)
    length = str(len(scene.raw("first value").decode()))
    assert scene.plugin("telegram", "TOKEN", "WANTED", "NOTHING") == [length, "not_granted", "not_granted"]
    requests = json.loads(run("requests", "--json").stdout)["requests"]
    ids = {name: str(request["id"]) for request in requests for name in request["names"]}
    run("approve", ids["WANTED"], proven=True)
    run("deny", ids["NOTHING"], proven=True)
    assert scene.plugin("telegram", "WANTED") == ["40"]
    run("revoke", "cobot/telegram", "BINARY", proven=True)


def ask(scene: Scene) -> None:
    asking = ("status", "list", "agents", "requests", "slot list", "history TOKEN", "audit")
    for words in map(str.split, asking):
        scene.run(*words)
        scene.run(*words, "--json")
    scene.run("audit", "--verify")
    scene.run("completion", "bash")
    scene.run("doctor", status=-1)  # whatever it thinks of this machine
    scene.run("install-service", "--user", "--print")


def copy_and_rekey(scene: Scene) -> None:
    copy, passphrase = str(scene.daemon.folder / "copy.jsonl"), scene.kept("copy's passphrase")
    scene.run("export", "--to", copy, "--copy-passphrase-file", passphrase, proven=True)
    scene.run("restore-vault", copy, "--copy-passphrase-file", passphrase, proven=True)
    before = scene.kept("passphrase")
    scene.run("rekey", "--passphrase-file", passphrase, "--new-passphrase-file", before)
    scene.plant_keys("passphrase", "new")


def change_slots(scene: Scene) -> None:
    new = ["--new-passphrase-file", scene.kept("new passphrase")]
    scene.run("slot", "add", "passphrase", *new, proven=True)
    scene.run("slot", "change-passphrase", "--slot", "passphrase-2", *new, proven=True)
    scene.run("slot", "remove", "passphrase-2", proven=True)


def lock_and_unlock(scene: Scene) -> None:
    scene.run("lock")
    assert scene.plugin("telegram", "TOKEN") == ["locked"]
    scene.run("unlock", "--passphrase-file", scene.kept("new passphrase"), status=7)
    scene.daemon.restart()
    scene.run("unlock", proven=True)


async def test_by_phone(scene: Scene) -> None:
    """Neither what the phone shows nor the secret of its URI is left anywhere; client key and pepper: test_phone_memory.py."""
    async with real_phone() as phone:
        phone.secret = scene.needles.plant("the URI's secret", token())
        scene.seen_there.add("the URI's secret")  # single use; who sees a command line comes too late

        async def run(*words: str, proven: bool = False) -> None:
            await trio.to_thread.run_sync(lambda: scene.run(*words, proven=proven, stdin=b"a value"))

        await run("init", proven=True)
        await run("slot", "add", "phone", phone.bunker, "--yes", proven=True)
        await run("lock")
        await run("unlock", "--phone")
        await run("set", "TOKEN", "--phone")
        await run("get", "TOKEN", "--phone")
        await run("slot", "remove", "phone", "--phone")
        for number, text in enumerate(phone.screen):
            scene.needles.plant(f"token {number}", bytes.fromhex(text.split()[-1]))
        assert len(phone.screen) == 5


def answer(scene: Scene, terminal: Terminal, prompt: str, label: str) -> None:
    """Type what is planted as *label*, with ps looking on before and after."""
    terminal.expect(prompt)
    scene.processes.list()
    terminal.type(scene.raw(label) + b"\n")
    scene.processes.list()


def test_on_a_terminal(scene: Scene) -> None:
    for label in ("value", "second value", "mistyped"):
        scene.needles.plant(label)
    avault, env = BIN / "avault", scene.daemon.env
    seen: list[str] = []
    with on_terminal([avault, "init"], env) as terminal:
        answer(scene, terminal, "passphrase for the new vault: ", "passphrase")
        answer(scene, terminal, "the same once more: ", "passphrase")
        assert terminal.finish() == 0
        seen.append(terminal.seen)
    scene.plant_keys("passphrase", "the")
    with on_terminal([avault, "set", "TOKEN"], env) as terminal:
        answer(scene, terminal, "passphrase for the vault: ", "passphrase")
        answer(scene, terminal, "value of TOKEN: ", "value")
        assert terminal.finish() == 0
        seen.append(terminal.seen)
    with on_terminal([avault, "slot", "add", "passphrase"], env) as terminal:
        answer(scene, terminal, "passphrase for the vault: ", "passphrase")
        answer(scene, terminal, "passphrase for the new slot: ", "new passphrase")
        answer(scene, terminal, "the same once more: ", "mistyped")
        assert terminal.finish() == 1
        seen.append(terminal.seen)
    with on_terminal([avault, "shell"], env) as terminal:
        terminal.expect("avault> ")
        terminal.type("set OTHER\n")
        answer(scene, terminal, "passphrase for the vault: ", "passphrase")
        answer(scene, terminal, "value of OTHER: ", "second value")
        terminal.expect("avault> ")
        terminal.type("exit\n")
        assert terminal.finish() == 0
        seen.append(terminal.seen)
    with on_terminal([avault, "get", "TOKEN"], env) as terminal:
        answer(scene, terminal, "passphrase for the vault: ", "mistyped")
        assert terminal.finish() == 7
        seen.append(terminal.seen)
    scene.needles.check("a terminal", "\n".join(seen))
    assert len("".join(seen)) > 200


# What somebody types who takes a value for something else. A second word: the value may be repeated where it is
# well-formed as a name, to the one who typed it.
STRAYS: list[tuple[str, ...]] = [
    ("{}",),
    ("help", "{}"),
    ("--{}",),
    ("-{}",),
    ("set", "{}", "{}"),
    ("set", "TOKEN", "{}"),
    ("set", "--value={}", "TOKEN"),
    ("get", "TOKEN", "--version", "{}"),
    ("get", "TOKEN", "--passphrase-fd", "{}"),
    ("get", "TOKEN", "--passphrase-file", "{}"),
    ("unlock", "--passphrase={}"),
    ("unlock", "--timeout", "{}"),
    ("init", "--log-n", "{}"),
    ("init", "{}"),
    ("restore", "TOKEN", "{}"),
    ("grant", "{}", "TOKEN"),
    ("grant", "{}/p", "TOKEN"),
    ("grant", "cobot/{}", "TOKEN"),
    ("grant", "cobot/p", "TOKEN", "--uid", "{}"),
    ("revoke", "{}"),
    ("agents", "{}"),
    ("agent", "{}"),
    ("agent", "set", "{}"),
    ("agent", "set", "cobot", "--instances", "{}"),
    ("agent", "rm", "{}"),
    ("approve", "{}"),
    ("approve", "--all", "{}"),
    ("deny", "{}"),
    ("slot", "{}"),
    ("slot", "add", "{}"),
    ("slot", "remove", "{}"),
    ("audit", "--since", "{}"),
    ("audit", "--agent", "{}"),
    ("completion", "{}"),
]
NAMED: list[tuple[str, ...]] = [
    ("set", "{}"),
    ("get", "{}"),
    ("rm", "{}"),
    ("restore", "{}", "1"),
    ("history", "{}"),
    ("grant", "cobot/p", "{}", "--uid", UID),
    ("revoke", "cobot/p", "{}"),
    ("import", "--env", "{}"),
    ("audit", "--secret", "{}"),
]
"""Where a name of a secret belongs."""
PROVEN = ("get", "rm", "restore", "grant", "revoke")
FILES = [
    ("env", "GOOD=x\n{} is no line\n"),
    ("env", "'{}'=x\n"),
    ("env", "A='{}\n"),
    ("env", "A='x' {}\n"),
    ("json", '{{"A": "{}"'),
    ("json", '{{"A": ["{}"]}}'),
    ("json", '{{"{} ": "x"}}'),
]
LINES = ("{}", "set {} {}", "get '{}", "set TOKEN {}", "unlock --passphrase {}")


def test_values_where_none_belongs(scene: Scene) -> None:
    run, plant = scene.run, scene.needles.plant
    run("init", proven=True)
    run("set", "TOKEN", proven=True, stdin=plant("value").encode())
    for shape in (odd, token):
        for words in (*STRAYS, *NAMED):
            label = f"{shape.__name__} in {' '.join(words)}"
            text = plant(label, shape())
            scene.seen_there.add(label)
            told = [label] if words in NAMED and shape is token else []
            proven = words[0] in PROVEN and bool(told)
            run(*(word.format(text) for word in words), proven=proven, status=-1, told=told)
    for kind, form in FILES:
        path = scene.file(kind, form.format(plant(f"in a file: {form}", token())))
        run("import", f"--{kind}-file", path, status=1)
    for line in LINES:
        text = plant(f"in a shell's script: {line}", token())
        run("shell", proven=True, stdin=line.format(text, text).encode() + b"\n", status=2)
    scene.look()
    record = b"".join(path.read_bytes() for path in scene.daemon.state_dir.glob("audit*"))
    assert record.count(b'"not_found"') >= 4


# --- positive controls -----------------------------------------------------------------------------------------------


def spend_a_moment(*words: str, env: dict[str, str] | None = None) -> None:
    """Be a process that is there long enough to be seen."""
    subprocess.run([sys.executable, "-c", "import time; time.sleep(0.3)", *words], env=env, check=True)


def log_it(scene: Scene, text: str) -> None:
    with scene.daemon.log.open("a") as log:
        log.write(f"DEBUG a value: {text}\n")


LEAKS: dict[str, Callable[[Scene, str], object]] = {
    "log": log_it,
    "file": lambda scene, text: (scene.daemon.folder / "copy.jsonl").write_text(text[::-1]),
    "command line": lambda scene, text: spend_a_moment(f"--value={text}"),
    "environment": lambda scene, text: spend_a_moment(env={"A": text}),
}


@pytest.mark.parametrize("how", LEAKS)
def test_a_leak_is_seen(tmp_path: Path, how: str) -> None:
    with open_scene(tmp_path) as scene:
        LEAKS[how](scene, scene.needles.plant("control", token()))
    with pytest.raises(AssertionError, match=r"holds .*control"):
        scene.look_back()


def test_a_file_is_seen_that_was_there_for_no_time_at_all(tmp_path: Path) -> None:
    with open_scene(tmp_path) as scene:
        strange = tmp_path / "tmp" / "strange"
        strange.touch()
        strange.unlink()
    with pytest.raises(AssertionError, match="strange"):
        scene.look_back()
