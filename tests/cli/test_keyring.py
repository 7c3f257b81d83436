"""The keyring at the command line: what is said before a slot is made, and what is asked of the daemon."""

from __future__ import annotations

import os

import pytest

from avault_client import cli
from avault_client.cli.commands import shell
from avault_client.cli.commands.slots import KEYRING_WARNING
from avault_client.cli.grammar import WrongUse
from avault_client.cli.session import Session
from support.operator import Operator

UNLOCKED = {"state": "unlocked"}


def run(operator: Operator, *words: str) -> int:
    return cli.run(list(words), Session(operator.connect))


def test_it_says_first_what_it_gives_up(capsys: pytest.CaptureFixture[str]) -> None:
    operator = Operator(status=UNLOCKED, keyring_add={"slot": "keyring"})
    assert run(operator, "slot", "add", "keyring", "--phone") == 0
    assert operator.methods == ["status", "phone_prove", "keyring_add"]
    out, err = capsys.readouterr()
    assert out == "added slot keyring\n"
    assert KEYRING_WARNING in err
    assert "any program" in KEYRING_WARNING


def test_unlock_by_keyring(capsys: pytest.CaptureFixture[str]) -> None:
    done = {"already": False, "slot": "keyring", "vault": "ab"}
    operator = Operator(status={"state": "locked"}, keyring_unlock=done)
    assert run(operator, "unlock", "--keyring") == 0
    assert operator.calls[-1] == ("keyring_unlock", {}, None)
    assert capsys.readouterr() == ("unlocked\n", "")


def test_either_the_keyring_or_the_phone() -> None:
    operator = Operator(status={"state": "locked"})
    with pytest.raises(WrongUse, match="either --phone or --keyring"):
        run(operator, "unlock", "--keyring", "--phone")
    assert operator.methods == []


def test_the_keyring_is_asked_also_in_a_shell_that_asks_the_phone(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.write(write, b"unlock --keyring\n")
    os.close(write)
    monkeypatch.setattr(shell, "STDIN", read)
    operator = Operator(
        status={"state": "locked"}, keyring_unlock={"already": False, "slot": "keyring", "vault": "ab"}
    )
    try:
        assert run(operator, "shell", "--phone") == 0
    finally:
        os.close(read)
    assert operator.methods[-1] == "keyring_unlock"
