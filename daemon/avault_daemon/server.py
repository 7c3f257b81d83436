"""The sockets: listen, accept, identify, and hand over to a connection. Nothing else touches a listening socket.

Whatever one conversation does, it ends alone: no error of it ever reaches the nursery in which the others live.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from avault_protocol import AvaultError, BadRequestError, BusyError, pack_error

from .caller import identify
from .connection import AgentConnection, OperatorConnection
from .faults import log_fault

if TYPE_CHECKING:
    from .core import Core
    from .policy import Caller
    from .processes import Process

log = logging.getLogger(__name__)

BACKLOG = 512
# accept() fails with these when the machine, not the caller, is at its limit: wait a moment, then go on.
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}


def listen(path: Path, mode: int, group: int | None = None) -> socket.socket:
    """Return a socket listening on *path* with *mode*.

    `BadRequestError`: nobody can, for instance because the path is too long. Whatever lies at *path* is removed: the
    directory has been claimed (`Places.claim`), so no live daemon listens there.
    The socket gets its mode before it listens, so nobody connects while it is wider than asked for.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        path.unlink(missing_ok=True)
        sock.bind(str(path))
        path.chmod(mode)
        if group is not None:
            os.chown(path, -1, group)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise BadRequestError(
            f"{path}: {(error.strerror or str(error)).lower()}", hint="choose another --runtime-dir"
        ) from error
    except BaseException:
        sock.close()
        raise
    return sock


class Server:
    """All listening sockets and connections of one daemon."""

    def __init__(self, core: Core, nursery: trio.Nursery) -> None:
        self._core = core
        self._nursery = nursery
        self.agents: set[AgentConnection] = set()
        self._per_uid: Counter[int] = Counter()
        self._scopes: dict[Process, set[trio.CancelScope]] = {}
        self._own_sockets: dict[str, trio.CancelScope] = {}
        core.vault.listeners.append(self._on_event)

    def start(self) -> None:
        """Listen on every socket; raises what `listen` raises."""
        places = self._core.places
        self._listen(places.operator_socket, places.modes.operator_socket, operator=True)
        self._listen(places.agent_socket, places.modes.agent_socket)
        self._own_agents()
        self._nursery.start_soon(self._watch)

    def _listen(
        self, path: Path, mode: int, *, operator: bool = False, agent: str | None = None
    ) -> trio.CancelScope:
        group = self._core.places.operator_group if operator else None
        scope = trio.CancelScope()
        self._nursery.start_soon(self._serve, listen(path, mode, group), operator, agent, scope)
        return scope

    def _own_agents(self) -> None:
        """Have a socket for each agent that is described by one, and for no other."""
        places = self._core.places
        wanted = {agent.name for agent in self._core.vault.policy.agents.values() if agent.selectors.socket}
        for name in self._own_sockets.keys() - wanted:
            self._own_sockets.pop(name).cancel()
            places.agent_socket_of(name).unlink(missing_ok=True)
        for name in sorted(wanted - self._own_sockets.keys()):
            try:
                places.make_agent_dir(name)
                self._own_sockets[name] = self._listen(
                    places.agent_socket_of(name), places.modes.agent_socket, agent=name
                )
            except (AvaultError, OSError) as error:
                log.error("no socket for agent %s: %s", name, error, extra={"avault_agent": name})

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
