"""What a forward pass must cost at least: the memory read for its weights, or the products computed, whichever takes longer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from specdec.models import Model, compute_dtype, load_pretrained

if TYPE_CHECKING:
    import torch

READ = 2**29  # bytes, more than a processor caches
SIZE = 4096  # of a square matrix


def machine_rates() -> dict:
    """What this machine can do with all its threads: bytes read and multiply-adds, a second; the best of several tries."""
    import torch

    numbers = torch.ones(READ // 4)
    rates: dict = {"bytes_per_second": READ / shortest(numbers.sum), "multiply_adds_per_second": {}}
    del numbers
    states, matrix = torch.randn(SIZE // 8, SIZE), torch.randn(SIZE, SIZE)
    work = SIZE // 8 * SIZE * SIZE
    for dtype in {torch.float32, compute_dtype()}:
        here, there = states.to(dtype), matrix.to(dtype)
        rates["multiply_adds_per_second"][name_of(dtype)] = work / shortest(lambda a=here, b=there: a @ b)
    if "fbgemm" in torch.backends.quantized.supported_engines:
        rates["multiply_adds_per_second"]["int8"] = work / shortest(int8_product(states, matrix))
    return rates


def int8_product(states: torch.Tensor, matrix: torch.Tensor) -> Callable:
    import torch

    from specdec.int8 import packed, use_fbgemm

    use_fbgemm()
    weights = packed([matrix])
    padded = torch.nn.functional.pad(states, (0, 2))
    return lambda: torch.ops.quantized.linear_dynamic(padded, weights, True)


def shortest(call: Callable, tries: int = 5) -> float:
    """Seconds of the fastest of several calls."""
    found = []
    for _ in range(tries):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return min(found)


def multiplied_weights(model: Model, rows: int | None = None) -> int:
    """Weights that one token is multiplied with: all linear layers, the output layer with `rows` of its rows (None: all)."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(load_pretrained(AutoConfig, model))
    head = empty.get_output_embeddings().weight
    count = sum(module.weight.numel() for module in empty.modules() if isinstance(module, torch.nn.Linear))
    return count if rows is None else count + (rows - len(head)) * head.shape[1]


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def pass_floor(weights: dict, tokens: int, rates: dict) -> float:
    """Seconds that a pass over `tokens` tokens takes at least.

    Args:
        weights: count; bytes of one; products, how often a token is multiplied with it; dtype of the product.
        rates: as `machine_rates` returns them.
    """
    read = weights["count"] * weights["bytes"] / rates["bytes_per_second"]
    computed = weights["count"] * weights["products"] * tokens / rates["multiply_adds_per_second"][weights["dtype"]]
    return max(read, computed)


def block_floor(draft: dict | None, verifier: dict, k: int, rates: dict) -> dict:
    """Seconds that a block of `k` drafts takes at least: those of the draft's steps, and of the verifier's pass over k + 1."""
    drafting = k * pass_floor(draft, 1, rates) if draft else 0.0
    return {"draft": drafting, "verify": pass_floor(verifier, k + 1, rates)}
