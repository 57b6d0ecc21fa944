"""A verifier with its tokenizer, and the drafts loaded for it."""

from __future__ import annotations

from pathlib import Path

from specdec.adapters import load_adapter
from specdec.backend import CachedModel
from specdec.models import Pair, chat_text, load_model, load_tokenizer, pack_linears, stop_ids, token_ids
from specdec.reference import use_plain_sampling
from specdec.sampling import Settings
from specdec.terminal import Problem
from specdec.vocabulary import named_tokens, vocabulary_map


class Engine:
    """The verifier of a pair, ready to decode; `load_draft` adds drafts."""

    def __init__(self, pair: Pair):
        self.pair = pair
        self.tokenizer, self.draft_tokenizer = load_tokenizer(pair.verifier), load_tokenizer(pair.draft)
        self.shared = vocabulary_map(self.draft_tokenizer, self.tokenizer)
        if self.shared.verdict == "incompatible":
            raise Problem(
                f"{pair.draft.id} and {pair.verifier.id} share no vocabulary. "
                "Choose a draft of the verifier's family; check_vocab_compatibility.py says more."
            )
        model = load_model(pair.verifier, pair.quantization)
        self.stop = stop_ids(model, self.tokenizer)
        use_plain_sampling(model)
        self.contexts = {"verifier": getattr(model.config, "max_position_embeddings", None)}
        self.rows = model.config.vocab_size  # logits rows of the verifier
        self.verifier = CachedModel(pack_linears(model), set(named_tokens(self.tokenizer).values()))

    def load_draft(self, adapter_path: str | Path | None = None) -> tuple[CachedModel, str]:
        """Loads the draft, with an adapter or without; returns it and "none", "merged" or "attached"."""
        model, state = load_model(self.pair.draft, self.pair.quantization), "none"
        if adapter_path:
            model, state = load_adapter(model, adapter_path, self.pair.draft.id)
        self.contexts["draft"] = getattr(model.config, "max_position_embeddings", None)
        return CachedModel(pack_linears(model), set(named_tokens(self.draft_tokenizer).values())), state

    def prompt_ids(self, prompt: str, settings: Settings) -> tuple[list[int], list[int]]:
        """The prompt in the verifier's ids and in the draft's. Both models read one text: the verifier's template.

        Raises:
            Problem: prompt and answer together exceed the context of one of the models.
        """
        text = chat_text(self.tokenizer, prompt)
        verifier = token_ids(self.tokenizer, text)
        draft = (
            verifier
            if self.shared.verdict == "identical"
            else self.draft_tokenizer(text, add_special_tokens=False)["input_ids"]
        )
        # The draft may need more tokens of its own for what the verifier writes; twice as many leaves ample room.
        new = {
            "verifier": settings.max_new_tokens,
            "draft": settings.max_new_tokens * (1 if self.shared.verdict == "identical" else 2),
        }
        for name, context in self.contexts.items():
            length = len(verifier if name == "verifier" else draft)
            if context and length + new[name] > context:
                raise Problem(
                    f"the prompt has {length} tokens; with {new[name]} new ones that exceeds the context of "
                    f"{context} of the {name}. Shorten the prompt or lower --max-new-tokens."
                )
        return verifier, draft
