"""nip49: the text's vector, nostr-sdk both ways, wrong passphrases, altered characters, the bounds of the cost."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Any

import nostr_sdk  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]
import pytest
from hypothesis import given, strategies as st

from avault_daemon.memory import sodium
from avault_daemon.memory.arena import Arena
from avault_daemon.nostr import bech32, nip49
from avault_daemon.nostr.keys import SecretKey
from avault_protocol import BadRequestError, CorruptError, WrongPassphraseError
from support.slots import filled, secret_key
from support.vectors import load_json

VECTORS = load_json("nip49.json")
SECRET = "07" * 32
ARENA = Arena()


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena()
    yield arena
    assert arena.in_use == 0, "something was not released"


def seal(arena: Arena, passphrase: bytes = b"passphrase", log_n: int = 1, **options: int) -> str:
    with secret_key(arena, SECRET) as key, filled(arena, passphrase) as slot:
        return nip49.encrypt(arena, key, slot, log_n, **options)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def unseal(
    arena: Arena, text: str, passphrase: bytes = b"passphrase", lowest: int = 1, highest: int = 22
) -> str:
    with (
        filled(arena, passphrase) as slot,
        nip49.decrypt(arena, text, slot, min_log_n=lowest, max_log_n=highest) as secret,
    ):
        return bytes(secret.view).hex()


@pytest.mark.parametrize("vector", VECTORS["decrypt"], ids=lambda vector: vector["password"])
def test_the_vector(arena: Arena, vector: dict[str, Any]) -> None:
    assert unseal(arena, vector["ncryptsec"], vector["password"].encode(), 16) == vector["secret"]
    assert nip49.log_n_of(vector["ncryptsec"]) == vector["log_n"]


def test_what_the_client_normalizes() -> None:
    """The passphrase comes in NFKC; that Python's tables do as the text says is checked here all the same."""
    given_, wanted = (bytes.fromhex(VECTORS["nfkc"][name]) for name in ("input", "normalized"))
    assert unicodedata.normalize("NFKC", given_.decode()).encode() == wanted


def test_we_read_what_nostr_sdk_wrote(arena: Arena) -> None:
    sealed = nostr_sdk.SecretKey.parse(SECRET).encrypt("a passphrase").to_bech32()
    assert unseal(arena, sealed, b"a passphrase") == SECRET


def test_nostr_sdk_reads_what_we_wrote(arena: Arena) -> None:
    sealed = nostr_sdk.EncryptedSecretKey.from_bech32(seal(arena, "pässphrase".encode(), 4))
    assert sealed.decrypt("pässphrase").to_hex() == SECRET
    assert sealed.key_security() == nostr_sdk.KeySecurity.MEDIUM


@given(passphrase=st.binary(min_size=1, max_size=100), log_n=st.integers(1, 5), security=st.integers(0, 2))
def test_round_trip(passphrase: bytes, log_n: int, security: int) -> None:
    text = seal(ARENA, passphrase, log_n, security=security)
    assert unseal(ARENA, text, passphrase) == SECRET
    assert nip49.log_n_of(text) == log_n
    assert bech32.decode("ncryptsec", text)[42] == security


def test_a_slot_will_do_for_a_key(arena: Arena) -> None:
    with filled(arena, b"\7" * 32) as secret, filled(arena, b"passphrase") as passphrase:
        salt, nonce = bytes(16), bytes(24)
        text = nip49.encrypt(arena, secret, passphrase, 1, salt=salt, nonce=nonce)
        assert bytes(secret.view) == b"\7" * 32
        assert text == nip49.encrypt(arena, secret, passphrase, 1, salt=salt, nonce=nonce)
        assert text != nip49.encrypt(arena, secret, passphrase, 1)
        assert bech32.decode("ncryptsec", text)[:42] == b"\2\1" + salt + nonce


@given(wrong=st.binary(min_size=1, max_size=20).filter(lambda text: text.rstrip(b"\0") != b"passphrase"))
def test_a_wrong_passphrase(wrong: bytes) -> None:
    text = seal(ARENA)
    with pytest.raises(WrongPassphraseError):
        unseal(ARENA, text, wrong)


@given(byte=st.integers(2, 90), bit=st.integers(0, 7))
def test_no_altered_bit_passes(byte: int, bit: int) -> None:
    data = bytearray(bech32.decode("ncryptsec", seal(ARENA)))
    data[byte] ^= 1 << bit
    with pytest.raises((WrongPassphraseError, CorruptError)):
        unseal(ARENA, bech32.encode("ncryptsec", bytes(data)))


@pytest.fixture
def no_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    def scrypt(*_: object) -> None:
        raise AssertionError("it computed")

    monkeypatch.setattr(sodium, "scrypt", scrypt)


@pytest.mark.usefixtures("no_scrypt")
@pytest.mark.parametrize("log_n", [0, 1, 15, 23, 63, 255])
def test_a_cost_out_of_bounds_costs_nothing(arena: Arena, log_n: int) -> None:
    text = bech32.encode("ncryptsec", bytes((2, log_n)) + bytes(40) + b"\1" + bytes(48))
    with (
        filled(arena, b"passphrase") as slot,
        pytest.raises(CorruptError, match=f"log_n {log_n}, not from 16 to 22"),
    ):
        nip49.decrypt(arena, text, slot)


@pytest.mark.parametrize("bounds", [(5, 22), (1, 3)])
def test_the_bounds_are_the_callers(arena: Arena, bounds: tuple[int, int]) -> None:
    text = seal(arena, log_n=4)
    assert unseal(arena, text, lowest=4, highest=4) == SECRET
    with pytest.raises(CorruptError, match="log_n 4"):
        unseal(arena, text, lowest=bounds[0], highest=bounds[1])


@pytest.mark.usefixtures("no_scrypt")
@pytest.mark.parametrize("log_n", [-1, 0, 23, 1000])
def test_no_such_cost_is_written(arena: Arena, log_n: int) -> None:
    with pytest.raises(BadRequestError, match=f"log_n {log_n}, not from 1 to 22"):
        seal(arena, log_n=log_n)


@pytest.mark.usefixtures("no_scrypt")
def test_salt_nonce_and_security_are_checked(arena: Arena) -> None:
    with SecretKey.generate(arena) as key, filled(arena, b"passphrase") as slot:
        for options in ({"salt": bytes(15)}, {"salt": bytes(17)}, {"nonce": bytes(23)}, {"security": 3}):
            with pytest.raises(ValueError, match="not what NIP-49 wants"):
                nip49.encrypt(arena, key, slot, 1, **options)  # pyright: ignore[reportArgumentType]


RIGHT = bytes((2, 16)) + bytes(40) + b"\1" + bytes(48)


@pytest.mark.usefixtures("no_scrypt")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "ncryptsec1",
        VECTORS["decrypt"][0]["ncryptsec"][:-1],
        VECTORS["decrypt"][0]["ncryptsec"][:-1] + "q",
        bech32.encode("nsec", RIGHT),
        bech32.encode("ncryptsec", RIGHT[:-1]),
        bech32.encode("ncryptsec", RIGHT + b"\0"),
        bech32.encode("ncryptsec", b"\1" + RIGHT[1:]),
        bech32.encode("ncryptsec", RIGHT[:42] + b"\3" + RIGHT[43:]),
    ],
)
def test_malformed(arena: Arena, text: str) -> None:
    with pytest.raises(CorruptError, match="ncryptsec"):
        nip49.log_n_of(text)
    with pytest.raises(CorruptError, match="ncryptsec"):
        unseal(arena, text)
