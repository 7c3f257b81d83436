"""A campaign by hand: each target for so many seconds, from fresh seeds, which are printed and find the same again."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
import traceback
from contextlib import nullcontext

from .daemon import EXAMPLES as LIVES
from .planted import BUGS, planted
from .targets import TARGETS

ROUND = 200
"""Cases that one seed stands for; of the daemon, fewer lives."""


class Options(argparse.Namespace):
    """What was asked for."""

    targets: list[str]
    seconds: float
    seed: int | None
    bug: int | None


def main() -> int:
    """Run the targets; return 1 if any found something, or where a bug was planted, if none did."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all if left out"
    )
    parser.add_argument("--seconds", type=float, default=60, metavar="S", help="for each target (60)")
    parser.add_argument("--seed", type=int, metavar="N", help="only the cases of this seed")
    parser.add_argument(
        "--bug", type=int, metavar="K", help="plant the K-th bug of support.fuzz.planted, from 1"
    )
    options = parser.parse_args(namespace=Options())
    if unknown := set(options.targets) - TARGETS.keys():
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    found = 0
    with planted(BUGS[options.bug - 1]) if options.bug else nullcontext():
        for name in options.targets or TARGETS:
            found += campaign(name, options.seconds, options.seed)
    return int(bool(found) is not bool(options.bug))


def campaign(name: str, seconds: float, only: int | None) -> int:
    """Run one target, say what came of it, and return the number of findings: it ends with the first."""
    target, started, cases, findings = TARGETS[name], time.monotonic(), 0, 0
    first = seed = secrets.randbelow(10**9) if only is None else only
    size = LIVES if name == "daemon" else ROUND
    while not cases or (only is None and time.monotonic() - started < seconds):
        try:
            target.run(size, seed)
        except Exception:  # noqa: BLE001 - whatever it is, it is a finding
            traceback.print_exc(limit=-4, file=sys.stdout)
            say(f"{name}: found by seed {seed}; again: scripts/fuzz {name} --seed {seed}")
            findings += 1
            break
        cases, seed = cases + size, seed + 1
    spent, last = time.monotonic() - started, max(first, seed - 1)
    say(f"{name}: {cases} cases in {spent:.0f} s, seeds {first} to {last}: {findings} findings")
    return findings


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
