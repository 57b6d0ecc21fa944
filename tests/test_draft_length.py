"""`--k auto`: the estimates against what they stand for, the choice against numbers worked out by hand."""

import itertools

import pytest

from specdec.draft_length import LONGEST, Measured, best_length, between, measured, pass_seconds, tokens_of_a_block, why
from specdec.trace import Block

PASSES = {1: 1.0, 2: 1.0, 3: 1.0, 5: 1.2, 9: 2.0}


def block(overlap, accepted, drafted=LONGEST, seconds=(0.8, 2.0, 3.0)):
    draft, verify, whole = seconds
    return Block((1,) * drafted, (), (), tuple(overlap), accepted, 0, (0,) * (accepted + 1), whole, draft, verify)


def case(alpha=0.5, draft_step=0.1, rest=0.0, passes=None):
    tokens = {k: sum(alpha**drafted for drafted in range(k + 1)) for k in range(1, LONGEST + 1)}
    return Measured(draft_step, passes or PASSES, rest, tokens)


def test_tokens_of_a_block_are_expected_ones():
    """Every outcome of three positions, by its probability: tested ones have an overlap, and the estimate is exact."""
    overlaps = (0.9, 0.5, 0.2)
    for k in (1, 2, 3):
        estimate = 0.0
        for accepted in range(4):
            probability = (1 - overlaps[accepted] if accepted < 3 else 1) * product(overlaps[:accepted])
            estimate += probability * tokens_of_a_block([block(overlaps[: accepted + 1], accepted, drafted=3)], k)
        assert estimate == pytest.approx(1 + sum(product(overlaps[:j]) for j in range(1, k + 1)))


def product(values) -> float:
    return list(itertools.accumulate(values, lambda some, more: some * more, initial=1.0))[-1]


def test_greedy_blocks_count_what_was_accepted():
    blocks = [block((), 3), block((), 0)]
    assert [tokens_of_a_block(blocks, k) for k in (1, 2, 3, 8)] == [1.5, 2.0, 2.5, 2.5]


def test_a_pass_between_two_that_were_timed():
    assert [between(PASSES, width) for width in (1, 4, 5, 7, 9)] == pytest.approx([1.0, 1.1, 1.2, 1.6, 2.0])
    assert between({1: 1.0}, 4) == 1.0


def test_the_choice():
    """α = .5: tokens per block 1.5, 1.75, 1.875, 1.94 …; a draft step of .1: 1.1, 1.2, 1.4, 1.6 seconds a block."""
    assert best_length([case()]) == 2
    assert best_length([case(alpha=0.9, draft_step=0.01)]) == 4, "a wider pass takes longer"
    assert best_length([case(alpha=0.9, draft_step=0.01, passes={1: 1.0, 9: 1.0})]) == 8
    assert best_length([case(draft_step=1.0)]) == 1, "slower than no draft, and still a draft was asked for"
    other = case(alpha=0.95, draft_step=0.01)
    found = [best_length(cases) for cases in ([other], [case(), other], [case(), other, other, other])]
    assert found == [5, 2, 4], "of all together"
    assert best_length([case(alpha=0.95, draft_step=0.01, passes={1: 1.0, 2: 1.0, 3: 1.0})]) == 2, "no room for more"
    assert best_length([case(alpha=0.95, draft_step=0.01, passes={1: 1.0})]) == 1


def test_seconds_per_token():
    assert case().seconds_per_token(0) == 1.0
    assert case(rest=0.9).seconds_per_token(2) == pytest.approx((2 * 0.1 + 1.0 + 0.3) / 1.75)
    row = case().as_row()
    assert row["tokens_per_second"]["0"] == 1.0 and row["tokens_per_second"]["2"] == pytest.approx(1.75 / 1.2)
    words = why(2, {"base": case()})
    assert words.startswith("K = 2 for the whole run") and "base 1: 1.36, 2: 1.46" in words and "--k 2 repeats" in words


class Clockwork:
    """A verifier whose pass takes its width in seconds, and whose context ends."""

    def __init__(self, room):
        self.seconds, self.length, self.room = 0.0, 10, room

    def has_room(self, count):
        return count <= self.room

    def feed(self, tokens, keep):
        self.seconds += len(tokens)
        self.length += len(tokens)

    def drop(self, count):
        self.length -= count


def test_passes_are_timed_and_taken_back():
    verifier = Clockwork(room=9)
    assert pass_seconds(verifier) == {1: 1, 2: 2, 3: 3, 5: 5, 9: 9} and verifier.length == 10
    assert pass_seconds(Clockwork(room=4)) == {1: 1, 2: 2, 3: 3}


def test_what_blocks_have_shown():
    found = measured([block((0.5,), 0), block((0.5, 0.3), 1)], Clockwork(room=9))
    assert found.draft_step == pytest.approx(2 * 0.8 / 16) and found.rest == pytest.approx(0.2)
    assert found.tokens[1] == 1.5 and found.tokens[8] == pytest.approx(1 + (0.5 + 0.8) / 2)
    assert measured([block((), 0, drafted=0)], Clockwork(room=9)).draft_step == pytest.approx(0.8), "a draft out of context"
