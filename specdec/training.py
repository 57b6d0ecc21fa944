"""What the trainings share: the LoRA layers, where checkpoints and adapters lie, their curves and model card.

A training never deletes what it did not write. An adapter folder holds the names of `ADAPTER_FILES` alone and a metrics.json
with its settings; a folder with anything else in it is a person's own and is refused before the work.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from specdec.files import try_folder, write_whole
from specdec.models import keep_freed_memory, load_model
from specdec.provenance import ROOT
from specdec.terminal import Problem, say
from specdec.weights import hub_answers

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from torch import nn
    from transformers import PreTrainedModel

    from specdec.models import Pair

CHECKPOINTS = Path("checkpoints")
ADAPTER_FILES = frozenset(
    {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "added_tokens.json",
        "chat_template.jinja",
        "merges.txt",
        "metrics.json",
        "metrics.jsonl",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "training.png",
        "vocab.json",
    }
)

# --- the adapter ------------------------------------------------------------------------------------------------------


def base_model(pair: Pair) -> str:
    """The draft's id; a folder without the slash that completion leaves at its end."""
    return pair.draft.id.rstrip("/") or pair.draft.id


def load_to_train(pair: Pair) -> PreTrainedModel:
    """The draft of `pair`, ready for an adapter to be trained on it."""
    import torch

    keep_freed_memory()
    hub_answers()
    torch.backends.cuda.enable_cudnn_sdp(False)  # gave NaN gradients of some batches in bf16 (torch 2.11, H200)
    model = load_model(pair.draft, pair.quantization)
    if model.device.type == "cpu":  # torch's fused attention has a slow backward pass there: a tenth of every step
        model.set_attn_implementation("eager")
    # PEFT and TRL write this name into every file; a converted GGUF would leave a path of this machine there.
    model.name_or_path = model.config.name_or_path = base_model(pair)
    return model


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """name → layer, of all linear layers but the output layer."""
    import torch
    from transformers.pytorch_utils import Conv1D

    output = model.get_output_embeddings()
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not output:
            found[name] = module
    return found


def linear_names(model: nn.Module) -> dict[str, int]:
    """Last names of all linear layers but the output layer, with how many layers bear each.

    Llama-like models have q_proj … down_proj apart; HF's Phi-3 fuses them to qkv_proj and gate_up_proj.
    """
    counts: dict[str, int] = {}
    for name in linear_layers(model):
        leaf = name.rsplit(".", 1)[-1]
        counts[leaf] = counts.get(leaf, 0) + 1
    return counts


def choose_targets(model: nn.Module, requested: list[str] | None) -> list[str]:
    """The module names to adapt: all of `linear_names`, or those requested.

    Raises:
        Problem: a requested name matches nothing. (PEFT is silent as long as one name matches: with the paper's seven
            names it adapts two of Phi-3's four kinds of projection.)
    """
    present = linear_names(model)
    missing = [name for name in requested or [] if name not in present]
    if missing:
        raise Problem(
            f"--target-modules {' '.join(missing)} matches no layer of this model, which has "
            f"{' '.join(present)}. Name only those, or leave the option out for all of them."
        )
    return requested or list(present)


def trainable_parameters(model) -> tuple[int, int]:
    """(trainable, total) by PEFT's count, which knows that two 4-bit weights share a byte."""
    return model.get_nb_trainable_parameters()


def lora_parameters(model: nn.Module, targets: list[str], rank: int) -> int:
    """How many weights LoRA of this rank adds to the linear layers of these last names."""
    count = 0
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] in targets and hasattr(module, "weight"):
            inputs = getattr(module, "in_features", module.weight.shape[0])  # GPT-2's Conv1D has its shape alone
            outputs = getattr(module, "out_features", module.weight.shape[-1])
            count += rank * (inputs + outputs)
    return count


def fresh_adapter(model: nn.Module, rank: int, alpha: int | None = None) -> LoraConfig:
    """LoRA on every linear layer but the output layer, without dropout; `alpha` is the rank unless it is given."""
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=alpha or rank,
        lora_dropout=0.0,
        bias="none",
        target_modules=choose_targets(model, None),
        task_type="CAUSAL_LM",
    )


def as_lora(tuned: nn.Module, base: nn.Module, rank: int) -> tuple[PeftModel, float]:
    """The adapter of `base` that is nearest to `tuned`: of every linear layer's difference, the nearest matrix of this rank.

    Returns:
        `base` with that adapter, and the share of the differences' squared norm that it keeps (Eckart and Young 1936).
    """
    import torch
    from peft import get_peft_model

    layers = linear_layers(tuned)
    model = get_peft_model(base, fresh_adapter(base, rank))
    whole = kept = 0.0
    for name, module in model.get_base_model().named_modules():
        if not hasattr(module, "lora_A"):
            continue
        difference = layers[name].weight.detach().float() - module.base_layer.weight.float()
        if not isinstance(module.base_layer, torch.nn.Linear):  # GPT-2's Conv1D keeps [inputs, outputs]
            difference = difference.T
        u, values, v = torch.linalg.svd(difference, full_matrices=False)
        whole += float(values.square().sum())
        kept += float(values[:rank].square().sum())
        root = values[:rank].sqrt()
        for adapter in module.lora_A:  # the one that was made above
            module.lora_A[adapter].weight.data = (root[:, None] * v[:rank]).contiguous()
            module.lora_B[adapter].weight.data = (u[:, :rank] * root).contiguous()
    return model, kept / whole if whole else 1.0


def truncate_rank(model: nn.Module, rank: int) -> float:
    """Replaces every LoRA update B·A by the nearest matrix of this rank (Eckart and Young 1936), in place.

    A [r, inputs] and B [outputs, r] keep their shapes; behind the first `rank` rows of A and columns of B stand zeros, which
    `cut_rank` takes out of the files. What a high rank has learnt can so ship in a small adapter.

    Returns:
        The share of the updates' squared norm that is kept.
    """
    import torch

    whole = kept = 0.0
    for module in model.modules():
        for name in getattr(module, "lora_A", {}):
            a, b = module.lora_A[name].weight, module.lora_B[name].weight
            left, upper = torch.linalg.qr(b.detach().double())
            right, lower = torch.linalg.qr(a.detach().double().T)
            u, values, v = torch.linalg.svd(upper @ lower.T)
            whole += float(values.square().sum())
            values[rank:] = 0
            kept += float(values.square().sum())
            root = values.sqrt()
            b.data.copy_(left @ (u * root))
            a.data.copy_((right @ (v.T * root)).T)
    return kept / whole if whole else 1.0


def cut_rank(folder: Path, rank: int) -> None:
    """Takes the zeros behind `rank` out of a saved adapter; its scale, alpha / r, stays as it was."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "adapter_model.safetensors")
    cut = {name: value[:rank] if "lora_A" in name else value[:, :rank] for name, value in tensors.items()}
    save_file({name: value.contiguous() for name, value in cut.items()}, folder / "adapter_model.safetensors", {"format": "pt"})
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    config["lora_alpha"], config["r"] = config["lora_alpha"] * rank / config["r"], rank
    write_whole(folder / "adapter_config.json", json.dumps(config, indent=2) + "\n")


def as_bf16(model: nn.Module) -> nn.Module:
    """Adapter weights train in float32 and ship in bf16: half the size, and the precision the draft runs in.

    Raises:
        Problem: a trained weight is not finite; such an adapter must not replace a good one.
    """
    import torch

    bad = not_finite(model)
    if bad:
        raise Problem(f"{bad} is not finite after the training, so no adapter was written. Lower --learning-rate.")
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    return model


def not_finite(model: nn.Module) -> str | None:
    """The name of a trained weight that holds NaN or an infinity; None if all are finite."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not parameter.isfinite().all():
            return name
    return None


def answers_finite(model) -> bool:
    """Whether the logits for a few tokens are finite: weights can be finite and yet so large that the logits are not."""
    import torch

    training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=torch.arange(8, device=model.device)[None]).logits
    model.train(training)
    return bool(logits.isfinite().all())


# --- memory -----------------------------------------------------------------------------------------------------------

HEAD_COLUMNS = 32768  # TRL computes the log-probabilities of so many tokens of the vocabulary at once, not of all


def memory_needed(model, lora_weights: int, sequences: int, length: int, recomputed: bool = False) -> dict[str, int]:
    """Bytes that a training step takes, by what takes them, for [sequences, length] tokens at once.

    An estimate from shapes. Activations: what autograd keeps of a Llama-like layer with LoRA on all its linear layers,
    counted by torch.autograd.graph.saved_tensors_hooks. `recomputed`: gradient checkpointing keeps a layer's input alone.
    The output layer: on a CPU TRL's backward pass holds ten float32 copies of [tokens, HEAD_COLUMNS] at its peak, on a GPU
    its kernel works in two.
    """
    config = model.config.get_text_config()
    hidden = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    tokens = sequences * length
    per_token = 32 * hidden + 16 * inner + 4 * config.num_attention_heads * length
    if model.dtype.itemsize == 2:  # LoRA's inputs are float32 all the same
        per_token = 29 * hidden + 9 * inner + 6 * config.num_attention_heads * length
    layers = config.num_hidden_layers
    kept = 2 * hidden * layers + per_token if recomputed else per_token * layers
    copies = 10 if model.device.type == "cpu" else 2
    return {
        "weights": sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()),
        "adapter": 16 * lora_weights,  # float32: the weight, its gradient and Adam's two moments
        "activations": tokens * kept,
        "output_layer": copies * tokens * min(config.vocab_size, HEAD_COLUMNS) * 4,
    }


def check_memory(needed: dict[str, int], free: int, remedy: str) -> None:
    """Says how much memory a training takes.

    Raises:
        Problem: there is less.
    """
    total = sum(needed.values())
    parts = ", ".join(f"{name.replace('_', ' ')} {gibibytes(size)}" for name, size in needed.items())
    if total > free:
        raise Problem(
            f"the training takes about {gibibytes(total)} GiB of memory ({parts}) and {gibibytes(free)} are free. {remedy}"
        )
    say(f"memory: about {gibibytes(total)} GiB at the longest rows ({parts}); {gibibytes(free)} are free")


def gibibytes(size: int) -> str:
    return f"{size / 2**30:.1f}"


# --- where a run leaves its files -------------------------------------------------------------------------------------


def checkpoint_folder(output_dir: Path) -> Path:
    """The checkpoints of the run that writes `output_dir`: named by its whole path, through symlinks, not its last name.

    The path is taken from here, so that a folder which moves with its checkpoints still finds them.
    """
    whole = output_dir.resolve()
    digest = hashlib.sha256(os.path.relpath(whole).encode(errors="surrogateescape")).hexdigest()[:8]
    return CHECKPOINTS / f"{whole.name}-{digest}"


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of transformers' Trainer, which writes trainer_state.json last."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json") if read_object(path)]
    return max(whole, key=checkpoint_step, default=None)


def checkpoint_step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def check_checkpoint(folder: Path, step: int | None, settings: dict, resume: bool, restart: bool) -> None:
    """Refuses a run that does not fit what lies in its folder of checkpoints. Changes nothing there.

    Args:
        step: of the checkpoint in `folder`, None if there is none.
        settings: of the run that begins now; those of the stopped one stand in settings.json.

    Raises:
        Problem: --resume without a checkpoint, or with one of other settings; neither --resume nor --restart with one, or both.
    """
    if resume and restart:
        raise Problem("--resume goes on with a stopped run and --restart drops it. Give one of them.")
    if not resume:
        if step is not None and not restart:
            raise Problem(f"{folder} holds a stopped run at step {step}. Go on with it by --resume, or drop it by --restart.")
        return
    if step is None:
        raise Problem(f"no checkpoint in {folder} to resume from. Run without --resume.")
    before = (read_object(folder / "settings.json") or {}).get("settings", {})
    other = [f"{key} {before.get(key)} → {value}" for key, value in settings.items() if before.get(key) != value]
    if other:
        raise Problem(
            f"the checkpoint in {folder} has other settings ({'; '.join(other)}). "
            "Give the same options again, or drop it by --restart."
        )


def remove_checkpoints(folder: Path) -> None:
    """Removes what a training left in its folder of checkpoints, and the folder if nothing else is in it."""
    for path in folder.glob("checkpoint-*"):
        shutil.rmtree(path)
    for name in ("settings.json", "metrics.jsonl", "state.safetensors", "state.unfinished", "README.md"):  # the last is TRL's
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def read_object(file: Path) -> dict | None:
    """The JSON object in `file`; None if there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def not_ours(folder: Path) -> str | None:
    """Why `folder` is not an adapter of ours that may be replaced; None if it is one, is empty or does not exist."""
    if not folder.exists():
        return None
    if not folder.is_dir():
        return "is a file"
    found = sorted(folder.iterdir())
    others = [path.name for path in found if path.name not in ADAPTER_FILES or not path.is_file()]
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        return f"holds {', '.join(others[:3])}{more}, which no training here wrote"
    if found and not _settings(folder):
        return "holds files that no training here wrote (no metrics.json with its settings)"
    return None


def _settings(folder: Path) -> dict | None:
    """What an adapter's metrics.json says of how it was trained."""
    metrics = read_object(folder / "metrics.json") or {}
    return metrics.get("settings") or metrics.get("conditions")


def check_output_dir(output_dir: Path, overwrite: bool) -> None:
    """Refuses, before hours of work, a folder that cannot be written, or that holds what must not be lost.

    Metrics without weights are what the repository keeps of most drafts: the command in them makes the weights again, in the
    same folder, so it may be written.

    Raises:
        Problem: the folder of the repository or of the dataset, or one above it; files that no training here wrote; the
            weights of an adapter without `overwrite`; a parent that cannot be written.
    """
    folder = output_dir.resolve()
    for inside in (ROOT, Path.cwd(), CHECKPOINTS.resolve()):
        if inside.is_relative_to(folder):
            raise Problem(f"--output-dir {output_dir} holds more than an adapter ({inside.name}). Name a folder of its own.")
    reason = not_ours(folder)
    if reason:
        raise Problem(f"{output_dir} {reason}. Choose another --output-dir.")
    if folder.is_mount():  # it cannot be renamed, so an adapter could not be put in its place at once
        raise Problem(f"{output_dir} is a mounted disk. Name a folder in it, such as {output_dir / 'adapter'}.")
    if (folder / "adapter_model.safetensors").exists() and not overwrite:
        before = (read_object(folder / "adapter_config.json") or {}).get("base_model_name_or_path")
        raise Problem(f"{output_dir} holds an adapter of {before}. Choose another --output-dir, or replace it by --overwrite.")
    if (folder / "metrics.json").exists() and not (folder / "adapter_model.safetensors").exists():
        say(f"{output_dir} holds the metrics of an adapter without its weights; this training replaces them")
    try:
        try_folder(folder.parent)
    except OSError as error:
        raise Problem(f"{output_dir} cannot be written ({error.strerror}). Choose another --output-dir.") from None


def write_adapter_folder(output_dir: Path, fill: Callable[[Path], None]) -> Path:
    """Lets `fill` write an adapter into a folder beside `output_dir`, then puts that in its place; returns where it lies.

    What stood there stays until the new folder is whole, and comes back if the exchange fails. Files that appeared in it
    since `check_output_dir` are a person's own: then the new adapter lies beside it, and a line says so.

    Raises:
        Problem: no space, or the exchange failed; its line says where the adapter is then.
    """
    folder = output_dir.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        work.chmod(0o777 & ~_umask())
        fill(work)
        for file in work.iterdir():  # safetensors makes its files for their owner alone
            file.chmod(0o666 & ~_umask())
    except BaseException as error:
        shutil.rmtree(work, ignore_errors=True)
        if is_full(error):
            raise Problem(f"no space left to write {output_dir}. Free some, then go on with --resume.") from None
        raise
    if not_ours(folder):
        beside = folder.with_name(work.name.lstrip("."))
        say(f"{output_dir} {not_ours(folder)}, so it is left as it is and the adapter is in {beside.name} beside it")
        folder = beside
    try:
        _exchange(work, folder)
    except OSError as error:
        raise Problem(f"{output_dir} could not be replaced ({error.strerror}). The adapter is in {work}.") from None
    return folder


def _exchange(work: Path, folder: Path) -> None:
    """Renames `work` to `folder`; an adapter that stood there is removed, file by file, once the new one stands."""
    old = work.with_name(work.name + ".old")
    if folder.exists():
        folder.rename(old)
    try:
        work.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    if old.exists():
        for name in ADAPTER_FILES:
            (old / name).unlink(missing_ok=True)
        old.rmdir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk is full; safetensors and torch.save put words of their own around the system's."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(words in str(error) for words in ("No space left", "os error 28", "unexpected pos"))


# --- what a run tells -------------------------------------------------------------------------------------------------


def plot_curves(rows: Iterable[dict], file: Path, titles: dict[str, str]) -> None:
    """A panel for every key of `titles` that `rows` have, over their `step`; readable without colour.

    Rows without a step, such as a header, are skipped; without any curve no file is written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    logged = [row for row in rows if "step" in row]
    curves = {}
    for key in titles:
        points = [(row["step"], row[key]) for row in logged if key in row]
        if points:
            curves[key] = points
    if not curves:
        return
    figure, panels = pyplot.subplots(1, len(curves), figsize=(4 * len(curves), 3.5), layout="constrained", squeeze=False)
    for panel, (key, points) in zip(panels[0], curves.items(), strict=True):
        panel.plot(*zip(*points, strict=True), color="black", linewidth=1)
        panel.set(title=titles[key], xlabel="optimizer step")
        panel.grid(alpha=0.3)
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def overlap_of_written(metrics: dict) -> dict[str, float] | None:
    """{"before": …, "after": …}, held-out Σ min(p, q) of the draft before its training and of the adapter that was written.

    In a metrics.json `held_out_overlap` is of the weights as they were trained; where fewer ranks were written
    (--keep-rank), `truncated` says what these reach. None where nothing was measured.
    """
    found = metrics.get("held_out_overlap")
    kept = metrics.get("truncated")
    return found and {**found, "after": kept["held_out_overlap"] if kept else found["after"]}


def model_card(base_model: str, tags: list[str], title: str, text: str, settings: dict) -> str:
    """The README.md of an adapter: the hub's header, a title, what happened (`text`), and a table of the settings."""
    lines = "\n".join(f"| {key} | {value} |" for key, value in settings.items())
    return f"""\
---
base_model: {base_model}
library_name: peft
license: apache-2.0
tags: [{", ".join([*tags, "lora", "speculative-decoding"])}]
---

# {title}

{text.strip()}

| setting | value |
|---|---|
{lines}

The training data are synthetic (written by a large language model). The adapter changes the speed of speculative
decoding, never its output: that is the verifier's. It is not meant to answer questions by itself.
"""
