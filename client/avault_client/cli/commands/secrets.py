"""Secrets, one at a time."""

from __future__ import annotations

from avault_client.cli import values
from avault_client.cli.grammar import JSON, PROOF_OR_PHONE, Argument, Command, Option, whole
from avault_client.cli.output import ago, moment, print_json, table
from avault_protocol import check_secret_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from avault_client.cli.grammar import Parsed, Result
    from avault_client.cli.session import Session

NAME = Argument("NAME", "name of the secret")


def set_(session: Session, parsed: Parsed) -> Result:
    """Store a value under a name; an existing name gets a new version."""
    name = check_secret_name(parsed.text("NAME"))
    session.prove("put")
    with values.read(session, name) as value:
        stored, encoding = values.encoded(value, name)
        with stored:
            item = {"name": name, "size": stored.size, "encoding": encoding}
            return session.call("put", {"items": [item], "replace": True}, stored.view)


def _set_lines(result: Result) -> Iterator[str]:
    for stored in result["stored"]:
        yield f"stored {stored['name']}, version {stored['version']}"


def get(session: Session, parsed: Parsed) -> None:
    """Write a value to standard output."""
    params: dict[str, object] = {"name": check_secret_name(parsed.text("NAME"))}
    version = parsed.number("version")
    if version is not None:
        params["version"] = version
    about, value = session.fetch("reveal", params)
    try:
        if parsed.flag("json"):
            print_json({**about, "value": value.decode()})
        else:
            values.write(values.decoded(value, about["encoding"]))
    finally:
        value[:] = bytes(len(value))


def list_(session: Session, parsed: Parsed) -> Result:
    """List what is in the vault; never values."""
    page = session.call("list")
    secrets = list(page["secrets"])
    while page["more"]:
        page = session.call("list", {"after": secrets[-1]["name"]})
        secrets += page["secrets"]
    return {"secrets": secrets}


def _list_lines(result: Result) -> Iterator[str]:
    if not result["secrets"]:
        yield "no secrets yet: avault set NAME, or avault import --env-file FILE"
        return
    rows = [
        (secret["name"], secret["version"], ago(secret["last_use"]), ", ".join(secret["readers"]) or "nobody")
        for secret in result["secrets"]
    ]
    yield from table(("NAME", "VERSION", "LAST USE", "READERS"), rows)


def rm(session: Session, parsed: Parsed) -> Result:
    """Remove a secret with all its versions."""
    name = check_secret_name(parsed.text("NAME"))
    session.call("rm", {"name": name})
    return {"removed": name}


def _rm_lines(result: Result) -> Iterator[str]:
    yield f"removed {result['removed']} with all its versions"


def history(session: Session, parsed: Parsed) -> Result:
    """List the versions that can still be read."""
    return session.call("history", {"name": check_secret_name(parsed.text("NAME"))})


def _history_lines(result: Result) -> Iterator[str]:
    rows = [
        (version["version"], moment(version["created"]), "current" if version["current"] else "")
        for version in result["versions"]
    ]
    yield from table(("VERSION", "CREATED", ""), rows)


def restore(session: Session, parsed: Parsed) -> Result:
    """Make an earlier version the newest."""
    name, version = check_secret_name(parsed.text("NAME")), whole(parsed.text("VERSION"), "VERSION")
    made = session.call("restore", {"name": name, "version": version})
    return {"name": name, "restored": version, **made}


def _restore_lines(result: Result) -> Iterator[str]:
    yield f"{result['name']} has the value of version {result['restored']} again, as version {result['version']}"


COMMANDS = (
    Command(
        "set",
        "store a secret",
        set_,
        lines=_set_lines,
        arguments=(NAME,),
        options=PROOF_OR_PHONE,
        example="avault set TELEGRAM_BOT_TOKEN",
        details="""
The value is typed without echo, or read from standard input, where one final newline is dropped if it is the only
one. Bytes that are not UTF-8 are kept as they are. An existing name gets a new version. At most 32 KiB.""",
    ),
    Command(
        "get",
        "write a secret to standard output",
        get,
        arguments=(NAME,),
        options=(Option("version", "an earlier version (see: avault history)", "N"), *PROOF_OR_PHONE, JSON),
        example="avault get TELEGRAM_BOT_TOKEN | wl-copy --paste-once",
        details="A newline is added on a terminal only.",
    ),
    Command(
        "list",
        "list the secrets: names, versions, last use, who may read them",
        list_,
        lines=_list_lines,
        example="avault list",
    ),
    Command(
        "rm",
        "remove a secret with all its versions",
        rm,
        lines=_rm_lines,
        arguments=(NAME,),
        options=PROOF_OR_PHONE,
        example="avault rm OLD_TOKEN",
    ),
    Command(
        "history",
        "list the versions of a secret",
        history,
        lines=_history_lines,
        arguments=(NAME,),
        example="avault history TELEGRAM_BOT_TOKEN",
    ),
    Command(
        "restore",
        "make an earlier version of a secret the newest",
        restore,
        lines=_restore_lines,
        arguments=(NAME, Argument("VERSION", "the version whose value comes back")),
        options=PROOF_OR_PHONE,
        example="avault restore TELEGRAM_BOT_TOKEN 2",
    ),
)
