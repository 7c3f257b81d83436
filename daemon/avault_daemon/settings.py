"""The settings file: a few keys, each of which the daemon uses, none of which can weaken the gate.

``config.example.toml`` beside this module shows every key with its default.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from avault_protocol import BadRequestError, is_secret_name
from avault_protocol.limits import MAX_CONNECTIONS_PER_UID

from . import lock_on
from .nostr.uris import MAX_RELAYS, check_relay, parse_proxy

_MAX_FILE = 64 * 1024
_HOST = re.compile(r"[0-9a-z._:-]{1,253}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What may be set. The values are those of `RULES`; ``config.example.toml`` says what they mean."""

    service: Literal["auto", "user", "system"] = "auto"
    memory: Literal["auto", "memfd_secret", "mlock"] = "auto"
    arena_mib: int = 4
    log_n: int = 18
    audit_sync: Literal["batch", "always"] = "batch"
    max_connections_per_uid: int = MAX_CONNECTIONS_PER_UID
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    network: bool = False
    relays: tuple[str, ...] = ()
    plain_relays: tuple[str, ...] = ()
    socks: str = ""
    keyring: bool = False
    ask_phone: Literal["at-start", "when-needed", "never"] = "when-needed"
    lock_on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Texts:
    """A list of up to *most* texts, each of them *what*."""

    what: str
    most: int


class Text:
    """Any text."""


RULES: Mapping[str, tuple[str, ...] | tuple[bool, ...] | range | Text | Texts] = {
    "service": ("auto", "user", "system"),
    "memory": ("auto", "memfd_secret", "mlock"),
    "arena_mib": range(2, 65),  # a put alone may hold 1 MiB twice
    "log_n": range(16, 23),  # what the vault's format allows
    "audit_sync": ("batch", "always"),
    "max_connections_per_uid": range(1, 65537),
    "log_level": ("debug", "info", "warning", "error"),
    "network": (False, True),
    "relays": Texts("a relay's address, wss://HOST[:PORT][/PATH]", MAX_RELAYS),
    "plain_relays": Texts("the name or the address of a host, in lower case", MAX_RELAYS),
    "socks": Text(),
    "keyring": (False, True),
    "ask_phone": ("at-start", "when-needed", "never"),
    "lock_on": Texts("suspend, screen-lock or idle:DURATION (idle:8h, say)", 3),
}
"""Which values a key may have: one of some, a whole number of a range, a text, or a list."""

LIVE = frozenset({"ask_phone", "log_level", "log_n", "max_connections_per_uid", "relays"})
"""Which keys a running daemon takes up when it reads its settings again; the others, and new ones, need a restart."""


def reread(now: Settings, new: Settings) -> tuple[Settings, list[str]]:
    """Return what is in force after *new* was read by a daemon that runs by *now*, and which keys wait for a restart."""
    changed = [
        field.name for field in fields(Settings) if getattr(now, field.name) != getattr(new, field.name)
    ]
    taken: dict[str, Any] = {key: getattr(new, key) for key in changed if key in LIVE}
    return replace(now, **taken), [key for key in changed if key not in LIVE]


def load(path: Path, *, required: bool = False) -> Settings:
    """Return the settings of the TOML file *path*; the defaults if there is none and none is *required*.

    `BadRequestError` names the file and what is wrong in it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE + 1)
    except FileNotFoundError:
        if required:
            raise BadRequestError(f"{path}: there is no such file") from None
        return Settings()
    except OSError as error:
        raise BadRequestError(f"{path}: {(error.strerror or 'unreadable').lower()}") from error
    if len(content) > _MAX_FILE:
        raise BadRequestError(f"{path}: larger than {_MAX_FILE} bytes")
    return parse(content, str(path))


def parse(content: bytes, name: str) -> Settings:
    """Return the settings that *content* holds; `BadRequestError`, which calls it *name*."""
    try:
        document = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequestError(f"{name}: not TOML: {error}") from None
    for key, value in document.items():
        _check(name, key, value)
    lists = [key for key, rule in RULES.items() if isinstance(rule, Texts) and key in document]
    document.update((key, tuple(document[key])) for key in lists)
    settings = Settings(**document)
    _check_texts(name, "plain_relays", settings.plain_relays, lambda host: _HOST.fullmatch(host) is not None)
    _check_texts(
        name, "relays", settings.relays, _passes(partial(check_relay, allow_plain=settings.plain_relays))
    )
    if settings.socks and not _passes(parse_proxy)(settings.socks):
        raise BadRequestError(f"{name}: socks is no proxy's address, HOST:PORT")
    try:
        lock_on.parse(settings.lock_on)
    except BadRequestError as error:
        raise BadRequestError(f"{name}: lock_on: {error.message}") from None
    return settings


def _passes(check: Callable[[str], object]) -> Callable[[str], bool]:
    """Return whether *check* raises nothing for a text, as a function of it."""

    def good(text: str) -> bool:
        try:
            check(text)
        except BadRequestError:
            return False
        return True

    return good


def _check_texts(name: str, key: str, texts: Sequence[str], good: Callable[[str], bool]) -> None:
    rule = RULES[key]
    assert isinstance(rule, Texts)  # noqa: S101 - see RULES
    for number, text in enumerate(texts, 1):
        if not good(text):  # it is not shown: it may be a secret in the wrong place
            raise BadRequestError(f"{name}: {key}: entry {number} is not {rule.what}")


def _check(name: str, key: str, value: object) -> None:
    if key not in RULES:
        shown = f" {key}" if is_secret_name(key) else ""
        raise BadRequestError(f"{name}: unknown key{shown}", hint=_nearest(key))
    rule = RULES[key]
    if isinstance(rule, tuple):
        if type(value) is not type(rule[0]) or value not in rule:
            known = ", ".join(str(one).lower() for one in rule)
            raise BadRequestError(f"{name}: {key} is {_describe(value)}, not one of {known}")
    elif isinstance(rule, Text):
        if type(value) is not str:
            raise BadRequestError(f"{name}: {key} is {_describe(value)}, not a text")
    elif isinstance(rule, Texts):
        if not _is_texts(value, rule.most):
            raise BadRequestError(
                f"{name}: {key} is {_describe(value)}, not a list of up to {rule.most} texts, each once"
            )
    elif type(value) is not int or value not in rule:  # True is an int, too
        raise BadRequestError(
            f"{name}: {key} is {_describe(value)}, not a whole number from {rule.start} to {rule.stop - 1}"
        )


def _is_texts(value: object, most: int) -> bool:
    if not isinstance(value, list):
        return False
    texts = cast("list[object]", value)
    return len(texts) <= most and all(type(text) is str for text in texts) and len({*texts}) == len(texts)


def _nearest(key: str) -> str:
    known = [field.name for field in fields(Settings)]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    return f"did you mean {near[0]}?" if near else f"the keys are {', '.join(known)}"


def _describe(value: object) -> str:
    match value:
        case str():
            return "some text"  # which, is not for a log: it may be a passphrase in the wrong place
        case bool() | int() | float():
            return str(value).lower()[:60]
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"
