"""Say in the log what was put on record, with its fields; see `journal`.

What is refused or changed, by anybody, is told at level info; what a plugin uses, at debug: there is a lot of it, and
`avault audit` has it all.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from .lines import Entry, Noted

log = logging.getLogger(__name__)

_FIELDS = [(name, f"avault_{name}") for name in Entry._fields]


def echo(noted: Iterable[Noted]) -> None:
    """Log what was *noted*."""
    uses_too = log.isEnabledFor(logging.DEBUG)
    for one in noted:
        if uses_too or not one.is_use:
            level = logging.DEBUG if one.is_use else logging.INFO
            log.log(level, "%s", " ".join(_words(one.entry)), extra=_extra(one.entry))


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
