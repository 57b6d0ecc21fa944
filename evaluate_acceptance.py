"""Does a tuned draft raise the acceptance rate? Two ways to measure, one harness.

Hypothesis (seed 000): a draft tuned by DPO on assistive-technology (AT) preference pairs is closer to the verifier on
AT prompts than the base draft, so acceptance rises. Null: the mean paired difference over AT prompts is zero.
The test that decides, fixed before any tuned draft was measured: on the 120 AT prompts of prompts/at.jsonl, `paired`,
the mean over prompts of (tuned − base) per-prompt mean Σ_x min(p, q); the null is rejected if the two-sided 95%
percentile bootstrap interval over prompts excludes 0. Everything else (query types, general prompts, controls) is
exploratory: many more intervals at 95% each, of which one in twenty excludes 0 by chance alone.
The test was run twice. The first time the adapter was merged by rounding to the nearest bf16, which loses part of it
(results/acceptance_nearest.json); models.round_stochastically ended that, and everything was measured anew.

  complete   the verifier's own answers, once per prompt, batched and seeded            → results/completions.jsonl
  paired     Σ_x min(p, q) of every draft at every position of those same answers: the difference between drafts
             carries no acceptance noise, so small effects show. With it the chance that each token of the answer
             came from the draft, from which follow, without noise too, accepted/drafted and tokens per verifier
             pass at any K (`expected_blocks`)                                          → results/paired.jsonl
  live       the engine as a user runs it, base and tuned, several seeds                → results/live.jsonl
  report     bootstrap over prompts (never tokens), per domain and query type           → results/acceptance.json

Every step appends a row per prompt or run and resumes where it was stopped. `live` measures time: run it alone.

    python evaluate_acceptance.py complete
    python evaluate_acceptance.py paired --drafts base dpo=final_adapter sft=controls/sft
    python evaluate_acceptance.py live --prompts prompts/seed.jsonl
    python evaluate_acceptance.py live --prompts prompts/at.jsonl prompts/general.jsonl --per-type 6 --seeds 1 --no-baseline
    python evaluate_acceptance.py report
"""

from __future__ import annotations

import argparse
import hashlib
import math
import random
import statistics
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from specdec.alignment import draft_probs, overlap_and_kept, verifier_probs
from specdec.engine import Engine
from specdec.files import BadLine, append_jsonl, read_jsonl
from specdec.intervals import RESAMPLES, mean_with_interval
from specdec.models import Pair, add_model_arguments, choose_pair
from specdec.provenance import environment
from specdec.reference import generation_config
from specdec.sampling import Settings, add_sampling_arguments, read_settings
from specdec.terminal import Problem, put_json, run, say
from specdec.theory import expected_blocks
from specdec.trace import summarize
from speculative_decode import load_drafter, run_prompt, until_stop

PAIRED_KEYS, LIVE_KEYS = ("overlap", "kept"), ("mode", "seed", "trace")  # what a row of either step must hold
LONGEST_K = 8  # the report's largest draft length
CONDITIONS = (("recommendation", "definitional"), ("procedural", "technical"))  # of the seed's third table
PROMPT_FILES = ("domains/study0.jsonl", "domains/at.jsonl", "domains/general.jsonl")


def read_rows(
    files: Iterable[str | Path], required: Iterable[str] = ("prompt", "domain", "query_type", "source")
) -> list[dict]:
    """The rows of prompt files, or of our own result files."""
    try:
        return [row for file in files for row in read_jsonl(file, required)]
    except FileNotFoundError as fault:
        raise Problem(f"no file {fault.filename}. Run the step that writes it first; see --help.") from None
    except BadLine as fault:
        raise Problem(f"{fault}. Mend or delete that line; finished rows are kept.") from None


def chosen_prompts(args: argparse.Namespace) -> list[dict]:
    """The rows of --prompts; with --per-type N, N prompts of each domain and query type, drawn by --seed."""
    rows = read_rows(args.prompts)
    if args.per_type is None:
        return rows
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((row["source"], row["domain"], row["query_type"]), []).append(row)
    draw = random.Random(args.seed)
    return [row for group in groups.values() for row in draw.sample(group, min(args.per_type, len(group)))]


def measured_rows(file: Path, keys: Iterable[str], conditions: dict | None = None, adapters: dict | None = None) -> list[dict]:
    """The rows that `paired` or `live` wrote, none if there is no file yet; all made under the same conditions.

    Raises:
        Problem: a row lacks one of `keys`, or the rows differ from each other, or from what is to be measured now.
    """
    rows, adapters = read_rows([file]) if file.exists() else [], dict(adapters or {})
    for row in rows:
        if missing := [key for key in (*keys, "conditions", "adapters") if key not in row]:
            raise Problem(
                f"{file}: the row of '{row['prompt'][:40]}…' lacks {missing[0]}. Delete it, or move the file away, "
                "and run the step again."
            )
        conditions = conditions or row["conditions"]
        other = row["conditions"] != conditions
        if other or any(adapters.setdefault(name, digest) != digest for name, digest in row["adapters"].items()):
            raise Problem(
                f"{file} holds rows of other {'settings or models' if other else 'adapters'}. Give the same "
                "options again, or move the file away to measure anew."
            )
    return rows


def conditions_of(pair: Pair, settings: Settings, without: str | None = None) -> dict:
    """What must be equal for two rows to be compared; kept in every row."""
    return {
        "draft": pair.draft.id,
        "verifier": pair.verifier.id,
        "quantization": pair.quantization,
        **{key: value for key, value in asdict(settings).items() if key != without},
    }


def named_drafts(args: argparse.Namespace) -> dict[str, str | None]:
    """`base` → no adapter, `dpo=final_adapter` → the adapter in that folder.

    Raises:
        Problem: the base draft is missing or has an adapter, or another draft has none.
    """
    drafts = {name: path or None for name, _, path in (text.partition("=") for text in args.drafts)}
    if drafts.get("base", "absent") is not None or "verifier" in drafts or list(drafts.values()).count(None) > 1:
        raise Problem(f"--drafts {' '.join(args.drafts)} is not of the form: base NAME=ADAPTER …, with any name but verifier.")
    return drafts


def adapter_digest(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return hashlib.sha256((Path(path) / "adapter_model.safetensors").read_bytes()).hexdigest()[:12]
    except (FileNotFoundError, NotADirectoryError):
        raise Problem(f"no adapter at {path}. Train one with train_dpo.py, or name its folder: NAME=ADAPTER.") from None


# --- complete ---------------------------------------------------------------------------------------------------------


def complete(args: argparse.Namespace) -> None:
    """Samples one answer per prompt from the verifier alone, in batches of prompts of similar length."""
    import torch
    from tqdm import tqdm
    from transformers import set_seed

    done = {row["prompt"] for row in read_rows([args.completions])} if args.completions.exists() else set()
    todo = sorted((row for row in chosen_prompts(args) if row["prompt"] not in done), key=lambda row: len(row["prompt"]))
    if not todo:
        return say(f"all {len(done)} answers are in {args.completions} already")
    engine, settings = Engine(choose_pair(args)), read_settings(args)
    model, tokenizer = engine.verifier.model, engine.tokenizer
    law = generation_config(engine, settings)
    tokenizer.padding_side, tokenizer.pad_token_id = "left", law.pad_token_id
    for start in tqdm(range(0, len(todo), args.batch_size), desc="answers", unit="batch"):
        batch = todo[start : start + args.batch_size]
        inputs = tokenizer.pad(
            {"input_ids": [engine.prompt_ids(row["prompt"], settings)[0] for row in batch]}, return_tensors="pt"
        ).to(model.device)
        set_seed(args.seed + len(done) + start)  # a resumed run draws anew for the prompts still open
        with torch.inference_mode():
            answers = model.generate(**inputs, generation_config=law)[:, inputs["input_ids"].shape[1] :].tolist()
        for row, answer in zip(batch, answers, strict=True):
            append_jsonl(args.completions, {**row, "token_ids": until_stop(answer, engine.stop), "seed": args.seed})


# --- paired -----------------------------------------------------------------------------------------------------------


def paired(args: argparse.Namespace) -> None:
    """Computes, for every stored answer and every draft, the mean of Σ_x min(p, q) over the answer's positions.

    Both models read the answer once, teacher-forced; p and q are those of `speculative_decode.py` at the same
    temperature, so the value is the probability that a draft at that position would be accepted
    (Leviathan et al. 2023, definition 3.1 and corollary 3.6).
    """
    import torch
    from tqdm import tqdm

    drafts, settings, pair = named_drafts(args), read_settings(args), choose_pair(args)
    conditions, adapters = conditions_of(pair, settings, without="k"), {name: adapter_digest(drafts[name]) for name in drafts}
    wanted = {row["prompt"] for row in chosen_prompts(args)}
    answers = [row for row in read_rows([args.completions]) if row["prompt"] in wanted]
    finished = {
        (row["prompt"], name)
        for row in measured_rows(args.paired, PAIRED_KEYS, conditions, adapters)
        for name in row["overlap"]
    }
    todo = [
        (row, missing) for row in answers if (missing := [name for name in drafts if (row["prompt"], name) not in finished])
    ]
    if not todo:
        return say(f"every draft is measured on all {len(answers)} answers in {args.paired} already")
    engine, commit = Engine(pair), environment()["commit"]
    models = {name: engine.load_draft(path)[0] for name, path in drafts.items() if any(name in missing for _, missing in todo)}
    with torch.inference_mode():
        for row, missing in tqdm(todo, desc="paired", unit="prompt"):
            verifier_prompt, draft_prompt = engine.prompt_ids(row["prompt"], settings)
            answer, overlap, kept = row["token_ids"], {}, {}
            p = verifier_probs(engine.verifier, verifier_prompt, answer, settings)
            for name in missing:
                q = draft_probs(models[name], engine.shared, draft_prompt, answer, engine.rows, settings)
                overlap[name], kept[name] = overlap_and_kept(p, q, answer)
            append_jsonl(
                args.paired,
                {
                    **{key: value for key, value in row.items() if key not in ("token_ids", "seed")},
                    "positions": len(row["token_ids"]),
                    "overlap": {name: float(values.mean()) for name, values in overlap.items()},
                    "kept": {name: [round(value, 4) for value in values.tolist()] for name, values in kept.items()},
                    "conditions": conditions,
                    "adapters": {name: adapters[name] for name in missing},
                    "commit": commit,
                },
            )


# --- live -------------------------------------------------------------------------------------------------------------


def live(args: argparse.Namespace) -> None:
    """Decodes every prompt with every draft, seed by seed; the plain verifier, for the speed-up, at the first seed."""
    from tqdm import tqdm

    drafts, settings, pair = named_drafts(args), read_settings(args), choose_pair(args)
    conditions, adapters = conditions_of(pair, settings), {name: adapter_digest(drafts[name]) for name in drafts}
    done = {(row["prompt"], row["mode"], row["seed"]) for row in measured_rows(args.live, LIVE_KEYS, conditions, adapters)}
    prompts = chosen_prompts(args)
    todo = [
        (row, name, seed)
        for seed in range(args.seed, args.seed + args.seeds)
        for row in prompts
        for name in (["verifier"] if seed == args.seed and not args.no_baseline else []) + list(drafts)
        if (row["prompt"], name, seed) not in done
    ]
    if not todo:
        return say(f"all {len(done)} runs are in {args.live} already")
    engine, commit = Engine(pair), environment()["commit"]
    drafters = {"verifier": (None, "none"), **{name: load_drafter(engine, path) for name, path in drafts.items()}}
    for row, name, seed in tqdm(todo, desc="live", unit="run"):
        drafter, state = drafters[name]
        decoded = run_prompt(engine, row["prompt"], name, settings, seed, drafter)
        if decoded.interrupted:
            raise KeyboardInterrupt
        trace = [[len(block.drafted), block.accepted, len(block.tokens)] for block in decoded.blocks]
        append_jsonl(
            args.live,
            {
                **row,
                "mode": name,
                "seed": seed,
                "token_ids": decoded.token_ids,
                **summarize(decoded),
                "trace": trace,
                "adapter": state,
                "conditions": conditions,
                "adapters": {name: adapters[name]} if drafter else {},
                "commit": commit,
            },
        )


# --- report -----------------------------------------------------------------------------------------------------------


def report(args: argparse.Namespace) -> None:
    """Writes the statistics of `paired`, and of `live` where it was run, to results/acceptance.json."""
    rows = measured_rows(args.paired, PAIRED_KEYS)
    commits, measured = sorted({str(row["commit"]) for row in rows}), joined(rows)
    if not measured:
        raise Problem(f"no rows in {args.paired}. Run the step that writes it first; see --help.")
    settings = Settings(k=args.k, max_new_tokens=measured[0]["conditions"]["max_new_tokens"])
    replays = {
        k: [(row, {name: _replay(kept, k, settings) for name, kept in row["kept"].items()}) for row in measured]
        for k in range(1, max(LONGEST_K, settings.k) + 1)
    }
    result = {
        "settings": {**measured[0]["conditions"], "k": settings.k, "seed": args.seed, "resamples": RESAMPLES},
        "adapters": measured[0]["adapters"],
        "commits": {"paired": commits},
        "paired": compare_drafts([(row, row["overlap"]) for row in measured], args.seed),
        "replayed": {
            figure: compare_drafts(_pick(replays[settings.k], figure), args.seed)
            for figure in ("acceptance_rate", "block_efficiency")
        },
        "replayed_by_k": {
            k: {group: found["means"] for group, found in compare_drafts(_pick(replay, "block_efficiency"), args.seed).items()}
            for k, replay in replays.items()
        },
    }
    if rows := measured_rows(args.live, LIVE_KEYS, {**measured[0]["conditions"], "k": settings.k}, measured[0]["adapters"]):
        result["commits"]["live"] = sorted({str(row["commit"]) for row in rows})
        result["adapter_states"] = {row["mode"]: row["adapter"] for row in rows}
        result["live"] = {
            figure: compare_drafts(_live_values(rows, figure), args.seed)
            for figure in ("acceptance_rate", "expected_acceptance", "block_efficiency", "tokens_per_second")
        }
        result["live_by_prompt"] = by_prompt(rows)
        if change := result["replayed"]["acceptance_rate"].get("at", {"changes": {}})["changes"].get("dpo"):
            result["noise"] = noise_of_one_run(rows, change["mean"])
        result["live_speed"] = beside_the_verifier(rows, args.seed)
        result["agreement"] = agreement(
            _live_values(rows, "acceptance_rate"), _pick(replays[settings.k], "acceptance_rate"), args.seed
        )
    put_json({**result, "environment": environment()}, str(args.report))
    for group, figures in result["paired"].items():
        for name, change in figures["changes"].items():
            interval = "none" if change["interval"] is None else "[{:+.4f}, {:+.4f}]".format(*change["interval"])
            print(f"{group}: {name} − base = {change['mean']:+.4f}, 95% interval {interval}, n = {figures['prompts']} prompts")


def joined(rows: list[dict]) -> list[dict]:
    """One row per prompt; drafts measured in separate runs of `paired` are joined."""
    by_prompt: dict[str, dict] = {}
    for row in rows:
        known = by_prompt.setdefault(row["prompt"], row)
        for field in ("overlap", "kept", "adapters"):
            known[field].update(row[field])
    return list(by_prompt.values())


def _replay(kept: list[float], k: int, settings: Settings) -> dict[str, float]:
    passes, drafted, accepted = expected_blocks(kept, k, settings.max_new_tokens)
    return {"acceptance_rate": accepted / drafted if drafted else 0.0, "block_efficiency": len(kept) / passes}


def _pick(values: list[tuple[dict, dict[str, dict]]], figure: str) -> list[tuple[dict, dict[str, float]]]:
    return [(row, {name: figures[figure] for name, figures in drafts.items()}) for row, drafts in values]


def _live_values(rows: list[dict], figure: str) -> list[tuple[dict, dict[str, float]]]:
    """(prompt row, draft → mean of `figure` over the seeds); the plain verifier has no draft and is left out."""
    values: dict[str, tuple[dict, dict[str, list[float]]]] = {}
    for row in rows:
        if row["mode"] != "verifier" and row[figure] is not None:
            values.setdefault(row["prompt"], (row, {}))[1].setdefault(row["mode"], []).append(row[figure])
    return [(row, {name: sum(found) / len(found) for name, found in drafts.items()}) for row, drafts in values.values()]


def by_prompt(rows: list[dict]) -> list[dict]:
    """The seed's tables: per prompt of its own and draft, mean and standard deviation of accepted/drafted over the seeds."""
    prompts: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["source"] == "study0" and row["acceptance_rate"] is not None:
            prompts.setdefault(row["prompt"], {}).setdefault(row["mode"], []).append(row["acceptance_rate"])
    return [
        {
            "prompt": prompt,
            "drafts": {
                name: {
                    "runs": len(rates),
                    "mean": statistics.mean(rates),
                    "sd": statistics.stdev(rates) if len(rates) > 1 else None,
                }
                for name, rates in drafts.items()
            },
        }
        for prompt, drafts in prompts.items()
    ]


def noise_of_one_run(rows: list[dict], effect: float) -> dict | None:
    """What chance alone does to the seed's first table, its AT prompts run once with either draft.

    `run` is the standard deviation of one run's accepted/drafted between seeds, `difference` that of dpo − base at one
    seed, both pooled over the prompts (the square root of the mean variance); `by_seed` the seed's whole experiment once
    per seed, the mean Δα over the prompts. `prompts_needed` is how many prompts find a change of `effect` at 5% in four
    of five such experiments: n = (z₀.₉₇₅ + z₀.₈)² σ² / Δ², normal approximation, σ of `difference`.
    None before two seeds are whole, or if there is no effect.
    """
    rates: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        if (row["source"], row["domain"]) == ("study0", "at") and row["acceptance_rate"] is not None:
            drafts = rates.setdefault(row["prompt"], {"base": {}, "dpo": {}})
            drafts.setdefault(row["mode"], {})[row["seed"]] = row["acceptance_rate"]
    whole = [drafts["base"].keys() & drafts["dpo"].keys() for drafts in rates.values()]
    seeds = sorted(set.intersection(*whole)) if whole else []
    if len(seeds) < 2 or not effect:
        return None
    changes = [[drafts["dpo"][seed] - drafts["base"][seed] for seed in seeds] for drafts in rates.values()]
    runs = [[drafts[name][seed] for seed in seeds] for drafts in rates.values() for name in ("base", "dpo")]
    run, difference = (statistics.mean(map(statistics.variance, found)) ** 0.5 for found in (runs, changes))
    z = sum(statistics.NormalDist().inv_cdf(share) for share in (0.975, 0.8))
    return {
        "prompts": len(rates),
        "seeds": len(seeds),
        "run": run,
        "difference": difference,
        "effect": effect,
        "by_seed": dict(zip(seeds, map(statistics.mean, zip(*changes, strict=True)), strict=True)),
        "prompts_needed": math.ceil((z * difference / effect) ** 2),
    }


def beside_the_verifier(rows: list[dict], seed: int) -> dict[str, dict]:
    """Per draft, means over the seed's prompts at the seeds at which the plain verifier ran too, and the speed-up over it.

    Other runs may be of another sitting, and a shared machine is not equally fast in both.
    """
    own = [row for row in rows if row["source"] == "study0" and row["tokens_per_second"]]
    plain = {(row["prompt"], row["seed"]): row["tokens_per_second"] for row in own if row["mode"] == "verifier"}
    found: dict[str, list[dict]] = {}
    for row in own:
        if (row["prompt"], row["seed"]) in plain:
            found.setdefault(row["mode"], []).append(row)
    result = {}
    for mode, runs in found.items():
        ratios: dict[str, list[float]] = {}
        for row in runs:
            ratios.setdefault(row["prompt"], []).append(row["tokens_per_second"] / plain[row["prompt"], row["seed"]])
        speedup = mean_with_interval([statistics.mean(of_prompt) for of_prompt in ratios.values()], seed)
        result[mode] = {
            "runs": len(runs),
            **{
                figure: statistics.mean(row[figure] for row in runs)
                for figure in ("tokens", "seconds", "tokens_per_second", "block_efficiency")
            },
            "speedup": {key: speedup[key] for key in ("mean", "interval")},
        }
    return result


def agreement(live: list[tuple[dict, dict[str, float]]], replayed: list[tuple[dict, dict[str, float]]], seed: int) -> dict:
    """Live minus replayed accepted/drafted on the prompts that have both: the interval should hold 0.

    For every draft, and for every change against base. The texts differ (the verifier was sampled anew), so the
    difference carries their noise and that of acceptance.
    """
    expected = {row["prompt"]: drafts for row, drafts in replayed}
    differences: dict[str, list[float]] = {}
    for row, drafts in live:
        known = expected.get(row["prompt"], {})
        gaps = {name: value - known[name] for name, value in drafts.items() if name in known}
        for name, gap in gaps.items():
            differences.setdefault(name, []).append(gap)
            if name != "base" and "base" in gaps:
                differences.setdefault(f"{name} − base", []).append(gap - gaps["base"])
    return {name: {"prompts": len(found), **mean_with_interval(found, seed)} for name, found in differences.items()}


def groups_of(row: dict) -> list[str]:
    """The groups that a prompt counts in: its domain, its query type, and the seed's two conditions of two types each.

    The seed's own prompts stand apart from the large sets.
    """
    own = [row["query_type"]] if row["source"] != "study0" else []
    kinds = own + ["/".join(types) for types in CONDITIONS if row["query_type"] in types]
    domain = f"study0 {row['domain']}" if row["source"] == "study0" else row["domain"]
    return [domain, *(f"{domain}: {kind}" for kind in kinds)]


def compare_drafts(values: list[tuple[dict, dict[str, float]]], seed: int) -> dict:
    """Per group: the number of prompts, every draft's mean, and every tuned draft's paired change against base."""
    groups: dict[str, list[dict[str, float]]] = {}
    for row, drafts in values:
        for group in groups_of(row):
            groups.setdefault(group, []).append(drafts)
    result = {}
    for group, prompts in sorted(groups.items()):
        names = sorted(set.intersection(*(set(drafts) for drafts in prompts)))
        for name in sorted(set.union(*(set(drafts) for drafts in prompts)) - set(names)):
            say(f"{group}: {name} lacks some of the {len(prompts)} prompts and is left out; run its step again")
        result[group] = {
            "prompts": len(prompts),
            "means": {name: sum(drafts[name] for drafts in prompts) / len(prompts) for name in names},
            "changes": {
                name: mean_with_interval([drafts[name] - drafts["base"] for drafts in prompts], seed)
                for name in names
                if name != "base" and "base" in names
            },
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("complete", "paired", "live", "report"))
    parser.add_argument("--prompts", nargs="+", default=PROMPT_FILES, metavar="FILE", help="(default: all of prompts/)")
    parser.add_argument(
        "--drafts",
        nargs="+",
        default=["base", "dpo=final_adapter"],
        metavar="NAME[=ADAPTER]",
        help="(default: base dpo=final_adapter)",
    )
    parser.add_argument("--completions", type=Path, default=Path("results/completions.jsonl"))
    parser.add_argument("--paired", type=Path, default=Path("results/paired.jsonl"))
    parser.add_argument("--live", type=Path, default=Path("results/live.jsonl"))
    parser.add_argument("--report", type=Path, default=Path("results/acceptance.json"))
    parser.add_argument("--seeds", type=int, default=5, help="live: runs per prompt and draft (default 5)")
    parser.add_argument(
        "--per-type", type=int, metavar="N", help="N prompts of each domain and query type, drawn by --seed (default: all)"
    )
    parser.add_argument("--no-baseline", action="store_true", help="live: skip the plain verifier, which the speed-up needs")
    parser.add_argument("--batch-size", type=int, default=32, help="complete: prompts per batch (default 32)")
    add_sampling_arguments(parser)
    add_model_arguments(parser)
    args = parser.parse_args()
    if args.temperature == 0:
        raise Problem("--temperature must be above 0: greedy decoding draws from no distribution that could be compared.")
    if min(args.seeds, args.batch_size, 1 if args.per_type is None else args.per_type) < 1:
        raise Problem("--seeds, --batch-size and --per-type must be at least 1.")
    named_drafts(args), read_settings(args)
    for file in (args.completions, args.paired, args.live):
        file.parent.mkdir(parents=True, exist_ok=True)
    {"complete": complete, "paired": paired, "live": live, "report": report}[args.step](args)


if __name__ == "__main__":
    run(main)
