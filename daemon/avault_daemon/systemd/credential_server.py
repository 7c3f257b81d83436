"""The socket from which systemd fetches credentials of units: see `credentials` for who is believed.

While the vault is locked nobody is accepted: who has connected waits in the socket's queue, for as long as systemd lets
the unit wait (``TimeoutStartSec=``), also across a restart of the daemon if systemd holds the socket. That is not
thrift. systemd takes a connection that ends without data for an empty secret and starts the unit with it, so one that
was accepted must be answered, and a daemon that is killed answers nothing; one that was not accepted fails.

For the same reason a refusal is not a closed connection but more than systemd takes, and the unit fails to start with
status 243. A value goes out in one call, whole or not at all.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from typing import TYPE_CHECKING

import trio

from avault_protocol import (
    AvaultError,
    BusyError,
    CorruptError,
    InternalError,
    NotGrantedError,
    UnknownAgentError,
)

from ..audit.lines import GET
from ..callers.caller import credentials, identify
from ..callers.session import Session
from ..faults import log_fault
from ..memory import sodium
from .credentials import PLUGIN, Wanted, agent_of, check, may_ring, name_for, parse

if TYPE_CHECKING:
    from ..callers.policy import Caller
    from ..core import Core
    from ..vault import Value

log = logging.getLogger(__name__)

LIMIT = 1024 * 1024
"""Bytes that systemd takes of one credential (``CREDENTIAL_SIZE_MAX``); no value of ours comes near."""
MAX_OPEN = 64
"""Connections at once; the others wait. One that is served is gone at once: it is refusals that must be read."""
MAX_OPEN_PER_UNIT = 8
"""Of them, refusals to one unit, or to one uid where there is no unit; what is beyond is refused without waiting for the reader."""
REFUSAL_TIMEOUT = 5.0
"""Seconds in which a refusal must have been read; systemd takes some milliseconds."""
SAID_AGAIN = 60.0
"""Seconds in which the log says the same only once."""
MAX_SAID = 16
"""Such lines for one unit, or for one uid where there is no unit, in that time."""

_ASCII = re.compile(rb"[\x00-\x7f]*+")  # applied to memory where it lies
_REFUSAL = b"avaultd refuses this credential; its log says why\n".ljust(64 * 1024, b"\n")

Asker = tuple[int | None, str | None]
"""uid and unit, as far as they are known."""


class CredentialServer:
    """Answers whoever connects to the socket of credentials."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._room = trio.Semaphore(MAX_OPEN)
        self._open: Counter[Asker] = Counter()
        self._log = Refusals()

    async def run(self, listener: socket.socket) -> None:
        """Serve *listener*, which is non-blocking and this method's from now on; for ever."""
        with listener:
            async with trio.open_nursery() as nursery:
                while True:
                    await self._room.acquire()
                    nursery.start_soon(self._converse, await self._next(listener))

    async def _next(self, listener: socket.socket) -> socket.socket:
        while True:
            await trio.lowlevel.wait_readable(listener)
            if self._core.vault.locked:
                with self._ringing():
                    await self._core.unlocked.wait()
                continue
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                continue
            except OSError as error:  # it is the machine, not the caller, that is at its limit
                log.warning("accept: %s; waiting", os.strerror(error.errno or 0))
                await trio.sleep(0.1)
                continue
            sock.setblocking(False)
            return sock

    def _ringing(self) -> AbstractContextManager[None]:
        log.warning("a unit waits for a credential, and the vault is locked; run: avault unlock")
        if not may_ring(self._core.vault.policy, self._core.places.service):
            return nullcontext()
        return self._core.bell.waiting("a unit's credential")

    async def _converse(self, sock: socket.socket) -> None:
        """Give, or refuse; never just close."""
        caller: Caller | None = None
        wanted: Wanted | None = None
        refusal: AvaultError | None = BusyError("avaultd stops")
        try:
            wanted = parse(sock.getpeername())
            caller, process = identify(sock, credentials(sock), None)
            with closing(process):
                await self._give(sock, caller, wanted)
            refusal = None
        except AvaultError as error:
            refusal = error
        except OSError as error:
            refusal = BusyError(f"the machine is at its limit: {os.strerror(error.errno or 0).lower()}")
        except Exception as error:  # noqa: BLE001 - one conversation ends alone
            log_fault("a connection for a credential", error)
            refusal = InternalError()
        finally:
            with sock:
                if refusal is not None:
                    asker = _asker(caller, wanted)
                    self._log.say(asker, wanted, refusal)
                    await self._refuse(sock, asker)
            self._room.release()

    async def _give(self, sock: socket.socket, caller: Caller, wanted: Wanted | None) -> None:
        """Send what is wanted, if that is granted, once it is on record. Raises the `AvaultError` that refuses it."""
        core = self._core
        try:
            session, name = self._session(caller, wanted)
            value = self._value_for(session, name)
        except AvaultError:
            core.record.try_flush()
            raise
        core.record.flush()
        if core.record.always:
            # What was decided and opened before a wait counts no more behind it.
            await core.record.settle()
            if not core.gate.allows(session, name):
                raise NotGrantedError
            value = core.vault.value(name, value.version)
        self._send(sock, value)

    def _session(self, caller: Caller, wanted: Wanted | None) -> tuple[Session, str]:
        """Return what `hello` would make of *caller*, and the name of the secret; what is refused is on record."""
        core, service = self._core, self._core.places.service
        try:
            believed = check(caller, wanted, service)
        except AvaultError as error:
            core.gate.refuse(caller, GET, error, plugin=PLUGIN)
            raise
        name = believed.credential
        try:
            agent = agent_of(core.vault.policy, caller, believed, service)
        except AvaultError as error:
            if isinstance(error, UnknownAgentError):
                core.requests.file_caller(caller, name_for(believed.unit), PLUGIN, [name])
            core.gate.refuse(caller, GET, error, plugin=PLUGIN, secret=name)
            raise
        return Session(caller, agent.name, PLUGIN, {name}), name

    def _value_for(self, session: Session, name: str) -> Value:
        try:
            return self._core.gate.get(session, name)[0]
        except NotGrantedError as error:
            grant = f"avault grant {session.agent}/{PLUGIN} {name}"
            raise NotGrantedError(error.message, hint=f"see avault requests, or run: {grant}") from None

    def _send(self, sock: socket.socket, value: Value) -> None:
        """Send the value in one call: as text it goes out of the arena as it lies there."""
        if value.encoding == "text":
            _send_all(sock, value.view)
            return
        with self._core.arena.take(value.size) as plain:
            size = None
            if _ASCII.fullmatch(value.view):
                size = sodium.base64_decode(plain.address, plain.size, value.address, value.size)
            if size is None:
                raise CorruptError(f"{value.name} is stored as base64, and is none")
            _send_all(sock, plain.view[:size])

    async def _refuse(self, sock: socket.socket, asker: Asker) -> None:
        """Send more than systemd takes, whatever happens meanwhile: with less the unit would start."""
        crowded = self._open[asker] >= MAX_OPEN_PER_UNIT
        self._open[asker] += 1
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + REFUSAL_TIMEOUT):
                left = LIMIT + len(_REFUSAL)
                while left > 0:
                    try:
                        left -= sock.send(_REFUSAL, socket.MSG_NOSIGNAL)
                    except BlockingIOError:
                        if crowded:
                            return
                        await trio.lowlevel.wait_writable(sock)
        except OSError:
            log.debug("who asked for a credential was gone before it was refused")
        finally:
            self._open[asker] -= 1
            if not self._open[asker]:
                del self._open[asker]


class Refusals:
    """What the log says of refusals: clearly, and so often that nobody fills it."""

    def __init__(self, clock: Callable[[], float] = trio.current_time) -> None:
        self._clock = clock
        self._said: dict[tuple[Asker, Wanted | None, str], float] = {}

    def say(self, asker: Asker, wanted: Wanted | None, error: AvaultError) -> None:
        """Log that *error* refused it, unless that was done a moment ago, or *asker* has had many such lines."""
        now, kind = self._clock(), (asker, wanted, error.code)
        self._said = {said: at for said, at in self._said.items() if at > now - SAID_AGAIN}
        if kind in self._said or sum(said[0] == asker for said in self._said) >= MAX_SAID:
            return
        self._said[kind] = now
        what = f"credential {wanted.credential} of {wanted.unit}" if wanted else "a credential"
        hint = f"; {error.hint}" if error.hint else ""
        about = {
            "avault_secret": wanted and wanted.credential,
            "avault_unit": wanted and wanted.unit,
            "avault_uid": asker[0],
            "avault_reason": error.code,
        }
        log.warning("refused: %s: %s%s", what, error.message, hint, extra=about)


def _asker(caller: Caller | None, wanted: Wanted | None) -> Asker:
    if caller is None:
        return None, None
    return caller.uid, caller.unit or (wanted.unit if wanted else None)


def _send_all(sock: socket.socket, view: memoryview) -> None:
    try:
        sent = sock.send(view, socket.MSG_NOSIGNAL)
    except BrokenPipeError:
        log.debug("who asked for a credential was gone before it came")
        return
    if sent < len(view):
        # The refusal behind it makes it too large, so systemd does not take this part for the whole.
        raise BusyError(
            f"a socket takes no {len(view)} bytes at once here", hint="raise net.core.wmem_default (sysctl)"
        )
