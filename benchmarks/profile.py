"""Where the time of one `get_secret` goes in the daemon: its real parts in this process, under the profiler.

The profiler makes Python's calls dearer and leaves C's as they are: the shares are rough, the time without it is not.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import socket
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import trio

from avault_protocol import pack_request
from support.house import House, open_house

from . import turns
from .stage import NAME, PLUGIN, VALUE

REQUESTS = 3_000
STAGES = {
    ("agent_connection.py", "receive"): "receive",
    ("processes.py", "dead"): "ask the kernel who has died",
    ("standing.py", "find"): "find the question among those that were answered",
    ("gate.py", "again"): "see whether the answer holds, note it for the record",
    ("record.py", "flush"): "record: render, hash, write to the kernel",
    ("agent_connection.py", "send"): "pack the answer, send it from the arena",
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
        agents, request = cast("Any", house.server.agents), pack_request(2, "get_secret", {"name": NAME})
        line = socket.socket(fileno=os.dup(peer.sock.fileno()))
        profiler = cProfile.Profile()
        taken = 0.0
        for number in range(2 * REQUESTS):
            if number == REQUESTS:
                profiler.enable()
            line.send(request)
            begin = time.perf_counter()
            await agents._serve_for_a_moment()
            taken += time.perf_counter() - begin if number < REQUESTS else 0
            line.recv(16 * 1024)
        profiler.disable()
        line.close()
    print(f"one get_secret in the daemon, once it is awake: {taken / REQUESTS * 1e6:.0f} us unprofiled")
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
    whole = spent["agents.py", "_serve_for_a_moment"][1]
    for stage, what in STAGES.items():
        if stage in spent:
            print(f"    {spent[stage][1] / whole:6.1%}  {what} ({'.'.join(stage)})")
    print(f"    {sum(calls for calls, _ in spent.values()) / REQUESTS:.0f} calls a request")
