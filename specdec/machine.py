"""What this machine can do, and what a forward pass asks of it; `specdec.speed.pass_floor` makes a time of both."""

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
        rates["multiply_adds_per_second"][str(dtype).removeprefix("torch.")] = work / shortest(lambda a=here, b=there: a @ b)
    if "fbgemm" in torch.backends.quantized.supported_engines:
        rates["multiply_adds_per_second"]["int8"] = work / shortest(int8_product(states, matrix))
    return rates


def int8_product(states: torch.Tensor, matrix: torch.Tensor) -> Callable:
    from specdec.int8 import packed, use_fbgemm
    from specdec.int8_pass import product

    use_fbgemm()
    weights = packed([matrix])
    return lambda: product(states, weights, 63)


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
