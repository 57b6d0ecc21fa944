"""q and p at the positions of one given text: teacher-forced, each model reading the text once.

Across two vocabularies the draft reads its own tokens of the same characters; the position of a verifier token is where the
draft has read everything before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from specdec.sampling import Settings, to_probs

if TYPE_CHECKING:
    from torch import Tensor

    from specdec.backend import Backend
    from specdec.vocabulary import VocabularyMap


def draft_reading(shared: VocabularyMap, prompt: list[int], answer: list[int]) -> tuple[list[int], list[int]]:
    """What the draft reads of a text, and where in it the answer's positions are.

    Args:
        prompt: [m] in the draft's ids.
        answer: [n] in the verifier's ids.

    Returns:
        (context, ends): the draft's ids of prompt and answer without its last token; `ends[i]`, for i < n, is the number of
        them that stand before the answer's token i, so q of position i is read at context[ends[i] − 1].
    """
    pieces = [shared.translate([token]) for token in answer[:-1]]
    ends = [len(prompt)]
    for piece in pieces:
        ends.append(ends[-1] + len(piece))
    return prompt + [token for piece in pieces for token in piece], ends


def sampled_probs(logits: Tensor, settings: Settings) -> Tensor:
    """`to_probs`; at temperature 0 all mass of a row stands on its most probable token, which greedy decoding takes."""
    import torch

    if settings.temperature > 0:
        return to_probs(logits, settings)
    best = logits.argmax(-1, keepdim=True)
    return torch.zeros(logits.shape, device=logits.device).scatter(-1, best, 1.0)


def verifier_probs(verifier: Backend, prompt: list[int], answer: list[int], settings: Settings) -> Tensor:
    """p [n, V] at the n positions of `answer`; both in the verifier's ids."""
    verifier.start()
    return sampled_probs(verifier.feed(prompt + answer[:-1], keep=len(answer)), settings)


def draft_probs(
    draft: Backend,
    shared: VocabularyMap,
    prompt: list[int],
    answer: list[int],
    rows: int,
    settings: Settings,
) -> Tensor:
    """q [n, `rows`] at the n positions of `answer`, over the verifier's ids; zero where a token is not shared.

    `prompt` is in the draft's ids, `answer` in the verifier's. All zero at positions behind the end of the draft's context,
    where decoding drafts nothing.
    """
    import torch

    q = torch.zeros(len(answer), rows, device=draft.device)
    context, ends = draft_reading(shared, prompt, answer)
    ends = [end for end in ends if not draft.context or end <= draft.context]
    if not ends:
        return q
    draft.start()
    logits = draft.feed(context[: ends[-1]], keep=ends[-1] - len(prompt) + 1)
    positions = torch.tensor(ends, device=draft.device) - len(prompt)
    logits = logits[positions][:, torch.tensor(shared.draft_ids, device=draft.device)]
    q[: len(ends), torch.tensor(shared.verifier_ids, device=draft.device)] = sampled_probs(logits, settings)
    return q


def overlap_and_kept(p: Tensor, q: Tensor, answer: list[int]) -> tuple[Tensor, Tensor]:
    """At the n positions of `answer`: Σ_x min(p, q) [n], and the probability [n] that its token x came from the draft.

    A position emits x from the draft with probability min(p(x), q(x)), and from either source with p(x): so a token of
    the finished text came from the draft with probability min(1, q(x) / p(x)), if the position was tested at all.
    """
    import torch

    tokens = torch.tensor(answer, device=p.device)[:, None]
    ratio = q.gather(1, tokens) / p.gather(1, tokens).clamp(min=1e-30)
    return torch.minimum(p, q).sum(-1), ratio.clamp(max=1)[:, 0]
