"""A causal language model and its KV cache, behind three methods: start, feed, drop."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class CachedModel:
    """A transformers model with its KV cache: `feed` reads tokens, `drop` forgets the last of them.

    `seconds` is the time spent in forward passes since `start`.
    """

    def __init__(self, model, named_ids: set[int]):
        import torch

        self.model = model
        self.device = model.device
        # Logits rows that name no token (Phi-3: 53, Qwen: 271) must never be sampled, with or without a draft.
        unnamed = [row for row in range(model.config.vocab_size) if row not in named_ids]
        self.unnamed = torch.tensor(unnamed, dtype=torch.long, device=self.device)
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
