"""Trains the draft's LoRA adapter by Direct Preference Optimization, with the paper's settings.

DPO (Rafailov et al. 2023, arXiv 2305.18290, equation 7) raises the margin by which the policy prefers the chosen answer
over the rejected one, relative to a reference:

    L = −E log σ( β log[π(y_w|x) / π_ref(y_w|x)] − β log[π(y_l|x) / π_ref(y_l|x)] )

TRL's DPOTrainer computes it, PEFT holds the adapter; the reference is the same base with the adapter off. On a GPU the
base is 4-bit NF4 (QLoRA: Dettmers et al. 2023, arXiv 2305.14314), on a CPU bf16.

    python train_dpo.py --dry-run      two optimizer steps: shows the plan, time and memory, writes nothing
    python train_dpo.py                trains, and leaves the adapter in ./final_adapter
    python train_dpo.py --resume       goes on from the last checkpoint of a stopped run
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

from preprocess_and_load_dataset import (
    add_dataset_arguments,
    load_preference_dataset,
    read_pairs,
    token_lengths,
    training_tokenizer,
)
from specdec.files import append_jsonl, read_jsonl, to_line, write_whole
from specdec.models import Pair, add_model_arguments, choose_pair, keep_freed_memory, load_model
from specdec.provenance import environment, peak_memory_bytes
from specdec.terminal import Problem, put_json, run, say
from specdec.weights import hub_answers

# --- the adapter ------------------------------------------------------------------------------------------------------


def linear_names(model) -> dict[str, int]:
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


def choose_targets(model, requested: list[str] | None) -> list[str]:
    """The module names to adapt: all of `linear_names`, or those requested.

    Raises:
        Problem: a requested name matches nothing. (PEFT is silent as long as one name matches: with the seed's seven
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


def lora_config(args: argparse.Namespace, targets: list[str]):
    from peft import LoraConfig

    return LoraConfig(
        r=args.lora_r,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        bias="none",
        target_modules=targets,
        task_type="CAUSAL_LM",
    )


# --- the run ----------------------------------------------------------------------------------------------------------


def common_settings(args: argparse.Namespace, checkpoints: Path, max_steps: int | None) -> dict:
    """What DPO and its control share: everything but the loss."""
    import torch

    on_gpu = torch.cuda.is_available()
    return dict(
        output_dir=str(checkpoints),
        seed=args.seed,
        data_seed=args.seed,
        max_steps=max_steps or -1,
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=args.batch_size,
        gradient_accumulation_steps=args.gradient_accumulation,
        learning_rate=args.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=args.warmup,
        max_length=args.max_length,
        # Recomputing activations buys memory with a third more time: a GPU of 24 GB needs it, a laptop does not.
        bf16=True,
        gradient_checkpointing=on_gpu,
        use_cpu=not on_gpu,
        logging_steps=1,
        save_strategy="no" if args.dry_run else "steps",
        save_steps=args.save_steps,
        save_total_limit=2,
        eval_strategy="no",
        report_to=args.report_to,
        disable_tqdm=False,
        dataset_num_proc=None,
    )


def dpo_trainer(args: argparse.Namespace, common: dict, model, **parts):
    from trl import DPOConfig, DPOTrainer

    config = DPOConfig(
        **common,
        beta=args.beta,
        loss_type=["sigmoid"],
        # The reference never changes: one pass over the data serves both epochs. (TRL 1.16 keeps it in a file that other
        # processes of a distributed run look for in a folder of their own.)
        precompute_ref_log_probs=int(os.environ.get("WORLD_SIZE", 1)) == 1,
        precompute_ref_batch_size=args.batch_size,
    )
    return DPOTrainer(model, args=config, **parts)


def sft_trainer(args: argparse.Namespace, common: dict, model, train_dataset, eval_dataset, **parts):
    """The control: likelihood of the chosen answers alone, on the same prompts in the same batches."""
    from trl import SFTConfig, SFTTrainer

    def chosen(dataset):
        return dataset and dataset.remove_columns("rejected").rename_column("chosen", "completion")

    return SFTTrainer(
        model,
        args=SFTConfig(**common, completion_only_loss=True),
        train_dataset=chosen(train_dataset),
        eval_dataset=chosen(eval_dataset),
        **parts,
    )


def make_trainer(args: argparse.Namespace, pair: Pair, checkpoints: Path, train, held_out, max_steps: int | None):
    """Loads the model, puts a fresh adapter on it and returns TRL's trainer, its first line of the plan printed."""
    keep_freed_memory()
    hub_answers()
    model = load_model(pair.draft, pair.quantization)
    if model.device.type == "cpu":  # torch's fused attention has a slow backward pass there: a tenth of every step
        model.set_attn_implementation("eager")
    # PEFT and TRL write this name into every file; a converted GGUF would leave a path of this machine there.
    model.name_or_path = model.config.name_or_path = pair.draft.id
    targets = choose_targets(model, args.target_modules)
    present = linear_names(model)
    say("LoRA on " + ", ".join(f"{name} ×{present[name]}" for name in targets))
    make = {"sigmoid": dpo_trainer, "sft": sft_trainer}[args.loss]
    trainer = make(
        args,
        common_settings(args, checkpoints, max_steps),
        model,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=training_tokenizer(pair),
        peft_config=lora_config(args, targets),
    )
    trainable, total = trainable_parameters(trainer.model)
    say(f"{trainable:,} of {total:,} parameters are trainable ({trainable / total:.3%})")
    return trainer


def trainable_parameters(model) -> tuple[int, int]:
    """(trainable, total) by PEFT's count, which knows that two 4-bit weights share a byte."""
    return model.get_nb_trainable_parameters()


def row_writer(file: Path):
    """A callback that appends every log of the trainer to `file`, a row each."""
    from transformers import TrainerCallback

    class RowWriter(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            if state.is_world_process_zero and logs:
                append_jsonl(file, {"step": state.global_step, **logs})

    return RowWriter()


def stop_on_ctrl_c():
    """A callback that turns Ctrl-C into: finish this step, save a checkpoint, stop. Its `stopped` tells."""
    from transformers import TrainerCallback

    class StopOnCtrlC(TrainerCallback):
        stopped = False

        def on_train_begin(self, args, state, control, **_):
            signal.signal(signal.SIGINT, self.remember)

        def remember(self, *_):
            say("Ctrl-C: finishing this step and saving a checkpoint …")
            self.stopped = True

        def on_step_end(self, args, state, control, **_):
            if self.stopped:
                control.should_save = control.should_training_stop = True

        def on_train_end(self, args, state, control, **_):
            signal.signal(signal.SIGINT, signal.default_int_handler)

    return StopOnCtrlC()


def settings_of(args: argparse.Namespace, pair: Pair) -> dict:
    """What must be equal for a checkpoint to be continued, and what the model card tells."""
    return {
        "base_model": pair.draft.id,
        "verifier": pair.verifier.id,
        "quantization": pair.quantization,
        "dataset": args.dataset.name,
        "dataset_sha256": hashlib.sha256(args.dataset.read_bytes()).hexdigest(),
        "eval_fraction": args.eval_fraction,
        "balance": args.balance,
        "loss": args.loss,
        "beta": args.beta,
        "lora_r": args.lora_r,
        "lora_alpha": args.lora_alpha,
        "lora_dropout": args.lora_dropout,
        "target_modules": args.target_modules,
        "epochs": args.epochs,
        "max_steps": args.max_steps,
        "batch_size": args.batch_size,
        "gradient_accumulation": args.gradient_accumulation,
        "learning_rate": args.learning_rate,
        "warmup": args.warmup,
        "max_length": args.max_length,
        "seed": args.seed,
    }


def last_checkpoint(checkpoints: Path) -> Path | None:
    """The newest whole checkpoint; the trainer writes trainer_state.json last."""
    whole = [path.parent for path in checkpoints.glob("checkpoint-*/trainer_state.json")]
    return max(whole, key=lambda path: int(path.name.split("-")[1]), default=None)


def prepare_checkpoints(args: argparse.Namespace, settings: dict) -> tuple[Path, Path | None]:
    """Returns the folder of checkpoints and the one to resume from, if any.

    Raises:
        Problem: --resume without a checkpoint, or with one of other settings.
    """
    from accelerate import PartialState

    folder = Path("checkpoints") / args.output_dir.resolve().name
    known = folder / "settings.json"
    if not args.resume:
        if PartialState().is_main_process:  # under `accelerate launch` this runs in every process
            shutil.rmtree(folder, ignore_errors=True)
            write_whole(known, json.dumps(settings, indent=2) + "\n")
        PartialState().wait_for_everyone()  # nobody may write there while it is being cleared
        return folder, None
    checkpoint = last_checkpoint(folder)
    if checkpoint is None:
        raise Problem(f"no checkpoint in {folder} to resume from. Run without --resume.")
    before = json.loads(known.read_text())
    other = [f"{key} {before.get(key)} → {value}" for key, value in settings.items() if before.get(key) != value]
    if other:
        raise Problem(
            f"the checkpoint in {folder} has other settings ({'; '.join(other)}). "
            "Give the same options again, or run without --resume."
        )
    # Rows logged after the checkpoint will be logged again.
    metrics, step = folder / "metrics.jsonl", int(checkpoint.name.split("-")[1])
    if metrics.exists():
        write_whole(metrics, "".join(to_line(row) for row in read_jsonl(metrics) if row["step"] <= step))
    return folder, checkpoint


def check_output(args: argparse.Namespace, pair: Pair) -> None:
    """Refuses, before hours of work, a folder that cannot be written or that holds another model's adapter."""
    config = args.output_dir / "adapter_config.json"
    if config.exists() and not args.overwrite:
        base = json.loads(config.read_text()).get("base_model_name_or_path")
        if base != pair.draft.id:
            raise Problem(f"{args.output_dir} holds an adapter of {base}. Choose another --output-dir, or --overwrite.")
    try:
        args.output_dir.resolve().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=args.output_dir.resolve().parent):
            pass
    except OSError as fault:
        raise Problem(f"{args.output_dir} cannot be written ({fault.strerror}). Choose another --output-dir.") from None


def check_lengths(rows: list[dict], tokenizer, max_length: int) -> None:
    filled = sum(row["prompt"] >= max_length for row in token_lengths(rows, tokenizer))
    if filled == len(rows):
        raise Problem(
            f"every prompt fills the maximal length of {max_length} tokens, so no answer is left to learn "
            "from. Raise --max-length."
        )
    if filled:
        say(f"{filled} rows are left out: their prompts alone fill {max_length} tokens")


# --- what a run leaves ------------------------------------------------------------------------------------------------


def write_adapter(trainer, args: argparse.Namespace, settings: dict, checkpoints: Path, metrics: dict) -> None:
    """Writes adapter, tokenizer, metrics, plot and model card beside `output_dir`, then puts them in its place."""
    target = args.output_dir.resolve()
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        os.chmod(work, 0o755)
        as_bf16(trainer.model).save_pretrained(str(work))
        trainer.processing_class.save_pretrained(str(work))
        shutil.copy(checkpoints / "metrics.jsonl", work / "metrics.jsonl")
        put_json({"settings": settings, **metrics, "environment": environment()}, str(work / "metrics.json"))
        plot(list(read_jsonl(checkpoints / "metrics.jsonl")), work / "training.png")
        (work / "README.md").write_text(model_card(settings, metrics), encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        os.replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def as_bf16(model):
    """Adapter weights train in float32 and ship in bf16: half the size, and the precision the draft runs in."""
    import torch

    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    return model


def plot(rows: list[dict], file: Path) -> None:
    """Loss and, for preferences, reward margin and accuracy over the steps, a panel each; readable without colour."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    titles = {"loss": "loss", "rewards/margins": "reward margin", "rewards/accuracies": "reward accuracy"}
    curves = {key: points for key in titles if (points := [(row["step"], row[key]) for row in rows if key in row])}
    figure, panels = pyplot.subplots(1, len(curves), figsize=(4 * len(curves), 3.5), layout="constrained", squeeze=False)
    for panel, (key, points) in zip(panels[0], curves.items(), strict=True):
        title = titles[key]
        panel.plot(*zip(*points, strict=True), color="black", linewidth=1)
        panel.set(title=title, xlabel="optimizer step")
        panel.grid(alpha=0.3)
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def held_out_line(held_out: dict | None) -> str:
    named = {"eval_loss": "loss", "eval_rewards/accuracies": "reward accuracy", "eval_rewards/margins": "reward margin"}
    return ", ".join(f"{name} {held_out[key]:.3f}" for key, name in named.items() if key in (held_out or {})) or "nothing"


def model_card(settings: dict, metrics: dict) -> str:
    lines = "\n".join(f"| {key} | {value} |" for key, value in settings.items())
    return f"""\
---
base_model: {settings["base_model"]}
library_name: peft
license: apache-2.0
tags: [{"sft" if settings["loss"] == "sft" else "dpo"}, trl, lora, speculative-decoding, assistive-technology]
---

# LoRA adapter: a draft for speculative decoding, tuned on assistive-technology {
        "answers" if settings["loss"] == "sft" else "preference pairs"
    }

Trained by `train_dpo.py` on {metrics["rows"]["train"]} pairs of `{settings["dataset"]}` ({metrics["rows"]["held_out"]}
held out) in {metrics["seconds"] / 60:.0f} minutes, {metrics["steps"]} optimizer steps, to draft for
{settings["verifier"]}. Trainable parameters: {metrics["trainable_parameters"]:,}.

Held out: {held_out_line(metrics["held_out"])}. `metrics.jsonl` has every step, `training.png` the curves.

| setting | value |
|---|---|
{lines}

The training data are synthetic (written by a large language model) and English. The adapter changes the speed of
speculative decoding, never its output: that is the verifier's. It is not meant to answer questions by itself.
"""


# --- at the terminal --------------------------------------------------------------------------------------------------


def dry_run(args: argparse.Namespace, pair: Pair, train, held_out) -> None:
    """Two optimizer steps on the first rows; prints what the whole run would take."""
    rows_a_step = args.batch_size * args.gradient_accumulation
    steps = args.max_steps or -(-len(train) // rows_a_step) * args.epochs
    few = train.select(range(min(2 * rows_a_step, len(train))))
    with tempfile.TemporaryDirectory() as nowhere:
        started = time.perf_counter()
        trainer = make_trainer(args, pair, Path(nowhere), few, None, max_steps=2)
        prepared = time.perf_counter()
        trainer.train()
        stepped = time.perf_counter()
    step_seconds = (stepped - prepared) / 2
    memory = peak_memory_bytes()
    summary = {
        "rows": {"train": len(train), "held_out": len(held_out)},
        "steps": steps,
        "seconds_per_step": step_seconds,
        "estimated_seconds": step_seconds * steps,
        "setup_seconds": prepared - started,
        "peak_memory_bytes": memory,
        "trainable_parameters": trainable_parameters(trainer.model)[0],
    }
    say(
        f"the full run: {len(train)} rows ({len(held_out)} held out), {steps} steps of {rows_a_step} pairs, "
        f"{step_seconds:.1f} s a step, about {step_seconds * steps / 60:.0f} minutes and "
        f"{(memory['gpu'] or memory['resident']) / 2**30:.1f} GiB. Nothing was written."
    )
    if args.json:
        put_json(summary, args.json)


def train(args: argparse.Namespace, pair: Pair, train_rows, held_out) -> int:
    settings = settings_of(args, pair)
    check_output(args, pair)
    checkpoints, resume_from = prepare_checkpoints(args, settings)
    trainer = make_trainer(args, pair, checkpoints, train_rows, held_out if len(held_out) else None, args.max_steps)
    trainer.add_callback(row_writer(checkpoints / "metrics.jsonl"))
    ctrl_c = stop_on_ctrl_c()
    trainer.add_callback(ctrl_c)
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=resume_from and str(resume_from))
    if ctrl_c.stopped:
        say("stopped; the checkpoint is safe. Go on with the same options and --resume.")
        return 130
    seconds = time.perf_counter() - started
    held_out_metrics = trainer.evaluate() if len(held_out) else None
    metrics = {
        "rows": {"train": len(train_rows), "held_out": len(held_out)},
        "steps": trainer.state.global_step,
        "seconds": seconds,
        "resumed": resume_from is not None,
        "trainable_parameters": trainable_parameters(trainer.model)[0],
        "held_out": held_out_metrics,
        "peak_memory_bytes": peak_memory_bytes(),
    }
    if trainer.is_world_process_zero():
        write_adapter(trainer, args, settings, checkpoints, metrics)
        say(f"adapter, metrics and plot are in {args.output_dir}")
        if held_out_metrics:
            say("held out: " + held_out_line(held_out_metrics))
        if args.json:
            put_json(metrics, args.json)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="plan, two steps, estimates; writes nothing")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of the same settings")
    parser.add_argument("--output-dir", type=Path, default=Path("final_adapter"), help="(default ./final_adapter)")
    parser.add_argument("--overwrite", action="store_true", help="replace an adapter of another base model")
    add_dataset_arguments(parser)
    parser.add_argument("--eval-fraction", type=float, default=0.05, help="share of prompts held out (default 0.05)")
    parser.add_argument("--lora-r", type=int, default=16, help="(default 16)")
    parser.add_argument("--lora-alpha", type=int, default=32, help="(default 32)")
    parser.add_argument("--lora-dropout", type=float, default=0.0, help="(default 0)")
    parser.add_argument("--target-modules", nargs="+", metavar="NAME", help="(default: every linear layer but the output)")
    parser.add_argument("--beta", type=float, default=0.1, help="DPO's β (default 0.1)")
    parser.add_argument(
        "--loss",
        choices=("sigmoid", "sft"),
        default="sigmoid",
        help="sigmoid is DPO (default); sft, a control, is likelihood of the chosen answers alone",
    )
    parser.add_argument("--balance", metavar="FIELD", help="train on equally many rows of every value of FIELD: query_type")
    parser.add_argument("--epochs", type=int, default=2, help="(default 2)")
    parser.add_argument("--max-steps", type=int, metavar="N", help="N optimizer steps instead of whole epochs")
    parser.add_argument("--batch-size", type=int, default=2, help="pairs per device and forward (default 2)")
    parser.add_argument("--gradient-accumulation", type=int, default=8, help="forwards per step (default 8)")
    parser.add_argument("--learning-rate", type=float, default=5e-5, help="peak of the cosine (default 5e-5)")
    parser.add_argument("--warmup", type=float, default=0.05, help="share of steps, or steps if 1 or more (default 0.05)")
    parser.add_argument("--save-steps", type=int, default=10, help="steps between checkpoints (default 10)")
    parser.add_argument("--report-to", default="none", choices=("none", "trackio", "tensorboard", "wandb"))
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON to FILE, or - for stdout")
    add_model_arguments(parser)
    return parser.parse_args()


def main() -> int | None:
    args = parse_arguments()
    if not 0 <= args.eval_fraction < 1:
        raise Problem("--eval-fraction must lie in [0, 1).")
    if args.max_steps is not None and args.max_steps < 1:
        raise Problem("--max-steps must be at least 1.")
    rows = read_pairs(args.dataset)
    pair = choose_pair(args)
    check_lengths(rows, training_tokenizer(pair), args.max_length)
    train_rows, held_out = load_preference_dataset(args.dataset, args.eval_fraction, args.seed, args.balance)
    if args.dry_run:
        return dry_run(args, pair, train_rows, held_out)
    return train(args, pair, train_rows, held_out)


if __name__ == "__main__":
    run(main)
