"""One run of the decoding loop, block by block: what the terminal, the evaluation and the viewer write and read.

A trace file is JSON Lines: a header row as in every row file (`specdec.provenance.start_rows`), then for every run a row
that describes it, and a row a block. Rejected drafts are in it, and p and q of every tested token.

    {"run": 0, "draft": "base", "prompt": …, "seed": 42, "settings": {…}, "models": {…}, "prefill_seconds": 0.4}
    {"run": 0, "block": 0, "drafted": [ids], "p": […], "q": […], "overlap": […], "accepted": 2, "next_token": id,
     "tokens": [ids], "seconds": 0.3, "draft_seconds": 0.1, "verify_seconds": 0.2, "drafted_text": […], "next_text": "…"}

No torch in this module: a trace can be read without it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Block:
    """One verifier pass. A draft is tested if all before it in its block were accepted; the others have no p and q here.

    Traces of earlier versions lack rejected ids, p and q: there they are None.
    """

    drafted: tuple[int | None, ...]  # [K] the draft's tokens, in the verifier's ids
    p: tuple[float, ...] | None  # of each tested draft token; empty at temperature 0
    q: tuple[float, ...] | None
    overlap: tuple[float, ...] | None  # Σ_x min(p, q) at each tested position; empty at temperature 0
    accepted: int
    next_token: int | None  # the correction, or the free token after K accepted ones
    tokens: tuple[int, ...]  # emitted: accepted drafts, then next_token; cut behind a stop token
    seconds: float | None
    draft_seconds: float | None  # in the draft's forward passes
    verify_seconds: float | None  # in the verifier's


@dataclass(frozen=True)
class Run:
    """One prompt decoded with one draft, or by the verifier alone (draft "verifier")."""

    prompt: str
    draft: str
    seed: int
    text: str
    prefill_seconds: float
    blocks: tuple[Block, ...]
    interrupted: bool = False

    @property
    def token_ids(self) -> list[int]:
        return [token for block in self.blocks for token in block.tokens]


def summarize(run: Run) -> dict:
    """The metrics of one run; `seconds` includes the prefill.

    acceptance_rate is the study's α: accepted / drafted. expected_acceptance is the mean of Σ_x min(p, q) over the
    positions tested (Leviathan et al. 2023, definition 3.1 with theorem 3.5): another quantity for K > 1, because
    drafts behind a rejection count as drafted and are never tested.
    """
    blocks, tokens = run.blocks, len(run.token_ids)
    in_blocks, draft_seconds, verify_seconds = (
        sum(getattr(block, name) for block in blocks) for name in ("seconds", "draft_seconds", "verify_seconds")
    )
    seconds = run.prefill_seconds + in_blocks
    drafted = sum(len(block.drafted) for block in blocks)
    accepted = sum(block.accepted for block in blocks)
    overlaps = [value for block in blocks for value in block.overlap or ()]
    return {
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds if seconds else None,
        "drafted": drafted,
        "accepted": accepted,
        "acceptance_rate": accepted / drafted if drafted else None,
        "expected_acceptance": sum(overlaps) / len(overlaps) if overlaps else None,
        "block_efficiency": tokens / len(blocks) if blocks else None,
        "acceptance_by_position": acceptance_by_position(blocks),
        "blocks": len(blocks),
        "prefill_seconds": run.prefill_seconds,
        "draft_seconds": draft_seconds,
        "verify_seconds": verify_seconds,
        "other_seconds": in_blocks - draft_seconds - verify_seconds,
    }


def acceptance_by_position(blocks: tuple[Block, ...] | list[Block]) -> list[float]:
    """Share accepted among the drafts tested at position 1, 2, … of a block; one behind a rejection is not tested."""
    shares = []
    for position in range(max((len(block.drafted) for block in blocks), default=0)):
        tested = [block for block in blocks if len(block.drafted) > position and block.accepted >= position]
        if not tested:
            break
        shares.append(sum(block.accepted > position for block in tested) / len(tested))
    return shares


def block_row(block: Block) -> dict:
    return asdict(block)


def read_block(row: dict) -> Block:
    """The block of a row that `block_row` made; other keys of the row are ignored."""
    values: dict[str, Any] = {}
    for field in fields(Block):
        value = row[field.name]
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return Block(**values)
