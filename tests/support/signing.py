"""A vault's key, without a vault: BIP-340 by coincurve."""

from coincurve import PrivateKey

from avault_protocol import LockedError


class Key:
    """A key pair made of a number; `lock` makes it refuse to sign."""

    def __init__(self, number: int = 1) -> None:
        self._private = PrivateKey(number.to_bytes(32, "big"))
        self.public: bytes = self._private.public_key_xonly.format()
        self.hex = self.public.hex()
        self.locked = False

    def sign(self, digest: bytes) -> bytes:
        """Return the signature of 32 bytes."""
        if self.locked:
            raise LockedError
        signature: bytes = self._private.sign_schnorr(digest, b"\0" * 32)
        return signature
