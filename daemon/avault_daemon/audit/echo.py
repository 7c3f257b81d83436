"""Say in the log what was put on record, with its fields; see `journal`.

What is refused or changed, by anybody, is told at level info; what a plugin uses, at debug: there is a lot of it, and
`avault audit` has it all.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from .lines import ALLOWED, GET, Entry

log = logging.getLogger(__name__)

USES = frozenset({GET, "hello"})
_FIELDS = [(name, f"avault_{name}") for name in Entry._fields]


def is_said(entry: Entry) -> bool:
    """Report whether *entry* is for the log, too, at its level of this moment."""
    return log.isEnabledFor(_level(entry))


def say(entry: Entry) -> None:
    """Log *entry*."""
    log.log(_level(entry), "%s", " ".join(_words(entry)), extra=_extra(entry))


def _level(entry: Entry) -> int:
    return logging.DEBUG if entry.action in USES and entry.decision == ALLOWED else logging.INFO


def _extra(entry: Entry) -> dict[str, object]:
    return {field: value for (_, field), value in zip(_FIELDS, entry, strict=True)}


def _words(entry: Entry) -> Iterator[str]:
    """Yield what *entry* says, but for `exe`: that is the caller's own text."""
    yield f"{entry.decision}: {entry.action}"
    if entry.secret is not None:
        yield entry.secret
    if entry.agent is not None:
        yield f"{entry.agent}/{entry.plugin}" if entry.plugin else entry.agent
    if entry.pid is not None:
        yield f"pid {entry.pid}"
    if entry.uid is not None:
        yield f"uid {entry.uid}"
    if entry.reason is not None:
        yield f"({entry.reason})"
    if entry.times is not None:
        yield f"{entry.times} times"
