"""`avaultd` with a weakness of `weak`: ``python -P as_weak.py WEAKNESS avaultd's arguments``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":
    from avault_daemon.main import main  # whose first statement is the process's, or nearly
    from support.weak import weaken

    weaken(sys.argv.pop(1))
    main()
