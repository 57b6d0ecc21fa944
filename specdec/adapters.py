"""Adapters: found in their folders, described by their metrics.json, and put on a draft."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from specdec.ngram import table_digest, table_of
from specdec.terminal import Problem, say

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from transformers import PreTrainedModel


PLAIN = {  # of a LoRA's options those that change no more than which matrices it is in, and by what factor
    "r",
    "lora_alpha",
    "lora_dropout",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "fan_in_fan_out",
    "init_lora_weights",
    "inference_mode",
    "task_type",
    "base_model_name_or_path",
    "revision",
    "peft_version",
}
FOLDER, STUDYS_OWN = Path("adapters"), Path("final_adapter")  # where adapters lie, relative to the repository


# --- found and described ----------------------------------------------------------------------------------------------


def describe_adapter(path: str | Path) -> dict:
    """How the adapter at `path` was trained: the settings in its metrics.json (loss, data, seed, lora_r, …), and its path.

    An n-gram table is described by its file and its n; its loss is "counts".

    Raises:
        Problem: metrics.json cannot be read. An adapter without one is described by its path alone.
    """
    if table := table_of(path):
        return {"path": str(path), "loss": "counts", "n": table[1]}
    file = Path(path) / "metrics.json"
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))["settings"]
    except FileNotFoundError:
        settings = {}
    except (OSError, ValueError, KeyError, TypeError) as reason:
        raise Problem(f"{file} cannot be read ({reason}). Restore it, or train the adapter again.") from None
    return {"path": str(path), **settings}


def describe_measured(path: str | None, digest: str | None) -> dict | None:
    """`describe_adapter` of a draft that was measured; its path alone where another adapter lies there now. None for base.

    Args:
        digest: `adapter_digest` when it was measured. Where its weights are not here (an arm of a study) it is not compared.
    """
    if path is None:
        return None
    table = table_of(path)
    file = table[0] if table else Path(path) / "adapter_model.safetensors"
    if file.exists() and adapter_digest(path) != digest:
        say(f"the adapter at {path} is another one than was measured, so it is not described")
        return {"path": path}
    return describe_adapter(path)


def discover_adapters(draft_id: str, root: Path = Path()) -> dict[str, str]:
    """name → path of every adapter of the draft `draft_id`: those in adapters/, by the names of their folders, and
    final_adapter, the study's own, as "dpo". Paths are relative to the current directory. Folders that hold metrics and no
    weights, as the repository keeps some, are left out, and a line says which.

    Raises:
        Problem: as `describe_adapter`; two of them of one name, or one with a name that is no draft's.
    """
    found: dict[str, str] = {}
    without = []
    folders = sorted(path.parent for path in (root / FOLDER).glob("*/metrics.json"))
    for name, path in [("dpo", root / STUDYS_OWN), *((folder.name, folder) for folder in folders)]:
        if describe_adapter(path).get("base_model") != draft_id:
            continue
        if not (path / "adapter_model.safetensors").is_file():
            without.append(str(path))
            continue
        if name in found or name in ("base", "verifier"):
            raise Problem(f"{path} has the name of another draft. Give the folder another name.")
        found[name] = str(path)
    if without:
        say(f"left out, for their weights are not here: {', '.join(without)} (the command in metrics.json makes them)")
    return found


def adapter_digest(path: str | Path | None) -> str | None:
    """The first 12 hexadecimal digits of the sha256 of an adapter's weights; None without an adapter.

    Of an n-gram table, of the answers that it was counted from.
    """
    if path is None:
        return None
    if table := table_of(path):
        return table_digest(*table)
    try:
        return hashlib.sha256((Path(path) / "adapter_model.safetensors").read_bytes()).hexdigest()[:12]
    except (FileNotFoundError, NotADirectoryError):
        raise Problem(f"no adapter at {path}. Train one with train_dpo.py, or name its folder: NAME=ADAPTER.") from None


# --- put on a draft ---------------------------------------------------------------------------------------------------


def check_adapter(adapter_path: str | Path, base_id: str) -> PeftConfig:
    """Reads the adapter's description, before any model is loaded.

    Raises:
        Problem: no adapter there, one that cannot be read or merged, or one trained for another base model.
    """
    from peft import PeftConfig

    path = Path(adapter_path)
    if not (path / "adapter_config.json").is_file():
        raise Problem(f"no adapter at {path}. Train one with train_dpo.py, or name its folder by --adapter-path.")
    if not (path / "adapter_model.safetensors").is_file():
        raise Problem(f"{path} has no adapter_model.safetensors (pickled weights are refused). Train it again.")
    try:
        config = PeftConfig.from_pretrained(str(path))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Problem(f"{path}/adapter_config.json cannot be read ({error}). Train the adapter again.") from None
    if not same_model(config.base_model_name_or_path, base_id):
        raise Problem(
            f"the adapter at {path} was trained for {config.base_model_name_or_path}, the draft is {base_id}. "
            "Name the right one by --adapter-path, or train one with train_dpo.py."
        )
    if config.is_prompt_learning or config.is_adaption_prompt:
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise Problem(f"the adapter at {path} is of the kind {kind}, which cannot be merged into a draft. Train a LoRA.")
    if config.task_type not in (None, "CAUSAL_LM"):
        raise Problem(f"the adapter at {path} is for the task {config.task_type}, a draft's is CAUSAL_LM. Name another.")
    return config


def load_adapter(base: PreTrainedModel, adapter_path: str | Path, base_id: str) -> tuple[PreTrainedModel, str]:
    """Puts the adapter at `adapter_path` on `base`; returns the model and "merged" or "attached".

    Merged where the base is unquantised: the same weights in one matrix, so that a tuned draft runs the operations
    of the base draft and their times compare. The sum is made in float32 and rounded back by `round_stochastically`; of a
    plain LoRA matrix by matrix, so that one alone is held in float32, of other kinds with the whole model in float32.
    Into 4-bit weights a merge would round again and change the outputs (huggingface/peft#1043), so there the adapter
    stays attached, and the caller's report says so.

    Any of PEFT's kinds that are changes of weights will do: LoRA, DoRA, LoHa, LoKr, IA3, OFT and more. Those that add
    tokens or layers (prompt and prefix tuning) cannot be merged and are refused.

    Raises:
        Problem: as `check_adapter`; or its tensors are not those that the draft needs, or its numbers are not finite.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    path, config = Path(adapter_path), check_adapter(adapter_path, base_id)
    kind = getattr(config.peft_type, "value", config.peft_type)
    quantised, dtype = getattr(base, "is_quantized", False), base.dtype
    in_turn = is_plain_lora(config)
    try:
        check_tensors(path)
        if not quantised and not in_turn:
            base = base.float()
        parameters = list(base.parameters())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT's page of missing names; `compare_names` says it in a line
            tuned = PeftModel.from_pretrained(base, str(path)).eval()
        compare_names(tuned, path)
        if quantised:
            return tuned, "attached"
        if in_turn:
            round_stochastically(merged_in_turn(tuned, parameters), dtype)
            return tuned.unload(), "merged"
        merged = tuned.merge_and_unload(safe_merge=True)  # of numbers that are not finite it makes a ValueError
    except (AttributeError, NotImplementedError, KeyError, TypeError) as error:
        raise Problem(
            f"the adapter at {path}, of the kind {kind}, cannot be merged into a draft ({_first_line(error)}). Train a LoRA."
        ) from None
    except (SafetensorError, RuntimeError, ValueError) as error:
        if "out of memory" in str(error):
            raise
        raise Problem(f"the adapter at {path} does not load: {_first_line(error)}. Train it again.") from None
    round_stochastically(merged.parameters(), dtype)
    return merged, "merged"


def is_plain_lora(config: PeftConfig) -> bool:
    """Whether an adapter is a sum W + s·BA in some matrices and nothing else.

    What may differ from PEFT's defaults is listed, not what may not: a later option is not taken for a plain one.
    """
    from peft import LoraConfig

    if type(config) is not LoraConfig or not isinstance(config.init_lora_weights, bool):  # PiSSA and others change the base
        return False
    usual = LoraConfig().to_dict()
    return all(name in PLAIN or value == usual[name] for name, value in config.to_dict().items())


def merged_in_turn(tuned, parameters: list[torch.nn.Parameter]) -> Iterator[torch.nn.Parameter]:
    """`parameters` of the base below a plain LoRA, in their order; what the LoRA changes is merged, in float32, just before.

    Raises:
        ValueError: numbers that are not finite came out.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    changing: dict[int, list] = {}  # by parameter; tied layers share one
    for layer in tuned.modules():
        if isinstance(layer, BaseTunerLayer):
            changing.setdefault(id(layer.get_base_layer().weight), []).append(layer)
    for parameter in parameters:
        layers = changing.get(id(parameter), [])
        if layers:
            parameter.data = parameter.data.float()
        for layer in layers:
            layer.merge(safe_merge=True)
        yield parameter


def same_model(name: str | None, other: str) -> bool:
    """Whether two ids are equal, or two spellings of one folder."""
    if name is None:
        return False
    return name == other or (Path(name).is_dir() and Path(other).is_dir() and Path(name).samefile(other))


def check_tensors(path: Path) -> None:
    """Raises Problem unless all numbers of the adapter's file are finite."""
    from safetensors import safe_open

    with safe_open(path / "adapter_model.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  (no mapping: it cannot be iterated)
            if not file.get_tensor(name).isfinite().all():
                raise Problem(
                    f"the adapter at {path} holds numbers that are not finite ({name}): its training failed. Train it again."
                )


def compare_names(tuned, path: Path) -> None:
    """Raises Problem unless the adapter's file holds the tensors that `tuned` has, all of them and no others.

    PEFT itself warns and goes on: what the file lacks keeps its first values, and for a LoRA that is the base draft.
    """
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    needed = set(get_peft_model_state_dict(tuned, save_embedding_layers=False))
    with safe_open(path / "adapter_model.safetensors", framework="pt") as file:
        found = set(file.keys())
    known = needed | set(tuned.state_dict())  # an adapter of the embedding carries the embedding itself
    missing, foreign = sorted(needed - found), sorted(found - known)
    if missing or foreign:
        raise Problem(
            f"the adapter at {path} does not fit the draft: {len(missing)} of its tensors are missing, {len(foreign)} belong "
            f"to another model ({(missing + foreign)[0]}). Name another, or train it again."
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def round_stochastically(parameters: Iterable[torch.nn.Parameter], dtype: torch.dtype) -> None:
    """Casts weights in place, float32 ones to bf16 up or down, with the probabilities that keep each weight's expectation.

    Most updates of a LoRA adapter are smaller than half the gap between two bf16 numbers. Rounding to the nearest one
    then gives the base weight back, for all of them alike, and part of the training is lost; here a share of them moves
    by the whole gap instead, and the sums that a layer takes over many weights keep the update. Weights that bf16 can
    hold, as all of the base are, do not move. Seeded, so that every run decodes with the same draft.

    Args:
        parameters: alone, all of a model's and in its order: the rotary frequencies are buffers, and float32 for good.
    """
    import torch

    generator: torch.Generator | None = None
    for parameter in parameters:
        generator = generator or torch.Generator(device=parameter.device).manual_seed(0)
        if dtype == torch.bfloat16:
            shape, device = parameter.shape, parameter.device
            noise = torch.randint(0, 2**16, shape, dtype=torch.int32, generator=generator, device=device)
            if parameter.dtype == torch.float32:
                bits = parameter.data.view(torch.int32)  # bf16 is the upper half of a float32
                parameter.data = noise.add_(bits).bitwise_and_(-(2**16)).view(torch.float32)
            else:  # unchanged, but a window on its mapped file, which closes behind the last of them
                parameter.data = parameter.data.clone()
        parameter.data = parameter.data.to(dtype)
