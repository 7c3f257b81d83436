"""The grammar of names, compared with the regular expressions that it is written without."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, strategies as st

from avault_protocol import (
    BadRequestError,
    check_agent_name,
    check_secret_name,
    is_agent_name,
    is_secret_name,
)

SECRET = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")
AGENT = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
likely = (
    st.text("aZ_0.-/ \n\0é", max_size=130) | st.text(max_size=5) | st.text("a", min_size=60, max_size=130)
)


@given(likely)
def test_names_are_those_of_the_grammar(name: str) -> None:
    assert is_secret_name(name) == bool(SECRET.fullmatch(name))
    assert is_agent_name(name) == bool(AGENT.fullmatch(name))


@pytest.mark.parametrize("name", ["A", "_", "A" * 128, "A.b-c_9"])
def test_names_of_secrets(name: str) -> None:
    assert check_secret_name(name) == name


@pytest.mark.parametrize("name", ["a", "0", "a" * 64, "my-agent_2"])
def test_names_of_agents(name: str) -> None:
    assert check_agent_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "A" * 129, "9A", ".A", "-A", "A\n", "A/B", "É", "A B", None, 1, b"A", ["A"]]
)
def test_no_names_of_secrets(name: object) -> None:
    with pytest.raises(BadRequestError, match="not a name of a secret") as caught:
        check_secret_name(name)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 120


@pytest.mark.parametrize(
    "name", ["", "a" * 65, "A", "_a", "-a", "a.b", "a\n", "a/b", "é", None, 1, b"a", ["a"]]
)
def test_no_names_of_agents(name: object) -> None:
    with pytest.raises(BadRequestError, match="not a name of an agent") as caught:
        check_agent_name(name)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("name", "oddity"),
    [
        (None, "it is no text"),
        (b"hunter2", "it is no text"),
        ("", "it is empty"),
        ("!hunter2", "its character 1 may not stand there"),
        ("hunter2 ", "its character 8 may not stand there"),
        ("hunter2" * 19, "it has more than 128 characters"),
        ("hunter2" * 19 + "!", "it has more than 128 characters"),
    ],
)
def test_what_is_no_name_is_described_and_not_repeated(name: object, oddity: str) -> None:
    with pytest.raises(BadRequestError, match=f"^not a name of a secret: {oddity}$"):
        check_secret_name(name)


@given(st.text(min_size=3).filter(lambda name: not is_agent_name(name)))
def test_no_part_of_what_is_no_name_is_repeated(name: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        check_agent_name(name)
    said = caught.value.message.removeprefix("not a name of an agent or plugin: ")
    assert re.fullmatch(r"it has more than 64 characters|its character \d+ may not stand there", said)
