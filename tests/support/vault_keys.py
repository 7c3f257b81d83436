"""Print every long-lived key of a vault file in hex, one a line; the passphrase comes on standard input.

By third-party software and the standard library alone: nothing of avault's is imported.
"""

import hashlib
import hmac
import json
import sys

from cryptography.hazmat.primitives.asymmetric import ec
from nostr_sdk import (  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]
    EncryptedSecretKey,
)


def main() -> None:
    passphrase = sys.stdin.buffer.read()
    with open(sys.argv[1]) as file:
        slot = next(line for line in file if '["d","slot/passphrase"]' in line)
    ncryptsec = json.loads(json.loads(slot)["content"])["ncryptsec"]
    encrypted = EncryptedSecretKey.from_bech32(ncryptsec)
    vault = bytes.fromhex(encrypted.decrypt(passphrase.decode()).to_hex())
    secret = ec.derive_private_key(int.from_bytes(vault, "big"), ec.SECP256K1())
    x = secret.public_key().public_numbers().x
    even = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), b"\x02" + x.to_bytes(32, "big"))
    shared = secret.exchange(ec.ECDH(), even)
    conversation = hmac.digest(b"nip44-v2", shared, "sha256")
    index = hmac.digest(hmac.digest(bytes(32), vault, "sha256"), b"avault-index\x01", "sha256")
    for key in (vault, shared, conversation, index, scrypt_key(ncryptsec, passphrase)):
        sys.stdout.write(key.hex() + "\n")


def scrypt_key(ncryptsec: str, passphrase: bytes) -> bytes:
    alphabet = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
    bits = "".join(f"{alphabet.index(c):05b}" for c in ncryptsec.rpartition("1")[2][:-6])
    raw = bytes(int(bits[n : n + 8], 2) for n in range(0, len(bits) - 7, 8))
    log_n, salt = raw[1], raw[2:18]
    return hashlib.scrypt(passphrase, salt=salt, n=1 << log_n, r=8, p=1, maxmem=2**31 - 1, dklen=32)


if __name__ == "__main__":
    main()
