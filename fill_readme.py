"""Fills the tables and figures of README.md and DATASET_CARD.md from the files that measuring commands wrote.

A table stands between `<!-- name -->` and `<!-- /name -->`; the function of that name below writes it. `figure
NAME` is a picture that plot_results.py drew, `output NAME` what that script printed when `make outputs` ran it.

    python fill_readme.py            fills them
    python fill_readme.py --check    exits 1 if the documents and the files disagree
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from plot_results import FIGURES, by_query_type, first_training, interval, load, span, trained_again
from specdec.files import read_jsonl, write_whole
from specdec.terminal import Problem, run, say


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table: first column to the left, the others to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def hardware(result: dict, *steps: str) -> str:
    """The machine and the code behind a result, or behind these steps of several commits, in one line."""
    about = result["environment"]
    name = about["gpu"]["name"] if about["gpu"] else f"{about['cores']} cores of an {about['processor']} processor"
    packages = about["packages"]
    commits = sorted({commit for step in steps for commit in result["commits"][step]}) if steps else [about["commit"]]
    return (
        f"Measured on {name}, torch {packages['torch']}, transformers {packages['transformers']}, "
        f"commit {', '.join((commit or 'unknown')[:8] for commit in commits)}."
    )


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def output(name: str) -> str:
    """What a script printed, as `make outputs` kept it."""
    return f"```text\n{Path(f'results/output/{name}.txt').read_text(encoding='utf-8').rstrip()}\n```"


def figure(name: str) -> str:
    """A picture with what it shows as its alternative text."""
    picture = Path(f"results/plots/{name}.png")
    picture.stat()  # FileNotFoundError where it was not drawn yet
    return f"![{FIGURES[name][1]()}]({picture})"


# --- one function a table ---------------------------------------------------------------------------------------------


def demo() -> str:
    result = load("results/demo.json")
    rows = [
        [
            run["mode"],
            str(run["tokens"]),
            f"{run['seconds']:.1f}",
            f"{run['tokens_per_second']:.2f}",
            f"{run['speedup']:.2f}×",
            f"{run['block_efficiency']:.2f}",
            percent(run["acceptance_rate"]),
            percent(run["expected_acceptance"]),
        ]
        for run in result["runs"]
    ]
    header = ["draft", "tokens", "seconds", "tokens/s", "speed-up", "tokens per pass", "accepted/drafted", "mean Σ min(p, q)"]
    return f"{table(header, rows)}\n\nOne prompt, one seed: an example, not a finding. {hardware(result)}"


def claim() -> str:
    """The answer in one sentence, by the test that evaluate_acceptance.py fixed in advance; then what bounds it."""
    report = load("results/acceptance.json")
    result = report["paired"]
    group, change = result["at"], result["at"]["changes"]["dpo"]
    low, high = change["interval"]
    verdict = "raised" if low > 0 else "lowered" if high < 0 else "did not measurably change"
    beside = [
        f"{sentence} {span(result[name]['changes'][draft])}"
        for sentence, name, draft in (
            ("DPO on general prompts", "general", "dpo"),
            ("supervised fine-tuning on the chosen answers alone", "at", "sft"),
            ("DPO balanced by query type", "at", "balanced"),
            ("DPO trained anew with another seed", "at", "dpo-seed43"),
        )
        if draft in result.get(name, {"changes": {}})["changes"]
    ]
    beside = f" Beside it, exploratory: {'; '.join(beside)}." if beside else ""
    speed = report.get("live", {}).get("tokens_per_second", {}).get("at", {"changes": {}})
    if "dpo" in speed["changes"]:
        beside += (
            f" Live, on {speed['prompts']} of these prompts, the base draft's {speed['means']['base']:.1f} tokens/s "
            f"changed by {span(speed['changes']['dpo'], 2)}."
        )
    return (
        f"**On {group['prompts']} assistive-technology prompts, DPO {verdict} the acceptance probability of the draft: "
        f"mean Σ min(p, q) went from {group['means']['base']:.4f} to {group['means']['dpo']:.4f}, a paired change of "
        f"{change['mean']:+.4f} (95% bootstrap interval over prompts {low:+.4f} to {high:+.4f}); it rose on "
        f"{change['rose']} of {group['prompts']} prompts.**" + beside
    )


def first_run() -> str:
    """What the deciding test said before the merge kept the whole adapter."""
    result = load("results/acceptance_nearest.json")
    return (
        f"The test was run twice. At commit {result['environment']['commit'][:8]}, with the adapter's merge rounded to the "
        f"nearest bf16 (see the adapter below), it gave {span(result['paired']['at']['changes']['dpo'])}; then the merge "
        "was mended and everything measured anew."
    )


FIGURE_NAMES = {
    "acceptance_rate": "accepted/drafted",
    "expected_acceptance": "Σ min(p, q)",
    "block_efficiency": "tokens per pass",
    "tokens_per_second": "tokens/s",
}
CHANGES = ["prompts", "draft", "n", "base", "tuned", "change", "95% interval", "rose on"]


def changes(groups: dict, names: Iterable[str], drafts: Iterable[str] | None = None) -> list[list[str]]:
    """A row of CHANGES for every group in `names` and every draft of `drafts`, or else every one not trained again."""
    rows = []
    for name in names:
        group = groups[name]
        for draft in drafts if drafts is not None else [draft for draft in group["changes"] if not trained_again(draft)]:
            change = group["changes"][draft]
            rows.append(
                [
                    name,
                    draft,
                    str(group["prompts"]),
                    f"{group['means']['base']:.4f}",
                    f"{group['means'][draft]:.4f}",
                    f"{change['mean']:+.4f}",
                    interval(change),
                    f"{change['rose']}/{group['prompts']}",
                ]
            )
    return rows


def paired() -> str:
    result = load("results/acceptance.json")
    return f"{table(CHANGES, changes(result['paired'], by_query_type(result['paired'])))}\n\n{hardware(result, 'paired')}"


def replayed() -> str:
    """The seed's α and the block efficiency at the report's K, and the latter at every K, from the stored answers."""
    result = load("results/acceptance.json")
    domains = [name for name in ("at", "general") if name in result["paired"]]
    rows = [[FIGURE_NAMES[figure], *row] for figure, groups in result["replayed"].items() for row in changes(groups, domains)]
    by_k = result["replayed_by_k"]
    lines = [
        [f"{domain}, {draft}", *(f"{means[domain][draft]:.2f}" for means in by_k.values())]
        for domain in domains
        for draft in by_k["1"][domain]
        if not trained_again(draft)
    ]
    return (
        f"{table(['figure', *CHANGES], rows)}\n\nTokens per verifier pass by K, from the same answers:\n\n"
        f"{table(['prompts, draft', *(f'K = {k}' for k in by_k)], lines)}\n\n{hardware(result, 'paired')}"
    )


def live_report(key: str = "live") -> dict:
    """The report, if it has what `live` must have been run for."""
    result = load("results/acceptance.json")
    if not result.get(key):
        raise FileNotFoundError(2, "not measured", "results/live.jsonl")
    return result


def seed_report() -> tuple[dict, list[dict], dict[str, dict]]:
    """(report, the seed's prompts, prompt → draft → our live runs), if every one of them was run with both drafts."""
    result, prompts = live_report("live_by_prompt"), list(read_jsonl("prompts/seed.jsonl"))
    ours = {row["prompt"]: row["drafts"] for row in result["live_by_prompt"]}
    if any(not {"base", "dpo"} <= ours.get(prompt["prompt"], {}).keys() for prompt in prompts):
        raise FileNotFoundError(2, "not measured whole", "results/live.jsonl")
    return result, prompts, ours


def seed_prompts() -> str:
    """The seed's first two tables, its published values beside ours."""
    result, prompts, ours = seed_report()
    header = ["Prompt", "Query type", "paper: Base α", "DPO α", "Δα", "ours: Base α", "DPO α", "Δα", "sd of one base run"]
    tables = []
    for domain in ("at", "general"):
        rows, columns = [], []
        for prompt in (prompt for prompt in prompts if prompt["domain"] == domain):
            base, dpo = (ours[prompt["prompt"]][draft] for draft in ("base", "dpo"))
            columns.append([*prompt["published"].values(), base["mean"], dpo["mean"]])
            rows.append(
                [
                    prompt["short"],
                    prompt["query_type"],
                    *with_change(columns[-1]),
                    "–" if base["sd"] is None else f"{base['sd']:.3f}",
                ]
            )
        means = [sum(column) / len(column) for column in zip(*columns, strict=True)]
        tables.append(table(header, [*rows, ["Average", "", *with_change(means), ""]]))
    runs = sorted({draft["runs"] for drafts in ours.values() for draft in drafts.values()})
    return (
        f"In the domain:\n\n{tables[0]}\n\nOut of it:\n\n{tables[1]}\n\nOurs: means over "
        f"{' to '.join(map(str, runs))} seeds. {hardware(result, 'live')}"
    )


def published_changes(prompts: list[dict], domain: str, types: str = "") -> list[float]:
    """The seed's own Δα of its prompts of a domain, and of the query types named in `types`, if any is."""
    return [
        prompt["published"]["dpo"] - prompt["published"]["base"]
        for prompt in prompts
        if prompt["domain"] == domain and prompt["query_type"] in (types or prompt["query_type"])
    ]


def noise() -> str:
    """What chance alone does to the seed's first table."""
    found = live_report("noise")["noise"]
    published = published_changes(list(read_jsonl("prompts/seed.jsonl")), "at")
    return (
        f"α of one prompt has a standard deviation of {found['run']:.3f} between seeds, and its change from base to dpo at "
        f"one seed {found['difference']:.3f} ({found['prompts']} AT prompts, {found['seeds']} seeds). The study's Δα over "
        f"its ten AT prompts has {statistics.stdev(published):.3f}: on our pair, noise alone gives nearly as much. Each "
        f"seed alone is the study's whole experiment; ours gave a mean Δα of "
        f"{', '.join(f'{change:+.3f}' for change in found['by_seed'].values())}. To find the {found['effect']:+.4f} that "
        f"the next section measures in four of five such experiments takes about {found['prompts_needed']} prompts."
    )


def with_change(values: list[float]) -> list[str]:
    """[base, tuned, base, tuned, …] with each pair's difference behind it."""
    return [
        cell
        for base, tuned in zip(values[::2], values[1::2], strict=True)
        for cell in (f"{base:.3f}", f"{tuned:.3f}", f"{tuned - base:+.3f}")
    ]


def seed_conditions() -> str:
    """The seed's third table: as printed, as its own rows give it, ours on its prompts, ours on the large sets."""
    result, prompts, _ = seed_report()
    printed = {
        "at": (0.729, 0.748, "+0.019"),
        "at: recommendation/definitional": (0.676, 0.752, "+0.067"),
        "at: procedural/technical": (0.784, 0.749, "−0.052"),
        "general": (0.933, 0.863, "−0.070"),
    }  # seed 000, third table; two differences are not those of the two means
    replayed, rows = result["replayed"]["acceptance_rate"], []
    for name, values in printed.items():
        domain, _, types = name.partition(": ")
        own = published_changes(prompts, domain, types)
        rows.append(
            [
                name,
                f"{values[0]:.3f}",
                f"{values[1]:.3f}",
                values[2],
                f"{sum(own) / len(own):+.3f}",
                span(result["live"]["acceptance_rate"][f"seed {name}"]["changes"]["dpo"], 3),
                str(replayed[name]["prompts"]),
                span(replayed[name]["changes"]["dpo"], 3),
            ]
        )
    header = [
        "Condition",
        "paper: Base α",
        "DPO α",
        "Δα, as printed",
        "Δα, of its rows",
        "ours, its prompts: Δα",
        "n, large set",
        "ours, large set: Δα, replayed",
    ]
    return f"{table(header, rows)}\n\n{hardware(result, 'live', 'paired')}"


def trainings() -> str:
    """Drafts trained anew with another seed, beside the first: how much of the change is the training's own chance."""
    result = load("results/acceptance.json")
    groups = {name: result["paired"][name]["changes"] for name in ("at", "general")}
    again = {first_training(draft) for draft in groups["at"] if trained_again(draft)}
    drafts = [draft for draft in groups["at"] if first_training(draft) in again]
    if not drafts:
        raise FileNotFoundError(2, "not measured", "controls/*-seed*")
    gap = max(
        abs(changed[draft]["mean"] - changed[first_training(draft)]["mean"]) for changed in groups.values() for draft in drafts
    )
    return (
        f"{table(CHANGES, changes(result['paired'], groups, drafts))}\n\nTwo trainings of a kind differ by at most "
        f"{gap:.4f}. {hardware(result, 'paired')}"
    )


def live() -> str:
    """What users see, the seed's prompts and a subset of the large sets: the same changes with all their noise."""
    result = live_report()
    rows = [
        [label, *row]
        for figure, label in FIGURE_NAMES.items()
        for row in changes(
            result["live"][figure], [name for name in ("seed at", "at", "general") if name in result["live"][figure]]
        )
    ]
    return f"{table(['figure', *CHANGES], rows)}\n\n{hardware(result, 'live')}"


def agreement() -> str:
    found = live_report()["agreement"]
    return (
        "live − replayed: "
        + "; ".join(f"{name} {span(change)} over {change['prompts']} prompts" for name, change in found.items())
        + "."
    )


def live_speed() -> str:
    """The seed's secondary metric: the live runs of its twelve prompts that stand beside one of the plain verifier."""
    result = live_report("live_speed")
    rows = [
        [
            draft,
            str(found["runs"]),
            f"{found['tokens']:.0f}",
            *(f"{found[key]:.2f}" for key in ("seconds", "tokens_per_second", "block_efficiency")),
            f"{found['speedup']['mean']:.2f}",
            interval(found["speedup"], 2).replace("+", "") if draft != "verifier" else "–",
        ]
        for draft, found in result["live_speed"].items()
    ]
    header = ["draft", "runs", "tokens", "seconds", "tokens/s", "tokens per pass", "× plain verifier", "95% interval"]
    unlike = (
        "The tuned draft's adapter is attached beside 4-bit weights and does more work per token than the base draft: "
        "compare their acceptance, not their seconds. "
        if "attached" in result["adapter_states"].values()
        else ""
    )
    return f"{table(header, rows)}\n\n{unlike}{hardware(result, 'live')}"


def exactness() -> str:
    result = load("results/exactness.json")
    names = list(result["results"])
    openings = [
        [
            f"`{row['text']!r}`" if row["text"] is not None else "any other",
            f"{row['expected']:.1f}",
            *(str(result["results"][name]["openings"][place]["found"]) for name in names),
        ]
        for place, row in enumerate(result["results"]["ours"]["openings"])
    ]
    shown = [*openings[:6], openings[-1]] if len(openings) > 8 else openings
    figures = [
        [label, "", *(f"{result['results'][name][key]:.2g}" for name in names)]
        for label, key in (("p-value of chi-square", "p_value"), ("total variation from the law", "total_variation"))
    ]
    ours = result["results"]["ours"]
    if result["assisted_error"]:
        assisted = f"Assisted sampling raised {result['assisted_error']}."
    else:
        others = ", ".join(f"`{text!r}`" for text in result["results"]["assisted"]["others"][:4])
        assisted = f"The first openings of assisted sampling that are none of these: {others}."
    return (
        f"{table(['opening', 'expected', *names], [*shown, *figures])}\n\n{ours['samples']} texts each, {ours['bins']} "
        f"bins, the likeliest shown. {assisted} {hardware(result)}"
    )


def training() -> str:
    """The adapter that ships and its controls, as their metrics say."""
    folders = {"dpo": "final_adapter", **{name: f"controls/{name}" for name in ("balanced", "sft", "dpo-seed43", "sft-seed43")}}
    found = {name: load(f"{folder}/metrics.json") for name, folder in folders.items()}
    rows = [
        ["pairs trained on / held out", lambda result: f"{result['rows']['train']} / {result['rows']['held_out']}"],
        ["optimizer steps", lambda result: str(result["steps"])],
        ["trainable parameters", lambda result: f"{result['trainable_parameters']:,}"],
        ["held-out loss (of its own kind)", lambda result: f"{result['held_out']['eval_loss']:.3f}"],
        *(
            [
                f"held-out reward {label}",
                lambda result, key=key: "–" if key not in result["held_out"] else f"{result['held_out'][key]:.3f}",
            ]
            for label, key in (("accuracy", "eval_rewards/accuracies"), ("margin", "eval_rewards/margins"))
        ),
    ]
    table_rows = [[label, *map(show, found.values())] for label, show in rows]
    merged, nearest = (load(f"results/trained_model{name}.json")["held_out"]["reward_margin"] for name in ("", "_nearest"))
    unmeasured = ["–"] * (len(found) - 1)
    table_rows += [
        ["the same margin, merged into bf16 as for decoding", f"{merged:.3f}", *unmeasured],
        ["the same margin, merged and rounded to the nearest bf16", f"{nearest:.3f}", *unmeasured],
    ]
    about = {**found["dpo"], "commits": {"trained": [result["environment"]["commit"] for result in found.values()]}}
    return f"{table([found['dpo']['settings']['base_model'], *found], table_rows)}\n\n{hardware(about, 'trained')}"


def benchmark() -> str:
    result = load("results/benchmark.json")
    summary = result["summary"]
    rows = [
        ["transformers `generate`", f"{summary['generate']:.2f}", "1.00", "", "", "", ""],
        [
            "the same, linear layers packed",
            f"{summary['generate_packed']:.2f}",
            f"{summary['generate_packed'] / summary['generate']:.2f}",
            "",
            "",
            "",
            "",
        ],
        ["ours, no draft", f"{summary['ours']:.2f}", f"{summary['ours_over_generate']:.2f}", "1.00", "1.00", "", ""],
    ]
    rows += [
        [
            f"ours, K = {row['k']}",
            f"{row['tokens_per_second']:.2f}",
            f"{row['over_generate']:.2f}",
            f"{row['over_ours']:.2f}",
            f"{row['block_efficiency']:.2f}",
            f"{row['predicted_from_alpha']:.2f}",
            f"{row['predicted_from_blocks']:.2f}",
        ]
        for row in summary["by_k"]
    ]
    if speed := result["llama_cpp"]:
        rows.append(
            [
                "llama.cpp, the same file in Q4_K_M",
                f"{speed:.2f}",
                f"{speed / summary['generate']:.2f}",
                f"{speed / summary['ours']:.2f}",
                "",
                "",
                "",
            ]
        )
    header = [
        "decoding",
        "tokens/s",
        "× generate",
        "× ours without a draft",
        "tokens per pass",
        "predicted from α",
        "predicted from blocks",
    ]
    same = result["same_vocabulary"]
    overhead = max(row["overhead_share"] for row in summary["by_k"])
    return (
        f"{table(header, rows)}\n\nMedians over {result['settings']['prompts']} prompts, "
        f"{result['settings']['max_new_tokens']} new tokens, temperature 0.7. Cost ratio c = {summary['c']:.3f}; "
        f"time outside the two models' forwards at most {overhead:.1%}; peak memory "
        f"{result['peak_memory_bytes']['resident'] / 2**30:.1f} GiB. Where one model drafts for itself (SmolLM2, "
        f"K = {same['k']}), our loop makes {same['ours']:.1f} tokens/s and transformers' assisted generation "
        f"{same['assisted_generation']:.1f}. {hardware(result)}"
    )


def dataset() -> str:
    """The seed's statistics block and the coverage, as check_dataset.py found them."""
    result = load("results/dataset.json")
    figures = result["statistics"]
    block = "\n".join(
        (
            "Dataset statistics:",
            f"Total pairs: {figures['pairs']}",
            f"Avg chosen length: {figures['mean_chosen']:.0f} chars",
            f"Avg rejected length: {figures['mean_rejected']:.0f} chars",
            f"Length ratio (c/r): {figures['ratio']:.2f}x",
            f"Near-duplicate prompts: {figures['near_duplicates']} (verified with 12-word key deduplication)",
        )
    )
    rows = [
        [field.replace("_", " "), ", ".join(f"{value} {count}" for value, count in counts.items())]
        for field, counts in result["coverage"].items()
    ]
    shares = result["naming"]
    return (
        f"```\n{block}\n```\n\n{table(['field', 'rows'], rows)}\n\nA tool, setting or standard from the checker's list is "
        f"named in {percent(shares['chosen'])} of the chosen and {percent(shares['rejected'])} of the rejected answers. "
        f"Always choosing the longer answer is right in {percent(result['longer_is_chosen'])} of the pairs."
    )


def review() -> str:
    """What the second readers changed before the import, and what the later fact check of 100 rows found."""
    changes = list(read_jsonl("results/dataset_review.jsonl"))
    facts = list(read_jsonl("results/dataset_fact_check.jsonl"))
    verdicts = Counter(row["verdict"] for row in facts)
    kinds = Counter(row["kind"] for row in changes)
    return (
        f"The second readers changed {len({row['id'] for row in changes})} of the 985 rows "
        f"({', '.join(f'{kind} {count}' for kind, count in kinds.most_common())} changes). "
        f"Of {len(facts)} rows then drawn with seed 985 and read against public documentation, "
        f"{verdicts['supported']} were supported, {verdicts['unverified']} could be neither confirmed nor refuted, and "
        f"{verdicts['wrong']} held an error, which was mended."
    )


OUTPUTS = (
    "data_generation",
    "clean_dataset",
    "check_dataset",
    "check_vocab_compatibility",
    "preprocess_and_load_dataset",
    "train_dpo",
)
PARTS = {
    "README.md": {
        **{
            write.__name__: write
            for write in (
                claim,
                demo,
                seed_prompts,
                noise,
                seed_conditions,
                first_run,
                paired,
                trainings,
                replayed,
                live,
                agreement,
                training,
                exactness,
                live_speed,
                benchmark,
            )
        },
        **{f"figure {name}": partial(figure, name) for name in FIGURES},
        **{f"output {name}": partial(output, name) for name in OUTPUTS},
    },
    "DATASET_CARD.md": {"dataset": dataset, "review": review},
}


def fill(file: str) -> str:
    """Returns the text of `file` with every table and figure of it rewritten.

    Raises:
        Problem: the markers of one are not in the file.
    """
    text = Path(file).read_text(encoding="utf-8")
    for name, write in PARTS[file].items():
        markers = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not markers.search(text):
            raise Problem(f"{file} has no <!-- {name} --> … <!-- /{name} -->. Put the markers back.")
        try:
            body = write()
        except FileNotFoundError as fault:
            body = f"*Not measured yet: `{fault.filename}` is missing.*"
        text = markers.sub(lambda found, body=body: f"{found[1]}{body}\n{found[2]}", text)
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a document would change")
    args = parser.parse_args()
    stale = 0
    for file in PARTS:
        filled = fill(file)
        if not args.check:
            write_whole(Path(file), filled)
        elif filled != Path(file).read_text(encoding="utf-8"):
            stale = 1
            say(f"{file} disagrees with results/. Run make results.")
    return stale


if __name__ == "__main__":
    run(main)
