"""No value, passphrase or key in anything that the daemon says, logs, writes or holds outside the arena.

For every method of both sockets, with everything logged: as it should be called, with a value in every place where none
belongs, with malformed bytes around it, and with an exception that tells the values, raised by its own handler. What is
looked for, and how, is in `support.needles`; each place where it is looked for has its positive control here.
"""

from __future__ import annotations

import base64
import errno
import gc
import logging
import os
import socket
import sys
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import trio

from avault_daemon.callers.policy import Caller
from avault_daemon.keyring.oskeyring import Keyring
from avault_daemon.memory.arena import Arena
from avault_daemon.operator_api.conversation import HANDLERS
from avault_daemon.operator_api.turn import Turn
from avault_daemon.serving.agent_api import AgentConversation
from avault_daemon.serving.conversation import Answer
from avault_daemon.serving.outbox import Outbox
from avault_daemon.settings import Settings
from avault_protocol import (
    AGENT,
    METHODS,
    AvaultError,
    BadRequestError,
    InternalError,
    Method,
    TooLargeError,
    check_secret_name,
    limits,
    pack_request,
)
from support import wire
from support.house import LOG_N, House, Peer, open_house
from support.keyrings import file_keyring
from support.needles import Ear, Needles, forms, living, lower, odd, token
from support.relays import fault_relay
from support.telephone import Telephone, network_of

KEYS = Path(__file__).parents[1] / "support" / "vault_keys.py"
SLOT = {"log_n": LOG_N}


class Call(NamedTuple):
    """A well-formed call; *value* and *file* are labels of what goes with it."""

    params: dict[str, Any]
    value: str | None = None
    file: str | None = None


CALLS: dict[str, Call] = {
    "hello": Call({"protocol": 1, "agent": "cobot", "plugin": "telegram", "secrets": ["TOKEN"]}),
    "get_secret": Call({"name": "TOKEN"}),
    "request": Call({"name": "LATER", "reason": "why not"}),
    "grants": Call({}),
    "status": Call({}),
    "lock": Call({}),
    "list": Call({}),
    "agents": Call({}),
    "requests": Call({}),
    "history": Call({"name": "TOKEN"}),
    "slots": Call({}),
    "audit": Call({"limit": 10}),
    "audit_verify": Call({}),
    "init": Call(SLOT, "passphrase"),
    "unlock": Call({}, "passphrase"),
    "prove": Call({}, "passphrase"),
    "phone_unlock": Call({"timeout": 9}),
    "phone_prove": Call({"action": "reveal", "timeout": 9}),
    "phone_pair": Call({"timeout": 9}),
    "phone_confirm": Call({"timeout": 9}),
    "keyring_unlock": Call({}),
    "keyring_add": Call({}),
    "credential_add": Call({}),
    "put": Call({"items": [{"name": "NEW", "size": 0, "encoding": "text"}]}, "new value"),
    "reveal": Call({"name": "TOKEN"}),
    "rm": Call({"name": "TOKEN"}),
    "restore": Call({"name": "TOKEN", "version": 1}),
    "agent_set": Call({"agent": "cobot", "uids": [7]}),
    "agent_rm": Call({"agent": "cobot"}),
    "grant": Call({"agent": "cobot", "plugin": "telegram", "secrets": ["TOKEN"]}),
    "revoke": Call({"agent": "cobot"}),
    "approve": Call({"all": "cobot"}),
    "deny": Call({"ids": [1]}),
    "slot_add": Call({"type": "passphrase", **SLOT}, "new passphrase"),
    "slot_remove": Call({"slot": "passphrase-2"}),
    "change_passphrase": Call(SLOT, "new passphrase"),
    "rekey": Call(SLOT, "new passphrase"),
    "export": Call(SLOT, "copy's passphrase", "other copy"),
    "restore_vault": Call({}, "copy's passphrase", "copy"),
}
NAMES = {"name", "secrets", "secret", "agent", "plugin", "all", "slot", "after"}
"""Parameters that are names: what is well-formed there is a name, whatever its sender took it for."""
EXISTING = ("history", "reveal", "rm", "restore", "grant", "revoke")
"""Methods of the operator that take the name of a secret that is there: another was perhaps meant to be a value."""
FREE = [m.name for m in METHODS.values() if m.socket != AGENT and not (m.proof or m.takes_value)]

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)


class Tap:
    """A socket of which everything is kept that came out of it."""

    def __init__(self, sock: trio.socket.SocketType, heard: bytearray) -> None:
        self._sock, self.heard = sock, heard

    async def recv(self, size: int) -> bytes:
        data = await self._sock.recv(size)
        self.heard += data
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class Lab:
    """A daemon in this process, what was planted in it, and all that can be seen of it from outside."""

    def __init__(
        self,
        house: House,
        folder: Path,
        ear: Ear,
        caught: list[warnings.WarningMessage],
        phone: Telephone,
    ) -> None:
        self.house, self.folder, self.ear, self.caught, self.phone = house, folder, ear, caught, phone
        self.needles = Needles()
        self.streams: list[bytearray] = []
        self.caller = Caller(1, os.getuid(), 0, None, None, None, 1)
        for label in (
            "passphrase",
            "new passphrase",
            "copy's passphrase",
            "first value",
            "value",
            "new value",
        ):
            self.needles.plant(label)

    async def connect(self, path: Path) -> Peer:
        peer = await self.house.connect(path)
        self.streams.append(bytearray())
        peer.sock = cast("Any", Tap(peer.sock, self.streams[-1]))
        return peer

    async def operator(self, *, proven: bool = True) -> Peer:
        self.house.core.throttle.__init__()  # type: ignore[misc]
        peer = await self.connect(self.house.core.places.operator_socket)
        if proven:
            await peer.call("prove", {}, self.needles.values["passphrase"])
        return peer

    async def agent(self) -> Peer:
        """Connect as telegram, or as nobody yet where there is no vault."""
        peer = await self.connect(self.house.core.places.agent_socket)
        await peer.call("hello", {**CALLS["hello"].params, "secrets": ["TOKEN", "WANTED"]})
        return peer

    async def call(self, peer: Peer, method: str, call: Call) -> Any:
        """Make a well-formed call; of what came, forget the value, where it belongs."""
        value = self.needles.values[call.value] if call.value else None
        params = call.params
        if "items" in params and value is not None:
            params = {"items": [{**params["items"][0], "size": len(value)}]}
        with (self.folder / (call.file or "none")).open("a+b") as file:
            file.seek(0)
            fds = (file.fileno(),) if call.file else ()
            result = await peer.call(method, params, value, fds)
        if METHODS[method].returns_value:
            assert result[1] == self.needles.values["value"]
            heard = cast("Tap", peer.sock).heard
            heard[:] = heard.replace(result[1], b"", 1)
        return result

    async def fill(self) -> Peer:
        """Make a vault with everything in it; return the proven connection."""
        operator = await self.operator(proven=False)
        await self.call(operator, "init", CALLS["init"])
        for label in ("first value", "value"):
            value = self.needles.values[label]
            item = {"name": "TOKEN", "size": len(value), "encoding": "text"}
            await operator.call("put", {"items": [item], "replace": True}, value)
        grant = {**CALLS["grant"].params, "uids": [os.getuid()]}
        await operator.call("grant", grant)
        await self.call(operator, "slot_add", CALLS["slot_add"])
        return operator

    async def ready(self, method: Method) -> Peer:
        """Bring the vault into the state that *method* wants; return the connection to call it on."""
        if method.name == "init":
            return await self.operator(proven=False)
        operator = await self.fill()
        agent = await self.agent()  # WANTED waits for the operator from now on
        if method.socket == AGENT:
            return (
                agent if method.name != "hello" else await self.connect(self.house.core.places.agent_socket)
            )
        if method.name == "approve":
            await operator.call("put", {"items": [{"name": "WANTED", "size": 1, "encoding": "text"}]}, b"x")
        if method.name == "deny":
            (request,) = (await operator.call("requests"))["requests"]
            CALLS["deny"].params["ids"] = [request["id"]]
        if method.name == "restore_vault":
            await self.call(operator, "export", CALLS["export"]._replace(file="copy"))
        if method.name.startswith("phone_"):
            await self.ready_phone(operator, method.name)
        if method.name == "keyring_unlock":
            await self.call(operator, "keyring_add", CALLS["keyring_add"])
        if method.name in ("unlock", "phone_unlock", "keyring_unlock"):
            await operator.call("lock")
        return operator

    async def ready_phone(self, operator: Peer, method: str) -> None:
        """Do what comes before *method*."""
        CALLS["phone_pair"].params["bunker"] = self.phone.bunker
        if method != "phone_pair":
            await self.call(operator, "phone_pair", CALLS["phone_pair"])
        if method in ("phone_unlock", "phone_prove"):
            await self.call(operator, "phone_confirm", CALLS["phone_confirm"])

    def look(self, *, echo: tuple[str, ...] = ()) -> None:
        """Look at everything; *echo*: what its own sender, or the operator, may be told."""
        for stream in self.streams:
            self.needles.check("an answer", bytes(stream), but=echo)
        for line in self.ear.heard:
            self.needles.check("a line of the log", line)
        for warning in self.caught:
            self.needles.check("a warning", f"{warning.message} {warning.message!r} {warning.source!r}")
        assert self.needles.check_files(self.folder) > 5

    def look_at_objects(self, *, echo: tuple[str, ...] = ()) -> None:
        """Look at every object that the daemon has made."""
        count = self.needles.check_objects(self.house.core, self.house.server, *living(), but=echo)
        assert count > 100

    async def finish(self, *, echo: tuple[str, ...] = ()) -> None:
        """Ask whatever may be asked without proof, lock, and look at everything."""
        peer = await self.operator(proven=False)
        for name in sorted(FREE, key="lock".__eq__):
            with suppress(AvaultError):  # where there is no vault
                await peer.call(name, {"name": "TOKEN"} if name == "history" else {})
        self.look_at_objects(echo=echo)
        self.house.core.record.flush()
        self.look(echo=echo)


@asynccontextmanager
async def open_lab(
    folder: Path, keyring: Keyring | None = None, credentials: Path | None = None
) -> AsyncGenerator[Lab]:
    ear, root = Ear(), logging.getLogger()
    before = root.level
    gc.freeze()  # so that only what comes now is looked at
    root.addHandler(ear)
    root.setLevel(logging.DEBUG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            async with (
                fault_relay() as relay,
                open_house(
                    folder,
                    Settings(log_level="debug", network=True),
                    network=network_of(relay),
                    keyring=keyring,
                    credentials=credentials,
                ) as house,
            ):
                phone = Telephone(Arena(kind="mlock"), relay)
                yield Lab(house, folder, ear, caught, phone)
                phone.close()
        finally:
            root.removeHandler(ear)
            root.setLevel(before)
            gc.unfreeze()


@pytest.fixture
async def lab(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> AsyncGenerator[Lab]:
    folder = tmp_path / "house"
    folder.mkdir()
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    with file_keyring(tmp_path / "keyring") as keyring:
        async with open_lab(folder, keyring.keyring, credentials) as lab:
            (credentials / "avault.passphrase").write_text(lab.needles.plant("service's passphrase"))
            yield lab
    lab.needles.check("standard output and error", "".join(capfd.readouterr()))


# --- as it should be -------------------------------------------------------------------------------------------------


def test_every_method_is_called_here() -> None:
    assert CALLS.keys() == METHODS.keys()


@every_method
async def test_a_call_as_it_should_be(lab: Lab, method: Method) -> None:
    peer = await lab.ready(method)
    await lab.call(peer, method.name, CALLS[method.name])
    await lab.finish()


async def test_the_keys_of_the_vault(lab: Lab) -> None:
    """Before and after a new one; told by third-party software, from the file and the passphrase."""
    operator = await lab.fill()
    await plant_keys(lab, "passphrase", "old")
    await lab.call(operator, "rekey", CALLS["rekey"])
    await plant_keys(lab, "new passphrase", "new")
    await lab.call(operator, "export", CALLS["export"])
    await lab.call(await lab.agent(), "get_secret", CALLS["get_secret"])
    await lab.finish()


async def plant_keys(lab: Lab, passphrase: str, which: str) -> None:
    """Plant every long-lived key of the vault."""
    done = await trio.run_process(
        [sys.executable, "-P", KEYS, lab.house.core.places.home / "vault.jsonl"],
        stdin=lab.needles.values[passphrase],
        capture_stdout=True,
    )
    for number, key in enumerate(done.stdout.split()):
        lab.needles.plant(f"{which} key {number}", bytes.fromhex(key.decode()))


# --- values where none belongs ---------------------------------------------------------------------------------------


class Stray(NamedTuple):
    """A call with a needle where none belongs; *told*: the sender may see it in the answer, or the operator later."""

    label: str
    method: str
    params: object
    value: bytes | None
    told: bool = False


def strays(method: Method, call: Call, needles: Needles) -> Iterator[Stray]:
    """Yield calls of *method*, each with a needle in one wrong place."""
    value = needles.values[call.value] if call.value else None
    label = f"{method.name}, as the method"
    yield Stray(label, needles.plant(label), call.params, value)
    for shape in (odd, token, lower):
        label = f"{method.name}, {shape.__name__} as a parameter's name"
        text = needles.plant(label, shape())
        yield Stray(label, method.name, {**call.params, text: 1}, value)
        yield Stray(label, f"{method.name} {text}", call.params, value)
        yield Stray(label, method.name, {**call.params, "colour": {text: [text]}}, value)
        yield Stray(label, method.name, text, value)
        yield Stray(label, method.name, [text], value)
    for key in method.fields:
        yield from strays_in(method, call, key, value, needles)
    if method.takes_value:
        yield from strange_values(method, call, needles)
    else:
        label = f"{method.name}, a value that it does not take"
        yield Stray(label, method.name, call.params, needles.plant(label).encode())


def strays_in(method: Method, call: Call, key: str, value: bytes | None, needles: Needles) -> Iterator[Stray]:
    """Yield calls with a needle in the place of parameter *key*."""
    shapes = [odd] if key in NAMES | {"items"} else [odd, token, lower]
    for shape in shapes:
        label = f"{method.name}, {shape.__name__} as {key}"
        text = needles.plant(label, shape())
        for wrong in (text, [text], {text: text}, [[text]], [{"name": text, "size": 1, "encoding": "text"}]):
            told = key == "reason" and wrong == text
            yield Stray(label, method.name, {**call.params, key: wrong}, value, told)
    if key == "items":
        label = f"{method.name}, in an item"
        text = needles.plant(label)
        good = {"name": "NEW", "size": 1, "encoding": "text"}
        for part in good:
            yield Stray(label, method.name, {"items": [{**good, part: text}]}, value)
        yield Stray(label, method.name, {"items": [{**good, text: text}]}, value)
    if key in ("name", "secrets") and method.name in EXISTING:
        label = f"{method.name}, well-formed as {key}"
        text = needles.plant(label, token())
        wrong = text if key == "name" else [text]
        yield Stray(label, method.name, {**call.params, key: wrong}, value, told=True)


STRANGE: dict[str, Callable[[bytes], bytes]] = {
    "too long": lambda raw: raw * (1 + limits.MAX_PASSPHRASE // len(raw)),
    "not UTF-8": lambda raw: raw + b"\xff",
    "with a NUL": lambda raw: raw + b"\0",
    "wrong": lambda raw: raw,
}


def strange_values(method: Method, call: Call, needles: Needles) -> Iterator[Stray]:
    """Yield calls with a value that cannot be right, or is not."""
    for what, change in STRANGE.items():
        label = f"{method.name}, a value that is {what}"
        yield Stray(label, method.name, call.params, change(needles.plant(label).encode()))
    label = f"{method.name}, a value that is too short"
    yield Stray(label, method.name, call.params, needles.plant(label, token(7)).encode())


@every_method
async def test_values_where_none_belongs(lab: Lab, method: Method) -> None:
    peer = await lab.ready(method)
    told: set[str] = set()
    for stray in strays(method, CALLS[method.name], lab.needles):
        lab.house.core.throttle.__init__()  # type: ignore[misc]
        if stray.told:
            told.add(stray.label)
        try:
            await send(peer, stray)
        except AvaultError as error:
            lab.needles.check_error(error, but=told)
    await lab.finish(echo=tuple(told))


async def send(peer: Peer, stray: Stray) -> None:
    """Send a call whose parameters may be no map at all; raise the error that is answered."""
    value = stray.value or b""
    head = pack_request(7, stray.method, cast("Any", stray.params), len(value) if value else None)
    await peer.send(head + value)
    response, _ = await peer.answer()
    if response.error is not None:
        raise response.error


# --- malformed bytes -------------------------------------------------------------------------------------------------


def broken(text: str) -> dict[str, bytes]:
    """Return streams that are no messages, or none for a daemon, with *text* in them."""
    raw = text.encode()
    name, blob, one, nil = wire.string(text), wire.binary(raw), b"\x01", b"\xc0"
    request = [b"\x00", one, wire.string("put")]
    pair = wire.mapping([(name, name)])
    return {
        "text": raw + b"\n",
        "HTTP": b"POST / HTTP/1.1\r\nAuthorization: Bearer " + raw + b"\r\n\r\n",
        "JSON": b'{"method":"put","params":["' + raw + b'"]}\n',
        "a string": name,
        "a map": pair,
        "an array": wire.array([name, name]),
        "a bin": blob,
        "an extension": b"\xc7" + bytes((len(raw), 1)) + raw,
        "type": wire.array([name, one, name, wire.array([pair])]),
        "id": wire.array([b"\x00", name, wire.string("put"), wire.array([pair])]),
        "method as bin": wire.array([b"\x00", one, blob, wire.array([pair])]),
        "value as string": wire.array([*request, wire.array([pair, name])]),
        "two values": wire.array([*request, wire.array([pair, blob, blob])]),
        "value alone": wire.array([*request, wire.array([blob])]),
        "value first": wire.array([*request, wire.array([blob, pair])]),
        "value in a map": wire.array([*request, wire.array([wire.mapping([(name, blob)])])]),
        "five elements": wire.array([*request, wire.array([pair]), name]),
        "response": wire.array([one, one, nil, pair]),
        "response with a value": wire.array([one, one, nil, wire.array([pair, blob])]),
        "error": wire.array([one, b"\x00", wire.mapping([(wire.string("message"), name)]), nil]),
        "notification": wire.array([b"\x02", name, wire.array([pair])]),
        "notification with a value": wire.array([b"\x02", name, wire.array([pair, blob])]),
        "cut off": wire.array([*request, wire.array([pair, wire.binary(raw * 9)])])[:-9],
        "deep": b"\x91" * limits.MAX_DEPTH + b"\x91" * 9 + name,
        "too large": b"\x94\x00\x01" + wire.string("put") + b"\x92\x80\xc6\xff\xff\xff\xff" + raw,
        "not UTF-8": b"\x94\x00\x01" + wire.string("put")[:1] + b"\xff" + raw,
        "no type at all": b"\xc1" + raw,
    }


async def test_malformed_bytes(lab: Lab) -> None:
    """As the first that is said, and behind good messages."""
    await lab.fill()
    places = lab.house.core.places
    for what in broken(""):
        data = broken(lab.needles.plant(what))[what]
        strangers = [await lab.connect(path) for path in (places.agent_socket, places.operator_socket)]
        for peer in (*strangers, await lab.agent(), await lab.operator()):
            await peer.send(data)
            peer.sock.shutdown(socket.SHUT_WR)
            error = await peer.closed()
            assert error is None or isinstance(error, BadRequestError | TooLargeError), what
    await lab.finish()


# --- exceptions that tell --------------------------------------------------------------------------------------------


def chained(text: str) -> Exception:
    error = RuntimeError(text)
    error.__cause__, error.__context__ = ValueError(text, text.encode()), LookupError(text)
    error.add_note(text)
    return error


FAULTS: dict[str, Callable[[str], Exception]] = {
    "RuntimeError": chained,
    "OSError": lambda text: OSError(errno.ENOENT, text, text, None, text),
    "KeyError": KeyError,
    "UnicodeDecodeError": lambda text: UnicodeDecodeError("utf-8", text.encode(), 0, 1, text),
    "ExceptionGroup": lambda text: ExceptionGroup(text, [chained(text), OSError(text), KeyError(text)]),
}
# What each handler meets are the two that are caught apart; what a few meet is each.
MET = [
    *((method, fault) for method in METHODS.values() for fault in ("OSError", "ExceptionGroup")),
    *((METHODS[name], fault) for name in ("get_secret", "put") for fault in FAULTS),
]


def faulty(
    lab: Lab, real: Callable[..., Any], fault: Callable[[str], Exception], happened: list[Exception]
) -> Any:
    """Return *real*, which does all its work and then meets an exception that tells every value there is."""

    def fail(answer: object) -> None:
        lab.look_at_objects()
        happened.append(fault(" ".join(raw.decode() for raw in lab.needles.values.values())))
        raise happened[-1]

    async def later(turn: Turn) -> Answer:
        answer = await cast("Awaitable[Answer]", real(turn))
        fail(answer)
        return answer

    def now(*arguments: Any) -> Any:
        answer = real(*arguments)
        fail(answer)
        return answer

    return now if real in AGENT_HANDLERS.values() else later


AGENT_HANDLERS: dict[str, Callable[..., Any]] = {
    name: vars(AgentConversation)[f"_{name}"] for name in ("hello", "get_secret", "request", "grants")
}


def test_every_handler_is_made_to_fail() -> None:
    assert AGENT_HANDLERS.keys() | HANDLERS.keys() == METHODS.keys()


@pytest.mark.parametrize(("method", "fault"), dict.fromkeys(MET), ids=lambda it: getattr(it, "name", it))
async def test_an_exception_in_the_handler(
    lab: Lab, method: Method, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = await lab.ready(method)
    happened: list[Exception] = []
    with monkeypatch.context() as patch:
        if method.socket == AGENT:
            handler = faulty(lab, AGENT_HANDLERS[method.name], FAULTS[fault], happened)
            patch.setattr(AgentConversation, f"_{method.name}", handler)
        else:
            patch.setitem(HANDLERS, method.name, faulty(lab, HANDLERS[method.name], FAULTS[fault], happened))
        with pytest.raises(InternalError) as caught:
            await lab.call(peer, method.name, CALLS[method.name])
    assert happened
    assert any(f"{type(happened[0]).__name__} at test_leaks.py" in line for line in lab.ear.heard)
    lab.needles.check_error(caught.value)
    happened.clear()
    await lab.finish()


async def test_an_exception_on_the_way_out(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside every handler: it ends the conversation, and is logged there."""
    operator = await lab.fill()
    agent = await lab.agent()

    def queue(*_: object) -> None:
        raise RuntimeError(" ".join(raw.decode() for raw in lab.needles.values.values()))

    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "answer", queue)
        for peer, name in ((agent, "get_secret"), (operator, "reveal")):
            with pytest.raises(EOFError):
                await lab.call(peer, name, CALLS[name])
    assert sum("conversation with pid" in line for line in lab.ear.heard) == 2
    await lab.finish()


# --- positive controls -----------------------------------------------------------------------------------------------


def log_it(lab: Lab, text: str) -> None:
    logging.getLogger("anything").debug("a value: %s", text)


def log_in_an_argument(lab: Lab, text: str) -> None:
    logging.getLogger("trio").info("no value", extra={"more": {"deep": [text]}})


def log_in_a_variable(lab: Lab, text: str) -> None:
    try:
        _ = text + cast("Any", None)
    except TypeError:
        logging.getLogger("avault_daemon").exception("no value")


def warn(lab: Lab, text: str) -> None:
    warnings.warn(f"a value: {text}", stacklevel=1)


def write_a_file(lab: Lab, text: str) -> None:
    (lab.house.core.places.state_dir / "new").write_bytes(
        b"\0" * 5000 + base64.b64encode(b"xy" + text.encode())
    )


def name_a_file(lab: Lab, text: str) -> None:
    (lab.house.core.places.runtime_dir / text.encode().hex()[:40]).touch()


def put_on_record(lab: Lab, text: str) -> None:
    lab.house.core.record.refused(lab.caller, text[:16], "no value")
    lab.house.core.record.flush()


def answer(lab: Lab, text: str) -> None:
    lab.streams.append(bytearray(b"\x94" + text.encode()[::-1]))


LEAKS: list[Callable[[Lab, str], None]] = [
    log_it,
    log_in_an_argument,
    log_in_a_variable,
    warn,
    write_a_file,
    name_a_file,
    put_on_record,
    answer,
]


@pytest.mark.parametrize("leak", LEAKS)
async def test_a_leak_is_seen(lab: Lab, leak: Callable[[Lab, str], None]) -> None:
    await lab.fill()
    lab.look()
    leak(lab, lab.needles.plant("control"))
    with pytest.raises(AssertionError, match=r"holds .*control"):
        lab.look()


async def test_a_leak_into_an_object_is_seen(lab: Lab) -> None:
    await lab.fill()
    lab.look_at_objects()
    caller = Caller(1, 2, 3, None, lab.needles.plant("control"), None, 4)
    lab.house.core.requests.file_caller(caller, None, "p", [])
    with pytest.raises(AssertionError, match=r"an object.*holds .*control"):
        lab.look_at_objects()


def test_an_error_that_tells_is_seen() -> None:
    needles = Needles()
    text = needles.plant("control")
    with pytest.raises(AvaultError) as caught:
        check_secret_name(text)  # its frame has it in a variable
    with pytest.raises(AssertionError, match=r"a traceback with variables holds .*control"):
        needles.check_error(caught.value)
    for error in (InternalError(text), InternalError(hint=text), hiding(text)):
        with pytest.raises(AssertionError, match="control"):
            needles.check_error(error)
    needles.check_error(InternalError("no value"))


def hiding(text: str) -> Exception:
    """Return an error that another was hidden behind."""
    error = RuntimeError("no value")
    error.__context__, error.__suppress_context__ = ValueError(text), True
    return error


@pytest.mark.parametrize("form", forms(b"").keys())
@pytest.mark.parametrize("make", [odd, token, lower])
def test_each_form_is_found_and_each_part(form: str, make: Callable[[], str]) -> None:
    needles = Needles()
    whole = forms(needles.plant("control", make()).encode())[form]
    part = {"raw": 8, "hex": 31, "HEX": 31, "bytes": 28}.get(form, 15)
    for start in range(len(whole) - part):
        assert needles.found(b"noise " + whole[start : start + part] + b" noise")
    assert not needles.found(whole[:7] + b" " + whole[part : part + 7])


@pytest.mark.parametrize("before", range(4))
def test_base64_of_a_longer_text_is_found(before: int) -> None:
    needles = Needles()
    text = b"Basic "[:before] + needles.plant("control").encode() + b":x"
    assert needles.found(base64.b64encode(text))
    assert needles.found(base64.urlsafe_b64encode(text))
    assert not needles.found(base64.b64encode(text[::-2]))
