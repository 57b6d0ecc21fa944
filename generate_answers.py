"""The verifier answers prompts: training data for a draft, and the texts on which drafts are compared.

Each prompt is answered once per temperature and top-p, by the verifier alone, in batches. A prompt draws from a random
generator of its own, seeded by --seed and the prompt, so an answer depends neither on the batch nor on where a stopped
run resumed. Rows are appended to OUTPUT as a batch ends, behind a header row with the command, the conditions and the
machine; a file of other conditions is refused.

With --top-probs N the N most probable tokens at every position, and their probabilities, go to the cache folder, a file an
answer, named by a digest of the answer: what white-box distillation learns from, without asking the verifier again.

    python generate_answers.py --prompts dpo_clean.jsonl --limit 300 --top-probs 128 --output answers/at.jsonl
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from specdec.engine import Engine
from specdec.files import append_jsonl, read_jsonl
from specdec.models import add_model_arguments, choose_pair
from specdec.provenance import environment
from specdec.sampling import Settings, to_probs
from specdec.terminal import Problem, run, say
from specdec.weights import cache_folder

if TYPE_CHECKING:
    from torch import Tensor


def answer_digest(verifier: str, settings: dict, prompt: str, token_ids: list[int]) -> str:
    """Names the stored probabilities of one answer; another verifier, setting or text gives another name."""
    identity = json.dumps([verifier, settings, prompt, token_ids], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:24]


def probs_file(digest: str) -> Path:
    return cache_folder() / "top-probs" / digest[:2] / f"{digest}.safetensors"


def prompt_seed(seed: int, prompt: str, temperature: float, top_p: float) -> int:
    text = json.dumps([seed, prompt, temperature, top_p], ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def sample_batch(engine: Engine, prompts: list[str], settings: Settings, seed: int, keep: int):
    """Samples one answer for each of `prompts`; returns token ids and, with `keep` > 0, per answer the ids [n, keep] and
    probabilities [n, keep] of the most probable tokens at each of its n positions.

    The prompts are padded to the left. A finished answer leaves the batch, so that nothing is computed for it any more.
    """
    import torch
    from transformers import DynamicCache

    model = engine.verifier.model
    ids = [engine.prompt_ids(prompt, settings)[0] for prompt in prompts]
    width = max(map(len, ids))
    tokens = torch.tensor([[0] * (width - len(row)) + row for row in ids], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=model.device)
    generators = [
        torch.Generator(device=model.device).manual_seed(prompt_seed(seed, prompt, settings.temperature, settings.top_p))
        for prompt in prompts
    ]
    answers: list[list[int]] = [[] for _ in prompts]
    kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in prompts]
    live, cache = list(range(len(prompts))), DynamicCache()
    for _ in range(settings.max_new_tokens):
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        logits = model(
            tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        ).logits[:, -1]
        logits[:, engine.verifier.unnamed] = float("-inf")
        probs = to_probs(logits, settings)
        drawn = torch.cat(
            [torch.multinomial(row, 1, generator=generators[place]) for row, place in zip(probs, live, strict=True)]
        )
        if keep:
            top = probs.topk(keep)
            for row, place in enumerate(live):
                kept[place].append((top.indices[row].int(), top.values[row]))
        for token, place in zip(drawn.tolist(), live, strict=True):
            answers[place].append(token)
        going = [row for row, token in enumerate(drawn.tolist()) if token not in engine.stop]
        if not going:
            break
        rows = torch.tensor(going, device=model.device)
        if len(going) < len(live):
            cache.batch_select_indices(rows)
        live = [live[row] for row in going]
        tokens = drawn[rows, None]
        mask = torch.cat([mask[rows], mask.new_ones(len(going), 1)], dim=1)
    stacked = [tuple(torch.stack(parts) for parts in zip(*rows, strict=True)) if keep else None for rows in kept]
    return answers, stacked


def store_probs(file: Path, ids: Tensor, probs: Tensor) -> None:
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".unfinished")
    save_file({"ids": ids.contiguous(), "probs": probs.contiguous()}, unfinished)
    unfinished.replace(file)


def read_answers(file: Path, conditions: dict) -> list[dict]:
    """The rows of an answers file, none if there is none yet.

    Raises:
        Problem: the file's header tells of other conditions.
    """
    if not file.exists():
        return []
    header, *rows = read_jsonl(file)
    if header.get("conditions") != conditions:
        raise Problem(f"{file} holds answers of other conditions ({header.get('conditions')}). Name another --output.")
    return rows


def open_work(args: argparse.Namespace, done: set) -> list[tuple[dict, float, float]]:
    """(row, temperature, top-p) still to be answered, in an order drawn by --seed, so that any part of it is a sample."""
    rows = [row for file in args.prompts for row in read_jsonl(file, required=("prompt",))]
    random.Random(args.seed).shuffle(rows)
    work = [(row, temperature, top_p) for row in rows[: args.limit] for temperature in args.temperature for top_p in args.top_p]
    return [item for item in work if (item[0]["prompt"], item[1], item[2]) not in done]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", nargs="+", required=True, metavar="FILE", help='one {"prompt": …} a line')
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="answers, appended row by row")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N prompts of the drawn order (default: all)")
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.7], help="one or several (default 0.7)")
    parser.add_argument("--top-p", type=float, nargs="+", default=[1.0], help="one or several (default 1: all tokens)")
    parser.add_argument("--max-new-tokens", type=int, default=200, help="(default 200)")
    parser.add_argument("--batch-size", type=int, default=32, help="prompts per batch (default 32)")
    parser.add_argument("--top-probs", type=int, default=0, metavar="N", help="keep the N most probable tokens (default 0)")
    add_model_arguments(parser)
    args = parser.parse_args()

    import torch
    from tqdm import tqdm

    pair = choose_pair(args)
    conditions = {"verifier": pair.verifier.id, "quantization": pair.quantization, "max_new_tokens": args.max_new_tokens}
    done = {(row["prompt"], row["temperature"], row["top_p"]) for row in read_answers(args.output, conditions)}
    work = open_work(args, done)
    if not work:
        return say(f"all {len(done)} answers are in {args.output} already")
    engine = Engine(pair)
    run_id = hashlib.sha256(repr((conditions, len(done), args.seed)).encode()).hexdigest()[:8]
    if not done:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        append_jsonl(
            args.output,
            {
                "run_id": run_id,
                "command": "python " + " ".join(sys.argv),
                "conditions": conditions,
                "dtype": str(engine.verifier.model.dtype),
                "environment": environment(),
            },
        )
    with tqdm(total=len(work), desc="answers", unit="answer") as bar, torch.inference_mode():
        for temperature, top_p in sorted({item[1:] for item in work}):
            settings = Settings(temperature=temperature, top_p=top_p, max_new_tokens=args.max_new_tokens)
            rows = [row for row, *other in work if tuple(other) == (temperature, top_p)]
            for start in range(0, len(rows), args.batch_size):
                batch = rows[start : start + args.batch_size]
                answers, kept = sample_batch(engine, [row["prompt"] for row in batch], settings, args.seed, args.top_probs)
                for row, token_ids, probs in zip(batch, answers, kept, strict=True):
                    digest = answer_digest(
                        pair.verifier.id, {"temperature": temperature, "top_p": top_p}, row["prompt"], token_ids
                    )
                    if probs:
                        store_probs(probs_file(digest), *probs)
                    append_jsonl(
                        args.output,
                        {
                            **{key: row[key] for key in ("id", "domain", "query_type") if key in row},
                            "prompt": row["prompt"],
                            "temperature": temperature,
                            "top_p": top_p,
                            "token_ids": token_ids,
                            "probs": digest if probs else None,
                            "seed": args.seed,
                            "run_id": run_id,
                        },
                    )
                bar.update(len(batch))


if __name__ == "__main__":
    run(main)
