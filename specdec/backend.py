"""What decoding asks of a model: start, feed, drop. A causal language model and its KV cache behind them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from specdec.terminal import Problem

if TYPE_CHECKING:
    from torch import Tensor

WRONG_CACHE = "Choose another model: speculative decoding takes tokens back, and here needs a plain KV cache for that."


class Backend(Protocol):
    """A model as decoding sees it: `CachedModel`, `specdec.int8.Int8Model` or, as a draft alone, `specdec.ngram.NgramModel`."""

    device: Any  # torch.device
    context: int | None  # tokens that it can read; None: nothing limits it
    seconds: float  # spent in forward passes since `start`

    def start(self) -> None:
        """Forgets everything."""

    def feed(self, tokens: list[int], keep: int = 1) -> Tensor:
        """Reads `tokens` after what was read before; returns the logits [keep, V] after the last `keep` of them."""

    def drop(self, count: int) -> None:
        """Forgets the last `count` tokens read."""

    def has_room(self, count: int) -> bool:
        """Whether `count` more tokens fit into the model's context."""


class CachedModel:
    """A transformers model with its KV cache: `feed` reads tokens, `drop` forgets the last of them.

    `seconds` is the time spent in forward passes since `start`. `context` is the number of tokens that the model can read,
    None where nothing limits it.

    Raises:
        Problem: the tokenizer names ids that the model has no row for, its logits are not numbers, or it is no model whose
            state is a KV cache that can be cropped.
    """

    def __init__(self, model, named_ids: set[int], context: int | None = None):
        import torch

        self.model, self.context = model, context
        self.device = model.device
        rows = logits_rows(model.config)
        if max(named_ids) >= rows:
            raise Problem(
                f"the tokenizer of {name_of(model)} has a token of id {max(named_ids)}, the model only {rows} logits rows. "
                "Tokenizer and weights do not belong together: choose a folder where they do."
            )
        # Logits rows that name no token (Phi-3: 53, Qwen: 271) must never be sampled, with or without a draft.
        unnamed = [row for row in range(rows) if row not in named_ids]
        self.unnamed = torch.tensor(unnamed, dtype=torch.long, device=self.device)
        check_cache(self, sorted(named_ids))
        self.start()

    def start(self) -> None:
        """Forgets everything."""
        from transformers import DynamicCache

        # Without the config every layer is a full one, also Phi-3's: a sliding layer could not take tokens back.
        # The sliding window still applies, through the attention mask.
        self.cache = DynamicCache()
        self.seconds = 0.0

    def feed(self, tokens: list[int], keep: int = 1) -> Tensor:
        """Reads `tokens` after what the cache holds; returns the logits [keep, V] after the last `keep` of them."""
        import torch

        started = time.perf_counter()
        logits = self.model(
            torch.tensor([tokens], device=self.device), past_key_values=self.cache, use_cache=True, logits_to_keep=keep
        ).logits[0]
        logits[:, self.unnamed] = float("-inf")
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - started
        return logits

    def drop(self, count: int) -> None:
        """Forgets the last `count` tokens read."""
        if count:
            self.cache.crop(-count)  # transformers: a negative argument is a number of tokens to take off

    def has_room(self, count: int) -> bool:
        """Whether `count` more tokens fit into the model's context."""
        return self.context is None or self.cache.get_seq_length() + count <= self.context


def logits_rows(config) -> int:
    """The width of the output layer; a model of text and pictures keeps it in the part of its config that is about text."""
    text = config if hasattr(config, "vocab_size") else config.get_text_config()
    return text.vocab_size


def name_of(model) -> str:
    return getattr(model, "name_or_path", "") or type(model).__name__


def check_cache(cached: CachedModel, ids: list[int]) -> None:
    """Refuses a model whose text would come out wrong in silence, by a few short forward passes.

    All of a model's state must lie in the cache that it is given: one entry for every token read, in every layer, and gone
    when it is cropped. Mamba, RWKV and their hybrids keep a running state instead, RecurrentGemma keeps it in its modules,
    and the first GPT reads no cache at all.

    Raises:
        Problem: with the name of the model and what is wrong.
    """
    import torch

    first, second, other = ids[0], ids[len(ids) // 2], ids[-1]
    name = name_of(cached.model)
    try:
        with torch.inference_mode():
            cached.start()
            cached.feed([first])
            singles = [cached.feed([second]).float()]
            once = cached.feed([first]).float()
            lengths = {layer.get_seq_length() for layer in cached.cache.layers}
            croppable = cached.cache.is_croppable
            cached.drop(1)
            cached.feed([other])
            cached.drop(1)
            again = cached.feed([first]).float()
            cached.drop(2)
            block = cached.feed([second, first], keep=2).float()
            singles = torch.cat((*singles, once))
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        if "out of memory" in str(error):
            raise
        reason = (str(error).splitlines() or [""])[0]
        raise Problem(f"{name} does not run with a KV cache ({type(error).__name__}: {reason}). {WRONG_CACHE}") from None
    if once.isnan().any():
        raise Problem(f"the logits of {name} are not numbers: its weights or its adapter's are damaged. Load others.")
    if lengths != {3}:
        raise Problem(f"after 3 tokens the KV cache of {name} holds {sorted(lengths) or 'none'}. {WRONG_CACHE}")
    if not croppable:
        raise Problem(f"{name} keeps a state that cannot be cropped. {WRONG_CACHE}")
    if far_apart(once, again) > 0.01:
        raise Problem(f"{name} remembers tokens that its KV cache has dropped. {WRONG_CACHE}")
    # Matrices of another height round otherwise: in bf16 in the third digit of a logit.
    if far_apart(singles, block) > (0.01 if cached.model.dtype == torch.float32 else 0.2):
        raise Problem(f"{name} gives other logits for two tokens at once than one by one. {WRONG_CACHE}")


def far_apart(some: Tensor, others: Tensor) -> float:
    """The largest total variation, 0 to 1, between the distributions that logits [n, V] and [n, V] stand for."""
    return float((some.softmax(-1) - others.softmax(-1)).abs().sum(-1).max()) / 2
