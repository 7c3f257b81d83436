"""Agents: who may connect."""

from __future__ import annotations

from avault_client.cli import selectors
from avault_client.cli.grammar import PROOF_OR_PHONE, Argument, Command, Option
from avault_client.cli.output import escaped
from avault_protocol import check_agent_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from avault_client.cli.grammar import Parsed, Result
    from avault_client.cli.session import Session

AGENT = Argument("AGENT", "name of the agent")


def agents(session: Session, parsed: Parsed) -> Result:
    """List the agents, or show one."""
    name = parsed.optional("AGENT")
    return session.call("agents", {} if name is None else {"agent": check_agent_name(name)})


def _agents_lines(result: Result) -> Iterator[str]:
    if not result["agents"]:
        yield "no agents yet: avault grant AGENT/PLUGIN NAME... --uid U"
    for agent in result["agents"]:
        yield from agent_lines(agent)


def agent_lines(agent: Result) -> Iterator[str]:
    """Yield what is known of *agent*."""
    yield f"{agent['name']}: {escaped(selectors.shown(agent))}"
    yield f"  boundary: {agent['boundary']}"
    if agent["instances"] > 1:
        yield f"  instances: {agent['instances']}"
    if agent["mount"]:
        yield from selectors.mount_lines(agent["mount"])
    for plugin in agent["plugins"] or ():
        yield f"  {plugin['name']}: {', '.join(plugin['secrets']) or 'nothing'}{_held(plugin['pids'])}"
    if agent["plugins"] is None:
        yield "  grants: not readable while the vault is locked"


def _held(pids: list[int]) -> str:
    return f" (bound to pid {', '.join(map(str, pids))})" if pids else ""


def agent_set(session: Session, parsed: Parsed) -> Result:
    """Make an agent, or change how it is recognised."""
    params = {"agent": check_agent_name(parsed.text("AGENT")), **selectors.given(parsed)}
    instances = parsed.number("instances")
    if instances is not None:
        params["instances"] = instances
    session.call("agent_set", params)
    return session.call("agents", {"agent": params["agent"]})


def agent_rm(session: Session, parsed: Parsed) -> Result:
    """Remove an agent with its grants."""
    name = check_agent_name(parsed.text("AGENT"))
    session.call("agent_rm", {"agent": name})
    return {"removed": name}


def _agent_rm_lines(result: Result) -> Iterator[str]:
    yield f"removed agent {result['removed']} with its grants"


COMMANDS = (
    Command(
        "agents",
        "list the agents: how they are recognised, their boundary, their grants",
        agents,
        lines=_agents_lines,
        arguments=(Argument("AGENT", "show this one only", optional=True),),
        example="avault agents",
    ),
    Command(
        "agent set",
        "make an agent, or change how it is recognised",
        agent_set,
        lines=_agents_lines,
        arguments=(AGENT,),
        options=(
            *selectors.SELECTORS,
            Option("instances", "live processes that may hold one plugin; 1 if left out", "N"),
            *PROOF_OR_PHONE,
        ),
        example="avault agent set cobot --unit cobot.service",
        details="""
Of different kinds all must fit, of one kind any. The boundary that this makes is shown; for --socket also the line
that mounts the socket's directory into a sandbox.""",
    ),
    Command(
        "agent rm",
        "remove an agent with its grants",
        agent_rm,
        lines=_agent_rm_lines,
        arguments=(AGENT,),
        options=PROOF_OR_PHONE,
        example="avault agent rm cobot",
    ),
)
