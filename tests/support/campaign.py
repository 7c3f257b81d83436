"""How large a campaign is: a few where every change is tested, all of them by hand.

``AVAULT_CAMPAIGN=full`` runs the size that docs/reliability.md tells of, a number runs so many.
"""

from __future__ import annotations

import os

GIVEN = os.environ.get("AVAULT_CAMPAIGN", "")
FULL = GIVEN == "full"


def size(usual: int, full: int) -> int:
    """Return how often to do it."""
    return full if FULL else int(GIVEN or usual)


def report(text: str) -> None:
    """Say what was found; ``pytest -rP`` shows it."""
    print(text)  # noqa: T201
