"""A stand-in for the daemon on a real socket: it speaks the true protocol, and misbehaves where a test asks it to."""

from __future__ import annotations

import os
import socket
import struct
import threading
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from avault_protocol import (
    METHODS,
    AvaultError,
    BadRequestError,
    LockedError,
    NotGrantedError,
    Request,
    Scanner,
    limits,
    pack_error,
    pack_notification,
    pack_response,
    unpack_head,
)

from .background import WITHIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Any, Self

    Handler = Callable[["Line", Request], None]


def params_of(request: Request) -> dict[str, Any]:
    """Return the parameters of *request*, which are as the vocabulary has them."""
    return METHODS[request.method].check(request.params)


class Line:
    """One connection, as the peer has it."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        peer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self.pid: int = struct.unpack("@iII", peer)[0]
        self.declared: set[str] = set()
        self.value = b""
        self.fds: list[int] = []
        self.greeted = False  # its hello has been answered, so it may be told things
        self._sending = threading.Lock()

    def requests(self) -> Iterator[Request]:
        """Yield what arrives; `value` and `fds` belong to the request yielded last."""
        scanner, buffer = Scanner(), bytearray()
        while True:
            while (extent := scanner.scan(buffer, 0, len(buffer))) is None:
                self._receive(buffer)
            while len(buffer) < extent.end:
                self._receive(buffer)
            message = unpack_head(bytes(buffer[: extent.head_end]), extent.has_value)
            assert isinstance(message, Request)
            self.value = bytes(buffer[extent.head_end : extent.end])
            del buffer[: extent.end]
            yield message

    def _receive(self, buffer: bytearray) -> None:
        data, fds, _, _ = socket.recv_fds(self.socket, 65536, 4)
        self.fds += fds
        if not data:
            raise EOFError
        buffer += data

    def send(self, *data: bytes) -> None:
        """Send bytes as they are, in one piece: the test's thread sends notifications in between."""
        with self._sending:
            self.socket.sendall(b"".join(data))

    def answer(self, request: Request, result: dict[str, object], value: bytes | None = None) -> None:
        """Answer *request*."""
        self.send(pack_response(request.id, result, None if value is None else len(value)), value or b"")

    def hang_up(self) -> None:
        """End the connection, as a daemon that dies does."""
        raise EOFError


class Peer:
    """The daemon's agents' socket: one plugin's values and grants, a state, and what was asked.

    *handlers* replace the answer to a method; `serve` is the answer that they replace.
    """

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.values: dict[str, list[bytes]] = {}
        self.encodings: dict[str, str] = {}
        self.granted: set[str] = set()
        self.handlers: dict[str, Handler] = {}
        self.asked: list[tuple[int, str, dict[str, object]]] = []  # (number of the line, method, parameters)
        self.lines: list[Line] = []
        self.locked = False
        self.refusal: AvaultError | None = None  # said on every new connection, which is then closed
        self._own: dict[str, Handler] = {
            "hello": self._hello,
            "get_secret": self._get_secret,
            "request": self._request,
            "grants": self._grants,
        }
        self._changed = threading.Condition()
        self._running = False
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None

    # --- running ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(64)
        self._running = True
        self._spawn(self._accept, self._listener)

    def stop(self) -> None:
        """End every connection, as the end of a daemon does."""
        assert self._listener is not None
        with self._changed:
            self._running = False
            self._changed.notify_all()
        self._listener.shutdown(socket.SHUT_RDWR)
        for line in self.lines:
            _shut(line.socket)
        for thread in self._threads:
            thread.join(WITHIN)
            assert not thread.is_alive()
        self._listener.close()
        self._threads.clear()
        self.lines.clear()
        os.unlink(self.path)

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running:
            self.stop()

    # --- the operator's side ------------------------------------------------------------------------------------

    def put(self, name: str, value: bytes, encoding: str = "text") -> None:
        """Store a value, and grant it."""
        with self._changed:
            self.values.setdefault(name, []).append(value)
            self.encodings[name] = encoding
            self.granted.add(name)

    def lock(self) -> None:
        """Lock."""
        self._set_locked(True)

    def unlock(self) -> None:
        """Unlock, for who waits too."""
        self._set_locked(False)

    def tell(self, method: str, **params: object) -> None:
        """Send a notification on every connection."""
        for line in tuple(self.lines):
            with suppress(OSError):  # that one has hung up
                line.send(pack_notification(method, params))

    # --- what a test waits for ----------------------------------------------------------------------------------

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Wait until something that was asked makes *condition* true."""
        with self._changed:
            assert self._changed.wait_for(condition, WITHIN)

    def methods(self) -> list[str]:
        """Return what was asked, in order."""
        return [method for _, method, _ in self.asked]

    def greeted(self) -> int:
        """Return how many connections have had the answer to their hello, since the last start."""
        return sum(line.greeted for line in tuple(self.lines))

    def count(self, method: str) -> int:
        """Return how often *method* was asked."""
        return self.methods().count(method)

    # ------------------------------------------------------------------------------------------------------------

    def _set_locked(self, locked: bool) -> None:
        with self._changed:
            self.locked = locked
            self._changed.notify_all()
        self.tell("locked" if locked else "unlocked")

    def _spawn(self, target: Callable[[socket.socket], None], sock: socket.socket) -> None:
        thread = threading.Thread(target=target, args=(sock,))
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            self._spawn(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            line = Line(sock)
            with self._changed:
                self.lines.append(line)
                number = len(self.lines)
            if not self._running:
                return
            if self.refusal is not None:
                line.send(pack_error(0, self.refusal))
                return
            try:
                for request in line.requests():
                    self._answer(number, line, request)
            except (EOFError, OSError):
                _shut(sock)

    def _note(self, number: int, request: Request) -> None:
        with self._changed:
            self.asked.append((number, request.method, params_of(request)))
            self._changed.notify_all()

    def serve(self, line: Line, request: Request) -> None:
        """Answer as if there were no handlers."""
        self._own[request.method](line, request)

    def _answer(self, number: int, line: Line, request: Request) -> None:
        try:
            self._note(number, request)
            self.handlers.get(request.method, self.serve)(line, request)
        except AvaultError as error:
            line.send(pack_error(request.id, error))

    def _hello(self, line: Line, request: Request) -> None:
        params = params_of(request)
        if params["protocol"] != limits.PROTOCOL_VERSION:
            raise BadRequestError("hello: another protocol")
        line.declared = set(params["secrets"])
        line.answer(request, {"protocol": 1, "agent": "a", "plugin": params["plugin"]})
        with self._changed:
            line.greeted = True
            self._changed.notify_all()

    def _get_secret(self, line: Line, request: Request) -> None:
        params = params_of(request)
        name, end = params["name"], monotonic() + params.get("wait", 0)
        with self._changed:
            while self.locked and self._running:
                if not self._changed.wait(max(end - monotonic(), 0)):
                    raise LockedError
        if name not in self.granted & line.declared:
            raise NotGrantedError
        known: dict[str, object] = {"version": len(self.values[name]), "encoding": self.encodings[name]}
        line.answer(request, {"name": name, **known}, self.values[name][-1])

    def _request(self, line: Line, request: Request) -> None:
        params = params_of(request)
        line.declared.add(params["name"])
        line.answer(request, {"granted": params["name"] in self.granted, "id": 1})

    def _grants(self, line: Line, request: Request) -> None:
        if self.locked:
            raise LockedError
        known = sorted(line.declared & self.granted), sorted(line.declared - self.granted)
        line.answer(request, {"granted": known[0], "waiting": known[1]})


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
