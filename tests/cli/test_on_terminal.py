"""The command as a person uses it, on a terminal, with a real daemon; and what its memory holds afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from support.campaign import report, size
from support.daemon import BIN, CHEAP, RunningDaemon, running_daemon
from support.memory import check, scan
from support.terminal import Terminal, on_terminal

PASSPHRASE = "Xq7-vT2kLw9_pZr4-Hn8sBd3f"
VALUE = "tok_5fJw0Qe8RuZ1mNv6yXc2-Ab7"
AVAULT = BIN / "avault"


@pytest.fixture
def daemon(tmp_path: Path) -> Generator[RunningDaemon]:
    with running_daemon(tmp_path, command=CHEAP, config="") as running:
        yield running


@pytest.fixture
def vault(daemon: RunningDaemon) -> RunningDaemon:
    """A daemon with an unlocked vault."""
    assert daemon.avault("init", passphrase=PASSPHRASE.encode()).returncode == 0
    return daemon


def answer(terminal: Terminal, prompt: str, text: str) -> None:
    terminal.expect(prompt)
    assert not terminal.echoes()
    terminal.type(text + "\n")


def test_a_vault_is_made_with_a_passphrase_typed_twice(daemon: RunningDaemon) -> None:
    with on_terminal([AVAULT, "init"], daemon.env) as terminal:
        answer(terminal, "passphrase for the new vault: ", PASSPHRASE)
        answer(terminal, "the same once more: ", PASSPHRASE)
        terminal.expect("made vault ")
        assert terminal.finish() == 0
        assert terminal.echoes()
    assert "deriving the key" in terminal.seen or "making the vault" in terminal.seen
    assert PASSPHRASE not in terminal.seen


def test_two_that_differ_make_no_vault(daemon: RunningDaemon) -> None:
    with on_terminal([AVAULT, "init"], daemon.env) as terminal:
        answer(terminal, "passphrase for the new vault: ", PASSPHRASE)
        answer(terminal, "the same once more: ", PASSPHRASE[:-1])
        terminal.expect("error: the two passphrases differ")
        assert terminal.finish() == 1
    assert b"uninitialized" in daemon.avault("status").stdout


def test_a_secret_is_typed_in_and_shown(vault: RunningDaemon) -> None:
    with on_terminal([AVAULT, "set", "TOKEN"], vault.env) as terminal:
        answer(terminal, "passphrase for the vault: ", PASSPHRASE)
        answer(terminal, "value of TOKEN: ", VALUE)
        terminal.expect("stored TOKEN, version 1")
        assert terminal.finish() == 0
    assert VALUE not in terminal.seen
    with on_terminal([AVAULT, "get", "TOKEN"], vault.env) as terminal:
        answer(terminal, "passphrase for the vault: ", PASSPHRASE)
        terminal.expect(f"{VALUE}\r\n")
        assert terminal.finish() == 0


def test_an_interrupt_at_the_prompt_is_130_and_gives_the_echo_back(vault: RunningDaemon) -> None:
    with on_terminal([AVAULT, "get", "TOKEN"], vault.env) as terminal:
        terminal.expect("passphrase for the vault: ")
        terminal.type("\x03")
        assert terminal.finish() == 130
        assert terminal.echoes()
    assert "Traceback" not in terminal.seen


def test_an_interrupt_while_the_record_is_followed_is_130(vault: RunningDaemon) -> None:
    with on_terminal([AVAULT, "audit", "--follow"], vault.env) as terminal:
        terminal.expect("init")
        terminal.type("\x03")
        assert terminal.finish() == 130
    assert "Traceback" not in terminal.seen


def test_the_prompt_is_on_the_terminal_even_if_the_value_comes_by_a_pipe(vault: RunningDaemon) -> None:
    read, write = os.pipe()
    with on_terminal([AVAULT, "set", "TOKEN"], vault.env, stdin=read) as terminal:
        answer(terminal, "passphrase for the vault: ", PASSPHRASE)
        os.write(write, VALUE.encode())
        os.close(write)
        terminal.expect("stored TOKEN, version 1")
        assert terminal.finish() == 0
    os.close(read)


def test_a_shell_asks_once_and_goes_on_after_errors(vault: RunningDaemon) -> None:
    with on_terminal([AVAULT, "shell"], vault.env) as terminal:
        terminal.expect("avault> ")
        terminal.type("set TOKEN\n")
        answer(terminal, "passphrase for the vault: ", PASSPHRASE)
        answer(terminal, "value of TOKEN: ", VALUE)
        terminal.expect("stored TOKEN, version 1")
        terminal.expect("avault> ")
        terminal.type("get NOPE\n")
        terminal.expect("error: ")
        terminal.expect("avault> ")
        terminal.type("get TOKEN\n")
        terminal.expect(f"{VALUE}\r\n")
        terminal.expect("avault> ")
        # The newline is for an interrupt that comes just before readline waits: it is noticed at the next key.
        terminal.type("sta\x03\n")
        terminal.expect("avault> ")
        terminal.type("exit\n")
        assert terminal.finish() == 0
    assert terminal.seen.count("error: ") == 1
    assert terminal.seen.count("passphrase for") == 1


def test_the_end_of_input_ends_a_shell(daemon: RunningDaemon) -> None:
    with on_terminal([AVAULT, "shell"], daemon.env) as terminal:
        terminal.expect("avault> ")
        terminal.type("\x04")
        assert terminal.finish() == 0


def test_a_shell_finds_a_daemon_that_was_restarted_and_proves_again(vault: RunningDaemon) -> None:
    with on_terminal([AVAULT, "shell"], vault.env) as terminal:
        terminal.expect("avault> ")
        terminal.type("status\n")
        terminal.expect("unlocked")
        terminal.expect("avault> ")
        vault.restart()
        terminal.type("status\n")
        terminal.expect("error: ")
        terminal.expect("avault> ")
        terminal.type("unlock\n")
        answer(terminal, "passphrase for the vault: ", PASSPHRASE)
        terminal.expect("unlocked")
        terminal.expect("avault> ")
        terminal.type("exit\n")
        assert terminal.finish() == 0


HOLD = """
import os, sys, signal
from avault_client import cli
{plant}
sys.argv = ["avault", *sys.argv[1:]]
status = cli.main()
print("held", status, flush=True)
signal.pause()
"""
PLANTED = b"planted-9c1e7f0a4b2d8e6c5a3f"
# The copy that must be found is put together in the process itself, so that no argument of it is what is found.
PLANT = f"planted = bytes(b ^ 1 for b in {bytes(b ^ 1 for b in PLANTED)!r})"
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root may read the memory of another process")


def holding(daemon: RunningDaemon, *words: str) -> list[str]:
    return [sys.executable, "-c", HOLD.format(plant=PLANT), *words]


@root_only
def test_no_copy_of_the_passphrase_is_left_in_the_memory_of_the_command(vault: RunningDaemon) -> None:
    times = size(1, 50)
    for _ in range(times):
        assert vault.avault("lock").returncode == 0
        with on_terminal(holding(vault, "unlock"), vault.env) as terminal:
            answer(terminal, "passphrase for the vault: ", PASSPHRASE)
            terminal.expect("held 0")
            check(terminal.process.pid, {"passphrase": PASSPHRASE.encode()}, {"planted": PLANTED})
    report(f"{times} unlocks on a terminal: 0 copies of the passphrase in the command's memory")


GETPASS = """
import getpass
from avault_client.cli import hidden, terminal
terminal.ask = lambda prompt, *_: hidden.Hidden.of(getpass.getpass(prompt).encode())
"""


@root_only
def test_a_command_that_asks_by_getpass_leaves_copies(vault: RunningDaemon) -> None:
    """The control."""
    assert vault.avault("lock").returncode == 0
    command = [sys.executable, "-c", HOLD.format(plant=GETPASS), "unlock"]
    with on_terminal(command, vault.env) as terminal:
        answer(terminal, "passphrase for the vault: ", PASSPHRASE)
        terminal.expect("held 0")
        found = scan(terminal.process.pid, {"passphrase": PASSPHRASE.encode()})
    places = {hit.address for hit in found.hits}
    report(f"control, getpass in its place: {len(places)} copies of the passphrase")
    assert places


@root_only
def test_no_copy_is_left_of_a_new_passphrase_typed_twice(daemon: RunningDaemon) -> None:
    with on_terminal(holding(daemon, "init"), daemon.env) as terminal:
        answer(terminal, "passphrase for the new vault: ", PASSPHRASE)
        answer(terminal, "the same once more: ", PASSPHRASE)
        terminal.expect("held 0")
        check(terminal.process.pid, {"passphrase": PASSPHRASE.encode()}, {"planted": PLANTED})


@root_only
def test_no_copy_is_left_of_passphrase_and_value_of_set(vault: RunningDaemon) -> None:
    with on_terminal(holding(vault, "set", "TOKEN"), vault.env) as terminal:
        answer(terminal, "passphrase for the vault: ", PASSPHRASE)
        answer(terminal, "value of TOKEN: ", VALUE)
        terminal.expect("held 0")
        needles = {"passphrase": PASSPHRASE.encode(), "value": VALUE.encode()}
        check(terminal.process.pid, needles, {"planted": PLANTED})


@root_only
def test_no_copy_is_left_of_a_passphrase_from_a_file_and_a_value_that_was_got(
    vault: RunningDaemon, tmp_path: Path
) -> None:
    assert (
        vault.avault("set", "TOKEN", passphrase=PASSPHRASE.encode() + b"\n", stdin=VALUE.encode()).returncode
        == 0
    )
    (tmp_path / "pass").write_text(PASSPHRASE)
    process = subprocess.Popen(
        holding(vault, "get", "TOKEN", "--passphrase-file", str(tmp_path / "pass")),
        env=vault.env,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == f"{VALUE}held 0\n".encode()
        needles = {"passphrase": PASSPHRASE.encode(), "value": VALUE.encode()}
        check(process.pid, needles, {"planted": PLANTED})
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()


IMPOSTOR = """
import os, socket, sys
from avault_protocol import Decoder, pack_response
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
os.setuid(65533)
listener.listen()
print("listening", flush=True)
line, _ = listener.accept()
decoder, everything = Decoder(), b""
while data := line.recv(65536):
    everything += data
    decoder.feed(data)
    for request in decoder:
        line.sendall(pack_response(request.id, {"state": sys.argv[2], "vault": None}))
print(everything, flush=True)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
@pytest.mark.parametrize(
    ("words", "state"),
    [
        (["init"], "uninitialized"),
        (["unlock"], "locked"),
        (["get", "TOKEN"], "unlocked"),
        (["restore-vault", "/dev/null", "--copy-passphrase-file", "pass"], "locked"),
    ],
)
def test_a_server_of_another_user_gets_no_passphrase(words: list[str], state: str, tmp_path: Path) -> None:
    (tmp_path / "pass").write_text(PASSPHRASE)
    impostor = [sys.executable, "-c", IMPOSTOR, str(tmp_path / "operator.sock"), state]
    with subprocess.Popen(impostor, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"listening\n"
        done = subprocess.run(
            [AVAULT, *words, "--passphrase-file", "pass"],
            env={"AVAULT_RUNTIME_DIR": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        received = server.stdout.read()
    assert done.returncode == 7
    assert "runs as uid 65533: it gets no passphrase" in done.stderr
    assert PASSPHRASE.encode() not in received
