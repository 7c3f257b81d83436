from __future__ import annotations

from hypothesis import given, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from avault_daemon.serving.turns import Turns

PARTIES = st.integers(0, 3)


def turns_of(*waiting: tuple[int, str]) -> Turns[str]:
    turns = Turns[str]()
    for party, one in waiting:
        turns.add(party, one)
    return turns


def test_parties_take_turns_whatever_their_numbers() -> None:
    turns = turns_of(*((1, f"crowd {number}") for number in range(100)), (2, "polite"))
    assert turns.deal(3) == ["crowd 0", "polite"]
    turns.add(2, "polite")
    assert turns.deal(3) == ["crowd 1", "polite"]
    assert turns.deal(3) == ["crowd 2", "crowd 3", "crowd 4"]


def test_of_several_parties_each_has_one_at_a_time() -> None:
    """Or whoever is alone would wait for several of a crowd, whose answers are sent when all have theirs."""
    turns = turns_of(*((party, f"{party} {number}") for party in (1, 2, 3) for number in range(3)))
    assert turns.deal(8) == ["1 0", "2 0", "3 0"]
    assert turns.deal(2) == ["1 1", "2 1"]


def test_who_comes_in_the_middle_is_next_but_one_at_most() -> None:
    turns = turns_of(*((1, f"crowd {number}") for number in range(100)))
    turns.deal(50)
    turns.add(2, "polite")
    assert "polite" in turns.deal(2)


def test_within_a_party_they_take_turns_too() -> None:
    turns = turns_of((1, "a"), (1, "b"))
    assert turns.deal(1) == ["a"]
    turns.add(1, "a")
    assert turns.deal(8) == ["b", "a"]
    assert not turns.waiting
    assert turns.deal(8) == []


def test_who_waits_already_keeps_its_place() -> None:
    turns = turns_of((1, "a"), (1, "b"), (1, "a"))
    assert turns.waiting
    assert turns.deal(8) == ["a", "b"]


@given(st.lists(st.tuples(PARTIES, st.integers(0, 20)), max_size=60), st.integers(1, 9))
def test_everyone_gets_one_turn(waiting: list[tuple[int, int]], most: int) -> None:
    turns = Turns[tuple[int, int]]()
    for party, one in waiting:
        turns.add(party, (party, one))
    dealt: list[tuple[int, int]] = []
    while turns.waiting:
        share = turns.deal(most)
        assert 0 < len(share) <= most
        dealt += share
    assert sorted(dealt) == sorted(set(waiting))


class Fairness(RuleBasedStateMachine):
    """While a party waits, no other has two turns more than it."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns[tuple[int, int]]()
        self.waiting: dict[int, list[int]] = {}
        self.since: dict[int, dict[int, int]] = {}
        """Of each party that waits, the turns of each since it began to."""

    @rule(party=PARTIES, one=st.integers(0, 9))
    def add(self, party: int, one: int) -> None:
        self.turns.add(party, (party, one))
        queue = self.waiting.setdefault(party, [])
        if one not in queue:
            queue.append(one)
        self.since.setdefault(party, {})

    @rule(most=st.integers(1, 8))
    def deal(self, most: int) -> None:
        for party, one in self.turns.deal(most):
            assert self.waiting[party].pop(0) == one
            for counts in self.since.values():
                counts[party] = counts.get(party, 0) + 1
            self.since[party] = {}
            if not self.waiting[party]:
                del self.waiting[party], self.since[party]

    @invariant()
    def nobody_is_passed_over(self) -> None:
        assert {party for party, _ in self.turns.waiting} == set(self.waiting)
        for counts in self.since.values():
            assert max(counts.values(), default=0) <= 1


TestFairness = Fairness.TestCase
