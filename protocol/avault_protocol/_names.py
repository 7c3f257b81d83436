"""The one grammar of names.

Secrets: ``[A-Za-z_][A-Za-z0-9_.-]{0,127}``; agents and plugins: ``[a-z0-9][a-z0-9_-]{0,63}``.
Written without ``re``, whose import costs the thin client more than all of this package. No error repeats what is no
name: it may be a value that somebody took for one.
"""

from ._errors import BadRequestError

_LOWER = "abcdefghijklmnopqrstuvwxyz"
_DIGITS = "0123456789"
_SECRET_FIRST = frozenset(_LOWER + _LOWER.upper() + "_")
_SECRET_REST = _SECRET_FIRST | frozenset(_DIGITS + ".-")
_AGENT_FIRST = frozenset(_LOWER + _DIGITS)
_AGENT_REST = _AGENT_FIRST | frozenset("_-")
MAX_SECRET_NAME = 128
MAX_AGENT_NAME = 64


def is_secret_name(name: object) -> bool:
    """Report whether *name* is a well-formed name of a secret."""
    return (
        isinstance(name, str)
        and 0 < len(name) <= MAX_SECRET_NAME
        and name[0] in _SECRET_FIRST
        and _SECRET_REST.issuperset(name)
    )


def is_agent_name(name: object) -> bool:
    """Report whether *name* is a well-formed name of an agent or a plugin."""
    return (
        isinstance(name, str)
        and 0 < len(name) <= MAX_AGENT_NAME
        and name[0] in _AGENT_FIRST
        and _AGENT_REST.issuperset(name)
    )


def check_secret_name(name: object) -> str:
    """Return *name*; raise `BadRequestError` if it is no well-formed name of a secret."""
    if isinstance(name, str) and is_secret_name(name):
        return name
    raise BadRequestError(
        f"not a name of a secret: {_oddity(name, _SECRET_FIRST, _SECRET_REST, MAX_SECRET_NAME)}",
        hint="a letter or _ first, then letters, digits, _ . -, at most 128 in all",
    )


def check_agent_name(name: object) -> str:
    """Return *name*; raise `BadRequestError` if it is no well-formed name of an agent or plugin."""
    if isinstance(name, str) and is_agent_name(name):
        return name
    raise BadRequestError(
        f"not a name of an agent or plugin: {_oddity(name, _AGENT_FIRST, _AGENT_REST, MAX_AGENT_NAME)}",
        hint="lower-case letters and digits first, then also _ -, at most 64 in all",
    )


def _oddity(name: object, first: frozenset[str], rest: frozenset[str], most: int) -> str:
    """Return what is wrong with *name*, without any of it."""
    if not isinstance(name, str):
        return "it is no text"
    if not name:
        return "it is empty"
    for position, character in enumerate(name[:most], 1):
        if character not in (first if position == 1 else rest):
            return f"its character {position} may not stand there"
    return f"it has more than {most} characters"
