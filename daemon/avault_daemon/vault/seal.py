"""The vault's key at work: the only module that has it seals, opens, signs, and hides names.

Everything that a `Seal` holds lies in the arena: the key, the conversation key that NIP-44 derives from it, and the
index key. When `Vault.lock` wipes the arena they turn to zeroes under whatever thread is at work with them, and from
then on each of these methods raises `LockedError`; the room itself is given back only when that thread is done
(`held`), so that a late call never finds another's bytes there.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Self

from avault_protocol import CorruptError, LockedError

from ..memory import apart, sodium
from ..memory.arena import Arena, Slot
from ..nostr.keys import SecretKey
from ..nostr.nip44 import Conversation
from .eventlog import Line, signed_line

_INDEX_INFO = b"avault-index"
_D_BYTES = 16
# A secret's plaintext up to its value: one form, so no byte of a value is ever parsed. Group 0 is all that is copied.
_HEADER = re.compile(
    rb'\{"type":"secret","name":"([A-Za-z_][A-Za-z0-9_.-]{0,127})","version":([1-9][0-9]{0,9}),'
    rb'"created":([1-9][0-9]{0,14}),"encoding":"(text|base64)"\}\n'
)


@dataclass(frozen=True, slots=True)
class SecretInfo:
    """One version of a secret, without its value. *created*: Unix seconds. *encoding*: "text" or "base64"."""

    name: str
    version: int
    created: int
    encoding: str

    def header(self) -> bytes:
        """Return what stands before the value in the plaintext."""
        return (
            f'{{"type":"secret","name":"{self.name}","version":{self.version},'
            f'"created":{self.created},"encoding":"{self.encoding}"}}\n'
        ).encode("ascii")


class Opened(NamedTuple):
    """One version of a secret, opened: what is said of it, and its value, until whoever has this releases *slot*."""

    info: SecretInfo
    slot: Slot
    """The value's bytes. All zero if the vault was locked meanwhile."""
    source: bytes
    """The line that it was opened from: no other version of any secret has the same."""


class Seal:
    """One vault's key and what derives from it, until `close`."""

    def __init__(self, arena: Arena, key: SecretKey) -> None:
        """Take over *key*; it is closed on errors. `LockedError` if it has been wiped."""
        self._arena = arena
        self.key = key
        self._infos: dict[str, tuple[bytes, SecretInfo]] = {}
        self._holders = 0
        self._closed = False
        with ExitStack() as undo:
            undo.callback(key.close)
            self._stack = apart.Stack(arena.take(apart.SIZE))
            undo.callback(self._stack.close)
            self._conversation = undo.enter_context(Conversation.between(arena, key, key.public))
            self._index = _index_key(arena, key)
            undo.pop_all()

    @classmethod
    def generate(cls, arena: Arena) -> Seal:
        """Make a fresh key."""
        return cls(arena, SecretKey.generate(arena))

    @property
    def public(self) -> str:
        """The vault's public key (hex)."""
        return self.key.public.hex()

    @contextmanager
    def held(self) -> Generator[Self]:
        """Keep the key's room, wiped or not, from being given back meanwhile. To be used on the loop's thread alone."""
        self._holders += 1
        try:
            yield self
        finally:
            self._holders -= 1
            self._release_if_done()

    def close(self) -> None:
        """Wipe the keys once nothing holds them any more. Doing so twice is fine."""
        self._closed = True
        self._infos.clear()
        self._release_if_done()

    def _release_if_done(self) -> None:
        if self._closed and not self._holders:
            self._index.release()
            self._conversation.close()
            self.key.close()
            self._stack.close()

    # --- names --------------------------------------------------------------------------------------------------

    def blind(self, name: str) -> str:
        """Return the `d` under which the secret *name* is filed."""
        out = ctypes.create_string_buffer(sodium.HASH)
        message = b"secret/" + name.encode("ascii")
        sodium.hmac_sha256(ctypes.addressof(out), message, len(message), self._index.address)
        if sodium.is_zero(self._index.address, sodium.HASH):
            raise LockedError("the key has been wiped")
        return out.raw[:_D_BYTES].hex()

    # --- secrets ------------------------------------------------------------------------------------------------

    def seal_secret(self, info: SecretInfo, value: memoryview) -> str:
        """Return the content of a secret's line; *value* is a writable view, as those of the arena are."""
        header = info.header()
        with self._arena.take(len(header) + len(value)) as plain:
            plain.view[: len(header)] = header
            sodium.copy(plain.address + len(header), _address_of(value), len(value))
            return self._conversation.encrypt(plain)

    def open_secret(self, line: Line, name: str | None = None) -> Opened:
        """Open the value of *line*, in which *name* is expected if it is given.

        `CorruptError` if the line cannot be opened, or if what it holds is filed under another's name.
        """
        slot = self._decrypt(line)
        try:
            header = _HEADER.match(slot.view)
            if header is None:
                raise CorruptError(f"the line for {line.d} holds no secret in its one form")
            found, version, created, encoding = header.groups()
            info = SecretInfo(found.decode(), int(version), int(created), encoding.decode())
            if info.name != name and self.blind(info.name) != line.d:
                raise CorruptError(f"the line for {line.d} holds a secret of another name")
            return Opened(info, slot.narrow(header.end(), slot.size - header.end()), line.raw)
        except BaseException:
            slot.release()
            raise

    def info(self, line: Line) -> SecretInfo:
        """Return what *line* says of its secret beside the value; asked again for the same, without opening it."""
        raw, info = self._infos.get(line.d, (b"", None))
        if info is None or raw != line.raw:
            info, slot, _ = self.open_secret(line)
            slot.release()
            self.remember(line, info)
        return info

    def remember(self, line: Line, info: SecretInfo) -> None:
        """Take note of what *line* says, until another line of its secret is asked for."""
        self._infos[line.d] = line.raw, info

    def forget(self, d: str) -> None:
        """Forget what was noted of the secret that is filed under *d*."""
        self._infos.pop(d, None)

    # --- the rest -----------------------------------------------------------------------------------------------

    def seal_bytes(self, plain: bytes) -> str:
        """Return the NIP-44 payload of what is confidential but no secret: an agent's grants."""
        with self._arena.take(len(plain)) as slot:
            slot.view[:] = plain
            return self._conversation.encrypt(slot)

    def open_bytes(self, payload: str) -> bytes:
        """Return what `seal_bytes` sealed; `CorruptError`."""
        with self._conversation.decrypt(payload) as slot:
            return bytes(slot.view)

    def reseal(self, line: Line, other: Seal) -> str:
        """Return the content of a secret's line, sealed by *other* instead; it is opened in the arena alone."""
        with self._decrypt(line) as plain:
            return other._conversation.encrypt(plain)

    def _decrypt(self, line: Line) -> Slot:
        try:
            return self._conversation.decrypt(line.content)
        except CorruptError as error:
            raise CorruptError(f"the line for {line.d} cannot be opened: {error.message}") from None

    def line(self, d: str, created_at: int, content: str) -> bytes:
        """Return a signed line, newline included."""
        return signed_line(self.key, d, created_at, content)

    def sign(self, digest: bytes) -> bytes:
        """Return the BIP-340 signature of a digest of 32 bytes."""
        return self.key.sign(digest)


def _address_of(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def _index_key(arena: Arena, key: SecretKey) -> Slot:
    index = arena.take(sodium.HASH + len(_INDEX_INFO) + 1)  # hkdf_expand may write so far
    try:
        with arena.take(2 * sodium.HASH) as work:
            secret, prk = work.address, work.address + sodium.HASH
            key.copy_to(secret)
            sodium.hkdf_extract(prk, b"", secret, sodium.HASH)
            sodium.hkdf_expand(index.address, prk, _INDEX_INFO, sodium.HASH)
            if sodium.is_zero(secret, sodium.HASH):
                raise LockedError("the key has been wiped")
    except BaseException:
        index.release()
        raise
    return index
