"""What a draft's output layer may leave out: acceptance and time of a step, by the number of tokens that it can propose.

Only shared tokens can be proposed, so the int8 backend leaves out the other rows of the output layer for nothing. Leaving out
rare shared ones too makes a step shorter and q poorer; the text stays the verifier's, whatever q is. Every size of the layer is
a draft of its own, in int8, of the same weights; all read the same stored answers of the verifier, teacher-forced. Steps of all
sizes are timed in turn, round by round: run it alone.

    python -m studies.engine.draft_head --answers studies/preference/results/answers.jsonl --prompts domains/at.jsonl \\
      --per-type 3 --counts studies/distillation/answers/at.jsonl --json FILE
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from specdec.answers import PER_TYPE, answers_to, digest_of, drawn_per_type, prompt_ids, read_answers
from specdec.files import read_jsonl
from specdec.intervals import mean_with_interval
from specdec.models import add_model_arguments, choose_pair, load_model
from specdec.provenance import portable, provenance
from specdec.sampling import Settings
from specdec.terminal import Problem, check_outputs, positive_int, put_json, run

if TYPE_CHECKING:
    from specdec.engine import Engine
    from specdec.int8 import Int8Model

BEHIND = 100  # tokens that a timed step has before it
STEPS = 40  # of a draft in a row
ROUNDS = 9  # of all drafts in turn


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=Path, required=True, metavar="FILE", help="the verifier's, to --prompts")
    parser.add_argument("--prompts", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument("--per-type", type=positive_int, metavar="N", help="N prompts of each domain and query type")
    parser.add_argument(
        "--counts", type=Path, nargs="+", required=True, metavar="FILE", help="answers whose tokens are counted"
    )
    parser.add_argument("--adapter-path", metavar="DIR", help="of the draft (default: the base draft)")
    parser.add_argument("--sizes", type=positive_int, nargs="+", default=[16000, 8000, 4000], help="(default 16000 8000 4000)")
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON to FILE, or - for stdout")
    add_model_arguments(parser)
    args = parser.parse_args()
    check_outputs(args.json, inputs=[args.answers, *args.prompts, *args.counts])
    return args


def by_frequency(engine: Engine, answers: list[dict]) -> list[int]:
    """The draft's ids of all shared tokens, as a smaller layer keeps them from the front.

    Those of `answers`, the most frequent first, then the others by id, which a BPE tokenizer gives by the frequency of its own
    training text; before them all the stop tokens, for a draft without them could never propose the end.
    """
    known = dict(zip(engine.shared.verifier_ids, engine.shared.draft_ids, strict=True))
    counts = Counter(known[token] for row in answers for token in row["token_ids"] if token in known)
    stops = {known[token] for token in engine.stop if token in known}
    return sorted(known.values(), key=lambda token: (token not in stops, -counts[token], token))


def cut_draft(engine: Engine, adapter_path: str | None, tokens: list[int]) -> Int8Model:
    """The int8 draft that can propose `tokens` alone, in its own ids."""
    from specdec.adapters import load_adapter
    from specdec.int8 import Int8Model

    model = load_model(engine.pair.draft, engine.pair.quantization, backend="int8")
    if adapter_path:
        model, _ = load_adapter(model, adapter_path, engine.pair.draft.id)
    return Int8Model(model, tokens, parts=1)


def overlaps(engine: Engine, drafts: dict[int, Int8Model], row: dict, settings: Settings, prompted: dict) -> dict[int, float]:
    """Size of the layer → mean Σ min(p, q) over the positions of one stored answer; p is the int8 verifier's."""
    from specdec.alignment import draft_probs, overlap_and_kept, verifier_probs

    verifier_prompt, draft_prompt = prompt_ids(engine, row, settings, **prompted)
    answer = row["token_ids"]
    p = verifier_probs(engine.verifier, verifier_prompt, answer, settings)
    found = {}
    for size, draft in drafts.items():
        q = draft_probs(draft, engine.shared, draft_prompt, answer, engine.rows, settings)
        found[size] = float(overlap_and_kept(p, q, answer)[0].mean())
    return found


def seconds_of_steps(draft: Int8Model, token: int) -> float:
    """The median of STEPS single steps behind BEHIND tokens."""
    draft.start()
    draft.feed([token] * BEHIND)
    seconds = []
    for _ in range(STEPS):
        started = time.perf_counter()
        draft.feed([token])
        seconds.append(time.perf_counter() - started)
    return median(seconds)


def summary(rows: list[dict], seconds: dict[int, list[float]], seed: int) -> list[dict]:
    """By size, the whole layer first: mean overlap and its change against the whole layer, with an interval over prompts; the
    milliseconds of a step and their change, with one over rounds."""
    whole = next(iter(seconds))
    found = []
    for size, of_size in seconds.items():
        changes = [row["overlap"][size] - row["overlap"][whole] for row in rows]
        saved = [(own - other) * 1000 for own, other in zip(of_size, seconds[whole], strict=True)]
        found.append(
            {
                "tokens": size,
                "prompts": len(rows),
                "overlap": sum(row["overlap"][size] for row in rows) / len(rows),
                "change": mean_with_interval(changes, seed),
                "milliseconds": sum(of_size) / len(of_size) * 1000,
                "milliseconds_change": mean_with_interval(saved, seed),
            }
        )
    return found


def main() -> None:
    args = parse_arguments()
    from tqdm import tqdm

    from specdec.engine import Engine

    pair = replace(choose_pair(args), backend="int8")
    settings = Settings(temperature=0.7, max_new_tokens=200)
    prompts = [row for file in args.prompts for row in read_jsonl(file, required=("prompt", *PER_TYPE))]
    if args.per_type:
        prompts = drawn_per_type(prompts, args.per_type, args.seed)
    wanted = {row["prompt"] for row in prompts}
    answers, prompted = answers_to(wanted, args.answers, pair, settings)
    counted = [row for file in args.counts for row in read_answers(file, verifier=pair.verifier.id)]
    if known := wanted & {row["prompt"] for row in counted}:
        raise Problem(f"--counts holds answers to {len(known)} of the {len(wanted)} prompts that are measured. Name others.")
    engine = Engine(pair, [args.adapter_path])
    tokens = by_frequency(engine, counted)
    sizes = [len(tokens), *sorted((size for size in args.sizes if size < len(tokens)), reverse=True)]
    drafts = {size: cut_draft(engine, args.adapter_path, tokens[:size]) for size in sizes}
    rows = []
    for row in tqdm(answers, desc="answers", unit="answer"):
        found = overlaps(engine, drafts, row, settings, prompted)
        rows.append({"prompt": row["prompt"], "answer": digest_of(pair.verifier.id, row), "overlap": found})
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in tqdm(range(ROUNDS), desc="steps", unit="round"):
        for size, draft in drafts.items():
            seconds[size].append(seconds_of_steps(draft, tokens[0]))
    conditions = {
        "draft": pair.draft.id,
        "verifier": pair.verifier.id,
        "backend": pair.backend,
        "adapter": args.adapter_path and portable(args.adapter_path),
        "answers": portable(str(args.answers)),
        "counts": [portable(str(file)) for file in args.counts],
        "temperature": settings.temperature,
        "seed": args.seed,
    }
    result = {**provenance(conditions), "summary": summary(rows, seconds, args.seed), "seconds": seconds, "rows": rows}
    if args.json:
        put_json(result, args.json)
    if args.json != "-":
        print_summary(result["summary"])


def print_summary(found: list[dict]) -> None:
    for of_size in found:
        print(
            f"{of_size['tokens']:,} tokens: mean Σ min(p, q) {of_size['overlap']:.4f} ({of_size['change']['mean']:+.4f}), "
            f"{of_size['milliseconds']:.1f} ms a step ({of_size['milliseconds_change']['mean']:+.1f})"
        )


if __name__ == "__main__":
    run(main)
