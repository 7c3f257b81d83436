"""The contract of `Vault`, held against a real daemon."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from avault_client import Vault
from avault_client._operator import OperatorConnection
from support.daemon import RunningDaemon, running_daemon
from support.vault_contract import VALUES, Operator, VaultContract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PASSPHRASE = b"correct horse battery staple"


class DaemonOperator(Operator):
    """Runs a daemon, and keeps one proven connection to it, so that only a start costs a key derivation."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self._daemon = daemon
        self._connection = self._connect()
        self._connection.call("init", {"log_n": 16}, memoryview(PASSPHRASE))

    def reset(self) -> None:
        """Make it what a test begins with."""
        for known in self._listed("list", "secrets"):
            self._connection.call("rm", {"name": known["name"]})
        for known in self._listed("agents", "agents"):
            self._connection.call("agent_rm", {"agent": known["name"]})
        for name, value in VALUES.items():
            self.rotate(name, value)
        grant = {"agent": "me", "plugin": "p", "secrets": ["A", "B"], "uids": [os.getuid()]}
        self._connection.call("grant", grant)

    def close(self) -> None:
        self._connection.close()

    def vault(
        self, *secrets: str, wait: float = 0.0, on_rotated: Callable[[str], object] | None = None
    ) -> Vault:
        socket = f"{self._daemon.runtime_dir}/agent.sock"
        return Vault(plugin="p", secrets=secrets, socket=socket, wait=wait, on_rotated=on_rotated)

    def rotate(self, name: str, value: str) -> None:
        item = {"name": name, "size": len(value), "encoding": "text"}
        self._connection.call("put", {"items": [item], "replace": True}, memoryview(value.encode()))

    def grant(self, name: str) -> None:
        self._connection.call("grant", {"agent": "me", "plugin": "p", "secrets": [name]})

    def revoke(self, name: str) -> None:
        self._connection.call("revoke", {"agent": "me", "plugin": "p", "secrets": [name]})

    def lock(self) -> None:
        self._connection.call("lock")

    def unlock(self) -> None:
        self._connection.call("unlock", {}, memoryview(PASSPHRASE))

    def stop(self) -> None:
        self._daemon.stop()

    def start(self) -> None:
        self._daemon.start()
        self._connection.close()
        self._connection = self._connect()
        self.unlock()

    def _connect(self) -> OperatorConnection:
        return OperatorConnection.connect(f"{self._daemon.runtime_dir}/operator.sock")

    def _listed(self, method: str, key: str) -> list[dict[str, object]]:
        listed = self._connection.call(method)[key]
        assert isinstance(listed, list)
        return listed  # pyright: ignore[reportUnknownVariableType]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonOperator]:
    with running_daemon(tmp_path_factory.mktemp("d")) as daemon:
        operator = DaemonOperator(daemon)
        yield operator
        operator.close()


class TestDaemon(VaultContract):
    @pytest.fixture
    def operator(self, started: DaemonOperator) -> Operator:
        started.unlock()
        started.reset()
        return started
