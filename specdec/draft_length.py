"""`--k auto`: the draft length that should be fastest here, from what a step costs and how far drafts are accepted.

One short text is decoded with the longest length (`speculative_decode.measure_steps`). It says how many tokens a block of any
shorter length would have emitted, and what a step of the draft costs; passes of the verifier are timed at several widths. K is
then fixed for the whole run. That text has random numbers of its own, so a run's texts are as likely as with any fixed K.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from specdec.trace import Block

if TYPE_CHECKING:
    from specdec.backend import Backend

AUTO = "auto"
LONGEST = 8  # drafts of a block
BLOCKS = 12  # of the text that is decoded to measure
WIDTHS = (1, 2, 3, 5, LONGEST + 1)  # tokens of the verifier's passes that are timed


@dataclass(frozen=True)
class Measured:
    """What a short text with one draft has shown; all times in seconds."""

    draft_step: float
    passes: dict[int, float]  # width → one pass of the verifier
    rest: float  # of a block of LONGEST drafts, outside both models
    tokens: dict[int, float]  # K → tokens that a block emits on average

    def seconds_per_token(self, k: int) -> float:
        """Of a block of `k` drafts; 0: of the verifier alone."""
        if k == 0:
            return self.passes[1]
        rest = self.rest * (k + 1) / (LONGEST + 1)  # a distribution is made for every token
        return (k * self.draft_step + between(self.passes, k + 1) + rest) / self.tokens[k]

    def as_row(self) -> dict:
        """JSON-ready, with the tokens per second that are expected at every length."""
        return {
            "draft_step_seconds": self.draft_step,
            "verifier_pass_seconds": {str(width): seconds for width, seconds in self.passes.items()},
            "tokens_per_block": {str(k): tokens for k, tokens in self.tokens.items()},
            "tokens_per_second": {str(k): 1 / self.seconds_per_token(k) for k in (0, *self.tokens)},
        }


def measured(blocks: list[Block], verifier: Backend) -> Measured:
    """From blocks of LONGEST drafts, the last of which `verifier` has just read."""
    drafted = sum(len(block.drafted) for block in blocks)
    draft_seconds, verify_seconds, seconds = (
        sum(getattr(block, name) for block in blocks) for name in ("draft_seconds", "verify_seconds", "seconds")
    )
    return Measured(
        draft_seconds / max(drafted, 1),
        pass_seconds(verifier),
        (seconds - draft_seconds - verify_seconds) / len(blocks),
        {k: tokens_of_a_block(blocks, k) for k in range(1, LONGEST + 1)},
    )


def tokens_of_a_block(blocks: list[Block], k: int) -> float:
    """Tokens that a block of `k` drafts emits, 1 + Σ_j P(the first j are accepted), from blocks of at least as many.

    A draft that is tested is accepted with probability Σ min(p, q) (Leviathan et al. 2023, theorem 3.5). The sum of these over
    the tested drafts has the same expectation as the number accepted, and varies less. At temperature 0 it is that number.
    """
    accepted = 0.0
    for block in blocks:
        probabilities = block.overlap or (1.0,) * block.accepted
        accepted += sum(probabilities[:k])
    return 1 + accepted / len(blocks)


def pass_seconds(verifier: Backend, tries: int = 3) -> dict[int, float]:
    """Width → median seconds of a pass over so many tokens, behind what the cache holds, which stays as it is."""
    import torch

    found = {}
    with torch.inference_mode():
        for width in WIDTHS:
            if not verifier.has_room(width):
                break
            spent = []
            for _ in range(tries):
                before = verifier.seconds
                verifier.feed([0] * width, keep=width)
                verifier.drop(width)
                spent.append(verifier.seconds - before)
            found[width] = statistics.median(spent)
    return found


def between(passes: dict[int, float], width: int) -> float:
    """Seconds of a pass of `width` tokens, on straight lines between the widths that were timed."""
    for (low, before), (high, after) in pairwise(sorted(passes.items())):
        if width <= high:
            return before + (after - before) * (width - low) / (high - low)
    return passes[max(passes)]


def best_length(found: list[Measured]) -> int:
    """The K of the fewest seconds per token; of several drafts, of their sum."""
    lengths = [k for k in range(1, LONGEST + 1) if all(k < max(each.passes) for each in found)] or [1]
    return min(lengths, key=lambda k: sum(each.seconds_per_token(k) for each in found))


def why(k: int, found: dict[str, Measured]) -> str:
    """One line for the user: what was chosen, and what was expected of it and of the others."""
    expected = []
    for name, each in found.items():
        speeds = ", ".join(f"{other}: {1 / each.seconds_per_token(other):.2f}" for other in each.tokens)
        expected.append(f"{name} {speeds}, without a draft {1 / each.seconds_per_token(0):.2f}")
    repeat = f"--k {k} repeats this run"
    return f"K = {k} for the whole run, chosen by expected tokens/s at each K ({'; '.join(expected)}). {repeat}."
