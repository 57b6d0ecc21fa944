"""Models of Phi-3's shapes with random weights: their memory, and the time of a pass by the loop's own cached passes."""

from __future__ import annotations

import statistics
import time

from specdec.backend import CachedModel
from specdec.models import device
from specdec.terminal import say
from specdec.training import linear_layers

COMMON = {"vocab_size": 32064, "max_position_embeddings": 4096, "sliding_window": 2047, "pad_token_id": 32000}
SHAPES = {  # the config.json of the revisions that specdec/models.py pins; arXiv 2404.14219
    "draft": {"hidden_size": 3072, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 8192},
    "verifier": {
        "hidden_size": 5120,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 10,
        "intermediate_size": 17920,
    },
}
QUANTIZATIONS = ("nf4", "none")
LENGTHS = (1, 2, 3, 4, 5, 6, 9)  # tokens of a pass: a draft's step has one, the verifier's K + 1
WARM_UP = 3


def random_model(shape: dict, quantization: str):
    """A model of these sizes on this machine's device, in bf16 or with its linear layers in NF4, as `load_model` has them."""
    import torch
    from transformers import AutoModelForCausalLM, Phi3Config

    with torch.device(device()):
        model = AutoModelForCausalLM.from_config(Phi3Config(**COMMON, **shape), dtype=torch.bfloat16)
    if quantization == "nf4":
        pack_nf4(model)
    return model.eval()


def pack_nf4(model) -> None:
    """Replaces every linear layer but the output layer by its NF4 form with double quantisation, in place."""
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name, layer in linear_layers(model).items():
        packed = Linear4bit(
            layer.in_features, layer.out_features, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4", device="meta"
        )
        weight = Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True)
        packed.weight = weight.to(layer.weight.device)
        model.set_submodule(name, packed)


def seconds_of_passes(cached: CachedModel, prompt: list[int], repeats: int) -> dict[int, dict[str, float]]:
    """Tokens of a pass → median, least and most seconds, behind `prompt`."""
    cached.start()
    cached.feed(prompt)
    found = {}
    for length in LENGTHS:
        taken = []
        for _ in range(WARM_UP + repeats):
            started = time.perf_counter()
            cached.feed(prompt[:length], keep=length)
            taken.append(time.perf_counter() - started)
            cached.drop(length)
        taken = taken[WARM_UP:]
        found[length] = {"median": statistics.median(taken), "least": min(taken), "most": max(taken)}
    return found


def measured(context: int, repeats: int, seed: int) -> dict[str, dict]:
    """quantization → what `measure` finds, one after the other."""
    import torch

    torch.manual_seed(seed)
    found = {}
    for quantization in QUANTIZATIONS:
        with torch.inference_mode():
            found[quantization] = measure(quantization, context, repeats)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return found


def measure(quantization: str, context: int, repeats: int) -> dict:
    """Both models: bytes, times; and the memory of decoding, both loaded, with `context` tokens in either cache."""
    import torch

    cuda = torch.cuda.is_available()
    result: dict = {}
    both = []
    for role, shape in SHAPES.items():
        before = torch.cuda.memory_allocated() if cuda else 0
        model = random_model(shape, quantization)
        held = torch.cuda.memory_allocated() - before if cuda else None
        prompt = torch.randint(COMMON["vocab_size"], (context,)).tolist()
        cached = CachedModel(model, set(range(COMMON["vocab_size"])))
        short = prompt[: context // 8]
        result[role] = {"bytes": held, "prompt_tokens": len(short), "passes": seconds_of_passes(cached, short, repeats)}
        say(f"{role}, {quantization}: {1000 * result[role]['passes'][1]['median']:.1f} ms a token")
        both.append((cached, prompt))
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for cached, prompt in both:
        cached.start()
        cached.feed(prompt)
    if cuda:
        result["decoding_bytes"] = {"allocated": torch.cuda.memory_allocated(), "peak": torch.cuda.max_memory_allocated()}
    return result
