"""Trains the draft's LoRA adapter by Direct Preference Optimization, with the paper's settings.

DPO (Rafailov et al. 2023, arXiv 2305.18290, equation 7) raises the margin by which the policy prefers the chosen answer
over the rejected one, relative to a reference:

    L = −E log σ( β log[π(y_w|x) / π_ref(y_w|x)] − β log[π(y_l|x) / π_ref(y_l|x)] )

TRL's DPOTrainer computes it, PEFT holds the adapter; the reference is the same base with the adapter off. On a GPU the
base is 4-bit NF4 (QLoRA: Dettmers et al. 2023, arXiv 2305.14314), on a CPU bf16, or float32 where it has no bf16 units.

    python train_dpo.py --dry-run      two optimizer steps: shows the plan, time and memory, writes nothing
    python train_dpo.py --overwrite    trains, and leaves the adapter in ./final_adapter, in the place of the one that ships
    python train_dpo.py --overwrite --resume    goes on from the last checkpoint of that run, if it was stopped
    python train_dpo.py --loss sft --output-dir adapters/mine
                                       the control: the chosen answers alone, on the same prompts in the same batches
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import math
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from preprocess_and_load_dataset import (
    add_dataset_arguments,
    as_dataset,
    read_pairs,
    token_lengths,
    training_rows,
    training_tokenizer,
)
from specdec.files import append_jsonl, read_jsonl, to_json, to_line, write_whole
from specdec.models import Pair, add_model_arguments, choose_pair, compute_dtype, free_memory
from specdec.provenance import command, environment, is_header, peak_memory_bytes, provenance, start_rows
from specdec.terminal import Problem, check_outputs, float_from_zero, positive_float, positive_int, put_json, run, say
from specdec.training import (
    answers_finite,
    as_bf16,
    base_model,
    check_checkpoint,
    check_memory,
    check_output_dir,
    checkpoint_folder,
    checkpoint_step,
    choose_targets,
    is_full,
    last_checkpoint,
    linear_names,
    load_to_train,
    lora_parameters,
    memory_needed,
    model_card,
    not_finite,
    plot_curves,
    remove_checkpoints,
    trainable_parameters,
    write_adapter_folder,
)

CURVES = {"loss": "loss", "rewards/margins": "reward margin", "rewards/accuracies": "reward accuracy"}

# --- the run ----------------------------------------------------------------------------------------------------------


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
        bf16=compute_dtype() == torch.bfloat16,
        # Recomputing activations buys memory with a third more time: a GPU of 24 GB needs it, a laptop does not.
        gradient_checkpointing=on_gpu,
        use_cpu=not on_gpu,
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would log the last finite loss in the place of NaN
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


def make_trainer(args: argparse.Namespace, pair: Pair, tokenizer, checkpoints: Path, sides: Sides, max_steps: int | None):
    """Loads the model, puts a fresh adapter on it and returns TRL's trainer, the first lines of the plan printed.

    Raises:
        Problem: a step would take more memory than is free.
    """
    free = free_memory()
    model = load_to_train(pair)
    targets = choose_targets(model, args.target_modules)
    present = linear_names(model)
    say("LoRA on " + ", ".join(f"{name} ×{present[name]}" for name in targets))
    check_memory(step_memory(args, model, targets, sides.longest), free, memory_remedy(args))
    make: Callable = dpo_trainer if args.loss == "dpo" else sft_trainer
    trainer = make(
        args,
        common_settings(args, checkpoints, max_steps),
        model,
        train_dataset=as_dataset(sides.train),
        eval_dataset=as_dataset(sides.held_out) if sides.held_out else None,
        processing_class=tokenizer,
        peft_config=lora_config(args, targets),
    )
    trainable, total = trainable_parameters(trainer.model)
    say(f"{trainable:,} of {total:,} parameters are trainable ({trainable / total:.3%})")
    return trainer


def step_memory(args: argparse.Namespace, model, targets: list[str], longest: int) -> dict[str, int]:
    """A DPO step holds both answers of every pair of its batch, padded to the longest."""
    sequences = args.batch_size * (2 if args.loss == "dpo" else 1)
    weights = lora_parameters(model, targets, args.lora_r)
    return memory_needed(model, weights, sequences, min(longest, args.max_length), recomputed=model.device.type == "cuda")


def memory_remedy(args: argparse.Namespace) -> str:
    if args.batch_size > 1:
        forwards = args.batch_size * args.gradient_accumulation
        return f"The same step in less: --batch-size 1 --gradient-accumulation {forwards}."
    return "Lower --max-length, or close other programs."


def row_writer(file: Path, run_id: str):
    """A callback that appends every log of the trainer to `file`, a row each."""
    from transformers import TrainerCallback

    class RowWriter(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            if state.is_world_process_zero and logs:
                append_jsonl(file, {"run_id": run_id, "step": state.global_step, **logs})

    return RowWriter()


def stop_at_nan():
    """A callback that ends the training at the first loss or weight that is not finite, before it is saved."""
    from transformers import TrainerCallback

    def check(fine: bool, what: str, step: int) -> None:
        if not fine:
            raise Problem(
                f"{what} is not finite at step {step}: the training is stopped, and its last checkpoint and the adapter "
                "that was there are kept. Lower --learning-rate, and start again with --restart."
            )

    class StopAtNan(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **_):
            bad = not_finite(model)
            check(bad is None, f"the weight {bad}", state.global_step)

        def on_log(self, args, state, control, logs=None, **_):
            for name in ("loss", "grad_norm"):
                check(math.isfinite((logs or {}).get(name, 0.0)), name, state.global_step)

    return StopAtNan()


def stop_on_signal():
    """A callback that turns Ctrl-C and SIGTERM into: finish this step, save a checkpoint, stop. `number` is the signal's.

    A second signal ends the process at once, as it would without us.
    """
    from transformers import TrainerCallback

    class StopOnSignal(TrainerCallback):
        number: int | None = None

        @contextlib.contextmanager
        def listening(self) -> Iterator[None]:
            former = {number: signal.signal(number, self.remember) for number in (signal.SIGINT, signal.SIGTERM)}
            self.former = former
            try:
                yield
            finally:
                for number, handler in former.items():
                    signal.signal(number, handler)

        def remember(self, number, _frame):
            self.number = number
            signal.signal(number, self.former[number])
            say(f"{signal.Signals(number).name}: finishing this step and saving a checkpoint …")

        def on_step_end(self, args, state, control, **_):
            if self.number is not None:
                control.should_save = control.should_training_stop = True

    return StopOnSignal()


def settings_of(args: argparse.Namespace, pair: Pair) -> dict:
    """What must be equal for a checkpoint to be continued, and what the model card tells."""
    return {
        "base_model": base_model(pair),
        "verifier": pair.verifier.id,
        "quantization": pair.quantization,
        "dataset": args.dataset.name,
        "dataset_sha256": hashlib.sha256(args.dataset.read_bytes()).hexdigest(),
        "eval_fraction": args.eval_fraction,
        "balance": args.balance,
        "limit": args.limit,
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


def find_checkpoint(args: argparse.Namespace, settings: dict) -> tuple[Path, Path | None]:
    """Returns the folder of checkpoints and the one to resume from, if any. Changes nothing there.

    Raises:
        Problem: as `check_checkpoint`.
    """
    folder = checkpoint_folder(args.output_dir)
    checkpoint = last_checkpoint(folder)
    step = checkpoint_step(checkpoint) if checkpoint else None
    check_checkpoint(folder, step, settings, args.resume, args.restart)
    return folder, checkpoint if args.resume else None


def start_checkpoints(folder: Path, settings: dict, resume_from: Path | None) -> str:
    """Prepares the folder for a training that begins now, and its metrics.jsonl; returns the run_id of the rows there.

    The checkpoints of a run that is dropped stay until here: no option that is refused may cost them.
    """
    from accelerate import PartialState

    run_id = ""
    if PartialState().is_main_process:  # under `accelerate launch` this runs in every process
        metrics = folder / "metrics.jsonl"
        if resume_from is None:
            remove_checkpoints(folder)
            about = {"command": command(), "settings": settings, "environment": environment()}
            write_whole(folder / "settings.json", to_json(about, indent=2) + "\n")
        elif metrics.exists():  # rows logged after the checkpoint will be logged again
            last = checkpoint_step(resume_from)
            rows = [row for row in read_jsonl(metrics) if is_header(row) or row["step"] <= last]
            write_whole(metrics, "".join(map(to_line, rows)))
        run_id = start_rows(metrics, settings)
    PartialState().wait_for_everyone()  # nobody may save there while it is being cleared
    return run_id


# --- the rows ---------------------------------------------------------------------------------------------------------


class Sides:
    """The rows of a training, tokenized lengths known.

    train, held_out: rows; `dropped` counts those of each side whose prompt alone fills the maximal length (TRL drops them),
    `cut` the answers that are cut there. longest: tokens of the longest prompt with an answer.
    """

    def __init__(self, train: list[dict], held_out: list[dict], tokenizer, max_length: int):
        self.longest = self.cut = 0
        self.dropped: dict[str, int] = {}
        self.train = self._fitting("train", train, tokenizer, max_length)
        self.held_out = self._fitting("held_out", held_out, tokenizer, max_length)
        if not self.train or (held_out and not self.held_out):
            raise Problem(
                f"every prompt fills the maximal length of {max_length} tokens, so no answer is left to learn from"
                f"{'' if not self.train else ' on the held-out side'}. Raise --max-length."
            )
        dropped = sum(self.dropped.values())
        if dropped:
            say(f"{dropped} rows are left out: TRL drops a row whose prompt alone fills --max-length {max_length}")
        if self.cut:
            say(f"{self.cut} answers are cut at --max-length {max_length}")

    def _fitting(self, side: str, rows: list[dict], tokenizer, max_length: int) -> list[dict]:
        lengths = token_lengths(rows, tokenizer)
        kept = []
        for row, length in zip(rows, lengths, strict=True):
            if length["prompt"] >= max_length:
                continue
            kept.append(row)
            totals = [length["prompt"] + length[answer] for answer in ("chosen", "rejected")]
            self.longest = max(self.longest, *totals)
            self.cut += sum(total > max_length for total in totals)
        self.dropped[side] = len(rows) - len(kept)
        return kept

    def counts(self) -> dict[str, int]:
        return {"train": len(self.train), "held_out": len(self.held_out)}


# --- what a run leaves ------------------------------------------------------------------------------------------------


def write_adapter(trainer, args: argparse.Namespace, settings: dict, checkpoints: Path, metrics: dict) -> Path:
    """Writes adapter, tokenizer, metrics, curves and model card; returns the folder."""
    model = as_bf16(trainer.model)

    def fill(folder: Path) -> None:
        model.save_pretrained(str(folder))
        trainer.processing_class.save_pretrained(str(folder))
        shutil.copyfile(checkpoints / "metrics.jsonl", folder / "metrics.jsonl")
        put_json(metrics, str(folder / "metrics.json"))
        plot_curves(read_jsonl(folder / "metrics.jsonl"), folder / "training.png", CURVES)
        (folder / "README.md").write_text(card(settings, metrics), encoding="utf-8")

    return write_adapter_folder(args.output_dir, fill)


def held_out_line(held_out: dict | None) -> str:
    named = {"eval_loss": "loss", "eval_rewards/accuracies": "reward accuracy", "eval_rewards/margins": "reward margin"}
    held_out = held_out or {}
    return ", ".join(f"{name} {held_out[key]:.3f}" for key, name in named.items() if key in held_out) or "nothing"


def card(settings: dict, metrics: dict) -> str:
    data = "answers" if settings["loss"] == "sft" else "preference pairs"
    rows = metrics["rows"]
    text = f"""\
Trained by `train_dpo.py` on {rows["train"]} pairs of `{settings["dataset"]}` ({rows["held_out"]}
held out) in {metrics["seconds"] / 60:.0f} minutes, {metrics["steps"]} optimizer steps, to draft for
{settings["verifier"]}. Trainable parameters: {metrics["trainable_parameters"]:,}.

Held out: {held_out_line(metrics["held_out"])}. `metrics.jsonl` has every step, `training.png` the curves.

    {metrics["command"]}"""
    title = f"LoRA adapter: a draft for speculative decoding, tuned on assistive-technology {data}"
    return model_card(settings["base_model"], [settings["loss"], "trl", "assistive-technology"], title, text, settings)


# --- at the terminal --------------------------------------------------------------------------------------------------


def dry_run(args: argparse.Namespace, pair: Pair, tokenizer, sides: Sides) -> None:
    """Two optimizer steps on the first rows; prints what the whole run would take."""
    rows_a_step = args.batch_size * args.gradient_accumulation
    steps = args.max_steps or -(-len(sides.train) // rows_a_step) * args.epochs
    counts, everything = sides.counts(), sides.train
    sides.train, sides.held_out = everything[: 2 * rows_a_step], []
    with tempfile.TemporaryDirectory() as nowhere:
        started = time.perf_counter()
        trainer = make_trainer(args, pair, tokenizer, Path(nowhere), sides, max_steps=2)
        prepared = time.perf_counter()
        trainer.train()
        stepped = time.perf_counter()
    step_seconds = (stepped - prepared) / 2
    memory = peak_memory_bytes()
    summary = {
        **provenance(settings_of(args, pair)),
        "rows": counts,
        "dropped_by_max_length": sides.dropped,
        "steps": steps,
        "seconds_per_step": step_seconds,
        "estimated_seconds": step_seconds * steps,
        "setup_seconds": prepared - started,
        "peak_memory_bytes": memory,
        "trainable_parameters": trainable_parameters(trainer.model)[0],
    }
    if args.json:
        put_json(summary, args.json)
    say(
        f"the full run: {counts['train']} rows ({counts['held_out']} held out), {steps} steps of {rows_a_step} pairs, "
        f"{step_seconds:.1f} s a step, about {step_seconds * steps / 60:.0f} minutes and "
        f"{(memory['gpu'] or memory['resident']) / 2**30:.1f} GiB. Nothing was written."
    )


def train(args: argparse.Namespace, pair: Pair, tokenizer, sides: Sides) -> int:
    settings = settings_of(args, pair)
    checkpoints, resume_from = find_checkpoint(args, settings)
    trainer = make_trainer(args, pair, tokenizer, checkpoints, sides, args.max_steps)
    run_id = start_checkpoints(checkpoints, settings, resume_from)
    on_signal = stop_on_signal()
    for callback in (row_writer(checkpoints / "metrics.jsonl", run_id), stop_at_nan(), on_signal):
        trainer.add_callback(callback)
    started = time.perf_counter()
    try:
        with on_signal.listening():
            trainer.train(resume_from_checkpoint=resume_from and str(resume_from))
    except (OSError, RuntimeError) as error:
        if not is_full(error):
            raise
        raise Problem(f"no space left in {checkpoints}; the last whole checkpoint is kept. Free some, then --resume.") from None
    if on_signal.number is not None:
        say("stopped; the checkpoint is safe. Go on with the same options and --resume.")
        return 128 + on_signal.number
    seconds = time.perf_counter() - started
    held_out = trainer.evaluate() if sides.held_out else None
    if not answers_finite(trainer.model) or not math.isfinite((held_out or {}).get("eval_loss", 0.0)):
        raise Problem("the logits are not finite after the training, so no adapter was written. Lower --learning-rate.")
    metrics = {
        "command": command(),
        "settings": settings,
        "environment": environment(),
        "rows": {"train": len(trainer.train_dataset), "held_out": len(trainer.eval_dataset or [])},  # what TRL kept
        "dropped_by_max_length": sides.dropped,
        "steps": trainer.state.global_step,
        "seconds": seconds,
        "resumed": resume_from is not None,
        "trainable_parameters": trainable_parameters(trainer.model)[0],
        "held_out": held_out,
        "peak_memory_bytes": peak_memory_bytes(),
    }
    if trainer.is_world_process_zero():
        finish(trainer, args, settings, checkpoints, metrics)
    return 0


def finish(trainer, args: argparse.Namespace, settings: dict, checkpoints: Path, metrics: dict) -> None:
    """Writes the adapter and the metrics; then the checkpoints have done their part."""
    folder = write_adapter(trainer, args, settings, checkpoints, metrics)
    if args.json:
        put_json(metrics, args.json)
    remove_checkpoints(checkpoints)
    say(f"adapter, metrics and plot are in {args.output_dir if folder == args.output_dir.resolve() else folder}")
    if metrics["held_out"]:
        say("held out: " + held_out_line(metrics["held_out"]))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="plan, two steps, estimates; writes nothing")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of the same settings")
    parser.add_argument("--restart", action="store_true", help="drop the checkpoints of a stopped run and start over")
    parser.add_argument("--output-dir", type=Path, default=Path("final_adapter"), help="(default ./final_adapter)")
    parser.add_argument("--overwrite", action="store_true", help="replace an adapter that is there")
    add_dataset_arguments(parser)
    parser.add_argument("--eval-fraction", type=float, default=0.05, help="share of prompts held out (default 0.05)")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="train on the first N pairs; the held-out side stays")
    parser.add_argument("--lora-r", type=positive_int, default=16, help="(default 16)")
    parser.add_argument("--lora-alpha", type=positive_int, default=32, help="(default 32)")
    parser.add_argument("--lora-dropout", type=float, default=0.0, help="(default 0)")
    parser.add_argument("--target-modules", nargs="+", metavar="NAME", help="(default: every linear layer but the output)")
    parser.add_argument("--beta", type=positive_float, default=0.1, help="DPO's β (default 0.1)")
    parser.add_argument(
        "--loss",
        choices=("dpo", "sft"),
        default="dpo",
        help="dpo (default); sft, a control, is likelihood of the chosen answers alone",
    )
    parser.add_argument("--balance", metavar="FIELD", help="train on equally many rows of every value of FIELD: query_type")
    parser.add_argument("--epochs", type=positive_int, default=2, help="(default 2)")
    parser.add_argument("--max-steps", type=positive_int, metavar="N", help="N optimizer steps instead of whole epochs")
    parser.add_argument("--batch-size", type=positive_int, default=2, help="pairs per device and forward (default 2)")
    parser.add_argument("--gradient-accumulation", type=positive_int, default=8, help="forwards per step (default 8)")
    parser.add_argument("--learning-rate", type=positive_float, default=5e-5, help="peak of the cosine (default 5e-5)")
    parser.add_argument(
        "--warmup", type=float_from_zero, default=0.05, help="share of steps, or steps if 1 or more (default 0.05)"
    )
    parser.add_argument("--save-steps", type=positive_int, default=10, help="steps between checkpoints (default 10)")
    parser.add_argument("--report-to", default="none", choices=("none", "trackio", "tensorboard", "wandb"))
    parser.add_argument("--json", metavar="FILE", help="write the metrics as JSON to FILE, or - for stdout")
    add_model_arguments(parser)
    return parser.parse_args()


def check_options(args: argparse.Namespace) -> None:
    """Refuses what cannot train, before anything is read or loaded."""
    if not 0 <= args.eval_fraction < 1:
        raise Problem("--eval-fraction must lie in [0, 1).")
    if not 0 <= args.lora_dropout < 1:
        raise Problem("--lora-dropout must lie in [0, 1).")
    if args.max_length < 2:
        raise Problem("--max-length must be at least 2: one token of the prompt, one of the answer.")
    check_outputs(args.json, inputs=[args.dataset])


def main() -> int | None:
    args = parse_arguments()
    check_options(args)
    pairs = read_pairs(args.dataset)
    train_rows, held_out = training_rows(pairs, args.eval_fraction, args.seed, args.balance)
    pair = choose_pair(args)
    if not args.dry_run:
        check_output_dir(args.output_dir, args.overwrite)
    tokenizer = training_tokenizer(pair)
    sides = Sides(train_rows[: args.limit], held_out, tokenizer, args.max_length)
    if args.dry_run:
        return dry_run(args, pair, tokenizer, sides)
    return train(args, pair, tokenizer, sides)


if __name__ == "__main__":
    run(main)
