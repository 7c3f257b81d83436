"""A vault under another key: for `rekey`, for `export`, and back from a copy. Everything here blocks: threads only."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import NamedTuple

from avault_protocol import BadRequestError, CorruptError, ProofRequiredError, StorageFailedError

from ..memory.arena import Arena, Slot
from ..nostr.keys import SecretKey
from ..slots import passphrase as passphrases
from .catalog import Catalog, agent_content
from .draft import Draft
from .eventlog import Chain, Line, Log
from .logfile import read_bounded
from .opening import open_slot
from .seal import Seal


class Source(NamedTuple):
    """An unlocked vault at one moment."""

    seal: Seal
    catalog: Catalog


Reseal = Callable[[str, str, SecretKey], str | None]
"""Given a slot's id and content, and the vault's new key: the content that holds that; None: it cannot be helped."""


def under_new_key(
    arena: Arena,
    source: Source,
    chain: Chain,
    now: int,
    *,
    passphrase: Slot,
    log_n: int,
    slot: str,
    reseal: Reseal = lambda slot, content, key: None,
) -> tuple[Seal, Draft]:
    """Return a fresh key, and a draft of all that *source* holds under it, with *slot* and those that *reseal* gives.

    The draft continues *chain*. The caller closes the key.
    """
    seal = Seal.generate(arena)
    try:
        draft = Draft(seal, Catalog(), chain, now)
        draft.put_slot(slot, passphrases.make(arena, seal.key, passphrase, log_n))
        for other, line in source.catalog.slots.items():
            if other != slot and (content := reseal(other, line.text, seal.key)) is not None:
                draft.put_slot(other, content)
        _fill(draft.catalog, source, seal)
        return seal, draft
    except BaseException:
        seal.close()
        raise


def _fill(catalog: Catalog, source: Source, seal: Seal) -> None:
    """Reseal agents and secrets, earlier versions too. Times stay as they are: the operator sees them."""
    for name, agent in source.catalog.policy(source.seal).agents.items():
        line = source.catalog.agents[name]
        catalog.add(Line.of(seal.line(line.d, line.created_at, agent_content(agent, seal))))
    for versions in source.catalog.secrets.values():
        d = seal.blind(source.seal.info(versions[-1]).name)
        for line in versions:
            catalog.add(Line.of(seal.line(d, line.created_at, source.seal.reseal(line, seal))))


def write_copy(fd: int, draft: Draft) -> None:
    """Write the vault of *draft* to *fd*, a vault of its own; on return it is on the disk. `StorageFailedError`."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):  # a pipe that nobody reads would hold the thread for ever
        raise BadRequestError("the copy goes to a regular file, and this is none")
    data = draft.whole(None)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    except OSError as error:
        why = (error.strerror or "input/output error").lower()
        raise StorageFailedError(
            f"the copy could not be written: {why}", hint="remove what is there of it"
        ) from error


class Copy(NamedTuple):
    """A vault file from outside, verified, its content, and the slot that opened it."""

    data: bytes
    catalog: Catalog
    slot: str


def read_copy(
    arena: Arena, fd: int, passphrase: Slot, *, min_log_n: int, under: str | None = None
) -> tuple[Seal, Copy]:
    """Read and verify the vault file in *fd*, each line on its own too, and open all of it by *passphrase*.

    `ProofRequiredError`: it is not *under* that public key (hex), if one is said. `CorruptError`, `TooLargeError`,
    `WrongPassphraseError`. The caller closes the key.
    """
    try:
        data = read_bounded(fd)
        log = Log(data, strict=True)
        log.refuse_tail()
        if under not in (None, log.chain.public):
            raise ProofRequiredError(
                "this copy has another key than the vault, whose passphrase is needed too"
            )
        catalog = Catalog.of(log.lines)
        seal, slot = open_slot(arena, catalog, log.chain.public, passphrase, None, min_log_n=min_log_n)
        try:
            _open_all(catalog, seal)
        except BaseException:
            seal.close()
            raise
        return seal, Copy(data, catalog, slot)
    except CorruptError as error:
        raise CorruptError(f"the copy is damaged: {error.message}", hint="try another copy") from None


def _open_all(catalog: Catalog, seal: Seal) -> None:
    catalog.policy(seal)
    for versions in catalog.secrets.values():
        for line in versions:
            seal.info(line)
