"""What all tests share: signals as a shell in the foreground leaves them, and room for each other's locked memory."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A process of a user may lock 8 MiB by default, and one arena takes 4. Root, who may lock all, would not notice.
MAX_LOCKED_BY_MODULES = 1024  # KiB
MEMORY = "/dev/shm"


# The same examples each time, however slow the machine is.
settings.register_profile("avault", deadline=None, derandomize=True)
settings.load_profile("avault")


def pytest_configure() -> None:
    """Ignore no signal: what a test starts would inherit that, and `nohup scripts/test &` ignores three."""
    for signum in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Refuse modules that hold large arenas from their import on."""
    found = re.search(r"^VmLck:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    locked = int(found[1]) if found else 0
    if locked > MAX_LOCKED_BY_MODULES:
        raise pytest.UsageError(
            f"modules of tests lock {locked} KiB as they are imported; give an Arena() that stays mapped a small size"
        )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave a file to one worker, and so tests/system, which has one machine; it comes first since it takes longest."""
    items.sort(key=lambda item: item.path.parent.name != "system")
    for item in items:
        folder, name = item.path.parent.name, item.path.stem
        item.add_marker(pytest.mark.xdist_group(folder if folder == "system" else f"{folder}-{name}"))


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, if there is one, for what writes thousands of times: a sync costs nothing there."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="avault-", dir=MEMORY))
    yield folder
    shutil.rmtree(folder)
