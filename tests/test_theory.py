"""The equations against every outcome written out: replayed decoding, rejection bursts, the oracle, disparity."""

import itertools
import random

import pytest
from test_evaluate import NEVER, Case, reference_probs, settings

from specdec.intervals import bounds, mean_with_interval, resampled_means
from specdec.theory import (
    Bursts,
    burst_lengths,
    disparity,
    expected_blocks,
    expected_bursts,
    geometric_tail,
    oracle_speedup,
    overall_speedup,
    replay,
    speedup,
    tokens_per_block,
)

KEPT = [0.9, 0.2, 0.0, 0.6, 1.0, 0.3, 0.1, 0.7]
ENDS = [False, True, False, False, True, True, False, True]


def blocks_of(outcomes, k: int, max_new_tokens: int, ends=None) -> list[tuple[int, int, list[int]]]:
    """(drafted, accepted, tested positions) of every block of one decoding, in which position i would be accepted or not."""
    blocks, start = [], 0
    while start < len(outcomes):
        length, accepted, tested = min(k, max_new_tokens - 1 - start), 0, []
        while accepted < length and start + accepted < len(outcomes):
            tested.append(start + accepted)
            if not outcomes[start + accepted]:
                break
            accepted += 1
            if ends and ends[start + accepted - 1]:
                length = accepted
        ended = accepted == len(outcomes) - start  # the text is over: nothing is drafted behind it
        blocks.append((accepted if ended else length, accepted, tested))
        start += accepted + 1
    return blocks


def enumerated(kept, k, max_new_tokens, ends=None, longer_than=1):
    """Expectations by the sum over all outcomes: (passes, drafted, accepted, tested), and the bursts."""
    sums, tested, bursts = [0.0, 0.0, 0.0], [0.0] * len(kept), [0.0, 0.0, 0.0]
    for outcomes in itertools.product((True, False), repeat=len(kept)):
        probability = 1.0
        for share, accepted in zip(kept, outcomes, strict=True):
            probability *= share if accepted else 1 - share
        blocks = blocks_of(outcomes, k, max_new_tokens, ends)
        of_blocks = (len(blocks), sum(block[0] for block in blocks), sum(block[1] for block in blocks))
        sums = [total + probability * value for total, value in zip(sums, of_blocks, strict=True)]
        for position in itertools.chain(*(block[2] for block in blocks)):
            tested[position] += probability
        lengths = burst_lengths(block[:2] for block in blocks)
        of_bursts = (len(lengths), sum(lengths), sum(length > longer_than for length in lengths))
        bursts = [total + probability * value for total, value in zip(bursts, of_bursts, strict=True)]
    return sums, tested, bursts


@pytest.mark.parametrize("ends", [None, ENDS])
@pytest.mark.parametrize("max_new_tokens", [8, 30])
@pytest.mark.parametrize("k", [1, 2, 3, 32])
def test_replay_is_the_sum_over_all_outcomes(k, max_new_tokens, ends):
    sums, tested, bursts = enumerated(KEPT, k, max_new_tokens, ends)
    found = replay(KEPT, k, max_new_tokens, ends)
    assert found[:3] == pytest.approx(tuple(sums)) and found.tested == pytest.approx(tested)
    assert expected_bursts(KEPT, found.tested, 1) == pytest.approx(Bursts(*bursts))
    assert sum(found.tested) <= found.drafted + 1e-9, "the least that can have been drafted"


@pytest.mark.parametrize("longer_than", [0, 2, 3, 4])
def test_long_bursts_are_counted(longer_than):
    *_, bursts = enumerated(KEPT, 2, 30, longer_than=longer_than)
    found = expected_bursts(KEPT, replay(KEPT, 2, 30).tested, longer_than)
    assert found == pytest.approx(Bursts(*bursts)) and (found.longer > 0) == (longer_than < 4), (
        "the certain token ends every burst"
    )


def test_a_burst_that_forgets_its_beginning_is_caught():
    """Counting every rejection as a burst of its own."""
    tested = replay(KEPT, 2, 30).tested
    assert expected_bursts(KEPT, tested, 1).number < 0.8 * sum(t * (1 - share) for t, share in zip(tested, KEPT, strict=True))


def test_bursts_of_blocks():
    """A free token, or drafts that were accepted, end no run by themselves; an accepted one before a rejection does."""
    assert burst_lengths([(4, 2), (4, 0), (4, 0), (4, 4), (4, 1), (0, 0), (4, 0)]) == [3, 2]
    assert burst_lengths([(4, 4), (2, 2)]) == [] and burst_lengths([]) == []


def test_bursts_of_independent_positions_are_geometric():
    """Mean 1/α whatever K is, and the tail of the geometric distribution of that mean."""
    for k in (1, 4, 16):
        kept = [0.6] * 4000
        found = expected_bursts(kept, replay(kept, k, 5000).tested, 3)
        assert found.rejections / found.number == pytest.approx(1 / 0.6, rel=1e-3)
        assert found.longer / found.number == pytest.approx(geometric_tail(1 / 0.6, 3), rel=1e-2)
    assert geometric_tail(1 / 0.6, 3) == pytest.approx(0.4**3)


def test_a_draft_that_ends_when_unsure_is_replayed():
    """Passes and accepted tokens of the toy models' decoding, in standard errors; what it drafts lies between the bounds."""
    case, drawn = Case(), settings(k=4, stop_below=0.5)
    gaps, counts = [], []
    for blocks in case.run(drawn, NEVER, samples=400):
        text = [token for block in blocks for token in block.tokens]
        kept, ends = [], []
        for position, token in enumerate(text):
            history = case.prompt + text[:position]
            p = reference_probs(case.verifier_model.logits(history), drawn)
            q = reference_probs(case.draft.logits(history), drawn)
            kept.append(min(1.0, q[token] / p[token]))
            ends.append(q[token] < 0.5)
        found = replay(kept, 4, drawn.max_new_tokens, ends)
        drafted = sum(len(block.drafted) for block in blocks)
        gaps.append((len(blocks) - found.passes, sum(block.accepted for block in blocks) - found.accepted))
        counts.append((sum(found.tested), drafted, found.drafted))
    for column in zip(*gaps, strict=True):
        mean = sum(column) / len(column)
        deviation = (sum((value - mean) ** 2 for value in column) / len(column)) ** 0.5
        assert abs(mean) < 4 * deviation / len(column) ** 0.5
    low, drafted, high = (sum(column) for column in zip(*counts, strict=True))
    assert low < drafted < high


def test_without_ends_it_is_the_replay_of_old():
    assert expected_blocks(KEPT, 3, 30) == replay(KEPT, 3, 30, [False] * 8)[:3]


def test_speedup_of_counts_is_leviathans():
    """Independent positions, a long text: theorem 3.8 from what was counted."""
    passes, drafted, _ = expected_blocks([0.8] * 20_000, 4, 20_001)
    assert overall_speedup(20_000, passes, drafted, 0.2) == pytest.approx(speedup(tokens_per_block(0.8, 4), 4, 0.2), rel=1e-3)


def oracle_by_search(outcomes, c: float) -> float:
    """The least cost of one decoding over all choices of every block's draft length."""
    costs = [0.0] * (len(outcomes) + 2)
    for start in reversed(range(len(outcomes))):
        options = []
        for length in range(len(outcomes) - start):  # the last token is never drafted
            accepted = next((n for n in range(length) if not outcomes[start + n]), length)
            options.append(1 + c * length + costs[start + accepted + 1])
        costs[start] = min(options)
    return costs[0]


@pytest.mark.parametrize("c", [0.05, 0.4, 0.9])
def test_no_draft_length_beats_the_oracle(c):
    """Outcome by outcome; its speed-up is of the expected cost."""
    draw = random.Random(0)
    for _ in range(200):
        outcomes = [draw.random() < 0.7 for _ in range(9)]
        cost = 9 / oracle_speedup([float(accepted) for accepted in outcomes], 9, c)
        assert cost == pytest.approx(oracle_by_search(outcomes, c))


def test_disparity_is_the_distance_from_the_best():
    assert disparity({"a": 0.9, "b": 0.5}) == pytest.approx({"a": 0, "b": 0.4})
    assert disparity({"a": 3.0, "b": 1.0}, smaller_is_better=True) == {"a": 2.0, "b": 0.0}


def test_an_interval_of_a_mean_is_the_bootstraps():
    values = [random.Random(number).random() for number in range(40)]
    expected = mean_with_interval(values, 0)["interval"]
    assert bounds(resampled_means(values, 0)[:, 0]) == pytest.approx(expected, abs=0.01)


def test_columns_are_resampled_together():
    """A ratio of two columns that are proportional, prompt by prompt, has no spread."""
    means = resampled_means([(value, 2 * value) for value in (1.0, 5.0, 9.0)], 0)
    assert bounds(means[:, 0] / means[:, 1]) == [0.5, 0.5] and bounds(means[:, 0])[0] < 3 < bounds(means[:, 0])[1]
