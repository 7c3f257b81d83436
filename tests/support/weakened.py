"""`avaultd` with one of `weak.WEAKNESSES`: ``python -P weakened.py WEAKNESS avaultd's arguments``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from avault_daemon.main import main
from support import weak

if __name__ == "__main__":
    weak.weaken(sys.argv.pop(1))
    main()
