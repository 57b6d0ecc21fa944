"""The draft learns from the verifier: distillation on the verifier's own answers, by any of ten losses.

Study 0 tunes a draft on text that the verifier never saw. Here the verifier teaches (Goel et al. 2024, arXiv 2403.00858;
Hong et al. 2025, arXiv 2503.07807). Three sources of text, one loop:

  offline   answers that the verifier wrote, or texts that it read, with its probabilities, both stored by generate_answers.py
  online    the draft's own answers to the same prompts, sampled with its current weights, scored by the verifier
  mixed     the two in turn, batch by batch

White-box losses read the verifier's probabilities; `nll` is the black-box one, which reads its text alone. The losses and
their gradients are in specdec/losses.py. Across two vocabularies the draft learns at aligned positions, over shared tokens.

    python generate_answers.py --prompts dpo_clean.jsonl --limit 384 --top-probs 128 --output answers.jsonl
    python train_distill.py --answers answers.jsonl --output-dir adapters/mine
    python train_distill.py --answers answers.jsonl --output-dir adapters/mine --resume
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from specdec.adapters import check_adapter
from specdec.answers import prompt_ids, prompt_of, prompted_answers, read_probs
from specdec.engine import Engine
from specdec.files import append_jsonl, read_jsonl, write_jsonl, write_whole
from specdec.losses import LOSSES
from specdec.models import (
    Pair,
    add_model_arguments,
    choose_pair,
    context_of,
    free_memory,
    load_tokenizer,
)
from specdec.provenance import command, environment, peak_memory_bytes
from specdec.sampling import Settings
from specdec.terminal import Problem, check_outputs, positive_float, positive_int, put_json, run, say
from specdec.training import (
    as_bf16,
    as_lora,
    base_model,
    check_checkpoint,
    check_memory,
    check_output_dir,
    checkpoint_folder,
    cut_rank,
    fresh_adapter,
    linear_layers,
    load_to_train,
    memory_needed,
    model_card,
    overlap_of_written,
    plot_curves,
    remove_checkpoints,
    truncate_rank,
    write_adapter_folder,
)
from specdec.vocabulary import named_tokens, vocabulary_map

if TYPE_CHECKING:
    from specdec.distillation import DraftView, Example

NEEDS_NO_PROBS = ("nll",)
READS_ALL_OF_Q = ("tvdpp_sampled",)  # the other losses read q at the listed tokens and the verifier's own


# --- data -------------------------------------------------------------------------------------------------------------


class Lesson:
    """The tokenizers of a pair, and answers turned into examples."""

    def __init__(self, pair: Pair):
        from specdec.distillation import DraftView

        self.tokenizer, self.draft_tokenizer = load_tokenizer(pair.verifier), load_tokenizer(pair.draft)
        self.shared = vocabulary_map(self.draft_tokenizer, self.tokenizer)
        self.view: DraftView = DraftView(self.shared, max(named_tokens(self.tokenizer).values()) + 1)

    def example(self, row: dict, with_probs: bool) -> Example:
        p_ids, p_values = read_probs(row["probs"]) if with_probs else (None, None)
        _, draft_prompt = prompt_of(row, self.tokenizer, self.draft_tokenizer, self.shared, **row["prompted"])
        return self.view.example(draft_prompt, row["token_ids"], p_ids, p_values)


def split_answers(rows: list[dict], eval_fraction: float, limit: int | None, seed: int) -> tuple[list[dict], list[dict]]:
    """(training, held-out) answers; a prompt is on one side, and --limit takes from the training side alone."""
    prompts = sorted({row["prompt"] for row in rows})
    random.Random(seed).shuffle(prompts)
    held_out = set(prompts[: max(1, round(len(prompts) * eval_fraction))])
    train = [row for row in rows if row["prompt"] not in held_out][:limit]
    if not train:
        raise Problem(f"{len(prompts)} answered prompts leave none to train on. Generate more with generate_answers.py.")
    return train, [row for row in rows if row["prompt"] in held_out]


# --- the loop ---------------------------------------------------------------------------------------------------------


def held_out_overlap(forward, examples: list[Example], batch_size: int, device) -> float | None:
    """Mean over answers of the mean Σ min(p, q) over an answer's positions: a lower bound, for p's tail is not stored."""
    if not examples:
        return None
    import torch

    from specdec.distillation import at_listed, collate
    from specdec.losses import overlap

    means: list[float] = []
    with torch.no_grad():
        for start in range(0, len(examples), batch_size):
            batch = examples[start : start + batch_size]
            ids, mask, rows, targets = collate(batch)
            columns, targets = at_listed(on(targets, device))
            found = overlap(forward(ids.to(device), mask.to(device), rows.to(device), columns), targets)
            means += [float(part.mean()) for part in found.split([len(example.rows) for example in batch])]
    return sum(means) / len(means)


def on(targets, device):
    """The same targets on another device."""
    from dataclasses import fields, replace

    values = {field.name: getattr(targets, field.name) for field in fields(targets)}
    return replace(targets, **{name: value.to(device) for name, value in values.items() if value is not None})


def train(
    args: argparse.Namespace, forward, trainable: list, next_batch, held_out: list[Example], folder: Path, settings: dict
):
    """Distillation, start to end: one loop, no trainer class.

    `next_batch(step)` gives the examples of a step. Every --eval-steps steps the held-out overlap is measured and a checkpoint
    written; a run that resumes from it ends with the same weights.
    """
    import torch
    from tqdm import tqdm

    from specdec.distillation import at_listed, collate, learning_rate

    device = trainable[0].device
    loss_of = LOSSES[args.loss]
    optimizer = torch.optim.AdamW(trainable, lr=args.learning_rate, weight_decay=0.0)
    step = load_checkpoint(folder, trainable, optimizer) if args.resume else 0
    rows_file = folder / "metrics.jsonl"
    forget_rows_after(rows_file, step)
    if step == 0:
        row = {"step": 0, "held_out_overlap": held_out_overlap(forward, held_out, args.batch_size, device)}
        append_jsonl(rows_file, row | {"wall_seconds": time.perf_counter() - args.began})
    bar = tqdm(total=args.steps, initial=step, desc=args.loss, unit="step")
    while step < args.steps:
        started = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(args.learning_rate, step, args.steps, args.warmup)
        ids, mask, rows, targets = collate(next_batch(step))
        generator = torch.Generator(device=device).manual_seed(args.seed * 1_000_003 + step)
        columns, targets = None, on(targets, device)
        if args.loss not in READS_ALL_OF_Q:
            columns, targets = at_listed(targets)
        log_q = forward(ids.to(device), mask.to(device), rows.to(device), columns)
        loss = loss_of(log_q, targets, generator)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trainable, args.max_grad_norm)
        check_finite(loss.item(), norm.item(), step + 1)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        seconds = time.perf_counter() - started
        row = {"step": step, "loss": loss.item(), "grad_norm": norm.item(), "positions": len(rows), "seconds": seconds}
        if step % args.eval_steps == 0 or step == args.steps:
            row["held_out_overlap"] = held_out_overlap(forward, held_out, args.batch_size, device)
            bar.set_postfix(loss=row["loss"], overlap=row["held_out_overlap"])
        append_jsonl(rows_file, row | {"wall_seconds": time.perf_counter() - args.began})
        bar.update()
        if step % args.eval_steps == 0 and step < args.steps and not args.dry_run:
            save_checkpoint(folder, step, trainable, optimizer, settings)
    bar.close()
    return list(read_jsonl(rows_file))


def check_finite(loss: float, norm: float, step: int) -> None:
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise Problem(
            f"loss {loss} and gradient norm {norm} at step {step}: training stopped, and the last good checkpoint is kept. "
            "Lower --learning-rate and run with --resume, or again."
        )


# --- checkpoints: safetensors and a JSON file, written whole ----------------------------------------------------------


def save_checkpoint(folder: Path, step: int, trainable: list, optimizer, settings: dict) -> None:
    from safetensors.torch import save_file

    tensors = {}
    for number, parameter in enumerate(trainable):
        state = optimizer.state[parameter]
        tensors[f"{number}.weight"] = parameter.detach().clone()
        tensors[f"{number}.exp_avg"] = state["exp_avg"]
        tensors[f"{number}.exp_avg_sq"] = state["exp_avg_sq"]
    unfinished = folder / "state.unfinished"
    save_file(tensors, unfinished, metadata={"step": str(step)})
    unfinished.replace(folder / "state.safetensors")  # the step is inside: there is no moment at which the two disagree
    put_json({"settings": settings}, str(folder / "settings.json"))


def load_checkpoint(folder: Path, trainable: list, optimizer) -> int:
    """Puts weights and optimizer back and returns the step that they are of."""
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / "state.safetensors", "pt") as file:
            step = int(file.metadata()["step"])
            for number, parameter in enumerate(trainable):
                parameter.data.copy_(file.get_tensor(f"{number}.weight"))
                moments = {name: file.get_tensor(f"{number}.{name}").to(parameter.device) for name in ("exp_avg", "exp_avg_sq")}
                optimizer.state[parameter] = {"step": torch.tensor(float(step)), **moments}
    except (SafetensorError, RuntimeError) as error:
        raise Problem(f"the checkpoint in {folder} cannot be read ({error}). Delete that folder and run again.") from None
    return step


def forget_rows_after(file: Path, step: int) -> None:
    """Rows logged after the checkpoint will be logged again."""
    rows = rows_until(file, step) if step else []
    write_whole(file, "".join(json.dumps(row) + "\n" for row in rows))


def rows_until(file: Path, step: int) -> list[dict]:
    return [row for row in read_jsonl(file) if row["step"] <= step] if file.exists() else []


def wall_seconds_before(folder: Path) -> float:
    """What the parts of a stopped run took up to its checkpoint; 0 where a row of an earlier version does not say it."""
    rows = rows_until(folder / "metrics.jsonl", saved_step(folder) or 0)
    return rows[-1].get("wall_seconds", 0.0) if rows else 0.0


def saved_step(folder: Path) -> int | None:
    """The step of the checkpoint in `folder`, None if there is none that can be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / "state.safetensors", "pt") as file:
            return int(file.metadata()["step"])
    except (FileNotFoundError, SafetensorError):
        return None


# --- the draft --------------------------------------------------------------------------------------------------------


def load_trainable(args: argparse.Namespace, pair: Pair):
    """The draft with a fresh adapter, with that of --adapter-path to go on from, or with all its linear layers to train."""
    import torch
    from peft import PeftModel, get_peft_model

    model = load_to_train(pair)
    torch.manual_seed(args.seed)
    if args.all_weights:
        layers = linear_layers(model.float())
        for parameter in model.parameters():
            parameter.requires_grad = False
        for layer in layers.values():
            layer.weight.requires_grad = True
        return model
    if args.adapter_path:
        tuned = PeftModel.from_pretrained(model, args.adapter_path, is_trainable=True)
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        return tuned
    return get_peft_model(model, fresh_adapter(model, args.lora_r, args.lora_alpha))


# --- online: the draft writes, the verifier scores --------------------------------------------------------------------


def online_batch(
    engine, lesson: Lesson, model, prompts: list[dict], settings: Settings, seed: int, listed: int
) -> list[Example]:
    """Samples an answer to each prompt from q, with the draft's current weights, and lets the verifier score it."""
    import torch

    from specdec.alignment import verifier_probs
    from specdec.backend import CachedModel
    from speculative_decode import Drafter

    examples = []
    draft = CachedModel(model, set(named_tokens(lesson.draft_tokenizer).values()), context_of(model.config))
    drafter = Drafter(draft, lesson.shared, engine.rows)
    with torch.inference_mode():
        for number, row in enumerate(prompts):
            verifier_prompt, draft_prompt = prompt_ids(engine, row, settings, **row["prompted"])
            generator = torch.Generator(device=draft.device).manual_seed(seed + number)
            drafter.start(draft_prompt)
            answer = drafter.propose(settings.max_new_tokens, settings, engine.stop, generator)[0].tolist()
            top = verifier_probs(engine.verifier, verifier_prompt, answer, settings).topk(listed)
            examples.append((draft_prompt, answer, top.indices.cpu(), top.values.cpu()))
    return [lesson.view.example(*parts) for parts in examples]


# --- at the terminal --------------------------------------------------------------------------------------------------


def sha256_of(values: list) -> str:
    return hashlib.sha256(json.dumps(values, ensure_ascii=False).encode()).hexdigest()


def written_around(row: dict) -> dict:
    """What else than its prompt makes the text that the models read of a row: a system prompt or raw, messages, tools."""
    return row["prompted"] | {name: row[name] for name in ("messages", "tools") if name in row}


def settings_of(args: argparse.Namespace, pair: Pair, rows: list[dict]) -> dict:
    """What must be equal for a checkpoint to be continued, and what the model card tells."""
    texts = [[row["prompt"], row["token_ids"], row["temperature"], row["top_p"]] for row in rows]
    around = [written_around(row) for row in rows]
    return {
        "base_model": base_model(pair),
        "verifier": pair.verifier.id,
        "quantization": pair.quantization,
        "loss": args.loss,
        "data": args.data,
        "domain": sorted({row.get("domain", "at") for row in rows}),
        "source": sorted({row.get("source", "pairs") for row in rows}),  # whose prompts; dpo_clean.jsonl's rows name none
        "text": sorted({row.get("text", "verifier") for row in rows}),  # who wrote the texts that are stored
        "answers": len(rows),
        "answers_sha256": sha256_of(texts),
        "written_sha256": sha256_of(around) if any(around) else None,  # apart: studies group drafts by answers_sha256
        "listed": None if args.data == "offline" else args.listed,
        **args.sampled_at,
        "all_weights": args.all_weights,
        "lora_r": None if args.all_weights else args.lora_r,
        "lora_alpha": None if args.all_weights else args.lora_alpha or args.lora_r,
        "keep_rank": args.keep_rank,
        "from_adapter": args.adapter_path and Path(args.adapter_path).name,
        "passes": args.passes,
        "steps": args.steps,
        "batch_size": args.batch_size,
        "learning_rate": args.learning_rate,
        "warmup": args.warmup,
        "max_grad_norm": args.max_grad_norm,
        "eval_fraction": args.eval_fraction,
        "seed": args.seed,
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=Path, nargs="+", required=True, metavar="FILE", help="of generate_answers.py")
    parser.add_argument(
        "--loss",
        choices=sorted(LOSSES),
        default="tvdpp_position",
        help="(default tvdpp_position); nll is black-box: it reads text alone",
    )
    parser.add_argument(
        "--data", choices=("offline", "online", "mixed"), default="offline", help="whose text (default offline)"
    )
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="such as adapters/NAME")
    parser.add_argument("--overwrite", action="store_true", help="replace an adapter that is there")
    parser.add_argument("--adapter-path", metavar="DIR", help="go on from this adapter instead of a fresh one")
    parser.add_argument(
        "--all-weights", action="store_true", help="train every linear layer whole; --keep-rank of it is written (default 128)"
    )
    parser.add_argument("--lora-r", type=positive_int, default=128, help="rank of a fresh adapter (default 128)")
    parser.add_argument("--lora-alpha", type=positive_int, help="(default: the rank)")
    parser.add_argument(
        "--keep-rank", type=positive_int, metavar="N", help="write the nearest adapter of this rank (default: all)"
    )
    parser.add_argument(
        "--learning-rate",
        type=positive_float,
        default=1e-3,
        help="peak of the cosine (default 1e-3, chosen for SmolLM2; for a draft of the verifier's own family 3e-5)",
    )
    parser.add_argument("--warmup", type=float, default=0.1, help="share of the steps (default 0.1)")
    parser.add_argument("--passes", type=positive_float, default=1, help="over the answers (default 1)")
    parser.add_argument("--max-steps", type=positive_int, metavar="N", help="N steps instead of whole passes")
    parser.add_argument("--batch-size", type=positive_int, default=4, help="answers a step (default 4)")
    parser.add_argument("--max-grad-norm", type=positive_float, default=1.0, help="(default 1)")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="train on the first N answers")
    parser.add_argument("--eval-fraction", type=float, default=0.1, help="share of the prompts held out (default 0.1)")
    parser.add_argument("--eval-steps", type=positive_int, default=10, help="steps between held-out measurements (default 10)")
    parser.add_argument("--listed", type=positive_int, default=64, help="online: tokens of p kept at a position (default 64)")
    parser.add_argument("--dry-run", action="store_true", help="two steps, estimates; writes nothing")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of the same settings")
    parser.add_argument("--restart", action="store_true", help="drop the checkpoints of a stopped run")
    parser.add_argument("--json", metavar="FILE", help="write the metrics as JSON to FILE, or - for stdout")
    add_model_arguments(parser)
    return parser.parse_args()


def check_arguments(args: argparse.Namespace) -> None:
    if not 0 < args.eval_fraction < 1:
        raise Problem("--eval-fraction must lie between 0 and 1.")
    if not 0 <= args.warmup < 1:
        raise Problem("--warmup must be a share of the steps, from 0 to below 1.")
    if args.all_weights and (args.adapter_path or args.lora_alpha):
        raise Problem("--all-weights trains the base draft without LoRA: leave out --adapter-path and --lora-alpha.")
    if args.dry_run and args.resume:
        raise Problem("--dry-run begins at the beginning: leave out --resume.")


def answers_of(args: argparse.Namespace, pair: Pair) -> tuple[list[dict], dict]:
    """The rows of --answers, each with how its prompt is written (`prompted`), and what they have in common.

    Raises:
        Problem: they are of another verifier, of several temperatures, or lack the probabilities that the loss reads.
    """
    rows = []
    for file in args.answers:
        answers, how = prompted_answers(file, verifier=pair.verifier.id)
        rows += [{**row, "prompted": how} for row in answers]
    if not rows:
        raise Problem(f"{' '.join(map(str, args.answers))} holds no answers. Make them with generate_answers.py.")
    common = {}
    for key in ("temperature", "top_p"):
        values = sorted({row[key] for row in rows})
        if len(values) > 1:
            raise Problem(f"the answers have {key} {', '.join(map(str, values))}, and q is learnt at one. Name files of one.")
        common[key] = values[0]
    if common["temperature"] == 0 or common["top_p"] < 1:
        raise Problem("distillation needs answers sampled at a temperature above 0, with top-p 1.")
    missing = sum(row["probs"] is None for row in rows)
    if missing and args.loss not in NEEDS_NO_PROBS:
        raise Problem(
            f"{missing} of {len(rows)} answers have no stored probabilities, and {args.loss} reads them. Generate them "
            "with --top-probs 128, or learn from the text alone with --loss nll."
        )
    common["max_new_tokens"] = max(len(row["token_ids"]) for row in rows)
    return rows, common


def make_batches(
    args: argparse.Namespace, lesson: Lesson, model, train_rows: list[dict], stored: list[Example], engine
) -> Callable[[int], list[Example]]:
    """`step` → its examples: those of the stored answers, the draft's own to the same prompts, or the two in turn."""
    from specdec.distillation import batches

    offline = args.data == "offline"
    indices = batches(len(train_rows), args.batch_size, args.seed)

    def batch(step: int) -> list[Example]:
        chosen = indices(step)
        if offline or (args.data == "mixed" and step % 2 == 0):
            return [stored[index] for index in chosen]
        settings = Settings(temperature=args.sampled_at["temperature"], max_new_tokens=args.sampled_at["max_new_tokens"])
        prompts = [train_rows[index] for index in chosen]
        return online_batch(engine, lesson, model, prompts, settings, args.seed * 1_000_003 + step * 1000, args.listed)

    return batch


def write_draft(args: argparse.Namespace, model, settings: dict, metrics: dict, rows: list[dict]) -> Path:
    """Adapter, metrics with their rows, curves and card, whole or not at all."""

    def fill(folder: Path) -> None:
        as_bf16(model).save_pretrained(str(folder))
        if metrics["truncated"] and not settings["all_weights"]:
            cut_rank(folder, metrics["truncated"]["rank"])
        put_json({"settings": settings, **metrics}, str(folder / "metrics.json"))
        write_jsonl(folder / "metrics.jsonl", rows)
        plot_curves(rows, folder / "training.png", {"loss": "loss", "held_out_overlap": "held-out Σ min(p, q)"})
        text = (
            f"Trained by `{metrics['command']}` in {metrics['seconds'] / 60:.1f} minutes of steps. Held-out Σ min(p, q): "
            f"{overlap_line(metrics)}."
        )
        card = model_card(
            settings["base_model"],
            [settings["loss"], "distillation"],
            f"LoRA adapter: a draft for speculative decoding, distilled from {settings['verifier']}",
            text,
            settings,
        )
        (folder / "README.md").write_text(card, encoding="utf-8")

    return write_adapter_folder(args.output_dir, fill)


def main() -> None:
    args = parse_arguments()
    check_arguments(args)
    check_outputs(args.json, inputs=args.answers)
    pair = choose_pair(args)
    if args.adapter_path:
        given = check_adapter(args.adapter_path, pair.draft.id)
        args.lora_r, args.lora_alpha = given.r, given.lora_alpha
    if args.all_weights:
        if pair.quantization != "none":
            raise Problem(f"--all-weights cannot train {pair.quantization} weights. Leave it out: LoRA trains beside them.")
        args.keep_rank = args.keep_rank or 128
    elif args.keep_rank and args.keep_rank >= args.lora_r:
        raise Problem(f"--keep-rank must be below the rank that is trained, {args.lora_r}.")
    if not args.dry_run:
        check_output_dir(args.output_dir, args.overwrite)
    answers, args.sampled_at = answers_of(args, pair)
    train_rows, held_out_rows = split_answers(answers, args.eval_fraction, args.limit, args.seed)
    args.steps = args.max_steps or math.ceil(args.passes * math.ceil(len(train_rows) / args.batch_size))
    if args.dry_run:
        return dry_run(args, pair, train_rows, held_out_rows[: args.batch_size])
    settings = settings_of(args, pair, train_rows)
    folder = checkpoint_folder(args.output_dir)
    check_checkpoint(folder, saved_step(folder), settings, args.resume, args.restart)
    model, rows, truncated = distill(args, pair, settings, train_rows, held_out_rows, folder)
    metrics = metrics_of(rows, len(train_rows), len(held_out_rows))
    metrics |= {"wall_seconds": time.perf_counter() - args.began, "truncated": truncated}
    written = write_draft(args, model, settings, metrics, rows)
    remove_checkpoints(folder)
    if args.json:
        put_json({"settings": settings, **metrics}, args.json)
    say(f"adapter, metrics and curves are in {written}; held-out Σ min(p, q) {overlap_line(metrics)}")


def distill(
    args: argparse.Namespace, pair: Pair, settings: dict, train_rows: list[dict], held_out_rows: list[dict], folder: Path
):
    """Loads the draft, turns answers into examples and trains.

    `args.began` becomes the time at which it began, so far back that a resumed run counts what its earlier parts took.

    Returns:
        The tuned model, the logged rows, and what --keep-rank kept of it, if it was given.
    """
    from specdec.distillation import answer_log_probs

    args.began = time.perf_counter() - (wall_seconds_before(folder) if args.resume else 0.0)
    model = load_trainable(args, pair)
    lesson = Lesson(pair)
    engine = None if args.data == "offline" else Engine(pair)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    count = sum(parameter.numel() for parameter in trainable)
    say(
        f"{len(train_rows)} answers to train on, {len(held_out_rows)} held out; {count:,} trainable parameters; "
        f"{args.steps} steps of {args.batch_size} answers"
    )
    width = model.get_output_embeddings().weight.shape[0]
    forward = answer_log_probs(lesson.shared, args.sampled_at["temperature"], width)(model)
    scored = all(row["probs"] for row in held_out_rows)
    held_out = [lesson.example(row, True) for row in held_out_rows] if scored else []
    reads_probs = args.data != "online" and args.loss not in NEEDS_NO_PROBS
    stored = [lesson.example(row, reads_probs) for row in train_rows]
    next_batch = make_batches(args, lesson, model, train_rows, stored, engine)
    check_memory(step_memory(args, model, count, stored), free_memory(), memory_remedy(args))
    if not args.resume:
        remove_checkpoints(folder)  # of a run that --restart drops: not before this one can begin
    folder.mkdir(parents=True, exist_ok=True)
    rows = train(args, forward, trainable, next_batch, held_out, folder, settings)
    if not args.keep_rank:
        return model, rows, None
    if args.all_weights:
        model, share = as_lora(model, load_to_train(pair), args.keep_rank)
    else:
        share = truncate_rank(model, args.keep_rank)
    forward = answer_log_probs(lesson.shared, args.sampled_at["temperature"], width)(model)
    overlap = held_out_overlap(forward, held_out, args.batch_size, model.device)
    return model, rows, {"rank": args.keep_rank, "share_of_squared_norm": share, "held_out_overlap": overlap}


def step_memory(args: argparse.Namespace, model, trainable: int, stored: list[Example]) -> dict[str, int]:
    """Bytes that a step of the longest answers takes beside the models, which are loaded.

    A draft's own answer (online) is at most as long as the longest stored one. On a CPU steps of other lengths leave holes in
    the heap that no later tensor fits.
    """
    from specdec.distillation import HELD_COPIES, HOLES, POSITIONS_AT_ONCE

    longest = max(len(example.context) for example in stored)
    positions = args.batch_size * max(len(example.rows) for example in stored)
    if args.loss not in READS_ALL_OF_Q:
        positions = min(positions, POSITIONS_AT_ONCE)
    columns = len(model.get_output_embeddings().weight)
    needed = memory_needed(model, trainable, args.batch_size, longest)
    del needed["weights"]
    needed["output_layer"] = HELD_COPIES * positions * columns * 4
    if model.device.type == "cpu":
        needed["holes"] = HOLES * needed["activations"]
    return needed


def memory_remedy(args: argparse.Namespace) -> str:
    return (
        "Lower --batch-size, or close other programs."
        if args.batch_size > 1
        else "Close other programs, or learn from shorter answers."
    )


def metrics_of(rows: list[dict], trained: int, held_out: int) -> dict:
    """What the rows say; `seconds` is of the optimizer steps alone, without loading and held-out measurements."""
    overlaps = [row["held_out_overlap"] for row in rows if row.get("held_out_overlap") is not None]
    steps = [row for row in rows if "loss" in row]
    return {
        "rows": {"train": trained, "held_out": held_out},
        "steps": len(steps),
        "seconds": sum(row["seconds"] for row in steps),
        "positions": sum(row["positions"] for row in steps),
        "held_out_overlap": {"before": overlaps[0], "after": overlaps[-1]} if overlaps else None,
        "peak_memory_bytes": peak_memory_bytes(),
        "command": command(),
        "environment": environment(),
    }


def overlap_line(metrics: dict) -> str:
    found = overlap_of_written(metrics)
    return f"{found['before']:.4f} → {found['after']:.4f}" if found else "not measured: no probabilities are stored"


def dry_run(args: argparse.Namespace, pair: Pair, train_rows: list[dict], held_out_rows: list[dict]) -> None:
    """Two steps in a folder that is thrown away; prints what the whole run would take."""
    whole, args.steps, args.eval_steps = args.steps, min(2, args.steps), args.steps + 2
    with tempfile.TemporaryDirectory() as nowhere:
        _, rows, _ = distill(args, pair, {}, train_rows, held_out_rows, Path(nowhere))
    metrics = metrics_of(rows, len(train_rows), len(held_out_rows))
    seconds = metrics["seconds"] / metrics["steps"]
    summary = {
        "steps": whole,
        "seconds_per_step": seconds,
        "estimated_seconds": whole * seconds,
        "peak_memory_bytes": metrics["peak_memory_bytes"],
        "command": command(),
        "environment": environment(),
    }
    if args.json:
        put_json(summary, args.json)
    memory = metrics["peak_memory_bytes"]
    gibibytes = (memory["gpu"] or memory["resident"]) / 2**30
    say(
        f"the full run: {whole} steps of {args.batch_size} answers, {seconds:.1f} s a step, "
        f"about {whole * seconds / 60:.0f} minutes and {gibibytes:.1f} GiB. Nothing was written."
    )


if __name__ == "__main__":
    run(main)
