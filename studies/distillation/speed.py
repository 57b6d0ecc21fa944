"""What study 2's gain is worth in time: the speed-up by formula, live, and after how many tokens the training has paid.

tables.py writes these parts. The seconds are those of studies/engine's benchmark, which decoded with the draft that ships, and
where a function says live those of evaluate_acceptance.py live;
`report` is the JSON of evaluate_acceptance.py report, `benchmark` that of benchmark_decoding.py.
"""

from __future__ import annotations

from pathlib import Path

from specdec.files import read_jsonl
from specdec.report import hardware, live_pairs, load, mean_of, span, speed_ratio, speed_verdict, table
from specdec.terminal import Problem
from specdec.theory import speedup

LIVE = Path("studies/distillation/results/live/live.jsonl")
BENCHMARK = Path("studies/engine/results/benchmark_no_vnni.json")  # of the machine that trained and decoded here
ANSWERS = Path("studies/distillation/answers")


def benchmark_of(report: dict, draft: str) -> dict:
    """The engine's benchmark; FileNotFoundError if it did not decode with this draft."""
    benchmark = load(BENCHMARK)
    if benchmark["conditions"]["drafts"].get(draft) != report["drafts"][draft]["path"]:
        raise FileNotFoundError(2, f"not measured with {draft}", str(BENCHMARK))
    return benchmark


def timed_steps(benchmark: dict) -> dict[str, dict[str, float]]:
    """backend → seconds of a step of `draft`, of `verifier`, and of `verifier_of_5`, the verifier over five tokens."""
    return {peer: about["seconds_per_step"] for peer, about in benchmark["about"].items() if "seconds_per_step" in about}


# --- by formula -------------------------------------------------------------------------------------------------------


def cost_ratio(steps: dict[str, float]) -> float:
    return steps["draft"] / steps["verifier"]


def wide_pass(steps: dict[str, float]) -> float:
    """A verifier pass over five tokens, in passes over one."""
    return steps["verifier_of_5"] / steps["verifier"]


def pass_cost(steps: dict[str, float], k: int) -> float:
    """A verifier pass over K + 1 tokens in passes over one: a straight line through the two widths that were timed, 1 and 5.

    Never below 1: that a wider pass took less is run-to-run variation.
    """
    return max(1.0, 1 + (wide_pass(steps) - 1) * k / 4)


def by_formula(report: dict, timed: dict[str, dict], domain: str, draft: str, k: int) -> dict[str, float]:
    """The speed-up over the plain verifier, by name of the formula; τ is replayed from the stored texts.

    `timed` is that of `timed_steps`.
    """
    tau = report["replayed_by_k"][str(k)][domain][draft]
    counts = report["parameters"]
    found = {"MBSU": speedup(tau, k, counts["draft"] / counts["verifier"])}
    for backend, steps in timed.items():
        c = cost_ratio(steps)
        found[f"{backend}, c"] = speedup(tau, k, c)
        found[f"{backend}, c and width"] = tau / (c * k + pass_cost(steps, k))
    return {"tokens per pass": tau, **found}


def formula_table(report: dict, draft: str, domains: dict[str, str]) -> str:
    """Base and `draft` at every K; `domains` are those whose rows stand in it, as the page calls them."""
    benchmark = benchmark_of(report, draft)
    timed, rows = timed_steps(benchmark), []
    header = ["prompts", "K", *by_formula(report, timed, next(iter(domains)), draft, 1)]
    for domain, words in domains.items():
        for k in sorted(int(length) for length in report["replayed_by_k"]):
            base, tuned = (by_formula(report, timed, domain, name, k) for name in ("base", draft))
            rows.append([words, str(k), *(f"{base[name]:.2f} → {tuned[name]:.2f}" for name in base)])
    return f"{table(header, rows)}\n\nEach cell: base → {draft}. {costs_in_words(report, timed, benchmark['environment'])}"


def costs_in_words(report: dict, timed: dict[str, dict], environment: dict) -> str:
    counts = report["parameters"]
    said = [f"{counts['draft'] / counts['verifier']:.3f} by parameters (MBSU)"]
    for backend, steps in timed.items():
        c, wide = cost_ratio(steps), wide_pass(steps)
        said.append(f"{c:.3f} by measured time with {backend}, where a pass over five tokens took {wide:.2f} of one over one")
    return (
        f"A draft step costs c verifier steps: {'; '.join(said)}. `c` takes a pass over K + 1 tokens to cost one over a single "
        f"token; `c and width` takes its time from a line through the two widths that were timed, never below that of one. "
        f"{hardware([environment])}"
    )


def formula_in_words(report: dict, draft: str) -> str:
    """The paper's τ and MBSU, and the best K by measured time."""
    said = []
    for k in report["mbsu"]:  # the draft lengths of the paper's tables
        tau, factor = (report[metric][k]["at"] for metric in ("tau", "mbsu"))
        said.append(
            f"at γ = {k}, τ {tau['means']['base']:.2f} → {tau['means'][draft]:.2f}, {span(tau['changes'][draft], 2)}, and MBSU "
            f"{factor['means']['base']:.2f} → {factor['means'][draft]:.2f}"
        )
    timed = timed_steps(benchmark_of(report, draft))
    best = [best_length(report, timed, draft, backend) for backend in timed]
    return f"By formula, AT prompts: {'; '.join(said)}. {' '.join(best)}"


def best_length(report: dict, timed: dict[str, dict], draft: str, backend: str) -> str:
    lengths = sorted(int(length) for length in report["replayed_by_k"])
    words = []
    for name in ("base", draft):
        factors = {k: by_formula(report, timed, "at", name, k)[f"{backend}, c and width"] for k in lengths}
        best = max(lengths, key=lambda k: factors[k])
        words.append(f"`{name}` {factors[best]:.2f} at K = {best}")
    return f"With what a step and a wide pass took with {backend}, each draft at its best K: {', '.join(words)}."


# --- live ---------------------------------------------------------------------------------------------------------------


def live_runs(draft: str) -> tuple[list[dict], dict[str, list[tuple[float, float]]]]:
    """The header rows; and domain, and "all" → by prompt (seconds a token with the base draft, with `draft`).

    Raises:
        FileNotFoundError: not measured.
    """
    headers, found = live_pairs(LIVE, draft)
    pairs: dict[str, list[tuple[float, float]]] = {"all": []}
    for (domain, _), seconds in found.items():
        for group in ("all", domain):
            pairs.setdefault(group, []).append(seconds)
    return headers, pairs


def live_in_short(draft: str) -> str:
    """For the front page; nothing before it is measured."""
    if not LIVE.exists():
        return ""
    found = speed_ratio(live_runs(draft)[1]["all"])
    return f"; live in int8, {span(found, 3, sign='')} times the base draft's tokens a second on {found['prompts']} prompts"


def live_in_words(draft: str, domains: dict[str, str]) -> str:
    """The page's third test, by its rule; `domains` are called as the page calls them."""
    headers, pairs = live_runs(draft)
    found, k = speed_ratio(pairs["all"]), headers[0]["conditions"]["k"]
    parts = []
    for domain, words in domains.items():
        of_domain = speed_ratio(pairs[domain])
        parts.append(f"{span(of_domain, 3, sign='')} on {of_domain['prompts']} {words} prompts")
    return (
        f"**By the rule above, the training {speed_verdict(found)}: live, in int8 at K = {k}, "
        f"{span(found, 3, sign='')} times the base draft's tokens a second on {found['prompts']} prompts.** "
        f"{'; '.join(parts)}. {hardware([header['environment'] for header in headers])}"
    )


# --- break-even -------------------------------------------------------------------------------------------------------


def fastest(benchmark: dict, backend: str, draft: str | None) -> int:
    """The draft length that makes most tokens a second, by the benchmark's summary, as the engine's page has it."""
    rows = [row for row in benchmark["summary"] if (row["peer"], row["draft"]) == (backend, draft)]
    return max(rows, key=lambda row: row["tokens_per_second"])["k"]


def seconds_a_token(benchmark: dict, backend: str, draft: str | None) -> dict[str, float]:
    """prompt → seconds a token of this draft at its fastest K; None is the verifier alone."""
    decoding = (backend, draft, fastest(benchmark, backend, draft))
    rows = [row for row in benchmark["rows"] if (row["peer"], row["draft"], row["k"]) == decoding]
    return {row["prompt"]: row["seconds"] / row["tokens"] for row in rows}


def saved(benchmark: dict, backend: str, draft: str, rival: str | None) -> dict:
    """Seconds a token that `draft` saves against `rival`: mean over the prompts of both, with its interval."""
    tuned, other = (seconds_a_token(benchmark, backend, name) for name in (draft, rival))
    values = [other[prompt] - tuned[prompt] for prompt in tuned if prompt in other]
    return mean_of(values)


def lengths_of_answers(draft: str, metrics: dict) -> list[int]:
    """Tokens of each answer that the draft was trained on, or held out; `metrics` are those of its training.

    Raises:
        Problem: the files hold other answers.
    """
    lengths = []
    for file in sorted(ANSWERS.glob("*.jsonl")):
        if str(file) in metrics["command"]:
            lengths += [len(row["token_ids"]) for row in read_jsonl(file) if "token_ids" in row]
    wanted = sum(metrics["rows"].values())
    if len(lengths) != wanted:
        raise Problem(f"{draft} was trained on {wanted} answers, and its files hold {len(lengths)}. Train it again.")
    return lengths


def writing_at_most(tokens: int, benchmark: dict, backend: str) -> float:
    """Seconds of writing so many tokens as the verifier alone writes them in the benchmark, one text at a time.

    A bound: the answers of this study keep no seconds. They were written in batches, which is faster.
    """
    plain = seconds_a_token(benchmark, backend, None).values()
    return tokens * sum(plain) / len(plain)


def paid_after(change: dict, cost: float) -> str:
    """After how many generated tokens `cost` seconds are saved, if it was shown that any are."""
    low, high = change["interval"]
    spread = f"{change['mean'] * 1000:+.1f} ms a token ({low * 1000:+.1f} to {high * 1000:+.1f}) on {change['prompts']} prompts"
    if high < 0:
        return f"{spread}: never, it costs time"
    if low <= 0:
        return f"{spread}: the interval includes zero, so that it pays was never shown"
    return f"{spread}: after {cost / change['mean']:,.0f} tokens ({cost / high:,.0f} to {cost / low:,.0f})"


def break_even(report: dict, draft: str, metrics: dict) -> str:
    """`metrics` are those of the draft's training."""
    benchmark, lengths = benchmark_of(report, draft), lengths_of_answers(draft, metrics)
    said = [
        f"**After how many tokens has the training paid?** Its steps took {metrics['seconds']:,.0f} s; the search for loss and "
        f"rate, an arm of 3 to 5 minutes each (below), is not counted. What writing its "
        f"{len(lengths)} answers ({sum(lengths):,} tokens) took was not recorded: at most what the verifier alone takes for so "
        "many tokens, one text at a time, in the runs that are compared. Saved by the draft that ships, live, every draft at "
        "the K that makes most tokens a second, as on the [engine's page](../engine/README.md) for a CPU without VNNI:",
        "",
    ]
    for backend in timed_steps(benchmark):
        cost = metrics["seconds"] + writing_at_most(sum(lengths), benchmark, backend)
        k, of_base = (fastest(benchmark, backend, name) for name in (draft, "base"))
        for rival, other in (("base", f"the base draft at K = {of_base}"), (None, "the verifier alone")):
            paid = paid_after(saved(benchmark, backend, draft, rival), cost)
            said.append(f"- {backend}, K = {k}, against {other}, {cost:,.0f} s to earn back: {paid}.")
    if LIVE.exists():
        headers, pairs = live_runs(draft)
        cost = metrics["seconds"] + writing_at_most(sum(lengths), benchmark, "int8")
        paid = paid_after(mean_of([base - tuned for base, tuned in pairs["all"]]), cost)
        runs = f"int8, K = {headers[0]['conditions']['k']}, against the base draft, by the live runs of the third test"
        said.append(f"- {runs}, {cost:,.0f} s to earn back: {paid}.")
    return "\n".join(said)
