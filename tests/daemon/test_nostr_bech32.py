"""bech32: the vectors of BIP-173, round trips, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from avault_daemon.nostr import bech32

ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


@pytest.mark.parametrize(
    ("text", "prefix", "data"),
    [
        ("A12UEL5L", "a", ""),
        ("a12uel5l", "a", ""),
        ("an83characterlonghumanreadablepartthatcontainsthenumber1andtheexcludedcharactersbio1tt5tgs",
         "an83characterlonghumanreadablepartthatcontainsthenumber1andtheexcludedcharactersbio", ""),
        ("abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw", "abcdef", "00443214c74254b635cf84653a56d7c675be77df"),
        ("11qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqc8247j",
         "1", "00" * 51),
        ("split1checkupstagehandshakeupstreamerranterredcaperred2y9e3w", "split",
         "c5f38b70305f519bf66d85fb6cf03058f3dde463ecd7918f2dc743918f2d"),
        ("?1ezyfcl", "?", ""),
    ],
)  # fmt: skip
def test_bip173(text: str, prefix: str, data: str) -> None:
    assert bech32.decode(prefix, text).hex() == data


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("pzry9x0s0muk", "begin with"),
        ("1pzry9x0s0muk", "begin with"),
        ("x1b4n0q5v", "begin with"),
        ("li1dgmt3", "too short"),
        ("de1lg7wt\xff", "mixed"),
        ("a12UEL5L", "mixed"),
        ("a12uel5b", "character"),
        ("a12uel5k", "checksum"),
        ("a1", "too short"),
        ("", "begin with"),
    ],
)
def test_refused(text: str, reason: str) -> None:
    prefix = "li" if text.startswith("li") else "a"
    with pytest.raises(ValueError, match=reason):
        bech32.decode(prefix, text)


@given(prefix=st.text("abcdefghijklmnopqrstuvwxyz", min_size=1), data=st.binary(max_size=300))
def test_round_trip(prefix: str, data: bytes) -> None:
    text = bech32.encode(prefix, data)
    assert bech32.decode(prefix, text) == data
    assert bech32.decode(prefix, text.upper()) == data


@given(
    data=st.binary(min_size=1, max_size=100),
    changes=st.dictionaries(st.integers(0), st.sampled_from(ALPHABET), min_size=1, max_size=4),
)
def test_up_to_four_changed_characters_are_found(data: bytes, changes: dict[int, str]) -> None:
    text = bech32.encode("test", data)
    altered = list(text)
    for position, char in changes.items():
        altered[5 + position % (len(text) - 5)] = char
    if "".join(altered) != text and len(text) <= 90:
        with pytest.raises(ValueError, match="checksum"):
            bech32.decode("test", "".join(altered))


@pytest.mark.parametrize("words", [[0, 1], [0, 0, 0], [31]])
def test_padding_is_zero_and_short(words: list[int]) -> None:
    """Groups of five bits that leave a bit set, or a whole group, beyond the last byte."""
    with pytest.raises(ValueError, match="padding"):
        bech32.decode("a", sealed("a", words))


def sealed(prefix: str, words: list[int]) -> str:
    """Put the right checksum behind *words*, found as BIP-173 defines it: the one that decodes."""
    data = "".join(ALPHABET[word] for word in words)
    check = checksum([ord(char) >> 5 for char in prefix] + [0] + [ord(char) & 31 for char in prefix] + words)
    return f"{prefix}1{data}" + "".join(ALPHABET[check >> 5 * (5 - index) & 31] for index in range(6))


def checksum(words: list[int]) -> int:
    check = 1
    for word in [*words, 0, 0, 0, 0, 0, 0]:
        top, check = check >> 25, (check & 0x1FFFFFF) << 5 ^ word
        for bit, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= generator * (top >> bit & 1)
    return check ^ 1
