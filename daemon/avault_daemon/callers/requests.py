"""What waits for the operator's word: secrets that plugins want, and callers that no agent describes.

In memory only. A request never changes once it has its id, so what the operator has read is what an `approve` of that
id grants; what is asked again meanwhile is the same request. What was denied is not filed again for an hour. Whoever
asks for too much is not heard: each agent, each uid and all unknown callers together have a limit.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

from avault_protocol import NotFoundError
from avault_protocol.limits import MAX_REQUESTS_PER_AGENT

if TYPE_CHECKING:
    from .policy import Caller
    from .session import Session

DENIED_FOR = 3600.0
MAX_CALLERS_PER_UID = 8
MAX_CALLERS = 64
"""Unknown callers: anyone may connect to the system service, so their requests are few."""


@dataclass(frozen=True, slots=True)
class SecretRequest:
    """A plugin of a known agent wants one secret. *since* is in Unix seconds."""

    id: int
    caller: Caller
    agent: str
    plugin: str
    name: str
    reason: str
    since: int

    def to_json(self) -> dict[str, object]:
        """Return what the operator is shown."""
        return _shown("secret", self, [self.name], self.reason)


@dataclass(frozen=True, slots=True)
class CallerRequest:
    """A caller that no agent describes said hello; *agent* is what it called itself, if anything."""

    id: int
    caller: Caller
    agent: str | None
    plugin: str
    names: tuple[str, ...]
    since: int

    def to_json(self) -> dict[str, object]:
        """Return what the operator is shown."""
        return _shown("agent", self, list(self.names), "")


Request = SecretRequest | CallerRequest


def _shown(kind: str, request: Request, names: list[str], reason: str) -> dict[str, object]:
    caller = request.caller
    return {
        "id": request.id,
        "kind": kind,
        "agent": request.agent,
        "plugin": request.plugin,
        "names": names,
        "reason": reason,
        "pid": caller.pid,
        "uid": caller.uid,
        "unit": caller.unit,
        "exe": caller.exe,
        "since": request.since,
    }


def _key(request: Request) -> Hashable:
    """Return what makes another request the same one. Not the pid: a program that is restarted asks the same."""
    if isinstance(request, SecretRequest):
        return request.agent, request.plugin, request.name
    caller = request.caller
    return caller.uid, caller.unit, caller.exe, request.agent, request.plugin, frozenset(request.names)


def _payers(request: Request) -> list[tuple[Hashable, int]]:
    """Return on whose account *request* goes, and how many each may have."""
    if isinstance(request, SecretRequest):
        return [(request.agent, MAX_REQUESTS_PER_AGENT)]
    return [(request.caller.uid, MAX_CALLERS_PER_UID), (CallerRequest, MAX_CALLERS)]


class Requests:
    """All requests of one daemon. *clock* dates them, *monotonic* measures how long a denial holds.

    Ids begin at *first*, by default at some random place, so that an id read before a restart of the daemon does not
    mean something else after it.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        first: int | None = None,
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._ids = count(first if first is not None else 1000 * (1 + secrets.randbelow(9999)) + 1)
        self._pending: dict[int, Request] = {}
        self._by_key: dict[Hashable, int] = {}
        self._denied: dict[Hashable, float] = {}  # until when
        self._load: Counter[Hashable] = Counter()

    def room(self, agent: str) -> int:
        """Return how many more secrets the plugins of *agent* may want."""
        return MAX_REQUESTS_PER_AGENT - self._load[agent]

    def file_secret(self, session: Session, names: Iterable[str], reason: str = "") -> list[int]:
        """File that the plugin of *session* wants *names*; *reason* is printable and at most `MAX_REASON` long.

        Return the ids of those that wait now; what was denied or is over the agent's limit has none.
        """
        caller, agent, plugin, now = session.caller, session.agent, session.plugin, int(self._clock())
        payers = [(agent, MAX_REQUESTS_PER_AGENT)]
        filed = [
            self._file(SecretRequest(0, caller, agent, plugin, name, reason, now))
            for name in names
            if (key := (agent, plugin, name)) in self._by_key or self._hears(key, payers)
        ]
        return [number for number in filed if number is not None]

    def file_caller(self, caller: Caller, named: str | None, plugin: str, names: Iterable[str]) -> int | None:
        """File that a caller whom no agent describes said hello; return its id.

        None if it was denied or is one too many.
        """
        return self._file(CallerRequest(0, caller, named, plugin, tuple(names), int(self._clock())))

    def _file(self, request: Request) -> int | None:
        key, payers = _key(request), _payers(request)
        if key in self._by_key:
            return self._by_key[key]
        if not self._hears(key, payers):
            return None
        number = next(self._ids)
        self._pending[number] = replace(request, id=number)
        self._by_key[key] = number
        self._load.update(payer for payer, _ in payers)
        return number

    def _hears(self, key: Hashable, payers: Iterable[tuple[Hashable, int]]) -> bool:
        """Report whether a request may wait: each of *payers* has room for it, and it was not denied."""
        full = any(self._load[payer] >= limit for payer, limit in payers)
        return not full and self._denied.get(key, 0.0) <= self._monotonic()

    def pending(self) -> list[Request]:
        """Return all that waits, the oldest first."""
        return list(self._pending.values())

    def for_agent(self, name: str) -> list[SecretRequest]:
        """Return what the plugins of agent *name* want.

        A caller that only calls itself so is not among it: it is nobody's plugin.
        """
        return [r for r in self._pending.values() if isinstance(r, SecretRequest) and r.agent == name]

    def get(self, request_id: int) -> Request:
        """Return a request; `NotFoundError`."""
        if request_id not in self._pending:
            raise NotFoundError(f"no request {request_id} waits", hint="see: avault requests")
        return self._pending[request_id]

    def take(self, request_id: int) -> Request:
        """Take a request out, because it was approved; `NotFoundError`."""
        request = self.get(request_id)
        del self._pending[request_id]
        del self._by_key[_key(request)]
        self._load -= Counter(payer for payer, _ in _payers(request))
        return request

    def settle(self, agent: str, plugin: str, names: Iterable[str]) -> None:
        """Take out what waits for *names*, because they were granted, and forget that they were ever denied."""
        for name in names:
            key = (agent, plugin, name)
            self._denied.pop(key, None)
            if (request_id := self._by_key.get(key)) is not None:
                self.take(request_id)

    def deny(self, ids: Iterable[int]) -> None:
        """Take requests out, and do not file the same ones for `DENIED_FOR` seconds.

        `NotFoundError` if one of them is not there; then none is denied.
        """
        chosen = {request_id: self.get(request_id) for request_id in ids}
        now = self._monotonic()
        self._denied = {key: until for key, until in self._denied.items() if until > now}
        for request_id, request in chosen.items():
            self.take(request_id)
            self._denied[_key(request)] = now + DENIED_FOR
