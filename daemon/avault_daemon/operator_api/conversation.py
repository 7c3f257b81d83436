"""What one connection on the operator's socket says, and what it has proven.

Proof belongs to the connection and ends with it: there is no ticket that another process could use. Whatever needs
proof is on record before it is done; if it then fails, that is on record too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from avault_protocol import OPERATOR, AvaultError, Method, ProofRequiredError

from ..conversation import Answer, Params, admit, parse
from . import agents, secrets, slots, state
from .turn import Handler, Turn

if TYPE_CHECKING:
    from ..core import Core
    from ..inbox import Message
    from ..policy import Caller

HANDLERS: dict[str, Handler] = {**state.HANDLERS, **secrets.HANDLERS, **agents.HANDLERS, **slots.HANDLERS}


class OperatorConversation:
    """The conversation of one connection on the operator's socket."""

    def __init__(self, core: Core, caller: Caller) -> None:
        self._core = core
        self._caller = caller
        self._proven: str | None = None

    async def handle(self, message: Message, progress: Callable[[str], None]) -> Answer:
        """Return the answer to *message*; raise the `AvaultError` that is the answer."""
        method, params = parse(message.request, OPERATOR)
        admit(method, self._core.vault.state)
        turn = Turn(self._core, self._caller, params, message.value, message.fds, progress, self._proven)
        try:
            if method.proof:
                return await self._proven_turn(method, turn)
            return await HANDLERS[method.name](turn)
        finally:
            self._proven = turn.proven

    async def _proven_turn(self, method: Method, turn: Turn) -> Answer:
        if turn.proven is None:
            raise ProofRequiredError(f"{method.name} needs your passphrase")
        await self._record(method, turn.params, None)
        try:
            return await HANDLERS[method.name](turn)
        except AvaultError as error:
            await self._record(method, turn.params, error)
            raise

    async def _record(self, method: Method, params: Params, failure: AvaultError | None) -> None:
        """Put the change on record, a line for each secret that it names."""
        gate, record = self._core.gate, self._core.record
        agent, plugin = params.get("agent", params.get("all")), params.get("plugin")
        for secret in _secrets(params) or [None]:
            if failure is None:
                gate.note(self._caller, method.name, agent=agent, plugin=plugin, secret=secret)
            else:
                gate.refuse(self._caller, method.name, failure, agent=agent, plugin=plugin, secret=secret)
        record.flush()
        await record.settle()


def _secrets(params: Params) -> list[str | None]:
    if "name" in params:
        return [params["name"]]
    if "items" in params:
        return [item["name"] for item in params["items"]]
    return list(params.get("secrets", []))
