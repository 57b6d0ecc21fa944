"""What a draft learns from: answers of the verifier in the draft's own ids, with p at every position.

The draft reads its own tokens of an answer; `specdec.alignment.draft_reading` says where in them the answer's positions are.
p of a position is stored as the verifier's most probable tokens (`specdec.answers`); here they are restricted to the tokens
that the draft shares, in the draft's ids.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from specdec.alignment import draft_reading
from specdec.losses import Targets, column_mask, shared_log_probs

if TYPE_CHECKING:
    from torch import Tensor

    from specdec.vocabulary import VocabularyMap

POSITIONS_AT_ONCE = 128  # whose logits are in memory together
HELD_COPIES = 3  # of these logits in float32, at the peak of a step: log q, its gradient, and one on the way
HOLES = 2  # times the activations: what the heap holds beside them after steps of several lengths (1.5 to 2.5 measured)


@dataclass(frozen=True)
class Example:
    """One answer as the draft meets it."""

    context: list[int]  # the draft's ids of prompt and answer, the answer's last token left out
    rows: list[int]  # [n] the row of `context` at which q of each answer position is read
    targets: Targets  # the verifier's side of the n positions


class DraftView:
    """Turns verifier ids into the draft's: one table for tokens, one for what the draft reads."""

    def __init__(self, shared: VocabularyMap, verifier_rows: int):
        import torch

        self.shared = shared
        self.to_draft = torch.full((verifier_rows,), -1, dtype=torch.long)
        self.to_draft[torch.tensor(shared.verifier_ids)] = torch.tensor(shared.draft_ids)

    def example(self, draft_prompt: list[int], answer: list[int], p_ids: Tensor | None, p_values: Tensor | None) -> Example:
        """The example of an answer [n] in the verifier's ids; p_ids and p_values [n, M], also in the verifier's ids."""
        import torch

        context, ends = draft_reading(self.shared, draft_prompt, answer)
        tokens = self.to_draft[torch.tensor(answer)]
        if p_ids is None or p_values is None:
            p_ids, p_values = torch.zeros(len(answer), 1, dtype=torch.long), torch.zeros(len(answer), 1)
        ids = self.to_draft[p_ids.long()]
        values = p_values.float() * (ids >= 0)
        # An upper bound of the shared mass outside the list: whether that mass is on shared tokens was not stored.
        tail = (1 - p_values.float().sum(-1)).clamp(min=0)
        return Example(context, [end - 1 for end in ends], Targets(ids.clamp(min=0), values, tokens, tail))


def collate(examples: list[Example]) -> tuple[Tensor, Tensor, Tensor, Targets]:
    """Pads a batch to the right.

    Returns:
        ids [B, L] and attention mask [B, L]; rows [N], positions of the flattened [B·L] at which q is read, N being all answer
        positions of the batch; and the targets of these N.
    """
    import torch

    width = max(len(example.context) for example in examples)
    ids = torch.tensor([example.context + [0] * (width - len(example.context)) for example in examples])
    mask = torch.tensor([[1] * len(example.context) + [0] * (width - len(example.context)) for example in examples])
    rows = torch.tensor([number * width + row for number, example in enumerate(examples) for row in example.rows])
    listed = max(example.targets.p_ids.shape[1] for example in examples)

    def wide(values: Tensor) -> Tensor:
        return torch.nn.functional.pad(values, (0, listed - values.shape[1]))

    parts = [example.targets for example in examples]
    targets = Targets(
        p_ids=torch.cat([wide(part.p_ids) for part in parts]),
        p_values=torch.cat([wide(part.p_values) for part in parts]),
        tokens=torch.cat([part.tokens for part in parts]),
        tail=torch.cat([part.tail for part in parts if part.tail is not None]),
    )
    return ids, mask, rows, targets


def at_listed(targets: Targets) -> tuple[Tensor, Targets]:
    """What a loss reads of q: the M listed tokens of each position, and the one that the verifier emitted.

    Returns:
        columns [N, M + 1], the draft's ids of these tokens; and the same targets, for a log q [N, M + 1] at these columns.
    """
    import torch

    listed = targets.p_ids.shape[1]
    columns = torch.cat([targets.p_ids, targets.tokens.clamp(min=0)[:, None]], dim=1)
    numbers = torch.arange(listed, device=columns.device).expand_as(targets.p_ids)
    tokens = targets.tokens.masked_fill(targets.tokens >= 0, listed)  # −1, a token that is not shared, stays
    return columns, replace(targets, p_ids=numbers, tokens=tokens)


def answer_log_probs(shared: VocabularyMap, temperature: float, width: int):
    """A module that wraps a draft: (ids [B, L], mask [B, L], rows [N]) → log q [N, V] at these positions alone.

    With columns [N, C], draft ids for each position: log q [N, C] at these, and [N, V] is never in memory.
    The output layer is applied to the answers' positions only: of a vocabulary of 150,000 it is the largest part of a step.
    What lies between it and log q is computed for a few positions at once, and again in the backward pass.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    class AnswerLogProbs(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model
            self.register_buffer("shared_columns", column_mask(shared.draft_ids, width).to(model.device), persistent=False)

        def forward(self, ids: Tensor, mask: Tensor, rows: Tensor, columns: Tensor | None = None) -> Tensor:
            inner = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
            hidden = inner.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            head = inner.get_output_embeddings()

            def log_probs(read: Tensor, wanted: Tensor | None) -> Tensor:
                log_q = shared_log_probs(head(read), self.shared_columns, temperature)
                return log_q if wanted is None else log_q.gather(1, wanted)

            read = hidden.flatten(0, 1)[rows].split(POSITIONS_AT_ONCE)
            wanted = [None] * len(read) if columns is None else columns.split(POSITIONS_AT_ONCE)
            return torch.cat([checkpoint(log_probs, *part, use_reentrant=False) for part in zip(read, wanted, strict=True)])

    return AnswerLogProbs


def learning_rate(peak: float, step: int, steps: int, warmup: float) -> float:
    """Linear warm-up over a share of the steps, then a cosine to zero; `step` counts from 0."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def batches(count: int, size: int, seed: int) -> Callable[[int], list[int]]:
    """`step` → the indices of its batch: every pass in an order of its own, drawn by `seed`; nothing to store."""
    import random

    per_pass = math.ceil(count / size)

    def batch(step: int) -> list[int]:
        order = list(range(count))
        random.Random(f"{seed} {step // per_pass}").shuffle(order)
        start = step % per_pass * size
        return order[start : start + size]

    return batch
