"""Where the time of one `get_secret` goes in the daemon: its real parts in this process, under the profiler.

The profiler makes Python's calls dearer and leaves C's as they are: the shares are rough, the time without it is not.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, cast

import trio

from avault_protocol import pack_request
from support.house import House, open_house

from . import turns
from .stage import NAME, PLUGIN, VALUE

REQUESTS = 3_000
STAGES = {
    ("connection.py", "_take"): "all, from bytes received to answer sent",
    ("_scan.py", "scan"): "of it finding where it ends",
    ("_messages.py", "unpack_head"): "decode the request",
    ("conversation.py", "parse"): "find the method, check its parameters",
    ("gate.py", "allows"): "decide",
    ("catalog.py", "open"): "find and decrypt the value",
    ("nip44.py", "decrypt"): "of it NIP-44",
    ("record.py", "append"): "note for the record",
    ("record.py", "flush"): "record: render, hash, write to the kernel",
    ("connection.py", "_queue"): "pack the answer",
    ("outbox.py", "pump"): "send, wipe the arena's slot",
}


def profile() -> None:
    """Print the share of each stage."""
    turns.go_ahead()
    turns.pin(1)
    with tempfile.TemporaryDirectory(prefix="avault-") as folder:
        trio.run(_profile, Path(folder))


async def _profile(folder: Path) -> None:
    async with open_house(folder) as house:
        await _prepare(house)
        peer = await house.agent(PLUGIN, (NAME,))
        [connection] = house.server.agents
        one = partial(cast("Any", connection)._take, pack_request(2, "get_secret", {"name": NAME}))
        profiler = cProfile.Profile()
        taken = 0.0
        for number in range(2 * REQUESTS):
            if number == REQUESTS:
                profiler.enable()
            begin = time.perf_counter()
            await one()
            taken += time.perf_counter() - begin if number < REQUESTS else 0
            await peer.sock.recv(16 * 1024)
        profiler.disable()
    print(f"one get_secret in the daemon: {taken / REQUESTS * 1e6:.0f} us unprofiled")
    _report(profiler)


async def _prepare(house: House) -> None:
    desk = await house.init()
    await house.put(desk, **{NAME: VALUE.encode()})
    grant = {"agent": "cobot", "plugin": PLUGIN, "secrets": [NAME], "uids": [os.getuid()]}
    await desk.call("grant", grant)


def _report(profiler: cProfile.Profile) -> None:
    stats = cast("Any", pstats.Stats(profiler)).stats
    spent = {
        (Path(file).name, name): (calls, total) for (file, _, name), (_, calls, _, total, _) in stats.items()
    }
    whole = spent["connection.py", "_take"][1]
    for stage, what in STAGES.items():
        if stage in spent:
            print(f"    {spent[stage][1] / whole:6.1%}  {what} ({'.'.join(stage)})")
    print(f"    {sum(calls for calls, _ in spent.values()) / REQUESTS:.0f} calls a request")
