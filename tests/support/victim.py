"""A process that does everything with secrets, step by step, for another one that looks through its memory.

Its secrets come from standard input straight into an arena; a byte there starts each step, a byte on standard output
ends it. It never learns a value in any other way. Arguments: the arena's kind, a public key, a salt, a nonce (hex).
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable

from avault_daemon.memory import sodium
from avault_daemon.memory.arena import Arena, Slot
from avault_daemon.nostr import nip44, nip49
from avault_daemon.nostr.keys import SecretKey
from avault_protocol import WrongPassphraseError

KEY, PASSPHRASE, TEXT = 32, 24, 1000
ROUNDS = 50


def receive(arena: Arena, size: int) -> Slot:
    slot = arena.take(size)
    got = 0
    while got < size:
        got += os.readv(0, [slot.view[got:]])
    return slot


class Victim:
    def __init__(self, kind: str, public: str, salt: str, nonce: str) -> None:
        self.arena = Arena(kind=kind)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        self.public, self.salt, self.nonce = (bytes.fromhex(text) for text in (public, salt, nonce))

    def load(self) -> None:
        self.secret, self.passphrase, self.text = (
            receive(self.arena, size) for size in (KEY, PASSPHRASE, TEXT)
        )
        os.write(1, self.secret.address.to_bytes(8, "little"))

    def adopt(self) -> None:
        again = self.arena.take(KEY)
        sodium.copy(again.address, self.secret.address, KEY)
        self.key = SecretKey.adopt(again)

    def sign(self) -> None:
        for _ in range(ROUNDS):
            self.key.sign(self.salt * 2, aux=self.nonce)

    def converse(self) -> None:
        self.own = nip44.Conversation.between(self.arena, self.key, self.key.public)
        self.other = nip44.Conversation.between(self.arena, self.key, self.public)

    def encrypt(self) -> None:
        for _ in range(ROUNDS):
            self.payload = self.own.encrypt(self.text, nonce=self.nonce)
            self.other.encrypt(self.text, nonce=self.nonce)

    def decrypt(self) -> None:
        for _ in range(ROUNDS):
            self.own.decrypt(self.payload).release()

    def passphrases(self) -> None:
        text = nip49.encrypt(self.arena, self.key, self.passphrase, 10, salt=self.salt)
        nip49.decrypt(self.arena, text, self.passphrase, min_log_n=1).release()
        with self.arena.take(8) as wrong:
            try:
                nip49.decrypt(self.arena, text, wrong, min_log_n=1)
            except WrongPassphraseError:
                return

    def primitives(self) -> None:
        with self.arena.take(1024) as slot:
            out, key = slot.address, self.secret.address
            sodium.hkdf_extract(out, b"", key, KEY)
            sodium.hkdf_expand(out + 32, out, b"avault-index", 32)
            sodium.hmac_sha256(out + 128, b"secret/name", 11, out + 32)
            sodium.chacha20_xor(out + 128, self.text.address, 512, bytes(12), key)
            sodium.xchacha20poly1305_encrypt(out + 128, self.text.address, 512, b"", bytes(24), key)
            sodium.xchacha20poly1305_decrypt(out + 128, out + 128, 528, b"", bytes(24), key)
            sodium.memcmp(out, key, KEY)

    def copy(self) -> None:
        with self.arena.take(TEXT) as slot:
            for size in (1, 16, 32, 64, 200, 300, TEXT):
                sodium.copy(slot.address, self.text.address, size)

    def work(self) -> None:
        for step in (self.sign, self.encrypt, self.decrypt, self.passphrases, self.primitives, self.copy):
            step()

    def thread(self) -> None:
        # The thread stays, so its stack does.
        done = threading.Event()

        def run() -> None:
            self.work()
            done.set()
            threading.Event().wait()

        threading.Thread(target=run, daemon=True).start()
        done.wait()

    def busy(self) -> None:
        os.write(1, b".")
        while not select.select([0], [], [], 0)[0]:
            self.work()
        os.read(0, 1)

    def wipe(self) -> None:
        self.arena.wipe()

    def close(self) -> None:
        for conversation in (self.own, self.other):
            conversation.close()
        self.key.close()
        for slot in (self.secret, self.passphrase, self.text):
            slot.release()

    def main(self) -> None:
        planted = os.read(0, KEY)
        steps: tuple[Callable[[], None], ...] = (
            self.load, self.adopt, self.sign, self.converse, self.encrypt, self.decrypt, self.passphrases,
            self.primitives, self.copy, self.thread, self.busy, self.wipe, self.close,
        )  # fmt: skip
        for step in steps:
            os.read(0, 1)
            step()
            os.write(1, b".")
        os.read(0, 1)
        del planted


if __name__ == "__main__":
    Victim(*sys.argv[1:5]).main()
