"""What import finds, chooses and packs, before anything is sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from avault_client.cli.commands import find
from avault_client.cli.commands.transfer import from_env_file, from_json_file
from avault_client.cli.grammar import WrongUse
from avault_client.cli.session import Session
from avault_protocol import AvaultError, BadRequestError, NotFoundError, TooLargeError
from support.operator import Operator


def importing(*words: str) -> tuple[Operator, dict[str, Any]]:
    """Run import against a daemon that takes everything."""
    command, rest = find(["import", *words])
    operator = Operator(
        put=lambda params: {"stored": [{"name": i["name"], "version": 1} for i in params["items"]]}
    )
    session = Session(operator.connect)
    session.proven = True
    result = command.run(session, command.parse(rest))
    assert isinstance(result, dict)
    return operator, result


def refused(kind: type[Exception], *words: str) -> str:
    """Return why import does not even try."""
    operator = Operator()
    command, rest = find(["import", *words])
    with pytest.raises(kind) as caught:
        command.run(Session(operator.connect), command.parse(rest))
    assert operator.calls == []
    return str(caught.value)


@pytest.fixture
def env_file(tmp_path: Path) -> str:
    path = tmp_path / ".env"
    path.write_text("A=first\nexport B='second'\nC=\nA=newest\n")
    return str(path)


def test_an_env_file_goes_in_one_transaction(env_file: str) -> None:
    operator, result = importing("--env-file", env_file)
    [(method, params, value)] = operator.calls
    assert method == "put"
    assert params["replace"] is False
    assert params["items"] == [
        {"name": "A", "size": 6, "encoding": "text"},
        {"name": "B", "size": 6, "encoding": "text"},
    ]
    assert value == b"newestsecond"
    assert result["origin"] == env_file


def test_an_empty_value_is_left_out_aloud(env_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    importing("--env-file", env_file)
    assert capsys.readouterr().err == "left out C: its value is empty\n"


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--only", "A"], ["A"]),
        (["--except", "A", "C"], ["B"]),
        (["--only", "A", "B", "--except", "B"], ["A"]),
    ],
)
def test_only_and_except_choose(env_file: str, words: list[str], names: list[str]) -> None:
    operator, _ = importing("--env-file", env_file, *words)
    assert [item["name"] for item in operator.calls[0][1]["items"]] == names


def test_replace_is_passed_on(env_file: str) -> None:
    operator, _ = importing("--env-file", env_file, "--replace")
    assert operator.calls[0][1]["replace"] is True


def test_a_name_that_is_not_there_is_an_error(env_file: str) -> None:
    assert refused(NotFoundError, "--env-file", env_file, "--only", "D") == f"{env_file} holds no D"
    assert refused(NotFoundError, "--env-file", env_file, "--except", "D") == f"{env_file} holds no D"


def test_nothing_left_is_an_error(env_file: str) -> None:
    assert refused(BadRequestError, "--env-file", env_file, "--only", "C").startswith(
        "there is nothing to import"
    )


def test_exactly_one_source(env_file: str) -> None:
    assert refused(WrongUse).startswith("import takes one of")
    assert refused(WrongUse, "--env-file", env_file, "--env", "A").startswith("import takes one of")


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", "from outside")
    operator, result = importing("--env", "A")
    assert operator.calls[0][2] == b"from outside"
    assert result["origin"] == "the environment"
    assert refused(NotFoundError, "--env", "A", "NOT_THERE") == "the environment holds no NOT_THERE"


def test_bytes_of_the_environment_stay_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", "\udcff\udcfe")
    operator, _ = importing("--env", "A")
    assert operator.calls[0][1]["items"] == [{"name": "A", "size": 4, "encoding": "base64"}]
    assert operator.calls[0][2] == b"//4="


def test_an_error_in_a_file_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("A=b\nhunter2\n")
    assert (
        refused(BadRequestError, "--env-file", str(path)) == f"{path}: line 2 is not of the form NAME=value"
    )


def test_a_file_has_at_most_four_mebibytes(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"#" * (4 * 1024 * 1024 + 2))
    assert refused(TooLargeError, "--env-file", str(path)).startswith(f"{path} has more than 4,194,304 bytes")


def in_json(tmp_path: Path, found: dict[str, str]) -> str:
    path = tmp_path / "secrets.json"
    path.write_text(json.dumps(found))
    return str(path)


def test_1024_secrets_at_once_and_no_more(tmp_path: Path) -> None:
    path = in_json(tmp_path, {f"N{n}": "x" for n in range(1024)})
    assert len(importing("--json-file", path)[0].calls[0][1]["items"]) == 1024
    path = in_json(tmp_path, {f"N{n}": "x" for n in range(1025)})
    assert refused(TooLargeError, "--json-file", path) == "1,025 secrets are more than 1,024 at once"


def test_a_mebibyte_at_once_and_no_more(tmp_path: Path) -> None:
    full = {f"N{n}": "x" * 32_768 for n in range(32)}
    assert len(importing("--json-file", in_json(tmp_path, full))[0].calls[0][2] or b"") == 1024 * 1024
    over = in_json(tmp_path, {**full, "ONE": "x"})
    assert (
        refused(TooLargeError, "--json-file", over)
        == "1,048,577 bytes of values are more than 1,048,576 at once"
    )


def test_each_value_has_at_most_32_kib(tmp_path: Path) -> None:
    path = in_json(tmp_path, {"A": "x" * 32_769})
    assert refused(TooLargeError, "--json-file", path).startswith("the value of A has 32,769 bytes")


def test_a_value_that_is_no_unicode_is_refused_without_a_trace_of_it(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    path.write_text('{"A": "hunter2\\ud800"}')
    with pytest.raises(BadRequestError, match="the value of A is no valid Unicode") as caught:
        importing("--json-file", str(path))
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"A": "hunter2"', "is no JSON: line 1, column 16"),
        (b"hunter2", "is no JSON: line 1, column 1"),
        (b"\xff\xfe\xff", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b'["hunter2"]', "is no JSON object of names and strings"),
        (b'"hunter2"', "is no JSON object of names and strings"),
        (b'{"A": {"B": "hunter2"}}', "the value of A is no string"),
        (b'{"A": ["hunter2"]}', "the value of A is no string"),
        (b'{"A": 4711}', "the value of A is no string"),
        (b'{"A": "x", "hunter 2": "x"}', "entry 2 begins with something that is no name of a secret"),
        (b'{"A": "hunter2", "A": "hunter2"}', "A is there twice"),
    ],
)
def test_what_is_no_object_of_strings_is_an_error_that_shows_nothing(content: bytes, message: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        from_json_file(content)
    assert caught.value.message == message
    assert caught.value.__context__ is None


@given(st.dictionaries(st.from_regex(r"[A-Z_]{1,9}", fullmatch=True), st.text()))
def test_any_object_of_strings_is_found(found: dict[str, str]) -> None:
    assert from_json_file(json.dumps(found).encode()) == found


@given(st.binary())
def test_any_content_is_found_or_is_an_error(content: bytes) -> None:
    for read in (from_env_file, from_json_file):
        try:
            found = read(content)
        except AvaultError:
            continue
        assert all(isinstance(value, str) for value in found.values())
