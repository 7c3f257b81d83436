"""Cgroups where systemd would put units, made by hand: as root, where there is cgroup v2."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

_MOUNTS = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
UNIFIED = next((Path(where) for _, where, kind, *_ in _MOUNTS if kind == "cgroup2"), None)


@contextmanager
def made(*paths: str) -> Generator[list[Path]]:
    """Give an empty cgroup for each of *paths*, such as ``cobot.service/below``, in a slice that is gone afterwards."""
    if UNIFIED is None or os.geteuid() != 0:
        pytest.skip("making a cgroup needs root and cgroup v2")
    slice_ = UNIFIED / f"avault{os.getpid()}.slice"
    try:
        for path in paths:
            (slice_ / path).mkdir(parents=True)
    except OSError as error:
        pytest.skip(f"no cgroup is to be had here: {error}")
    try:
        yield [slice_ / path for path in paths]
    finally:
        for directory, _, _ in os.walk(slice_, topdown=False):
            Path(directory).rmdir()
