"""Looks into the memory of another process, again and again, until all is zero there, or gone.

A program, too, for a test that has a part in what it waits for, and would be kept from looking by that::

    python -P looking.py DESCRIPTOR ADDRESS SIZE

It says ``ready``, and then when it had looked last, and when it saw it, in seconds of the monotonic clock.
"""

from __future__ import annotations

import os
import sys
import time

PATIENCE = 60.0
"""Seconds that a wipe may take before it counts as none."""
PAUSE = 1e-4
"""Seconds between two looks, for whoever has a part in it and shares a processor with us."""


def zero(memory: int, address: int, size: int) -> bool:
    """Whether all of it is zero, or the memory is gone, at this moment."""
    try:
        content = os.pread(memory, size, address)
    except OSError:  # unmapped
        return True
    return content.count(0) == len(content)  # of a process that has ended there is nothing to read


def until_zero(memory: int, address: int, size: int) -> tuple[float, float]:
    """Return when it was looked at last before it was zero, 0 if never, and when that was seen."""
    looked, looking = 0.0, time.monotonic()
    begin = looking
    while not zero(memory, address, size):
        assert looking < begin + PATIENCE, "it is not wiped"
        time.sleep(PAUSE)
        looked, looking = looking, time.monotonic()
    return looked, time.monotonic()


if __name__ == "__main__":
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdout.write("{} {}\n".format(*until_zero(*map(int, sys.argv[1:]))))
