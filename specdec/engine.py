"""A verifier with its tokenizer, and the drafts loaded for it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from specdec.adapters import check_adapter, load_adapter
from specdec.answers import prompt_ids, prompt_of
from specdec.backend import CachedModel, logits_rows
from specdec.int8 import Int8Model
from specdec.models import (
    Pair,
    context_of,
    load_model,
    load_tokenizer,
    pack_linears,
    refuse_without_memory,
    stop_ids,
)
from specdec.ngram import NgramModel, table_answers, table_of
from specdec.reference import use_plain_sampling
from specdec.sampling import Settings
from specdec.terminal import Problem
from specdec.vocabulary import named_tokens, vocabulary_map


class Engine:
    """The verifier of a pair, ready to decode; `load_draft` adds drafts.

    `adapter_paths` are those that will be loaded, of adapters or of answers to count (`specdec.ngram`): one that does not
    fit is refused before any model is read.
    `contexts` holds how many tokens the verifier and the draft can read; None: nothing limits it.
    """

    def __init__(self, pair: Pair, adapter_paths: Iterable[str | Path | None] = ()):
        self.pair = pair
        self.answers: dict[Path, tuple[list[dict], dict]] = {}  # what tables are counted from, by file
        for path in adapter_paths:
            if table := table_of(path):
                self._answers_in(table[0])
            elif path:
                check_adapter(path, pair.draft.id)
        self.tokenizer, self.draft_tokenizer = load_tokenizer(pair.verifier), load_tokenizer(pair.draft)
        self.shared = vocabulary_map(self.draft_tokenizer, self.tokenizer)
        if self.shared.verdict == "incompatible":
            raise Problem(
                f"{pair.draft.id} and {pair.verifier.id} share no vocabulary. "
                "Choose a draft of the verifier's family; check_vocab_compatibility.py says more."
            )
        refuse_without_memory([pair.verifier, pair.draft], pair.quantization, pair.backend)
        model = load_model(pair.verifier, pair.quantization, backend=pair.backend)
        self.stop = stop_ids(model, self.tokenizer)
        use_plain_sampling(model)
        self.contexts = {"verifier": context_of(model.config)}
        self.rows = logits_rows(model.config)
        named = set(named_tokens(self.tokenizer).values())
        self.verifier: CachedModel | Int8Model
        if pair.backend == "int8":
            self.verifier = Int8Model(model, named, self.contexts["verifier"], parts=2)
        else:
            self.verifier = CachedModel(pack_linears(model), named, self.contexts["verifier"])

    def load_draft(self, adapter_path: str | Path | None = None) -> tuple[CachedModel | Int8Model, str]:
        """Loads the draft, with an adapter or without; returns it and "none", "merged" or "attached"."""
        model, state = load_model(self.pair.draft, self.pair.quantization, backend=self.pair.backend), "none"
        if adapter_path:
            model, state = load_adapter(model, adapter_path, self.pair.draft.id)
        self.contexts["draft"] = context_of(model.config)
        if self.pair.backend == "int8":  # q may be rough: its errors cost acceptance, never the verifier's distribution
            return Int8Model(model, self.shared.draft_ids, self.contexts["draft"], parts=1), state
        named = set(named_tokens(self.draft_tokenizer).values())
        return CachedModel(pack_linears(model), named, self.contexts["draft"]), state

    def count_table(self, file: Path, n: int) -> NgramModel:
        """A draft that needs no model: a table of the n-grams in the verifier's answers in `file`, behind their own prompts."""
        rows, prompted = self._answers_in(file)
        texts = []
        for row in rows:
            prompt, _ = prompt_of(row, self.tokenizer, self.draft_tokenizer, self.shared, **prompted)
            texts.append((prompt, row["token_ids"]))
        return NgramModel(texts, n, self.rows, self.verifier.device)

    def _answers_in(self, file: Path) -> tuple[list[dict], dict]:
        if file not in self.answers:
            self.answers[file] = table_answers(file, self.pair.verifier.id)
        return self.answers[file]

    def prompt_ids(self, prompt: str, settings: Settings) -> tuple[list[int], list[int]]:
        """The prompt in the verifier's ids and in the draft's. Both models read one text: the verifier's template.

        Raises:
            Problem: as `check_room`.
        """
        return prompt_ids(self, {"prompt": prompt}, settings)

    def check_room(self, verifier: list[int], draft: list[int], settings: Settings) -> None:
        """Refuses a prompt that is too long; it is given in the verifier's ids and in the draft's.

        Raises:
            Problem: prompt and answer together exceed the verifier's context, or the prompt alone the draft's. Where the
                answer outgrows the draft's context, the verifier goes on without it.
        """
        context, new = self.contexts["verifier"], settings.max_new_tokens
        if context and len(verifier) + new > context:
            raise Problem(
                f"the prompt has {len(verifier)} tokens; with {new} new ones that exceeds the context of {context} of the "
                "verifier. Shorten the prompt or lower --max-new-tokens."
            )
        context = self.contexts.get("draft")
        if context and len(draft) > context:
            raise Problem(
                f"the prompt has {len(draft)} of the draft's tokens, which exceeds its context of {context}. "
                "Shorten the prompt or choose another draft."
            )
