"""A session: one connection, proven at most once, and only when the vault is in a state that makes it worth while."""

from __future__ import annotations

from pathlib import Path

import pytest

from avault_client.cli.passphrases import Source
from avault_client.cli.session import Session
from avault_protocol import (
    DaemonUnavailableError,
    DeniedError,
    LockedError,
    NotFoundError,
    ProofRequiredError,
    UninitializedError,
    WrongPassphraseError,
)
from support.operator import Operator

PASSPHRASE = b"correct horse"


@pytest.fixture
def source(tmp_path: Path) -> Source:
    path = tmp_path / "passphrase"
    path.write_bytes(PASSPHRASE)
    return Source(file=str(path))


def session_with(operator: Operator, source: Source) -> Session:
    session = Session(operator.connect)
    session.source = source
    return session


def test_nothing_is_connected_before_it_is_needed(source: Source) -> None:
    operator = Operator()
    session_with(operator, source).close()
    assert (operator.connections, operator.closed) == (0, 0)


def test_one_connection_serves_all_calls_and_is_proven_once(source: Source) -> None:
    operator = Operator(status={"state": "unlocked"})
    session = session_with(operator, source)
    session.call("list")
    session.call("rm", {"name": "A"})
    session.call("rm", {"name": "B"})
    assert operator.methods == ["list", "status", "prove", "rm", "rm"]
    assert operator.connections == 1
    assert operator.calls[2][2] == PASSPHRASE


def test_a_fetch_is_proven_too(source: Source) -> None:
    operator = Operator(status={"state": "unlocked"}, reveal={"name": "A", "value": bytearray(b"v")})
    assert session_with(operator, source).fetch("reveal", {"name": "A"}) == ({"name": "A"}, bytearray(b"v"))
    assert operator.methods == ["status", "prove", "reveal"]


@pytest.mark.parametrize(
    ("method", "state", "error"),
    [
        ("put", "locked", LockedError),
        ("put", "unlocking", LockedError),
        ("put", "uninitialized", UninitializedError),
        ("deny", "uninitialized", UninitializedError),
    ],
)
def test_nobody_is_asked_for_a_passphrase_in_vain(method: str, state: str, error: type[Exception]) -> None:
    operator = Operator(status={"state": state})
    with pytest.raises(error):
        session_with(operator, Source(file="/not/even/read")).require(method)
    assert operator.methods == ["status"]


def test_nobody_is_asked_for_a_passphrase_that_is_not_sent() -> None:
    operator = Operator(status={"state": "unlocked"})
    operator.impostor = True
    with pytest.raises(DeniedError):
        session_with(operator, Source(file="/not/even/read")).call("rm", {"name": "A"})
    assert operator.calls == []


def test_a_locked_vault_still_lets_deny_be_proven(source: Source) -> None:
    operator = Operator(status={"state": "locked"})
    session_with(operator, source).call("deny", {"ids": [1]})
    assert operator.methods == ["status", "prove", "deny"]


def test_a_wrong_passphrase_proves_nothing(source: Source) -> None:
    operator = Operator(status={"state": "unlocked"}, prove=WrongPassphraseError())
    session = session_with(operator, source)
    for _ in range(2):
        with pytest.raises(WrongPassphraseError):
            session.call("rm", {"name": "A"})
    assert operator.methods == ["status", "prove"] * 2


def test_proof_ends_with_the_connection(source: Source) -> None:
    operator = Operator(status={"state": "unlocked"}, rm=DaemonUnavailableError())
    session = session_with(operator, source)
    for _ in range(2):
        with pytest.raises(DaemonUnavailableError):
            session.call("rm", {"name": "A"})
    assert operator.methods == ["status", "prove", "rm"] * 2
    assert (operator.connections, operator.closed) == (2, 2)


def test_a_fetch_that_finds_the_daemon_gone_drops_the_connection(source: Source) -> None:
    operator = Operator(status={"state": "unlocked"}, reveal=DaemonUnavailableError())
    session = session_with(operator, source)
    with pytest.raises(DaemonUnavailableError):
        session.fetch("reveal", {"name": "A"})
    assert not session.proven
    assert operator.closed == 1


def test_an_error_of_a_method_leaves_the_proof(source: Source) -> None:
    operator = Operator(status={"state": "unlocked"}, rm=NotFoundError())
    session = session_with(operator, source)
    for _ in range(2):
        with pytest.raises(NotFoundError):
            session.call("rm", {"name": "A"})
    assert operator.methods == ["status", "prove", "rm", "rm"]


def test_a_proof_that_the_daemon_has_ended_is_asked_for_again(source: Source) -> None:
    """Another connection may have changed the passphrase: the next command proves anew."""
    operator = Operator(status={"state": "unlocked"}, rm=ProofRequiredError())
    session = session_with(operator, source)
    session.proven = True
    with pytest.raises(ProofRequiredError):
        session.call("rm")
    assert not session.proven
