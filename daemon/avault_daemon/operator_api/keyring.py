"""The keyring of the operator's desktop: unlocking by it, adding a slot for it."""

from __future__ import annotations

from avault_protocol import UNLOCKED

from ..serving.conversation import Answer
from .slots import on_record, refuse_debugger, vault_key
from .turn import Handler, Turn


async def keyring_unlock(turn: Turn) -> Answer:
    """Unlock by what the keyring holds; it proves nothing for this connection."""
    if turn.core.vault.state == UNLOCKED:
        return Answer({"already": True, "slot": None, "vault": vault_key(turn)})
    refuse_debugger()
    turn.progress("asking the keyring")
    slot = await on_record(turn, "keyring_unlock", turn.core.keyring.unlock)
    return Answer({"already": False, "slot": slot, "vault": vault_key(turn)})


async def keyring_add(turn: Turn) -> Answer:
    """Add a slot whose key the keyring holds."""
    turn.progress("asking the keyring")
    return Answer({"slot": await turn.core.keyring.add()})


HANDLERS: dict[str, Handler] = {
    "keyring_unlock": keyring_unlock,
    "keyring_add": keyring_add,
}
