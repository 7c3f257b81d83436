"""The way in: accept, identify, and hand over to a connection. Nothing else accepts from a listening socket.

Whatever one conversation does, it ends alone: no error of it ever reaches the nursery in which the others live.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections import Counter
from typing import TYPE_CHECKING

import trio

from avault_protocol import AvaultError, BusyError, pack_error

from ..callers.caller import identify
from ..faults import log_fault
from ..systemd.credential_server import CredentialServer
from ..systemd.sockets import Sockets
from .connection import AgentConnection, OperatorConnection

if TYPE_CHECKING:
    from ..callers.policy import Caller
    from ..callers.processes import Process
    from ..core import Core

log = logging.getLogger(__name__)

# accept() fails with these when the machine, not the caller, is at its limit: wait a moment, then go on.
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}


class Server:
    """All connections of one daemon, which come in by *sockets*."""

    def __init__(self, core: Core, nursery: trio.Nursery, sockets: Sockets | None = None) -> None:
        self._core = core
        self._nursery = nursery
        self._sockets = sockets or Sockets()
        self.agents: set[AgentConnection] = set()
        self._per_uid: Counter[int] = Counter()
        self._scopes: dict[Process, set[trio.CancelScope]] = {}
        self._own_sockets: dict[str, trio.CancelScope] = {}
        core.vault.listeners.append(self._on_event)

    def start(self) -> None:
        """Listen on every socket; raises what `Sockets.open` raises."""
        places, modes = self._core.places, self._core.places.modes
        operator = self._sockets.open(
            "operator", places.operator_socket, modes.operator_socket, places.operator_group
        )
        agents = self._sockets.open("agent", places.agent_socket, modes.agent_socket)
        credentials = self._sockets.open("credentials", places.credentials_socket, 0o600)
        self._nursery.start_soon(CredentialServer(self._core).run, credentials)
        self._listen(operator, operator=True)
        self._listen(agents)
        self._own_agents()
        self._sockets.close_rest()
        self._nursery.start_soon(self._watch)

    def _listen(
        self, listener: socket.socket, *, operator: bool = False, agent: str | None = None
    ) -> trio.CancelScope:
        scope = trio.CancelScope()
        self._nursery.start_soon(self._serve, listener, operator, agent, scope)
        return scope

    def _own_agents(self) -> None:
        """Have a socket for each agent that is described by one, and for no other."""
        places = self._core.places
        wanted = {agent.name for agent in self._core.vault.policy.agents.values() if agent.selectors.socket}
        for name in self._own_sockets.keys() - wanted:
            self._own_sockets.pop(name).cancel()
            self._sockets.remove(f"agents/{name}", places.agent_socket_of(name))
        for name in sorted(wanted - self._own_sockets.keys()):
            try:
                places.make_agent_dir(name)
                path = places.agent_socket_of(name)
                listener = self._sockets.open_kept(f"agents/{name}", path, places.modes.agent_socket)
                self._own_sockets[name] = self._listen(listener, agent=name)
            except (AvaultError, OSError) as error:
                log.error("no socket for agent %s: %s", name, error)

    def _on_event(self, event: str, detail: dict[str, object]) -> None:
        if event == "policy":
            self._own_agents()
        for connection in list(self.agents):
            try:
                connection.notify(event, detail)
            except Exception as error:  # noqa: BLE001 - the event is the vault's: no connection may stop it
                log_fault("telling a connection of an event", error)
                connection.stop()

    async def _serve(
        self, listener: socket.socket, operator: bool, agent: str | None, scope: trio.CancelScope
    ) -> None:
        with scope, listener:
            while True:
                await trio.lowlevel.wait_readable(listener)
                try:
                    sock, _ = listener.accept()
                except BlockingIOError:
                    continue
                except OSError as error:
                    if error.errno in _EXHAUSTED:
                        log.warning("accept: %s; waiting", os.strerror(error.errno or 0))
                        await trio.sleep(0.1)
                    continue
                sock.setblocking(False)
                try:
                    self._admit(sock, operator, agent)
                except Exception as error:  # noqa: BLE001 - whoever comes next is to be served
                    log_fault("a caller could not be let in", error)
                    sock.close()

    def _admit(self, sock: socket.socket, operator: bool, agent: str | None) -> None:
        """Identify before listening: by what the kernel says, and only a process that is alive."""
        try:
            caller, process = identify(sock, agent)
        except AvaultError as error:
            refuse(sock, error)
            return
        except OSError as error:
            log.warning("a caller could not be identified: %s", os.strerror(error.errno or 0))
            refuse(sock, BusyError("the daemon is out of descriptors"))
            return
        count = self._per_uid[caller.uid]
        if count >= self._core.settings.max_connections_per_uid:
            process.close()
            refuse(sock, BusyError(f"uid {caller.uid} has {count} connections already"))
            return
        process = self._core.bindings.processes.join(process)
        self._per_uid[caller.uid] += 1
        scope = trio.CancelScope()
        self._scopes.setdefault(process, set()).add(scope)  # from now on, or a death could be missed
        self._nursery.start_soon(self._converse, sock, caller, process, operator, scope)

    async def _converse(
        self,
        sock: socket.socket,
        caller: Caller,
        process: Process,
        operator: bool,
        scope: trio.CancelScope,
    ) -> None:
        try:
            with sock, scope:
                if operator:
                    await OperatorConnection(self._core, sock, caller, process).run()
                else:
                    await self._serve_agent(AgentConnection(self._core, sock, caller, process))
        except Exception as error:  # noqa: BLE001 - one conversation ends alone
            log_fault(f"conversation with pid {caller.pid}", error)
        finally:
            self._forget(caller, process, scope)

    def _forget(self, caller: Caller, process: Process, scope: trio.CancelScope) -> None:
        self._per_uid[caller.uid] -= 1
        if not self._per_uid[caller.uid]:
            del self._per_uid[caller.uid]
        self._scopes[process].discard(scope)
        if not self._scopes[process]:
            del self._scopes[process]
        self._core.bindings.processes.leave(process)

    async def _serve_agent(self, connection: AgentConnection) -> None:
        self.agents.add(connection)
        try:
            await connection.run()
        finally:
            self.agents.discard(connection)

    async def _watch(self) -> None:
        """End what a process had when it dies: a connection may live on in a child, which is somebody else."""
        while True:
            for process in await self._core.bindings.processes.deaths():
                self._core.bindings.drop(process)
                for scope in self._scopes.get(process, ()):
                    scope.cancel()


def refuse(sock: socket.socket, error: AvaultError) -> None:
    """Tell a peer why it is not listened to, if it can be told without waiting, and close."""
    with sock:
        try:
            sock.send(pack_error(0, error), socket.MSG_NOSIGNAL)
        except OSError:
            log.debug("a refused caller was gone already")
