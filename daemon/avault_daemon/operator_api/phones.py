"""The operator's phone: unlocking by it, proving one action by it, pairing with it."""

from __future__ import annotations

from math import ceil

import trio

from avault_protocol import METHODS, UNLOCKED, BadRequestError

from ..nostr.relay import OnStage
from ..phone.patience import PATIENCE
from ..serving.conversation import Answer
from .slots import on_record, refuse_debugger, vault_key
from .turn import Handler, Turn

ADDRESSES = ("scan", "auth_url")
"""Stages whose text is an address for the operator."""
CHECKED_THERE = ("restore_vault",)
"""What needs proof sometimes, as its handler knows."""
BY_PASSPHRASE = ("rekey",)
"""What a phone cannot allow: the passphrase that proves it is the one of the slot that stays."""


def _patience(turn: Turn) -> float:
    return float(turn.params.get("timeout", PATIENCE))


def _stages(turn: Turn) -> OnStage:
    """Pass what happens on to the operator."""
    end, progress = trio.current_time() + _patience(turn), turn.progress  # not the turn: this may outlive it

    def on_stage(stage: str, url: str, text: str) -> None:
        detail: dict[str, object] = {}
        if text:
            detail["uri" if stage in ADDRESSES else "text"] = text
        if url:
            detail["relay"] = url
        progress(stage, **detail, seconds_left=max(0, ceil(end - trio.current_time())))

    return on_stage


async def phone_unlock(turn: Turn) -> Answer:
    """Unlock by the first phone that says yes; it proves nothing for this connection."""
    phones = turn.core.phones
    if turn.core.vault.state == UNLOCKED:
        return Answer({"already": True, "slot": None, "vault": vault_key(turn)})
    refuse_debugger()
    slot = await on_record(
        turn, "phone_unlock", lambda: phones.unlock(_stages(turn), patience=_patience(turn))
    )
    return Answer({"already": False, "slot": slot, "vault": vault_key(turn)})


async def phone_prove(turn: Turn) -> Answer:
    """Let a phone allow one call of one method on this connection."""
    phones, action = turn.core.phones, turn.params["action"]
    if action not in METHODS or not (METHODS[action].proof or action in CHECKED_THERE):
        raise BadRequestError("phone_prove: the action is no method that needs proof")
    if action in BY_PASSPHRASE:
        raise BadRequestError(f"{action} needs your passphrase, not your phone")
    slot = await on_record(
        turn, "phone_prove", lambda: phones.prove(action, _stages(turn), patience=_patience(turn))
    )
    turn.ticket.allow(action, turn.core.vault)
    return Answer({"slot": slot})


async def phone_pair(turn: Turn) -> Answer:
    """Find a signer; it becomes a slot only by `phone_confirm` on this connection."""
    if "bunker" in turn.params and "relays" in turn.params:
        raise BadRequestError("phone_pair: either bunker or relays")
    turn.ticket.close()
    phones, before = turn.core.phones, turn.core.vault.epoch
    if (bunker := turn.params.get("bunker")) is not None:
        found = await phones.signers.pair_bunker(bunker, _stages(turn), patience=_patience(turn))
    else:
        relays = turn.params.get("relays") or turn.core.settings.relays
        if not relays:
            raise BadRequestError(
                "no relay to meet the phone on",
                hint="name one: --relay wss://…, or set relays in the settings",
            )
        found = await phones.signers.pair_nostrconnect(relays, _stages(turn), patience=_patience(turn))
    turn.ticket.keep(found, before)
    phone = found.phone
    return Answer({"signer": phone.signer, "operator": phone.operator, "relays": list(phone.relays)})


async def phone_confirm(turn: Turn) -> Answer:
    """Try the signer that `phone_pair` found, and write its slot."""
    found, on_stage = turn.ticket.take_candidate(turn.core.vault), _stages(turn)
    on_stage("trying", "", "")
    return Answer({"slot": await turn.core.phones.confirm(found, on_stage, patience=_patience(turn))})


HANDLERS: dict[str, Handler] = {
    "phone_unlock": phone_unlock,
    "phone_prove": phone_prove,
    "phone_pair": phone_pair,
    "phone_confirm": phone_confirm,
}
