from __future__ import annotations

import re
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given, strategies as st

from avault_daemon import settings as module
from avault_daemon.nostr.uris import MAX_RELAYS
from avault_daemon.settings import LIVE, RULES, Settings, Text, Texts, load, parse, reread
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
        rule, hint = RULES[field.name], hints[field.name]
        match rule:
            case Texts():
                assert (hint, field.default) == (tuple[str, ...], ())
            case Text():
                assert (hint, field.default) == (str, "")
            case range():
                assert hint is int
                assert field.default in rule
            case _:
                assert (get_args(hint) or (False, True)) == rule
                assert field.default in rule


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
        match rule:
            case Texts(most=most):
                assert f"up to {most}" in explained, key
            case Text():
                assert 'such as "' in explained
            case range():
                assert f"{rule.start} to {rule.stop - 1}" in explained
            case _:
                shown = [f'"{value}"' if type(value) is str else str(value).lower() for value in rule]
                assert all(value in explained for value in shown if value != f'"{default}"'), key


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
        ("network = 1", "f.toml: network is 1, not one of false, true", None),
        ("network = 0", "f.toml: network is 0, not one of false, true", None),
        ('network = "yes"', "f.toml: network is some text, not one of", None),
        ('relays = "wss://r.example"', "f.toml: relays is some text, not a list of up to 8 texts", None),
        ("relays = [1]", "f.toml: relays is a list, not a list of up to 8 texts", None),
        ("relays = [[]]", "f.toml: relays is a list, not a list of up to 8 texts", None),
        ('relays = ["wss://a", "wss://a"]', "f.toml: relays is a list, not a list of up to", None),
        ('relays = ["wss://a", "hunter2"]', "f.toml: relays: entry 2 is not a relay's address", None),
        ('relays = ["ws://box.lan"]', "f.toml: relays: entry 1 is not a relay's address", None),
        ('plain_relays = ["Box.lan"]', "f.toml: plain_relays: entry 1 is not the name or", None),
        ('plain_relays = [""]', "f.toml: plain_relays: entry 1 is not the name or", None),
        ('plain_relays = ["ws://box.lan"]', "f.toml: plain_relays: entry 1 is not the name or", None),
        ("socks = 9050", "f.toml: socks is 9050, not a text", None),
        ('socks = "9050"', "f.toml: socks is no proxy's address, HOST:PORT", None),
        ('socks = "socks5://127.0.0.1:9050"', "f.toml: socks is no proxy's address", None),
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


@pytest.mark.parametrize("key", ["relays", "plain_relays"])
def test_each_list_has_its_bound(key: str) -> None:
    entries = [f"wss://{n}.example" if key == "relays" else f"{n}.example" for n in range(MAX_RELAYS + 1)]
    assert asdict(parse(f"{key} = {entries[:-1]}".encode(), "f"))[key] == tuple(entries[:-1])
    with pytest.raises(BadRequestError, match=key):
        parse(f"{key} = {entries}".encode(), "f")


def test_a_relay_without_tls_is_on_this_machine_or_named() -> None:
    here = ("ws://127.0.0.1:7777", "ws://[::1]", "ws://localhost/path")
    assert parse(f"relays = {list(here)}".encode(), "f").relays == here
    named = parse(b'plain_relays = ["box.lan"]\nrelays = ["ws://box.lan"]', "f")
    assert (named.relays, named.plain_relays) == (("ws://box.lan",), ("box.lan",))


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
    for key, value in asdict(chosen).items():
        rule = RULES[key]
        match rule:
            case Text():
                assert type(value) is str
            case Texts():
                assert len(value) <= rule.most
            case _:
                assert value in rule


@given(st.sets(st.sampled_from([field.name for field in fields(Settings)])))
def test_a_daemon_that_runs_takes_up_what_is_live_and_names_the_rest(changed: set[str]) -> None:
    other: dict[str, Any] = {
        "service": "user", "memory": "mlock", "arena_mib": 9, "log_n": 20, "audit_sync": "always",
        "max_connections_per_uid": 7, "log_level": "debug", "network": True, "relays": ("wss://a.example",),
        "plain_relays": ("box.lan",), "socks": "127.0.0.1:9050", "ask_phone": "never",
    }  # fmt: skip
    new = replace(Settings(), **{key: other[key] for key in changed & other.keys()})
    now, waiting = reread(Settings(), new)
    for key in changed & other.keys():
        assert getattr(now, key) == getattr(new if key in LIVE else Settings(), key)
    assert set(waiting) == (changed & other.keys()) - LIVE
    assert RULES.keys() >= LIVE
