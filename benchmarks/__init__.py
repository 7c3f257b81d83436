"""How fast avault is, each figure beside a peer that ran in the same seconds. By hand: ``python -m benchmarks --help``."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "tests"))  # for the daemon in a folder that tests use
