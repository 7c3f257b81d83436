"""Bech32 (BIP-173) without its limit of 90 characters, as NIP-19 and NIP-49 use it."""

from __future__ import annotations

_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_VALUE = {char: value for value, char in enumerate(_ALPHABET)}
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM = 6


def encode(prefix: str, data: bytes) -> str:
    """Return *data* under *prefix* (lower-case letters)."""
    words = _regroup(data, 8, 5, pad=True)
    checked = _polymod([*_expand(prefix), *words, *([0] * _CHECKSUM)]) ^ 1
    words += [checked >> 5 * (_CHECKSUM - 1 - index) & 31 for index in range(_CHECKSUM)]
    return f"{prefix}1{''.join(_ALPHABET[word] for word in words)}"


def decode(prefix: str, text: str) -> bytes:
    """Return what *text* holds, which must be under *prefix*.

    Raises ValueError that says what is wrong: mixed case, another prefix, a character, the checksum, the padding.
    """
    if text not in (text.lower(), text.upper()) or not text.isascii():
        raise ValueError("upper and lower case are mixed")
    found, separator, rest = text.lower().rpartition("1")
    if not separator or found != prefix:
        raise ValueError(f"it does not begin with {prefix}1")
    if len(rest) < _CHECKSUM or not _VALUE.keys() >= set(rest):
        raise ValueError("it is too short, or holds a character that bech32 has not")
    words = [_VALUE[char] for char in rest]
    if _polymod([*_expand(prefix), *words]) != 1:
        raise ValueError("its checksum is wrong")
    return bytes(_regroup(words[:-_CHECKSUM], 5, 8, pad=False))


def _expand(prefix: str) -> list[int]:
    return [ord(char) >> 5 for char in prefix] + [0] + [ord(char) & 31 for char in prefix]


def _polymod(words: list[int]) -> int:
    check = 1
    for word in words:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ word
        for bit, generator in enumerate(_GENERATOR):
            if top >> bit & 1:
                check ^= generator
    return check


def _regroup(words: bytes | list[int], width: int, into: int, *, pad: bool) -> list[int]:
    held = bits = 0
    out: list[int] = []
    for word in words:
        held = held << width | word
        bits += width
        while bits >= into:
            bits -= into
            out.append(held >> bits)
            held &= (1 << bits) - 1
    if pad and bits:
        out.append(held << (into - bits))
    elif not pad and (bits >= width or held):
        raise ValueError("its padding is not zero")
    return out
