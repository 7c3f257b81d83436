"""Who fetches which credential: what systemd says of itself when it reads a ``LoadCredential=`` from a socket.

For ``LoadCredential=TOKEN:/run/avault/credentials.sock`` in telegram.service a process of systemd connects, says nothing
and reads to the end. Two things tell whom it reads for. The *address* of its socket is abstract::

    \\0<random hex digits>/unit/telegram.service/TOKEN

and its *cgroup* is the unit's: systemd forks it there, as uid 0, before it becomes the unit's process. Anybody may take
any address, and whoever has the right any cgroup. So the system service serves uid 0 alone, and only if the two agree. A
user's manager is a process of that user like any other, and its cgroup says no more than the uid: in the user service
the uid is the identity, and the unit in the address is but a name that the caller gives itself.

Sources: systemd.exec(5), unix(7); systemd 252, ``load_credential`` and ``read_full_file_full``, and measured.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from avault_protocol import AmbiguousAgentError, BadRequestError, UnknownAgentError, is_secret_name

from ..callers.caller import is_unit_name

if TYPE_CHECKING:
    from ..callers.policy import Agent, Caller, Policy, Service

PLUGIN = "credentials"
"""The plugin, of the agent that is the unit, to which secrets are granted."""

_ADDRESS = re.compile(rb"\0[0-9a-f]{1,16}/unit/([!-.0-~]{1,255})/([!-.0-9;-~]{1,255})")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an address says: a credential, for a unit."""

    unit: str
    credential: str


def parse(address: object) -> Wanted | None:
    """Return what the address of a peer, as `socket.getpeername` gives it, says; None if it is none of systemd's."""
    found = _ADDRESS.fullmatch(address) if isinstance(address, bytes) else None
    if found is None:
        return None
    unit, credential = (part.decode("ascii") for part in found.groups())
    return Wanted(unit, credential) if is_unit_name(unit) else None


def check(caller: Caller, wanted: Wanted | None, service: Service) -> Wanted:
    """Return *wanted* if *caller* is to be believed and a secret may have such a name.

    `UnknownAgentError`: it is not systemd, or not for that unit; `BadRequestError`: it names no unit, or no secret.
    """
    if wanted is None:
        raise BadRequestError(
            "the caller's address names no unit and credential",
            hint="this socket is for LoadCredential= in a unit; programs use agent.sock",
        )
    if service == "system" and caller.uid != 0:
        raise UnknownAgentError(
            f"uid {caller.uid} asks for a credential of {wanted.unit}, and only systemd may",
            hint="a unit of a user's manager has its credentials from that user's avault",
        )
    if service == "system" and caller.unit != wanted.unit:
        raise UnknownAgentError(
            f"a process in {caller.unit or 'no system unit'} asks for a credential of {wanted.unit}",
            hint="systemd asks from within the unit; that the kernel vouches for it takes Linux 6.5",
        )
    if not is_secret_name(wanted.credential):
        raise BadRequestError(
            f"no secret is called {wanted.credential}",
            hint="LoadCredential=NAME:… takes the secret's name: a letter or _, then letters, digits and _ . -",
        )
    return wanted


def agent_of(policy: Policy, caller: Caller, wanted: Wanted, service: Service) -> Agent:
    """Return the agent that *caller* is; where several fit, the one that is called like the unit.

    `UnknownAgentError`, `AmbiguousAgentError`.
    """
    name = name_for(wanted.unit)
    try:
        return policy.identify(caller, None, service=service)
    except UnknownAgentError as error:
        selector = f"--unit {wanted.unit}" if service == "system" else f"--uid {caller.uid}"
        grant = f"avault grant {name}/{PLUGIN} {wanted.credential} {selector}"
        raise UnknownAgentError(error.message, hint=f"see avault requests, or run: {grant}") from None
    except AmbiguousAgentError as error:
        with suppress(UnknownAgentError):
            return policy.identify(caller, name, service=service)
        raise AmbiguousAgentError(error.message, hint=f"the one called {name} would be taken") from None


def name_for(unit: str) -> str:
    """Return the name that an agent which is *unit* would have: bot-work for bot@work.service."""
    stem = unit.rpartition(".")[0].lower()
    return re.sub(r"[^a-z0-9_-]", "-", stem).lstrip("_-")[:64] or PLUGIN


def may_ring(policy: Policy, service: Service) -> bool:
    """Report whether there is any agent that could fetch a credential, so that one who waits may have the phone rung."""
    return any(
        not agent.selectors.socket and (agent.selectors.units or service == "user")
        for agent in policy.agents.values()
    )
