"""Agents, grants, and what waits for the operator's word."""

from __future__ import annotations

from collections.abc import Iterable

from avault_protocol import BadRequestError, NotFoundError

from ..callers.policy import Agent, Caller, Selectors, boundary
from ..callers.requests import CallerRequest, Request, SecretRequest
from ..serving.conversation import Answer
from .turn import Handler, Turn


async def agents(turn: Turn) -> Answer:
    """List the agents, or one."""
    known, wanted = turn.core.vault.policy.agents, turn.params.get("agent")
    if wanted is not None and wanted not in known:
        raise NotFoundError(f"there is no agent {wanted}")
    names = sorted(known) if wanted is None else [wanted]
    return Answer({"agents": [_describe(turn, known[name]) for name in names]})


def _describe(turn: Turn, agent: Agent) -> dict[str, object]:
    selectors = agent.selectors
    return {
        "name": agent.name,
        **selectors.to_json(),
        "instances": agent.instances,
        "boundary": _boundary(turn, agent),
        "mount": str(turn.core.places.agent_dir(agent.name)) if selectors.socket else None,
        "plugins": _plugins(turn, agent),
    }


def _plugins(turn: Turn, agent: Agent) -> list[dict[str, object]] | None:
    if agent.plugins is None:
        return None
    return [
        {
            "name": plugin,
            "secrets": sorted(agent.allowed(plugin)),
            "pids": turn.core.bindings.holders(agent.name, plugin),
        }
        for plugin in sorted(agent.plugins)
    ]


def _boundary(turn: Turn, agent: Agent) -> str:
    return boundary(agent.selectors, turn.core.places.service)


def _selectors(turn: Turn) -> Selectors | None:
    given = {key: turn.params[key] for key in ("uids", "units", "socket") if turn.params.get(key)}
    if given.keys() == {"socket"} and turn.core.places.service == "system":
        raise BadRequestError(
            "in the system service a socket alone describes nobody",
            hint="add --uid U or --unit U: anyone may enter the directory of its socket",
        )
    return Selectors(**given) if given else None


async def agent_set(turn: Turn) -> Answer:
    """Make an agent, or change what an existing one must be like; grants stay."""
    name, selectors = turn.params["agent"], _selectors(turn)
    agent = turn.core.vault.policy.agents.get(name)
    if agent is None:
        agent = _new(name, selectors)
    elif selectors is not None:
        agent = agent.with_selectors(selectors)
    agent = agent.with_instances(turn.params.get("instances", agent.instances))
    await turn.core.vault.put_agent(agent)
    return Answer(_describe(turn, agent))


def _new(name: str, selectors: Selectors | None) -> Agent:
    if selectors is None:
        raise BadRequestError(
            f"{name} is a new agent: say how it is recognised", hint="--uid U, --unit U or --socket"
        )
    return Agent(name, selectors)


async def agent_rm(turn: Turn) -> Answer:
    """Remove an agent with its grants."""
    await turn.core.vault.remove_agent(turn.params["agent"])
    return Answer({})


async def grant(turn: Turn) -> Answer:
    """Let a plugin read secrets; the first grant of an agent also says how it is recognised."""
    params, vault = turn.params, turn.core.vault
    name, selectors = params["agent"], _selectors(turn)
    agent = vault.policy.agents.get(name)
    created = agent is None
    if agent is None:
        agent = _new(name, selectors)
    elif selectors is not None and selectors != agent.selectors:
        raise BadRequestError(
            f"{name} is recognised otherwise already", hint=f"change it with: avault agent set {name} …"
        )
    if not params["secrets"]:
        raise BadRequestError("grant: name at least one secret")
    _must_exist(turn, params["secrets"])
    agent = agent.with_grants(params["plugin"], params["secrets"])
    await vault.put_agent(agent)
    turn.core.requests.settle(name, params["plugin"], params["secrets"])
    return Answer(
        {
            "agent": name,
            "plugin": params["plugin"],
            "secrets": params["secrets"],
            "boundary": _boundary(turn, agent),
            "created_agent": created,
        }
    )


def _must_exist(turn: Turn, names: Iterable[str]) -> None:
    missing = [name for name in names if not turn.core.vault.has(name)]
    if missing:
        raise NotFoundError(
            f"there is no secret {missing[0]}", hint=f"store it first: avault set {missing[0]}"
        )


async def revoke(turn: Turn) -> Answer:
    """Take grants back; it acts on connections that are open now."""
    params, vault = turn.params, turn.core.vault
    agent = vault.policy.agents.get(params["agent"])
    if agent is None:
        raise NotFoundError(f"there is no agent {params['agent']}")
    agent = agent.without_grants(params.get("plugin"), params.get("secrets"))
    await vault.put_agent(agent)
    return Answer({})


async def requests(turn: Turn) -> Answer:
    """List what waits for the operator."""
    return Answer({"requests": [request.to_json() for request in turn.core.requests.pending()]})


async def approve(turn: Turn) -> Answer:
    """Grant what was asked for; for a caller that nobody described, make an agent that describes it."""
    waiting = turn.core.requests
    if ("ids" in turn.params) == ("all" in turn.params):
        raise BadRequestError("approve: either ids or all")
    chosen: list[Request]
    if "all" in turn.params:
        chosen = [*waiting.for_agent(turn.params["all"])]
        if not chosen:
            raise NotFoundError(f"nothing of {turn.params['all']} waits", hint="see: avault requests")
    else:
        chosen = [waiting.get(request_id) for request_id in turn.params["ids"]]
    approved = [await _approve(turn, request) for request in chosen]
    return Answer({"approved": approved})


async def _approve(turn: Turn, request: Request) -> dict[str, object]:
    vault = turn.core.vault
    agents_now = vault.policy.agents
    if isinstance(request, SecretRequest):
        found = agents_now.get(request.agent)
        if found is None or not found.fits(request.caller, turn.core.places.service):
            turn.core.requests.take(request.id)
            raise NotFoundError(f"who asked for this is not agent {request.agent} any more")
        agent, names = found, [request.name]
        _must_exist(turn, names)
    else:
        agent = _agent_for(turn, request)
        names = [name for name in request.names if vault.has(name)]
    if names:
        agent = agent.with_grants(request.plugin, names)
    _note(turn, "grant", agent.name, request.plugin, names)
    await vault.put_agent(agent)
    turn.core.requests.take(request.id)
    return {"id": request.id, "agent": agent.name, "plugin": request.plugin, "names": names}


def _agent_for(turn: Turn, request: CallerRequest) -> Agent:
    """Return the agent of that name if it describes the caller by now, else a new one, by what the kernel says."""
    name = turn.params.get("agent") or request.agent or request.plugin
    known = turn.core.vault.policy.agents.get(name)
    if known is not None and known.fits(request.caller, turn.core.places.service):
        return known
    if known is not None:
        raise BadRequestError(
            f"there is an agent {name} already, and it is not this caller",
            hint=f"name another with --agent, or change {name} with: avault agent set {name} …",
        )
    return Agent(name, _selectors_of(request.caller))


def _selectors_of(caller: Caller) -> Selectors:
    return Selectors(uids=[caller.uid], units=[caller.unit] if caller.unit else [])


def _note(turn: Turn, action: str, agent: str, plugin: str, names: list[str]) -> None:
    for name in names:
        turn.core.gate.note(turn.caller, action, agent=agent, plugin=plugin, secret=name)
    turn.core.record.flush()


async def deny(turn: Turn) -> Answer:
    """Refuse what was asked for; the same is not asked again for an hour."""
    turn.core.requests.deny(turn.params["ids"])
    return Answer({})


def _alone(handler: Handler) -> Handler:
    """Return *handler*, which looks at agents and then changes them, so that no other does so meanwhile."""

    async def alone(turn: Turn) -> Answer:
        async with turn.core.granting:
            return await handler(turn)

    return alone


HANDLERS: dict[str, Handler] = {
    "agents": agents,
    "agent_set": _alone(agent_set),
    "agent_rm": _alone(agent_rm),
    "grant": _alone(grant),
    "revoke": _alone(revoke),
    "requests": requests,
    "approve": _alone(approve),
    "deny": deny,
}
