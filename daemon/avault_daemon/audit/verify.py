"""Checking a record with public keys only: is it what was written, and up to where is that certain?

Whom to trust. The anchor names the vault's key of today, and the number and hash of a line that was synced; these two
are the roots. The newest checkpoint comes last, and the chain makes each checkpoint vouch for all lines before it, so
trust runs *backwards*, from the key of today to the keys before it:

- a checkpoint by a trusted key says which key came before (`after`), and so vouches for that one up to there;
- where the change of keys is the last thing that happened, there is no checkpoint by the new key yet. Then the old
  key's own word that it hands over to a trusted key (`next`) counts, but only up to the line that the anchor knows:
  behind it anyone could have written "I was the key before yours" and signed that with a key of their own making.

What it does not find: that a record was cut off behind a checkpoint, together with the anchor, and gone on from there.
Whoever can write the state directory can do that.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..nostr.keys import verify as signed_by
from .lines import CHECKPOINT, NO_HASH, Checkpoint, hash_of, parse, parse_checkpoint
from .segments import read_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..anchor import Anchor


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` found: complete up to line *complete_to* of *last*; *unsigned* lines follow."""

    complete_to: int
    last: int
    problem: str | None

    @property
    def ok(self) -> bool:
        """Report whether nothing is wrong."""
        return self.problem is None

    @property
    def unsigned(self) -> int:
        """Return how many lines follow the last checkpoint that counts."""
        return self.last - self.complete_to


@dataclass(slots=True)
class _Reign:
    """Consecutive checkpoints by one key: the numbers of the first and the last, and what they say of other keys."""

    key: str
    first: int
    last: int
    after: str | None
    next: str | None


def verify(directory: Path, anchor: Anchor) -> Verdict:
    """Check the record in *directory*. Blocking, and it may take seconds; the record may be written to meanwhile."""
    synced = anchor.record
    walk = _Walk(synced)
    walk.run(directory)
    if anchor.current is None and walk.reigns:
        return Verdict(
            0, walk.number, walk.problem or "no vault is known here whose key could vouch for the record"
        )
    key = anchor.current.vault if anchor.current is not None else None
    complete_to, stranger = _trace(walk.reigns, key, synced)
    return Verdict(complete_to, walk.number, walk.problem or stranger)


class _Walk:
    """One pass over all lines: the chain, the signatures, and the line that the anchor knows."""

    def __init__(self, synced: tuple[int, str] | None) -> None:
        self.number, self.hash = 0, NO_HASH
        self.reigns: list[_Reign] = []
        self.problem: str | None = None
        self._synced = synced

    def run(self, directory: Path) -> None:
        """Read on until the end or the first line that does not fit."""
        for raw in read_lines(directory):
            self.problem = self._line(raw)
            if self.problem is not None:
                return
        if self._synced is not None and self.number < self._synced[0]:
            self.problem = f"the record ends at line {self.number}; line {self._synced[0]} was on the disk"

    def _line(self, raw: bytes) -> str | None:
        line, expected = parse(raw), self.number + 1
        if line is None:
            return f"line {expected} is no line of a record"
        if line.number != expected:
            return f"line {expected} is missing or out of order: here is line {line.number}"
        if line.prev != self.hash:
            return f"line {expected} does not follow line {self.number}: one of them was altered"
        if line.action == CHECKPOINT and not self._checkpoint(expected, parse_checkpoint(raw)):
            return f"the checkpoint at line {expected} is altered: its signature does not fit"
        self.number, self.hash = expected, hash_of(raw)
        if self._synced is not None and expected == self._synced[0] and self.hash != self._synced[1]:
            return f"line {expected} is not the one that was on the disk"
        return None

    def _checkpoint(self, number: int, found: Checkpoint | None) -> bool:
        if found is None or not signed_by(bytes.fromhex(found.key), found.digest, found.signature):
            return False
        if not self.reigns or self.reigns[-1].key != found.key:
            self.reigns.append(_Reign(found.key, number, number, found.after, None))
        self.reigns[-1].last, self.reigns[-1].next = number, found.next
        return True


def _trace(reigns: list[_Reign], key: str | None, synced: tuple[int, str] | None) -> tuple[int, str | None]:
    """Return up to which line the checkpoints count, and what is wrong with the others; see the module's rules."""
    trusted = {key} if key is not None else set[str]()
    complete_to, problem = 0, None
    for reign in reversed(reigns):
        handed_over = reign.next in trusted and synced is not None and reign.last <= synced[0]
        if reign.key not in trusted and not handed_over:
            problem = f"the checkpoint at line {reign.last} is by a key that this vault never had"
            continue
        trusted |= {reign.key, reign.after or reign.key}
        complete_to = max(complete_to, reign.last)
    return complete_to, problem
