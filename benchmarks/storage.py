"""What is bound by the disk and by how much there is: storing a secret, and unlocking many."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial
from itertools import count, repeat
from statistics import median

from support.attackers import Line
from support.services import PASSPHRASE, Service

from . import turns
from .stage import NAME, VALUE, Stage, stage

ROUNDS = 41
KEPT = 4
"""Versions of a secret that the file keeps."""
UNLOCKS = 5
MANY = (10_000, 100_000)
BATCH = 1_000


def store() -> None:
    """`put` of one secret on a proven connection; the peer appends as many bytes and calls fdatasync.

    First of a version more than are kept, for which the file is written anew; then of a new secret.
    """
    with stage() as on:
        file = on.service.daemon.home / "vault.jsonl"
        before = file.stat().st_size
        on.service.put(**{NAME: VALUE})
        line = b"x" * (file.stat().st_size - before)
        for _ in range(KEPT):
            on.service.put(**{NAME: VALUE})
        peer = os.open(on.folder / "peer", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        fresh = (f"NEW_{number}" for number in count())
        for what, names in (("of one version too many", repeat(NAME)), ("of a new secret", fresh)):
            ours = turns.once(partial(put, on.service, names))
            compared = turns.in_turns(ours, turns.once(partial(append, peer, line)), ROUNDS)
            print(compared.line(f"set {what} / {len(line)} bytes appended and synced", "us", 1e6))
        os.close(peer)


def put(service: Service, names: Iterator[str]) -> None:
    """Store the next of *names*."""
    service.put(**{next(names): VALUE})


def append(descriptor: int, line: bytes) -> None:
    """Append and sync."""
    os.write(descriptor, line)
    os.fdatasync(descriptor)


def many() -> None:
    """Unlock to first answer, of a vault of one secret and of many; the difference is what is beyond the KDF."""
    with stage() as few:
        for count in MANY:
            with stage() as on:
                fill(on.service, count)
                took = restarted(on)
                compared = turns.in_turns(partial(first_answer, on), partial(first_answer, few), UNLOCKS)
                beyond = median(compared.ours) - median(compared.peer)
                print(
                    f"{count} secrets: unlock to first answer {beyond * 1e3:.0f} ms beyond a vault of one "
                    f"({median(compared.ours) * 1e3:.0f} ms to {median(compared.peer) * 1e3:.0f} ms); "
                    f"{on.service.resident() / 1e6:.0f} MB resident; start of the daemon {took:.1f} s",
                    flush=True,
                )


def fill(service: Service, count: int) -> None:
    """Store *count* secrets more."""
    for start in range(0, count, BATCH):
        service.put(**{f"SECRET_{number}": VALUE for number in range(start, start + BATCH)})


def restarted(on: Stage) -> float:
    """Start the daemon anew, so that its memory is that of reading the file; return how long it took, in seconds."""
    on.service.daemon.stop()
    begin = time.perf_counter()
    on.service.daemon.start()
    took = time.perf_counter() - begin
    assert isinstance(on.service.unlock(), dict)
    return took


def first_answer(on: Stage) -> float:
    """Lock; return the seconds from the passphrase to the value."""
    on.service.must("lock")
    with on.vault() as vault:
        begin = time.perf_counter()
        desk = Line.to(str(on.service.operator_socket))
        assert isinstance(desk.call("unlock", {}, PASSPHRASE), dict)
        vault.get_secret(NAME).close()
        took = time.perf_counter() - begin
    desk.sock.close()
    return took
