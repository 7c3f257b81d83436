"""A worker thread that a test holds at some call."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import trio


class Gate:
    """Holds the thread that calls *owner*.*name*, before or *after* the call's work, until `go` is set."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, *, after: bool = False
    ) -> None:
        self.reached = trio.Event()
        self.go = threading.Event()
        token = trio.lowlevel.current_trio_token()
        original: Callable[..., object] = getattr(owner, name)

        def held(*args: object, **kwargs: object) -> object:
            made = original(*args, **kwargs) if after else None
            token.run_sync_soon(self.reached.set)
            assert self.go.wait(60)
            return made if after else original(*args, **kwargs)

        monkeypatch.setattr(owner, name, held)
