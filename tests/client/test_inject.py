"""The mapping for plugin registries: declared names only, nothing kept, nothing shown."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest

from avault_client import LockedError, NotGrantedError, UndeclaredSecretError, Vault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.peer import Peer


@pytest.fixture
def secrets(peer: Peer) -> Iterator[Mapping[str, str]]:
    peer.put("UNDECLARED", b"not for this plugin")
    with Vault(plugin="p", secrets=["A", "B", "MISSING"], socket=peer.path) as vault:
        yield vault.inject()


def test_it_is_a_mapping_of_the_declared_names(secrets: Mapping[str, str]) -> None:
    assert isinstance(secrets, Mapping)
    assert secrets["A"] == "the value of A"
    assert list(secrets) == ["A", "B", "MISSING"]
    assert len(secrets) == 3
    assert "A" in secrets
    assert "UNDECLARED" not in secrets


def test_looking_at_names_asks_for_nothing(peer: Peer, secrets: Mapping[str, str]) -> None:
    assert "A" in secrets
    assert list(secrets.keys()) == ["A", "B", "MISSING"]
    assert secrets == secrets  # noqa: PLR0124
    assert secrets != {"A": "the value of A"}
    assert hash(secrets) == hash(secrets)
    assert repr(secrets) == "Injected(['A', 'B', 'MISSING'])"
    assert peer.asked == []


def test_an_undeclared_name_is_a_key_error_and_a_refusal(peer: Peer, secrets: Mapping[str, str]) -> None:
    for kind in (UndeclaredSecretError, KeyError, NotGrantedError):
        with pytest.raises(kind) as caught:
            secrets["UNDECLARED"]
    assert str(caught.value) == "this plugin did not declare secret UNDECLARED"
    assert secrets.get("UNDECLARED") is None
    assert secrets.get("UNDECLARED", "default") == "default"
    assert peer.asked == []


def test_a_declared_name_that_is_not_granted_is_no_default(secrets: Mapping[str, str]) -> None:
    """`get` with a default must not hide that the operator has not decided yet."""
    with pytest.raises(NotGrantedError) as caught:
        secrets.get("MISSING", "default")
    assert not isinstance(caught.value, KeyError)


def test_each_look_up_asks_anew(peer: Peer, secrets: Mapping[str, str]) -> None:
    assert secrets["A"] == "the value of A"
    peer.put("A", b"newer")
    assert secrets["A"] == "newer"
    peer.lock()
    with pytest.raises(LockedError):
        secrets["A"]


def test_bytes_are_no_text(peer: Peer, secrets: Mapping[str, str]) -> None:
    peer.put("B", b"AP8Q", "base64")
    with pytest.raises(TypeError, match="B is bytes"):
        secrets["B"]


def test_a_requested_name_is_declared(peer: Peer) -> None:
    peer.put("C", b"the value of C")
    with Vault(plugin="p", socket=peer.path) as vault:
        secrets = vault.inject()
        assert "C" not in secrets
        vault.request("C")
        assert secrets["C"] == "the value of C"


def test_it_is_read_only_and_neither_pickled_nor_copied(secrets: Mapping[str, str]) -> None:
    assert not hasattr(secrets, "__setitem__")
    assert not hasattr(secrets, "__dict__")
    for refused in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="neither pickled nor copied"):
            refused(secrets)
