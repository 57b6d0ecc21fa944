"""What two tokenizers share: the map by which a draft of one vocabulary proposes tokens of another.

Token-Level Intersection (Timor et al. 2025, arXiv 2502.05202): q is restricted to the tokens that both name and
renormalised before sampling, which keeps speculative sampling exact.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class VocabularyMap:
    """What draft and verifier share: draft_ids[i] and verifier_ids[i] name the same token, for i < S."""

    verdict: str
    draft_ids: tuple[int, ...]
    verifier_ids: tuple[int, ...]
    in_draft_ids: Callable[[int], tuple[int, ...]]  # verifier id → the draft's own tokens for the same characters

    def translate(self, tokens: Iterable[int]) -> list[int]:
        """The verifier's tokens in the draft's ids, one by one, so that the draft's context only ever grows."""
        return [id for token in tokens for id in self.in_draft_ids(token)]


def named_tokens(tokenizer) -> dict[str, int]:
    """Token string → id, without the filler names ("[PAD151665]") that GGUF files give to rows without a token."""
    return {
        token: id
        for token, id in tokenizer.get_vocab().items()
        if not ((filler := re.fullmatch(r"\[PAD(\d+)\]", token)) and int(filler[1]) == id)
    }


def alphabet(tokens: Iterable[str]) -> str:
    """How most token strings write a space: byte-level BPE writes Ġ, SentencePiece writes ▁."""
    firsts = Counter(token[:1] for token in tokens)
    space, count = max((("byte-level", firsts["Ġ"]), ("sentencepiece", firsts["▁"])), key=lambda pair: pair[1])
    return space if count else "other"


def vocabulary_map(draft_tokenizer, verifier_tokenizer) -> VocabularyMap:
    """Builds the map between two tokenizers; `verdict` is "incompatible" where no map is possible."""
    draft, verifier = named_tokens(draft_tokenizer), named_tokens(verifier_tokenizer)
    if draft == verifier:
        ids = tuple(sorted(verifier.values()))
        return VocabularyMap("identical", ids, ids, lambda id: (id,))
    shared = sorted((verifier[token], draft[token]) for token in verifier.keys() & draft.keys())
    if not shared or alphabet(draft) != alphabet(verifier):
        return VocabularyMap("incompatible", (), (), lambda id: ())
    verifier_ids, draft_ids = zip(*shared, strict=True)
    verifier_by_id = {id: token for token, id in verifier.items()}
    # SmolLM2 lacks 21 rare single bytes; for those the draft reads a stand-in, which can cost acceptance but never
    # exactness: any q is allowed as long as it is the q that was sampled.
    candidates = (draft_tokenizer.unk_token_id, draft_tokenizer.eos_token_id, draft_ids[0])
    stand_in = next(id for id in candidates if id is not None)
    # The BPE model itself cuts a token's string into draft tokens: no normaliser or pre-tokenizer adds a space.
    cut = draft_tokenizer.backend_tokenizer.model.tokenize

    @cache
    def in_draft_ids(id: int) -> tuple[int, ...]:
        token = verifier_by_id[id]
        if token in draft:
            return (draft[token],)
        return tuple(piece.id for piece in cut(token)) or (stand_in,)

    return VocabularyMap("intersection", draft_ids, verifier_ids, in_draft_ids)
