"""What is shown while a phone is asked, and how a session and the commands ask it."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from avault_client import cli
from avault_client.cli import phone
from avault_client.cli.commands import shell
from avault_client.cli.grammar import WrongUse
from avault_client.cli.session import Session
from avault_daemon.nostr.bech32 import encode
from avault_protocol import BadRequestError, DeniedError, ProofRequiredError
from support.operator import Operator

SIGNER = "3bf0c63fcb93463407af97a5e5ee64fa883d107ef9e558472c4eb9aaaefa459d"
OWNER = "7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e"
RELAY = "wss://relay.example.org"
PAIRED = {"signer": SIGNER, "operator": OWNER, "relays": [RELAY]}
UNLOCKED = {"state": "unlocked"}


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(operator: Operator, *words: str) -> int:
    return cli.run(list(words), Session(operator.connect))


# --- keys as people know them ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("public", "npub"),
    [  # NIP-19
        (SIGNER, "npub180cvv07tjdrrgpa0j7j7tmnyl2yr6yr7l8j4s3evf6u64th6gkwsyjh6w6"),
        (OWNER, "npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg"),
    ],
)
def test_npub(public: str, npub: str) -> None:
    assert phone.npub(public) == npub


@given(st.binary(min_size=32, max_size=32))
def test_npub_is_the_bech32_of_the_daemon(key: bytes) -> None:
    assert phone.npub(key.hex()) == encode("npub", key)


@pytest.mark.parametrize("public", ["", "ab", SIGNER + "00", SIGNER[:-2], "zz" * 32])
def test_no_npub(public: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        phone.npub(public)


# --- the screen ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [*phone.STAGES, "something new"])
def test_each_stage_has_words(stage: str) -> None:
    words = phone.described({"stage": stage, "relay": RELAY, "text": "why"})
    assert words
    assert "{" not in words
    assert "None" not in words


def test_the_seconds_that_are_left_are_shown_and_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with phone.Waiting("asking your phone") as waiting:
        waiting.progress({"stage": "connected", "relay": RELAY + "\x1b", "seconds_left": 60})
        waiting.progress({"stage": "sent", "relay": RELAY, "seconds_left": 60})
    shown = screen.getvalue()
    assert f"connected to {RELAY}\\x1b (60 s left)" in shown
    assert "request sent, waiting for you (60 s left)" in shown
    assert shown.endswith("\r\033[K")


def test_a_pipe_gets_no_progress_but_what_needs_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    with phone.Waiting("asking your phone", "choose well") as waiting:
        assert pipe.getvalue() == ""  # the daemon may have reasons not to begin
        waiting.progress({"stage": "sent", "relay": RELAY, "seconds_left": 60})
        waiting.progress({"stage": "scan", "uri": "nostrconnect://ab"})
        waiting.progress({"stage": "auth_url", "uri": "https://signer.example/\x1b[2J"})
        waiting.progress({"stage": "skew", "text": "the clocks differ"})
        waiting.progress({"stage": "unrenewed", "text": "slot phone was not renewed"})
    shown = pipe.getvalue()
    assert "waiting for you" not in shown
    assert shown.startswith("choose well\n")
    assert shown.count("choose well") == 1
    assert "\nnostrconnect://ab\n" in shown
    assert "\\n" not in shown
    assert "https://signer.example/\\x1b[2J\n" in shown
    assert "warning: the clocks differ" in shown
    assert "warning: slot phone was not renewed" in shown


def test_the_uri_is_drawn_if_there_is_what_draws_it(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []

    class Code:
        def terminal(self, **how: Any) -> None:
            drawn.append(how["out"])

    class Segno:
        @staticmethod
        def make(text: str, **how: Any) -> Code:
            drawn.append(text)
            return Code()

    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    for module, expected in ((Segno, ["nostrconnect://ab", screen]), (None, [])):
        monkeypatch.setitem(sys.modules, "segno", module)
        drawn.clear()
        with phone.Waiting("looking for your phone") as waiting:
            waiting.progress({"stage": "scan", "uri": "nostrconnect://ab", "seconds_left": 9})
        assert drawn == expected
        assert "nostrconnect://ab\n" in screen.getvalue()


# --- proof by phone --------------------------------------------------------------------------------------------------


def test_each_call_is_allowed_by_itself() -> None:
    operator = Operator(status=UNLOCKED)
    session = Session(operator.connect)
    session.phone = True
    session.prove("rm")
    session.call("rm", {"name": "A"})
    session.call("rm", {"name": "B"})
    asked = [params for method, params, _ in operator.calls if method == "phone_prove"]
    assert asked == [{"action": "rm"}] * 2
    assert operator.methods == ["status", "phone_prove", "rm"] * 2
    assert not session.proven


def test_a_phone_that_says_no_proves_nothing() -> None:
    operator = Operator(status=UNLOCKED, phone_prove=DeniedError())
    with pytest.raises(DeniedError):
        run(operator, "rm", "A", "--phone")
    assert "rm" not in operator.methods


def test_get_by_phone(capfd: pytest.CaptureFixture[str]) -> None:
    value = {"name": "A", "version": 1, "encoding": "text", "value": bytearray(b"v")}
    operator = Operator(status=UNLOCKED, reveal=value)
    assert run(operator, "get", "A", "--phone") == 0
    assert operator.methods == ["status", "phone_prove", "reveal"]


def test_a_phone_stands_in_place_of_a_passphrase() -> None:
    for words in (["rm", "A"], ["unlock"]):
        with pytest.raises(WrongUse, match="in place of a passphrase"):
            run(Operator(), *words, "--phone", "--passphrase-file", "pass")
    with pytest.raises(WrongUse, match="name the slot"):
        run(Operator(status=UNLOCKED), "slot", "change-passphrase", "--phone")


def test_unlock_by_phone(capsys: pytest.CaptureFixture[str]) -> None:
    done = {"already": False, "slot": "phone", "vault": "ab"}
    operator = Operator(status={"state": "locked"}, phone_unlock=done)
    assert run(operator, "unlock", "--phone", "--timeout", "60") == 0
    assert operator.calls[-1] == ("phone_unlock", {"timeout": 60}, None)
    assert capsys.readouterr() == ("unlocked\n", "")


def test_a_copy_is_restored_by_phone(tmp_path: Path) -> None:
    """The phone is asked only if the daemon wants proof, and for this one thing."""
    for name in ("copy", "pass"):
        (tmp_path / name).write_text("a passphrase\n")
    tries: list[object] = []

    def restore(params: object) -> dict[str, Any]:
        tries.append(params)
        if len(tries) == 1:
            raise ProofRequiredError
        return {"vault": "ab"}

    operator = Operator(status=UNLOCKED, restore_vault=restore)
    words = (
        "restore-vault",
        str(tmp_path / "copy"),
        "--copy-passphrase-file",
        str(tmp_path / "pass"),
        "--phone",
    )
    assert run(operator, *words) == 0
    assert operator.methods == ["status", "restore_vault", "phone_prove", "restore_vault"]
    assert operator.calls[2][1] == {"action": "restore_vault"}


def test_a_shell_asks_the_phone_for_each_command(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.write(write, b"rm A\nlist\nrm B\n")
    os.close(write)
    monkeypatch.setattr(shell, "STDIN", read)
    operator = Operator(status=UNLOCKED, list={"secrets": [], "more": False})
    try:
        assert run(operator, "shell", "--phone") == 0
    finally:
        os.close(read)
    assert operator.methods == ["status", "phone_prove", "rm", "list", "status", "phone_prove", "rm"]


# --- pairing ---------------------------------------------------------------------------------------------------------


def test_pairing_shows_the_keys(capsys: pytest.CaptureFixture[str]) -> None:
    operator = Operator(status=UNLOCKED, phone_pair=PAIRED, phone_confirm={"slot": "phone"})
    assert run(operator, "slot", "add", "phone", "--relay", RELAY, "--yes", "--phone") == 0
    asked = [
        (method, params) for method, params, _ in operator.calls if method in ("phone_pair", "phone_confirm")
    ]
    assert asked == [("phone_pair", {"relays": [RELAY]}), ("phone_confirm", {})]
    out, err = capsys.readouterr()
    assert out == "added slot phone\n"
    assert f"signer    {phone.npub(SIGNER)}" in err
    assert f"operator  {phone.npub(OWNER)}" in err


def test_a_bunker_uri_is_passed_on() -> None:
    operator = Operator(status=UNLOCKED, phone_pair=PAIRED, phone_confirm={"slot": "phone"})
    run(operator, "slot", "add", "phone", "bunker://ab", "--yes", "--phone", "--timeout", "9")
    assert ("phone_pair", {"timeout": 9, "bunker": "bunker://ab"}, None) in operator.calls


@pytest.mark.parametrize("answer", [False, True])
def test_nothing_is_written_unless_the_operator_says_so(
    monkeypatch: pytest.MonkeyPatch, answer: bool
) -> None:
    def confirmed(question: str) -> bool:
        return answer

    monkeypatch.setattr(phone, "confirmed", confirmed)
    operator = Operator(status=UNLOCKED, phone_pair=PAIRED, phone_confirm={"slot": "phone"})
    if answer:
        run(operator, "slot", "add", "phone", "--phone")
    else:
        with pytest.raises(BadRequestError, match="nothing was paired"):
            run(operator, "slot", "add", "phone", "--phone")
    assert ("phone_confirm" in operator.methods) == answer


@pytest.mark.parametrize("words", [["phone", "bunker://ab", "--relay", RELAY], ["passphrase", "bunker://ab"]])
def test_what_does_not_go_together(words: list[str]) -> None:
    operator = Operator(status=UNLOCKED)
    with pytest.raises(WrongUse):
        run(operator, "slot", "add", *words)
    assert operator.methods == []
