"""How things are."""

from __future__ import annotations

from avault_client.cli.grammar import Command
from avault_client.cli.output import escaped, some

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from avault_client.cli.grammar import Parsed, Result
    from avault_client.cli.session import Session

MEBIBYTE = 1024 * 1024


def status(session: Session, parsed: Parsed) -> Result:
    """Ask the daemon how things are."""
    return session.call("status")


def lines(told: Result) -> Iterator[str]:
    """Yield what a person wants to know of *told*."""
    for label, text in _rows(told):
        yield f"{label:<10}{escaped(text)}"
    for warning in told["warnings"]:
        yield f"{'warning':<10}{escaped(warning)}"


def _rows(told: Result) -> Iterator[tuple[str, str]]:
    record = told["record"]
    yield "state", told["state"]
    if told["vault"]:
        yield "vault", f"{told['vault']}, generation {told['generation']}"
        yield "holds", _holdings(told)
    yield "home", told["home"]
    yield "daemon", f"avaultd {told['version']}, pid {told['pid']}, {told['service']} service"
    yield "memory", _memory(told["memory"])
    yield "confined", _confined(told["confined"])
    yield "boundary", told["boundary"]
    yield (
        "record",
        some(record["number"], "line") + ("" if record["ok"] else ", NOT WORKING: nothing is served"),
    )
    phone = told["phone"]
    if phone["slots"]:
        reach = "" if phone["network"] else ", NOT REACHABLE: set network = true in the settings"
        yield "phones", f"{phone['slots']}, keys in {phone['where']}{reach}"
    keyring = told["keyring"]
    if keyring["backend"] or keyring["slots"]:
        use = keyring["backend"] if keyring["ok"] else "NOT REACHABLE"
        yield "keyring", f"{use}, {some(keyring['slots'], 'slot')}"
    if told["lock_on"]:
        yield "locks on", ", ".join(told["lock_on"])
    if told["requests"]:
        yield "waiting", some(told["requests"], "request") + ": avault requests"


def _holdings(told: Result) -> str:
    secrets = "" if told["secrets"] is None else some(told["secrets"], "secret") + ", "
    return secrets + some(told["slots"], "slot") + ", " + some(told["agents"], "agent")


def _memory(memory: Result) -> str:
    use = (
        f"{memory['in_use']:,} bytes of {memory['budget'] / MEBIBYTE:g} MiB in use"
        if memory["mapped"]
        else "not mapped"
    )
    return f"{memory['kind']}, {use}"


def _confined(confined: bool | str) -> str:
    return confined if isinstance(confined, str) else "yes" if confined else "no"


COMMANDS = (
    Command(
        "status",
        "show how things are",
        status,
        lines=lines,
        example="avault status --json",
        details="The exit status is 0 whenever a daemon answers, locked or not, and 4 if none does.",
    ),
)
