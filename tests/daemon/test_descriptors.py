"""Descriptors whose closing takes long hold up nobody but who passed them."""

from __future__ import annotations

import array
import os
import socket
import struct
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from avault_daemon.serving import arrivals
from avault_daemon.serving.descriptors import close_elsewhere, refuse_descriptors
from support.house import House, open_house

LINGER = 2
"""Seconds that closing the trap takes."""


def trap(stack: ExitStack) -> socket.socket:
    """Return a connection with unsent data that its last holder waits for: SO_LINGER, socket(7)."""
    listener = stack.enter_context(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    trap = stack.enter_context(socket.create_connection(listener.getsockname()))
    stack.enter_context(listener.accept()[0])
    trap.setblocking(False)
    try:
        while True:
            trap.send(bytes(65536))
    except BlockingIOError:
        pass
    trap.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER))
    trap.setblocking(True)
    return trap


def send(sock: socket.socket, data: bytes, *passed: socket.socket) -> None:
    """Send *data*, pass sockets with it, and give them up."""
    fds = array.array("i", [one.fileno() for one in passed])
    try:
        sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    finally:
        for one in passed:
            os.close(one.detach())


@pytest.fixture
def stack() -> Generator[ExitStack]:
    with ExitStack() as stack:
        yield stack


async def seconds_to_lock(house: House, path: Path, data: bytes, stack: ExitStack) -> float:
    operator = await house.init()
    stranger = stack.enter_context(socket.socket(socket.AF_UNIX))
    stranger.connect(str(path))
    with suppress(PermissionError):  # where the kernel refuses it, and it is closed here
        send(stranger, data, trap(stack))
    begin = time.monotonic()
    await operator.call("lock")
    return time.monotonic() - begin


def refuses() -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        refuse_descriptors(sock)
        try:
            return sock.getsockopt(socket.SOL_SOCKET, 83) == 0
        except OSError:
            return False


@pytest.mark.skipif(not refuses(), reason="this kernel cannot refuse descriptors (before Linux 6.16)")
async def test_an_agents_socket_takes_none(house: House, stack: ExitStack) -> None:
    assert await seconds_to_lock(house, house.core.places.agent_socket, b"\x94", stack) < LINGER / 2


async def test_control_where_it_takes_them_everybody_waits(
    tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "refuse_descriptors", id)
    async with open_house(tmp_path) as weak:
        took = await seconds_to_lock(weak, weak.core.places.agent_socket, b"\x94", stack)
    assert took > LINGER / 2


@pytest.mark.parametrize("data", [b"\xc1", b"\x94"], ids=["rubbish", "a part"])
async def test_on_the_operators_socket_they_are_closed_elsewhere(
    house: House, stack: ExitStack, data: bytes
) -> None:
    assert await seconds_to_lock(house, house.core.places.operator_socket, data, stack) < LINGER / 2


async def test_files_are_closed_at_once(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    close_elsewhere([fd])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncGenerator[House]:
    async with open_house(tmp_path / "house") as house:
        yield house
