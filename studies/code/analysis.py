"""What study 3 asks of the rows that evaluate_acceptance.py wrote: domains, draft lengths, bursts, and who is left behind.

Reads results/PAIR/paired.jsonl, and every live.jsonl below that folder; writes study.json. No torch.

Everything from paired rows is replayed from stored texts, exactly (`specdec.theory.replay`). Speed-ups of it count a verifier
pass as 1 and a draft step as c, the ratio of the parameters that a step reads: the memory-bound speed-up of Goel et al. 2024.

    python -m studies.code.analysis
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

from domains.code import GROUP
from specdec.adapters import describe_measured
from specdec.comparison import LIVE_KEYS, PAIRED_KEYS, Measured, joined
from specdec.intervals import FEWEST_FOR_RATIO, bounds, mean_with_interval, resampled_means
from specdec.provenance import provenance
from specdec.terminal import Problem, put_json, run, say
from specdec.theory import (
    Bursts,
    burst_lengths,
    disparity,
    expected_bursts,
    geometric_tail,
    oracle_speedup,
    overall_speedup,
    replay,
    speedup,
    tokens_per_block,
)

RESULTS = Path("studies/code/results")
LENGTHS = (1, 2, 4, 8, 16, 32)  # the plan's γ
K = 4  # where one draft length stands for all
BOUNDS = (0.2, 0.4, 0.6, 0.8, 0.9)  # of --stop-below
AT_MOST = (4, 8)  # tokens of a draft that ends when unsure
LONG = 10  # the plan asks for P(burst > 10)
TASKS = [language for language, group in GROUP.items() if group != "other"]  # the plan's nine languages
SEED = 42

Prompts = list[dict]  # joined rows of `paired`


def domains_of(row: dict) -> list[str]:
    """The groups that a prompt counts in: its language, the plan's group of languages, code; or natural language."""
    return [row["language"], row["group"], "code"] if row["domain"] == "code" else [row["domain"]]


def having(rows: Prompts, draft: str) -> Prompts:
    """Those on which `draft` was measured."""
    return [row for row in rows if draft in row["kept"]]


def by_domain(rows: Prompts) -> dict[str, Prompts]:
    found: dict[str, Prompts] = {}
    for row in rows:
        for domain in domains_of(row):
            found.setdefault(domain, []).append(row)
    return found


def mean(values: list[float]) -> dict:
    """With its 95% interval over prompts."""
    found = mean_with_interval(values, SEED)
    return {"mean": found["mean"], "interval": found["interval"]}


# --- one text, one draft ----------------------------------------------------------------------------------------------


def decoded(kept: list[float], k: int, new: int, c: float) -> dict:
    """The expected metrics of decoding one text with draft length k, and its bursts."""
    found = replay(kept, k, new)
    return {
        "acceptance_rate": found.accepted / found.drafted if found.drafted else 0.0,
        "tokens_per_pass": len(kept) / found.passes,
        "speedup": overall_speedup(len(kept), found.passes, found.drafted, c),
        "bursts": expected_bursts(kept, found.tested, LONG),
    }


def unsure(kept: list[float], q: list[float], at_most: int, bound: float, new: int, c: float) -> dict:
    """As `decoded`, of a draft that ends behind a token whose q is below `bound`; its drafted tokens are known in bounds."""
    found = replay(kept, at_most, new, [value < bound for value in q])
    least, most = sum(found.tested), found.drafted
    return {
        "tokens_per_pass": len(kept) / found.passes,
        "at_least": overall_speedup(len(kept), found.passes, most, c),
        "at_most": overall_speedup(len(kept), found.passes, least, c),
    }


def cross_entropy(row: dict, draft: str) -> float:
    """Mean −log q of the verifier's own tokens: over its texts that is the cross-entropy of the two. inf: q gives one none."""
    q = row["q"][draft]
    return sum(-math.log(value) if value else math.inf for value in q) / len(q)


def divergence(row: dict, draft: str) -> float:
    """KL(p ‖ q): the cross-entropy without the verifier's own entropy."""
    return cross_entropy(row, draft) - sum(-math.log(value) for value in row["p"]) / len(row["p"])


# --- groups of prompts ------------------------------------------------------------------------------------------------


def bursts_of(found: list[Bursts]) -> dict:
    """Mean length and P(longer than LONG) over all bursts of some prompts, beside the geometric distribution of that mean.

    Below FEWEST_FOR_RATIO prompts the ratios have no interval.
    """
    columns = [(one.number, one.rejections, one.longer) for one in found]
    number, rejections, longer = (sum(column) for column in zip(*columns, strict=True))
    if not number:
        return {"length": None, "longer": None, "geometric": None}
    means = resampled_means(columns, SEED)
    drawn = means[means[:, 0] > 0]
    enough = len(found) >= FEWEST_FOR_RATIO
    return {
        "length": {"mean": rejections / number, "interval": bounds(drawn[:, 1] / drawn[:, 0]) if enough else None},
        "longer": {"mean": longer / number, "interval": bounds(drawn[:, 2] / drawn[:, 0]) if enough else None},
        "geometric": geometric_tail(rejections / number, LONG),
    }


def at_length(rows: Prompts, draft: str, k: int, new: int, c: float) -> dict:
    """One γ on some prompts: replayed, and as independent positions of the same mean overlap would have it."""
    found = [decoded(row["kept"][draft], k, new, c) for row in rows]
    alpha = sum(row["overlap"][draft] for row in rows) / len(rows)
    tau = tokens_per_block(alpha, k)
    metrics = {name: mean([one[name] for one in found]) for name in ("acceptance_rate", "tokens_per_pass", "speedup")}
    independent = {"acceptance_rate": (tau - 1) / k, "tokens_per_pass": tau, "speedup": speedup(tau, k, c)}
    return {**metrics, "bursts": bursts_of([one["bursts"] for one in found]), "independent": independent}


def draft_lengths(rows: Prompts, draft: str, new: int, c: float) -> dict:
    """Every γ of the plan, drafts that end when unsure (by their longest, by bound), and the oracle."""
    by_bound: dict[int, dict[float, dict]] = {}
    for at_most in AT_MOST:
        by_bound[at_most] = {}
        for bound in BOUNDS:
            found = [unsure(row["kept"][draft], row["q"][draft], at_most, bound, new, c) for row in rows]
            by_bound[at_most][bound] = {name: mean([one[name] for one in found]) for name in found[0]}
    return {
        "by_k": {k: at_length(rows, draft, k, new, c) for k in LENGTHS},
        "by_bound": by_bound,
        "oracle": mean([oracle_speedup(row["kept"][draft], new, c) for row in rows]),
    }


def lengths_by_draft(rows: Prompts, costs: dict[str, float], new: int) -> dict:
    measured = {draft: having(rows, draft) for draft in costs}
    return {draft: draft_lengths(own, draft, new, costs[draft]) for draft, own in measured.items() if own}


def at_k(rows: Prompts, draft: str, new: int, c: float) -> dict[str, list[float]]:
    """The metrics of a draft at K, a value a prompt."""
    values: dict[str, list[float]] = {"overlap": [row["overlap"][draft] for row in rows]}
    for row in rows:
        one = decoded(row["kept"][draft], K, new, c)
        for name in ("acceptance_rate", "tokens_per_pass", "speedup"):
            values.setdefault(name, []).append(one[name])
    return values


def domain_metrics(rows: Prompts, costs: dict[str, float], new: int) -> dict:
    """At K: every draft's metrics on the prompts of a domain on which it was measured, and its paired change against base."""
    result: dict = {"prompts": len(rows), "drafts": {}, "changes": {}}
    result["shared_mass"] = sum(row["shared_mass"] for row in rows) / len(rows)
    for draft, c in costs.items():
        own = having(rows, draft)
        if not own:
            continue
        values = at_k(own, draft, new, c)
        result["drafts"][draft] = {"prompts": len(own), **{name: mean(numbers) for name, numbers in values.items()}}
        if draft != "base":
            base = at_k(own, "base", new, costs["base"])
            pairs = {name: zip(numbers, base[name], strict=True) for name, numbers in values.items()}
            result["changes"][draft] = {name: mean([after - before for after, before in pair]) for name, pair in pairs.items()}
    return result


# --- disparity: the family of U(T) ------------------------------------------------------------------------------------

Metric = Callable[[dict, str], float]


def definitions(new: int, c: float) -> dict[str, tuple[Metric, bool]]:
    """Definition → (the metric of a prompt, whether a smaller one is better); tables.py says whose each is."""

    def speed(row: dict, draft: str) -> float:
        return decoded(row["kept"][draft], K, new, c)["speedup"]

    return {
        "cross-entropy": (cross_entropy, True),
        "divergence": (divergence, True),
        "overlap": (lambda row, draft: row["overlap"][draft], False),
        "speed-up": (speed, False),
    }


def distances(values: dict[str, list[float]], smaller_is_better: bool) -> tuple[dict[str, float], list[dict[str, float]]]:
    """U(T) of each language from one value a prompt, and the same in every resample.

    Prompts are resampled within each language, and the best language is found again in every resample. Equally many prompts
    are drawn alike: two drafts on the same prompts meet the same resamples.
    """
    found = disparity({task: sum(numbers) / len(numbers) for task, numbers in values.items()}, smaller_is_better)
    drawn = {task: resampled_means(values[task], SEED + number)[:, 0] for number, task in enumerate(values)}
    resampled = [
        disparity(dict(zip(drawn, means, strict=True)), smaller_is_better) for means in zip(*drawn.values(), strict=True)
    ]
    return found, resampled


def measurable(values: dict[str, list[float]]) -> bool:
    """A draft that cannot propose a token has an infinite cross-entropy."""
    return not any(math.isinf(value) for numbers in values.values() for value in numbers)


def summarized(tasks: list[str], estimate: Callable[[Callable[[dict[str, float]], float]], dict]) -> dict:
    """By language, by the plan's groups (the mean over a group's languages), and over all of them: spread and variance.

    Args:
        estimate: of a statistic of the distances U(T), its value and interval.
    """
    groups: dict[str, list[str]] = {}
    for task in tasks:
        groups.setdefault(GROUP[task], []).append(task)

    def over(members: list[str], found: dict[str, float]) -> float:
        return sum(found[task] for task in members) / len(members)

    return {
        "by_language": {task: estimate(partial(over, [task])) for task in tasks},
        "by_group": {name: estimate(partial(over, members)) for name, members in groups.items()},
        "spread": estimate(lambda found: max(found.values())),
        "variance": estimate(lambda found: statistics.pvariance(found.values())),
    }


def enough(values: dict[str, list[float]]) -> bool:
    """Whether every language has prompts to resample."""
    return min(map(len, values.values())) >= FEWEST_FOR_RATIO


def disparity_of(values: dict[str, list[float]], smaller_is_better: bool) -> dict | None:
    """U(T) from one value a prompt, `summarized`. None where a value is infinite.

    Where a language has fewer than FEWEST_FOR_RATIO prompts there are no intervals.
    """
    if not measurable(values):
        return None
    found, resampled = distances(values, smaller_is_better)

    def estimate(statistic: Callable[[dict[str, float]], float]) -> dict:
        drawn = [statistic(one) for one in resampled] if enough(values) else None
        return {"mean": statistic(found), "interval": drawn and bounds(drawn)}

    return summarized(list(values), estimate)


def disparity_change(base: dict[str, list[float]], tuned: dict[str, list[float]], smaller_is_better: bool) -> dict | None:
    """U(T) of the tuned draft − that of base, on the same prompts, with paired intervals; otherwise as `disparity_of`."""
    if not measurable(base) or not measurable(tuned):
        return None
    before, before_drawn = distances(base, smaller_is_better)
    after, after_drawn = distances(tuned, smaller_is_better)

    def estimate(statistic: Callable[[dict[str, float]], float]) -> dict:
        change = statistic(after) - statistic(before)
        if not enough(base):
            return {"mean": change, "interval": None}
        pairs = zip(after_drawn, before_drawn, strict=True)
        return {"mean": change, "interval": bounds([statistic(one) - statistic(other) for one, other in pairs])}

    return summarized(list(base), estimate)


def by_task(rows: Prompts) -> dict[str, Prompts]:
    """The prompts of the plan's nine languages, as far as they were measured; {} where one alone was."""
    known = by_domain(rows)
    found = {task: known[task] for task in TASKS if task in known}
    return found if len(found) > 1 else {}


def disparities(rows: Prompts, draft: str, new: int, c: float) -> dict:
    """Every definition of `definitions`, on the prompts on which the draft was measured."""
    result: dict = {}
    languages = by_task(having(rows, draft))
    for name, (metric, smaller_is_better) in definitions(new, c).items() if languages else ():
        values = {task: [metric(row, draft) for row in of_task] for task, of_task in languages.items()}
        result[name] = disparity_of(values, smaller_is_better)
    return result


def disparity_changes(rows: Prompts, draft: str, new: int, costs: dict[str, float]) -> dict:
    """The same of a tuned draft against base."""
    result: dict = {}
    languages = by_task(having(rows, draft))
    of_base, of_draft = definitions(new, costs["base"]), definitions(new, costs[draft])
    for name, (metric, smaller_is_better) in of_draft.items() if languages else ():
        tuned = {task: [metric(row, draft) for row in of_task] for task, of_task in languages.items()}
        base = {task: [of_base[name][0](row, "base") for row in of_task] for task, of_task in languages.items()}
        result[name] = disparity_change(base, tuned, smaller_is_better)
    return result


# --- live -------------------------------------------------------------------------------------------------------------


def live(file: Path, paired: Measured) -> dict:
    """One folder of live runs: a draft length or a bound, every draft, beside the plain verifier of the same sitting.

    Their data type may be another than that of the paired rows: what decodes fastest on a CPU computes in int8.

    Raises:
        Problem: they are of other models, settings or adapters than the rows of `paired`.
    """
    found = Measured(file, LIVE_KEYS)
    own = {name: value for name, value in found.conditions.items() if name in ("k", "stop_below", "dtype")}
    Measured(file, LIVE_KEYS, {**paired.conditions, **own, "adapters": paired.adapters})
    plain = {(row["prompt"], row["seed"]): row for row in found.rows if row["draft"] == "verifier"}
    drafts: dict[str, dict] = {}
    for name in dict.fromkeys(row["draft"] for row in found.rows if row["draft"] != "verifier"):
        rows = [row for row in found.rows if row["draft"] == name and (row["prompt"], row["seed"]) in plain]
        if rows:
            drafts[name] = live_metrics(rows, [plain[row["prompt"], row["seed"]] for row in rows], found.conditions["k"])
    return {
        "run": file.parent.name,
        "k": found.conditions["k"],
        "stop_below": found.conditions.get("stop_below", 0.0),
        "dtype": found.conditions.get("dtype"),
        "measured": found.environments(),
        "drafts": drafts,
    }


def live_metrics(rows: list[dict], plain: list[dict], k: int) -> dict:
    """Of some runs of a draft, each beside the plain verifier's of the same prompt.

    `c` is measured, in seconds a step; `independent` is Leviathan's speed-up with it and the mean overlap of these runs.
    """
    bursts = []
    for row in rows:
        lengths = burst_lengths((len(block["drafted"]), block["accepted"]) for block in row["blocks"])
        bursts.append(Bursts(len(lengths), sum(lengths), sum(length > LONG for length in lengths)))
    step = sum(row["draft_seconds"] for row in rows) / max(sum(row["drafted"] for row in rows), 1)
    passes = sum(len(row["blocks"]) for row in plain)
    c = step / (sum(row["verify_seconds"] for row in plain) / passes)
    overlaps = [row["expected_acceptance"] for row in rows if row["expected_acceptance"] is not None]
    alpha = sum(overlaps) / len(overlaps)
    return {
        "prompts": len(rows),
        "acceptance_rate": mean([row["acceptance_rate"] for row in rows if row["acceptance_rate"] is not None]),
        "tokens_per_pass": mean([row["block_efficiency"] for row in rows]),
        "speedup": mean(
            [row["tokens_per_second"] / other["tokens_per_second"] for row, other in zip(rows, plain, strict=True)]
        ),
        "bursts": bursts_of(bursts),
        "c": c,
        "independent": speedup(tokens_per_block(alpha, k), k, c),
    }


# --- a pair -----------------------------------------------------------------------------------------------------------


def of_pair(folder: Path) -> dict:
    """Everything of the pair whose results lie in `folder`."""
    found = Measured(folder / "paired.jsonl", (*PAIRED_KEYS, "p", "q"))
    rows = joined(found.rows)
    if not rows:
        raise Problem(f"no rows in {found.file}. Run evaluate_acceptance.py paired first.")
    counts = next((header["parameters"] for header in found.headers.values() if header.get("parameters")), None)
    if counts is None:
        raise Problem(f"{found.file} does not tell the models' parameters. Move it away and measure again.")
    new, c = found.conditions["max_new_tokens"], counts["draft"] / counts["verifier"]
    if len(having(rows, "base")) < len(rows):
        raise Problem(f"{found.file} lacks the base draft on some prompts. Run evaluate_acceptance.py paired again.")
    drafts = sorted(set.union(*(set(row["kept"]) for row in rows)), key=lambda name: (name != "base", name))  # base first
    for draft in drafts:
        if missing := len(rows) - len(having(rows, draft)):
            say(f"{found.file}: {draft} lacks {missing} of the {len(rows)} prompts and is compared with base on the others")
    described = {name: describe_measured(found.drafts[name], found.adapters[name]) for name in drafts}
    costs = {name: 0.0 if (described[name] or {}).get("loss") == "counts" else c for name in drafts}  # a table reads no weights
    domains = by_domain(rows)
    return {
        "conditions": found.conditions,
        "measured": found.environments(),
        "parameters": counts,
        "c": c,
        "drafts": described,
        "domains": {name: domain_metrics(of_domain, costs, new) for name, of_domain in domains.items()},
        "lengths": {
            name: lengths_by_draft(domains[name], costs, new) for name in ("code", "natural_language") if name in domains
        },
        "disparity": {draft: disparities(rows, draft, new, costs[draft]) for draft in drafts},
        "disparity_changes": {draft: disparity_changes(rows, draft, new, costs) for draft in drafts if draft != "base"},
        "live": [live(file, found) for file in sorted(folder.rglob("live.jsonl"))],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results-dir", type=Path, default=RESULTS, metavar="DIR", help="(default %(default)s)")
    args = parser.parse_args()
    folders = sorted(file.parent for file in args.results_dir.glob("*/paired.jsonl"))
    if not folders:
        raise Problem(f"no */paired.jsonl in {args.results_dir}. Run evaluate_acceptance.py paired first.")
    settings = {"k": K, "lengths": LENGTHS, "bounds": BOUNDS, "at_most": AT_MOST, "long_burst": LONG, "seed": SEED}
    pairs = {folder.name: of_pair(folder) for folder in folders}
    put_json({**provenance(settings), "pairs": pairs}, str(args.results_dir / "study.json"))
    for name, pair in pairs.items():
        for domain, found in pair["domains"].items():
            overlap = found["drafts"]["base"]["overlap"]["mean"]
            print(f"{name}, {domain}: base draft Σ min(p, q) {overlap:.4f}, n = {found['prompts']} prompts")


if __name__ == "__main__":
    run(main)
