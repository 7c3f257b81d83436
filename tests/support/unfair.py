"""`support.as_user` with a daemon that is unfair on purpose: who sends most is served until all of it is answered."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from avault_daemon.serving import agent_connection, agents
from avault_daemon.serving.turns import Turns
from support import as_user

fair = Turns[object].add


def add(self: Turns[object], party: int, one: object) -> None:
    """Let whoever comes wait behind all who have come, whatever they are."""
    fair(self, 0, one)


if __name__ == "__main__":
    Turns.add = add  # type: ignore[method-assign, assignment]
    agents.ROUND, agent_connection.RECEIVE = 1 << 30, 1 << 16
    as_user.main()
