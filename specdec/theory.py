"""What theory says of speculative decoding: one function an equation, no models.

α is the acceptance probability of one position, K (γ in study 3) the draft length, τ the block efficiency, c the cost of a
draft step in verifier steps.
"""

from __future__ import annotations


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


def expected_blocks(kept: list[float], k: int, max_new_tokens: int) -> tuple[float, float, float]:
    """Expected (verifier passes, tokens drafted, tokens accepted) of decoding that produced a given text.

    Args:
        kept: [n], for every token of the text the probability that it came from the draft, if its position was tested.
        k: draft length K, or fewer near `max_new_tokens`, as in `speculative_decode.decode`.

    Given the text, acceptances are independent: what follows x depends on x, not on where x came from. So with the
    probability `begins[i]` that a block begins at position i, a walk through its drafts gives the probabilities of all
    later beginnings: exact sums, no sampling. One thing is not in the text: a stop token that the draft proposed too early
    cuts its block short, so `drafted` is at most K − 1 too high for each of them.
    """
    begins = [1.0] + [0.0] * len(kept)
    passes = drafted = accepted = 0.0
    for start in range(len(kept)):
        reached, length = begins[start], min(k, max_new_tokens - 1 - start)
        end = min(start + length, len(kept))
        passes += reached
        drafted += reached * length
        for position in range(start, end):
            begins[position + 1] += reached * (1 - kept[position])
            reached *= kept[position]
            accepted += reached
        if end < len(kept):
            begins[end + 1] += reached  # all were accepted, and the free token follows
        else:
            drafted -= reached * (start + length - end)  # nothing is drafted behind an accepted stop token
    return passes, drafted, accepted
