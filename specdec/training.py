"""What the trainings share: the LoRA layers, where checkpoints and adapters lie, their curves and model card.

A training never deletes what it did not write. An adapter folder holds the names of `ADAPTER_FILES` alone and a metrics.json
with its settings; a folder with anything else in it is a person's own and is refused before the work.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from specdec.provenance import ROOT
from specdec.terminal import Problem, say

if TYPE_CHECKING:
    from torch import nn

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


def linear_names(model: nn.Module) -> dict[str, int]:
    """Last names of all linear layers but the output layer, with how many layers bear each.

    Llama-like models have q_proj … down_proj apart; HF's Phi-3 fuses them to qkv_proj and gate_up_proj.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    output = model.get_output_embeddings()
    counts: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not output:
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


def as_bf16(model: nn.Module) -> nn.Module:
    """Adapter weights train in float32 and ship in bf16: half the size, and the precision the draft runs in.

    Raises:
        Problem: a trained weight is not finite; such an adapter must not replace a good one.
    """
    import torch

    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            if not parameter.isfinite().all():
                raise Problem(f"{name} is not finite after training. Lower --learning-rate.")
            parameter.data = parameter.data.to(torch.bfloat16)
    return model


# --- where a run leaves its files -------------------------------------------------------------------------------------


def checkpoint_folder(output_dir: Path) -> Path:
    """The checkpoints of the run that writes `output_dir`: named by its whole path, through symlinks, not its last name.

    The path is taken from here, so that a folder which moves with its checkpoints still finds them.
    """
    whole = output_dir.resolve()
    digest = hashlib.sha256(os.path.relpath(whole).encode(errors="surrogateescape")).hexdigest()[:8]
    return CHECKPOINTS / f"{whole.name}-{digest}"


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
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return metrics.get("settings") or metrics.get("conditions") if isinstance(metrics, dict) else None


def check_output_dir(output_dir: Path, base_model: str, overwrite: bool) -> None:
    """Refuses, before hours of work, a folder that cannot be written, or that holds what must not be lost.

    Raises:
        Problem: the folder of the repository or of the dataset, or one above it; files that no training here wrote; an
            adapter of another base model without `overwrite`; a parent that cannot be written.
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
    if _settings(folder) and not overwrite:
        before = _base_model(folder)
        if before != base_model:
            raise Problem(f"{output_dir} holds an adapter of {before}. Choose another --output-dir, or --overwrite.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent):
            pass
    except OSError as reason:
        raise Problem(f"{output_dir} cannot be written ({reason.strerror}). Choose another --output-dir.") from None


def _base_model(folder: Path) -> str | None:
    try:
        return json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return None


def write_adapter_folder(output_dir: Path, fill: Callable[[Path], None]) -> Path:
    """Lets `fill` write an adapter into a folder beside `output_dir`, then puts that in its place; returns where it lies.

    What stood there stays until the new folder is whole, and comes back if the exchange fails. Files that appeared in it
    since `check_output_dir` are a person's own: then the new adapter lies beside it, and a line says so.

    Raises:
        Problem: no space, or the exchange failed; its line says where the adapter is then.
    """
    folder = output_dir.resolve()
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        work.chmod(0o777 & ~_umask())
        fill(work)
    except BaseException as reason:
        shutil.rmtree(work, ignore_errors=True)
        if is_full(reason):
            raise Problem(f"no space left to write {output_dir}. Free some, then go on with --resume.") from None
        raise
    if not_ours(folder):
        beside = folder.with_name(work.name.lstrip("."))
        say(f"{output_dir} {not_ours(folder)}, so it is left as it is and the adapter is in {beside.name} beside it")
        folder = beside
    try:
        _exchange(work, folder)
    except OSError as reason:
        raise Problem(f"{output_dir} could not be replaced ({reason.strerror}). The adapter is in {work}.") from None
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
    """Whether an error says that the disk is full; safetensors and torch wrap the system's own in theirs."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error)


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
