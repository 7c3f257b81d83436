"""Which live process holds which plugin.

``hello`` binds a connection to one plugin of one agent. From then on the process that said it holds the plugin, until
it has died: it may bind again, from any thread and on any number of connections, and every other process is refused
(where the agent has more instances: every one beyond them). So a tool that is started later cannot pose as a plugin
that runs. It does not stop code inside the same process, nor one that first kills it.

Who holds what survives a restart of the daemon (`ledger`): pid, start time, boot id. A holder is recognised only by all
three, so a process that was given a dead holder's pid inherits nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from avault_protocol import AlreadyBoundError, BusyError, StorageFailedError

from .caller import CallerGoneError
from .ledger import Entry, Ledger
from .processes import Process, Processes

_logger = logging.getLogger(__name__)

Plugin = tuple[str, str]
"""(agent, plugin)."""

# Names of plugins are the callers' choice, so the number that an agent holds at once has a bound: an agent of ours has
# some ten, and each costs a descriptor and a line of the file.
MAX_HELD_PER_AGENT = 256
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Bindings:
    """The processes that hold plugins; *path* is where this outlives the daemon.

    `path` is that file. `processes` is the registry whose `dead` the server hands to `drop`.
    *boot* is this boot's id, the kernel's if left out. `warnings` says what was wrong with the file, if anything.
    """

    def __init__(self, path: Path, *, boot: str | None = None) -> None:
        self.processes = Processes()
        self.warnings: list[str] = []
        self.path = path
        self._ledger = Ledger(path, boot or Path(_BOOT_ID).read_text().strip())
        self._held: dict[Plugin, list[Process]] = {}
        self._restore()

    def bind(self, agent: str, plugin: str, process: Process, instances: int = 1) -> None:
        """Let *process* hold *plugin* of *agent*, of which at most *instances* live processes may be holders.

        Binding again changes nothing. `CallerGoneError` if *process* has ended, `AlreadyBoundError` if others hold
        the plugin, `BusyError` if the agent holds `MAX_HELD_PER_AGENT` already, `StorageFailedError` if it cannot be
        written down: then it is not bound, because after a restart another process could take it.

        *process* must have been joined to `processes` by whoever calls.
        """
        # A child may speak on the socket of a dead parent, whose death has been reported already and will not be again.
        if not process.alive():
            raise CallerGoneError
        if process in self._held.get((agent, plugin), ()):
            return
        holders = self._living(agent, plugin)
        if len(holders) >= instances:
            pids = ", ".join(str(holder.pid) for holder in holders)
            raise AlreadyBoundError(f"plugin {agent}/{plugin} is held by live process {pids}")
        if sum(len(held) for (of, _), held in self._held.items() if of == agent) >= MAX_HELD_PER_AGENT:
            raise BusyError(f"agent {agent} holds {MAX_HELD_PER_AGENT} plugins already")
        self._hold(agent, plugin, process)
        try:
            self._ledger.add((agent, plugin, process.pid, process.started), self._entries())
        except OSError as error:
            self._release((agent, plugin), process)
            raise StorageFailedError(
                f"{self.path.name} could not be written: {os.strerror(error.errno or 0).lower()}",
                hint=f"mend {self.path.parent}, then try again",
            ) from error

    def holds(self, agent: str, plugin: str, process: Process) -> bool:
        """Report whether *process* is a holder of *plugin* of *agent* and was not dropped: then to `bind` changes nothing."""
        return process in self._held.get((agent, plugin), ())

    def holders(self, agent: str, plugin: str) -> list[int]:
        """Return the pids of the live processes that hold *plugin* of *agent*."""
        return [process.pid for process in self._living(agent, plugin)]

    def drop(self, process: Process) -> None:
        """Let go of everything that *process*, which has died, held.

        The file is not written: a dead holder in it matches no process.
        """
        for held in [key for key, holders in self._held.items() if process in holders]:
            self._release(held, process)

    def close(self) -> None:
        """Close all descriptors. The file stays, for the daemon that comes next."""
        self._held.clear()
        self._ledger.close()
        self.processes.close()

    def _living(self, agent: str, plugin: str) -> list[Process]:
        # A holder may have died in this very moment, before the server's watcher has had its turn.
        return [process for process in self._held.get((agent, plugin), []) if process.alive()]

    def _hold(self, agent: str, plugin: str, process: Process) -> None:
        self._held.setdefault((agent, plugin), []).append(self.processes.join(process))

    def _release(self, held: Plugin, process: Process) -> None:
        self._held[held].remove(process)
        if not self._held[held]:
            del self._held[held]
        self.processes.leave(process)

    def _entries(self) -> Iterator[Entry]:
        for (agent, plugin), holders in self._held.items():
            for process in holders:
                yield agent, plugin, process.pid, process.started

    def _restore(self) -> None:
        """Take up the holders of the last run that still live.

        What if the file is no file of ours? The choice is between no holders and no daemon. Whoever can write into the
        runtime directory is the daemon's own uid (or root). They could as well delete the file, write a well-formed one
        without holders, or kill the holder: refusing to start takes nothing away from them, and gives them a way to
        keep the daemon down. And nothing is gained in silence: the restart that it takes has locked the vault, so
        nothing is served before the operator unlocks it, with this warning in `avault status`. So: no holders, aloud.
        """
        try:
            entries = self._ledger.read()
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            self.warnings.append(f"{self.path} is not what avault wrote, so nobody holds a plugin: {error}")
            _logger.warning("%s", self.warnings[-1])
            return
        for agent, plugin, pid, started in entries:
            if (process := Process.find(pid, started)) is not None:
                self._hold(agent, plugin, process)
