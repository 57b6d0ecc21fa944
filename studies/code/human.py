"""Human code as an answers file, so that `train_distill.py --loss nll` raises its likelihood, as the plan does.

A training snippet is cut behind its first lines: they are the prompt, the rest is the text that is learnt, in the verifier's
tokens. The rows have temperature 1, the plain likelihood, or --temperature, at which the draft's is taken then, and no
probabilities, so no other loss takes them. With --prompts the prompts alone are written too: completed by the verifier, they
are what the distilled draft learns from.

    python -m studies.code.human --output studies/code/answers/human.jsonl --prompts studies/code/answers/prompts.jsonl
    python -m studies.code.human --mix balanced --output studies/code/answers/human-balanced.jsonl
    python -m studies.code.human --repeat zig=3 --output studies/code/answers/human-worst.jsonl
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from domains.code import GROUP, training_snippets
from specdec.files import write_jsonl
from specdec.models import add_model_arguments, choose_pair, load_tokenizer
from specdec.provenance import provenance
from specdec.terminal import Problem, check_outputs, positive_float, positive_int, run, say

PROMPT = 200  # characters, then up to the end of the line


def cut(text: str) -> tuple[str, str]:
    """(prompt, what follows): the lines up to PROMPT characters, at least one; what follows is never empty."""
    end = text.find("\n", min(PROMPT, len(text) - 2)) + 1
    if end in (0, len(text)):
        end = text.find("\n") + 1
    return text[:end], text[end:]


def repeated(rows: list[dict], repeats: list[str]) -> list[dict]:
    """The rows, those of a language in `repeats` (LANGUAGE=N) N times.

    Raises:
        Problem: not of this form, or no such language.
    """
    times: dict[str, int] = {}
    for text in repeats:
        language, _, number = text.partition("=")
        if language not in GROUP or not number.isdigit() or number == "0":
            raise Problem(f"--repeat {text} is not of the form LANGUAGE=N. There are {', '.join(GROUP)}.")
        times[language] = int(number)
    return [row for row in rows for _ in range(times.get(row["language"], 1))]


def human_rows(snippets: list[dict], tokenizer, seed: int, longest: int | None = None, temperature: float = 1.0) -> list[dict]:
    """Rows of an answers file (`specdec.answers`), of at most `longest` tokens; `seed` fills its column: nothing is drawn."""
    rows = []
    for snippet in snippets:
        prompt, rest = cut(snippet["text"])
        kept = {name: value for name, value in snippet.items() if name not in ("text", "in_plan")}
        token_ids = tokenizer(rest, add_special_tokens=False)["input_ids"][:longest]  # what opens a text is in the prompt
        sampled = {"temperature": temperature, "top_p": 1.0, "seed": seed}
        answer = {"token_ids": token_ids, "probs": None, "text": "human"}
        rows.append({"prompt": prompt, **kept, **sampled, **answer})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the answers file, written whole")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="write the prompts alone to FILE")
    parser.add_argument("--mix", choices=("plan", "balanced"), default="plan", help="of languages (default plan)")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="N of them, drawn by --seed, so that the mix stays")
    parser.add_argument("--max-tokens", type=positive_int, metavar="N", help="of a snippet: memory grows with them")
    parser.add_argument("--temperature", type=positive_float, default=1.0, help="of the likelihood (default 1)")
    parser.add_argument("--repeat", nargs="+", default=[], metavar="LANGUAGE=N", help="take a language's snippets N times")
    add_model_arguments(parser)
    args = parser.parse_args()
    check_outputs(args.output, args.prompts)
    snippets = training_snippets(mix=args.mix)
    if args.limit:
        snippets = random.Random(args.seed).sample(snippets, min(args.limit, len(snippets)))
    snippets = repeated(snippets, args.repeat)
    pair = choose_pair(args)
    rows = human_rows(snippets, load_tokenizer(pair.verifier), args.seed, args.max_tokens, args.temperature)
    conditions = {
        "verifier": pair.verifier.id,  # whose tokens these are
        "quantization": pair.quantization,
        "max_new_tokens": max(len(row["token_ids"]) for row in rows),
        "raw": True,
        "text": "human",
        "mix": args.mix,
        "limit": args.limit,
        "seed": args.seed,  # draws the snippets where there is a limit
        "repeat": args.repeat,
    }
    header = {"run_id": "human", **provenance(conditions)}
    write_jsonl(args.output, [header, *({**row, "run_id": "human"} for row in rows)])
    if args.prompts:
        learnt = ("token_ids", "temperature", "top_p", "probs", "seed", "text")
        write_jsonl(args.prompts, [{name: value for name, value in row.items() if name not in learnt} for row in rows])
    say(f"{len(rows)} snippets, {sum(len(row['token_ids']) for row in rows):,} tokens to learn, are in {args.output}")


if __name__ == "__main__":
    run(main)
