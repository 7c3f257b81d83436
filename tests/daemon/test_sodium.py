"""sodium: each function against its published vector and against another library."""

from __future__ import annotations

import ctypes
import hashlib
import hmac
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, strategies as st
from nacl import bindings

from avault_daemon.memory import sodium
from avault_protocol import InternalError

KEYS = st.binary(min_size=32, max_size=32)
DATA = st.binary(max_size=2000)


class Room:
    def __init__(self, size: int = 4096) -> None:
        self._buffer = ctypes.create_string_buffer(size)
        self.address = ctypes.addressof(self._buffer)

    def read(self, size: int, start: int = 0) -> bytes:
        return self._buffer.raw[start : start + size]


def test_the_self_test_passes() -> None:
    sodium.self_test()


@pytest.mark.parametrize(
    ("vector", "function"),
    [
        ("_HMAC", "HMAC-SHA256"),
        ("_HKDF", "HKDF-SHA256"),
        ("_CHACHA20", "ChaCha20"),
        ("_AEAD", "XChaCha20-Poly1305"),
        ("_BASE64", "base64"),
        ("_SCRYPT", "scrypt"),
    ],
)
def test_the_self_test_names_what_fails(monkeypatch: pytest.MonkeyPatch, vector: str, function: str) -> None:
    right: str = getattr(sodium, vector)
    monkeypatch.setattr(sodium, vector, right[:-1] + ("0" if right[-1] != "0" else "1"))
    with pytest.raises(InternalError, match=f"fails its self-test: {function}"):
        sodium.self_test()


def test_the_self_test_checks_decryption(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bool:
        return False

    monkeypatch.setattr(sodium, "xchacha20poly1305_decrypt", refuse)
    with pytest.raises(InternalError, match="XChaCha20-Poly1305, decryption"):
        sodium.self_test()


def test_a_missing_function_is_named() -> None:
    with pytest.raises(InternalError, match="has no crypto_nonsense") as caught:
        sodium.address_of("crypto_nonsense")
    assert caught.value.hint


@given(key=KEYS, data=DATA)
def test_hmac(key: bytes, data: bytes) -> None:
    room = Room()
    sodium.hmac_sha256(room.address, data, len(data), key)
    assert room.read(32) == hmac.digest(key, data, "sha256")


@given(DATA)
def test_base64(data: bytes) -> None:
    room, encoded = Room(), b64encode(data)
    assert sodium.base64_decode(room.address, len(data), encoded, len(encoded)) == len(data)
    assert room.read(len(data)) == data


@given(st.text(st.characters(max_codepoint=127), max_size=60).map(str.encode))
def test_base64_takes_what_a_strict_decoder_takes(data: bytes) -> None:
    try:
        expected = b64decode(data, validate=True)
    except ValueError:
        expected = None
    if expected is not None and b64encode(expected) != data:  # bits that count for nothing are not zero
        expected = None
    room = Room()
    assert sodium.base64_decode(room.address, 100, data, len(data)) == (
        None if expected is None else len(expected)
    )


def test_base64_stays_in_its_room() -> None:
    room = Room()
    assert sodium.base64_decode(room.address, 5, b"Zm9vYmFy", 8) is None
    assert room.read(1, 5) == b"\0"
    assert sodium.base64_decode(room.address, 6, b"Zm9vYmFy", 8) == 6


@given(ikm=st.binary(min_size=1, max_size=100), salt=st.binary(max_size=32))
def test_hkdf_extract(ikm: bytes, salt: bytes) -> None:
    room = Room()
    sodium.hkdf_extract(room.address, salt, ikm, len(ikm))
    assert room.read(32) == hmac.digest(salt or bytes(32), ikm, "sha256")


def test_hkdf_extract_refuses_a_long_salt() -> None:
    room = Room()
    sodium.hkdf_extract(room.address, bytes(32), b"ikm", 3)
    with pytest.raises(ValueError, match="33 bytes"):
        sodium.hkdf_extract(room.address, bytes(33), b"ikm", 3)


@given(ikm=KEYS, info=st.binary(max_size=100), length=st.integers(1, 255))
def test_hkdf(ikm: bytes, info: bytes, length: int) -> None:
    room = Room()
    sodium.hkdf_extract(room.address + 2048, b"", ikm, 32)
    sodium.hkdf_expand(room.address, room.address + 2048, info, length)
    assert room.read(length) == HKDF(SHA256(), length, None, info).derive(ikm)
    whole = -(-length // 32) * 32
    assert not any(room.read(1024, whole + len(info) + 1)), "it wrote beyond what it says"


@given(key=KEYS, nonce=st.binary(min_size=12, max_size=12), data=st.binary(min_size=1, max_size=2000))
def test_chacha20(key: bytes, nonce: bytes, data: bytes) -> None:
    room = Room()
    sodium.chacha20_xor(room.address, data, len(data), nonce, key)
    expected = Cipher(algorithms.ChaCha20(key, bytes(4) + nonce), None).encryptor().update(data)
    assert room.read(len(data)) == expected
    sodium.chacha20_xor(room.address, room.address, len(data), nonce, key)
    assert room.read(len(data)) == data


@given(key=KEYS, nonce=st.binary(min_size=24, max_size=24), data=DATA, ad=st.binary(max_size=40))
def test_aead(key: bytes, nonce: bytes, data: bytes, ad: bytes) -> None:
    room = Room()
    sodium.xchacha20poly1305_encrypt(room.address, data, len(data), ad, nonce, key)
    sealed = room.read(len(data) + sodium.TAG)
    assert sealed == bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(data, ad, nonce, key)
    again = Room()
    assert sodium.xchacha20poly1305_decrypt(again.address, sealed, len(sealed), ad, nonce, key)
    assert again.read(len(data)) == data


@given(data=st.binary(min_size=1, max_size=100), bit=st.integers(0))
def test_aead_refuses_every_altered_bit(data: bytes, bit: int) -> None:
    room, key, nonce = Room(), bytes(32), bytes(24)
    sodium.xchacha20poly1305_encrypt(room.address, data, len(data), b"ad", nonce, key)
    sealed = bytearray(room.read(len(data) + sodium.TAG))
    sealed[bit // 8 % len(sealed)] ^= 1 << bit % 8
    again = Room()
    assert not sodium.xchacha20poly1305_decrypt(again.address, bytes(sealed), len(sealed), b"ad", nonce, key)
    assert not any(again.read(4096))


def test_aead_checks_what_c_would_not_survive() -> None:
    out = Room().address
    with pytest.raises(ValueError, match="23 bytes, not 24"):
        sodium.xchacha20poly1305_encrypt(out, b"x", 1, b"", bytes(23), bytes(32))
    with pytest.raises(ValueError, match="25 bytes, not 24"):
        sodium.xchacha20poly1305_decrypt(out, bytes(16), 16, b"", bytes(25), bytes(32))
    with pytest.raises(ValueError, match="15 bytes, less than 16"):
        sodium.xchacha20poly1305_decrypt(out, bytes(15), 15, b"", bytes(24), bytes(32))


@given(password=st.binary(max_size=40), salt=st.binary(max_size=40), log_n=st.integers(1, 6))
def test_scrypt(password: bytes, salt: bytes, log_n: int) -> None:
    room = Room()
    sodium.scrypt(room.address, password, len(password), salt, log_n)
    assert room.read(33) == hashlib.scrypt(password, salt=salt, n=1 << log_n, r=8, p=1, dklen=32) + b"\0"


def test_scrypt_says_when_there_is_no_memory() -> None:
    with pytest.raises(InternalError, match="16777216 MiB"):
        sodium.scrypt(Room().address, b"password", 8, b"salt", 34)


def meanwhile(function: Callable[[], object]) -> int:
    """Run *function* in a thread; return how often this one got to run meanwhile."""
    started = threading.Event()

    def run() -> None:
        started.set()
        function()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait()
    turns = 0
    while thread.is_alive():
        turns += 1
    return turns


def test_scrypt_lets_others_run() -> None:
    room = Room()
    assert meanwhile(lambda: sodium.scrypt(room.address, b"password", 8, b"salt", 15)) > 100


def test_random() -> None:
    assert len(sodium.random(24)) == 24
    assert sodium.random(24) != sodium.random(24)
    room = Room()
    sodium.random_into(room.address, 64)
    assert any(room.read(64))
    assert not any(room.read(64, 64))


@given(a=KEYS, b=KEYS)
def test_memcmp(a: bytes, b: bytes) -> None:
    assert sodium.memcmp(a, b, 32) == (a == b)
    assert sodium.memcmp(a, bytes(bytearray(a)), 32)


def test_zero_and_copy() -> None:
    room = Room(64)
    assert sodium.is_zero(room.address, 64)
    sodium.copy(room.address + 8, b"secret", 6)
    assert room.read(64) == bytes(8) + b"secret" + bytes(50)
    assert not sodium.is_zero(room.address, 64)
    sodium.memzero(room.address + 8, 5)
    assert room.read(64) == bytes(13) + b"t" + bytes(50)
