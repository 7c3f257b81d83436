"""keys: the vectors of BIP-340, ECDH against another library, and keys that are none or no more."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, strategies as st

from avault_daemon.memory import sodium
from avault_daemon.memory.arena import Arena
from avault_daemon.nostr.keys import SecretKey, verify
from avault_protocol import CorruptError, LockedError
from support.slots import filled, secret_key
from support.vectors import load_csv

BIP340 = load_csv("bip340-test-vectors.csv")
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
SECRETS = st.integers(1, ORDER - 1).map(lambda number: f"{number:064x}")
ARENA = Arena()


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena()
    yield arena
    assert arena.in_use == 0, "something was not released"


def number(vector: dict[str, str]) -> str:
    return vector["index"]


@pytest.mark.parametrize("vector", BIP340, ids=number)
def test_bip340_verify(vector: dict[str, str]) -> None:
    public, message, signature = (
        bytes.fromhex(vector[name]) for name in ("public key", "message", "signature")
    )
    assert verify(public, message, signature) == (vector["verification result"] == "TRUE")


SIGNED = [vector for vector in BIP340 if vector["secret key"]]
# An event's id is 32 bytes, and so is all that we sign: the vectors of other lengths are verified above.
OTHER_LENGTHS = [vector for vector in SIGNED if len(vector["message"]) != 64]


def test_four_vectors_sign_messages_of_other_lengths() -> None:
    assert len(OTHER_LENGTHS) == 4
    assert all(vector["verification result"] == "TRUE" for vector in OTHER_LENGTHS)


@pytest.mark.parametrize("vector", [vector for vector in SIGNED if vector not in OTHER_LENGTHS], ids=number)
def test_bip340_sign(arena: Arena, vector: dict[str, str]) -> None:
    with secret_key(arena, vector["secret key"]) as key:
        assert key.public.hex().upper() == vector["public key"]
        signature = key.sign(bytes.fromhex(vector["message"]), bytes.fromhex(vector["aux_rand"]))
    assert signature.hex().upper() == vector["signature"]


@pytest.mark.parametrize("vector", OTHER_LENGTHS, ids=number)
def test_only_digests_are_signed(arena: Arena, vector: dict[str, str]) -> None:
    with secret_key(arena, vector["secret key"]) as key, pytest.raises(ValueError, match="not 32 each"):
        key.sign(bytes.fromhex(vector["message"]))


@given(digest=st.binary(min_size=32, max_size=32), bit=st.integers(0, (32 + 32 + 64) * 8 - 1))
def test_no_altered_bit_verifies(digest: bytes, bit: int) -> None:
    with SecretKey.generate(ARENA) as key:
        whole = bytearray(key.public + digest + key.sign(digest))
    assert verify(bytes(whole[:32]), bytes(whole[32:64]), bytes(whole[64:]))
    whole[bit // 8] ^= 1 << bit % 8
    assert not verify(bytes(whole[:32]), bytes(whole[32:64]), bytes(whole[64:]))


def test_signatures_take_chance(arena: Arena) -> None:
    with SecretKey.generate(arena) as key:
        one, two = key.sign(bytes(32)), key.sign(bytes(32))
        assert one != two
        assert key.sign(bytes(32), bytes(32)) == key.sign(bytes(32), bytes(32))
        with pytest.raises(ValueError, match="not 32 each"):
            key.sign(bytes(32), bytes(31))


@pytest.mark.parametrize("sizes", [(31, 64), (33, 64), (32, 63), (32, 65), (0, 64), (32, 0)])
def test_other_sizes_verify_nothing(sizes: tuple[int, int]) -> None:
    assert not verify(bytes(sizes[0]), bytes(32), bytes(sizes[1]))


def public_key(secret: str) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int(secret, 16), ec.SECP256K1())


@given(mine=SECRETS, theirs=SECRETS)
def test_ecdh(mine: str, theirs: str) -> None:
    """Both ways, and as another library computes it: of a public key without its sign, x does not depend on the sign."""
    expected = public_key(mine).exchange(ec.ECDH(), public_key(theirs).public_key())
    with secret_key(ARENA, mine) as a, secret_key(ARENA, theirs) as b, ARENA.take(64) as out:
        a.ecdh_x(b.public, out.address)
        b.ecdh_x(a.public, out.address + 32)
        assert bytes(out.view) == expected * 2
        x = public_key(mine).public_key().public_numbers().x
        assert a.public == x.to_bytes(32, "big")


@pytest.mark.parametrize("public", [bytes(32), b"\xff" * 32, bytes(31), bytes(33), b""])
def test_ecdh_refuses_what_is_no_key(arena: Arena, public: bytes) -> None:
    with SecretKey.generate(arena) as key, arena.take(32) as out:
        with pytest.raises(CorruptError, match="not a public key"):
            key.ecdh_x(public, out.address)
        assert bytes(out.view) == bytes(32)


@pytest.mark.parametrize("secret", [1, ORDER - 1])
def test_the_least_and_the_greatest_key(arena: Arena, secret: int) -> None:
    with secret_key(arena, f"{secret:064x}") as key, arena.take(32) as out:
        assert key.public.hex().startswith("79be667ef9dcbbac")
        key.copy_to(out.address)
        assert int.from_bytes(out.view, "big") == secret


@pytest.mark.parametrize("secret", [0, ORDER, ORDER + 1, 2**256 - 1])
def test_no_key(arena: Arena, secret: int) -> None:
    with pytest.raises(CorruptError, match="no secret key"):
        secret_key(arena, f"{secret:064x}")


@pytest.mark.parametrize("size", [31, 33])
def test_a_key_has_32_bytes(arena: Arena, size: int) -> None:
    with pytest.raises(CorruptError, match=f"{size} bytes, not 32"):
        SecretKey.adopt(filled(arena, b"\1" * size))


def test_adopting_takes_the_slot(arena: Arena) -> None:
    slot = filled(arena, b"\1" * 32)
    with SecretKey.adopt(slot):
        with pytest.raises(ValueError, match="released"):
            bytes(slot.view)
        assert arena.in_use == 128


def test_generating_throws_again_what_is_out_of_range(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    throws = [b"\xff" * 32, bytes(32), ORDER.to_bytes(32, "big"), b"\7" * 32]

    def random_into(address: int, size: int) -> None:
        sodium.copy(address, throws.pop(0), size)

    monkeypatch.setattr(sodium, "random_into", random_into)
    with SecretKey.generate(arena) as key, secret_key(arena, "07" * 32) as expected:
        assert key.public == expected.public
    assert not throws


def test_generated_keys_differ(arena: Arena) -> None:
    with SecretKey.generate(arena) as one, SecretKey.generate(arena) as two:
        assert one.public != two.public


def test_a_wiped_key_does_nothing(arena: Arena) -> None:
    """libsecp256k1 would end the process instead, if it were let."""
    with SecretKey.generate(arena) as key, SecretKey.generate(arena) as other, arena.take(32) as out:
        public = other.public
        arena.wipe()
        with pytest.raises(LockedError, match="wiped"):
            key.sign(bytes(32))
        with pytest.raises(LockedError, match="wiped"):
            key.ecdh_x(public, out.address)
        assert bytes(out.view) == bytes(32)


def test_closing_and_repr(arena: Arena) -> None:
    key = secret_key(arena, "07" * 32)
    assert repr(key) == "<SecretKey of 989c0b76cb563971>"
    key.close()
    key.close()
    with pytest.raises(AttributeError):
        key.sign(bytes(32))


# PR_SET_MDWE, since Linux 6.3: no page of this process may become executable any more.
NO_NEW_CODE = """
import ctypes, sys
refused = ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)
import mmap
from avault_daemon.memory.arena import Arena
from avault_daemon.nostr.keys import SecretKey, verify
arena = Arena()
with SecretKey.generate(arena) as key, arena.take(32) as out:
    key.ecdh_x(key.public, out.address)
    works = any(out.view) and verify(key.public, bytes(32), key.sign(bytes(32)))
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)
    in_force = False
except PermissionError:
    in_force = True
sys.stdout.write(f"{refused == 0 and in_force} {works}")
"""


def test_it_needs_no_memory_that_is_writable_and_executable() -> None:
    done = subprocess.run([sys.executable, "-c", NO_NEW_CODE], capture_output=True, check=True, text=True)
    in_force, works = done.stdout.split()
    assert works == "True"
    if in_force == "False":
        pytest.skip("this kernel has no PR_SET_MDWE")
