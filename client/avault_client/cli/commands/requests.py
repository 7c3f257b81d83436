"""What waits for the operator's word."""

from __future__ import annotations

from avault_client.cli.grammar import PROOF_OR_PHONE, Argument, Command, Option, WrongUse, whole
from avault_client.cli.output import ago, table
from avault_protocol import check_agent_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from avault_client.cli.grammar import Parsed, Result
    from avault_client.cli.session import Session

HEAD = ("ID", "WHO", "WANTS", "SINCE", "FROM", "REASON")


def requests(session: Session, parsed: Parsed) -> Result:
    """List what waits."""
    return session.call("requests")


def _requests_lines(result: Result) -> Iterator[str]:
    if not result["requests"]:
        yield "nothing waits"
        return
    yield from table(HEAD, [_row(request) for request in result["requests"]])


def _row(request: Result) -> tuple[object, ...]:
    known = request["kind"] == "secret"
    who = f"{request['agent'] or 'unknown'}{'' if known else '?'}/{request['plugin'] or '?'}"
    wants = ", ".join(request["names"]) or "to connect"
    return request["id"], who, wants, ago(request["since"]), _origin(request), request["reason"] or ""


def _origin(request: Result) -> str:
    parts = [f"pid {request['pid']}", f"uid {request['uid']}", request["unit"], request["exe"]]
    return ", ".join(part for part in parts if part)


def approve(session: Session, parsed: Parsed) -> Result:
    """Grant what was asked for."""
    ids, everything = _ids(parsed), parsed.optional("all")
    if bool(ids) == bool(everything):
        raise WrongUse("approve takes either ids or --all AGENT", "see them with: avault requests")
    params: dict[str, object] = {"ids": ids} if ids else {"all": check_agent_name(everything)}
    name = parsed.optional("agent")
    if name is not None:
        params["agent"] = check_agent_name(name)
    return session.call("approve", params)


def _ids(parsed: Parsed) -> list[int]:
    return sorted({whole(text, "ID") for text in parsed.texts("ID")})


def _approve_lines(result: Result) -> Iterator[str]:
    for approved in result["approved"]:
        names = ", ".join(approved["names"]) or "nothing yet"
        yield f"{approved['id']}: {approved['agent']}/{approved['plugin']} may read {names}"


def deny(session: Session, parsed: Parsed) -> Result:
    """Refuse what was asked for."""
    ids = _ids(parsed)
    session.call("deny", {"ids": ids})
    return {"denied": ids}


def _deny_lines(result: Result) -> Iterator[str]:
    yield f"denied {', '.join(map(str, result['denied']))}: the same is not asked again for an hour"


COMMANDS = (
    Command(
        "requests",
        "list what plugins and unknown programs ask for",
        requests,
        lines=_requests_lines,
        example="avault requests",
        details="""
A ? stands behind the name that a caller gives itself when no agent describes it. Reason, unit and program are what the
caller is called or says: they prove nothing.""",
    ),
    Command(
        "approve",
        "grant what was asked for",
        approve,
        lines=_approve_lines,
        arguments=(Argument("ID", "ids of requests", many=True, optional=True),),
        options=(
            Option("all", "everything that this agent asks for", "AGENT"),
            Option("agent", "name the agent that is made for an unknown program", "AGENT"),
            *PROOF_OR_PHONE,
        ),
        example="avault approve 3 4",
    ),
    Command(
        "deny",
        "refuse what was asked for",
        deny,
        lines=_deny_lines,
        arguments=(Argument("ID", "ids of requests", many=True),),
        options=PROOF_OR_PHONE,
        example="avault deny 5",
    ),
)
