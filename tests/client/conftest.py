"""What the client's tests share: a daemon's stand-in that runs, and an environment that says nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.peer import Peer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AVAULT_SOCKET", "AVAULT_RUNTIME_DIR", "AVAULT_AGENT", "AVAULT_WAIT", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    """Run a peer that has A, "the value of A", and B, granted."""
    with Peer(tmp_path / "agent.sock") as running:
        running.put("A", b"the value of A")
        running.put("B", b"the value of B")
        yield running
