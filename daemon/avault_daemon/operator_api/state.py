"""What the operator may ask at any time: status, lock, the record."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from avault_protocol import UNLOCKED, AuditFailedError

from .. import __version__
from ..audit import verify
from ..callers.policy import Agent, Service, boundary
from ..confine import networked
from ..serving.conversation import Answer
from .turn import Handler, Turn

if TYPE_CHECKING:
    from ..core import Core

NO_BOUNDARY = "none (accidents only)"
NO_NETWORK = (
    "network = true, but what runs avaultd allows it none; for a unit of systemd: a drop-in with "
    "RestrictAddressFamilies=AF_INET AF_INET6"
)


def weakest_boundary(agents: Iterable[Agent], service: Service) -> str:
    """Return the boundary that every agent has: that of the system service, of sandboxes, or none."""
    found = {boundary(agent.selectors, service) for agent in agents}
    return found.pop() if len(found) == 1 else NO_BOUNDARY


async def status(turn: Turn) -> Answer:
    """Say how things are; never fails, and needs neither an unlocked vault nor the record."""
    core, vault = turn.core, turn.core.vault
    return Answer(
        {
            "state": vault.state,
            "version": __version__,
            "pid": os.getpid(),
            "home": str(core.places.home),
            "service": core.places.service,
            "boundary": weakest_boundary(vault.policy.agents.values(), core.places.service),
            "confined": core.confinement,
            "memory": {
                "kind": core.arena.kind,
                "mapped": core.arena.mapped,
                "budget": core.arena.size,
                "in_use": core.arena.in_use,
            },
            "vault": vault.public.hex() if vault.public else None,
            "generation": vault.generation,
            "secrets": vault.count if vault.state == UNLOCKED else None,
            "slots": len(vault.slots()),
            "agents": len(vault.policy.agents),
            "requests": len(core.requests.pending()),
            "record": {"number": core.record.number, "ok": core.record.problem is None},
            "phone": _phone(core),
            "keyring": _keyring(core),
            "lock_on": list(core.settings.lock_on),
            "warnings": _warnings(core),
        }
    )


def _phone(core: Core) -> dict[str, object]:
    return {
        "kind": core.phones.kind,
        "where": core.phones.where,
        "network": core.settings.network,
        "proxy": core.settings.socks or None,
        "slots": len(core.phones.slots()),
        "relays": core.phones.relays(),
    }


def _keyring(core: Core) -> dict[str, object]:
    return {
        "backend": core.keyring.keyring.backend,
        "ok": core.keyring.keyring.ok,
        "slots": len(core.keyring.slots()),
    }


def _warnings(core: Core) -> list[str]:
    problems = core.record.problem, core.locker.problem, core.keyring.keyring.problem
    network = core.settings.network and not networked()
    return [
        *core.vault.warnings,
        *core.bindings.warnings,
        *filter(None, problems),
        *([NO_NETWORK] if network else []),
    ]


async def lock(turn: Turn) -> Answer:
    """Wipe everything, then put it on record if that is possible."""
    was_unlocked = turn.core.vault.unlocked
    turn.core.vault.lock()
    if was_unlocked:
        turn.core.gate.note(turn.caller, "lock")
        turn.core.record.try_flush()
    return Answer({})


async def audit(turn: Turn) -> Answer:
    """Read the record, at most `limit` lines at once."""
    params, record = turn.params, turn.core.record
    limit = params.get("limit", 1000)
    entries = await trio.to_thread.run_sync(
        lambda: record.read(
            since=params.get("since"),
            after=params.get("after"),
            agent=params.get("agent"),
            secret=params.get("secret"),
            limit=limit + 1,
        ),
        limiter=turn.core.reading,
    )
    return Answer({"entries": entries[:limit], "more": len(entries) > limit})


async def audit_verify(turn: Turn) -> Answer:
    """Check the record by public keys only; first sign what there is, if the vault is unlocked."""
    core = turn.core
    with suppress(AuditFailedError):  # then what is on the disk is all there is to check
        await core.record.checkpoint()
    verdict = await trio.to_thread.run_sync(
        verify, core.places.state_dir, core.record.anchor, limiter=core.reading
    )
    return Answer(
        {
            "ok": verdict.ok,
            "complete_to": verdict.complete_to,
            "last": verdict.last,
            "unsigned": verdict.unsigned,
            "problem": verdict.problem,
        }
    )


HANDLERS: dict[str, Handler] = {
    "status": status,
    "lock": lock,
    "audit": audit,
    "audit_verify": audit_verify,
}
