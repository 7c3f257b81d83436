from __future__ import annotations

import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from hypothesis import given, strategies as st

from avault_daemon import settings as module
from avault_daemon.settings import RULES, Settings, load, parse
from avault_protocol import BadRequestError

EXAMPLE = Path(module.__file__).with_name("config.example.toml")


def test_without_a_file_there_are_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path / "config.toml") == Settings()


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(BadRequestError, match=r"config\.toml: there is no such file"):
        load(tmp_path / "config.toml", required=True)


def test_a_file_sets_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('memory = "mlock"\nlog_n = 20\n')
    assert load(path) == Settings(memory="mlock", log_n=20)


def test_every_key_has_a_rule_that_its_type_and_default_agree_with() -> None:
    hints = get_type_hints(Settings)
    assert list(RULES) == [field.name for field in fields(Settings)]
    for field in fields(Settings):
        rule = RULES[field.name]
        assert field.default in rule
        assert (get_args(hints[field.name]) or int) == (rule if isinstance(rule, tuple) else int)


def test_the_example_shows_every_key_with_its_default() -> None:
    text = EXAMPLE.read_text()
    assert parse(text.encode(), "as shipped") == Settings()
    uncommented = re.sub(r"^#(?=\w+ = )", "", text, flags=re.MULTILINE)
    assert uncommented.count("\n#") == text.count("\n#") - len(fields(Settings))
    assert parse(uncommented.encode(), "uncommented") == Settings()


def test_the_example_explains_every_key_and_names_its_values() -> None:
    blocks = EXAMPLE.read_text().split("\n\n")[1:]
    for block, (key, default) in zip(blocks, asdict(Settings()).items(), strict=True):
        *comment, line = block.strip().splitlines()
        assert line.startswith(f"#{key} = ")
        explained, rule = " ".join(comment), RULES[key]
        if isinstance(rule, tuple):
            assert all(f'"{value}"' in explained for value in rule if value != default), key
        else:
            assert f"{rule.start} to {rule.stop - 1}" in explained


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ('memroy = "auto"', "f.toml: unknown key memroy", "did you mean memory?"),
        ("audit = 1", "f.toml: unknown key audit", "did you mean audit_sync?"),
        ("zzz = 1", "f.toml: unknown key zzz", "the keys are service, memory, "),
        ("[memory]\nkind = 1", "f.toml: memory is a table, not one of auto, memfd_secret, mlock", None),
        ('memory = "disk"', "f.toml: memory is some text, not one of", None),
        ("memory = 1", "f.toml: memory is 1, not one of", None),
        ('log_n = "18"', "f.toml: log_n is some text, not a whole number from 16 to 22", None),
        ("log_n = true", "f.toml: log_n is true, not a whole number", None),
        ("log_n = 18.0", "f.toml: log_n is 18.0, not a whole number", None),
        ("log_n = [18]", "f.toml: log_n is a list, not a whole number", None),
        ("log_n = 2026-01-01", "f.toml: log_n is a date or time, not a whole number", None),
        ("log_n 18", "f.toml: not TOML: ", None),
        ('log_level = "\x00"', "f.toml: not TOML: ", None),
    ],
)
def test_a_wrong_line_is_named_with_what_is_wrong(line: str, message: str, hint: str | None) -> None:
    with pytest.raises(BadRequestError) as caught:
        parse(line.encode(), "f.toml")
    assert caught.value.message.startswith(message)
    assert (caught.value.hint or "").startswith(hint or "")


@pytest.mark.parametrize("key", [key for key, rule in RULES.items() if isinstance(rule, range)])
def test_each_number_has_its_bounds(key: str) -> None:
    rule = RULES[key]
    assert isinstance(rule, range)
    for value in (rule.start, rule.stop - 1):
        assert asdict(parse(f"{key} = {value}".encode(), "f"))[key] == value
    for value in (rule.start - 1, rule.stop):
        with pytest.raises(BadRequestError, match=key):
            parse(f"{key} = {value}".encode(), "f")


def test_the_file_has_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("#" * 64 * 1024)
    assert load(path) == Settings()
    path.write_text("#" * (64 * 1024 + 1))
    with pytest.raises(BadRequestError, match="larger than"):
        load(path)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadRequestError, match="is a directory"):
        load(tmp_path)


@given(
    content=st.one_of(
        st.binary(), st.text(alphabet='log_n=18[]{}"\n#.').map(str.encode), st.just(b"a=" + b"[" * 9999)
    )
)
def test_any_content_is_settings_or_a_bad_request(content: bytes) -> None:
    try:
        chosen = parse(content, "f")
    except BadRequestError:
        return
    assert all(value in RULES[key] for key, value in asdict(chosen).items())
