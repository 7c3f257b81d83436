"""What is there to import, and how little that costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import avault_client
import avault_protocol
from avault_client import AvaultError

HEAVY = {
    "asyncio",
    "contextlib",
    "dataclasses",
    "enum",
    "inspect",
    "json",
    "logging",
    "pathlib",
    "re",
    "selectors",
    "socket",
    "threading",
    "typing",
    "trio",
    "anyio",
}
"""Each costs as much as the whole client, or more; `socket` imports selectors and enum."""


def in_a_fresh_interpreter(code: str) -> str:
    """Return what *code* prints, without site-packages' own start-up files."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_every_error_of_the_protocol_is_at_the_front_door() -> None:
    """A plugin imports from one package."""
    for error in (*avault_protocol.ERRORS.values(), AvaultError):
        assert getattr(avault_client, error.__name__) is error


def test_nothing_is_offered_by_accident() -> None:
    offered = {name for name in vars(avault_client) if not name.startswith("_")}
    own = {"Grants", "Secret", "Vault", "AvaultError", "TYPE_CHECKING"}
    errors = {error.__name__ for error in avault_protocol.ERRORS.values()}
    modules = {"testing", "cli"}  # if something else has imported them
    assert offered - modules == own | errors


@pytest.mark.parametrize("name", ["AsyncVault", "Injected", "UndeclaredSecretError"])
def test_what_not_everybody_needs_is_there_when_it_is_asked_for(name: str) -> None:
    code = f"import avault_client as a; print({name!r} in vars(a)); from avault_client import {name}; print({name}.__name__)"
    assert in_a_fresh_interpreter(code).split() == ["False", name]


def test_what_is_not_there_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = avault_client.Nonsense  # type: ignore[attr-defined]


def test_importing_it_imports_nothing_heavy() -> None:
    before = in_a_fresh_interpreter("import sys; print(*sys.modules)").split()
    after = in_a_fresh_interpreter("import avault_client, sys; print(*sys.modules)").split()
    assert (set(after) - set(before)) & HEAVY == set()


def test_only_msgpack_is_needed_besides() -> None:
    before = in_a_fresh_interpreter("import sys; print(*sys.modules)").split()
    after = in_a_fresh_interpreter("import avault_client, sys; print(*sys.modules)").split()
    names = {name.partition(".")[0] for name in set(after) - set(before)} - set(sys.stdlib_module_names)
    made_by_msgpack = {name for name in names if "cython" in name}
    assert names - made_by_msgpack == {"avault_client", "avault_protocol", "msgpack"}


def test_the_async_client_needs_its_extra_only_when_asked_for() -> None:
    code = "import avault_client, sys; sys.modules['anyio'] = None; avault_client.Vault; avault_client.AsyncVault"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert outcome.returncode == 1
    assert "anyio" in outcome.stderr
