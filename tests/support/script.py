"""Scripts for the command `avault`, in the manner of Go's testscript: what a user types, and what comes of it.

::

    # a comment
    proven set TOKEN            avault set TOKEN --passphrase-file pass: must succeed
    ! avault get NOPE           must fail
    exit 7                      with this exit status
    stdin FILE                  for the next command; without it, there is none
    stdout 'REGEX'              found in what the last command printed; "! stdout" not found
    stderr 'REGEX'
    cmp stdout FILE             byte for byte
    -- FILE --                  what follows is a file of the script, up to the next such line

Further: `shell`, `plugin`, `daemon`, `remember`, `grep`, `exists`, `mode`, `env`, `fill`, `bytes`, `cp`, `rm`, `flip`,
`cut`; each is a method below, and says itself what it does. The file `pass` is always there. A path is relative to the script's own
folder, where `home` and `run` are the daemon's.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from support.daemon import BIN, RunningDaemon

PASSPHRASE = b"correct horse battery staple\n"
FILE_LINE = re.compile(r"^-- (\S+) --\n", re.MULTILINE)
TIMEOUT = 60.0
PLUGIN = """
import sys
import time
from avault_client import AvaultError, Vault
agent, plugin, *names = sys.argv[1:]
try:
    with Vault(agent=agent, plugin=plugin, secrets=names) as vault:
        for name in names:
            with vault.get_secret(name) as secret:
                print(secret.reveal())
except AvaultError as error:
    print(f"{error.code}: {error.message}", file=sys.stderr)
    sys.exit(error.exit_status)
"""


class Script:
    """One script and the folder that it works in."""

    def __init__(self, text: str, daemon: RunningDaemon) -> None:
        lines, *files = FILE_LINE.split(text)
        self.lines = lines.splitlines()
        self.daemon = daemon
        self.folder = daemon.folder
        self.env = dict(daemon.env)
        self.last: subprocess.CompletedProcess[bytes] | None = None
        self.input = b""
        self.variables = {"$UID": str(os.getuid())}
        self.path("pass").write_bytes(PASSPHRASE)
        for name, content in zip(files[::2], files[1::2], strict=True):
            self.path(name).write_text(content)

    def path(self, name: str) -> Path:
        return self.folder / name

    def run(self) -> None:
        """Do one line after the other; AssertionError, naming the line, at the first that is not as it says."""
        try:
            self._run_lines()
        finally:
            self._stop_detached()

    def _run_lines(self) -> None:
        for number, line in enumerate(self.lines, 1):
            words = [self.variables.get(word, word) for word in shlex.split(line, comments=True)]
            if words:
                with self._explained(number, line):
                    self._do(words)

    @contextmanager
    def _explained(self, number: int, line: str) -> Generator[None]:
        try:
            yield
        except AssertionError as error:
            last = self.last
            said = f"exit {last.returncode}\n{last.stdout.decode()}\n{last.stderr.decode()}" if last else ""
            raise AssertionError(f"line {number}: {line}\n{error}\nthe last command: {said}") from None

    def _do(self, words: list[str]) -> None:
        negated = words[0] == "!"
        word, *arguments = words[negated:]
        verb = getattr(self, f"do_{word.replace('-', '_')}", None)
        assert verb is not None, f"no such word: {word}"
        holds = verb(*arguments)
        if holds is None:
            assert not negated, f"{word} cannot be negated"
        else:
            assert holds is not negated, "it is not so"

    def _run(self, *command: str | Path) -> bool:
        content, self.input = self.input, b""
        while wait := self._run_once(command, content):
            time.sleep(wait)
        assert self.last is not None
        assert b"Traceback" not in self.last.stderr, "a traceback"
        return self.last.returncode == 0

    def _run_once(self, command: Sequence[str | Path], content: bytes) -> int:
        """Run it; return how many seconds the daemon wants us to wait for the next passphrase, as a person would."""
        self.last = subprocess.run(
            command,
            cwd=self.folder,
            env=self.env,
            input=content,
            capture_output=True,
            start_new_session=True,  # so that there is no terminal to ask on
            timeout=TIMEOUT,
            check=False,
        )
        wait = re.search(
            rb"^error: too many wrong passphrases: wait (\d+) s$", self.last.stderr, re.MULTILINE
        )
        return int(wait[1]) if wait else 0

    def _printed(self, stream: str) -> bytes:
        assert self.last is not None, "nothing was run yet"
        return self.last.stdout if stream == "stdout" else self.last.stderr

    # --- commands ---

    def do_avault(self, *arguments: str) -> bool:
        return self._run(BIN / "avault", *arguments)

    def do_proven(self, *arguments: str) -> bool:
        return self._run(BIN / "avault", *arguments, "--passphrase-file", "pass")

    def do_hasty(self, *arguments: str) -> bool:
        """Like `avault`, by someone who does not wait after a wrong passphrase."""
        self._run_once([BIN / "avault", *arguments], self.input)
        assert self.last is not None
        return self.last.returncode == 0

    def do_shell(self, command: str) -> bool:
        return self._run("/bin/bash", "-c", command)

    def do_plugin(self, who: str, *names: str) -> bool:
        """Be a plugin, AGENT/PLUGIN, that wants these secrets, and print them."""
        return self._run(sys.executable, "-c", PLUGIN, *who.split("/"), *names)

    def do_daemon(self, what: str) -> None:
        """Start or stop it; or "detached": expect one that `--start` started, and stop that."""
        if what == "detached":
            assert self._stop_detached(), "there is none"
        else:
            acts: dict[str, Callable[[], object]] = {"start": self.daemon.start, "stop": self.daemon.stop}
            acts[what]()

    def _stop_detached(self) -> bool:
        """Stop a daemon that a command of this script started; return whether there was one."""
        command = [str(BIN / "avault"), "status", "--json"]
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, check=False)
        pid = json.loads(done.stdout)["pid"] if done.returncode == 0 else None
        if pid is None or (self.daemon.process is not None and pid == self.daemon.pid):
            return False
        os.kill(pid, signal.SIGTERM)
        return True

    # --- what came of it ---

    def do_exit(self, status: str) -> bool:
        assert self.last is not None, "nothing was run yet"
        return self.last.returncode == int(status)

    def do_stdout(self, pattern: str) -> bool:
        return re.search(pattern, self._printed("stdout").decode(), re.MULTILINE) is not None

    def do_stderr(self, pattern: str) -> bool:
        return re.search(pattern, self._printed("stderr").decode(), re.MULTILINE) is not None

    def do_remember(self, variable: str, pattern: str) -> bool:
        """Let $VARIABLE, as a word, be what the group of *pattern* finds in what was printed."""
        found = re.search(pattern, self._printed("stdout").decode(), re.MULTILINE)
        if found:
            self.variables[f"${variable}"] = found[1]
        return found is not None

    def do_cmp(self, first: str, second: str) -> bool:
        one = self._printed(first) if first in ("stdout", "stderr") else self.path(first).read_bytes()
        return one == self.path(second).read_bytes()

    def do_grep(self, pattern: str, name: str) -> bool:
        return re.search(pattern.encode(), self.path(name).read_bytes()) is not None

    def do_exists(self, name: str) -> bool:
        return self.path(name).exists()

    def do_mode(self, mode: str, name: str) -> bool:
        return self.path(name).stat().st_mode & 0o777 == int(mode, 8)

    # --- setting the stage ---

    def do_stdin(self, name: str) -> None:
        self.input = self.path(name).read_bytes()

    def do_env(self, setting: str) -> None:
        name, _, value = setting.partition("=")
        self.env[name] = value

    def do_fill(self, name: str, size: str, byte: str = "x") -> None:
        self.path(name).write_bytes(byte.encode("latin-1") * int(size))

    def do_bytes(self, name: str, hexadecimal: str) -> None:
        self.path(name).write_bytes(bytes.fromhex(hexadecimal))

    def do_cp(self, source: str, target: str) -> None:
        self.path(target).write_bytes(self.path(source).read_bytes())

    def do_rm(self, name: str) -> None:
        self.path(name).unlink()

    def do_flip(self, name: str, line: str) -> None:
        """Change one byte in the middle of a line, counted from 1, or from the end if negative."""
        lines = self.path(name).read_bytes().splitlines(keepends=True)
        at = int(line) - (int(line) > 0)
        changed = bytearray(lines[at])
        middle = len(changed) // 2
        changed[middle] = ord("0") if changed[middle] != ord("0") else ord("1")
        lines[at] = bytes(changed)
        self.path(name).write_bytes(b"".join(lines))

    def do_cut(self, name: str, line: str) -> None:
        """Take one line out."""
        lines = self.path(name).read_bytes().splitlines(keepends=True)
        del lines[int(line) - (int(line) > 0)]
        self.path(name).write_bytes(b"".join(lines))
