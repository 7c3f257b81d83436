"""From a passphrase to a vault's key, by one of the slots in its file. Blocks: threads only."""

from __future__ import annotations

from avault_protocol import BadRequestError, CorruptError, NotFoundError, WrongPassphraseError

from ..memory.arena import Arena, Slot
from ..slots import passphrase as passphrases
from .catalog import Catalog
from .seal import Seal


def open_slot(
    arena: Arena,
    catalog: Catalog,
    public: str | None,
    passphrase: Slot,
    slot: str | None,
    *,
    min_log_n: int,
    kind: passphrases.Kind = passphrases.TYPE,
) -> tuple[Seal, str]:
    """Open a catalog's slot, or of all of *kind* the one that the passphrase opens; return the key and the slot's id.

    Blocks.

    `WrongPassphraseError`, `NotFoundError`, `BadRequestError` for a slot of another type, `CorruptError` if what the
    slot holds is not the key of which *public* is the public key.
    """
    for candidate in _candidates(catalog, slot, kind):
        content = catalog.slots[candidate].text
        try:
            key = passphrases.open_key(arena, content, passphrase, min_log_n=min_log_n)
        except WrongPassphraseError:
            continue
        if key.public.hex() != public:
            key.close()
            raise CorruptError(f"slot {candidate} holds the key of another vault")
        return Seal(arena, key), candidate
    raise WrongPassphraseError


def _candidates(catalog: Catalog, slot: str | None, kind: passphrases.Kind) -> list[str]:
    if slot is None:
        return catalog.passphrase_slots(kind)
    check_passphrase_slot(catalog, slot)
    return [slot]


def check_passphrase_slot(catalog: Catalog, slot: str) -> None:
    """Raise `NotFoundError` or `BadRequestError` unless *slot* is one that a passphrase opens."""
    if slot not in catalog.slots:
        raise NotFoundError(f"there is no slot {slot}")
    if catalog.slot(slot).type != passphrases.TYPE:
        raise BadRequestError(f"no passphrase opens slot {slot}")
