"""Starting the daemon, as far as it goes wrong; that it goes right is in scripts/start.txt."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from avault_client._operator import OperatorConnection
from avault_client.cli import launch
from avault_client.cli.session import Session
from avault_protocol import DaemonUnavailableError
from support.operator import Operator


def nobody() -> OperatorConnection:
    raise DaemonUnavailableError("nobody answers")


@pytest.fixture
def bin_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let `avaultd` be looked for in one folder only, and messages go to another."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(sys, "argv", [str(folder / "avault")])
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return folder


def install(folder: Path, script: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "avaultd"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    return path


def test_a_daemon_that_answers_is_left_alone(bin_dir: Path) -> None:
    operator = Operator()
    launch.ensure(Session(operator.connect))
    assert operator.connections == 1


def test_it_is_found_beside_the_command_then_in_its_environment_then_on_the_path(
    bin_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    for folder in (tmp_path / "path", tmp_path / "prefix" / "bin", bin_dir):
        expected = install(folder, "true")
        assert launch.find_program() == str(expected)


def test_one_that_is_not_installed_is_an_error(bin_dir: Path) -> None:
    (bin_dir / "avaultd").write_text("not executable")
    with pytest.raises(DaemonUnavailableError, match="avaultd is not installed here") as caught:
        launch.ensure(Session(nobody))
    assert caught.value.hint == "install it: pip install avault-daemon"


def test_one_that_ends_at_once_is_quoted(bin_dir: Path, tmp_path: Path) -> None:
    install(bin_dir, "echo 'error: first' >&2; exit 1")
    for word in ("first", "second"):
        install(bin_dir, f"echo 'error: {word}' >&2; exit 1")
        with pytest.raises(DaemonUnavailableError) as caught:
            launch.ensure(Session(nobody))
        assert caught.value.message == f"avaultd ended at once: error: {word}"
        assert caught.value.hint == f"its messages are in {tmp_path}/state/avault/avaultd.log"
    assert (tmp_path / "state/avault/avaultd.log").read_text() == "error: first\nerror: second\n"
    assert (tmp_path / "state/avault/avaultd.log").stat().st_mode & 0o777 == 0o600


def test_an_error_of_its_own_is_one_line(bin_dir: Path) -> None:
    install(bin_dir, "printf 'avaultd: error: no place\\navaultd: hint: make one\\n' >&2; exit 1")
    with pytest.raises(DaemonUnavailableError, match=r"^avaultd ended at once: no place; make one$"):
        launch.ensure(Session(nobody))


def test_one_that_says_nothing_is_without_a_word(bin_dir: Path) -> None:
    install(bin_dir, "exit 0")
    with pytest.raises(DaemonUnavailableError, match="avaultd ended at once: without a word"):
        launch.ensure(Session(nobody))


def test_one_that_does_not_answer_is_waited_for_so_long(
    bin_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(bin_dir, "exit 0")
    monkeypatch.setattr(launch, "PATIENCE", 0.0)
    with pytest.raises(DaemonUnavailableError, match="avaultd does not answer within 0 s"):
        launch.ensure(Session(nobody))


def test_another_one_that_was_faster_is_as_good(bin_dir: Path) -> None:
    install(bin_dir, "echo 'another daemon runs' >&2; exit 1")
    operator, tries = Operator(), iter([True, False])

    def second_time() -> OperatorConnection:
        return nobody() if next(tries) else operator.connect()

    launch.ensure(Session(second_time))
    assert operator.connections == 1


def test_it_gets_this_environment_no_input_and_no_other_descriptor(bin_dir: Path, tmp_path: Path) -> None:
    """A descriptor with a passphrase, passed to the command, must not live on in the daemon."""
    install(bin_dir, "{ /bin/ls -l /proc/self/fd; /bin/cat; echo home=$AVAULT_HOME; } >&2; exit 1")
    read, write = os.pipe()
    os.set_inheritable(read, True)
    os.environ["AVAULT_HOME"] = "/some/where"
    try:
        with pytest.raises(DaemonUnavailableError, match="home=/some/where") as caught:
            launch.ensure(Session(nobody))
    finally:
        del os.environ["AVAULT_HOME"]
        os.close(read)
        os.close(write)
    assert "pipe:" not in caught.value.message
    assert "0 -> /dev/null" in caught.value.message


def test_what_a_service_manager_said_to_the_command_is_not_handed_on(
    bin_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in launch.NOT_ITS:
        monkeypatch.setenv(name, "7")
    install(bin_dir, f"/usr/bin/env > {tmp_path}/told; exit 1")
    with pytest.raises(DaemonUnavailableError, match="ended at once"):
        launch.ensure(Session(nobody))
    told = {line.partition("=")[0] for line in (tmp_path / "told").read_text().splitlines()}
    assert "XDG_STATE_HOME" in told
    assert not told & set(launch.NOT_ITS)


def test_a_log_that_is_a_link_is_not_followed(bin_dir: Path, tmp_path: Path) -> None:
    install(bin_dir, "exit 1")
    (tmp_path / "state/avault").mkdir(parents=True)
    (tmp_path / "state/avault/avaultd.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        launch.ensure(Session(nobody))
    assert not (tmp_path / "elsewhere").exists()
