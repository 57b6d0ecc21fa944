"""What the paper's pair costs on this GPU: memory, and the time of a pass, of models of its shapes with random weights.

Phi-3's weights are not needed for that: a pass over random numbers takes as long as one over trained ones. What they cannot
tell is acceptance; tables.py asks from which accepted/drafted on a draft would pay.

    python -m studies.engine.shapes --json studies/engine/results/shapes.json
"""

from __future__ import annotations

import argparse
import statistics
import time

from specdec.backend import CachedModel
from specdec.models import device
from specdec.provenance import provenance
from specdec.terminal import Problem, check_outputs, positive_int, put_json, random_seed, run, say
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=positive_int, default=1000, help="tokens in both caches (default 1000)")
    parser.add_argument("--repeats", type=positive_int, default=30, help="timed passes of a length (default 30)")
    parser.add_argument("--seed", type=random_seed, default=42, help="of the random weights and tokens (default 42)")
    parser.add_argument("--json", required=True, metavar="FILE", help="write the result to FILE, or - for stdout")
    args = parser.parse_args()
    check_outputs(args.json)
    if args.context < 8 * max(LENGTHS):
        raise Problem(
            f"--context must be {8 * max(LENGTHS)} or more: the longest pass reads {max(LENGTHS)} tokens of an eighth."
        )
    import torch

    torch.manual_seed(args.seed)
    found = {}
    for quantization in QUANTIZATIONS:
        with torch.inference_mode():
            found[quantization] = measure(quantization, args.context, args.repeats)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    conditions = {"shapes": SHAPES, **COMMON, "context": args.context, "repeats": args.repeats, "seed": args.seed}
    put_json({**provenance(conditions), "models": found}, args.json)


if __name__ == "__main__":
    run(main)
