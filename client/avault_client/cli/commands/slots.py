"""Slots: the ways to unlock the vault."""

from __future__ import annotations

from avault_client.cli.commands.vault import LOG_N, log_n
from avault_client.cli.grammar import PROOF, Argument, Command, Option, passphrase_options
from avault_client.cli.output import table
from avault_client.cli.passphrases import Source
from avault_protocol import check_agent_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from avault_client.cli.grammar import Parsed, Result
    from avault_client.cli.session import Session

NEW = passphrase_options("the new passphrase", "new-")


def slot_list(session: Session, parsed: Parsed) -> Result:
    """List the slots."""
    return session.call("slots")


def _list_lines(result: Result) -> Iterator[str]:
    rows = [(slot["id"], slot["type"], slot["log_n"] or "") for slot in result["slots"]]
    yield from table(("SLOT", "TYPE", "LOG N"), rows)


def slot_add(session: Session, parsed: Parsed) -> Result:
    """Add a second passphrase."""
    params = {"type": parsed.text("TYPE"), **log_n(parsed)}
    session.prove("slot_add")
    with Source.given(parsed, "new-").read_new("the new slot") as passphrase:
        return session.call("slot_add", params, passphrase.view, working="adding the slot")


def _add_lines(result: Result) -> Iterator[str]:
    yield f"added slot {result['slot']}"


def slot_remove(session: Session, parsed: Parsed) -> Result:
    """Remove a slot."""
    slot = check_agent_name(parsed.text("ID"))
    session.call("slot_remove", {"slot": slot})
    return {"removed": slot}


def _remove_lines(result: Result) -> Iterator[str]:
    yield f"removed slot {result['removed']}"
    yield "an old copy of the vault still opens with it: after a leak, also run avault rekey"


def slot_change_passphrase(session: Session, parsed: Parsed) -> Result:
    """Give a slot another passphrase."""
    params: dict[str, object] = dict(log_n(parsed))
    slot = parsed.optional("slot")
    if slot is not None:
        params["slot"] = check_agent_name(slot)
    session.prove("change_passphrase")
    with Source.given(parsed, "new-").read_new("the vault from now on") as passphrase:
        return session.call("change_passphrase", params, passphrase.view, working="changing the passphrase")


def _change_lines(result: Result) -> Iterator[str]:
    yield f"changed the passphrase of slot {result['slot']}"
    yield "an old copy of the vault still opens with the old one: after a leak, also run avault rekey"


COMMANDS = (
    Command(
        "slot list",
        "list the ways to unlock the vault",
        slot_list,
        lines=_list_lines,
        example="avault slot list",
    ),
    Command(
        "slot add",
        "add a way to unlock the vault",
        slot_add,
        lines=_add_lines,
        arguments=(Argument("TYPE", "what the new slot opens with", choices=("passphrase",)),),
        options=(LOG_N, *PROOF, *NEW),
        example="avault slot add passphrase",
    ),
    Command(
        "slot remove",
        "remove a way to unlock the vault; the last passphrase stays",
        slot_remove,
        lines=_remove_lines,
        arguments=(Argument("ID", "id of the slot (see: avault slot list)"),),
        options=PROOF,
        example="avault slot remove passphrase-2",
    ),
    Command(
        "slot change-passphrase",
        "change a passphrase",
        slot_change_passphrase,
        lines=_change_lines,
        options=(
            Option("slot", "of this slot; of the one whose passphrase you give, if left out", "ID"),
            LOG_N,
            *PROOF,
            *NEW,
        ),
        example="avault slot change-passphrase",
    ),
)
