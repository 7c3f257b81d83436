"""The record as the rest of the daemon sees it.

Two steps. `append` and `refused` only note what is to be written. `flush` writes all of it at once, and whoever noted
something withholds its answer until that has worked; if it does not work, what was noted is forgotten. So **no
checkpoint of the loop may lie between noting and flushing**, or the failure of one connection would lose the line of
another. `run`, one task, does the rest: it syncs, signs, writes how many refusals were counted, begins the next file.

What is promised: a line whose `flush` returned survives a kill of the process, and a power cut after 100 ms
(``sync="always"``: as soon as `settle` has returned).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import trio

from avault_protocol import AuditFailedError, BusyError, LockedError, StorageFailedError

from ..files import Files
from .chain import Chain
from .echo import echo
from .lines import ALLOWED, CHECKPOINT, NOTE, REFUSED, Entry, Noted, note, parse, to_wire
from .refusals import Refusals
from .segments import ASIDE, read_lines

if TYPE_CHECKING:
    from ..anchor import Anchor
    from ..callers.policy import Caller

log = logging.getLogger(__name__)

MAX_SEGMENT = 8 * 1024 * 1024
"""Bytes of a file after which the next begins: some 25,000 lines, read at opening in 0.1 s."""
SYNC_DELAY = 0.05
"""Seconds from a line to the begin of its sync; the promise is 0.1 s to its end."""
SIGN_DELAY = 0.9
"""Seconds from a line to the checkpoint that covers it, while there is a signer; the promise is 1 s, where a sync takes 0.1."""
SIGN_LINES = 256
"""Lines after which a checkpoint is due with the next sync, and goes to the disk with it.

Not at once: in a crowd that was up to two hundred signatures a second, for each of which everybody waited.
"""
RETRY_DELAY = 1.0
"""Seconds until `run` tries again what failed."""


class Record:
    """The record in *directory*; *anchor* has been loaded.

    It never fails to open: what is wrong is its `problem`, and then nothing is served. *clock* dates lines in Unix
    seconds, *monotonic* measures delays.
    """

    def __init__(
        self,
        directory: Path,
        anchor: Anchor,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        max_segment: int = MAX_SEGMENT,
        sync: Literal["batch", "always"] = "batch",
        files: Files | None = None,
    ) -> None:
        self.anchor = anchor
        self.always = sync == "always"
        self.public: bytes | None = None
        """The vault's public key while it is unlocked; set before `signer`."""
        self._signer: Callable[[bytes], bytes] | None = None
        self._directory, self._monotonic, self._max_segment = directory, monotonic, max_segment
        self.noted: list[Noted] = []
        """What `flush` will write."""
        self._lost = 0  # entries that could not be written; what they were about was withheld
        self._refusals = Refusals()
        self._turn = trio.Lock()  # one sync at a time
        self._synced = 0
        self._to_anchor: tuple[int, str] | None = None
        self._announced: bytes | None = None  # the key that `rekeyed` named
        # When `run` has to sync and to sign; inf: not at all.
        self._sync_at = self._sign_at = math.inf
        self._wake, self._asleep_until = trio.Event(), -math.inf
        self._chain = Chain(directory, anchor.record, clock, files or Files())
        self._look_at_tail()

    def _look_at_tail(self) -> None:
        tail = self._chain.tail
        if tail.number:
            self._sync_at = self._monotonic()  # nobody knows whether the process before this one came to it
        if tail.aside:
            reason = f"{tail.aside} bytes behind line {tail.number} did not fit and lie in {ASIDE}"
            log.warning("record: %s", reason)
            self.noted.append(note(Entry("record", NOTE, reason=reason)))

    @property
    def number(self) -> int:
        """Return the number of the last line that was written."""
        return self._chain.tail.number

    @property
    def problem(self) -> str | None:
        """Return what keeps lines from being written; None if nothing does."""
        return self._chain.problem

    @property
    def signer(self) -> Callable[[bytes], bytes] | None:
        """Return what signs in the name of `public`, None while locked; setting it makes a checkpoint due."""
        return self._signer

    @signer.setter
    def signer(self, signer: Callable[[bytes], bytes] | None) -> None:
        self._signer = signer
        if signer is not None:
            self._sign_at = self._monotonic()
            self._rouse()

    def last_use(self, name: str) -> int | None:
        """Return when the secret *name* was last given to a plugin, in Unix seconds; None: not in the last two files."""
        return self._chain.tail.uses.get(name)

    # --- noting and writing -------------------------------------------------------------------------------------

    def append(
        self,
        caller: Caller,
        action: str,
        *,
        agent: str | None = None,
        plugin: str | None = None,
        secret: str | None = None,
        version: int | None = None,
    ) -> Noted:
        """Note that *action* is allowed; `flush` writes it. Return what was noted: it may be noted again."""
        pid, uid, unit, exe = caller.pid, caller.uid, caller.unit, caller.exe
        noted = note(Entry(action, ALLOWED, secret, version, agent, plugin, pid, uid, unit, exe))
        self.noted.append(noted)
        return noted

    def refused(
        self,
        caller: Caller,
        action: str,
        reason: str,
        *,
        agent: str | None = None,
        plugin: str | None = None,
        secret: str | None = None,
    ) -> None:
        """Note that *action* is refused, *reason* being an error's code; of many alike the number is written later."""
        now = self._monotonic()
        pid, uid, unit, exe = caller.pid, caller.uid, caller.unit, caller.exe
        entry = Entry(action, REFUSED, secret, None, agent, plugin, pid, uid, unit, exe, reason)
        self._count(now)
        if self._refusals.admit(entry, now):
            self.noted.append(note(entry))
        self._rouse()

    def _count(self, now: float = math.inf) -> None:
        self.noted.extend(note(entry) for entry in self._refusals.due(now))

    def note(self, action: str, reason: str) -> None:
        """Note that *action* has happened, which no caller asked for."""
        self.noted.append(note(Entry(action, NOTE, reason=reason)))

    def flush(self) -> None:
        """Write what was noted.

        `AuditFailedError`: none of it is on record, it is forgotten, and what it is about must not happen.
        """
        noted, self.noted = self.noted, []
        if not noted:
            return self._chain.check()
        if self._lost:
            reason = "these could not be written, and what they were about was withheld"
            noted.append(note(Entry("record", NOTE, reason=reason, times=self._lost)))
        try:
            self._chain.write(noted)
        except AuditFailedError:
            self._lost += sum(one.entry.times or 1 for one in noted if one.entry.decision != NOTE)
            raise
        self._lost = 0
        echo(noted)
        many = self._chain.tail.unsigned >= SIGN_LINES
        if self._sync_at == math.inf or self._sign_at == math.inf or (many and self._sign_at > self._sync_at):
            self._written(many)  # else an earlier line has seen to it

    def try_flush(self) -> None:
        """Write what was noted if that is possible: for what must happen in any case."""
        try:
            self.flush()
        except AuditFailedError as error:
            log.error("not on record: %s", error)

    def _written(self, many: bool) -> None:
        now = self._monotonic()
        self._sync_at = min(self._sync_at, now + SYNC_DELAY)
        self._sign_at = min(self._sign_at, self._sync_at if many else now + SIGN_DELAY)
        self._rouse()

    async def settle(self) -> None:
        """With ``sync="always"`` wait until what was flushed is on the disk; else return at once.

        `AuditFailedError`: it may not be there. A cancellation takes effect only when the sync is over.
        """
        if self.always:
            await self._sync(self.number)

    async def checkpoint(self) -> None:
        """Sign what is there, if anything can, and see it to the disk and into the anchor; `AuditFailedError`."""
        self.flush()
        self._sign_at = self._monotonic()
        self._sign_if_due()
        await self._sync(self.number)

    def rekeyed(self, new_public: bytes) -> None:
        """Put on record that the vault is about to get another key: the old one says which, if it is at hand.

        To be called before the new key is in force. What raises an exception here must keep it from coming into force:
        `AuditFailedError`, and what the signer raises.
        """
        self.flush()
        key, signer = self.public, self._signer
        if key is not None and signer is not None and self._chain.checkpoint(key, signer, new_public):
            self._signed()
        self._announced = new_public

    # --- in the background --------------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sync, sign, count, begin the next file; for ever."""
        task_status.started()
        while True:
            await self._sleep()
            self._count(self._monotonic())
            self.try_flush()
            self._sign_if_due()
            if self._sync_at > self._monotonic():
                continue
            try:
                await self._sync(self.number)
            except AuditFailedError as error:
                log.error("record: %s", error)

    def _due(self) -> float:
        if self._chain.latched:
            return math.inf
        sign_at = self._sign_at if self._signer is not None else math.inf
        return min(self._sync_at, sign_at, self._refusals.next_due())

    def _rouse(self) -> None:
        # Most lines come while the task is already to wake for an earlier one: then this costs nothing.
        if self._due() < self._asleep_until:
            self._asleep_until = -math.inf
            self._wake.set()

    async def _sleep(self) -> None:
        while (wait := self._due() - self._monotonic()) > 0:
            self._wake, self._asleep_until = trio.Event(), self._due()
            with trio.move_on_after(wait):
                await self._wake.wait()
        self._asleep_until = -math.inf

    def _sign_if_due(self) -> None:
        now = self._monotonic()
        if self._signer is None or self._sign_at > now:
            return
        self._sign_at = now + RETRY_DELAY
        try:
            # Between the announcement of a key and its use `signer` may be of either, so both are tried.
            for public in (self.public, self._announced):
                if public is not None and self._chain.checkpoint(public, self._signer):
                    self.public = public
                    return self._signed()
        except LockedError:
            self._signer = None
        except (AuditFailedError, BusyError) as error:
            log.warning("no checkpoint: %s", error)

    def _signed(self) -> None:
        self._to_anchor = (self.number, self._chain.tail.hash)
        self._sign_at = math.inf
        self._sync_at = min(self._sync_at, self._monotonic() + SYNC_DELAY)
        self._rouse()

    async def _sync(self, number: int) -> None:
        """Wait until line *number* is on the disk, and the anchor knows of the last checkpoint. It is finished once begun."""
        async with self._turn:
            self._chain.check()
            if self._synced >= number:
                return
            reached, checkpoint = self.number, self._to_anchor
            self._sync_at, self._to_anchor = math.inf, None
            try:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._to_disk, checkpoint)
            except OSError as error:
                self._chain.latch(f"the record could not be synced: {error.strerror}")
                self._chain.check()
            self._synced = reached
            if self._chain.tail.size >= self._max_segment:
                self._next_file()

    def _to_disk(self, checkpoint: tuple[int, str] | None) -> None:
        # In this order: the anchor must never know of a line that a power cut takes away.
        self._chain.sync()
        if checkpoint is None:
            return
        try:
            self.anchor.update(record=checkpoint)
        except StorageFailedError as error:
            # It still knows an earlier line, which is as true; the next checkpoint tries again.
            log.warning("record: %s", error)

    def _next_file(self) -> None:
        """Begin the next file; only while nothing is being synced."""
        self._chain.next_file()
        self._synced = -1  # what the files are called now is not on the disk yet
        self._sync_at = self._monotonic()
        self._rouse()

    def close(self) -> None:
        """Write and sync what is left, and give the files back. Blocking; `run` has ended."""
        self._count()
        self.try_flush()
        try:
            if not self._chain.latched:
                self._chain.sync()
        except OSError as error:
            log.error("the record could not be synced: %s", error.strerror)
        self._chain.close()

    # --- reading ------------------------------------------------------------------------------------------------

    def read(
        self,
        *,
        since: int | None = None,
        after: int | None = None,
        agent: str | None = None,
        secret: str | None = None,
        limit: int = 1000,
    ) -> list[dict[str, Any]]:
        """Return the entries that fit, the oldest first, at most *limit*.

        *since*: not older, in Unix seconds; *after*: with a higher number; *agent*, *secret*: of these only. From the
        disk, one line after the other; blocking, for any thread. A line that is no entry is passed over.
        """
        found: list[dict[str, Any]] = []
        for raw in read_lines(self._directory, after or 0):
            line = parse(raw)
            if (
                line is None
                or line.action == CHECKPOINT
                or line.number <= (after or 0)
                or line.time < (since or 0)
            ):
                continue
            if secret is not None and line.secret != secret:
                continue
            entry = to_wire(raw)
            if entry is not None and (agent is None or entry["agent"] == agent):
                found.append(entry)
                if len(found) >= limit:
                    break
        return found
