"""`support.as_user` with a daemon that is unfair on purpose: who sends most is served until all of it is answered."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from avault_daemon.serving import connection
from support import as_user

if __name__ == "__main__":
    connection.BATCH = 1 << 30
    connection.RECEIVE = 1 << 20
    as_user.main()
