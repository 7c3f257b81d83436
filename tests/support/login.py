"""A bus of its own for a test, by a real dbus-daemon, and on it a logind that does what the test says."""

from __future__ import annotations

import importlib
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

_jeepney: Any = importlib.import_module("jeepney")
_messages: Any = importlib.import_module("jeepney.bus_messages")
_io: Any = importlib.import_module("jeepney.io.trio")

NAME = "org.freedesktop.login1"
MANAGER = _jeepney.DBusAddress("/org/freedesktop/login1", NAME, f"{NAME}.Manager")
CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="false"/><allow receive_sender="*"/><allow own="*"/><allow user="*"/>
  </policy>
</busconfig>
"""


@contextmanager
def bus(folder: Path) -> Generator[str]:
    """Run a bus; its address is given. It ends with the block, if not before by `end`."""
    program = shutil.which("dbus-daemon")
    if program is None:
        pytest.skip("dbus-daemon is not installed here")
    config, path = folder / "bus.conf", folder / "bus"
    config.write_text(CONFIG.format(path=path))
    process = subprocess.Popen(
        [program, f"--config-file={config}", "--nofork", "--nopidfile", "--print-address"],
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        (folder / "bus.pid").write_text(str(process.pid))
        try:
            yield f"unix:path={path}"
        finally:
            process.kill()


@dataclass
class Logind:
    """What a test sees and does as logind. *delays*: the ends of the pipes whose others were given as a delay."""

    connection: Any
    delays: list[int] = field(default_factory=list[int])
    denies: bool = False
    sessions: dict[str, int] = field(default_factory=dict[str, int])
    of_sessions: str = "org.freedesktop.DBus.Error.UnknownObject"
    taken: trio.Event = field(default_factory=trio.Event)
    told: trio.Event = field(default_factory=trio.Event)

    async def serve(self) -> None:
        """Answer `Inhibit` and `Get`, for as long as there is a bus."""
        with suppress(trio.EndOfChannel, trio.ClosedResourceError, trio.BrokenResourceError):
            await self._serve()

    async def _serve(self) -> None:
        while True:
            message = await self.connection.receive()
            fields = message.header.fields
            if message.header.message_type is not _jeepney.MessageType.method_call:
                continue
            if fields[_jeepney.HeaderFields.member] == "Inhibit":
                await self._inhibit(message)
            else:
                await self._tell_user(message, fields[_jeepney.HeaderFields.path])

    async def _inhibit(self, message: Any) -> None:
        assert message.body == ("sleep", "avault", "wipes open secrets", "delay")
        if self.denies:
            await self.connection.send(_jeepney.new_error(message, "org.freedesktop.DBus.Error.AccessDenied"))
        else:
            ours, theirs = os.pipe()
            await self.connection.send(_jeepney.new_method_return(message, "h", (theirs,)))
            os.close(theirs)
            self.delays.append(ours)
        self.taken.set()

    async def _tell_user(self, message: Any, path: str) -> None:
        if path in self.sessions:
            answer = _jeepney.new_method_return(message, "v", (("(uo)", (self.sessions[path], "/user")),))
        else:
            answer = _jeepney.new_error(message, self.of_sessions)
            self.told.set()
        await self.connection.send(answer)

    async def sleep(self, *, going: bool) -> None:
        await self._signal(MANAGER, "PrepareForSleep", "b", (going,))

    async def lock_session(self, path: str) -> None:
        await self._signal(_jeepney.DBusAddress(path, NAME, f"{NAME}.Session"), "Lock")

    async def hint(self, path: str, *, locked: bool) -> None:
        properties = _jeepney.DBusAddress(path, NAME, "org.freedesktop.DBus.Properties")
        body: Any = (f"{NAME}.Session", {"LockedHint": ("b", locked)}, [])
        await self._signal(properties, "PropertiesChanged", "sa{sv}as", body)

    async def _signal(self, at: Any, member: str, *body: Any) -> None:
        await self.connection.send(_jeepney.new_signal(at, member, *body))

    async def released(self) -> None:
        """Wait until the last delay was given up."""
        await trio.lowlevel.wait_readable(self.delays[-1])
        assert os.read(self.delays.pop(), 1) == b""


@asynccontextmanager
async def logind(address: str) -> AsyncGenerator[Logind]:
    """Be logind on the bus at *address*."""
    connection = await _io.open_dbus_connection(address, enable_fds=True)
    async with connection:
        async with connection.router() as router:
            [reply] = (await router.send_and_get_reply(_messages.message_bus.RequestName(NAME))).body
            assert reply == 1
        there = Logind(connection)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(there.serve)
            yield there
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def logind_impostor(address: str) -> AsyncGenerator[Impostor]:
    """Be somebody on the bus who sends what only logind may, to everybody by name."""
    async with await _io.open_dbus_connection(address) as connection:
        yield Impostor(connection)


class Impostor(Logind):
    """Sends each signal to every connection, as a directed signal: that needs no match rule of theirs."""

    async def _signal(self, at: Any, member: str, *body: Any) -> None:
        async with self.connection.router() as router:
            [names] = (await router.send_and_get_reply(_messages.message_bus.ListNames())).body
            for name in names:
                if name.startswith(":") and name != self.connection.unique_name:
                    message = _jeepney.new_signal(at, member, *body)
                    message.header.fields[_jeepney.HeaderFields.destination] = name
                    await router.send(message)
            await router.send_and_get_reply(_messages.message_bus.GetId())

    async def flood(self, size: int, spared: Logind) -> None:
        """Send everybody but who is *spared* a signal with an array of *size* bytes of small numbers."""
        async with self.connection.router() as router:
            [names] = (await router.send_and_get_reply(_messages.message_bus.ListNames())).body
        for name in names:
            if name.startswith(":") and name not in (
                self.connection.unique_name,
                spared.connection.unique_name,
            ):
                await self.connection._send_data(_long_signal(name, size), None)


def _long_signal(name: str, size: int) -> bytes:
    at = _jeepney.DBusAddress("/a", interface="a.b")
    message = _jeepney.new_signal(at, "Numbers", "an", ([],))
    message.header.fields[_jeepney.HeaderFields.destination] = name
    head: bytes = message.serialise(1000)[:-4]
    return head[:4] + struct.pack("<I", 4 + size) + head[8:] + struct.pack("<I", size) + bytes(size)


class DeceitfulBus:
    """The other end of *connection*, who sends a signal with the number of each call before it is answered."""

    LOGIND, IMPOSTOR = ":1.5", ":1.666"

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.taken = trio.Event()

    async def serve(self) -> None:
        """Answer, for as long as anybody asks."""
        while True:
            call = await self._connection.receive()
            deceit = _jeepney.new_signal(MANAGER, "Deceit", "s", (self.IMPOSTOR,))
            deceit.header.fields[_jeepney.HeaderFields.reply_serial] = call.header.serial
            await self._send(deceit, self.IMPOSTOR)
            await self._answer(call, call.header.fields[_jeepney.HeaderFields.member])

    async def _answer(self, call: Any, member: str) -> None:
        if member == "Inhibit":
            ours, theirs = os.pipe()
            await self._send(_jeepney.new_method_return(call, "h", (theirs,)), self.LOGIND)
            os.close(ours)
            os.close(theirs)
            self.taken.set()
        else:
            await self._send(_jeepney.new_method_return(call, "s", (self.LOGIND,)), "org.freedesktop.DBus")

    async def sleep(self, sender: str) -> None:
        """Say as *sender* that the machine is going to sleep."""
        await self._send(_jeepney.new_signal(MANAGER, "PrepareForSleep", "b", (True,)), sender)

    async def _send(self, message: Any, sender: str) -> None:
        message.header.fields[_jeepney.HeaderFields.sender] = sender
        await self._connection.send(message)


@asynccontextmanager
async def deceitful_bus(sock: socket.socket) -> AsyncGenerator[DeceitfulBus]:
    """Be a bus at *sock*, with a logind on it, and somebody else."""
    sock.setblocking(False)
    connection = _io.DBusConnection(trio.socket.from_stdlib_socket(sock), enable_fds=True)
    there = DeceitfulBus(connection)
    async with connection, trio.open_nursery() as nursery:
        nursery.start_soon(there.serve)
        yield there
        nursery.cancel_scope.cancel()
