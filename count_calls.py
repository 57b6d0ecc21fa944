"""What a draft writes by itself to function-calling prompts, and how much of it parses as calls.

Online distillation teaches a draft on its own text, so what that holds matters. Each draft answers the prompts of an answers
file alone, in the verifier's tokens and at the file's temperature, as in training with --data online. Ctrl-C keeps
what is written.

    python count_calls.py --answers studies/domains/answers/function_calling_users.jsonl --json FILE \\
      --drafts base online=studies/domains/drafts/function_calling_users_online
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from domains.function_calling import judged
from specdec.adapters import adapter_digest
from specdec.answers import prompt_ids, prompted_answers
from specdec.models import add_model_arguments, choose_pair
from specdec.provenance import portable, provenance
from specdec.sampling import Settings
from specdec.terminal import Problem, check_outputs, put_json, run
from speculative_decode import Drafter, load_drafter, named_drafts

if TYPE_CHECKING:
    from specdec.engine import Engine


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=Path, required=True, metavar="FILE", help="the verifier's, to prompts with tools")
    parser.add_argument("--drafts", nargs="+", default=["base"], metavar="NAME=ADAPTER", help="base alone has no adapter")
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON to FILE, or - for stdout")
    add_model_arguments(parser)
    args = parser.parse_args()
    check_outputs(args.json, inputs=[args.answers])
    return args


def own_texts(
    engine: Engine, drafter: Drafter, rows: list[dict], settings: Settings, prompted: dict, seed: int
) -> Iterator[str]:
    """The draft's text to each row's prompt, drawn from q alone."""
    import torch
    from tqdm import tqdm

    for number, row in enumerate(tqdm(rows, desc="own texts", unit="text")):
        with torch.inference_mode():
            drafter.start(drafter.own_prompt(*prompt_ids(engine, row, settings, **prompted)))
            generator = torch.Generator(device=drafter.model.device).manual_seed(seed * 1_000_003 + number)
            tokens, _ = drafter.propose(settings.max_new_tokens, settings, engine.stop, generator)
        yield engine.tokenizer.decode(tokens, skip_special_tokens=True)


def counted(texts: list[str], rows: list[dict]) -> dict:
    """How many parse as calls, and how many of those name a tool of their row with the arguments that it requires.

    A stopped run has fewer texts than rows, the first ones'.
    """
    found = [judged(text, row["tools"]) for text, row in zip(texts, rows, strict=False)]
    return {"texts": len(texts), **{kind: sum(one[kind] for one in found) for kind in ("parse", "fitting")}}


def main() -> None:
    from specdec.engine import Engine

    args = parse_arguments()
    pair, drafts = choose_pair(args), named_drafts(args.drafts)
    rows, prompted = prompted_answers(args.answers, verifier=pair.verifier.id)
    rows = [row for row in rows if row.get("tools")]
    if not rows:
        raise Problem(f"no answer in {args.answers} is to a prompt with tools. Name answers to function-calling prompts.")
    longest = max(len(row["token_ids"]) for row in rows)
    settings = Settings(temperature=rows[0]["temperature"], top_p=rows[0]["top_p"], max_new_tokens=longest)
    engine = Engine(pair, drafts.values())
    found = {"verifier": counted([engine.tokenizer.decode(row["token_ids"], skip_special_tokens=True) for row in rows], rows)}
    stopped = None
    for name, path in drafts.items():
        texts: list[str] = []
        try:
            for text in own_texts(engine, load_drafter(engine, path)[0], rows, settings, prompted, args.seed):
                texts.append(text)
        except KeyboardInterrupt as signal:  # Ctrl-C, or SIGTERM: what was written is kept
            stopped = signal
        if texts:
            found[name] = {**counted(texts, rows), "own": texts}
        if stopped:
            break
    conditions = {
        "draft": pair.draft.id,
        "verifier": pair.verifier.id,
        "answers": portable(str(args.answers)),
        "no_tool_fits": sum(row.get("query_type") == "live_irrelevance" for row in rows),  # prose is the right answer there
        "drafts": {name: path and portable(path) for name, path in drafts.items()},
        "adapters": {name: adapter_digest(path) for name, path in drafts.items()},
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "max_new_tokens": settings.max_new_tokens,
        "seed": args.seed,
    }
    if args.json:
        put_json({**provenance(conditions), "found": found}, args.json)
    for name, one in found.items():
        print(f"{name}: of {one['texts']} texts {one['parse']} parse as calls, {one['fitting']} to a given tool as it requires")
    if stopped:
        raise stopped


if __name__ == "__main__":
    run(main)
