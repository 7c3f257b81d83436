"""What a daemon must never let lie open, values, a passphrase, keys; and what it may, canaries in its environment.

They are the needles of a scan of its memory (`support.memory`), and what that scan must find.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avault_daemon.memory.arena import SIZE
from avault_protocol import limits

from .attackers import Line, hello
from .memory import Hit, Scanner, arena_of, keys_of
from .needles import token

PLUGIN, LOAD = "telegram", "load"
"""Two plugins, since one process at a time holds one."""
_NONCE, _CHACHA = 32, 12

Must = Callable[[str, dict[str, Any], str | None], object]
"""Asks the daemon as its operator, who has proven it: method, parameters, value."""


@dataclass(slots=True)
class Treasure:
    """So many secrets, all for the plugins `PLUGIN` and `LOAD` of *uid*."""

    count: int
    uid: int = field(default_factory=os.getuid)
    passphrase: str = field(default_factory=token)
    values: dict[str, str] = field(init=False)
    canaries: dict[str, str] = field(init=False)
    """For the environment of the daemon: it may hold them anywhere, and must somewhere."""

    def __post_init__(self) -> None:
        self.values = {token(20): token() for _ in range(self.count)}  # 1,000 for two plugins fit in an agent
        self.canaries = {f"CANARY_{number}": token() for number in range(10)}

    def fill(self, must: Must) -> None:
        """Put everything into the vault, which is unlocked."""
        for number, names in enumerate(slices_of(list(self.values))):
            self.put(must, names)
            for plugin in (PLUGIN, LOAD):
                first = {} if number or plugin == LOAD else {"uids": [self.uid]}
                must("grant", {"agent": "cobot", "plugin": plugin, "secrets": names, **first}, None)

    def get_all(self, runtime_dir: Path, times: int = 1) -> None:
        """Get each secret so often, as the plugin."""
        for names in slices_of(list(self.values)):
            with closing(as_plugin(str(runtime_dir), names)) as line:
                for name in names * times:
                    assert line.call("get_secret", {"name": name}) == self.values[name]

    def put(self, must: Must, names: list[str]) -> None:
        """Store the values of *names*, again if they are there."""
        items = [{"name": name, "size": len(self.values[name]), "encoding": "text"} for name in names]
        must("put", {"items": items, "replace": True}, "".join(self.values[name] for name in names))

    def sought(self, scanner: Scanner) -> str:
        """Say what *scanner* looks for."""
        return f"{self.count} secrets, {len(scanner.needles) - self.count - 1} keys and the passphrase"

    def scanner(self, home: Path) -> Scanner:
        """Return what looks for all of it, the keys of the vault in *home* and of its present lines among it."""
        keys = keys_of(home, self.passphrase.encode())
        needles = {"passphrase": self.passphrase.encode(), **keys}
        needles |= {f"value {number}": value.encode() for number, value in enumerate(self.values.values())}
        needles |= message_keys(home / "vault.jsonl", keys["conversation key"])
        return Scanner(needles, {label: text.encode() for label, text in self.canaries.items()})


def look(pid: int, scanner: Scanner, kind: str | None) -> str:
    """Scan the daemon, which has an arena of *kind*, or none; say what was seen.

    Fails if there is a copy of anything outside the arena, in memory or registers; if the arena is not of that kind, or
    not of locked pages; if root reads one that it cannot read, or does not find what it wants in one that it can.
    """
    spans = arena_of(pid)
    assert sum(end - start for start, end in spans) == (SIZE if kind else 0)
    scan = scanner.scan(pid)
    inside = {hit.label for hit in scan.hits if within(hit, spans)}
    outside = [hit for hit in scan.hits if not within(hit, spans)]
    assert not outside, f"{len(outside)} copies: {outside[:10]}"
    assert scan.unreadable == (spans if kind == "memfd_secret" else [])
    assert ("vault key" in inside) == (kind == "mlock")
    arena = f"arena locked, root reads {len(inside) or 'nothing'} in it" if kind else "no arena"
    return f"0 copies in {scan.size >> 20} MiB, {arena}"


def within(hit: Hit, spans: Sequence[tuple[int, int]]) -> bool:
    """Report whether *hit* is in one of *spans*."""
    return any(start <= hit.address < end for start, end in spans)


def slices_of(names: list[str]) -> list[list[str]]:
    """Return *names* in pieces of a size that a message may have."""
    return [names[start : start + limits.MAX_DECLARED] for start in range(0, len(names), limits.MAX_DECLARED)]


def as_plugin(runtime_dir: str, names: list[str], plugin: str = PLUGIN) -> Line:
    """Connect as *plugin*, which declares *names*."""
    line = Line.to(f"{runtime_dir}/agent.sock")
    assert isinstance(line.call("hello", hello(plugin, names)), dict)
    return line


def message_keys(vault: Path, conversation: bytes) -> dict[str, bytes]:
    """Return the two keys by which NIP-44 seals each secret in the file: of ChaCha20, and of the MAC."""
    keys: dict[str, bytes] = {}
    for number, nonce in enumerate(_nonces(vault)):
        one, two, three = _expand(conversation, nonce)
        keys[f"chacha key {number}"] = one
        keys[f"mac key {number}"] = two[_CHACHA:] + three[:_CHACHA]
    return keys


def _nonces(vault: Path) -> Iterator[bytes]:
    for line in vault.read_text().splitlines():
        event = json.loads(line)
        if not event["content"].startswith("{"):
            yield base64.b64decode(event["content"])[1 : 1 + _NONCE]


def _expand(key: bytes, info: bytes) -> list[bytes]:
    """Return three blocks of HKDF-Expand with SHA-256 (RFC 5869)."""
    blocks = [b""]
    for index in (1, 2, 3):
        blocks.append(hmac.digest(key, blocks[-1] + info + bytes([index]), "sha256"))
    return blocks[1:]
