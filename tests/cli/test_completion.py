"""Completion scripts; the one for bash is run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from avault_client.cli import commands
from avault_client.cli.commands.completion import SHELLS

KNOWN = list(commands.all_commands())


def complete(*words: str, folder: Path | None = None) -> list[str]:
    """Return what bash offers for the last of *words*, behind `avault`."""
    quoted = " ".join(f"'{word}'" for word in ("avault", *words))
    program = f"{SHELLS['bash'](KNOWN)}\nCOMP_WORDS=({quoted}); COMP_CWORD={len(words)}; _avault\nprintf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-euc", program], capture_output=True, text=True, check=True, cwd=folder)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["sta"], ["status"]),
        (["re"], ["restore", "revoke", "requests", "restore-vault", "rekey"]),
        (["slot", ""], ["list", "add", "remove", "change-passphrase"]),
        (["slot", "add", "p"], ["passphrase", "phone"]),
        (["slot", "add", "k"], ["keyring"]),
        (["unlock", "--k"], ["--keyring"]),
        (["slot", "add", "phone", "--y"], ["--yes"]),
        (["unlock", "--ph"], ["--phone"]),
        (["slot", "add", "passphrase", "--new"], ["--new-passphrase-fd", "--new-passphrase-file"]),
        (["agent", "set", "cobot", "--s"], ["--socket"]),
        (["unlock", "--slot", "get", "--t"], ["--timeout"]),
        (["completion", ""], ["bash", "zsh", "fish", "--help"]),
        (["nonsense", "--x"], []),
    ],
)
def test_bash_offers_what_may_follow(words: list[str], offered: list[str]) -> None:
    assert complete(*words) == offered


def test_bash_offers_files_where_a_file_stands(tmp_path: Path) -> None:
    (tmp_path / "copy.jsonl").touch()
    assert complete("restore-vault", "co", folder=tmp_path) == ["copy.jsonl"]
    assert complete("import", "--env-file", "co", folder=tmp_path) == ["copy.jsonl"]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_and_option_is_in_every_script(shell: str) -> None:
    script = SHELLS[shell](KNOWN)
    for command in KNOWN:
        assert all(word in script for word in command.name.split())
        for option in command.options:
            assert (f"-l {option.name}" if shell == "fish" else f"--{option.name}") in script


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_takes_its_script(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed here")
    path = tmp_path / "script"
    path.write_text(SHELLS[shell](KNOWN))
    subprocess.run([shell, "-n", path], check=True)


def test_fish_takes_any_text_as_it_is() -> None:
    from avault_client.cli.commands.completion import quoted

    assert quoted("the vault's \\ key") == "'the vault\\'s \\\\ key'"
