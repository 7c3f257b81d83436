"""Target: NIP-44, payloads that were sealed by another library, right or wrong, against a reader of a dozen lines."""

from __future__ import annotations

import base64
import hmac
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import strategies as st

from avault_daemon.memory.arena import Arena
from avault_daemon.nostr.nip44 import Conversation
from avault_protocol import CorruptError, TooLargeError
from support.slots import filled

from .target import Target

KEY = b"\7" * 32
_LONG = 65536
_arena: list[Arena] = []


class Case(NamedTuple):
    """What is sealed, *text* filled up to *size*, and what is then done to the payload."""

    prefix: bytes
    text: bytes
    size: int
    padding: int
    fill: int
    version: int
    nonce: bytes
    damage: tuple[str, int]

    @property
    def whole(self) -> bytes:
        return self.text.ljust(self.size, b"x")[: self.size]


def spread(length: int) -> int:
    """Return the padded length, as the NIP's text computes it: with a power of two found by counting."""
    if length <= 32:
        return 32
    power = 1
    while power < length:
        power *= 2
    chunk = 32 if power <= 256 else power // 8
    return -(-length // chunk) * chunk


def keys(nonce: bytes) -> tuple[bytes, bytes, bytes]:
    found = HKDFExpand(SHA256(), 76, nonce).derive(KEY)
    return found[:32], found[32:44], found[44:]


def cipher(nonce: bytes, data: bytes) -> bytes:
    key, chacha, _ = keys(nonce)
    return Cipher(algorithms.ChaCha20(key, bytes(4) + chacha), None).encryptor().update(data)


def sealed(case: Case) -> str:
    """Return the payload, with a right MAC unless that is what is damaged."""
    padded = case.prefix + case.whole + bytes((case.fill,)) * case.padding
    body = cipher(case.nonce, padded)
    mac = bytearray(hmac.digest(keys(case.nonce)[2], case.nonce + body, "sha256"))
    kind, number = case.damage
    if kind == "mac":
        mac[number % 32] ^= 1 << number % 8
    raw = bytes((case.version,)) + case.nonce + body + bytes(mac)
    payload = base64.b64encode(raw[:-number] if kind == "cut" else raw).decode()
    if kind == "bits" and payload.endswith("="):
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
        last = len(payload.rstrip("=")) - 1
        payload = payload[:last] + alphabet[alphabet.index(payload[last]) ^ 1] + payload[last + 1 :]
    elif kind == "character":
        at = number % len(payload)
        payload = payload[:at] + "\n -_=#"[number % 6] + payload[at:]
    return payload


def opened(payload: str) -> bytes | None:
    """Return the plaintext of *payload*; None if the NIP has it refused."""
    try:
        raw = base64.b64decode(payload, validate=True)
    except ValueError:
        return None
    nonce, body, mac = raw[1:33], raw[33:-32], raw[-32:]
    if base64.b64encode(raw).decode() != payload or len(raw) < 99 or raw[0] != 2:
        return None
    if hmac.digest(keys(nonce)[2], nonce + body, "sha256") != mac:
        return None
    padded = cipher(nonce, body)
    length, start = int.from_bytes(padded[:2], "big"), 2
    if not length:
        length, start = int.from_bytes(padded[2:6], "big"), 6
        if length < _LONG:
            return None
    return padded[start : start + length] if len(padded) == start + spread(length) else None


def _check(case: Case) -> None:
    arena = _arena[0] if _arena else Arena(1 << 20)
    _arena[:] = [arena]
    payload = sealed(case)
    with Conversation(arena, filled(arena, KEY)) as talk:
        assert _read(talk, payload) == opened(payload)
        with filled(arena, case.whole) as slot:
            ours = talk.encrypt(slot, nonce=case.nonce)
        assert opened(ours) == case.whole
    assert arena.in_use == 0


def _read(talk: Conversation, payload: str) -> bytes | None:
    try:
        with talk.decrypt(payload) as slot:
            return bytes(slot.view)
    except (CorruptError, TooLargeError):
        return None


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    size = draw(st.one_of(st.integers(1, 300), st.sampled_from((32, 33, 256, 257, 320, 65535, 65536))))
    said = max(0, size + draw(st.sampled_from((0, 0, 0, 0, 1, -1, 32))))
    long = draw(st.sampled_from((said >= _LONG,) * 9 + (said < _LONG,)))
    prefix = bytes(2) + said.to_bytes(4, "big") if long else (said % _LONG).to_bytes(2, "big")
    damages = st.sampled_from(("none", "none", "none", "mac", "cut", "bits", "character"))
    return Case(
        prefix,
        draw(st.binary(min_size=1, max_size=3)),
        size,
        max(0, spread(size) - size + draw(st.sampled_from((0, 0, 0, 0, 1, -1, 32, -32)))),
        draw(st.sampled_from((0, 0, 0, 255))),
        draw(st.sampled_from((2,) * 9 + (0, 1, 3))),
        draw(st.binary(min_size=32, max_size=32)),
        (draw(damages), draw(st.integers(1, 200))),
    )


NIP44 = Target("nip-44", _cases(), _check, 300)
