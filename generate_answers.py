"""The verifier answers prompts: training data for a draft, and the texts on which drafts are compared.

Each prompt is answered once per temperature and top-p, by the verifier alone, in batches. A prompt draws from a random
generator of its own, seeded by --seed and the prompt, so its random numbers depend neither on the batch nor on where a stopped
run resumed; a batch's padding and size still round p in its last digits, which now and then changes a token.

Rows are appended to OUTPUT as a batch ends, behind a header row with the command, the conditions and the machine; a file of
other conditions is refused. `specdec.answers` says what a row holds and reads it; what the answers took, whatever was stopped
and resumed, is the sum over rows of batch_seconds / batch_rows.

A prompt file's rows are kept whole, but for answers of others in them (chosen, rejected). Rows with "messages" or "tools" go
through the verifier's chat template with them.

With --text FIELD the verifier writes nothing: it reads the text that a row holds there, which is stored as an answer is. So a
draft can learn the verifier's probabilities on texts that the verifier did not write.

With --top-probs N the N most probable tokens at every position, and their probabilities, go to the cache folder: what
white-box distillation learns from, without asking the verifier again.

Several processes share the work, a GPU each, and the file is that of one process; one that is killed loses the batch that it
was at: torchrun --nproc-per-node 2 generate_answers.py …

    python generate_answers.py --prompts dpo_clean.jsonl --limit 300 --top-probs 128 --output answers/at.jsonl
    python generate_answers.py --prompts dpo_clean.jsonl --text chosen --limit 300 --top-probs 128 --output answers/chosen.jsonl
    python generate_answers.py --prompts domains/study0.jsonl domains/at.jsonl domains/general.jsonl \\
        --output studies/preference/results/answers.jsonl
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from specdec.alignment import sampled_probs, verifier_probs
from specdec.answers import PER_TYPE, UNLESS_GIVEN, digest_of, drawn_per_type, prompt_ids, read_answers, store_probs
from specdec.engine import Engine
from specdec.files import append_jsonl, read_jsonl
from specdec.models import PLACEHOLDER, add_model_arguments, choose_pair, plain_token_ids
from specdec.provenance import Share, start_rows
from specdec.sampling import Settings, check_settings, draw_each
from specdec.terminal import Problem, check_outputs, positive_int, run, say

if TYPE_CHECKING:
    from torch import Tensor

Work = tuple[dict, float, float]  # a prompt row, temperature, top-p: one answer


def prompt_seed(seed: int, prompt: str, temperature: float, top_p: float) -> int:
    text = json.dumps([seed, prompt, temperature, top_p], ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def sample_batch(
    engine: Engine, ids: list[list[int]], seeds: list[int], settings: Settings, keep: int
) -> tuple[list[list[int]], list[tuple[Tensor, Tensor] | None]]:
    """Samples one answer for each prompt of `ids`, each with a random generator of its own seed.

    A finished answer leaves the batch, so that nothing is computed for it any more.

    Returns:
        The answers' token ids; and, with `keep` > 0, for each of them the ids [n, keep] and probabilities [n, keep] of the
        most probable tokens at each of its n positions.
    """
    import torch

    batch = Batch(engine, ids)
    generators = [torch.Generator(device=batch.tokens.device).manual_seed(seed) for seed in seeds]
    answers: list[list[int]] = [[] for _ in ids]
    kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in ids]
    live = list(range(len(ids)))  # the answer of each row of the batch
    for _ in range(settings.max_new_tokens):
        probs = sampled_probs(batch.logits(), settings)
        drawn = draw_each(probs, [generators[answer] for answer in live]).tolist()
        if keep:
            values, indices = probs.topk(keep)
            for answer, ids_row, values_row in zip(live, indices.int(), values, strict=True):
                kept[answer].append((ids_row, values_row))
        for token, answer in zip(drawn, live, strict=True):
            answers[answer].append(token)
        going = [row for row, token in enumerate(drawn) if token not in engine.stop]
        if not going:
            break
        live = [live[row] for row in going]
        batch.go_on(going, [drawn[row] for row in going])
    stacked = [tuple(torch.stack(parts) for parts in zip(*rows, strict=True)) if keep else None for rows in kept]
    return answers, stacked


def read_texts(
    engine: Engine, ids: list[list[int]], texts: list[str], settings: Settings, keep: int, raw: bool
) -> tuple[list[list[int]], list[tuple[Tensor, Tensor] | None]]:
    """What `sample_batch` returns, for texts that others wrote: their first max_new_tokens tokens, which the verifier reads.

    A whole text ends with the token that ends a turn, but where there are none (`raw`).
    """
    end = [] if raw else [end_of_turn(engine)]
    answers = [(plain_token_ids(engine.tokenizer, text) + end)[: settings.max_new_tokens] for text in texts]
    kept: list[tuple[Tensor, Tensor] | None] = []
    for prompt, answer in zip(ids, answers, strict=True):
        top = verifier_probs(engine.verifier, prompt, answer, settings).topk(keep) if keep else None
        kept.append((top.indices.int(), top.values) if top else None)
    return answers, kept


def end_of_turn(engine: Engine) -> int:
    """The token that the verifier's chat template writes behind an answer; without a template, the one that ends a text.

    They may differ: Phi-3 ends a turn with <|end|> and a text with <|endoftext|>, its tokenizer's eos_token.

    Raises:
        Problem: the template writes no token there that ends an answer of the verifier.
    """
    tokenizer = engine.tokenizer
    if not tokenizer.chat_template:
        return tokenizer.eos_token_id
    chat = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": PLACEHOLDER}]
    _, _, after = tokenizer.apply_chat_template(chat, tokenize=False).partition(PLACEHOLDER)
    first = tokenizer(after, add_special_tokens=False)["input_ids"][:1]
    if not first or first[0] not in engine.stop:
        raise Problem(
            "--text: the verifier's chat template writes no stop token behind an answer. Use --raw, or another verifier."
        )
    return first[0]


class Batch:
    """Prompts of unequal length, padded to the left, and what the verifier's cache holds of them."""

    def __init__(self, engine: Engine, ids: list[list[int]]):
        import torch
        from transformers import DynamicCache

        self.verifier, self.cache = engine.verifier, DynamicCache()
        width, device = max(map(len, ids)), engine.verifier.device
        self.tokens = torch.tensor([[0] * (width - len(row)) + row for row in ids], device=device)  # to be read
        self.mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=device)

    def logits(self) -> Tensor:
        """Reads the tokens that are to be read; returns the logits [B, V] behind the last one of every row."""
        positions = (self.mask.cumsum(-1) - 1).clamp(min=0)[:, -self.tokens.shape[1] :]
        read = {"attention_mask": self.mask, "position_ids": positions, "past_key_values": self.cache}
        logits = self.verifier.model(self.tokens, **read, use_cache=True, logits_to_keep=1).logits[:, -1]
        logits[:, self.verifier.unnamed] = float("-inf")
        return logits

    def go_on(self, rows: list[int], tokens: list[int]) -> None:
        """Leaves `rows`, with a token for each of them that is to be read next."""
        import torch

        chosen = torch.tensor(rows, device=self.tokens.device)
        if len(rows) < len(self.tokens):
            self.cache.batch_select_indices(chosen)
        self.tokens = torch.tensor(tokens, device=self.tokens.device)[:, None]
        self.mask = torch.cat([self.mask[chosen], self.mask.new_ones(len(rows), 1)], dim=1)


def all_work(args: argparse.Namespace) -> list[Work]:
    """Every answer asked for, once, in an order drawn by --seed, so that --limit takes a sample of the prompts.

    `batches` sorts within eight batches, so the rows of a file stand by the length of their prompts there.
    """
    needed = ("prompt", *([args.text] if args.text else []), *(PER_TYPE if args.per_type else []))
    answers = {"chosen", "rejected"} - {args.text}
    rows = []
    for file in args.prompts:
        for row in read_jsonl(file, required=needed):
            rows.append({name: value for name, value in row.items() if name not in answers})
    if args.per_type:
        rows = drawn_per_type(rows, args.per_type, args.seed)
    random.Random(args.seed).shuffle(rows)
    work: dict[tuple, Work] = {}
    for row in rows[: args.limit]:
        for temperature in args.temperature:
            for top_p in args.top_p:
                work.setdefault((row["prompt"], temperature, top_p), (row, temperature, top_p))
    return list(work.values())


def batches(work: list[Work], size: int) -> Iterator[list[Work]]:
    """Batches of one temperature and top-p each, in the order of `work`, which is sorted by them.

    Within eight batches prompts of like length come together: a batch is padded to its longest prompt.
    """
    for settings in sorted({item[1:] for item in work}):
        same = [item for item in work if item[1:] == settings]
        for start in range(0, len(same), 8 * size):
            window = sorted(same[start : start + 8 * size], key=written_length)
            for first in range(0, len(window), size):
                yield window[first : first + size]


def written_length(item: Work) -> int:
    """Characters of what the template will write, near enough to sort by."""
    row = item[0]
    return len(json.dumps([row["prompt"], row.get("messages"), row.get("tools")], ensure_ascii=False))


def answer_batch(engine: Engine, batch: list[Work], args: argparse.Namespace) -> list[dict]:
    """The rows of one batch, with the seconds that it took; their probabilities are stored already."""
    started = time.perf_counter()
    _, temperature, top_p = batch[0]
    settings = Settings(temperature=temperature, top_p=top_p, max_new_tokens=args.max_new_tokens)
    ids = [prompt_ids(engine, row, settings, args.system, args.raw)[0] for row, *_ in batch]
    seeds = [prompt_seed(args.seed, row["prompt"], temperature, top_p) for row, *_ in batch]
    if args.text:
        texts = [row[args.text] for row, *_ in batch]
        answers, kept = read_texts(engine, ids, texts, settings, args.top_probs, args.raw)
    else:
        answers, kept = sample_batch(engine, ids, seeds, settings, args.top_probs)
    rows = []
    for (row, *_), token_ids, probs in zip(batch, answers, kept, strict=True):
        if args.text:
            row = {name: value for name, value in row.items() if name != args.text} | {"text": args.text}
        answer = {**row, "temperature": temperature, "top_p": top_p, "token_ids": token_ids, "probs": None, "seed": args.seed}
        if probs:
            answer["probs"] = digest_of(engine.pair.verifier.id, answer)
            store_probs(answer["probs"], *probs)
        rows.append(answer)
    spent = {"batch_seconds": time.perf_counter() - started, "batch_rows": len(rows)}
    return [{**row, **spent} for row in rows]


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--prompts", nargs="+", action="extend", required=True, metavar="FILE", help='prompts to answer: {"prompt": …} a line'
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="answers, appended row by row")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="the first N prompts of the drawn order (default: all)")
    parser.add_argument("--per-type", type=positive_int, metavar="N", help="N prompts of each domain and query type")
    parser.add_argument("--text", metavar="FIELD", help="write nothing: read the text in each row's FIELD, such as chosen")
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.7], help="one or several; 0 is greedy (default 0.7)")
    parser.add_argument("--top-p", type=float, nargs="+", default=[1.0], help="one or several (default 1: all tokens)")
    parser.add_argument("--max-new-tokens", type=positive_int, default=200, help="(default 200)")
    parser.add_argument("--system", metavar="TEXT", help="a system prompt before every prompt (default: the template's own)")
    parser.add_argument("--raw", action="store_true", help="no chat template: the verifier goes on where the prompt ends")
    parser.add_argument("--batch-size", type=positive_int, default=32, help="prompts per batch (default 32)")
    parser.add_argument("--top-probs", type=int, default=0, metavar="N", help="keep the N most probable tokens (default 0)")
    add_model_arguments(parser)
    args = parser.parse_args()
    check_outputs(args.output, inputs=args.prompts)
    for temperature in args.temperature:
        for top_p in args.top_p:
            check_settings(Settings(temperature=temperature, top_p=top_p))
    if args.top_probs < 0:
        raise Problem("--top-probs must be 0 (off) or more.")
    if args.top_probs and 0 in args.temperature:
        raise Problem("--top-probs goes with a temperature above 0: greedy decoding has no distribution to learn from.")
    return args


def main() -> None:
    args = read_arguments()
    work = all_work(args)
    if not work:
        raise Problem(f'{" ".join(args.prompts)} holds no prompt. Give one {{"prompt": …}} a line.')

    import torch
    from tqdm import tqdm

    pair = choose_pair(args)
    conditions = {"verifier": pair.verifier.id, "quantization": pair.quantization, "max_new_tokens": args.max_new_tokens}
    conditions |= {"system": args.system} if args.system is not None else {}
    conditions |= {"raw": True} if args.raw else {}
    conditions |= {"text": args.text} if args.text else {}
    share = Share(args.output)
    share.join()
    rows = read_answers(args.output, **{**UNLESS_GIVEN, **conditions}) if args.output.exists() else []
    done = {(row["prompt"], row["temperature"], row["top_p"]) for row in rows}
    open_work = [item for item in work if (item[0]["prompt"], *item[1:]) not in done]
    if not open_work:
        return say(f"all {len(work)} answers are in {args.output} already")
    bare = sum(row["probs"] is None for row in rows)
    if args.top_probs and bare:
        say(f"{bare} answers in {args.output} were stored without probabilities and stay so")
    engine = Engine(pair)
    if args.top_probs > engine.rows:
        raise Problem(f"--top-probs {args.top_probs} is more than the verifier's {engine.rows} tokens.")
    open_work = share.of(sorted(open_work, key=lambda item: item[1:]))
    run_id = start_rows(share.file, conditions, dtype=str(engine.verifier.model.dtype))
    with tqdm(total=len(open_work), desc="answers", unit="answer") as bar, torch.inference_mode():
        for batch in batches(open_work, args.batch_size):
            for row in answer_batch(engine, batch, args):
                append_jsonl(share.file, {**row, "run_id": run_id})
            bar.update(len(batch))
    share.join()


if __name__ == "__main__":
    run(main)
