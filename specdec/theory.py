"""What theory says of speculative decoding: one function an equation, no models.

α is the acceptance probability of one position, K (γ in study 3) the draft length, τ the block efficiency, c the cost of a
draft step in verifier steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


def tokens_per_block(alpha: float, k: int) -> float:
    """Expected tokens of a block at independent positions (Leviathan et al. 2023, arXiv 2211.17192, equation 1).

    Written as the sum 1 + α + … + α^K, which also holds at α = 1.
    """
    return sum(alpha**drafted for drafted in range(k + 1))


def speedup(tau: float, k: int, c: float) -> float:
    """Wall-clock factor over the plain verifier, if a pass over K + 1 tokens costs as much as one over a single token.

    With τ = `tokens_per_block` it is theorem 3.8 of Leviathan et al. 2023; with c the ratio of parameters, it is the
    memory-bound speed-up of Goel et al. 2024 (arXiv 2403.00858).
    """
    return tau / (c * k + 1)


def overall_speedup(tokens: float, passes: float, drafted: float, c: float) -> float:
    """As `speedup`, from what was counted: `tokens` of text for so many verifier passes and draft steps."""
    return tokens / (passes + c * drafted)


# --- decoding replayed from a finished text ---------------------------------------------------------------------------


class Replay(NamedTuple):
    """Expectations over all decoding that would have produced one text of n tokens."""

    passes: float  # of the verifier
    drafted: float  # tokens; with drafts that end early, at most
    accepted: float
    tested: list[float]  # [n] the probability that a draft was tested at this position


def replay(kept: list[float], k: int, max_new_tokens: int, ends: list[bool] | None = None) -> Replay:
    """Decodes a given text again, as an expectation: exact sums, no sampling.

    Args:
        kept: [n], for every token of the text the probability that it came from the draft, if its position was tested.
        k: draft length K, or fewer near `max_new_tokens`, as in `speculative_decode.decode`.
        ends: [n], whether a draft of this token is its block's last (`--stop-below`: q of the token is below the bound).

    Given the text, acceptances are independent: what follows x depends on x, not on where x came from. So with the
    probability `begins[i]` that a block begins at position i, a walk through its drafts gives the probabilities of all
    later beginnings. Two things are not in the text. A stop token that the draft proposed too early cuts its block short, so
    `drafted` is at most K − 1 too high for each of them. And behind a rejected token nobody knows where a draft with `ends`
    would have ended: `drafted` takes its whole K there, and sum(tested) is the least that it can be.
    """
    begins = [1.0] + [0.0] * len(kept)
    tested = [0.0] * len(kept)
    passes = drafted = accepted = 0.0
    for start in range(len(kept)):
        reached, length = begins[start], min(k, max_new_tokens - 1 - start)
        end = min(start + length, len(kept))
        passes += reached
        drafted += reached * length
        for position in range(start, end):
            tested[position] += reached
            begins[position + 1] += reached * (1 - kept[position])
            reached *= kept[position]
            accepted += reached
            if ends and ends[position]:
                end = position + 1
                drafted -= reached * (start + length - end)
                length = end - start
                break
        if end < len(kept):
            begins[end + 1] += reached  # all were accepted, and the free token follows
        else:
            drafted -= reached * (start + length - end)  # nothing is drafted behind an accepted stop token
    return Replay(passes, drafted, accepted, tested)


def expected_blocks(kept: list[float], k: int, max_new_tokens: int) -> tuple[float, float, float]:
    """Expected (verifier passes, tokens drafted, tokens accepted) of decoding that produced a given text: see `replay`."""
    return replay(kept, k, max_new_tokens)[:3]


def oracle_speedup(kept: list[float], max_new_tokens: int, c: float) -> float:
    """The speed-up of a draft that knows what will be accepted, and drafts that and no more: no draft length beats it (c ≤ 1).

    A token costs c if it was drafted and accepted, 1 if the verifier had to give it. Whatever the lengths, a pass gains at
    most the accepted tokens before the next rejection and one more, so the fewest passes are those of an endless draft.
    """
    passes = replay(kept, max_new_tokens, max_new_tokens).passes
    return overall_speedup(len(kept), passes, len(kept) - passes, c)


# --- rejection bursts -------------------------------------------------------------------------------------------------
# Ours: no source defines them. A burst is a run of tested positions that are rejected, one a block: every block of it but
# the first is rejected at once. What is not tested (the free token) is no part of a run and ends none.


class Bursts(NamedTuple):
    number: float
    rejections: float  # in all of them: the mean length is rejections / number
    longer: float  # how many are longer than the length asked for


def expected_bursts(kept: list[float], tested: list[float], longer_than: int) -> Bursts:
    """The expected bursts of `replay`: after a rejection the next position begins a block, so it is tested for certain.

    Args:
        kept: [n] as in `replay`. tested: [n] its result; 0 where nothing could be drafted.
    """
    rejected = [reached * (1 - share) for reached, share in zip(tested, kept, strict=True)]
    again = [1 - share if reached else 0.0 for reached, share in zip(tested, kept, strict=True)]
    number = longer = 0.0
    for position, probability in enumerate(rejected):
        begins = probability - (rejected[position - 1] * again[position] if position else 0.0)
        number += begins
        for later in range(position + 1, position + 1 + longer_than):
            begins *= again[later] if later < len(again) else 0.0
        longer += begins
    return Bursts(number, sum(rejected), longer)


def burst_lengths(blocks: Iterable[tuple[int, int]]) -> list[int]:
    """The bursts of one decoded text, from (drafted, accepted) of its blocks in order."""
    lengths: list[int] = []
    inside = False
    for drafted, accepted in blocks:
        inside = inside and accepted == 0
        if accepted < drafted:
            lengths = [*lengths[:-1], lengths[-1] + 1] if inside else [*lengths, 1]
            inside = True
    return lengths


def geometric_tail(mean: float, longer_than: int) -> float:
    """P(length > `longer_than`) of geometric lengths 1, 2, … with this mean.

    Bursts at independent positions are distributed like that: their mean is then 1/α, whatever K is.
    """
    return (1 - 1 / mean) ** longer_than


# --- disparity between tasks ------------------------------------------------------------------------------------------


def disparity(values: dict[str, float], smaller_is_better: bool = False) -> dict[str, float]:
    """U(T) of every task T: how far its value lies from that of the best task; 0 for the best."""
    best = min(values.values()) if smaller_is_better else max(values.values())
    return {task: abs(value - best) for task, value in values.items()}
