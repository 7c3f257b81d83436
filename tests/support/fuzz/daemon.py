"""Target: the daemon as a whole. A case is one life of it, of so many steps."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import Phase, seed as seeded, settings
from hypothesis.stateful import run_state_machine_as_test

from .model import DaemonModel
from .target import ALL_CHECKS

EXAMPLES, STEPS = 20, 40


@dataclass(frozen=True)
class Daemon:
    """Like a `Target`, with the rules of `DaemonModel` for cases."""

    name: str = "daemon"
    usual: int = EXAMPLES

    def run(self, examples: int = 0, seed: int | None = None, *, shrink: bool = True) -> None:
        """Live so many lives, those of *seed* or else always the same; raise what the shortest one raises."""

        class Seeded(DaemonModel):
            pass

        chosen = settings(
            max_examples=examples or self.usual,
            stateful_step_count=STEPS,
            derandomize=seed is None,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
            report_multiple_bugs=False,
            suppress_health_check=ALL_CHECKS,
        )
        model: type[DaemonModel] = Seeded if seed is None else seeded(seed)(Seeded)
        run_state_machine_as_test(model, settings=chosen)


DAEMON = Daemon()
