"""How long a phone is waited for, and what to say when it was in vain."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import trio

from avault_protocol import AvaultError, RequestTimeoutError

from ..nostr.relay import OnStage, ignore

PATIENCE = 180.0
"""Seconds that a person gets to find the phone; less makes people fail, as users of other signers report."""
GOODBYE = 5.0
"""Seconds that a signer gets to take note of the end of a pairing: a courtesy, nothing depends on it."""

T = TypeVar("T")


class Stages:
    """Passes stages on, and remembers which relays are in trouble: not every operator sees the stages."""

    def __init__(self, on_stage: OnStage) -> None:
        self._on_stage = on_stage
        self._troubles: dict[str, str] = {}  # URL -> what is wrong with it now

    def __call__(self, stage: str, url: str, text: str) -> None:
        """Take a stage; an `OnStage`."""
        if stage in ("lost", "hopeless", "refused"):
            self._troubles[url] = text
        elif stage in ("connected", "accepted"):
            self._troubles.pop(url, None)
        self._on_stage(stage, url, text)

    def in_vain(self) -> RequestTimeoutError:
        """Return what to tell an operator whose phone did not answer."""
        words = "; ".join(f"{url}: {text}" for url, text in self._troubles.items())
        if words:
            return RequestTimeoutError(f"the phone did not answer in time; {words}")
        return RequestTimeoutError(
            "the phone did not answer in time",
            # Signers drop, without a word, what is stamped some minutes off.
            hint="is the signer's app open, and online? is this machine's clock right?",
        )


@contextmanager
def in_time(patience: float, on_stage: OnStage = ignore) -> Generator[OnStage]:
    """Raise `RequestTimeoutError` if the block is not done within *patience* seconds.

    The stages go to what the block is given, and from there to *on_stage*.
    """
    stages = Stages(on_stage)
    try:
        with trio.fail_after(patience):
            yield stages
    except trio.TooSlowError:
        raise stages.in_vain() from None


async def first_good(
    asking: Sequence[Callable[[], Awaitable[T]]],
    stages: Stages,
    patience: float,
    discard: Callable[[T], None],
) -> T:
    """Ask all at once, for *patience* seconds; return what the first gave that raised no error, and *discard* others.

    `RequestTimeoutError`; if all ended in an error, the first of these.
    """
    found, errors = list[T](), list[AvaultError]()

    async def one(ask: Callable[[], Awaitable[T]], scope: trio.CancelScope) -> None:
        try:
            answer = await ask()
        except AvaultError as error:
            errors.append(error)
            return
        if found:
            discard(answer)
        else:
            found.append(answer)
            scope.cancel()

    try:
        with trio.move_on_after(patience):
            async with trio.open_nursery() as nursery:
                for ask in asking:
                    nursery.start_soon(one, ask, nursery.cancel_scope)
    except BaseException:  # cancelled, most likely
        for answer in found:
            discard(answer)
        raise
    if found:
        return found[0]
    raise errors[0] if len(errors) == len(asking) else stages.in_vain()
