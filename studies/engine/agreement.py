"""How far is the int8 verifier from its bf16 or float32 self? Both read the verifier's stored answers, teacher-forced.

By answer: the mean overlap Σ min(p_int8, p) of its positions, the share of positions where both hold the same token for the
likeliest, and −log p of the text under both; p as it is sampled at the answers' temperature. With bf16 units, and on a GPU, the
other one computes in bf16: `dtype` in the result says so.

    python -m studies.engine.agreement --answers studies/distillation/answers/at.jsonl --limit 32 --json FILE
"""

from __future__ import annotations

import argparse
from pathlib import Path

from specdec.agreement import backends_apart, summary
from specdec.answers import prompted_answers
from specdec.models import add_model_arguments, choose_pair, compute_dtype
from specdec.provenance import portable, provenance
from specdec.sampling import Settings, check_settings
from specdec.terminal import Problem, check_outputs, positive_int, put_json, run


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=Path, required=True, metavar="FILE", help="of generate_answers.py")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="N of them, spread evenly over the file (default: all)")
    parser.add_argument("--temperature", type=float, default=0.7, help="of the answers that are read (default 0.7)")
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON to FILE, or - for stdout")
    add_model_arguments(parser)
    args = parser.parse_args()
    if args.temperature == 0:
        raise Problem("--temperature must be above 0 here: a greedy p holds one token alone.")
    check_outputs(args.json, inputs=[args.answers])
    return args


def spread(rows: list[dict], count: int | None) -> list[dict]:
    """`count` of the rows, evenly spaced; all of them where there are no more."""
    if count is None or count >= len(rows):
        return rows
    return [rows[number * len(rows) // count] for number in range(count)]


def main() -> None:
    args = parse_arguments()
    pair = choose_pair(args)
    answers, prompted = prompted_answers(args.answers, verifier=pair.verifier.id, quantization=pair.quantization)
    answers = [row for row in answers if (row["temperature"], row["top_p"]) == (args.temperature, 1.0)]
    if not answers:
        raise Problem(
            f"{args.answers} has no answer at temperature {args.temperature}, top-p 1. Name another, or --temperature."
        )
    answers = spread(answers, args.limit)
    longest = max(len(row["token_ids"]) for row in answers)
    settings = Settings(temperature=args.temperature, max_new_tokens=longest)
    check_settings(settings)
    conditions = {
        "verifier": pair.verifier.id,
        "quantization": pair.quantization,
        "dtype": str(compute_dtype()).removeprefix("torch."),
        "temperature": args.temperature,
        "answers": portable(str(args.answers)),
        "seed": args.seed,
        **prompted,
    }
    rows = backends_apart(pair, answers, prompted, settings)
    result = {**provenance(conditions), "summary": summary(rows, args.seed), "rows": rows}
    if args.json:
        put_json(result, args.json)
    if args.json != "-":
        print(in_words(result["summary"]))


def in_words(found: dict) -> str:
    perplexity = " and ".join(f"{value:.3f} by {name}" for name, value in found["perplexity"].items())
    return (
        f"{found['positions']} positions of {found['prompts']} answers: mean overlap {found['overlap']['mean']:.4f}, the same "
        f"likeliest token at {found['same_likeliest']['mean']:.1%}, perplexity {perplexity}"
    )


if __name__ == "__main__":
    run(main)
