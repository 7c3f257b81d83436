"""A target: where its cases come from, and what must hold of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed as seeded, settings, strategies as st

ALL_CHECKS = (
    HealthCheck.too_slow,
    HealthCheck.data_too_large,
    HealthCheck.filter_too_much,
    HealthCheck.large_base_example,
)


@dataclass(frozen=True)
class Target:
    """What is fuzzed. *check* raises where the product is wrong about a case; *usual* cases are drawn in each CI run."""

    name: str
    cases: st.SearchStrategy[Any]
    check: Callable[[Any], None]
    usual: int = 500

    def run(self, examples: int = 0, seed: int | None = None, *, shrink: bool = True) -> None:
        """Check so many cases, those of *seed* or else always the same; raise what the smallest one raises."""

        def one(case: object) -> None:
            self.check(case)

        # Without a database: what is found is found again by its seed, and nothing else.
        chosen = settings(
            max_examples=examples or self.usual,
            derandomize=seed is None,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
            report_multiple_bugs=False,
            suppress_health_check=ALL_CHECKS,
        )
        test = chosen(given(self.cases)(one))
        (test if seed is None else seeded(seed)(test))()
