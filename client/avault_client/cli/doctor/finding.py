"""One line of `avault doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """How *what* is: "ok"; "warn", what protects less than it could; "fail", what must be mended, and *mend* says how."""

    level: Level
    what: str
    detail: str
    mend: str | None = None


def ok(what: str, detail: str) -> Finding:
    """Return that *what* is as it should be."""
    return Finding("ok", what, detail)


def warn(what: str, detail: str, mend: str | None = None) -> Finding:
    """Return that *what* could be better."""
    return Finding("warn", what, detail, mend)


def fail(what: str, detail: str, mend: str | None = None) -> Finding:
    """Return that *what* is not as promised, or does not work."""
    return Finding("fail", what, detail, mend)
