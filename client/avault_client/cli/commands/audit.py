"""The record: who used what, when, and what was refused."""

from __future__ import annotations

import sys
import time

from avault_client.cli.grammar import JSON, Command, Option, WrongUse
from avault_client.cli.output import DAY, HOUR, MINUTE, escaped, moment, print_json, report
from avault_protocol import CorruptError, check_agent_name, check_secret_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from avault_client.cli.grammar import Parsed, Result
    from avault_client.cli.session import Session

POLL = 0.5  # seconds
UNITS = {"s": 1, "m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}
FORMATS = ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S")


def audit(session: Session, parsed: Parsed) -> int:
    """Print the record, follow it, or verify it."""
    if parsed.flag("verify"):
        return _verify(session, as_json=parsed.flag("json"))
    params = _params(parsed)
    while True:
        for entry in _entries(session, params):
            _print(entry, as_json=parsed.flag("json"))
        if not parsed.flag("follow"):
            return 0
        sys.stdout.flush()
        time.sleep(POLL)


def _params(parsed: Parsed) -> dict[str, object]:
    params: dict[str, object] = {}
    since, agent, secret = (parsed.optional(name) for name in ("since", "agent", "secret"))
    if since is not None:
        params["since"] = since_when(since, time.time())
    if agent is not None:
        params["agent"] = check_agent_name(agent)
    if secret is not None:
        params["secret"] = check_secret_name(secret)
    return params


def since_when(text: str, now: float) -> int:
    """Return the Unix time that *text* means: ``90m``, ``2d``, ``2026-11-20``, ``2026-11-20 14:00`` (local), or itself.

    Raises `WrongUse` if it means none.
    """
    if text.isascii() and text.isdigit():
        return int(text[:20])
    if text[:-1].isascii() and text[:-1].isdigit() and text[-1] in UNITS:
        return max(int(now) - int(text[:-1][:9]) * UNITS[text[-1]], 0)
    for form in FORMATS:
        try:
            return int(time.mktime(time.strptime(text, form)))
        except (ValueError, OverflowError):
            continue
    raise WrongUse("--since takes a time, such as 90m, 2d, 2026-11-20 or '2026-11-20 14:00'")


def _entries(session: Session, params: dict[str, object]) -> Iterator[Result]:
    """Yield all entries that are new; remember in *params* how far it came."""
    more = True
    while more:
        page = session.call("audit", params)
        for entry in page["entries"]:
            params["after"] = entry["n"]
            yield entry
        more = page["more"]


def _print(entry: Result, *, as_json: bool) -> None:
    if as_json:
        print_json(entry, indent=None)
    else:
        print(line(entry))


def line(entry: Result) -> str:
    """Return one entry as a person reads it."""
    who = "/".join(str(entry[key]) for key in ("agent", "plugin") if entry[key])
    version = f" version {entry['version']}" if entry["version"] else ""
    what = f"{entry['secret']}{version}" if entry["secret"] else ""
    why = f"({entry['reason']})" if entry["reason"] else ""
    parts = [moment(entry["time"]), entry["decision"], entry["action"], what, who, _caller(entry), why]
    return "  ".join(escaped(part) for part in parts if part)


def _caller(entry: Result) -> str:
    parts = [
        f"{label}{entry[key]}"
        for key, label in (("pid", "pid "), ("uid", "uid "), ("unit", ""), ("exe", ""))
        if entry[key] is not None
    ]
    return " ".join(parts)


def _verify(session: Session, *, as_json: bool) -> int:
    verdict = session.call("audit_verify", working="verifying the record")
    if as_json:
        print_json(verdict)
    else:
        for text in verdict_lines(verdict):
            print(text)
    if verdict["ok"]:
        return 0
    report(
        "the record is not what avault wrote",
        "keep the files as they are; the lines named complete can be relied on",
    )
    return CorruptError.exit_status


def verdict_lines(verdict: Result) -> Iterator[str]:
    """Yield what the verification found."""
    yield f"complete up to line {verdict['complete_to']} of {verdict['last']}"
    if verdict["unsigned"]:
        yield f"unsigned: the last {verdict['unsigned']}"
    if verdict["problem"]:
        yield f"problem: {escaped(verdict['problem'])}"


COMMANDS = (
    Command(
        "audit",
        "show the record of every use, refusal and change",
        audit,
        options=(
            Option("since", "only from then on: 90m, 2d, 2026-11-20, '2026-11-20 14:00'", "T"),
            Option("agent", "only of this agent", "AGENT"),
            Option("secret", "only of this secret", "NAME"),
            Option("follow", "go on with what is added, until interrupted"),
            Option(
                "verify", "check that no line was altered, removed or reordered; exit status 8 if one was"
            ),
            JSON,
        ),
        example="avault audit --since 2d --agent cobot",
        details="With --json, each entry is one line of JSON.",
    ),
)
