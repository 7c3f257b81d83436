"""The vault as a whole: making it, opening it, proving, its slots, its copies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from avault_protocol import (
    UNINITIALIZED,
    UNLOCKED,
    AvaultError,
    BadRequestError,
    DeniedError,
    ProofRequiredError,
    WrongPassphraseError,
)

from ..confine import traced
from ..conversation import Answer
from .turn import Handler, Turn


def _refuse_debugger() -> None:
    """Raise `DeniedError` under a tracer: it came before the process closed itself to tracing, and may do anything."""
    if traced():
        raise DeniedError("a debugger is attached to avaultd", hint="end it, restart avaultd, then unlock")


async def init(turn: Turn) -> Answer:
    """Make the vault and unlock it."""
    _refuse_debugger()
    turn.progress("deriving the key")
    with turn.passphrase() as passphrase:
        slot = await turn.core.vault.init(passphrase, turn.log_n)
    turn.proven = turn.proofs()[slot]
    await _note(turn, "init")
    return Answer({"vault": _vault(turn), "slot": slot})


async def unlock(turn: Turn) -> Answer:
    """Unlock; of an unlocked vault it says so, and proves nothing."""
    vault = turn.core.vault
    if vault.state == UNLOCKED:
        return Answer({"already": True, "slot": None, "vault": _vault(turn)})
    _refuse_debugger()
    with turn.passphrase() as passphrase:
        slot = await _proof(turn, lambda: vault.unlock(passphrase, turn.params.get("slot")))
    await _note(turn, "unlock")
    return Answer({"already": False, "slot": slot, "vault": _vault(turn)})


async def prove(turn: Turn) -> Answer:
    """Prove this connection by a passphrase."""
    with turn.passphrase() as passphrase:
        slot = await _proof(turn, lambda: turn.core.vault.prove(passphrase, turn.params.get("slot")))
    return Answer({"slot": slot})


async def _proof(turn: Turn, check: Callable[[], Awaitable[str]]) -> str:
    """Prove this connection by the slot that was opened, as it was before: another may be in its place by now."""
    before = turn.proofs()
    slot = await _guess(turn, check)
    turn.proven = before.get(slot)
    return slot


async def _guess(turn: Turn, check: Callable[[], Awaitable[str]]) -> str:
    """Check a passphrase. One uid's guesses are made one after the other, so that none slips past the throttle while
    another's key is still being derived; nobody else waits for them."""
    core, uid = turn.core, turn.caller.uid
    async with core.guesses[uid]:
        core.throttle.check(uid)
        turn.progress("deriving the key")
        try:
            slot = await check()
        except WrongPassphraseError as error:
            core.throttle.failed(uid)
            core.gate.refuse(turn.caller, "passphrase", error)
            core.record.flush()
            raise
        core.throttle.succeeded(uid)
        return slot


async def _note(turn: Turn, action: str) -> None:
    turn.core.gate.note(turn.caller, action)
    turn.core.record.flush()
    await turn.core.record.settle()


def _vault(turn: Turn) -> str | None:
    public = turn.core.vault.public
    return None if public is None else public.hex()


async def slots(turn: Turn) -> Answer:
    """List the ways to unlock."""
    return Answer(
        {
            "slots": [
                {"id": slot.id, "type": slot.type, "log_n": slot.log_n} for slot in turn.core.vault.slots()
            ]
        }
    )


async def slot_add(turn: Turn) -> Answer:
    """Add a second passphrase."""
    if turn.params["type"] != "passphrase":
        raise BadRequestError("slot_add: no such type of slot", hint="types: passphrase")
    turn.progress("deriving the key")
    with turn.passphrase() as passphrase:
        return Answer({"slot": await turn.core.vault.add_passphrase(passphrase, turn.log_n)})


async def slot_remove(turn: Turn) -> Answer:
    """Remove a slot; the last passphrase stays."""
    await turn.core.vault.remove_slot(turn.params["slot"])
    return Answer({})


async def change_passphrase(turn: Turn) -> Answer:
    """Give a slot another passphrase."""
    slot: str = turn.params.get("slot") or turn.proof
    turn.progress("deriving the key")
    with turn.passphrase() as passphrase:
        await turn.core.vault.change_passphrase(slot, passphrase, turn.log_n)
    turn.proven = turn.proofs()[slot]
    return Answer({"slot": slot})


async def rekey(turn: Turn) -> Answer:
    """Give the vault a new key."""
    turn.progress("deriving the key")
    with turn.passphrase() as passphrase:
        dropped = await turn.core.vault.rekey(passphrase, turn.log_n, turn.proof)
    turn.proven = turn.proofs()[turn.proof]
    turn.core.adopt_key()
    return Answer({"vault": _vault(turn), "dropped": dropped})


async def export(turn: Turn) -> Answer:
    """Write a copy, under a key and a passphrase of its own, to the descriptor that came with the request."""
    fd = _descriptor(turn, "export")
    turn.progress("deriving the key")
    with turn.passphrase() as passphrase:
        await turn.core.vault.export(fd, passphrase, turn.log_n)
    return Answer({})


async def restore_vault(turn: Turn) -> Answer:
    """Replace the vault by the copy in the descriptor that came with the request."""
    vault = turn.core.vault
    fd = _descriptor(turn, "restore_vault")
    if vault.state != UNINITIALIZED and vault.fault is None and turn.proven is None:
        raise ProofRequiredError("restore_vault needs the passphrase of the vault that it replaces")
    _refuse_debugger()
    await _note(turn, "restore_vault")
    proven = turn.proven is not None
    with turn.passphrase() as passphrase:
        try:
            slot = await _guess(turn, lambda: vault.restore_vault(fd, passphrase, proven=proven))
        except AvaultError as error:
            turn.core.gate.refuse(turn.caller, "restore_vault", error)
            turn.core.record.flush()
            raise
    turn.proven = turn.proofs()[slot]
    return Answer({"vault": _vault(turn)})


def _descriptor(turn: Turn, method: str) -> int:
    if len(turn.fds) != 1:
        raise BadRequestError(f"{method}: one open file comes with the request, not {len(turn.fds)}")
    return turn.fds[0]


HANDLERS: dict[str, Handler] = {
    "init": init,
    "unlock": unlock,
    "prove": prove,
    "slots": slots,
    "slot_add": slot_add,
    "slot_remove": slot_remove,
    "change_passphrase": change_passphrase,
    "rekey": rekey,
    "export": export,
    "restore_vault": restore_vault,
}
