"""What one connection on the operator's socket says, and what it has proven.

Proof belongs to the connection and ends with it: there is no ticket that another process could use. It ends sooner
when what was proven opens the vault no more: after a change of that passphrase by another connection, the removal of
its slot, a rekey, a restore. What a phone allowed is one call of one method, and proves nothing else. Whatever needs
proof is on record before it is done; if it then fails, that is on record too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault_protocol import OPERATOR, AvaultError, Method

from ..serving.conversation import Answer, Params, admit, parse
from . import agents, keyring, phones, secrets, slots, state
from .ticket import Ticket
from .turn import Handler, Progress, Turn

if TYPE_CHECKING:
    from ..callers.policy import Caller
    from ..core import Core
    from ..serving.inbox import Message

HANDLERS: dict[str, Handler] = {
    **state.HANDLERS,
    **secrets.HANDLERS,
    **agents.HANDLERS,
    **slots.HANDLERS,
    **phones.HANDLERS,
    **keyring.HANDLERS,
}


class OperatorConversation:
    """The conversation of one connection on the operator's socket."""

    def __init__(self, core: Core, caller: Caller) -> None:
        self._core = core
        self._caller = caller
        self._ticket = Ticket()

    def close(self) -> None:
        """Forget what the connection had gained."""
        self._ticket.close()

    async def handle(self, message: Message, progress: Progress) -> Answer:
        """Return the answer to *message*; raise the `AvaultError` that is the answer."""
        method, params = parse(message.request, OPERATOR)
        admit(method, self._core.vault.state)
        self._ticket.check(self._core.vault)
        turn = Turn(self._core, self._caller, params, message.value, message.fds, progress, self._ticket)
        if method.proof:
            return await self._proven_turn(method, turn, message)
        return await HANDLERS[method.name](turn)

    async def _proven_turn(self, method: Method, turn: Turn, message: Message) -> Answer:
        turn.ticket.spend(method, self._core.vault)
        secrets = self._secrets(turn.params)
        await self._record(method, turn.params, secrets, None)
        try:
            message.check(self._core.vault.epoch)  # once more: a record that is synced takes its time
            return await HANDLERS[method.name](turn)
        except AvaultError as error:
            await self._record(method, turn.params, secrets, error)
            raise

    async def _record(
        self, method: Method, params: Params, secrets: list[str], failure: AvaultError | None
    ) -> None:
        """Put the change on record, a line for each of *secrets*."""
        gate, record = self._core.gate, self._core.record
        agent, plugin = params.get("agent", params.get("all")), params.get("plugin")
        lines: list[str | None] = [*secrets] or [None]
        for secret in lines:
            if failure is None:
                gate.note(self._caller, method.name, agent=agent, plugin=plugin, secret=secret)
            else:
                gate.refuse(self._caller, method.name, failure, agent=agent, plugin=plugin, secret=secret)
        record.flush()
        await record.settle()

    def _secrets(self, params: Params) -> list[str]:
        """Return the secrets that are being made, or of those named the ones that are there or granted.

        What is neither may be a value that was taken for a name, and the record is for ever.
        """
        vault = self._core.vault
        if "items" in params:
            return [item["name"] for item in params["items"]]
        named: list[str] = [params["name"]] if "name" in params else params.get("secrets", [])
        return [name for name in named if vault.has(name) or vault.policy.readers(name)]
