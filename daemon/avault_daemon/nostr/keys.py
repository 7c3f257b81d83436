"""A secp256k1 key that never leaves the arena: BIP-340 signatures, and the shared point that NIP-44 starts from.

libsecp256k1 is the one inside coincurve, called by address, because coincurve's own classes keep the key as
``bytes``. Everything done with a secret key is constant time. Calls keep the GIL, so a wipe never falls into one.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import c_char, c_int, c_size_t, c_uint, c_void_p
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Self

from avault_protocol import CorruptError, InternalError, LockedError

from ..memory import sodium
from ..memory.apart import apart
from ..memory.arena import Arena, Slot

SECRET = 32
"""Bytes of a secret key, a public key (x only), a digest and a shared x."""
SIGNATURE = 64

_KEYPAIR = 96
_CONTEXT_NONE = 1


def _library() -> ctypes.PyDLL:
    found = find_spec("coincurve._libsecp256k1")
    if found is None or found.origin is None:
        raise InternalError("the libsecp256k1 of coincurve is not installed", hint=_HINT)
    return ctypes.PyDLL(found.origin)


def _bind(name: str, result: Any, *arguments: Any) -> Any:
    try:
        function = _secp[f"secp256k1_{name}"]
    except AttributeError:
        raise InternalError(f"the libsecp256k1 of coincurve has no {name}", hint=_HINT) from None
    function.restype, function.argtypes = result, arguments
    return function


_HINT = "reinstall the release of coincurve that avault-daemon pins"
_secp = _library()
_seckey_verify = _bind("ec_seckey_verify", c_int, c_void_p, c_void_p)
_keypair_create = _bind("keypair_create", c_int, c_void_p, c_void_p, c_void_p)
_keypair_xonly = _bind("keypair_xonly_pub", c_int, c_void_p, c_void_p, c_void_p, c_void_p)
_xonly_parse = _bind("xonly_pubkey_parse", c_int, c_void_p, c_void_p, c_void_p)
_xonly_serialize = _bind("xonly_pubkey_serialize", c_int, c_void_p, c_void_p, c_void_p)
_pubkey_parse = _bind("ec_pubkey_parse", c_int, c_void_p, c_void_p, c_void_p, c_size_t)
_sign32 = apart(_bind("schnorrsig_sign32", c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p))
_verify = _bind("schnorrsig_verify", c_int, c_void_p, c_void_p, c_void_p, c_size_t, c_void_p)
_ecdh = _bind("ecdh", c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p)
_randomize = _bind("context_randomize", c_int, c_void_p, c_void_p)
_set_illegal = _bind("context_set_illegal_callback", None, c_void_p, c_void_p, c_void_p)

# What secp256k1_ecdh hands the shared point to: f(out, x, y, data). NIP-44 wants x as it is. libsodium's seed of an
# Ed25519 key is its first 32 bytes: f(out, key). So this is a C function that copies x and nothing else: no Python
# runs while the point lies on the stack, and no callback needs memory that is writable and executable. It returns 0,
# which secp256k1_ecdh passes on as a failure of its own.
_COPY_X = sodium.address_of("crypto_sign_ed25519_sk_to_seed")
# libsecp256k1 ends the process when an argument is unusable, and a key that lock() has just wiped is. With a
# function that does nothing in its place, the call fails instead.
_DO_NOTHING = sodium.address_of("crypto_hash_sha256_bytes")


def _new_context() -> int:
    context: int = _bind("context_create", c_void_p, c_uint)(_CONTEXT_NONE)
    _set_illegal(context, _DO_NOTHING, None)
    # Blinds what signing computes with the key against side channels.
    _randomize(context, os.urandom(32))
    return context


_context = _new_context()


class SecretKey:
    """A secret key in the arena; ``public`` is its public key, 32 bytes, x only (BIP-340)."""

    __slots__ = ("_slot", "public")

    def __init__(self, slot: Slot, public: bytes) -> None:
        self._slot = slot  # the secret, 32 bytes, then libsecp256k1's keypair, 96 bytes
        self.public = public

    def __repr__(self) -> str:
        return f"<SecretKey of {self.public.hex()[:16]}>"

    @classmethod
    def generate(cls, arena: Arena) -> SecretKey:
        """Make a new key."""
        slot = arena.take(SECRET)
        sodium.random_into(slot.address, SECRET)
        while not _seckey_verify(_context, slot.address):
            sodium.random_into(slot.address, SECRET)
        return cls.adopt(slot)

    @classmethod
    def adopt(cls, slot: Slot) -> SecretKey:
        """Take over a slot of 32 bytes; it is released, also on errors.

        Raises CorruptError if the bytes are no secret key (zero, or not below the order of the curve).
        """
        with slot:
            if slot.size != SECRET:
                raise CorruptError(f"a secret key of {slot.size} bytes, not {SECRET}")
            own = slot.arena.take(SECRET + _KEYPAIR)
            sodium.copy(own.address, slot.address, SECRET)
        valid = _keypair_create(_context, own.address + SECRET, own.address)
        sodium.scrub()
        if not valid:
            own.release()
            raise CorruptError("the bytes are no secret key of secp256k1")
        return cls(own, _public_of(own.address + SECRET))

    def sign(self, digest: bytes, aux: bytes | None = None) -> bytes:
        """Return the BIP-340 signature, 64 bytes, of a digest of 32 bytes; *aux*: 32 bytes of chance.

        Raises LockedError if the key has been wiped meanwhile.
        """
        aux = os.urandom(32) if aux is None else aux
        if len(digest) != SECRET or len(aux) != SECRET:
            raise ValueError(f"a digest of {len(digest)} and chance of {len(aux)} bytes, not {SECRET} each")
        signature = ctypes.create_string_buffer(SIGNATURE)
        address = ctypes.addressof(signature)
        _sign32(_context, address, digest, self._slot.address + SECRET, aux)
        sodium.scrub()
        if signature.raw == bytes(SIGNATURE):  # what libsecp256k1 leaves there when it cannot sign
            raise LockedError("the key has been wiped")
        return signature.raw

    def ecdh_x(self, public: bytes, out: int) -> None:
        """Put x of the point that this key and *public* (32 bytes, x only) share at *out*: 32 bytes, unhashed.

        Raises CorruptError if *public* is no public key, LockedError if the key has been wiped meanwhile.
        """
        point = (c_char * 64)()
        if len(public) != SECRET or not _pubkey_parse(_context, ctypes.addressof(point), b"\2" + public, 33):
            raise CorruptError("not a public key of secp256k1")
        _ecdh(_context, out, ctypes.addressof(point), self._slot.address, _COPY_X, None)
        sodium.scrub()
        # A wipe is never undone, so a key that is whole now was whole before.
        if sodium.is_zero(self._slot.address, SECRET):
            sodium.memzero(out, SECRET)
            raise LockedError("the key has been wiped")

    def copy_to(self, out: int) -> None:
        """Put the secret at *out*: 32 bytes."""
        sodium.copy(out, self._slot.address, SECRET)

    def close(self) -> None:
        """Wipe the key. Doing so twice is fine."""
        self._slot.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Report whether *signature* (BIP-340, 64 bytes) of *message* is by *public* (32 bytes, x only)."""
    point = (c_char * 64)()
    address = ctypes.addressof(point)
    return (
        len(public) == SECRET
        and len(signature) == SIGNATURE
        and _xonly_parse(_context, address, public) == 1
        and _verify(_context, signature, message, len(message), address) == 1
    )


def _public_of(keypair: int) -> bytes:
    point, out = (c_char * 64)(), (c_char * SECRET)()
    _keypair_xonly(_context, ctypes.addressof(point), None, keypair)
    _xonly_serialize(_context, ctypes.addressof(out), ctypes.addressof(point))
    return out.raw
