"""The daemon's entry point: harden, read the settings, put the parts together, confine, serve until told to stop."""

# The first statement of the process: from here on no other process of this uid may look into it.
from . import confine

confine.first()

import argparse  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from pathlib import Path  # noqa: E402

import trio  # noqa: E402

from avault_protocol import AvaultError  # noqa: E402

from . import __version__, settings as settings_file, sodium  # noqa: E402
from .anchor import Anchor  # noqa: E402
from .arena import Arena  # noqa: E402
from .audit import Record  # noqa: E402
from .bindings import Bindings  # noqa: E402
from .core import Core, Signals  # noqa: E402
from .gate import Gate  # noqa: E402
from .processes import Processes  # noqa: E402
from .requests import Requests  # noqa: E402
from .server import Server  # noqa: E402
from .settings import Places, Settings  # noqa: E402
from .throttle import Throttle  # noqa: E402
from .vault import Vault  # noqa: E402

log = logging.getLogger(__name__)


def main() -> None:
    """Run `avaultd`; its exit status is that of the error that ended it, 0 for a signal."""
    sys.exit(run(sys.argv[1:]))
