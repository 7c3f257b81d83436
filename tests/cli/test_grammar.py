"""The grammar of command lines: what it takes, and what it refuses without repeating it."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from avault_client.cli import commands
from avault_client.cli.grammar import PROOF, Argument, Command, Option, WrongUse, whole

DEMO = Command(
    "demo",
    "show how it goes",
    lambda session, parsed: None,
    lines=lambda result: [],
    arguments=(Argument("NAME", "a name"), Argument("MORE", "more names", many=True, optional=True)),
    options=(
        Option("loud", "a flag"),
        Option("to", "a place", "FILE"),
        Option("uid", "users", "U", many=True),
        *PROOF,
    ),
    example="avault demo X",
)
KIND = Command(
    "kind",
    "take one of a few words",
    lambda session, parsed: None,
    arguments=(Argument("KIND", "which", choices=("one", "two")),),
    example="avault kind one",
)


def test_arguments_and_options_may_stand_in_any_order() -> None:
    for words in (
        ["a", "b", "--loud", "--to", "x"],
        ["--to=x", "--loud", "a", "b"],
        ["a", "--to", "x", "b", "--loud"],
    ):
        parsed = DEMO.parse(words)
        assert (parsed.text("NAME"), parsed.texts("MORE"), parsed.optional("to")) == ("a", ["b"], "x")
        assert parsed.flag("loud")


def test_what_is_left_out_is_absent() -> None:
    parsed = DEMO.parse(["a"])
    assert parsed.texts("MORE") == []
    assert parsed.optional("to") is None
    assert parsed.number("passphrase-fd") is None
    assert not parsed.flag("loud")


def test_an_option_of_many_takes_several_and_may_be_repeated() -> None:
    assert DEMO.parse(["a", "--uid", "1", "2", "--loud", "--uid=3"]).texts("uid") == ["1", "2", "3"]


def test_behind_two_dashes_everything_is_an_argument() -> None:
    parsed = DEMO.parse(["--loud", "--", "--to", "-x"])
    assert (parsed.text("NAME"), parsed.texts("MORE")) == ("--to", ["-x"])


def test_one_dash_is_an_argument() -> None:
    assert DEMO.parse(["-"]).text("NAME") == "-"


def test_an_attached_value_may_begin_with_a_dash_or_be_empty() -> None:
    assert DEMO.parse(["a", "--to=-x"]).optional("to") == "-x"
    assert DEMO.parse(["a", "--to="]).optional("to") == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "demo needs NAME"),
        (["a", "--to"], "--to takes FILE"),
        (["a", "--to", "--loud"], "--to takes FILE"),
        (["a", "--to", "x", "--to", "y"], "--to is given twice"),
        (["a", "--loud=yes"], "--loud takes no value"),
        (["a", "--nope"], "demo has no option --nope"),
        (["a", "-x"], "demo has no such option"),
        (["a", "--hunter2"], "demo has no such option"),
        (["a", "--loud", "--loud"], "--loud is given twice"),
    ],
)
def test_wrong_use_says_what_is_wrong_and_shows_the_usage(words: list[str], message: str) -> None:
    with pytest.raises(WrongUse) as caught:
        DEMO.parse(words)
    assert caught.value.message == message
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("usage: avault demo NAME [MORE...] [--loud] [--to FILE] [--uid U...]")


def test_what_may_be_a_secret_is_not_repeated() -> None:
    for command, words in (
        (KIND, ["one", "hunter2"]),
        (KIND, ["hunter2"]),
        (DEMO, ["a", "--passphrase=hunter2"]),
    ):
        with pytest.raises(WrongUse) as caught:
            command.parse(words)
        assert "hunter2" not in f"{caught.value.message} {caught.value.hint}"


def test_help_excuses_what_is_missing() -> None:
    assert DEMO.parse(["--help"]).flag("help")
    assert DEMO.parse(["-h"]).flag("help")


def test_a_choice_is_one_of_its_words() -> None:
    assert KIND.parse(["two"]).text("KIND") == "two"


def test_json_belongs_to_commands_with_lines_only() -> None:
    assert DEMO.parse(["a", "--json"]).flag("json")
    with pytest.raises(WrongUse):
        KIND.parse(["one", "--json"])


@pytest.mark.parametrize("text", ["", "-1", "1.0", " 1", "x", "٣"])
def test_a_whole_number_is_ascii_digits(text: str) -> None:
    with pytest.raises(WrongUse, match="--n takes a whole number"):
        whole(text, "--n")
    assert whole("0042", "--n") == 42


@given(
    st.lists(st.text(max_size=8) | st.sampled_from(["--", "-", "--to", "--uid", "--loud=1", "--help", "-h"]))
)
def test_any_words_are_parsed_or_wrong_use(words: list[str]) -> None:
    try:
        parsed = DEMO.parse(words)
    except WrongUse:
        return
    assert parsed.flag("help") or parsed.text("NAME") is not None


@pytest.mark.parametrize("command", list(commands.all_commands()), ids=lambda command: command.name)
def test_every_command_explains_itself(command: Command) -> None:
    text = command.help()
    assert text.startswith(f"usage: avault {command.name}")
    assert f"example:\n  {command.example}\n" in text
    assert f"avault {command.name.split()[0]}" in command.example
    for option in command.options:
        assert f"  {option.usage()}" in text
    assert max(len(line) for line in command.help().splitlines()[1:]) < 140
    assert command.summary[0].islower()
    assert not command.summary.endswith(".")


def test_no_command_takes_a_value_or_a_passphrase_as_an_argument() -> None:
    names = {option.name for command in commands.all_commands() for option in command.options}
    assert {name for name in names if "passphrase" in name} == {
        f"{prefix}passphrase-{way}" for prefix in ("", "new-", "copy-") for way in ("fd", "file")
    }
    assert not names & {"value", "secret-value", "password"}


def test_find_takes_the_whole_name() -> None:
    command, rest = commands.find(["slot", "add", "passphrase"])
    assert (command.name, rest) == ("slot add", ["passphrase"])


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["stauts"], "did you mean status?"),
        (["xyzzy"], "see: avault --help"),
        (["slot"], "one of: slot list, slot add, slot remove, slot change-passphrase"),
        (["agent", "zap"], "one of: agent set, agent rm"),
    ],
)
def test_an_unknown_command_gets_a_hint(words: list[str], hint: str) -> None:
    with pytest.raises(WrongUse) as caught:
        commands.find(words)
    assert caught.value.hint == hint
