"""Does a tuned draft raise acceptance? Two ways to measure, one harness for every study.

Which comparison decides, and what was fixed before measuring, stands on the study's page; all others are exploratory, and of
many intervals at 95% one in twenty excludes zero by accident.

  paired     Σ_x min(p, q) of every draft at every position of the verifier's stored answers (generate_answers.py): the
             difference between drafts carries no acceptance noise, so small effects show. With it the probability that
             each token of the answer came from the draft, from which follow, without noise too, accepted/drafted and
             tokens per verifier pass at any K (`expected_blocks`). Temperature 0 too                    → paired.jsonl
  live       the engine as a user runs it, every draft, several random seeds                             → live.jsonl
  report     bootstrap over prompts (never tokens), per domain and query type                            → acceptance.json

All files lie in --results-dir. Every step appends a row per prompt or run and resumes where it was stopped; a file of other
conditions is refused. `live` measures time: run it alone. `paired` takes several processes, a GPU each, and the file is that
of one process: torchrun --nproc-per-node 2 evaluate_acceptance.py paired …

    python evaluate_acceptance.py paired --drafts all
    python evaluate_acceptance.py live --prompts domains/study0.jsonl
    python evaluate_acceptance.py live --prompts domains/at.jsonl domains/general.jsonl --per-type 6 --seeds 1 --no-baseline
    python evaluate_acceptance.py report
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from specdec.adapters import adapter_digest, describe_measured, discover_adapters
from specdec.alignment import draft_probs, overlap_and_kept, verifier_probs
from specdec.answers import PER_TYPE, answers_to, digest_of, drawn_per_type, prompt_ids, read_answers
from specdec.comparison import (
    LIVE_KEYS,
    PAIRED_KEYS,
    Measured,
    agreement,
    compare_drafts,
    joined,
    means_by_group,
    memory_bound_speedup,
    pick,
    replayed,
    shared_mass,
)
from specdec.engine import Engine
from specdec.files import append_jsonl, read_jsonl
from specdec.intervals import RESAMPLES
from specdec.models import Pair, add_model_arguments, choose_pair, compute_dtype, load_pretrained
from specdec.ngram import table_of
from specdec.provenance import Share, portable, provenance, start_rows
from specdec.sampling import Settings, add_sampling_arguments, as_conditions, read_settings
from specdec.terminal import Problem, check_outputs, positive_int, put_json, run, say
from specdec.trace import block_row, live_means, summarize
from speculative_decode import Drafter, load_drafter, named_drafts, run_prompt

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_K = 8  # the report's largest draft length
GOELS_K = (3, 5)  # the draft lengths at which study 2 reports the memory-bound speed-up
PROMPT_FILES = ("domains/study0.jsonl", "domains/at.jsonl", "domains/general.jsonl")
NOT_OF_THE_PROMPT = ("temperature", "top_p", "token_ids", "probs", "seed", "run_id", "tools", "messages")  # of an answer's row
READ_BY_REPORT = ("step", "prompts", "per_type", "results_dir", "k", "seed")  # of the options; the rest is in its rows' headers
LIVE_METRICS = ("acceptance_rate", "expected_acceptance", "block_efficiency", "tokens_per_second")


def chosen_prompts(args: argparse.Namespace) -> list[dict]:
    """The rows of --prompts; with --per-type N, N prompts of each domain and query type, drawn by --seed."""
    rows: list[dict] = []
    for file in args.prompts or PROMPT_FILES:
        rows += read_jsonl(file, required=("prompt", *PER_TYPE))
    return drawn_per_type(rows, args.per_type, args.seed) if args.per_type else rows


def chosen_drafts(texts: list[str], pair: Pair) -> dict[str, str | None]:
    """--drafts: base NAME=ADAPTER …, or `all`, the base draft and every adapter of this draft that the repository holds."""
    if texts == ["all"]:
        return {"base": None, **discover_adapters(pair.draft.id)}
    drafts = named_drafts(texts)
    if "base" not in drafts:
        raise Problem(f"--drafts {' '.join(texts)} lacks base, which every other draft is compared with.")
    return drafts


def refuse_known_prompts(drafts: dict[str, str | None], prompts: set[str]) -> None:
    """Raises Problem if an n-gram table was counted from answers to prompts that are measured: it would know the texts."""
    for name, path in drafts.items():
        table = table_of(path)
        known = prompts & {row["prompt"] for row in read_answers(table[0])} if table else set()
        if known:
            raise Problem(
                f"--drafts: {name} was counted from answers to {len(known)} of the {len(prompts)} prompts that are measured. "
                "Name answers to other prompts."
            )


def conditions_of(pair: Pair, settings: Settings, drafts: dict[str, str | None], without: Iterable[str] = ()) -> dict:
    """What must be equal for two rows to be compared; kept in the header row of every run."""
    return {
        "draft": pair.draft.id,
        "verifier": pair.verifier.id,
        "quantization": pair.quantization,
        "dtype": str(compute_dtype()).removeprefix("torch.") if pair.backend == "transformers" else pair.backend,
        **{name: value for name, value in as_conditions(settings).items() if name not in without},
        "drafts": {name: path and portable(path) for name, path in drafts.items()},
        "adapters": {name: adapter_digest(path) for name, path in drafts.items()},
    }


def parameters(pair: Pair) -> dict[str, int]:
    """The number of parameters that a step of draft or verifier reads, from their configs alone.

    An input embedding counts only where it is the output layer too: of a table of its own a step reads one row.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    counts = {}
    for name, model in (("draft", pair.draft), ("verifier", pair.verifier)):
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(load_pretrained(AutoConfig, model))
        embedding, output = empty.get_input_embeddings().weight, empty.get_output_embeddings().weight
        own = 0 if output is embedding else embedding.numel()
        counts[name] = sum(weights.numel() for weights in empty.parameters()) - own
    return counts


# --- paired -----------------------------------------------------------------------------------------------------------


def paired(args: argparse.Namespace) -> None:
    """Computes, for every stored answer and every draft, Σ_x min(p, q) at the answer's positions.

    Both models read the answer once, teacher-forced; p and q are those of `speculative_decode.py` at the same
    temperature, so the value is the probability that a draft at that position would be accepted
    (Leviathan et al. 2023, definition 3.1 and corollary 3.6).
    """
    import torch
    from tqdm import tqdm

    settings, pair = read_settings(args), choose_pair(args)
    drafts = chosen_drafts(args.drafts, pair)
    if settings.top_k:
        raise Problem("--top-k: answers are sampled without it. Leave it at 0.")
    prompts = {row["prompt"] for row in chosen_prompts(args)}
    refuse_known_prompts(drafts, prompts)
    answers, prompted = answers_to(prompts, args.answers, pair, settings)
    if args.raw and not prompted.get("raw"):
        raise Problem(f"--raw: the answers in {args.answers} were written with a chat template. Leave it out.")
    conditions = {**conditions_of(pair, settings, drafts, without=("k", "stop_below")), **prompted}
    share = Share(args.results_dir / "paired.jsonl")
    share.join()
    todo = not_measured(answers, list(drafts), Measured(share.whole, PAIRED_KEYS, conditions), pair)
    if not todo:
        return say(f"every draft is measured on all {len(answers)} answers in {share.whole} already")
    engine = Engine(pair, drafts.values())
    needed = {name for *_, missing in todo for name in missing}
    drafters = {name: load_drafter(engine, drafts[name])[0] for name in drafts if name in needed}
    run_id = start_rows(share.file, conditions, parameters=parameters(pair))
    with torch.inference_mode():
        for row, digest, missing in tqdm(share.of(todo), desc="paired", unit="prompt"):
            measured = measure(engine, {name: drafters[name] for name in missing}, row, settings, prompted)
            prompt = {name: value for name, value in row.items() if name not in NOT_OF_THE_PROMPT}
            append_jsonl(share.file, {**prompt, "answer": digest, **measured, "run_id": run_id})
    share.join()


def not_measured(answers: list[dict], drafts: list[str], found: Measured, pair: Pair) -> list[tuple[dict, str, list[str]]]:
    """(answer, its digest, the drafts that are not measured on it) of every answer that lacks one.

    Raises:
        Problem: a draft is measured on another answer to the same prompt.
    """
    finished = {}
    for row in found.rows:
        finished.update({(row["prompt"], name): row.get("answer") for name in row["overlap"]})
    todo = []
    for row in answers:
        digest = digest_of(pair.verifier.id, row)
        missing = [name for name in drafts if (row["prompt"], name) not in finished]
        if any(finished.get((row["prompt"], name), digest) != digest for name in drafts):
            raise Problem(
                f"{found.file} holds rows of another answer to '{row['prompt'][:40]}…'. Move it away to measure again."
            )
        if missing:
            todo.append((row, digest, missing))
    return todo


def measure(engine: Engine, drafters: dict[str, Drafter], row: dict, settings: Settings, prompted: dict) -> dict:
    """What `paired` finds on one answer; per draft a mean, and four digits a position."""
    verifier_prompt, draft_prompt = prompt_ids(engine, row, settings, **prompted)
    answer = row["token_ids"]
    p = verifier_probs(engine.verifier, verifier_prompt, answer, settings)
    result: dict = {
        "positions": len(answer),
        "shared_mass": float(p[:, list(engine.shared.verifier_ids)].sum(-1).mean()),
        "overlap": {},
        "overlap_by_position": {},
        "kept": {},
        "p": four_digits(p[range(len(answer)), answer]),  # of the answer's own tokens
        "q": {},
    }
    for name, drafter in drafters.items():
        read = drafter.own_prompt(verifier_prompt, draft_prompt)
        q = draft_probs(drafter.model, drafter.shared, read, answer, engine.rows, settings)
        overlap, kept = overlap_and_kept(p, q, answer)
        result["overlap"][name] = float(overlap.mean())
        result["overlap_by_position"][name] = [round(value, 4) for value in overlap.tolist()]
        result["kept"][name] = [round(value, 4) for value in kept.tolist()]
        result["q"][name] = four_digits(q[range(len(answer)), answer])
    return result


def four_digits(values: Tensor) -> list[float]:
    """Probabilities, the smallest too, with four significant digits."""
    return [float(f"{value:.4g}") for value in values.tolist()]


# --- live -------------------------------------------------------------------------------------------------------------


def live(args: argparse.Namespace) -> None:
    """Decodes every prompt with every draft, seed by seed; the plain verifier, for the speed-up, at the first seed."""
    from tqdm import tqdm

    settings, pair = read_settings(args), choose_pair(args)
    if settings.temperature == 0:
        raise Problem("--temperature must be above 0 here: greedy runs of several random seeds are one run. `paired` takes 0.")
    drafts = chosen_drafts(args.drafts, pair)
    conditions, file = conditions_of(pair, settings, drafts), args.results_dir / "live.jsonl"
    conditions |= {"raw": True} if args.raw else {}
    done = {(row["prompt"], row["draft"], row["seed"]) for row in Measured(file, LIVE_KEYS, conditions).rows}
    prompts = chosen_prompts(args)
    refuse_known_prompts(drafts, {row["prompt"] for row in prompts})
    todo = []
    for seed in range(args.seed, args.seed + args.seeds):
        baseline = ["verifier"] if seed == args.seed and not args.no_baseline else []
        for row in prompts:
            todo += [(row, name, seed) for name in baseline + list(drafts) if (row["prompt"], name, seed) not in done]
    if not todo:
        return say(f"all {len(done)} runs are in {file} already")
    engine = Engine(pair, drafts.values())
    ids = {row["prompt"]: prompt_ids(engine, row, settings, raw=args.raw) for row in prompts}  # refused before the first run
    drafters = {"verifier": (None, "none"), **{name: load_drafter(engine, path) for name, path in drafts.items()}}
    run_id = start_rows(file, conditions)
    for row, name, seed in tqdm(todo, desc="live", unit="run"):
        drafter, state = drafters[name]
        decoded = run_prompt(engine, row["prompt"], name, settings, seed, drafter, ids=ids[row["prompt"]])
        if decoded.interrupted:
            raise KeyboardInterrupt
        blocks = [rounded(block_row(block)) for block in decoded.blocks]
        append_jsonl(
            file,
            {**row, "draft": name, "seed": seed, **summarize(decoded), "adapter": state, "blocks": blocks, "run_id": run_id},
        )


def rounded(row: dict) -> dict:
    """A block's row with six digits behind the point, at a third of the length."""
    short = {}
    for name, value in row.items():
        if isinstance(value, list | tuple):
            value = [round(part, 6) if isinstance(part, float) else part for part in value]
        short[name] = round(value, 6) if isinstance(value, float) else value
    return short


# --- report -----------------------------------------------------------------------------------------------------------


def report(args: argparse.Namespace) -> None:
    """Writes the statistics of `paired`, and of `live` where it was run, to acceptance.json."""
    found = Measured(args.results_dir / "paired.jsonl", PAIRED_KEYS)
    measured_live = live_beside(found, args.k)
    if args.prompts:
        wanted = {row["prompt"] for row in chosen_prompts(args)}
        found.only(wanted), measured_live.only(wanted)
    rows = joined(found.rows)
    if not rows:
        raise Problem(f"no rows in {found.file} of these prompts. Run evaluate_acceptance.py paired first.")
    length = found.conditions["max_new_tokens"]
    replays = {k: replayed(rows, k, length) for k in {*range(1, LONGEST_K + 1), args.k}}
    tables = {name for name, path in found.drafts.items() if table_of(path)}
    counts = next((header["parameters"] for header in found.headers.values() if header.get("parameters")), None)
    result = {
        **provenance({**found.conditions, "k": args.k, "seed": args.seed, "resamples": RESAMPLES}),
        "measured": {"paired": found.environments(), "live": measured_live.environments()},
        "drafts": {name: describe_measured(path, found.adapters[name]) for name, path in found.drafts.items()},
        "adapters": found.adapters,
        "parameters": counts,
        "paired": compare_drafts([(row, row["overlap"]) for row in rows], args.seed),
        "shared_mass": shared_mass(rows),
        "replayed": {
            metric: compare_drafts(pick(replays[args.k], metric), args.seed)
            for metric in ("acceptance_rate", "block_efficiency")
        },
        "replayed_by_k": {k: means_by_group(pick(replay, "block_efficiency")) for k, replay in sorted(replays.items())},
        "tau": {k: compare_drafts(pick(replay, "block_efficiency"), args.seed) for k, replay in sorted(replays.items())},
        "mbsu": {k: memory_bound_speedup(pick(replays[k], "block_efficiency"), k, counts, tables, args.seed) for k in GOELS_K},
    }
    if runs := measured_live.rows:
        result["adapter_states"] = {row["draft"]: row["adapter"] for row in runs}
        result["live"] = {metric: compare_drafts(live_means(runs, itemgetter(metric)), args.seed) for metric in LIVE_METRICS}
        result["agreement"] = agreement(
            live_means(runs, itemgetter("acceptance_rate")), pick(replays[args.k], "acceptance_rate"), args.seed
        )
    put_json(result, str(args.results_dir / "acceptance.json"))
    print_changes(result["paired"])


def live_beside(paired: Measured, k: int) -> Measured:
    """The rows of `live` in the folder of `paired`, which must be of its conditions and of draft length `k`.

    Raises:
        Problem: they are not.
    """
    file = paired.file.with_name("live.jsonl")
    if bound := Measured(file, LIVE_KEYS).conditions.get("stop_below"):
        raise Problem(
            f"{file} holds runs with --stop-below {bound}, which report cannot set beside drafts of K tokens. "
            "Move it to a folder of its own, and give live that one as --results-dir."
        )
    return Measured(file, LIVE_KEYS, {**paired.conditions, "k": k, "adapters": paired.adapters})


def refuse_ignored(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Raises Problem if `report` was given an option that it does not read: drafts and settings are those of its rows."""
    others = [name for name in vars(args) if name not in READ_BY_REPORT]
    given = vars(parser.parse_args(namespace=argparse.Namespace(**dict.fromkeys(others))))  # None where it was left out
    ignored = [f"--{name.replace('_', '-')}" for name in others if given[name] is not None]
    if ignored:
        raise Problem(
            f"report takes no {', '.join(ignored)}: it is of the rows in --results-dir and their settings. Leave it out."
        )
    if args.per_type and not args.prompts:
        raise Problem("report: --per-type draws from --prompts, and none are named. Name them, or leave it out.")


def print_changes(groups: dict) -> None:
    for group, metrics in groups.items():
        for name, change in metrics["changes"].items():
            interval = "none" if change["interval"] is None else "[{:+.4f}, {:+.4f}]".format(*change["interval"])
            print(f"{group}: {name} − base = {change['mean']:+.4f}, 95% interval {interval}, n = {metrics['prompts']} prompts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("paired", "live", "report"))
    parser.add_argument(
        "--prompts",
        nargs="+",
        action="extend",
        metavar="FILE",
        help=f"prompts to measure (default: {' '.join(PROMPT_FILES)}; report: all that were measured)",
    )
    parser.add_argument(
        "--drafts",
        nargs="+",
        default=["base", "dpo=final_adapter"],
        metavar="NAME[=PATH]",
        help="base NAME=ADAPTER …, where answers make an n-gram table (trigram=ANSWERS.jsonl, bigram=ANSWERS.jsonl:2); or all: "
        "base and every adapter of this draft in adapters/ (default: base dpo=final_adapter)",
    )
    parser.add_argument(
        "--results-dir", type=Path, default=Path("studies/preference/results"), metavar="DIR", help="(default %(default)s)"
    )
    parser.add_argument("--answers", type=Path, metavar="FILE", help="of generate_answers.py (default: answers.jsonl in DIR)")
    parser.add_argument("--seeds", type=positive_int, default=5, help="live: runs per prompt and draft (default 5)")
    parser.add_argument(
        "--per-type",
        type=positive_int,
        metavar="N",
        help="N prompts of each domain and query type, drawn by --seed from all --prompts together (default: all)",
    )
    parser.add_argument(
        "--raw", action="store_true", help="live: no chat template, as for code; `paired` takes what its answers were made with"
    )
    parser.add_argument("--no-baseline", action="store_true", help="live: skip the plain verifier, which the speed-up needs")
    add_sampling_arguments(parser)
    add_model_arguments(parser, decodes=True)
    args = parser.parse_args()
    read_settings(args)
    if args.step != "paired" and Share(args.results_dir).world > 1:
        raise Problem(f"{args.step} runs in one process; only paired shares its work. Start it without a launcher.")
    if args.step != "live" and args.stop_below:
        raise Problem(f"--stop-below is for live: {args.step} knows drafts of K tokens alone. Give live another --results-dir.")
    if args.step == "report":
        refuse_ignored(parser, args)
    args.answers = args.answers or args.results_dir / "answers.jsonl"
    check_outputs(*(args.results_dir / name for name in ("paired.jsonl", "live.jsonl", "acceptance.json")))
    {"paired": paired, "live": live, "report": report}[args.step](args)


if __name__ == "__main__":
    run(main)
