"""What study 0 alone asks of the rows that evaluate_acceptance.py wrote: its three tables, and what one run's noise does.

Reads paired.jsonl, live.jsonl and acceptance.json in results/, writes study.json beside them. No torch.

    python -m studies.preference.analysis
"""

from __future__ import annotations

import argparse
import math
import statistics
from operator import itemgetter
from pathlib import Path

from specdec.comparison import LIVE_KEYS, PAIRED_KEYS, Measured, compare_drafts, domain_of, joined, pick, replayed
from specdec.intervals import mean_with_interval
from specdec.provenance import provenance
from specdec.report import load
from specdec.terminal import Problem, put_json, run
from specdec.trace import live_means

RESULTS = Path("studies/preference/results")
CONDITIONS = (("recommendation", "definitional"), ("procedural", "technical"))  # of the paper's third table
LIVE_METRICS = ("acceptance_rate", "expected_acceptance", "block_efficiency", "tokens_per_second")


def papers_conditions(row: dict) -> list[str]:
    """The groups of the paper's third table: its conditions of two query types each, in the prompt's domain."""
    return [f"{domain_of(row)}: {'/'.join(types)}" for types in CONDITIONS if row["query_type"] in types]


def by_prompt(rows: list[dict]) -> list[dict]:
    """The paper's first two tables: per prompt of its own and draft, mean and standard deviation of accepted/drafted."""
    prompts: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["source"] == "study0" and row["acceptance_rate"] is not None:
            prompts.setdefault(row["prompt"], {}).setdefault(row["draft"], []).append(row["acceptance_rate"])
    result = []
    for prompt, drafts in prompts.items():
        found = {}
        for name, rates in drafts.items():
            deviation = statistics.stdev(rates) if len(rates) > 1 else None
            found[name] = {"runs": len(rates), "mean": statistics.mean(rates), "sd": deviation}
        result.append({"prompt": prompt, "drafts": found})
    return result


def noise_of_one_run(rows: list[dict], effect: float) -> dict | None:
    """What run-to-run variation alone does to the paper's first table, its AT prompts run once with either draft.

    `run` is the standard deviation of one run's accepted/drafted between random seeds, `difference` that of dpo − base at one
    seed, both pooled over the prompts (the square root of the mean variance); `by_seed` the paper's whole experiment once
    per seed, the mean Δα over the prompts. `prompts_needed` is how many prompts find a change of `effect` at 5% in four
    of five such experiments: n = (z₀.₉₇₅ + z₀.₈)² σ² / Δ², normal approximation, σ of `difference`.
    None before two seeds are whole, or if there is no effect.
    """
    rates: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        if (row["source"], row["domain"]) == ("study0", "at") and row["acceptance_rate"] is not None:
            drafts = rates.setdefault(row["prompt"], {"base": {}, "dpo": {}})
            drafts.setdefault(row["draft"], {})[row["seed"]] = row["acceptance_rate"]
    whole = [drafts["base"].keys() & drafts["dpo"].keys() for drafts in rates.values()]
    seeds = sorted(set.intersection(*whole)) if whole else []
    if len(seeds) < 2 or not effect:
        return None
    changes, runs = [], []
    for drafts in rates.values():
        changes.append([drafts["dpo"][seed] - drafts["base"][seed] for seed in seeds])
        runs += [[drafts[name][seed] for seed in seeds] for name in ("base", "dpo")]
    difference = statistics.mean(map(statistics.variance, changes)) ** 0.5
    z = sum(statistics.NormalDist().inv_cdf(share) for share in (0.975, 0.8))
    return {
        "prompts": len(rates),
        "seeds": len(seeds),
        "run": statistics.mean(map(statistics.variance, runs)) ** 0.5,
        "difference": difference,
        "effect": effect,
        "by_seed": dict(zip(seeds, map(statistics.mean, zip(*changes, strict=True)), strict=True)),
        "prompts_needed": math.ceil((z * difference / effect) ** 2),
    }


def beside_the_verifier(rows: list[dict], seed: int) -> dict[str, dict]:
    """Per draft, means over the paper's prompts at the seeds at which the plain verifier ran too, and the speed-up over it.

    Other runs may be of another sitting, and a shared machine is not equally fast in both.
    """
    own = [row for row in rows if row["source"] == "study0" and row["tokens_per_second"]]
    plain = {(row["prompt"], row["seed"]): row["tokens_per_second"] for row in own if row["draft"] == "verifier"}
    found: dict[str, list[dict]] = {}
    for row in own:
        if (row["prompt"], row["seed"]) in plain:
            found.setdefault(row["draft"], []).append(row)
    result: dict[str, dict] = {}
    for draft, runs in found.items():
        ratios: dict[str, list[float]] = {}
        for row in runs:
            ratios.setdefault(row["prompt"], []).append(row["tokens_per_second"] / plain[row["prompt"], row["seed"]])
        speedup = mean_with_interval([statistics.mean(of_prompt) for of_prompt in ratios.values()], seed)
        result[draft] = {"runs": len(runs)}
        for metric in ("tokens", "seconds", "tokens_per_second", "block_efficiency"):
            result[draft][metric] = statistics.mean(row[metric] for row in runs)
        result[draft]["speedup"] = {key: speedup[key] for key in ("mean", "interval")}
    return result


def by_condition(rows: list[dict], runs: list[dict], k: int, max_new_tokens: int, seed: int) -> dict:
    """The paper's third table: what acceptance.json has by domain and query type, in the paper's conditions."""
    replays = replayed(rows, k, max_new_tokens)
    metrics = ("acceptance_rate", "block_efficiency")
    return {
        "paired": compare_drafts([(row, row["overlap"]) for row in rows], seed, papers_conditions),
        "replayed": {metric: compare_drafts(pick(replays, metric), seed, papers_conditions) for metric in metrics},
        "live": {
            metric: compare_drafts(live_means(runs, itemgetter(metric)), seed, papers_conditions) for metric in LIVE_METRICS
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results-dir", type=Path, default=RESULTS, metavar="DIR", help="(default %(default)s)")
    args = parser.parse_args()
    try:
        report = load(args.results_dir / "acceptance.json")
    except FileNotFoundError as error:
        raise Problem(f"no report at {error.filename}. Run evaluate_acceptance.py report first.") from None
    k, seed = report["conditions"]["k"], report["conditions"]["seed"]
    paired = Measured(args.results_dir / "paired.jsonl", PAIRED_KEYS)
    live = Measured(args.results_dir / "live.jsonl", LIVE_KEYS)
    if not paired.rows or not live.rows:
        raise Problem(f"{args.results_dir} lacks rows of paired or live. Run evaluate_acceptance.py paired and live first.")
    change = report["replayed"]["acceptance_rate"].get("at", {"changes": {}})["changes"].get("dpo")
    result = {
        **provenance(report["conditions"]),
        "measured": {"paired": paired.environments(), "live": live.environments()},
        "live_by_prompt": by_prompt(live.rows),
        "noise": noise_of_one_run(live.rows, change["mean"]) if change else None,
        "live_speed": beside_the_verifier(live.rows, seed),
        "by_condition": by_condition(joined(paired.rows), live.rows, k, paired.conditions["max_new_tokens"], seed),
    }
    put_json(result, str(args.results_dir / "study.json"))


if __name__ == "__main__":
    run(main)
