"""The states of a vault. Everything that changes its state goes through `TRANSITIONS`; the rules:

1. There is one vault, and it is *uninitialized* (no file), *locked*, *unlocking* (keys are being derived from
   passphrases, to open it or to make it) or *unlocked* (its key is in the arena).
2. `lock` is allowed in every state and always ends the unlocks, also those under way: their results are discarded.
   Of several that are under way the first that succeeds opens the vault; it is locked again when the last has failed.
3. Nothing but the right passphrase leads to *unlocked*: by `init`, `unlock`, or `restore_vault`.
4. A vault file that cannot be used counts as *locked*: its error is the answer to every unlock, and only
   `restore_vault` leads on.
5. A vault that is restored takes the place of the one that was, in whatever state: it is found, then opened. An unlock
   of the other that is under way comes to nothing.
6. There is no way back to *uninitialized* but from an `init` that came to nothing.

What each method of the sockets does in each state is in `avault_protocol.METHODS`.
"""

from __future__ import annotations

from typing import Literal

from avault_protocol import LOCKED, UNINITIALIZED, UNLOCKED, UNLOCKING, InternalError

Occasion = Literal["found", "init", "init_failed", "try", "failed", "opened", "restored", "lock"]

TRANSITIONS: dict[str, dict[Occasion, str]] = {
    UNINITIALIZED: {"found": LOCKED, "init": UNLOCKING, "lock": UNINITIALIZED},
    LOCKED: {"found": LOCKED, "try": UNLOCKING, "restored": UNLOCKED, "lock": LOCKED},
    UNLOCKING: {
        "try": UNLOCKING,
        "opened": UNLOCKED,
        "failed": LOCKED,
        "init_failed": UNINITIALIZED,
        "found": LOCKED,
        "lock": LOCKED,
    },
    UNLOCKED: {"found": LOCKED, "lock": LOCKED},
}
"""state -> what happens -> state. What is not there cannot happen."""


def after(state: str, occasion: Occasion) -> str:
    """Return the state after *occasion*; `InternalError` if it cannot happen in *state*."""
    try:
        return TRANSITIONS[state][occasion]
    except KeyError:
        raise InternalError(f"{occasion} cannot happen to a vault that is {state}") from None
