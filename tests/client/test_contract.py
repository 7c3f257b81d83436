"""The contract of `Vault`, held against the real one on a socket, and the fake."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from avault_client import Vault
from avault_client.testing import FakeVault
from support.peer import Peer
from support.vault_contract import VALUES, Operator, VaultContract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class FakeOperator(Operator):
    def vault(
        self, *secrets: str, wait: float = 0.0, on_rotated: Callable[[str], object] | None = None
    ) -> FakeVault:
        self._vault = FakeVault(
            VALUES, plugin="p", secrets=secrets, granted="AB", wait=wait, on_rotated=on_rotated
        )
        return self._vault

    def rotate(self, name: str, value: str) -> None:
        self._vault.rotate(name, value)

    def grant(self, name: str) -> None:
        self._vault.grant(name)

    def revoke(self, name: str) -> None:
        self._vault.revoke(name)

    def lock(self) -> None:
        self._vault.lock()

    def unlock(self) -> None:
        self._vault.unlock()

    def stop(self) -> None:
        self._vault.stop()

    def start(self) -> None:
        self._vault.start()


class SocketOperator(Operator):
    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        for name, value in VALUES.items():
            peer.put(name, value.encode())
        peer.granted.remove("HIDDEN")

    def vault(
        self, *secrets: str, wait: float = 0.0, on_rotated: Callable[[str], object] | None = None
    ) -> Vault:
        return Vault(plugin="p", secrets=secrets, socket=self._peer.path, wait=wait, on_rotated=on_rotated)

    def rotate(self, name: str, value: str) -> None:
        self._peer.put(name, value.encode())
        self._peer.tell("rotated", name=name)

    def grant(self, name: str) -> None:
        self._peer.granted.add(name)

    def revoke(self, name: str) -> None:
        self._peer.granted.remove(name)

    def lock(self) -> None:
        self._peer.lock()

    def unlock(self) -> None:
        self._peer.unlock()

    def stop(self) -> None:
        self._peer.stop()

    def start(self) -> None:
        self._peer.start()


class TestFake(VaultContract):
    @pytest.fixture
    def operator(self) -> Operator:
        return FakeOperator()


class TestSocket(VaultContract):
    @pytest.fixture
    def operator(self, tmp_path: Path) -> Iterator[Operator]:
        with Peer(tmp_path / "agent.sock") as peer:
            yield SocketOperator(peer)


def test_the_fake_tells_what_it_was_asked() -> None:
    vault = FakeVault({"A": "a", "B": b"\x00\xff"}, secrets=["A", "B"], granted=["A", "B"])
    vault.get_secret("A")
    assert vault.get_secret("B").reveal_bytes() == b"\x00\xff"
    vault.request("C", "to send mail")
    assert vault.asked == ["A", "B"]
    assert vault.requests == {"C": "to send mail"}
    assert repr(vault) == "FakeVault(plugin='plugin', secrets=['A', 'B', 'C'])"


def test_the_fake_declares_and_grants_what_it_holds_unless_told_otherwise() -> None:
    vault = FakeVault({"A": "a"})
    assert dict(vault.inject()) == {"A": "a"}
    assert vault.grants().granted == {"A"}


def test_the_fake_tells_no_rotation_of_what_is_not_granted() -> None:
    told: list[str] = []
    vault = FakeVault({"A": "a", "B": "b"}, secrets=["A"], on_rotated=told.append)
    vault.rotate("B", "newer")
    vault.revoke("A")
    vault.rotate("A", "newer")
    vault.grant("A")
    vault.rotate("A", "newest")
    assert told == ["A"]
