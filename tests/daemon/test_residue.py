"""No copy of a secret outside the arena: another process looks through all memory and registers of one that uses all.

What it looks for is not only what was put in but whatever would give it away: shared points, conversation and message
keys, HMAC's pads, the nonce of a signature.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import coincurve
import pytest

from avault_daemon.memory.arena import SIZE, Arena, Kind
from avault_daemon.nostr.keys import SecretKey
from support import memory
from support.holder import holder
from support.memory import Scan
from support.slots import filled, has_secret_memory, secret_key
from support.victim import KEY, PASSPHRASE, TEXT

TESTS = Path(__file__).parents[1]
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
STEPS = ["adopt", "sign", "converse", "encrypt", "decrypt", "passphrases", "primitives", "copy", "thread"]


def negated(secret: bytes) -> bytes:
    return (ORDER - int.from_bytes(secret, "big")).to_bytes(32, "big")


def limbs(x: bytes) -> bytes:
    """A number as libsecp256k1 computes with it: five words of 52 bits."""
    number = int.from_bytes(x, "big")
    return b"".join((number >> 52 * index & (1 << 52) - 1).to_bytes(8, "little") for index in range(5))


def tagged(tag: bytes, data: bytes) -> bytes:
    head = hashlib.sha256(tag).digest()
    return hashlib.sha256(head + head + data).digest()


class Secrets:
    """What the victim gets, and everything that can be derived from it."""

    def __init__(self) -> None:
        self.key, self.text, self.planted = os.urandom(KEY), os.urandom(TEXT), os.urandom(KEY)
        self.passphrase = os.urandom(PASSPHRASE // 2).hex().encode()
        self.salt, self.nonce = os.urandom(16), os.urandom(32)
        arena = Arena()
        with SecretKey.generate(arena) as other, secret_key(arena, self.key.hex()) as key:
            self.public = other.public
            self.needles = {"key": self.key, "negated key": negated(self.key), "text": self.text}
            self.needles |= {"passphrase": self.passphrase, **self._signing(key), **self._scrypt()}
            for name, public in (("own", key.public), ("other", other.public)):
                with filled(arena, bytes(32)) as out:
                    key.ecdh_x(public, out.address)
                    self.needles |= self._conversation(name, bytes(out.view))
        prk = hmac.digest(bytes(32), self.key, "sha256")
        self.needles |= {"prk": prk, "index key": hmac.digest(prk, b"avault-index\1", "sha256")}

    def _signing(self, key: SecretKey) -> dict[str, bytes]:
        """BIP-340: the key masked with chance, and the nonce, which with the signature gives the key away."""
        odd = coincurve.PrivateKey(self.key).public_key.format()[0] == 3
        secret = negated(self.key) if odd else self.key
        mask = tagged(b"BIP0340/aux", self.nonce)
        masked = bytes(a ^ b for a, b in zip(secret, mask, strict=True))
        nonce = tagged(b"BIP0340/nonce", masked + key.public + self.salt * 2)
        return {"masked key": masked, "nonce": nonce, "negated nonce": negated(nonce)}

    def _scrypt(self) -> dict[str, bytes]:
        return {"scrypt": hashlib.scrypt(self.passphrase, salt=self.salt, n=1024, r=8, p=1, dklen=32)}

    def _conversation(self, name: str, x: bytes) -> dict[str, bytes]:
        key = hmac.digest(b"nip44-v2", x, "sha256")
        one, two, three = self._expand(key)
        found = {"x": x, "x in limbs": limbs(x), "conversation key": key, "chacha key": one}
        found |= {"second hash": two, "mac key": two[12:] + three[:12]}
        return {f"{label} ({name})": needle for label, needle in found.items()}

    def _expand(self, key: bytes) -> list[bytes]:
        hashes: list[bytes] = [b""]
        for index in (1, 2, 3):
            hashes.append(hmac.digest(key, hashes[-1] + self.nonce + bytes((index,)), "sha256"))
        return hashes[1:]


class Victim:
    """The process under test; see support/victim.py."""

    def __init__(self, process: subprocess.Popen[bytes], secrets: Secrets) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.pid, self._input, self._output = process.pid, process.stdin.fileno(), process.stdout.fileno()
        self._secrets = secrets
        os.write(self._input, secrets.planted)
        os.write(self._input, b"." + secrets.key + secrets.passphrase + secrets.text)
        self.base = int.from_bytes(os.read(self._output, 8), "little")
        assert os.read(self._output, 1) == b"."

    def go(self) -> None:
        """Let it do its next step, and come back when that is done."""
        os.write(self._input, b".")
        assert os.read(self._output, 1) == b"."

    def finish(self) -> None:
        """End the busy step."""
        self.go()

    def check(self) -> Scan:
        """Fail if there is any copy outside the arena."""
        arena = [(self.base, self.base + SIZE)]
        return memory.check(self.pid, self._secrets.needles, {"planted": self._secrets.planted}, ignore=arena)


@contextmanager
def victim(kind: Kind, secrets: Secrets) -> Generator[Victim]:
    arguments = [kind, secrets.public.hex(), secrets.salt.hex(), secrets.nonce.hex()]
    with subprocess.Popen(
        [sys.executable, "-m", "support.victim", *arguments],
        cwd=TESTS,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as process:
        try:
            yield Victim(process, secrets)
        finally:
            process.kill()


KINDS = [
    pytest.param(
        "memfd_secret",
        marks=pytest.mark.skipif(not has_secret_memory(), reason="this kernel gives no memfd_secret"),
    ),
    "mlock",
]


@pytest.mark.parametrize("kind", KINDS)
def test_no_step_leaves_a_copy(kind: Kind) -> None:
    secrets = Secrets()
    with victim(kind, secrets) as process:
        assert process.check().size > 1 << 20
        for _ in STEPS:
            process.go()
            process.check()
        process.go()  # busy, then no more, so that all is done many times over
        process.finish()
        process.check()
        process.go()  # wipe
        process.check()
        process.go()  # close
        process.check()


@pytest.mark.parametrize("kind", KINDS)
def test_only_an_arena_of_the_kind_mlock_can_be_read(kind: Kind) -> None:
    """Where it can, the needles are found in it: they are what the victim has."""
    secrets = Secrets()
    with victim(kind, secrets) as process, memory.stopped(process.pid):
        found = memory.scan(process.pid, secrets.needles).hits
    there = {hit.label for hit in found if process.base <= hit.address < process.base + SIZE}
    assert there == ({"key", "passphrase", "text"} if kind == "mlock" else set())


def test_wipe_and_close_leave_nothing_in_the_arena_either() -> None:
    secrets = Secrets()
    with victim("mlock", secrets) as process:
        for _ in STEPS:
            process.go()
        process.go()
        process.finish()
        process.go()  # wipe
        with memory.stopped(process.pid):
            assert not memory.scan(process.pid, secrets.needles).hits


# --- the scanner itself ----------------------------------------------------------------------------------------------

PLANT = """
import os, sys
seed = os.read(0, 64)
shift = int(sys.argv[2])
forms = {
    "raw": seed, "reversed": seed[::-1], "hex": seed.hex().encode(), "HEX": seed.hex().upper().encode(),
    "inner pad": bytes(b ^ 0x36 for b in seed), "outer pad": bytes(b ^ 0x5c for b in seed),
    "part": seed[20:36], "less": seed[20:35], "none": b"",
}
kept = bytes(shift) + forms[sys.argv[1]]
del forms, seed
for _ in range(1000):
    bytes(200), bytearray(200), "x" * 150
os.write(1, b".")
os.read(0, 1)
"""


def planted(form: str, shift: int = 0) -> list[memory.Hit]:
    """Return what is found of 64 bytes in a process that keeps them in another form, hex form or part."""
    needle = os.urandom(64).replace(b"\0", b"\1")  # a part of it ends where zeros begin
    with holder(needle, PLANT, form, str(shift)) as process:
        process.says.read(1)
        with memory.stopped(process.pid):
            return memory.scan(process.pid, {"needle": needle}).hits


@pytest.mark.parametrize("form", memory.forms(b"").keys())
@pytest.mark.parametrize("shift", [0, 3])
def test_the_scanner_finds_each_form(form: str, shift: int) -> None:
    assert form in {
        hit.form for hit in planted(form, shift) if hit.length == (128 if "h" in form.lower()[:1] else 64)
    }


@pytest.mark.parametrize("shift", range(8))
def test_the_scanner_finds_16_bytes_in_a_row(shift: int) -> None:
    assert any(hit.length == 16 for hit in planted("part", shift))


def test_a_scan_that_misses_what_was_planted_is_void() -> None:
    with victim("mlock", Secrets()) as process, pytest.raises(AssertionError, match="void"):
        memory.check(process.pid, {}, {"planted": os.urandom(32)})


def test_check_fails_on_a_copy() -> None:
    secrets = Secrets()
    with victim("mlock", secrets) as process, pytest.raises(AssertionError, match=r"copies.*planted"):
        memory.check(process.pid, {"planted": secrets.planted}, {})
