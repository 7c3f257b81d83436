"""Grants: which plugin may read which secret."""

from __future__ import annotations

from avault_client.cli import selectors
from avault_client.cli.grammar import PROOF_OR_PHONE, Argument, Command, WrongUse
from avault_protocol import check_agent_name, check_secret_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from avault_client.cli.grammar import Parsed, Result
    from avault_client.cli.session import Session

PLUGIN = "AGENT/PLUGIN"


def grant(session: Session, parsed: Parsed) -> Result:
    """Let a plugin read secrets."""
    agent, slash, plugin = parsed.text(PLUGIN).partition("/")
    if not slash:
        raise WrongUse(
            "grant takes AGENT/PLUGIN", "for instance: avault grant cobot/telegram TELEGRAM_BOT_TOKEN"
        )
    params = {
        "agent": check_agent_name(agent),
        "plugin": check_agent_name(plugin),
        "secrets": [check_secret_name(name) for name in parsed.texts("NAME")],
        **selectors.given(parsed),
    }
    granted = session.call("grant", params)
    if parsed.flag("socket"):
        granted["mount"] = session.call("agents", {"agent": agent})["agents"][0]["mount"]
    return granted


def _grant_lines(granted: Result) -> Iterator[str]:
    if granted["created_agent"]:
        yield f"made agent {granted['agent']}"
    yield f"{granted['agent']}/{granted['plugin']} may read {', '.join(granted['secrets'])}"
    yield f"boundary: {granted['boundary']}"
    if granted.get("mount"):
        yield "mount the directory of its socket:"
        yield from selectors.mount_lines(granted["mount"])


def revoke(session: Session, parsed: Parsed) -> Result:
    """Take grants back."""
    agent, slash, plugin = parsed.text("AGENT[/PLUGIN]").partition("/")
    params: dict[str, object] = {"agent": check_agent_name(agent)}
    if slash:
        params["plugin"] = check_agent_name(plugin)
    names = [check_secret_name(name) for name in parsed.texts("NAME")]
    if names:
        params["secrets"] = names
    session.call("revoke", params)
    return {**params, "revoked": True}


def _revoke_lines(revoked: Result) -> Iterator[str]:
    who = "/".join(revoked[key] for key in ("agent", "plugin") if key in revoked)
    yield f"{who} may no longer read {', '.join(revoked.get('secrets', ['anything']))}"


COMMANDS = (
    Command(
        "grant",
        "let a plugin read secrets",
        grant,
        lines=_grant_lines,
        arguments=(
            Argument(PLUGIN, "the plugin"),
            Argument("NAME", "names of secrets", many=True),
        ),
        options=(*selectors.SELECTORS, *PROOF_OR_PHONE),
        example="avault grant cobot/telegram TELEGRAM_BOT_TOKEN --unit cobot.service",
        details="""
The first grant of an agent also says how it is recognised: --uid, --unit, --socket. Of different kinds all must
fit, of one kind any. The boundary that this makes is shown.""",
    ),
    Command(
        "revoke",
        "take grants back, at once",
        revoke,
        lines=_revoke_lines,
        arguments=(
            Argument("AGENT[/PLUGIN]", "the agent, or one plugin of it"),
            Argument("NAME", "these secrets only", many=True, optional=True),
        ),
        options=PROOF_OR_PHONE,
        example="avault revoke cobot/telegram TELEGRAM_BOT_TOKEN",
    ),
)
