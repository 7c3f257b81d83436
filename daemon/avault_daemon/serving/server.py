"""The way in: who comes is counted, identified, and handed over to a connection; `arrivals` accepts agents.

Whatever one conversation does, it ends alone: no error of it ever reaches the nursery in which the others live.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from avault_protocol import AvaultError, BusyError, UnknownAgentError, pack_error

from ..callers.caller import credentials, identify
from ..faults import log_fault
from ..systemd.credential_server import CredentialServer
from ..systemd.sockets import Sockets
from .agent_connection import AgentConnection
from .agents import MOMENT, Agents
from .arrivals import PAUSE, Arrivals, Newcomer, accept
from .descriptors import part, refuse_descriptors
from .operator_connection import OperatorConnection

if TYPE_CHECKING:
    from ..callers.policy import Caller
    from ..callers.processes import Key, Process
    from ..core import Core

log = logging.getLogger(__name__)


class Server:
    """All connections of one daemon, which come in by *sockets*."""

    def __init__(
        self, core: Core, nursery: trio.Nursery, sockets: Sockets | None = None, *, moment: float = MOMENT
    ) -> None:
        """*moment* is that of `Agents`."""
        self._core = core
        self._nursery = nursery
        self._sockets = sockets or Sockets()
        self._arrivals = Arrivals(nursery, self._greet, self._let_in)
        self.agents = Agents(
            core, nursery, self._arrivals, bury=self._bury, ended=self._agent_ended, moment=moment
        )
        self._per_uid: dict[int, int] = {}
        self._ends: dict[Key, set[Callable[[], None]]] = {}
        """What ends the connections of each process that has one."""
        self._own_sockets: set[str] = set()
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
        refuse_descriptors(credentials)
        self._nursery.start_soon(CredentialServer(self._core).run, credentials)
        self._nursery.start_soon(self._operators, operator)
        self._arrivals.open(agents)
        self._own_agents()
        self._sockets.close_rest()
        self._nursery.start_soon(self._run)

    async def _run(self) -> None:
        try:
            await self.agents.run()
        finally:
            self._arrivals.close()

    def _own_agents(self) -> None:
        """Have a socket for each agent that is described by one, and for no other."""
        places = self._core.places
        wanted = {agent.name for agent in self._core.vault.policy.agents.values() if agent.selectors.socket}
        for name in self._own_sockets - wanted:
            self._own_sockets.remove(name)
            self._arrivals.shut(name)
            self._sockets.remove(f"agents/{name}", places.agent_socket_of(name))
        for name in sorted(wanted - self._own_sockets):
            try:
                places.make_agent_dir(name)
                path = places.agent_socket_of(name)
                listener = self._sockets.open_kept(f"agents/{name}", path, places.modes.agent_socket)
                self._arrivals.open(listener, name)
                self._own_sockets.add(name)
            except (AvaultError, OSError) as error:
                log.error("no socket for agent %s: %s", name, error)

    def _on_event(self, event: str, detail: dict[str, object]) -> None:
        if event == "policy":
            self._own_agents()
        self.agents.tell(event, detail)

    async def _operators(self, listener: socket.socket) -> None:
        """Serve operators. They do not pass by `agents`, where a disk that hangs may hold up everybody."""
        with listener:
            while True:
                await trio.lowlevel.wait_readable(listener)
                try:
                    sock = accept(listener)
                except OSError as error:
                    log.warning("accept: %s; waiting", os.strerror(error.errno or 0))
                    await trio.sleep(PAUSE)
                    continue
                if sock is not None and (newcomer := self._greet(sock)) is not None:
                    self._let_in(newcomer, operator=True)

    def _greet(self, sock: socket.socket, agent: str | None = None) -> Newcomer | None:
        """Count who has come; None if that is one more than its uid may have, which it has been told then."""
        peer = credentials(sock)
        count = self._per_uid.get(peer.uid, 0)
        if count >= self._core.settings.max_connections_per_uid:
            refuse(sock, BusyError(f"uid {peer.uid} has {count} connections already"))
            return None
        self._per_uid[peer.uid] = count + 1
        return Newcomer(sock, peer, agent)

    def _let_in(self, newcomer: Newcomer, *, operator: bool = False) -> None:
        """Identify before listening: by what the kernel says, and only a process that is alive."""
        sock, peer, agent = newcomer
        processes = self._core.bindings.processes
        try:
            if agent is not None and agent not in self._own_sockets:
                raise UnknownAgentError  # its socket went while this one stood in line
            caller, process = identify(sock, peer, agent, known=processes.latest(peer.pid), exe=self._exe)
            process = processes.join(process)
            self._admit(sock, caller, process, operator)
            return
        except AvaultError as error:
            refuse(sock, error)
        except OSError as error:
            log.warning("a caller could not be identified: %s", os.strerror(error.errno or 0))
            refuse(sock, BusyError("the daemon is out of descriptors"))
        except Exception as error:  # noqa: BLE001 - whoever comes next is to be served
            log_fault("a caller could not be let in", error)
            sock.close()
        self._uncount(peer.uid)

    def _admit(self, sock: socket.socket, caller: Caller, process: Process, operator: bool) -> None:
        if operator:
            scope = trio.CancelScope()
            self._nursery.start_soon(self._converse, sock, caller, process, scope)
            end: Callable[[], None] = scope.cancel
        else:
            end = self.agents.admit(sock, caller, process).end
        self._ends.setdefault(process.key, set()).add(end)

    async def _converse(
        self, sock: socket.socket, caller: Caller, process: Process, scope: trio.CancelScope
    ) -> None:
        try:
            with scope:
                await OperatorConnection(self._core, sock, caller, process).run()
        except Exception as error:  # noqa: BLE001 - one conversation ends alone
            log_fault(f"conversation with pid {caller.pid}", error)
        finally:
            part(sock)
            self._forget(caller, process, scope.cancel)

    def _agent_ended(self, connection: AgentConnection) -> None:
        self._forget(connection.caller, connection.process, connection.end)

    def _forget(self, caller: Caller, process: Process, end: Callable[[], None]) -> None:
        self._uncount(caller.uid)
        ends = self._ends[process.key]
        ends.discard(end)
        if not ends:
            del self._ends[process.key]
        self._core.bindings.processes.leave(process)

    def _uncount(self, uid: int) -> None:
        self._per_uid[uid] -= 1
        if not self._per_uid[uid]:
            del self._per_uid[uid]

    def _bury(self, process: Process) -> None:
        """End what *process* had when it dies: a connection may live on in a child, which is somebody else."""
        self._core.bindings.drop(process)
        for end in tuple(self._ends.get(process.key, ())):
            end()


def refuse(sock: socket.socket, error: AvaultError) -> None:
    """Tell a peer why it is not listened to, if it can be told without waiting, and close."""
    with sock:
        try:
            sock.send(pack_error(0, error), socket.MSG_NOSIGNAL)
        except OSError:
            log.debug("a refused caller was gone already")
