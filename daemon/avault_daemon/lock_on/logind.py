"""logind, on the system bus: when the machine is about to sleep, and when a screen is locked.

The bus is connected to before confinement, since a confined process connects to nothing any more; the rest is said by
trio. So a bus that goes away is gone until a restart.

Anybody on the system bus may send a signal to anybody, so one counts only if it comes from who owns logind's name. A
*delay* keeps the machine from sleeping until the vault is wiped, or for as long as logind lets it (InhibitDelayMaxSec=,
5 s).

Sources: org.freedesktop.login1(5), D-Bus Specification (authentication, message bus).
"""

from __future__ import annotations

import grp
import importlib
import os
import pwd
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from ..callers.policy import Service
from ..places import OPERATORS
from . import LockOn
from .sieve import Sieve

# They say nothing of their types.
_jeepney: Any = importlib.import_module("jeepney")
_auth: Any = importlib.import_module("jeepney.auth")
_bus: Any = importlib.import_module("jeepney.bus")
_io: Any = importlib.import_module("jeepney.io.trio")
_messages: Any = importlib.import_module("jeepney.bus_messages")

SYSTEM_BUS = "unix:path=/run/dbus/system_bus_socket"
NAME = "org.freedesktop.login1"
MANAGER = _jeepney.DBusAddress("/org/freedesktop/login1", NAME, f"{NAME}.Manager")
SESSION = f"{NAME}.Session"
PROPERTIES = "org.freedesktop.DBus.Properties"
NO_SESSION = "org.freedesktop.DBus.Error.UnknownObject"
"""What logind answers of a session that is over."""
PATIENCE = 5.0
"""Seconds for the bus to let us in."""

Lock = Callable[[str], None]
Concerns = Callable[[int], Awaitable[bool]]


class BusGoneError(Exception):
    """The bus, or logind on it, does not do what it is for; the text says what."""


def connect(environ: Mapping[str, str], patience: float = PATIENCE) -> socket.socket:
    """Return a connection to the system bus, authenticated, with nothing said on it yet. Blocks.

    `BusGoneError`: there is none, or it does not let us in.
    """
    try:
        path = _bus.get_bus(environ.get("DBUS_SYSTEM_BUS_ADDRESS", SYSTEM_BUS))
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(patience)
            sock.connect(path)
            _authenticate(sock)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
    except (OSError, ValueError, RuntimeError) as error:  # the last two are jeepney's
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BusGoneError(f"no system bus: {str(reason or error).lower()}") from None
    return sock


def _authenticate(sock: socket.socket) -> None:
    sock.sendall(b"\0")
    talk = _auth.Authenticator(enable_fds=True, inc_null_byte=False)
    for line in talk:
        sock.sendall(line)
        talk.feed(sock.recv(4096))
    sock.sendall(_auth.BEGIN)


def concerns(service: Service) -> Concerns:
    """Return whose screens count: for a user's service, that user's; for the system's, those of its operators.

    Not everybody's there: or who has no say in the vault could lock it.
    """
    return _is_operator if service == "system" else _is_own


async def _is_own(uid: int) -> bool:
    return uid == os.getuid()


async def _is_operator(uid: int) -> bool:
    return await trio.to_thread.run_sync(_may_operate, uid)  # a directory may be asked over the network


def _may_operate(uid: int) -> bool:
    try:
        user = pwd.getpwuid(uid)
        return uid == 0 or grp.getgrnam(OPERATORS).gr_gid in os.getgrouplist(user.pw_name, user.pw_gid)
    except KeyError:
        return False


class Logind:
    """What is heard on *sock*, from `connect`; *wanted* says of what, *concerns* of whose screens."""

    def __init__(self, sock: socket.socket, wanted: LockOn, concerns: Concerns) -> None:
        self._wanted = wanted
        self._concerns = concerns
        self._connection = _io.DBusConnection(trio.socket.from_stdlib_socket(sock), enable_fds=True)
        self._connection.parser = Sieve()
        self._heard: deque[Any] = deque()
        self._owner = ""
        self._delay = -1
        self.problem: str | None = None
        """What keeps it from being heard, or from being heard in time; None if nothing does."""

    async def run(self, lock: Lock) -> None:
        """Call *lock* with what has happened, each time, until the bus is gone: `BusGoneError`."""
        try:
            await self._begin()
            while True:
                message = self._heard.popleft() if self._heard else await self._connection.receive()
                await self._hear(message, lock)
        except (trio.EndOfChannel, trio.BrokenResourceError, ValueError) as error:
            raise BusGoneError(f"the system bus is gone: {str(error).lower()}") from error
        finally:
            self._release()
            await self._connection.aclose()

    async def _begin(self) -> None:
        rule = _jeepney.MatchRule
        await self._call(_messages.message_bus.Hello())
        rules = [rule(type="signal", sender=NAME, interface=MANAGER.interface, member="PrepareForSleep")]
        if self._wanted.screen_lock:
            rules.append(rule(type="signal", sender=NAME, interface=SESSION, member="Lock"))
            changed = rule(type="signal", sender=NAME, interface=PROPERTIES, member="PropertiesChanged")
            changed.add_arg_condition(0, SESSION)
            rules.append(changed)
        owner = rule(type="signal", sender="org.freedesktop.DBus", member="NameOwnerChanged")
        owner.add_arg_condition(0, NAME)
        for one in (owner, *rules):
            await self._call(_messages.message_bus.AddMatch(one))
        try:
            [name] = await self._call(_messages.message_bus.GetNameOwner(NAME))
        except BusGoneError:
            name = ""
        await self._follow(name)

    async def _follow(self, owner: str) -> None:
        """Take *owner* for logind; "": nobody is, for the time being."""
        self._owner = owner
        self._release()
        if owner:
            await self._take_delay()
        else:
            self.problem = "logind does not run: nobody tells of sleep and of locked screens"

    async def _take_delay(self) -> None:
        self.problem = None
        if not self._wanted.suspend or self._delay >= 0:
            return
        words = ("sleep", "avault", "wipes open secrets", "delay")
        try:
            [descriptor] = await self._call(_jeepney.new_method_call(MANAGER, "Inhibit", "ssss", words))
        except BusGoneError as error:
            self.problem = f"the machine may sleep before the vault is wiped: {error}"
        else:
            self._delay = descriptor.to_raw_fd()

    def _release(self) -> None:
        """Let the machine sleep."""
        if self._delay >= 0:
            os.close(self._delay)
        self._delay = -1

    async def _call(self, message: Any) -> Any:
        """Return the body of the answer to *message*; what is heard meanwhile waits. `BusGoneError`: an error came."""
        serial = next(self._connection.outgoing_serial)
        await self._connection.send(message, serial=serial)
        while True:
            heard = await self._connection.receive()
            header = heard.header
            if header.message_type is _jeepney.MessageType.signal:  # even one that calls itself an answer
                self._heard.append(heard)
            elif header.fields.get(_jeepney.HeaderFields.reply_serial) != serial:
                continue
            elif header.message_type is _jeepney.MessageType.error:
                raise BusGoneError(str(header.fields[_jeepney.HeaderFields.error_name]))
            else:
                return heard.body

    async def _hear(self, message: Any, lock: Lock) -> None:
        if message.header.message_type is not _jeepney.MessageType.signal:
            return
        fields, body = message.header.fields, message.body
        sender, member = fields.get(_jeepney.HeaderFields.sender), fields[_jeepney.HeaderFields.member]
        path = fields[_jeepney.HeaderFields.path]
        if sender == "org.freedesktop.DBus" and member == "NameOwnerChanged" and body[0] == NAME:
            await self._follow(body[2])
        elif sender != self._owner or not sender:
            return
        elif member == "PrepareForSleep":
            await self._sleep(lock, going=body[0])
        elif (member == "Lock" or _shows_lock(member, body)) and await self._is_ours(path):
            lock("screen-lock")

    async def _sleep(self, lock: Lock, *, going: bool) -> None:
        if not going:
            await self._take_delay()
        elif self._wanted.suspend:
            lock("suspend")
            self._release()

    async def _is_ours(self, path: str) -> bool:
        """Whether the session at *path* is one that concerns us.

        One that is over does not: there is no screen any more, and anybody may lock a session of theirs and end it.
        """
        if not self._wanted.screen_lock:
            return False
        session = _jeepney.DBusAddress(path, NAME, PROPERTIES)
        try:
            [(_, (uid, _))] = await self._call(
                _jeepney.new_method_call(session, "Get", "ss", (SESSION, "User"))
            )
        except BusGoneError as error:
            return str(error) != NO_SESSION
        return await self._concerns(uid)


def _shows_lock(member: str, body: Any) -> bool:
    """Report whether a session's properties say that it is locked now: some desktops tell it in no other way."""
    return member == "PropertiesChanged" and body[0] == SESSION and body[1].get("LockedHint") == ("b", True)
