"""A secret over the agents' socket, beside an echo of as many bytes on the same processor."""

from __future__ import annotations

import select
import socket
import time
from functools import partial

from avault_daemon.callers.caller import credentials, identify

from . import turns
from .stage import NAME, Stage, ask, connected, stage

ROUNDS = 25
CONNECTIONS = 100


def get() -> None:
    """`Vault.get_secret` on a kept connection; the peer is a plain socket on the echo."""
    with stage() as on, on.echo() as path, on.vault() as vault, connected(str(path)) as peer:

        def one() -> None:
            vault.get_secret(NAME).close()

        echoed = turns.latency(partial(ask, peer, on.request))
        print(turns.in_turns(turns.latency(one), echoed, ROUNDS).line("get_secret / echo", "us", 1e6))
        with on.connection() as raw:
            served = turns.latency(partial(ask, raw, on.request))
            print(turns.in_turns(served, echoed, ROUNDS).line("of it the daemon / echo", "us", 1e6))


def connect() -> None:
    """Connect, hello, get, close through the library; the peer is one round trip of the echo."""
    with stage() as on, on.echo() as path, connected(str(path)) as peer:

        def one() -> None:
            with on.vault() as vault:
                vault.get_secret(NAME).close()

        echoed = turns.latency(partial(ask, peer, on.request))
        compared = turns.in_turns(turns.latency(one), echoed, ROUNDS)
        print(compared.line("connect, hello, get, close / echo", "us", 1e6))


def identification() -> None:
    """What the kernel is asked of who has connected, of a process anew and of one that is known; the peer is the echo."""
    with (
        stage() as on,
        on.echo() as path,
        connected(str(path)) as peer,
        socket.socket(socket.AF_UNIX) as door,
    ):
        door.bind(str(on.folder / "door"))
        door.listen()
        with connected(door.getsockname()), door.accept()[0] as sock:
            _, process = identify(sock, credentials(sock), None, exe=False)

            def anew() -> None:
                identify(sock, credentials(sock), None, exe=False)[1].close()

            def again() -> None:
                identify(sock, credentials(sock), None, known=process, exe=False)[1].close()

            echoed = turns.latency(partial(ask, peer, on.request))
            for name, one in (("identifying / echo", anew), ("a known process / echo", again)):
                print(turns.in_turns(turns.latency(one), echoed, ROUNDS).line(name, "us", 1e6))
            process.close()


def load() -> None:
    """Requests a second over 100 connections, each asking anew when answered; from another processor."""
    with stage() as on, on.echo() as path:
        turns.pin(0)
        ours = [on.connection() for _ in range(CONNECTIONS)]
        peers = [connected(str(path)) for _ in range(CONNECTIONS)]
        compared = turns.in_turns(partial(rate, on, ours), partial(rate, on, peers), ROUNDS)
        print(compared.line(f"requests a second, {CONNECTIONS} connections / echo", "k/s", 1e-3))
        for sock in (*ours, *peers):
            sock.close()


def rate(on: Stage, connections: list[socket.socket], seconds: float = 0.3) -> float:
    """Return answers a second while each of *connections* always has one request open."""
    request, count = on.request, 0
    by_number = {sock.fileno(): sock for sock in connections}
    with select.epoll() as poll:
        for number, sock in by_number.items():
            poll.register(number, select.EPOLLIN)
            sock.send(request)
        begin = time.perf_counter()
        while time.perf_counter() < begin + seconds:
            for number, _ in poll.poll():
                sock = by_number[number]
                sock.recv(16 * 1024)
                sock.send(request)
                count += 1
        elapsed = time.perf_counter() - begin
    for sock in connections:  # each has one answer to come
        sock.recv(16 * 1024)
    return count / elapsed
