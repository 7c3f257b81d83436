"""The gate: the one place that decides whether a plugin may read a secret, and that puts it on record.

It decides on the policy snapshot of the moment, before anything is looked up; so a revocation acts on connections that
are open, and what does not exist looks like what is not granted. It only appends to the record: whoever calls it
flushes the record before the answer leaves, and withholds the answer if that fails.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from avault_protocol import UNLOCKED, AvaultError, LockedError, NotFoundError, NotGrantedError

from ..audit.lines import GET
from ..clock import boottime

if TYPE_CHECKING:
    from ..audit import Record
    from ..audit.lines import Noted
    from ..vault import Value, Vault
    from .policy import Caller, Policy, Service
    from .requests import Requests
    from .session import Session

log = logging.getLogger(__name__)


class Allowed:
    """What a plugin was allowed: what must still hold for it to be allowed again, and what is then put on record.

    *value* is what it was given, if it was.
    """

    __slots__ = ("noted", "policy", "value")

    def __init__(self, policy: Policy, noted: Noted, value: Value | None = None) -> None:
        self.policy = policy
        self.noted = noted
        self.value = value


class Gate:
    """Decides and records. *service* is "user" or "system", as in `policy`."""

    def __init__(
        self,
        vault: Vault,
        record: Record,
        requests: Requests,
        service: Service,
        *,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._vault = vault
        self._record = record
        self._requests = requests
        self._service: Service = service
        self._clock = clock
        self.used_at = clock()
        """When something was last allowed, by *clock*."""

    def get(self, session: Session, name: str) -> tuple[Value, Allowed]:
        """Give the plugin of *session* the value of the secret *name*; it stays open until the next await.

        Beside it return what `again` needs to give the same.

        `LockedError`; `NotGrantedError`, the same whether the secret is another's or nobody's; what opening may raise.
        """
        try:
            value = self._value(session, name)
        except AvaultError as error:
            self.refuse(session.caller, GET, error, agent=session.agent, plugin=session.plugin, secret=name)
            raise
        self.used_at = self._clock()
        noted = self._record.append(
            session.caller,
            GET,
            agent=session.agent,
            plugin=session.plugin,
            secret=name,
            version=value.version,
        )
        return value, Allowed(self._vault.policy, noted, value)

    def again(self, allowed: Allowed | None) -> bool:
        """Allow the same plugin the same once more, if something was and nothing has changed since; report whether.

        A commit, a lock, another key close the value; so does who else needs its room. Whatever else was decided on is
        the caller's, which does not change, and the policy's.
        """
        if allowed is None or allowed.policy is not self._vault.policy:
            return False
        if (value := allowed.value) is not None and not value.kept:
            return False
        self.used_at = self._clock()
        self._record.noted.append(allowed.noted)
        return True

    def _value(self, session: Session, name: str) -> Value:
        if self._vault.state != UNLOCKED:
            raise LockedError
        if name not in session.declared:
            # What it declared the plugin knows itself, so this tells it nothing about the vault.
            raise NotGrantedError(
                "this plugin did not declare that secret",
                hint="declare it: Vault(secrets=[...]), or request() it",
            )
        if not self.allows(session, name):
            self.file(session, [name])
            raise NotGrantedError
        try:
            return self._vault.value(name)
        except NotFoundError:
            about = {
                "avault_agent": session.agent,
                "avault_plugin": session.plugin,
                "avault_secret": name,
            }
            log.debug(
                "%s/%s is granted %s, which does not exist", session.agent, session.plugin, name, extra=about
            )
            raise NotGrantedError from None

    def allows(self, session: Session, name: str) -> bool:
        """Report whether the plugin of *session* may read *name* now; records nothing."""
        return name in session.declared and name in self.granted(session)

    def granted(self, session: Session) -> frozenset[str]:
        """Return what is granted to the plugin of *session* now, whether it declared it or not; records nothing.

        It also asks whether the caller is still the agent that it was at hello: the agent may have been removed, made
        anew, or be recognised otherwise by now.
        """
        policy = self._vault.policy
        if session.snapshot is not policy:
            still = self.still_agent(session)
            session.readable = policy.allowed(session.agent, session.plugin) if still else frozenset()
            session.snapshot = policy
        return session.readable

    def file(self, session: Session, names: Iterable[str], reason: str = "") -> list[int]:
        """File that the plugin of *session* wants *names*, as `Requests.file_secret` does.

        Nothing of a caller that is not the agent any more: what it asked for would be granted to another.
        """
        return self._requests.file_secret(session, names, reason) if self.still_agent(session) else []

    def still_agent(self, session: Session) -> bool:
        """Report whether the caller of *session* is still the agent that it was at hello."""
        agent = self._vault.policy.agents.get(session.agent)
        return agent is not None and agent.fits(session.caller, self._service)

    def refuse(
        self,
        caller: Caller,
        action: str,
        error: AvaultError,
        *,
        agent: str | None = None,
        plugin: str | None = None,
        secret: str | None = None,
    ) -> None:
        """Put on record that *action* ended in *error*; repetitions are counted."""
        self._record.refused(caller, action, error.code, agent=agent, plugin=plugin, secret=secret)

    def note(
        self,
        caller: Caller,
        action: str,
        *,
        agent: str | None = None,
        plugin: str | None = None,
        secret: str | None = None,
        version: int | None = None,
    ) -> Allowed:
        """Put on record that *action* is being done."""
        self.used_at = self._clock()
        noted = self._record.append(
            caller, action, agent=agent, plugin=plugin, secret=secret, version=version
        )
        return Allowed(self._vault.policy, noted)
