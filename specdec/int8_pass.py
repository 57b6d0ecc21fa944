"""One pass of a Llama or Qwen2 model in 8-bit integers; `specdec.int8` packs the weights and keeps the cache.

These functions are written in the part of Python that torch.jit.script translates. A pass is many small operators, and at
one token the time that Python takes between them counts: translated, a draft's step is much faster. The bits are the same
(tests/test_int8.py), and where Python has no torch.jit.script (3.14 and later) they run as they stand.
"""

import sys
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu

if TYPE_CHECKING:
    Packed = Any
else:
    Packed = torch.classes.quantized.LinearPackedParamsBase  # a matrix as FBGEMM reads it


def compiled():
    """`read`, translated where this Python can."""
    if sys.version_info >= (3, 14):
        return read
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deprecated")  # the pinned torch has it
        return torch.jit.script(read)


def read(
    states: Tensor,
    cos: Tensor,
    sin: Tensor,
    length: int,
    caches: list[Tensor],
    norms: list[Tensor],
    matrices: list[Packed],
    biases: list[Tensor | None],
    heads: tuple[int, int],
    eps: float,
    parts: list[int],
    levels: int,
) -> Tensor:
    """The states [n, H] behind the last layer, of new tokens behind `length` cached ones, whose keys and values are cached.

    Args:
        states: [n, H], the tokens' embeddings; cos, sin: [n, 1, d] of their positions (`rotated`).
        caches: of each layer [2, cached heads, room, d], keys and values, with room for n more.
        norms: two of each layer. matrices, biases: four of each: q, k and v in one; o; gate and up in one; down.
        heads: of the queries, and of keys and values.
        parts: of the activations, for the four kinds of matrices in turn; levels: as `linear` takes them.
    """
    for number, cache in enumerate(caches):
        at = 4 * number
        normed = rms_norm(states, states.shape[1:], norms[2 * number], eps)
        projected = linear(normed, matrices[at], biases[at], parts[0], levels)
        mixed = attention(projected, cos, sin, length, cache, heads)
        states = states + linear(mixed, matrices[at + 1], biases[at + 1], parts[1], levels)
        normed = rms_norm(states, states.shape[1:], norms[2 * number + 1], eps)
        gate, up = linear(normed, matrices[at + 2], biases[at + 2], parts[2], levels).chunk(2, -1)
        states = states + linear(silu_by_token(gate).mul_(up), matrices[at + 3], biases[at + 3], parts[3], levels)
    return states


def linear(
    states: Tensor,
    matrix: Packed,
    bias: Tensor | None,
    parts: int,
    levels: int,
) -> Tensor:
    """states [n, in] → [n, out]: rounded to whole numbers from -levels to levels, with one scale a token.

    FBGEMM takes one scale for all activations of a product. So every token's are first divided by a step of its own, which
    makes its largest `levels`; the product's scale is then 1. With two parts what the first rounds away is a second row, in
    steps 2 · levels times as small, and added back.
    """
    step = states.abs().amax([-1], True).clamp_(min=1e-20).div_(levels)
    states = states / step
    if parts == 1:
        found = product(states, matrix, levels)
    else:
        finer = 2.0 * levels
        whole = states.round()
        first, second = product(torch.cat((whole, states.sub_(whole).mul_(finer))), matrix, levels).chunk(2)
        found = torch.add(first, second, alpha=1 / finer)
    found.mul_(step)
    return found if bias is None else found.add_(bias)


def product(
    states: Tensor,
    matrix: Packed,
    levels: int,
) -> Tensor:
    """Of `states` rounded to whole numbers from -levels to levels, which become 1 to 2 · levels + 1."""
    return torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(states, 1.0, levels + 1, matrix)


def attention(projected: Tensor, cos: Tensor, sin: Tensor, length: int, cache: Tensor, heads: tuple[int, int]) -> Tensor:
    """Every token attends to itself and to all before it, in a call of its own, whatever else is in the pass."""
    count = projected.shape[0]
    queries, cached = heads
    turned, value = projected.view(count, -1, cache.shape[3]).split([queries + cached, cached], 1)
    query, key = rotated(turned, cos, sin).split([queries, cached], 1)
    keys, values = cache.unbind()
    keys.narrow(1, length, count).copy_(key.transpose(0, 1))
    values.narrow(1, length, count).copy_(value.transpose(0, 1))
    keys, values = keys.unsqueeze(0), values.unsqueeze(0)
    query = query.reshape(count, 1, cached, -1, cache.shape[3])  # the queries that share a head of the cache, together
    mixed: list[Tensor] = []
    for row in range(count):
        seen = length + row + 1
        mixed.append(scaled_dot_product_attention(query[row], keys.narrow(2, 0, seen), values.narrow(2, 0, seen)))
    return torch.cat(mixed).view(count, -1)


def rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (arXiv 2104.09864) as Llama lays them out: of states [n, heads, d] the first half of a head turns with
    the second. cos and sin are [n, 1, d], the first half of sin negative."""
    low, high = states.chunk(2, -1)
    return (states * cos).add_(torch.cat((high, low), -1).mul_(sin))


def silu_by_token(gate: Tensor) -> Tensor:
    """SiLU of `gate` [n, I], a token at a time.

    torch shares large arrays out among its threads, and computes what is left of a share otherwise than what fills vector
    registers: with four threads or more, some elements of a token would depend on how many others are in the pass.
    """
    return torch.stack([silu(row) for row in gate.unbind()])
