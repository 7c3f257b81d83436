"""A daemon after another in a thread, for whoever says step by step from outside what is done."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import trio

from support.house import House, open_house

T = TypeVar("T")


class Loop:
    """A trio loop in a thread."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._end = trio.Event()
        self._thread = threading.Thread(target=lambda: trio.run(self._run))
        self._thread.start()
        self._ready.wait()

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as self._nursery:
            self._ready.set()
            await self._end.wait()

    def do(self, work: Callable[[], Awaitable[T]]) -> T:
        """Return what *work* returns in the loop."""
        return trio.from_thread.run(work, trio_token=self._token)

    def start(self, folder: Path) -> tuple[House, Callable[[], None]]:
        """Return a daemon in *folder*, and what ends it and waits until it has."""
        started, over = trio.Event(), trio.Event()
        scope, found = trio.CancelScope(), list[House]()

        async def live() -> None:
            try:
                with scope:
                    async with open_house(folder) as house:
                        found.append(house)
                        started.set()
                        await trio.sleep_forever()
            finally:
                over.set()

        async def stop() -> None:
            scope.cancel()
            await over.wait()

        async def start() -> None:
            self._nursery.start_soon(live)
            await started.wait()

        self.do(start)
        return found[0], lambda: self.do(stop)

    def close(self) -> None:
        trio.from_thread.run_sync(self._end.set, trio_token=self._token)
        self._thread.join()
