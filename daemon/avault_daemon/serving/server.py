"""The way in: accept, identify, and hand over to a connection. Nothing else accepts from a listening socket.

Whatever one conversation does, it ends alone: no error of it ever reaches the nursery in which the others live.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from avault_protocol import AvaultError, BusyError, pack_error

from ..callers.caller import credentials, identify
from ..faults import log_fault
from ..systemd.credential_server import CredentialServer
from ..systemd.sockets import Sockets
from .agent_connection import AgentConnection
from .agents import Agents
from .operator_connection import OperatorConnection

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
        self.agents = Agents(core, nursery, bury=self._bury, ended=self._agent_ended)
        self._per_uid: Counter[int] = Counter()
        self._ends: dict[Process, set[Callable[[], None]]] = {}
        """What ends the connections of each process that has one."""
        self._own_sockets: dict[str, trio.CancelScope] = {}
        self._exe = "landlock" not in core.confinement  # which hides the executable of every other process
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
        self._nursery.start_soon(self.agents.run)

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
        self.agents.tell(event, detail)

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
        peer, processes = credentials(sock), self._core.bindings.processes
        count = self._per_uid[peer.uid]
        if count >= self._core.settings.max_connections_per_uid:
            refuse(sock, BusyError(f"uid {peer.uid} has {count} connections already"))
            return
        try:
            caller, process = identify(sock, peer, agent, known=processes.latest(peer.pid), exe=self._exe)
        except AvaultError as error:
            refuse(sock, error)
            return
        except OSError as error:
            log.warning("a caller could not be identified: %s", os.strerror(error.errno or 0))
            refuse(sock, BusyError("the daemon is out of descriptors"))
            return
        process = processes.join(process)
        if operator:
            scope = trio.CancelScope()
            self._nursery.start_soon(self._converse, sock, caller, process, scope)
            end: Callable[[], None] = scope.cancel
        else:
            try:
                end = self.agents.admit(sock, caller, process).end
            except OSError:
                processes.leave(process)
                raise
        self._per_uid[peer.uid] += 1
        self._ends.setdefault(process, set()).add(end)

    async def _converse(
        self, sock: socket.socket, caller: Caller, process: Process, scope: trio.CancelScope
    ) -> None:
        try:
            with sock, scope:
                await OperatorConnection(self._core, sock, caller, process).run()
        except Exception as error:  # noqa: BLE001 - one conversation ends alone
            log_fault(f"conversation with pid {caller.pid}", error)
        finally:
            self._forget(caller, process, scope.cancel)

    def _agent_ended(self, connection: AgentConnection) -> None:
        self._forget(connection.caller, connection.process, connection.end)

    def _forget(self, caller: Caller, process: Process, end: Callable[[], None]) -> None:
        self._per_uid[caller.uid] -= 1
        if not self._per_uid[caller.uid]:
            del self._per_uid[caller.uid]
        self._ends[process].discard(end)
        if not self._ends[process]:
            del self._ends[process]
        self._core.bindings.processes.leave(process)

    def _bury(self, process: Process) -> None:
        """End what *process* had when it dies: a connection may live on in a child, which is somebody else."""
        self._core.bindings.drop(process)
        for end in tuple(self._ends.get(process, ())):
            end()


def refuse(sock: socket.socket, error: AvaultError) -> None:
    """Tell a peer why it is not listened to, if it can be told without waiting, and close."""
    with sock:
        try:
            sock.send(pack_error(0, error), socket.MSG_NOSIGNAL)
        except OSError:
            log.debug("a refused caller was gone already")
