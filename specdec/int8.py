"""A Llama or Qwen2 model on a CPU in 8-bit integers: the pass of `specdec.int8_pass`, with the methods of `CachedModel`.

  weights      int8, one scale a row, multiplied by FBGEMM's kernels, which x86 torch has inside: with one to nine tokens a
               product takes nearly the same time, for it is the weights that have to be read.
  activations  one scale a token, 8 bits where the CPU has VNNI; or twice as many in two parts that are two rows of one product
               (`specdec.int8_pass.linear`). AVX2 alone adds two neighbouring products in 16 bits, which 7 bits cannot exceed.
  cache        one array a layer, which grows by CHUNK tokens; to drop tokens is to lower a number.
  output       rows that can never be sampled are not computed.

p of a token does not depend on what else is in its pass, to the bit: integers are added without rounding, a scale belongs to
one token, and attention and SiLU are computed token by token. Were it not so, a difference in the seventh digit could tip the
rounding of an activation, and p would depend on K.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING

from specdec.backend import far_apart, logits_rows, name_of
from specdec.terminal import Problem, say

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

PIECE = 128  # tokens of a prompt that one pass reads
CHUNK = 256  # tokens by which the cache grows
MODEL_TYPES = ("llama", "qwen2")


class Int8Model:
    """A model with its KV cache: `feed` reads tokens, `drop` forgets the last of them; as `CachedModel`.

    Args:
        model: a transformers model on the CPU. It is emptied: its matrices are packed one by one.
        rows: the ids of the tokens that may be sampled; the logits of all others are −inf.
        context: the number of tokens that the model can read, None where nothing limits it.
        parts: of the activations, 1 or 2. With VNNI two parts of a block take longer than one, so that two go
            only where they move p: before down and before the output layer (studies/engine has how near it comes).

    Raises:
        Problem: torch has no such kernels on this CPU, a part of the model is not written out here, its weights are not finite.
    """

    def __init__(self, model: PreTrainedModel, rows: Iterable[int], context: int | None = None, parts: int = 2):
        import torch

        from specdec.int8_pass import compiled

        config, self.name = model.config, name_of(model)
        check_parts(self.name, config)
        use_fbgemm()
        copy_vectors(model)
        self.context, self.device = context, torch.device("cpu")
        self.rows, self.width = torch.tensor(sorted(rows)), logits_rows(config)
        if int(self.rows[-1]) >= self.width:
            raise Problem(
                f"the tokenizer of {self.name} has a token of id {int(self.rows[-1])}, the model only {self.width} logits "
                "rows. Tokenizer and weights do not belong together: choose a folder where they do."
            )
        # A slice is filled much faster than a list of columns.
        self.columns = self.rows if len(self.rows) <= self.rows[-1] else slice(len(self.rows))
        self.unnamed = torch.tensor(sorted(set(range(self.width)) - set(self.rows.tolist())), dtype=torch.long)
        self.embedding, self.rotary = own(model.model.embed_tokens.weight.detach()), model.model.rotary_emb
        finite = [bool(piece.sum().isfinite()) for piece in pieces([self.embedding])]  # at once, it would be copied whole
        if not all(finite):
            raise Problem(f"the weights of {self.name} hold numbers that are not finite (embed_tokens). Choose others.")
        vnni = torch.cpu._is_vnni_supported()
        self.levels, self.head_parts = 127 if vnni else 63, parts
        self.parts = [1, 1, 1, parts] if vnni else [parts] * 4  # of the four kinds of matrices
        self.products = parts * len(self.rows) * config.hidden_size  # multiply-adds of one token
        self.head, self.head_bias = packed_linears([model.lm_head], self.rows)  # first: no other takes as much memory to pack
        self.norms: list[Tensor] = []
        self.matrices: list = []
        self.biases: list[Tensor | None] = []
        for layer in model.model.layers:
            self._pack(layer)
            give_back_freed_memory()
        self.norm, self.eps = model.model.norm.weight.detach().float(), model.model.norm.variance_epsilon
        self.heads, self.head_size = (config.num_attention_heads, config.num_key_value_heads), head_size(config)
        self._pass = compiled()
        self.start()
        check_agreement(self)
        self.start()

    def _pack(self, layer) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            self.norms.append(norm.weight.detach().float())
        together = ([attention.q_proj, attention.k_proj, attention.v_proj], [attention.o_proj])
        kinds = (*together, [mlp.gate_proj, mlp.up_proj], [mlp.down_proj])
        for parts, linears in zip(self.parts, kinds, strict=True):
            self.products += parts * sum(linear.weight.numel() for linear in linears)
            matrix, bias = packed_linears(linears)
            self.matrices.append(matrix)
            self.biases.append(bias)

    @property
    def model(self):
        """Raises Problem: there is no transformers model behind this one, which `generate` and a training would need."""
        raise Problem("this command computes with transformers' own model. Leave --backend int8 out.")

    def start(self) -> None:
        """Forgets everything."""
        self.length, self.seconds = 0, 0.0
        self.caches: list[Tensor] = []

    def feed(self, tokens: list[int], keep: int = 1) -> Tensor:
        """Reads `tokens` after what the cache holds; returns the logits [keep, V] after the last `keep` of them."""
        import torch
        from torch.nn.functional import rms_norm

        from specdec.int8_pass import linear

        started = time.perf_counter()
        pieces = [self._read(tokens[begin : begin + PIECE]) for begin in range(0, len(tokens), PIECE)]
        states = rms_norm(torch.cat(pieces)[-keep:], self.norm.shape, self.norm, self.eps)
        logits = torch.full((keep, self.width), float("-inf"))
        logits[:, self.columns] = linear(states, self.head, self.head_bias, self.head_parts, self.levels)
        self.seconds += time.perf_counter() - started
        return logits

    def drop(self, count: int) -> None:
        """Forgets the last `count` tokens read."""
        self.length -= count

    def has_room(self, count: int) -> bool:
        """Whether `count` more tokens fit into the model's context."""
        return self.context is None or self.length + count <= self.context

    def _read(self, tokens: list[int]) -> Tensor:
        """One pass: the states [n, H] behind the last layer; the keys and values of `tokens` go into the cache."""
        import torch

        states = self.embedding[torch.tensor(tokens)].float()
        cos, sin = self.rotary(states[None], torch.arange(self.length, self.length + len(tokens))[None])
        cos, sin = cos[0, :, None], sin[0, :, None]
        sin[..., : sin.shape[-1] // 2].neg_()  # as `rotated` takes it
        self._make_room(self.length + len(tokens))
        matrices, biases = self.matrices, self.biases
        cached = (self.length, self.caches, self.norms, matrices, biases, self.heads, self.eps)
        states = self._pass(states, cos, sin, *cached, self.parts, self.levels)
        self.length += len(tokens)
        return states

    def _make_room(self, tokens: int) -> None:
        import torch

        if self.caches and self.caches[0].shape[2] >= tokens:
            return
        room = -(-tokens // CHUNK) * CHUNK
        grown = [torch.zeros(2, self.heads[1], room, self.head_size) for _ in self.norms[::2]]
        for new, old in zip(grown, self.caches, strict=False):  # none before the first token
            new[:, :, : old.shape[2]] = old
        self.caches = grown


def packed_linears(linears: list, rows: Tensor | None = None) -> tuple:
    """(packed matrix, bias) of linear layers of one input, one below the other, or of these rows of the only one."""
    weights, bias = taken(linears, rows)
    return packed(weights, rows), bias


def packed(weights: list[Tensor], rows: Tensor | None = None):
    """`weights` [out, in], one below the other, in int8 with one scale a row, as FBGEMM reads them.

    Beside the weights and what is returned, a copy in int8 is held at a time, never one in their own data type.

    Raises:
        Problem: a weight is not finite.
    """
    import torch

    height = sum(map(len, weights)) if rows is None else len(rows)
    codes = torch.empty(height, weights[0].shape[1], dtype=torch.int8)
    scales = torch.empty(height)
    filled = 0
    for piece in pieces(weights, rows):
        scale = piece.abs().amax(1).clamp(min=1e-20) / 127
        end = filled + len(piece)
        codes[filled:end] = piece.div_(scale[:, None]).round_()
        scales[filled:end] = scale
        filled = end
    if not scales.isfinite().all():
        raise Problem("the weights hold numbers that are not finite. Choose others.")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*quantized tensor creation")  # deprecated; the pinned torch has it
        tensor = torch._make_per_channel_quantized_tensor(codes, scales.double(), torch.zeros(height, dtype=torch.long), 0)
    del codes  # `tensor` is a copy
    return torch.ops.quantized.linear_prepack(tensor, None)


def pieces(weights: list[Tensor], rows: Tensor | None = None, height: int = 512) -> Iterator[Tensor]:
    """Copies of `weights`, or of these rows of the only one, in float32, `height` rows at a time: they stay in the cache."""
    import torch

    for weight in weights:
        for begin in range(0, len(weight) if rows is None else len(rows), height):
            piece = slice(begin, begin + height)
            yield (weight[piece] if rows is None else weight[rows[piece]]).to(torch.float32, copy=True)


def taken(linears: list, rows: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
    """(weights, bias) of linear layers that are one below the other, or of these rows of the only one; they are left empty.

    A loaded weight is a window on its mapped file, and file after file closes as the packing goes on: nothing is held twice.
    """
    import torch

    weights = [linear.weight.detach() for linear in linears]
    bias = None
    if any(linear.bias is not None for linear in linears):
        biases = [torch.zeros(len(linear.weight)) if linear.bias is None else linear.bias.detach() for linear in linears]
        bias = torch.cat(biases).float()
    if rows is not None and bias is not None:
        bias = bias[rows]
    for linear in linears:
        linear.weight = None
    return weights, bias


def own(matrix: Tensor) -> Tensor:
    """The matrix, copied where it is a window on a file that holds others too: the file would stay in memory with it."""
    return matrix.clone() if matrix.untyped_storage().nbytes() > matrix.nbytes else matrix


def copy_vectors(model: PreTrainedModel) -> None:
    """They are windows on mapped files, as the matrices are, and stay when those are gone."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data = parameter.data.clone()


def give_back_freed_memory() -> None:
    """glibc keeps what is freed between blocks in use; packing frees two copies of every matrix, as much as it keeps twice."""
    import ctypes

    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: 0)(0)


def head_size(config) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def use_fbgemm() -> None:
    """Raises Problem where torch has no FBGEMM: on processors that are not x86, or without AVX2."""
    import torch

    supported = "fbgemm" in torch.backends.quantized.supported_engines
    if not supported or not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        raise Problem("--backend int8 needs FBGEMM's kernels, which torch has for x86 with AVX2. Use --backend transformers.")
    torch.backends.quantized.engine = "fbgemm"
    say_what_is_used()


@cache
def say_what_is_used() -> None:
    import torch

    if not torch.cpu._is_vnni_supported():
        say("this CPU has no VNNI: products of int8 are added up by AVX2, which is slower with many tokens in a pass")


def check_parts(name: str, config) -> None:
    """Refuses a model of which a part is not written out here.

    Raises:
        Problem: with the part's name.
    """
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    other = sorted(set(getattr(config, "layer_types", None) or []) - {"full_attention"})
    part = None
    if config.model_type not in MODEL_TYPES:
        part = f"its architecture, {config.model_type}; {' and '.join(MODEL_TYPES)} models can be"
    elif getattr(config, "quantization_config", None):
        part = "weights that are quantized already"
    elif config.hidden_act != "silu":
        part = f"its activation, {config.hidden_act}"
    elif other:
        part = f"its layers of {', '.join(other)}"
    elif rope in ("dynamic", "longrope"):
        part = f"its {rope} positions, which change with the length of the text"
    if part:
        raise Problem(f"--backend int8 cannot run {name}: not written out is {part}. Use --backend transformers.")


def check_agreement(model: Int8Model) -> None:
    """Three tokens one by one, and two of them again in one pass: the logits must be the same bits, and numbers.

    Raises:
        Problem: with the name of the model and what is wrong.
    """
    import torch

    ids = model.rows[torch.tensor([0, len(model.rows) // 2, -1])].tolist()
    with torch.inference_mode():
        singles = torch.cat([model.feed([id]) for id in ids])
        model.drop(2)
        block = model.feed(ids[1:], keep=2)
    if singles.isnan().any():
        raise Problem(f"the states of {model.name} are not numbers: its weights or its adapter's are damaged. Load others.")
    if not singles[1:].equal(block):
        raise Problem(
            f"{model.name} gives other logits for two tokens at once than one by one (total variation "
            f"{far_apart(singles[1:], block):.1g}), so the text would depend on K. Use --backend transformers."
        )
