"""Where passphrases come from, and which are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from avault_client.cli import terminal
from avault_client.cli.grammar import PROOF, Command, Parsed, WrongUse, passphrase_options
from avault_client.cli.hidden import Hidden
from avault_client.cli.passphrases import Source, normalised
from avault_protocol import BadRequestError, ProofRequiredError, TooLargeError

COMMAND = Command(
    "demo",
    "try",
    lambda session, parsed: None,
    options=(*PROOF, *passphrase_options("it", "new-")),
    example="x",
)


def parsed(*words: str) -> Parsed:
    return COMMAND.parse(words)


def in_file(tmp_path: Path, content: bytes) -> Source:
    path = tmp_path / "passphrase"
    path.write_bytes(content)
    return Source(file=str(path))


class Typist:
    """Stands for the terminal: gives the answers, keeps the prompts."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.prompts: list[str] = []
        self.given: list[Hidden] = []

    def __call__(self, prompt: str, what: str, limit: int) -> Hidden:
        self.prompts.append(prompt)
        self.given.append(Hidden.of(self.answers.pop(0)))
        return self.given[-1]


def test_a_file_gives_its_first_line(tmp_path: Path) -> None:
    for content in (b"correct horse", b"correct horse\n", b"correct horse\r\n", b"correct horse\nmore\n"):
        with in_file(tmp_path, content).read("the vault") as passphrase:
            assert bytes(passphrase.view) == b"correct horse"


def test_a_descriptor_gives_one_line_after_the_other() -> None:
    read, write = os.pipe()
    os.write(write, b"first one\nsecond one\n")
    os.close(write)
    with Source(fd=read).read("the vault") as first, Source(fd=read).read("the copy") as second:
        assert (bytes(first.view), bytes(second.view)) == (b"first one", b"second one")
    with pytest.raises(ProofRequiredError, match="no passphrase was given for the vault"):
        Source(fd=read).read("the vault")
    os.close(read)


def test_an_empty_passphrase_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProofRequiredError, match="the passphrase for the vault is empty"):
        in_file(tmp_path, b"\n").read("the vault")


def test_a_passphrase_has_at_most_1024_bytes(tmp_path: Path) -> None:
    with in_file(tmp_path, b"x" * 1024).read("the vault") as passphrase:
        assert passphrase.size == 1024
    with pytest.raises(TooLargeError, match="the passphrase has more than 1,024 bytes"):
        in_file(tmp_path, b"x" * 1025).read("the vault")


@pytest.mark.parametrize(
    ("text", "accepted"), [("1234567", False), ("12345678", True), ("üüüüüüü", False), ("üüüüüüüü", True)]
)
def test_a_new_passphrase_has_at_least_8_characters(tmp_path: Path, text: str, accepted: bool) -> None:
    source = in_file(tmp_path, text.encode())
    if accepted:
        source.read_new("the vault").wipe()
    else:
        with pytest.raises(BadRequestError, match="the passphrase is shorter than 8 characters"):
            source.read_new("the vault")


def test_a_given_passphrase_is_not_judged(tmp_path: Path) -> None:
    with in_file(tmp_path, b"short").read("the vault") as passphrase:
        assert passphrase.size == 5


def test_a_missing_file_is_an_error_that_does_not_name_it(tmp_path: Path) -> None:
    """Its name may be the passphrase, given to the wrong option."""
    message = "^--copy-passphrase-file: no such file or directory$"
    with pytest.raises(BadRequestError, match=message) as caught:
        Source(file=str(tmp_path / "nope"), prefix="copy-").read("the vault")
    assert caught.value.__context__ is None


def test_a_new_one_is_asked_for_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    typist = Typist(b"correct horse", b"correct horse")
    monkeypatch.setattr(terminal, "ask", typist)
    with Source().read_new("the new vault") as passphrase:
        assert bytes(passphrase.view) == b"correct horse"
    assert typist.prompts == ["passphrase for the new vault: ", "the same once more: "]
    assert set(typist.given[1].buffer) == {0}


def test_two_that_differ_are_refused_and_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    typist = Typist(b"correct horse", b"correct house")
    monkeypatch.setattr(terminal, "ask", typist)
    with pytest.raises(BadRequestError, match="the two passphrases differ"):
        Source().read_new("the new vault")
    assert [set(given.buffer) for given in typist.given] == [{0}, {0}]


def test_a_short_one_is_refused_before_it_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    typist = Typist(b"short")
    monkeypatch.setattr(terminal, "ask", typist)
    with pytest.raises(BadRequestError):
        Source().read_new("the new vault")
    assert set(typist.given[0].buffer) == {0}


def test_without_a_terminal_the_hint_names_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(prompt: str, what: str, limit: int) -> Hidden:
        raise OSError(6, "No such device or address", "/dev/tty")

    monkeypatch.setattr(terminal, "ask", nobody)
    with pytest.raises(ProofRequiredError) as caught:
        Source(prefix="copy-").read("the copy")
    assert caught.value.hint == "use --copy-passphrase-fd or --copy-passphrase-file, or run it on a terminal"
    with pytest.raises(ProofRequiredError) as caught:
        Source().read_new("the new vault")
    assert str(caught.value.hint).endswith("or run it on a terminal")
    with pytest.raises(ProofRequiredError) as caught:
        Source().read("the vault")
    assert str(caught.value.hint).endswith("; with a phone that is paired: --phone")


def test_the_options_say_where() -> None:
    source = Source.given(parsed("--passphrase-fd", "3", "--new-passphrase-file", "f"))
    assert (source.fd, source.file, source.asks) == (3, None, False)
    source = Source.given(parsed("--passphrase-fd", "3", "--new-passphrase-file", "f"), "new-")
    assert (source.fd, source.file, source.asks) == (None, "f", False)
    assert Source.given(parsed()).asks


def test_two_places_for_one_passphrase_are_wrong_use() -> None:
    with pytest.raises(WrongUse, match="--passphrase-fd and --passphrase-file exclude each other"):
        Source.given(parsed("--passphrase-fd", "3", "--passphrase-file", "f"))
    with pytest.raises(WrongUse, match="--passphrase-fd takes a whole number"):
        Source.given(parsed("--passphrase-fd", "x"))


def test_ascii_stays_where_it_is() -> None:
    passphrase = Hidden.of(b"correct horse")
    assert normalised(passphrase) is passphrase


def test_other_text_gets_its_one_form() -> None:
    """NIP-49's own example: ÅΩẛ̣ in NFKC."""
    given = Hidden.of(bytes.fromhex("e284abe284a6e1ba9bcca3"))
    assert bytes(normalised(given).view) == bytes.fromhex("c385cea9e1b9a9")
    assert set(given.buffer) == {0}


def test_bytes_that_are_no_text_are_refused_and_wiped() -> None:
    given = Hidden.of(b"correct \xff horse")
    with pytest.raises(BadRequestError, match="the passphrase is not UTF-8 text") as caught:
        normalised(given)
    assert "horse" not in repr(caught.value)
    assert set(given.buffer) == {0}


@given(st.text(min_size=1))
def test_to_normalise_twice_changes_nothing(text: str) -> None:
    once = bytes(normalised(Hidden.of(text.encode(errors="ignore"))).view)
    assert bytes(normalised(Hidden.of(once)).view) == once
