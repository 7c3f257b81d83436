"""What `Vault` promises, to be held against everything that claims to be one."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

import pytest

from avault_client import (
    BadRequestError,
    DaemonUnavailableError,
    Grants,
    LockedError,
    NotGrantedError,
    Secret,
    UndeclaredSecretError,
)

from .background import Background

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager


class AnyVault(Protocol):
    """The surface that a plugin sees."""

    @property
    def plugin(self) -> str: ...
    @property
    def secrets(self) -> tuple[str, ...]: ...
    def get_secret(self, name: str, *, wait: float | None = None) -> Secret: ...
    def request(self, name: str, reason: str = "") -> bool: ...
    def grants(self) -> Grants: ...
    def inject(self) -> Mapping[str, str]: ...
    def close(self) -> None: ...


class Operator(ABC):
    """The other side: a daemon and who runs it. It begins with A, B and HIDDEN, of which A and B are granted."""

    @abstractmethod
    def vault(
        self, *secrets: str, wait: float = 0.0, on_rotated: Callable[[str], object] | None = None
    ) -> AbstractContextManager[AnyVault]:
        """Return a vault for plugin "p" that declares *secrets*."""

    @abstractmethod
    def rotate(self, name: str, value: str) -> None: ...
    @abstractmethod
    def grant(self, name: str) -> None: ...
    @abstractmethod
    def revoke(self, name: str) -> None: ...
    @abstractmethod
    def lock(self) -> None: ...
    @abstractmethod
    def unlock(self) -> None: ...
    @abstractmethod
    def stop(self) -> None: ...
    @abstractmethod
    def start(self) -> None: ...


VALUES = {"A": "the value of A", "B": "the value of B", "HIDDEN": "not for p"}


class VaultContract:
    """Inherit it, and give it an `operator`."""

    def test_declared_and_granted_is_had(self, operator: Operator) -> None:
        with operator.vault("A", "B") as vault:
            assert (vault.plugin, vault.secrets) == ("p", ("A", "B"))
            for name in ("A", "B"):
                with vault.get_secret(name) as secret:
                    assert (secret.name, secret.version) == (name, 1)
                    assert secret.reveal() == VALUES[name]

    def test_what_is_not_granted_and_what_is_not_there_look_the_same(self, operator: Operator) -> None:
        with operator.vault("HIDDEN", "NONE") as vault:
            told: list[tuple[str, str | None]] = []
            for name in ("HIDDEN", "NONE"):
                with pytest.raises(NotGrantedError) as caught:
                    vault.get_secret(name)
                told.append((caught.value.message, caught.value.hint))
        assert told[0] == told[1]

    def test_what_is_granted_but_not_declared_is_refused(self, operator: Operator) -> None:
        with operator.vault("A") as vault, pytest.raises(NotGrantedError):
            vault.get_secret("B")

    def test_a_name_outside_the_grammar_is_a_bad_request(self, operator: Operator) -> None:
        with operator.vault("A") as vault:
            for call in (vault.get_secret, vault.request):
                with pytest.raises(BadRequestError, match="name of a secret"):
                    call("1 A")

    def test_a_revocation_counts_at_once(self, operator: Operator) -> None:
        with operator.vault("A") as vault:
            vault.get_secret("A").close()
            operator.revoke("A")
            with pytest.raises(NotGrantedError):
                vault.get_secret("A")

    def test_locked_is_an_error_and_then_it_is_not(self, operator: Operator) -> None:
        with operator.vault("A") as vault:
            operator.lock()
            for call in (lambda: vault.get_secret("A"), vault.grants, lambda: vault.inject()["A"]):
                with pytest.raises(LockedError):
                    call()
            operator.unlock()
            assert vault.inject()["A"] == "the value of A"

    def test_who_waits_is_served_after_the_unlock(self, operator: Operator) -> None:
        with operator.vault("A", wait=60) as vault:
            operator.lock()
            waiting = Background(lambda: vault.inject()["A"])
            operator.unlock()
            assert waiting.result() == "the value of A"

    def test_a_wait_ends_with_its_time(self, operator: Operator) -> None:
        with operator.vault("A") as vault:
            operator.lock()
            with pytest.raises(LockedError):
                vault.get_secret("A", wait=0.01)

    def test_a_wait_that_is_no_time_is_a_bad_request(self, operator: Operator) -> None:
        with operator.vault("A") as vault, pytest.raises(BadRequestError, match="wait"):
            vault.get_secret("A", wait=-1)

    def test_a_daemon_that_is_away_is_an_error_and_may_come_back(self, operator: Operator) -> None:
        with operator.vault("A") as vault:
            operator.stop()
            for call in (lambda: vault.get_secret("A", wait=0.01), vault.grants, lambda: vault.request("B")):
                with pytest.raises(DaemonUnavailableError):
                    call()
            operator.start()
            assert vault.inject()["A"] == "the value of A"

    def test_a_request_declares(self, operator: Operator) -> None:
        with operator.vault("A") as vault:
            assert vault.request("B") is True
            assert vault.request("HIDDEN", "for tests") is False
            assert vault.secrets == ("A", "B", "HIDDEN")
            grants = vault.grants()
            assert grants.granted == {"A", "B"}
            assert grants.waiting == {"HIDDEN"}
            operator.grant("HIDDEN")
            assert vault.inject()["HIDDEN"] == "not for p"

    def test_injected_secrets_are_those_declared(self, operator: Operator) -> None:
        with operator.vault("A", "B") as vault:
            assert dict(vault.inject()) == {"A": "the value of A", "B": "the value of B"}
            with pytest.raises(UndeclaredSecretError):
                vault.inject()["HIDDEN"]

    def test_a_rotation_is_told_and_served(self, operator: Operator) -> None:
        told = threading.Event()
        names: list[str] = []

        def on_rotated(name: str) -> None:
            names.append(name)
            told.set()

        with operator.vault("A", on_rotated=on_rotated) as vault:
            vault.get_secret("A").close()
            operator.rotate("A", "newer")
            for _ in range(100):  # the thread that listens may have begun later than that
                if told.wait(0.05):
                    break
                operator.rotate("A", "newer")
            with vault.get_secret("A") as secret:
                assert secret.version > 1
                assert secret.reveal() == "newer"
        assert set(names) == {"A"}

    def test_closed_is_closed(self, operator: Operator) -> None:
        with operator.vault("A") as vault:
            vault.close()
            for call in (lambda: vault.get_secret("A"), vault.grants, lambda: vault.request("B")):
                with pytest.raises(ValueError, match="the vault is closed"):
                    call()
