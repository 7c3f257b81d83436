"""Take the figures of docs/performance.md: all of them, or those that are named."""

from __future__ import annotations

import argparse
import os

from . import commands, peers, profile, requests, storage

FIGURES = {
    "get": requests.get,
    "load": requests.load,
    "connect": requests.connect,
    "identify": requests.identification,
    "status": commands.status,
    "script": commands.script,
    "peers": peers.peers,
    "set": storage.store,
    "many": storage.many,
    "profile": profile.profile,
}


def main() -> None:
    """Print each figure, and how busy the machine was before and after."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("figure", nargs="*", help=", ".join(FIGURES), metavar="FIGURE")
    for name in parser.parse_args().figure or FIGURES:
        before = os.getloadavg()[0]
        FIGURES[name]()
        print(f"    {name}: load {before:.1f} before, {os.getloadavg()[0]:.1f} after", flush=True)


if __name__ == "__main__":
    main()
