"""Targets: the settings file and env files, written from what they should say, which is what must be read."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, cast

from hypothesis import strategies as st

from avault_client.cli import envfile
from avault_daemon.settings import Settings, parse
from avault_protocol import BadRequestError

from .target import Target

# --- settings -------------------------------------------------------------------------------------------------------

# Of each key what may stand there, and what may not: values as TOML has them, so that types are part of it.
_BOOLS: tuple[Any, ...] = (True, False)
_ODD: tuple[Any, ...] = (0, 1, -1, 17.0, "", "auto ", "AUTO", [], {}, ["auto"], True, False)
KEYS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "service": (("auto", "user", "system"), ("root", *_ODD)),
    "memory": (("auto", "memfd_secret", "mlock"), ("disk", *_ODD)),
    "arena_mib": ((2, 3, 64), (65, "2", *_ODD)),
    "log_n": ((16, 22), (15, 23, "18", *_ODD)),
    "audit_sync": (("batch", "always"), ("never", *_ODD)),
    "max_connections_per_uid": ((1, 2, 65536), (0, 65537, True, "7")),
    "log_level": (("debug", "info", "warning", "error"), ("DEBUG", *_ODD)),
    "network": (_BOOLS, (0, 1, "true", [], {})),
    "relays": (
        ([], ["wss://r.example"], ["wss://r.example:7777/path", "ws://127.0.0.1:7"]),
        (["ws://far.example"], ["wss://r.example"] * 2, [f"wss://{n}.example" for n in range(9)], "wss://r", [1], {}),
    ),
    "plain_relays": (([], ["box.lan"], [f"{n}.lan" for n in range(8)]), ([""], ["Box.lan"], ["a"] * 2, "box.lan", 1)),
    "socks": (("", "127.0.0.1:9050", "[::1]:1"), ("9050", "host:0", "host:65536", "u@host:1", 1, [])),
    "keyring": (_BOOLS, (0, 1, "true", [])),
    "ask_phone": (("at-start", "when-needed", "never"), ("always", *_ODD)),
    "lock_on": (
        ([], ["suspend"], ["screen-lock", "idle:8h", "suspend"], ["idle:30d"]),
        (["idle:31d"], ["idle:0s"], ["idle:1h", "idle:2h"], ["suspend"] * 2, ["Suspend"], "suspend", 1),
    ),
    "memroy": ((), ("auto", 1, {})),
    "x y": ((), (1,)),
}  # fmt: skip


class File(NamedTuple):
    """What a settings file says, each key right or wrong, and the lines between."""

    entries: dict[str, tuple[object, bool]]
    between: Sequence[str]
    twice: bool


def _toml(value: object) -> str:
    """Return *value* as TOML, which has JSON's strings, numbers and lists."""
    return "{}" if value == {} else json.dumps(value)


def _written(file: File) -> bytes:
    lines = [f"{json.dumps(key)} = {_toml(value)}" for key, (value, _) in file.entries.items()]
    if file.twice and lines:
        lines.append(lines[0])
    return "\n".join(
        line for pair in zip(lines, [*file.between] * 20, strict=False) for line in pair
    ).encode()


def _check_settings(file: File) -> None:
    wrong = any(not right for _, right in file.entries.values()) or (file.twice and file.entries)
    try:
        found = parse(_written(file), "f")
    except BadRequestError:
        assert wrong
        return
    assert not wrong
    said = {key: _kept(value) for key, (value, _) in file.entries.items()}
    assert _typed(asdict(found)) == _typed(asdict(Settings()) | said)


def _kept(value: object) -> object:
    return tuple(cast("list[object]", value)) if isinstance(value, list) else value


def _typed(found: dict[str, object]) -> list[tuple[str, type, object]]:
    return [(key, type(value), value) for key, value in sorted(found.items())]


@st.composite
def _files(draw: st.DrawFn) -> File:
    entries: dict[str, tuple[object, bool]] = {}
    odd = draw(st.sampled_from(("", *KEYS)))  # at most one key is wrong, or it hides what else is
    for key in draw(st.lists(st.sampled_from([key for key, (good, _) in KEYS.items() if good]), unique=True)):
        entries[key] = draw(st.sampled_from(KEYS[key][0])), True
    if odd:
        entries[odd] = draw(st.sampled_from(KEYS[odd][1])), False
    between = draw(st.lists(st.sampled_from(("", "# log_n = 1", "\t")), min_size=1, max_size=3))
    return File(entries, between, draw(st.sampled_from((False,) * 9 + (True,))))


# --- env files ------------------------------------------------------------------------------------------------------

_IN_DOUBLE = {
    "\\": "\\\\",
    '"': '\\"',
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}


class Entry(NamedTuple):
    """One entry: perhaps ``export``, the name, what is around ``=``, the value in *style*, what follows."""

    before: str
    name: str
    around: tuple[str, str]
    style: str
    value: str
    behind: str


Piece = Entry | str
"""An entry, or a line that says nothing."""


def _quoted(entry: Entry) -> str:
    if entry.style == "double":
        return '"' + "".join(_IN_DOUBLE.get(char, char) for char in entry.value) + '"'
    if entry.style == "plain":  # of the backslashes only those that would mean something else are doubled
        return "'" + re.sub(r"\\(?=[\\']|\Z)", r"\\\\", entry.value).replace("'", "\\'") + "'"
    if entry.style == "single":
        return "'" + entry.value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return entry.value


def _env(pieces: list[Piece], newline: str) -> tuple[str, list[tuple[str, str, int]]]:
    """Return the text of *pieces*, and the name, value and line of each entry in it."""
    text, entries = "", list[tuple[str, str, int]]()
    for piece in pieces:
        if isinstance(piece, str):
            text += piece + "\n"
            continue
        entries.append((piece.name, piece.value, text.count("\n") + 1))
        text += (
            f"{piece.before}{piece.name}{piece.around[0]}={piece.around[1]}{_quoted(piece)}{piece.behind}\n"
        )
    return text.replace("\n", newline), entries


class Env(NamedTuple):
    """An env file: pieces, how its lines end, what is wrong at its end (and with which words), a mark at its start."""

    pieces: list[Piece]
    newline: str
    fault: tuple[str, str]
    mark: bool


def _check_env(case: Env) -> None:
    text, entries = _env(case.pieces, case.newline)
    line = text.count(case.newline) + 1
    content = ("\ufeff" * case.mark + text + case.fault[0]).encode()
    what, said = case.fault
    assert _read_env(content) == (f"line {line} {said}" if what else entries)


def _read_env(content: bytes) -> object:
    try:
        return [(entry.name, entry.value, entry.line) for entry in envfile.parse(content)]
    except BadRequestError as error:
        return error.message


_NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.\-]{0,8}", fullmatch=True).filter(lambda name: name != "export")
_SAID = ("a", "$", "#", "'", '"', "\\", "\\n", "\\\\", "=", " ", "\t", "{}", "\u00e4", "\u2028", "\n", " #")
_TEXT = st.lists(st.sampled_from(_SAID), max_size=9).map("".join)
_BARE = st.text(st.sampled_from("ab$'\"\\={}n\u00e4#"), max_size=8).filter(
    lambda text: text[:1] not in ("#", "'", '"')
)
_ENTRIES = st.one_of(
    *(
        st.builds(
            Entry,
            st.sampled_from(("", "", "  ", "export ", "\texport\t")),
            _NAMES,
            st.sampled_from((("", ""), ("", ""), (" ", "  "), ("\t", ""))),
            st.just(style),
            values,
            st.sampled_from(("", "", " ", "\t ", " # b", "\t#'\"")),
        )
        for style, values in (("double", _TEXT), ("single", _TEXT), ("plain", _TEXT), ("bare", _BARE))
    )
)
_NOTHING = st.sampled_from(("", "# A=b", "  \t", "\t# 'x", "#"))
_FAULTS = st.sampled_from(
    (
        ("", ""), ("", ""), ("", ""), ("", ""),
        ("hunter2", "is not of the form NAME=value"),
        ("export A", "is not of the form NAME=value"),
        ("=b", "is not of the form NAME=value"),
        ("1A=b", "begins with something that is no name of a secret"),
        ("A='b", "opens a ' that is never closed"),
        ('A="b\\"', 'opens a " that is never closed'),
        ('A="b"c', 'has something behind the closing "'),
        ("A='b' c", "has something behind the closing '"),
        ("A='b'\"c\"", "has something behind the closing '"),
    )
)  # fmt: skip
_ENVS = st.builds(
    Env,
    st.lists(_ENTRIES | _NOTHING, max_size=6),
    st.sampled_from(("\n", "\n", "\r\n", "\r")),
    _FAULTS,
    st.booleans(),
)

SETTINGS = Target("settings", _files(), _check_settings, 500)
ENV_FILE = Target("env-file", _ENVS, _check_env, 300)
