"""Processes that a test pulls the strings of: of any uid, they connect, say anything, hand connections on, fork, die,
become other programs.

A `Line` is a connection spoken by hand, on which nothing that comes is a surprise: the outcome of a request is a value's
text, another result's map, an error's code, or `ENDED`. A `Puppet` is a process with a line; this file is its program.
"""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from avault_protocol import (
    AvaultError,
    Extent,
    Notification,
    Response,
    Scanner,
    pack_request,
    unpack_head,
)

Outcome: TypeAlias = "str | dict[str, Any]"
ENDED = "ended"
PATIENCE = 30.0
"""Seconds for an answer; a daemon that says nothing fails the test."""
MAX_ORDER = 128 * 1024


class Line:
    """One connection to a daemon; *error* is the last that came."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.error: AvaultError | None = None
        self._buffer = b""
        self._last = 0

    @classmethod
    def to(cls, path: str) -> Line:
        """Connect; OSError."""
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(path)  # without a timeout: that would fail at once where the daemon's queue is full
            sock.settimeout(PATIENCE)
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    def call(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        value: str | None = None,
        fds: Sequence[int] = (),
    ) -> Outcome:
        """Ask, and return what comes of it."""
        self.ask(method, params, value, fds)
        return self.hear()

    def ask(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        value: str | None = None,
        fds: Sequence[int] = (),
    ) -> None:
        """Send a request; whether it can be sent at all shows when its answer is heard."""
        self._last += 1
        data = None if value is None else value.encode()
        head = pack_request(self._last, method, params or {}, None if data is None else len(data))
        self.send(head + (data or b""), fds)

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send bytes as they are, descriptors with the first of them."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        with suppress(BrokenPipeError, ConnectionResetError):
            while data:
                data = data[self.sock.sendmsg([data], rights) :]
                rights = []

    def hear(self) -> Outcome:
        """Return what the next answer is."""
        try:
            response, value = self._response()
        except (EOFError, ConnectionResetError):
            return ENDED
        self.error = response.error
        if response.error is not None:
            return response.error.code
        return dict(response.result) if value is None else value.decode()

    def _response(self) -> tuple[Response, bytes | None]:
        while True:
            extent = self._extent()
            head = unpack_head(self._buffer[: extent.head_end], extent.has_value)
            value = self._buffer[extent.head_end : extent.end] if extent.has_value else None
            self._buffer = self._buffer[extent.end :]
            if not isinstance(head, Notification):
                assert isinstance(head, Response)
                return head, value

    def _extent(self) -> Extent:
        while True:
            extent = Scanner().scan(self._buffer, 0, len(self._buffer))
            if extent is not None and extent.end <= len(self._buffer):
                return extent
            data = self.sock.recv(65536)
            if not data:
                raise EOFError
            self._buffer += data

    def close(self) -> None:
        self.sock.close()


class Puppet:
    """A process, from outside. Its orders are the public methods of `_Obedience`."""

    def __init__(
        self, control: socket.socket, pid: int, process: subprocess.Popen[bytes] | None = None
    ) -> None:
        self.control = control
        self.pid = pid
        self._process = process

    @classmethod
    def start(
        cls, uid: int, *, groups: Sequence[int] = (), pid: int | None = None, under: Sequence[str] = ()
    ) -> Puppet:
        """Start one as *uid*, of its own group and of *groups*; with this *pid*, which is free, if it is said.

        *under* is a command that runs another in its own process.
        """
        from .pids import started_with

        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(PATIENCE)
        command = [*under, sys.executable, "-P", __file__, str(its.fileno()), *map(str, (uid, *groups))]
        with its:

            def start() -> subprocess.Popen[bytes]:
                return subprocess.Popen(command, pass_fds=[its.fileno()])

            process = start() if pid is None else started_with(pid, start)
        puppet = cls(ours, process.pid, process)
        assert puppet.order("pid")[0] == process.pid
        return puppet

    def order(self, name: str, *arguments: object, fds: Sequence[int] = ()) -> tuple[Any, list[int]]:
        """Give an order; return what it said, and the descriptors that came with it."""
        self._tell(name, *arguments, fds=fds)
        return self._said(name)

    def _tell(self, name: str, *arguments: object, fds: Sequence[int] = ()) -> None:
        socket.send_fds(self.control, [json.dumps([name, *arguments]).encode()], fds)

    def _said(self, name: str) -> tuple[Any, list[int]]:
        data, got, _, _ = socket.recv_fds(self.control, MAX_ORDER, 4)
        assert data, f"the puppet died of {name}"
        return json.loads(data), list(got)

    def connect(self, path: object) -> str:
        """Connect its line; return "connected", or the name of the error."""
        return str(self.order("connect", str(path))[0])

    def call(self, method: str, params: dict[str, Any] | None = None, value: str | None = None) -> Any:
        """Let it ask and hear."""
        return self.order("call", method, params, value)[0]

    def ask(self, method: str, params: dict[str, Any] | None = None, value: str | None = None) -> None:
        """Let it ask."""
        self.order("ask", method, params, value)

    def hear(self) -> Any:
        """Let it hear."""
        return self.order("hear")[0]

    def hello(
        self, plugin: str = "telegram", secrets: Sequence[str] = ("TOKEN",), agent: str | None = None
    ) -> Any:
        """Let it say hello; return the agent that it is, or how it failed."""
        return agent_in(self.call("hello", hello(plugin, secrets, agent)))

    def get(self, name: str = "TOKEN") -> Any:
        """Let it get a secret."""
        return self.call("get_secret", {"name": name})

    def fork(self, before: Callable[[], object] = lambda: None) -> Puppet:
        """Let it fork twice, so that the grandchild is nobody's; return that, which has all that it had.

        *before* is called between the two.
        """
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(PATIENCE)
        with its:
            self._tell("fork", fds=[its.fileno()])
        assert ours.recv(MAX_ORDER) == b"once"
        before()
        ours.send(b"twice")
        self._said("fork")
        pid: int = json.loads(ours.recv(MAX_ORDER))
        return Puppet(ours, pid)

    def become(self, *command: str) -> None:
        """Let it become another program, its line still open; returns when it has."""
        self.order("become", *command)
        assert self.control.recv(1) == b""

    def give(self, other: Puppet) -> None:
        """Let it pass its line to *other*, and keep it too."""
        _, fds = self.order("pass_out")
        other.order("take_in", fds=fds)
        for fd in fds:
            os.close(fd)

    def die(self) -> None:
        """Kill it; when this returns it is dead, and reaped if it was started here. Once: its pid may be another's then."""
        if self.control.fileno() < 0:
            return
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        self.control.settimeout(PATIENCE)
        with suppress(ConnectionResetError):
            assert self.control.recv(1) == b""
        self.control.close()


def hello(
    plugin: str = "telegram", secrets: Sequence[str] = ("TOKEN",), agent: str | None = None
) -> dict[str, Any]:
    """Return the parameters of a hello."""
    return {"protocol": 1, "plugin": plugin, "secrets": list(secrets)} | ({"agent": agent} if agent else {})


def agent_in(outcome: Any) -> Any:
    """Return the agent that the answer to a hello names, or how that failed."""
    return outcome if isinstance(outcome, str) else outcome["agent"]


class _Obedience:
    """What the process does when it is told to."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.line: Line | None = None
        self.crowd: list[Line] = []
        self.fds: list[int] = []

    def serve(self) -> None:
        while True:
            data, self.fds, _, _ = socket.recv_fds(self.control, MAX_ORDER, 4)
            if not data:
                os._exit(0)
            name, *arguments = json.loads(data)
            answer = getattr(self, name)(*arguments)
            out = [self.line.sock.fileno()] if name == "pass_out" and self.line else []
            socket.send_fds(self.control, [json.dumps(answer).encode()], out)
            if name == "become":
                os.execv(arguments[0], arguments)

    def _line(self) -> Line:
        assert self.line is not None
        return self.line

    def pid(self) -> int:
        return os.getpid()

    def connect(self, path: str) -> str:
        import errno

        try:
            self.line = Line.to(path)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "connected"

    def call(self, method: str, params: dict[str, Any] | None, value: str | None) -> Outcome:
        return self._line().call(method, params, value)

    def ask(self, method: str, params: dict[str, Any] | None, value: str | None = None) -> None:
        self._line().ask(method, params, value)

    def hear(self) -> Outcome:
        return self._line().hear()

    def pass_out(self) -> None:
        """Its line goes out with the answer."""

    def take_in(self) -> None:
        self.line = Line(socket.socket(fileno=self.fds[0]))
        self.line.sock.settimeout(PATIENCE)

    def become(self, *command: str) -> None:
        if self.line is not None:
            os.set_inheritable(self.line.sock.fileno(), True)

    def fork(self) -> None:
        control = socket.socket(fileno=self.fds[0])
        control.set_inheritable(False)
        child = os.fork()
        if child == 0:
            os.setsid()
            control.send(b"once")
            control.recv(MAX_ORDER)
            if os.fork():
                os._exit(0)
            self.control.close()
            self.control = control
            control.send(json.dumps(os.getpid()).encode())
            self.serve()
        os.waitpid(child, 0)
        control.close()

    def gather(self, path: str, count: int) -> list[str]:
        """Open *count* connections that say nothing; return the errors met."""
        errors: list[str] = []
        for _ in range(count):
            try:
                self.crowd.append(Line.to(path))
            except OSError as error:
                errors.append(str(error))
        return errors

    def crowd_ask(self, method: str, params: dict[str, Any] | None, value: str | None) -> None:
        """Ask on every connection of the crowd at once."""
        for line in self.crowd:
            line.ask(method, params, value)

    def crowd_hear(self) -> list[Outcome]:
        """Return what comes on each."""
        return [line.hear() for line in self.crowd]

    def disperse(self) -> None:
        for line in self.crowd:
            line.close()
        self.crowd.clear()

    def flood(self, data: str, descriptors: int, times: int) -> None:
        """Send *data* (hex) again and again, each time with so many descriptors of /dev/null."""
        null = os.open("/dev/null", os.O_RDONLY)
        for _ in range(times):
            try:
                self._line().send(bytes.fromhex(data), [null] * descriptors)
            except PermissionError:  # the kernel refuses them there, from Linux 6.16 on
                self._line().send(bytes.fromhex(data))
        os.close(null)


def main() -> None:
    control, uid, *groups = map(int, sys.argv[1:])
    if os.geteuid() == 0:
        os.setgroups(groups)
        os.setgid(uid)
        os.setuid(uid)
    os.set_inheritable(control, False)
    _Obedience(socket.socket(fileno=control)).serve()


if __name__ == "__main__":
    main()
