"""Training prompts without users: the verifier writes queries of its own (Magpie, Xu et al. 2024, arXiv 2406.08464).

A chat model that reads a system prompt and the opening of a user turn, and no query, goes on with a query. Every draw is kept
in DRAWS, row by row, behind a header row with the command, the conditions and the machine; a stopped run resumes there, and a
file of other conditions is refused. A draw has a random generator of its own, seeded by --seed and its number, so its random
numbers depend neither on the batch nor on where a run resumed; a batch's padding and size still round p in its last digits,
which now and then changes a token. OUTPUT is written whole at the end: the draws that the filters of
domains/synthetic.py leave, a prompt file like those in domains/. How many each filter dropped, and the mix of what came, are
printed. Run again, it filters the stored draws, and loads no model.

Function calling: a query comes with tools. The draws take those of the users' training rows in domains/, a row a draw in an
order drawn by --seed, and the chat template puts them into the system prompt; the rows' own queries are not read.

    python generate_queries.py --domain biology --draws 96 --output queries/biology.jsonl
    python generate_answers.py --prompts queries/biology.jsonl --top-probs 128 --output answers/biology_synthetic.jsonl
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

from domains.function_calling import read_rows
from domains.leaks import EVALUATION, read_prompts
from domains.synthetic import SYSTEM, TOOLS, mix, select
from generate_answers import prompt_seed, sample_batch
from specdec.engine import Engine
from specdec.files import append_jsonl, write_jsonl
from specdec.models import PLACEHOLDER, Pair, add_model_arguments, choose_pair, holds_added_token
from specdec.provenance import provenance, read_row_file, start_rows
from specdec.sampling import Settings, check_settings
from specdec.terminal import Problem, check_outputs, positive_int, put_json, run, say


def opening(tokenizer, system: str, tools: list[dict] | None) -> str:
    """The text before a user's first word: system prompt, tools, and what opens the user's turn.

    Raises:
        Problem: the chat template has no system prompt, drops the tools or rewrites what a user wrote, or the system prompt
            holds a special token.
    """
    from jinja2 import TemplateError

    if holds_added_token(tokenizer, system):
        raise Problem("the system prompt holds a special token of the verifier. Take it out.")
    if not tokenizer.chat_template:
        raise Problem("the verifier has no chat template, so no user's turn can be opened. Choose a chat model.")
    messages = [{"role": "system", "content": system}, {"role": "user", "content": PLACEHOLDER}]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **({"tools": tools} if tools else {}))
    except TemplateError as error:
        raise Problem(f"the verifier's chat template refuses a system prompt or the tools: {error}") from None
    before, found, _ = text.partition(PLACEHOLDER)
    if not found or system.strip() not in before:
        raise Problem("the verifier's chat template shows no system prompt before the user's turn. Choose another verifier.")
    if any(f'"{tool["function"]["name"]}"' not in before for tool in tools or ()):
        raise Problem("the verifier's chat template leaves out a tool. Choose a verifier that was trained to call functions.")
    return before


def tool_rows(domain: str, seed: int) -> list[dict]:
    """The training rows that lend their tools, in a drawn order; none where the domain has no tools."""
    if domain not in TOOLS:
        return []
    rows = read_rows(TOOLS[domain])
    return random.Random(seed).sample(rows, len(rows))


def earlier_draws(file: Path, conditions: dict) -> list[dict]:
    """The draws in `file`, in the order of their numbers; none where there is no file.

    Raises:
        Problem: they were drawn under other conditions, or a row is no draw.
    """
    if not file.exists():
        return []
    headers, rows = read_row_file(file)
    for header in headers.values():
        for name, value in conditions.items():
            if header["conditions"].get(name) != value:
                found = header["conditions"].get(name)
                raise Problem(f"{file} holds draws of another {name} ({found}, not {value}). Name another file by --drawn.")
    for number, row in enumerate(rows, start=1):
        if missing := {"draw", "prompt", "ended", "special", "run_id"} - row.keys():
            raise Problem(f"{file}: draw {number} has no {min(missing)}. Delete that line and run again.")
    return sorted(rows, key=lambda row: row["draw"])


def draw_batch(engine: Engine, numbers: list[int], lenders: list[dict], args: argparse.Namespace) -> list[dict]:
    settings = Settings(temperature=args.temperature, top_p=args.top_p, max_new_tokens=args.max_new_tokens)
    ids, rows = [], []
    for number in numbers:
        lender = lenders[number % len(lenders)] if lenders else {}
        text = opening(engine.tokenizer, args.system, lender.get("tools"))
        ids.append(engine.tokenizer(text, add_special_tokens=False)["input_ids"])
        engine.check_room(ids[-1], [], settings)
        rows.append({"draw": number, **({"tools_of": lender["id"]} if lender else {})})
    seeds = [prompt_seed(args.seed, f"{args.domain} {number}", args.temperature, args.top_p) for number in numbers]
    texts, _ = sample_batch(engine, ids, seeds, settings, keep=0)
    for row, token_ids in zip(rows, texts, strict=True):
        row["ended"] = token_ids[-1] in engine.stop
        text = engine.tokenizer.decode(token_ids[:-1] if row["ended"] else token_ids).strip()
        row |= {"prompt": text, "special": holds_added_token(engine.tokenizer, text), "tokens": len(token_ids)}
    return rows


def add_draws(pair: Pair, open_draws: list[int], lenders: list[dict], conditions: dict, args: argparse.Namespace) -> None:
    import torch
    from tqdm import tqdm

    engine = Engine(pair)
    run_id = start_rows(args.drawn, conditions, dtype=str(engine.verifier.model.dtype))
    with tqdm(total=len(open_draws), desc="queries", unit="draw") as bar, torch.inference_mode():
        for start in range(0, len(open_draws), args.batch_size):
            numbers = open_draws[start : start + args.batch_size]
            for row in draw_batch(engine, numbers, lenders, args):
                append_jsonl(args.drawn, {**row, "run_id": run_id})
            bar.update(len(numbers))


def prompt_rows(usable: list[dict], lenders: list[dict], domain: str) -> list[dict]:
    tools = {row["id"]: row["tools"] for row in lenders}
    return [
        {
            "id": f"synthetic-{domain}-{row['draw']}",
            "prompt": row["prompt"],
            **({"tools": tools[row["tools_of"]]} if "tools_of" in row else {}),
            "domain": domain,
            "query_type": "synthetic",
            "source": "magpie",
        }
        for row in usable
    ]


def print_report(report: dict, out) -> None:
    print(f"{report['usable']} of {report['draws']} draws are usable", file=out)
    for reason, count in report["dropped"].items():
        print(f"  {count:>4}  dropped: {reason}", file=out)
    lengths = report["mix"]["characters"]
    print(f"Characters: {lengths['shortest']} to {lengths['longest']}, median {lengths['median']:.0f}", file=out)
    print(f"With a question mark: {report['mix']['questions']}", file=out)
    for name in ("first two words", "words of five letters or more, by prompts"):
        counts = ", ".join(f"{word} {count}" for word, count in report["mix"][name].items())
        print(f"Commonest {name}: {counts}", file=out)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domain", choices=sorted(SYSTEM), required=True)
    parser.add_argument("--draws", type=positive_int, required=True, metavar="N", help="how many turns the verifier writes")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the usable ones, a prompt file")
    parser.add_argument("--drawn", type=Path, metavar="FILE", help="every draw (default: OUTPUT with .drawn before .jsonl)")
    parser.add_argument("--system", metavar="TEXT", help="(default: the domain's, in domains/synthetic.py)")
    parser.add_argument("--temperature", type=float, default=1.0, help="(default 1)")
    parser.add_argument("--top-p", type=float, default=0.95, help="(default 0.95)")
    parser.add_argument("--max-new-tokens", type=positive_int, default=120, help="a longer turn is dropped (default 120)")
    parser.add_argument("--batch-size", type=positive_int, default=32, help="draws a batch (default 32)")
    parser.add_argument(
        "--evaluation-prompts",
        type=Path,
        nargs="+",
        action="extend",
        metavar="FILE",
        help="no query may be near a prompt of these (default: every evaluation file in domains/)",
    )
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON to FILE, or - for stdout")
    add_model_arguments(parser)
    args = parser.parse_args()
    args.drawn = args.drawn or args.output.with_suffix(".drawn.jsonl")
    args.system = args.system or SYSTEM[args.domain]
    args.evaluation_prompts = args.evaluation_prompts or EVALUATION
    check_outputs(args.output, args.drawn, args.json, inputs=args.evaluation_prompts)
    check_settings(Settings(temperature=args.temperature, top_p=args.top_p))
    if args.output.is_file() and not args.drawn.exists():
        raise Problem(f"{args.output} is there, but not {args.drawn}, so it is no output of this command. Name another file.")
    if args.temperature == 0:
        raise Problem("--temperature must be above 0: greedy draws are all one.")
    return args


def main() -> None:
    args = read_arguments()
    measured_on = [prompt for _, prompt in read_prompts(args.evaluation_prompts)]
    pair, lenders = choose_pair(args), tool_rows(args.domain, args.seed)
    names = ("domain", "system", "temperature", "top_p", "max_new_tokens", "seed")
    conditions = {"verifier": pair.verifier.id, "quantization": pair.quantization}
    conditions |= {name: getattr(args, name) for name in names}
    done = {row["draw"] for row in earlier_draws(args.drawn, conditions)}
    open_draws = [number for number in range(args.draws) if number not in done]
    if open_draws:
        add_draws(pair, open_draws, lenders, conditions, args)
    draws = [row for row in earlier_draws(args.drawn, conditions) if row["draw"] < args.draws]
    usable, dropped = select(draws, measured_on)
    write_jsonl(args.output, prompt_rows(usable, lenders, args.domain))
    report = {"draws": len(draws), "usable": len(usable), "dropped": dict(dropped.most_common())}
    report["mix"] = mix([row["prompt"] for row in usable])
    if args.json:
        put_json({**provenance({**conditions, "draws": args.draws}), **report}, args.json)
    print_report(report, sys.stderr if args.json == "-" else sys.stdout)
    say(f"{len(usable)} queries are in {args.output}, all draws in {args.drawn}")


if __name__ == "__main__":
    run(main)
