"""Each target finds nothing in what is ours, and finds each bug that is planted there, by cases of the same kind."""

from __future__ import annotations

import pytest

from avault_protocol import Scanner
from support.fuzz.planted import BUGS, Bug, planted
from support.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_is_found(name: str) -> None:
    TARGETS[name].run()


ROUNDS = 8
"""Runs of the usual size in which a bug must be found: what Hypothesis draws also depends on which modules are there."""


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.target}: {bug.what}")
def test_a_planted_bug_is_found(bug: Bug) -> None:
    with planted(bug), pytest.raises((AssertionError, TypeError)):
        run_rounds(bug.target)


def run_rounds(name: str) -> None:
    for seed in range(ROUNDS):
        TARGETS[name].run(seed=seed, shrink=False)


def test_five_are_planted_and_each_target_has_one() -> None:
    assert len(BUGS) >= 5
    assert {bug.target for bug in BUGS} == TARGETS.keys()


def test_a_bug_is_gone_afterwards() -> None:
    bug = BUGS[0]
    before = Scanner.scan
    with planted(bug):
        assert Scanner.scan is not before
    assert Scanner.scan is before


def test_a_seed_finds_the_same_again() -> None:
    bug = next(bug for bug in BUGS if bug.what == "quotes may be followed by anything")
    said: set[str] = set()
    with planted(bug):
        for _ in range(2):
            with pytest.raises(AssertionError) as caught:
                TARGETS[bug.target].run(seed=7)
            said.add("".join(caught.value.__notes__))
    assert len(said) == 1
