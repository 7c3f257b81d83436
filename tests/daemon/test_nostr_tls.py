"""wss: what a relay has to show before anything is said to it; in the confined daemon, too."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import trio

from avault_daemon import confine
from avault_daemon.memory.arena import Arena
from avault_daemon.nostr.keys import SecretKey
from avault_daemon.nostr.relay import Network, Relays
from support.certificates import DAY, Authority
from support.daemon import CONFIG, running_daemon
from support.house import PASSPHRASE
from support.relays import FaultRelay, fault_relay
from support.telephone import Telephone

ARENA = Arena(1 << 16)
PATIENCE = 60.0


class Wire:
    """A listener that serves a relay behind TLS, or behind nothing, and keeps all that came in as it came."""

    def __init__(self, relay: FaultRelay, context: ssl.SSLContext | None) -> None:
        self.came = b""
        self._relay, self._context = relay, context

    async def serve(self, stream: trio.SocketStream) -> None:
        tapped = Tapped(stream, self)
        if self._context is None:
            await self._relay.serve_stream(tapped)
            return
        tls = trio.SSLStream(tapped, self._context, server_side=True)
        try:
            await tls.do_handshake()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.aclose_forcefully(stream)
        else:
            await self._relay.serve_stream(tls)


class Tapped(trio.abc.Stream):
    """A stream of which a `Wire` reads along."""

    def __init__(self, stream: trio.SocketStream, wire: Wire) -> None:
        self._stream, self._wire = stream, wire

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = bytes(await self._stream.receive_some(max_bytes))
        self._wire.came += data
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


@asynccontextmanager
async def tls_relay(context: ssl.SSLContext | None) -> AsyncGenerator[tuple[FaultRelay, Wire, str]]:
    """A relay on loopback, its wire, and its URL."""
    async with fault_relay() as relay, trio.open_nursery() as nursery:
        wire = Wire(relay, context)
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, wire.serve, [listener])
        yield relay, wire, f"wss://localhost:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def outcome_of(url: str, tls: ssl.SSLContext | None) -> str:
    """Connect to a relay; return "connected", or why not."""
    told: list[str] = []
    news, client = trio.Event(), SecretKey.generate(ARENA)

    def on_stage(stage: str, url: str, text: str) -> None:
        if stage in ("connected", "lost"):
            told.append(text or stage)
            news.set()

    async with Relays([url], client, lambda event: None, on_stage, Network(tls=tls)).opened():
        with trio.fail_after(PATIENCE):
            await news.wait()
    client.close()
    return told[0]


async def test_the_right_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    async with tls_relay(authority.server("localhost")) as (relay, wire, url):
        assert await outcome_of(url, authority.client()) == "connected"
        assert [message[0] for message in relay.seen] == ["REQ"]
    assert b"GET" not in wire.came


async def test_no_tls_to_be_had(tmp_path: Path) -> None:
    """Nothing of ours goes out in the clear because the other side has no TLS."""
    async with tls_relay(None) as (relay, wire, url):
        assert (await outcome_of(url, Authority(tmp_path / "ca").client())).startswith("no TLS with it: ")
        assert relay.seen == []
    assert wire.came[:1] == b"\x16"  # a handshake record (RFC 8446, 5.1)
    assert b"GET" not in wire.came


Faulty = Callable[[Authority, Path], tuple[ssl.SSLContext, ssl.SSLContext | None]]
"""The server's context, and the client's."""
FAULTS: dict[str, tuple[str, Faulty]] = {
    "another host": ("hostname mismatch", lambda ca, _: (ca.server("relay.example"), ca.client())),
    "expired": ("has expired", lambda ca, _: (ca.server("localhost", valid=-DAY), ca.client())),
    "another authority": (
        "local issuer certificate",
        lambda ca, path: (ca.server("localhost"), Authority(path / "other").client()),
    ),
    "unknown authority": ("local issuer certificate", lambda ca, _: (ca.server("localhost"), None)),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_certificate_that_is_not_accepted(tmp_path: Path, fault: str) -> None:
    words, make = FAULTS[fault]
    server, client = make(Authority(tmp_path / "ca"), tmp_path)
    async with tls_relay(server) as (relay, wire, url):
        told = await outcome_of(url, client)
        assert told.startswith("its certificate is not accepted: ")
        assert words in told.lower()
        assert relay.seen == []
    assert wire.came
    assert b"GET" not in wire.came


# --- confined --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "valid", "words"),
    [
        ("localhost", DAY, ""),
        ("relay.example", DAY, "its certificate is not accepted: hostname mismatch"),
        ("localhost", -DAY, "its certificate is not accepted: certificate has expired"),
    ],
)
async def test_the_confined_daemon(tmp_path: Path, host: str, valid: timedelta, words: str) -> None:
    """It finds the authorities that its environment names, wherever they lie; and asks its phone by wss."""
    authority = Authority(tmp_path / "ca")
    async with tls_relay(authority.server(host, valid=valid)) as (relay, _, url):
        phone = Telephone(Arena(kind="mlock"), relay, url=url)
        env, config = {"SSL_CERT_FILE": str(authority.path)}, CONFIG + "network = true\n"
        with running_daemon(tmp_path, config=config, env=env) as daemon:
            run = partial(trio.to_thread.run_sync, abandon_on_cancel=True)
            await run(lambda: daemon.avault("init", passphrase=PASSPHRASE))
            add = ("slot", "add", "phone", phone.bunker, "--yes", "--timeout", "4")
            done = await run(lambda: daemon.avault(*add, passphrase=PASSPHRASE))
            assert done.returncode == (7 if words else 0), done.stderr
            assert words in done.stderr.decode().lower()
            status = json.loads((await run(lambda: daemon.avault("status", "--json"))).stdout)
            assert "seccomp" in status["confined"]
        assert bool(phone.requests) != bool(words)
        phone.close()


def test_where_certificates_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories alone, and what a link leads to."""
    real, named = tmp_path / "real", tmp_path / "named"
    for directory in (real, named):
        directory.mkdir()
    (real / "ca.pem").touch()
    (named / "ca.pem").symlink_to(real / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(named / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path / 'a'}:{tmp_path / 'b'}")
    assert confine.certificates() == [str(tmp_path / name) for name in ("a", "b", "named", "real")]
    monkeypatch.setenv("SSL_CERT_FILE", "/ca.pem")
    monkeypatch.setenv("SSL_CERT_DIR", "")
    assert "/" not in confine.certificates()
