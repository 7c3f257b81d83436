"""libsodium by address: the few functions that avault needs, none of which leaves a copy behind.

The library is the one inside PyNaCl, whose own interface makes a Python object of every result. Here the caller says
where the result goes, as an address in the arena; an input is an address or, if it is public, ``bytes``. Sizes are
bytes. Nothing is checked but what C would not survive: the buffers must be as large as each function says.

Short calls keep the GIL (`ctypes.PyDLL`): that is faster, and no other thread's wipe of the arena can fall into the
middle of one. `scrypt` lets it go.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from importlib.util import find_spec
from typing import Any

from avault_protocol import InternalError

from .apart import apart

Pointer = int | bytes
"""An address, or the address of public bytes."""

HASH = 32
"""Bytes of a SHA-256 hash, an HMAC and its key."""
TAG = 16
"""Bytes by which an XChaCha20-Poly1305 ciphertext is longer than its plaintext."""

_HINT = "reinstall the release of PyNaCl that avault-daemon pins"


def _path() -> str:
    found = find_spec("nacl._sodium")
    if found is None or found.origin is None:
        raise InternalError("the libsodium of PyNaCl is not installed", hint=_HINT)
    return found.origin


_held = ctypes.PyDLL(_path())
_let_go = ctypes.CDLL(_path())


def _bind(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    try:
        function = library[name]
    except AttributeError:
        raise InternalError(f"the libsodium of PyNaCl has no {name}", hint=_HINT) from None
    function.restype, function.argtypes = result, arguments
    return function


def address_of(name: str) -> int:
    """Return the address of libsodium's function *name*, for C code that wants a function pointer."""
    return ctypes.cast(_bind(_held, name, c_int), c_void_p).value or 0


memzero: Callable[[int, int], None] = _bind(_held, "sodium_memzero", None, c_void_p, c_size_t)
"""memzero(address, n): zero, in a way that no compiler removes."""

random_into: Callable[[int, int], None] = _bind(_held, "randombytes_buf", None, c_void_p, c_size_t)
"""random_into(address, n): fill from the kernel's generator (getrandom(2))."""

hmac_sha256: Callable[[int, Pointer, int, Pointer], None] = apart(
    _bind(_held, "crypto_auth_hmacsha256", c_int, c_void_p, c_void_p, c_uint64, c_void_p)
)
"""hmac_sha256(out, data, n, key): HMAC-SHA256 (RFC 2104) under a key of 32 bytes."""

_memmove = _bind(ctypes.PyDLL(None), "memmove", c_void_p, c_void_p, c_void_p, c_size_t)
_stackzero = _bind(_held, "sodium_stackzero", None, c_size_t)
_chacha20 = _bind(
    _held, "crypto_stream_chacha20_ietf_xor", c_int, c_void_p, c_void_p, c_uint64, c_void_p, c_void_p
)
_chacha20_apart = apart(_chacha20)
_base64_decode = _bind(
    _held, "sodium_base642bin", c_int,
    c_void_p, c_size_t, c_void_p, c_size_t, c_char_p, c_void_p, c_void_p, c_int,
)  # fmt: skip
_init = _bind(_held, "sodium_init", c_int)
_memcmp = _bind(_held, "sodium_memcmp", c_int, c_void_p, c_void_p, c_size_t)
_is_zero = _bind(_held, "sodium_is_zero", c_int, c_void_p, c_size_t)
_seal = _bind(
    _held, "crypto_aead_xchacha20poly1305_ietf_encrypt", c_int,
    c_void_p, c_void_p, c_void_p, c_uint64, c_char_p, c_uint64, c_void_p, c_char_p, c_void_p,
)  # fmt: skip
_open = _bind(
    _held, "crypto_aead_xchacha20poly1305_ietf_decrypt", c_int,
    c_void_p, c_void_p, c_void_p, c_void_p, c_uint64, c_char_p, c_uint64, c_char_p, c_void_p,
)  # fmt: skip
_scrypt = _bind(
    _let_go, "crypto_pwhash_scryptsalsa208sha256_ll", c_int,
    c_void_p, c_size_t, c_char_p, c_size_t, c_uint64, c_uint32, c_uint32, c_void_p, c_size_t,
)  # fmt: skip

if _init() < 0:
    raise InternalError("libsodium does not start")


_BASE64_ORIGINAL = 1  # sodium_base64_VARIANT_ORIGINAL

# Public bytes, and room for them, to overwrite registers with.
_ZEROS = bytes(16 << 10)
_room = ctypes.create_string_buffer(len(_ZEROS))
_ROOM = ctypes.addressof(_room)
_ALL_VECTORS = 1024  # memmove of so many bytes loads every register that a shorter one does
_ALL_PATHS = 512 + 256 + 64 + 1  # ChaCha20 of 8 blocks at a time, of 4, of 1, of part of one
_DEPTH = (
    16 << 10
)  # bytes of stack that a call here, or what the linker or a signal saved during one, may have used


def scrub() -> None:
    """Overwrite what calls into C left of their secrets in vector registers and on this thread's stack.

    Without it a ChaCha20 key stays in a register, a signature's nonce (as good as the key) on the stack, and the next
    signal or lazily linked call copies registers to the stack, where they stay. The functions of this module that
    leave anything do this themselves.
    """
    _stackzero(_DEPTH)
    _chacha20(_ROOM, _ZEROS, _ALL_PATHS, _ZEROS, _ZEROS)
    _memmove(_ROOM, _ZEROS, _ALL_VECTORS)


def copy(out: int, data: Pointer, n: int) -> None:
    """Copy *n* bytes. Assigning slices of memoryviews instead would leave up to 512 of them in registers."""
    _memmove(out, data, n)
    _memmove(_ROOM, _ZEROS, min(n, len(_ZEROS)))  # takes the same registers


def chacha20_xor(out: int, data: Pointer, n: int, nonce: Pointer, key: Pointer) -> None:
    """ChaCha20 (RFC 8439) with a nonce of 12 bytes, a key of 32, counting from 0; *out* may be *data*."""
    _chacha20_apart(out, data, n, nonce, key)
    scrub()


def memcmp(a: Pointer, b: Pointer, n: int) -> bool:
    """Report whether *n* bytes are the same, in constant time."""
    same: bool = _memcmp(a, b, n) == 0
    return same


def is_zero(address: int, n: int) -> bool:
    """Report whether *n* bytes are all zero, in constant time."""
    zero: bool = _is_zero(address, n) == 1
    return zero


def random(n: int) -> bytes:
    """Return *n* random bytes that are not secret: a salt, a nonce."""
    out = ctypes.create_string_buffer(n)
    random_into(ctypes.addressof(out), n)
    return out.raw


def base64_decode(out: int, size: int, data: Pointer, n: int) -> int | None:
    """Decode *n* bytes of base64 (RFC 4648, padded, nothing else in it) to *out*, where *size* bytes have room.

    The data must be ASCII: the C code takes some bytes beyond for digits. Returns how many bytes came of it; None if it
    is no base64, or too much.
    """
    length = c_size_t()
    wrong = _base64_decode(out, size, data, n, None, ctypes.addressof(length), None, _BASE64_ORIGINAL)
    scrub()
    return None if wrong else length.value


def hkdf_extract(out: int, salt: bytes, ikm: Pointer, n: int) -> None:
    """HKDF-extract with SHA-256 (RFC 5869); the salt at most 32 bytes. *out*: 32 bytes."""
    if len(salt) > HASH:
        raise ValueError(f"a salt of {len(salt)} bytes, more than {HASH}")
    # HMAC pads a short key with zeros, so padding it here changes nothing.
    hmac_sha256(out, ikm, n, salt.ljust(HASH, b"\0"))


def hkdf_expand(out: int, prk: Pointer, info: bytes, length: int) -> None:
    """HKDF-expand with SHA-256 (RFC 5869); *info* is public.

    It writes more than *length* bytes: that many rounded up to whole hashes, and up to len(info) + 1 beyond.
    """
    size = len(info) + 1
    hmac_sha256(out, info + b"\1", size, prk)
    for index in range(2, -(-length // HASH) + 1):
        # Each hash is of the one before, then info and a number: written behind it, and overwritten by the result.
        _memmove(out + HASH, info + bytes((index,)), size)
        hmac_sha256(out + HASH, out, HASH + size, prk)
        out += HASH


def xchacha20poly1305_encrypt(out: int, msg: Pointer, n: int, ad: bytes, nonce: bytes, key: Pointer) -> None:
    """Encrypt *n* bytes to n + 16; nonce 24 bytes, key 32 (draft-irtf-cfrg-xchacha-03)."""
    if len(nonce) != 24:
        raise ValueError(f"a nonce of {len(nonce)} bytes, not 24")
    _seal(out, None, msg, n, ad, len(ad), None, nonce, key)
    scrub()


def xchacha20poly1305_decrypt(out: int, msg: Pointer, n: int, ad: bytes, nonce: bytes, key: Pointer) -> bool:
    """Decrypt *n* bytes, the tag among them, to n - 16; report whether the tag was right."""
    if len(nonce) != 24 or n < TAG:
        raise ValueError(f"a nonce of {len(nonce)} bytes, not 24, or a message of {n} bytes, less than {TAG}")
    right: bool = _open(out, None, None, msg, n, ad, len(ad), nonce, key) == 0
    scrub()
    return right


def scrypt(
    out: int, password: Pointer, n: int, salt: bytes, log_n: int, *, r: int = 8, p: int = 1, length: int = 32
) -> None:
    """scrypt (RFC 7914): *length* bytes to *out*. Blocks, for 0.1 s or more, without the GIL.

    It takes 128 * r * 2**log_n bytes beside the arena, which hold what is mixed from the password, neither the
    password nor the result; libsodium unmaps them at the end.

    Raises InternalError if there is no such memory.
    """
    failed = _scrypt(password, n, salt, len(salt), 1 << log_n, r, p, out, length)
    scrub()
    if failed:
        mebibytes = (128 * r << log_n) >> 20
        raise InternalError(f"no memory for scrypt: it takes {mebibytes} MiB", hint="use a smaller log_n")


def self_test() -> None:
    """Compare every function with what its text gives; raise InternalError naming the first that differs."""
    room = ctypes.create_string_buffer(512)
    out = ctypes.addressof(room)

    def expect(function: str, source: str, expected: str) -> None:
        if room.raw[: len(expected) // 2].hex() != expected:
            raise InternalError(f"libsodium fails its self-test: {function}, {source}", hint=_HINT)

    hmac_sha256(out, b"Hi There", 8, (b"\x0b" * 20).ljust(HASH, b"\0"))
    expect("HMAC-SHA256", "RFC 4231, case 1", _HMAC)
    hkdf_extract(out + 256, bytes(range(13)), b"\x0b" * 22, 22)
    hkdf_expand(out, out + 256, bytes(range(0xF0, 0xFA)), 42)
    expect("HKDF-SHA256", "RFC 5869, case 1", _HKDF)
    chacha20_xor(out, bytes(64), 64, bytes(12), bytes(32))
    expect("ChaCha20", "RFC 8439, A.1, case 1", _CHACHA20)
    nonce, key = bytes(range(0x40, 0x58)), bytes(range(0x80, 0xA0))
    xchacha20poly1305_encrypt(out, _AEAD_TEXT, len(_AEAD_TEXT), _AEAD_AD, nonce, key)
    expect("XChaCha20-Poly1305", "draft-irtf-cfrg-xchacha-03, A.3.1", _AEAD)
    xchacha20poly1305_decrypt(out, room.raw, len(_AEAD_TEXT) + TAG, _AEAD_AD, nonce, key)
    expect("XChaCha20-Poly1305", "decryption", _AEAD_TEXT.hex())
    base64_decode(out, 6, b"Zm9vYmFy", 8)
    expect("base64", "RFC 4648, 10", _BASE64)
    scrypt(out, b"", 0, b"", 4, r=1, length=64)
    expect("scrypt", "RFC 7914, 12, case 1", _SCRYPT)


_HMAC = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
_HKDF = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
_BASE64 = "666f6f626172"
_CHACHA20 = (
    "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
)
_AEAD_TEXT = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
    b"sunscreen would be it."
)
_AEAD_AD = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
_AEAD = (
    "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f4eda7e39"
    "ae64c6708c54c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
    "21f9664c97637da9768812f615c68b13b52ec0875924c1c7987947deafd8780acf49"
)
_SCRYPT = (
    "77d6576238657b203b19ca42c18a0497f16b4844e3074ae8dfdffa3fede21442"
    "fcd0069ded0948f8326a753a0fc81f17e8d3e0fb2e0d3628cf35e20c38d18906"
)
