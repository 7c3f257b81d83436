"""The vault as a whole: making it, opening it, proving, its slots, its copies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from avault_protocol import (
    UNINITIALIZED,
    UNLOCKED,
    AvaultError,
    BadRequestError,
    DeniedError,
    InternalError,
    LockedError,
    ProofRequiredError,
    WrongPassphraseError,
)

from ..confine import traced
from ..serving.conversation import Answer
from .turn import Handler, Turn

if TYPE_CHECKING:
    from ..core import Core
    from ..nostr.keys import SecretKey
    from ..vault import Reseal


def refuse_debugger() -> None:
    """Raise `DeniedError` under a tracer: it came before the process closed itself to tracing, and may do anything."""
    if traced():
        raise DeniedError("a debugger is attached to avaultd", hint="end it, restart avaultd, then unlock")


async def init(turn: Turn) -> Answer:
    """Make the vault and unlock it."""
    refuse_debugger()
    turn.progress("deriving the key")
    with turn.passphrase() as passphrase:
        slot = await turn.core.vault.init(passphrase, turn.log_n)
    turn.ticket.proven = turn.proofs()[slot]
    await note(turn, "init")
    return Answer({"vault": vault_key(turn), "slot": slot})


async def unlock(turn: Turn) -> Answer:
    """Unlock; of an unlocked vault it says so, and proves nothing."""
    vault = turn.core.vault
    already = Answer({"already": True, "slot": None, "vault": vault_key(turn)})
    if vault.state == UNLOCKED:
        return already
    refuse_debugger()
    try:
        with turn.passphrase() as passphrase:
            slot = await _proof(turn, lambda: vault.unlock(passphrase, turn.params.get("slot")))
    except BadRequestError:
        if vault.state == UNLOCKED:  # by another meanwhile
            return already
        raise
    await note(turn, "unlock")
    return Answer({"already": False, "slot": slot, "vault": vault_key(turn)})


async def prove(turn: Turn) -> Answer:
    """Prove this connection by a passphrase."""
    with turn.passphrase() as passphrase:
        slot = await _proof(turn, lambda: turn.core.vault.prove(passphrase, turn.params.get("slot")))
    return Answer({"slot": slot})


async def _proof(turn: Turn, check: Callable[[], Awaitable[str]]) -> str:
    """Prove this connection by the slot that was opened, as it was before: another may be in its place by now."""
    before = turn.proofs()
    slot = await _guess(turn, check)
    turn.ticket.proven = before.get(slot)
    return slot


async def _guess(turn: Turn, check: Callable[[], Awaitable[str]]) -> str:
    """Check a passphrase. One uid's guesses are made one after the other, so that none slips past the throttle while
    another's key is still being derived; nobody else waits for them."""
    core, uid, before = turn.core, turn.caller.uid, turn.core.vault.epoch
    async with core.guesses[uid]:
        core.vault.check_epoch(before)
        core.throttle.check(uid)
        turn.progress("deriving the key")
        try:
            slot = await check()
        # Without memory for a second slot, the first has been tried by then.
        except (WrongPassphraseError, LockedError, InternalError) as error:
            wrong = isinstance(error, WrongPassphraseError)
            miss = core.throttle.failed if wrong else core.throttle.interrupted
            miss(uid)
            core.gate.refuse(turn.caller, "passphrase", error)
            core.record.flush()
            raise
        core.throttle.succeeded(uid)
        return slot


async def note(turn: Turn, action: str) -> None:
    """Put on record that *action* was done."""
    turn.core.gate.note(turn.caller, action)
    turn.core.record.flush()
    await turn.core.record.settle()


async def on_record(turn: Turn, action: str, ask: Callable[[], Awaitable[str]]) -> str:
    """Put on record what a phone or the keyring was asked, and how that ended."""
    try:
        slot = await ask()
    except AvaultError as error:
        turn.core.gate.refuse(turn.caller, action, error)
        turn.core.record.flush()
        raise
    await note(turn, action)
    return slot


def vault_key(turn: Turn) -> str | None:
    """Return the vault's public key in hex, if there is a vault."""
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


async def credential_add(turn: Turn) -> Answer:
    """Add a slot for the passphrase that the service manager has given the daemon."""
    turn.progress("deriving the key")
    return Answer({"slot": await turn.core.unattended.add(turn.log_n)})


async def slot_remove(turn: Turn) -> Answer:
    """Remove a slot; the last passphrase stays. The keys that lie outside the vault go too, if they can be reached."""
    core, slot, left = turn.core, turn.params["slot"], False
    content = core.vault.slot_content(slot)
    paired, keyring = slot in core.phones.slots(), slot in core.keyring.slots()
    await core.vault.remove_slot(slot)
    with trio.CancelScope(shield=True):  # for `phones.GOODBYE`, or `keyring_helper.PATIENCE`, at most
        if paired:
            await core.phones.forget(slot, content)
        elif keyring:
            left = not await core.keyring.forget(content)
    return Answer({"left": left})


async def change_passphrase(turn: Turn) -> Answer:
    """Give a slot another passphrase."""
    slot: str = turn.params.get("slot") or turn.proof
    turn.progress("deriving the key")
    with turn.passphrase() as passphrase:
        await turn.core.vault.change_passphrase(slot, passphrase, turn.log_n)
    turn.ticket.proven = turn.proofs()[slot]
    return Answer({"slot": slot})


async def rekey(turn: Turn) -> Answer:
    """Give the vault a new key."""
    slot = turn.proof
    turn.progress("deriving the key")
    with turn.passphrase() as passphrase:
        async with turn.core.keyring.resealing(_reseal(turn.core)) as reseal:
            dropped = await turn.core.vault.rekey(passphrase, turn.log_n, slot, reseal)
    turn.ticket.proven = turn.proofs()[slot]
    turn.core.adopt_key()
    await turn.core.phones.prune()
    return Answer({"vault": vault_key(turn), "dropped": dropped})


def _reseal(core: Core) -> Reseal:
    def reseal(slot: str, content: str, key: SecretKey) -> str | None:
        return core.unattended.reseal(slot, content, key) or core.phones.reseal(slot, content, key)

    return reseal


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
    proven = turn.ticket.covers("restore_vault", vault)
    if vault.state != UNINITIALIZED and vault.fault is None and not proven:
        raise ProofRequiredError(
            "restore_vault needs the passphrase of the vault that it replaces, or your phone"
        )
    refuse_debugger()
    await note(turn, "restore_vault")
    with turn.passphrase() as passphrase:
        try:
            slot = await _guess(turn, lambda: vault.restore_vault(fd, passphrase, proven=proven))
        except AvaultError as error:
            turn.core.gate.refuse(turn.caller, "restore_vault", error)
            turn.core.record.flush()
            raise
    turn.ticket.proven = turn.proofs()[slot]
    await turn.core.phones.prune()
    return Answer({"vault": vault_key(turn)})


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
    "credential_add": credential_add,
    "slot_remove": slot_remove,
    "change_passphrase": change_passphrase,
    "rekey": rekey,
    "export": export,
    "restore_vault": restore_vault,
}
