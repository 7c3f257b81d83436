"""The methods of `agent.sock`: what an agent's plugin may say, and what it gets.

One conversation is one connection, bound by its hello to one plugin for good. No I/O here: requests in, answers out.
An operator's method has no code path from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault_protocol import (
    AGENT,
    AvaultError,
    BadRequestError,
    LockedError,
    Request,
    UnknownAgentError,
)
from avault_protocol.limits import MAX_DECLARED, PROTOCOL_VERSION

from ..callers.session import Session
from .conversation import Answer, Params, Wait, admit, parse
from .openings import Opening
from .standing import Standing

if TYPE_CHECKING:
    from ..callers.policy import Caller
    from ..callers.processes import Process
    from ..core import Core


class AgentConversation:
    """What one connection on an agents' socket says; the kernel has said who is at its other end."""

    def __init__(self, core: Core, caller: Caller, process: Process) -> None:
        self._core = core
        self._process = process
        self.caller = caller
        self.session: Session | None = None
        self.standing = Standing()
        self._granted: frozenset[str] = frozenset()

    def handle(self, request: Request, *, waited: bool = False) -> Answer | Wait:
        """Return the answer to *request*; raise the `AvaultError` that is the answer.

        *waited* says that it has waited already, so that it is answered now in any case.
        """
        method, params = parse(request, AGENT)
        if self.session is None and method.name != "hello":
            raise BadRequestError(f"{method.name}: hello comes first")
        wait = 0 if waited else params.get("wait", 0)
        try:
            if (pause := admit(method, self._core.vault.state, wait)) is not None:
                return pause
        except LockedError as error:
            self._refused(method.name, error, params.get("name"))
            raise
        match method.name:
            case "hello":
                return self._hello(params)
            case "get_secret":
                return self._get_secret(params)
            case "request":
                return self._request(params)
            case _:
                return self._grants()

    def _refused(self, action: str, error: AvaultError, secret: str | None) -> None:
        session = self.session
        agent, plugin = (session.agent, session.plugin) if session is not None else (None, None)
        self._core.gate.refuse(self.caller, action, error, agent=agent, plugin=plugin, secret=secret)

    @property
    def _bound(self) -> Session:
        assert self.session is not None, "handle() lets nothing but hello through before"  # noqa: S101
        return self.session

    def _hello(self, params: Params) -> Answer:
        if self.session is not None:
            raise BadRequestError("hello: this connection has said hello already")
        if params["protocol"] != PROTOCOL_VERSION:
            raise BadRequestError(
                f"hello: protocol {params['protocol']} is not spoken here", hint=f"this is {PROTOCOL_VERSION}"
            )
        core, plugin, declared = self._core, params["plugin"], params["secrets"]
        try:
            agent = core.vault.policy.identify(self.caller, params.get("agent"), service=core.places.service)
            core.bindings.bind(agent.name, plugin, self._process, agent.instances)
        except AvaultError as error:
            if isinstance(error, UnknownAgentError):
                core.requests.file_caller(self.caller, params.get("agent"), plugin, declared)
            core.gate.refuse(self.caller, "hello", error, agent=params.get("agent"), plugin=plugin)
            raise
        self.session = Session(self.caller, agent.name, plugin, set(declared))
        allowed = core.gate.note(self.caller, "hello", agent=agent.name, plugin=plugin)
        self.refresh()
        granted = None if agent.plugins is None else sorted(self._granted)
        result: dict[str, object] = {
            "protocol": PROTOCOL_VERSION,
            "agent": agent.name,
            "plugin": plugin,
            "state": core.vault.state,
            "granted": granted,
        }
        # Of a locked vault nothing is known, and what is missing is filed each time.
        complete = granted is not None and self._granted.issuperset(declared)
        return Answer(result, allowed=allowed if complete else None)

    def opening(self, hello: bytes, request_id: int, answer: Answer) -> Opening:
        """Return how this conversation began: by *hello*, which had this *answer*, which the gate can allow again."""
        session = self._bound
        declared = frozenset(session.declared)
        return Opening(hello, request_id, answer, session.agent, session.plugin, declared, self.standing)

    def resume(self, opening: Opening) -> bool:
        """Begin as the same caller has by *opening*, if that would be answered as it was; report whether."""
        core, agent, plugin = self._core, opening.agent, opening.plugin
        # Who has died by now was dropped in this very round, after what is asked here was received.
        if not core.bindings.holds(agent, plugin, self._process) or not core.gate.again(
            opening.answer.allowed
        ):
            return False
        self.session = Session(self.caller, agent, plugin, set(opening.declared))
        self._granted = opening.declared
        self.standing = opening.standing
        return True

    def _get_secret(self, params: Params) -> Answer:
        value, allowed = self._core.gate.get(self._bound, params["name"])
        return Answer({}, value, allowed)

    def _request(self, params: Params) -> Answer:
        session = self._bound
        name: str = params["name"]
        if len(session.declared) >= MAX_DECLARED and name not in session.declared:
            raise BadRequestError(f"request: {MAX_DECLARED} names are declared already")
        session.request(name)
        self.standing = Standing()  # the one until now may be shared with who has not declared this
        if self._allows(session, name):
            return Answer({"granted": True, "id": None})
        ids = self._core.gate.file(session, [name], params.get("reason", ""))
        return Answer({"granted": False, "id": ids[0] if ids else None})

    def _grants(self) -> Answer:
        session = self._bound
        granted = [name for name in sorted(session.declared) if self._allows(session, name)]
        waiting = sorted(session.declared.difference(granted))
        return Answer({"granted": granted, "waiting": waiting})

    def _allows(self, session: Session, name: str) -> bool:
        return self._core.gate.allows(session, name)

    def refresh(self) -> list[str]:
        """Look at the policy anew; return the names that have come to be granted since the last look.

        What is declared and not granted is filed for the operator; nothing can be said of it while locked.
        """
        session = self.session
        if session is None or self._core.vault.locked:
            return []
        granted = self._core.gate.granted(session) & session.declared
        fresh = sorted(granted - self._granted)
        self._granted = granted
        # Of all plugins at once, each of which may have declared hundreds of names: so none is looked at in vain.
        if (missing := session.declared - granted) and self._core.requests.room(session.agent):
            self._core.gate.file(session, sorted(missing))
        return fresh

    def concerned(self, names: frozenset[str]) -> list[str]:
        """Return those of *names* that are granted to the plugin, sorted."""
        return sorted(self._granted & names)
