"""Read a vault by third-party software alone: nothing of avault is imported here.

    python -P recovery.py vault.jsonl < passphrase

prints secrets and grants as JSON. What it goes by is docs/vault-format.md.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nostr_sdk import (  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]
    EncryptedSecretKey,
    Event,
    Keys,
    SecretKey,
    nip44_decrypt,
)


def check_chain(lines: list[str]) -> None:
    """Every event is what it says, and every commit closes exactly the lines before it."""
    digest, generation = hashlib.sha256(bytes(32)), None
    newest: dict[str, int] = {}
    for line in lines:
        event = Event.from_json(line)
        assert event.verify()
        fields = json.loads(line)
        assert line == json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
        ((tag, d),) = fields["tags"]
        assert (fields["kind"], tag) == (30078, "d")
        assert fields["created_at"] > newest.get(d, 0)
        newest[d] = fields["created_at"]
        if d == "commit":
            commit = json.loads(fields["content"])
            assert commit["digest"] == digest.hexdigest()
            assert generation is None or commit["generation"] == generation + 1
            generation = commit["generation"]
            digest = hashlib.sha256(bytes.fromhex(fields["id"]))
        else:
            digest.update(line.encode() + b"\n")


def recover(path: Path, passphrase: str) -> tuple[dict[str, list[tuple[int, str, str]]], dict[str, Any]]:
    """Return name -> versions, and agent -> what is sealed of it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    check_chain(lines)
    events = [json.loads(line) for line in lines]
    by_d = [(event["tags"][0][1], event["content"]) for event in events]
    slot = json.loads(dict(by_d)["slot/passphrase"])
    secret = EncryptedSecretKey.from_bech32(slot["ncryptsec"]).decrypt(passphrase)
    public = Keys(secret).public_key()
    assert {event["pubkey"] for event in events} == {public.to_hex()}
    secrets: dict[str, list[tuple[int, str, str]]] = {}
    agents: dict[str, Any] = {}
    for d, content in by_d:
        if d.startswith("agent/"):
            agents[d[6:]] = json.loads(nip44_decrypt(secret, public, json.loads(content)["sealed"]))
        elif len(d) == 32:
            head, value = nip44_decrypt(secret, public, content).split("\n", 1)
            about = json.loads(head)
            assert d == blind(secret, about["name"])
            secrets.setdefault(about["name"], []).append((about["version"], about["encoding"], value))
    return secrets, agents


def blind(secret: SecretKey, name: str) -> str:
    key = HKDF(SHA256(), 32, salt=b"", info=b"avault-index").derive(bytes.fromhex(secret.to_hex()))
    return hmac.digest(key, b"secret/" + name.encode(), "sha256").hex()[:32]


if __name__ == "__main__":
    secrets, agents = recover(Path(sys.argv[1]), sys.stdin.read())
    sys.stdout.write(json.dumps({"secrets": secrets, "agents": agents}))
