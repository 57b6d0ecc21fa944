"""The tables and figures of study 0, on its own page, on the front page, on the dataset card and on the page for a GPU.

    python -m studies.preference.tables            draws the figures and fills the pages
    python -m studies.preference.tables --check    exits 1 if a page and the results disagree

The functions below are named like the parts that they write.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import studies.preference.own_family as own_family
from specdec.files import read_jsonl
from specdec.intervals import mean_with_interval
from specdec.report import (
    Part,
    draw_means,
    first_trainings,
    hardware,
    interval,
    load,
    new_figure,
    percent,
    picture,
    point,
    rate,
    run_pages,
    span,
    table,
    verdict,
    zero_line,
)
from specdec.terminal import run
from specdec.trace import Block, acceptance_by_position, read_block

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path("studies/preference")
FRONT, CARD, GPU, OWN = Path("README.md"), Path("DATASET_CARD.md"), Path("GPU.md"), HERE / "README.md"
RESULTS, FIGURES = HERE / "results", HERE / "figures"
REPORT, STUDY, LIVE = RESULTS / "acceptance.json", RESULTS / "study.json", RESULTS / "live.jsonl"
POSITIONS = RESULTS / "positions.json"
STUDY0 = Path("domains/study0.jsonl")  # the paper's prompts and what it printed of them

DOMAINS = ("at", "general")
QUERY_TYPES = ("definitional", "procedural", "recommendation", "technical")
LABELS = {
    "acceptance_rate": "accepted/drafted",
    "expected_acceptance": "Σ min(p, q)",
    "block_efficiency": "tokens per pass",
    "tokens_per_second": "tokens/s",
}
CHANGES = ["prompts", "draft", "n", "base", "tuned", "change", "95% interval", "rose on"]


# --- drafts, by the fields of their training --------------------------------------------------------------------------


def tuned_drafts(report: dict, again: bool = False) -> list[str]:
    """The tuned drafts in the report's order, the first training of each kind; `again`: the other trainings too."""
    first = first_trainings(report["drafts"])
    return [name for name, settings in report["drafts"].items() if settings and (again or first[name] == name)]


def draft_of(report: dict, loss: str, balance: str | None = None) -> str | None:
    """The first draft trained by this loss, on pairs balanced by this field or as they are; None if there is none."""
    for name in tuned_drafts(report):
        settings = report["drafts"][name]
        if (settings["loss"], settings.get("balance")) == (loss, balance):
            return name
    return None


def trained_again(report: dict, draft: str | None) -> list[str]:
    """The trainings of `draft`'s kind with another random seed."""
    first = first_trainings(report["drafts"])
    return [name for name, kind in first.items() if kind == draft and name != draft]


def training_in_words(settings: dict) -> str:
    words = (
        "DPO" if settings["loss"] == "dpo" else "SFT on the chosen answers" if settings["loss"] == "sft" else settings["loss"]
    )
    return f"{words}, balanced by {settings['balance'].replace('_', ' ')}" if settings.get("balance") else words


# --- the answer -------------------------------------------------------------------------------------------------------


def answer() -> str:
    """The test that was fixed in advance, then what bounds it."""
    report = load(REPORT)
    group = report["paired"]["at"]
    dpo = draft_of(report, "dpo")
    change = group["changes"][dpo]
    low, high = change["interval"]
    return (
        f"**On {group['prompts']} assistive-technology prompts, DPO {verdict(change)} the acceptance probability of the "
        f"draft: mean Σ min(p, q) went from {group['means']['base']:.4f} to {group['means'][dpo]:.4f}, a paired change of "
        f"{change['mean']:+.4f} (95% bootstrap interval over prompts {low:+.4f} to {high:+.4f}); it rose on "
        f"{change['rose']} of {group['prompts']} prompts.**{beside(report, dpo)}{live_in_words(report, dpo)}"
    )


def beside(report: dict, dpo: str | None) -> str:
    """The exploratory changes beside the deciding one."""
    found = [("DPO on general prompts", "general", dpo)]
    found.append(("supervised fine-tuning on the chosen answers alone", "at", draft_of(report, "sft")))
    found.append(("DPO balanced by query type", "at", draft_of(report, "dpo", "query_type")))
    for again in trained_again(report, dpo):
        found.append((f"DPO trained again with random seed {report['drafts'][again]['seed']}", "at", again))
    said = []
    for words, name, draft in found:
        changes = report["paired"].get(name, {"changes": {}})["changes"]
        if draft in changes:
            said.append(f"{words} {span(changes[draft])}")
    return f" Beside it, exploratory: {'; '.join(said)}." if said else ""


def live_in_words(report: dict, dpo: str | None) -> str:
    speed = report.get("live", {}).get("tokens_per_second", {}).get("at", {"changes": {}})
    if dpo not in speed["changes"]:
        return ""
    return (
        f" Live, on {speed['prompts']} of these prompts, the base draft's {speed['means']['base']:.1f} tokens/s changed by "
        f"{span(speed['changes'][dpo], 2)}."
    )


def row() -> str:
    """The study's cells in the front page's table of studies."""
    report = load(REPORT)
    group = report["paired"]["at"]
    dpo = draft_of(report, "dpo")
    change = group["changes"][dpo]
    return (
        f"DPO {own_family.by(change)}: mean Σ min(p, q) {group['means']['base']:.4f} → {group['means'][dpo]:.4f} on "
        f"{group['prompts']} AT prompts{own_family.in_short()}"
    )


def first_run() -> str:
    """What the deciding test said before the merge kept the whole adapter."""
    result = load(HERE / "history/acceptance_nearest.json")
    return (
        f"The test was run twice. At commit {result['environment']['commit'][:8]}, with the adapter's merge rounded to the "
        f"nearest bf16, it gave {span(result['paired']['at']['changes']['dpo'])}; then the merge was fixed and everything "
        "was measured again ([history](history/NOTE.md))."
    )


# --- paired -----------------------------------------------------------------------------------------------------------


def change_rows(groups: dict, names: Iterable[str], drafts: Iterable[str]) -> list[list[str]]:
    """A row of CHANGES for every group in `names` and every one of `drafts` that was measured on it."""
    drafts = list(drafts)
    rows = []
    for name in names:
        group = groups[name]
        for draft in drafts:
            if draft in group["changes"]:
                rows.append([name, draft, *change_cells(group, draft)])
    return rows


def change_cells(group: dict, draft: str) -> list[str]:
    change = group["changes"][draft]
    return [
        str(group["prompts"]),
        f"{group['means']['base']:.4f}",
        f"{group['means'][draft]:.4f}",
        f"{change['mean']:+.4f}",
        interval(change),
        f"{change['rose']}/{group['prompts']}",
    ]


def paired() -> str:
    """The study's one table: both large sets, every draft, trainings again included."""
    report = load(REPORT)
    rows = []
    for name, draft, *cells in change_rows(report["paired"], DOMAINS, tuned_drafts(report, again=True)):
        settings = report["drafts"][draft]
        rows.append([name, draft, training_in_words(settings), str(settings["seed"]), *cells])
    header = ["prompts", "draft", "trained by", "random seed", *CHANGES[2:]]
    return f"{table(header, rows)}\n\n{training_gap(report)}{hardware(report['measured']['paired'])}"


def pairs() -> str:
    """The drafts of every pair on the large sets: ours, then what was sent in, a folder a pair in results/ (GPU.md)."""
    rows, machines = [], []
    for file in (REPORT, *sorted(RESULTS.glob("*/acceptance.json"))):
        report = load(file)
        draft, verifier = (report["conditions"][model].split("/")[-1] for model in ("draft", "verifier"))
        names = [name for name in DOMAINS if name in report["paired"]]
        for row in change_rows(report["paired"], names, tuned_drafts(report)):
            rows.append([f"{draft} → {verifier}", *row])
        machines += report["measured"]["paired"]
    return f"{table(['pair', *CHANGES], rows)}\n\n{hardware(machines)}"


def training_gap(report: dict) -> str:
    """How far two trainings of a kind are apart, at most."""
    first = first_trainings(report["drafts"])
    gaps = []
    for name in DOMAINS:
        changes = report["paired"][name]["changes"]
        gaps += [abs(changes[draft]["mean"] - changes[first[draft]]["mean"]) for draft in changes if first[draft] != draft]
    return f"Two trainings of a kind differ by at most {max(gaps):.4f}. " if gaps else ""


def by_query_type() -> list[str]:
    """The groups of the large sets: each domain, then its query types."""
    names = []
    for domain in DOMAINS:
        names += [domain, *(f"{domain}: {kind}" for kind in QUERY_TYPES)]
    return names


def query_types() -> str:
    report = load(REPORT)
    names = [name for name in by_query_type() if name not in DOMAINS]
    rows = change_rows(report["paired"], names, tuned_drafts(report))
    return f"{table(CHANGES, rows)}\n\n{hardware(report['measured']['paired'])}"


def replayed() -> str:
    """The paper's α and the block efficiency at the report's K, from the stored answers."""
    report = load(REPORT)
    rows = []
    for metric, groups in report["replayed"].items():
        rows += [[LABELS[metric], *cells] for cells in change_rows(groups, DOMAINS, tuned_drafts(report))]
    return f"{table(['metric', *CHANGES], rows)}\n\n{hardware(report['measured']['paired'])}"


def by_k() -> str:
    """Tokens per verifier pass at every K, from the stored answers."""
    report = load(REPORT)
    rows = []
    for domain in DOMAINS:
        rows += own_family.k_rows(report, domain, domain, tuned_drafts(report))
    return table(["prompts, draft", *(f"K = {k}" for k in report["tau"])], rows)


# --- live -------------------------------------------------------------------------------------------------------------


def measured(file: Path, key: str) -> dict:
    """A report, if it has under `key` what `live` must have been run for."""
    report = load(file)
    if not report.get(key):
        raise FileNotFoundError(2, "not measured", str(LIVE))
    return report


def live() -> str:
    """What users see, the paper's prompts and a subset of the large sets: the same changes with all their noise."""
    report = measured(REPORT, "live")
    rows = []
    for metric, label in LABELS.items():
        groups = report["live"][metric]
        names = [name for name in ("study0 at", *DOMAINS) if name in groups]
        rows += [[label, *cells] for cells in change_rows(groups, names, tuned_drafts(report))]
    return f"{table(['metric', *CHANGES], rows)}\n\n{hardware(report['measured']['live'])}"


def live_holds_zero() -> str:
    """How many of the intervals in that table hold zero."""
    report = measured(REPORT, "live")
    found = []
    for metric in LABELS:
        for name, group in report["live"][metric].items():
            if name in ("study0 at", *DOMAINS):
                found += [verdict(group["changes"][draft]) for draft in tuned_drafts(report) if draft in group["changes"]]
    return f"{found.count('did not measurably change')} of the {len(found)} intervals hold zero"


def agreement() -> str:
    found = measured(REPORT, "agreement")["agreement"]
    said = [f"{name} {span(change)} over {change['prompts']} prompts" for name, change in found.items()]
    return f"live − replayed: {'; '.join(said)}."


def live_speed() -> str:
    """The paper's secondary metric: the live runs of its twelve prompts that stand beside one of the plain verifier."""
    study = measured(STUDY, "live_speed")
    rows = []
    for draft, found in study["live_speed"].items():
        cells = [f"{found[key]:.2f}" for key in ("seconds", "tokens_per_second", "block_efficiency")]
        bounds = interval(found["speedup"], 2, sign="") if draft != "verifier" else "–"
        rows.append([draft, str(found["runs"]), f"{found['tokens']:.0f}", *cells, f"{found['speedup']['mean']:.2f}", bounds])
    header = ["draft", "runs", "tokens", "seconds", "tokens/s", "tokens per pass", "× plain verifier", "95% interval"]
    unlike = (
        "The tuned draft's adapter is attached beside 4-bit weights and does more work per token than the base draft: "
        "compare their acceptance, not their seconds. "
    )
    attached = "attached" in load(REPORT)["adapter_states"].values()
    return f"{table(header, rows)}\n\n{unlike if attached else ''}{hardware(study['measured']['live'])}"


# --- the paper's tables, ours beside them -----------------------------------------------------------------------------


def study0_report() -> tuple[dict, list[dict], str]:
    """What study 0's analysis found, the paper's prompts, and the name of the DPO draft; all prompts measured or none."""
    study = measured(STUDY, "live_by_prompt")
    prompts = list(read_jsonl(STUDY0))
    dpo = draft_of(load(REPORT), "dpo") or "dpo"
    whole = {found["prompt"] for found in study["live_by_prompt"] if {"base", dpo} <= found["drafts"].keys()}
    if any(prompt["prompt"] not in whole for prompt in prompts):
        raise FileNotFoundError(2, "not measured", str(LIVE))
    return study, prompts, dpo


def study0_prompts(domain: str) -> str:
    """The paper's first table (AT) or its second (general)."""
    study, prompts, dpo = study0_report()
    ours = {found["prompt"]: found["drafts"] for found in study["live_by_prompt"]}
    rows, columns, runs = [], [], set()
    for prompt in prompts:
        if prompt["domain"] != domain:
            continue
        base, tuned = ours[prompt["prompt"]]["base"], ours[prompt["prompt"]][dpo]
        runs |= {base["runs"], tuned["runs"]}
        columns.append([*prompt["published"].values(), base["mean"], tuned["mean"]])
        sd = "–" if base["sd"] is None else f"{base['sd']:.3f}"
        rows.append([prompt["short"], prompt["query_type"], *with_change(columns[-1]), sd])
    means = [statistics.fmean(column) for column in zip(*columns, strict=True)]
    rows.append(["Average", "", *with_change(means), ""])
    header = ["Prompt", "Query type", "paper: Base α", "DPO α", "Δα", "ours: Base α", "DPO α", "Δα", "sd of one base run"]
    seeds = " to ".join(map(str, sorted(runs)))
    return f"{table(header, rows)}\n\nOurs: means over {seeds} random seeds. {hardware(study['measured']['live'])}"


def with_change(values: list[float]) -> list[str]:
    """[base, tuned, base, tuned, …] with each pair's difference behind it."""
    cells = []
    for base, tuned in zip(values[::2], values[1::2], strict=True):
        cells += [f"{base:.3f}", f"{tuned:.3f}", f"{tuned - base:+.3f}"]
    return cells


def published_changes(prompts: list[dict], domain: str, types: str = "") -> list[float]:
    """The paper's own Δα of its prompts of a domain, and of the query types named in `types`, if any is."""
    return [
        prompt["published"]["dpo"] - prompt["published"]["base"]
        for prompt in prompts
        if prompt["domain"] == domain and prompt["query_type"] in (types or prompt["query_type"])
    ]


PRINTED = {
    "at": (0.729, 0.748, "+0.019"),
    "at: recommendation/definitional": (0.676, 0.752, "+0.067"),
    "at: procedural/technical": (0.784, 0.749, "−0.052"),
    "general": (0.933, 0.863, "−0.070"),
}  # the paper's third table; two differences are not those of the two means


def study0_conditions() -> str:
    """The paper's third table: as printed, as its own rows give it, ours on its prompts, ours on the large sets."""
    study, prompts, dpo = study0_report()
    report = load(REPORT)
    rows = []
    for name, (base, tuned, printed) in PRINTED.items():
        domain, _, types = name.partition(": ")
        source = study["by_condition"] if types else report
        live_change = source["live"]["acceptance_rate"][f"study0 {name}"]["changes"][dpo]
        large = source["replayed"]["acceptance_rate"][name]
        own = statistics.fmean(published_changes(prompts, domain, types))
        cells = [f"{base:.3f}", f"{tuned:.3f}", printed, f"{own:+.3f}", span(live_change, 3)]
        rows.append([name, *cells, str(large["prompts"]), span(large["changes"][dpo], 3)])
    header = ["Condition", "paper: Base α", "DPO α", "Δα, as printed", "Δα, of its rows", "ours, its prompts: Δα"]
    header += ["n, large set", "ours, large set: Δα, replayed"]
    return f"{table(header, rows)}\n\n{hardware(study['measured']['live'] + study['measured']['paired'])}"


def noise() -> str:
    """What run-to-run variation alone does to the paper's first table."""
    found = measured(STUDY, "noise")["noise"]
    published = published_changes(list(read_jsonl(STUDY0)), "at")
    changes = ", ".join(f"{change:+.3f}" for change in found["by_seed"].values())
    return (
        f"α of one prompt has a standard deviation of {found['run']:.3f} between random seeds, and its change from base to "
        f"dpo at one random seed {found['difference']:.3f} ({found['prompts']} AT prompts, {found['seeds']} random seeds). "
        f"The paper's Δα over its ten AT prompts has {statistics.stdev(published):.3f}: on our pair, noise alone gives "
        f"nearly as much. Each random seed alone is the paper's whole experiment; ours gave a mean Δα of {changes}. To find "
        f"the {found['effect']:+.4f} that the large set shows in four of five such experiments takes about "
        f"{found['prompts_needed']} prompts."
    )


# --- adapters, dataset, what scripts print ----------------------------------------------------------------------------


def adapters() -> str:
    """The adapter that ships and its controls, as their metrics say."""
    report = load(REPORT)
    found = {name: load(f"{report['drafts'][name]['path']}/metrics.json") for name in tuned_drafts(report, again=True)}
    rows = [
        ["pairs trained on / held out", *(f"{of['rows']['train']} / {of['rows']['held_out']}" for of in found.values())],
        ["optimizer steps", *(str(of["steps"]) for of in found.values())],
        ["trainable parameters", *(f"{of['trainable_parameters']:,}" for of in found.values())],
        ["held-out loss (of its own kind)", *held_out(found, "eval_loss")],
        ["held-out reward accuracy", *held_out(found, "eval_rewards/accuracies")],
        ["held-out reward margin", *held_out(found, "eval_rewards/margins")],
    ]
    dpo = draft_of(report, "dpo")
    for words, file in (
        ("merged into bf16 as for decoding", RESULTS / "trained_model.json"),
        ("merged and rounded to the nearest bf16", HERE / "history/trained_model_nearest.json"),
    ):
        margin = f"{load(file)['held_out']['reward_margin']:.3f}"
        rows.append([f"the same margin, {words}", *(margin if name == dpo else "–" for name in found)])
    base = next(iter(found.values()))["settings"]["base_model"]
    return f"{table([base, *found], rows)}\n\n{hardware(of['environment'] for of in found.values())}"


def settings() -> str:
    """Those of the adapter that ships, and from which step on it told all pairs of a batch apart."""
    file = Path(load(REPORT)["drafts"]["dpo"]["path"])
    metrics = load(file / "metrics.json")
    of = metrics["settings"]
    steps = [row for row in read_jsonl(file / "metrics.jsonl") if "rewards/accuracies" in row]
    last = max(row["step"] for row in steps if row["rewards/accuracies"] < 1)
    return (
        f"LoRA r {of['lora_r']}, alpha {of['lora_alpha']}, β {of['beta']}, {of['epochs']} passes, batch {of['batch_size']} × "
        f"{of['gradient_accumulation']}, learning rate {rate(metrics)} with a cosine, maximal length "
        f"{of['max_length']}; {own_family.steps(metrics)}. From step {last + 1} on, its reward accuracy on the training "
        "batches is 1.000."
    )


def budget() -> str:
    return own_family.steps(load(own_family.WHOLE))


def held_out(found: dict[str, dict], key: str) -> list[str]:
    return [f"{of['held_out'][key]:.3f}" if key in of["held_out"] else "–" for of in found.values()]


def output(name: str) -> str:
    """What a script printed, as run.sh kept it."""
    return f"```text\n{(RESULTS / f'output/{name}.txt').read_text(encoding='utf-8').rstrip()}\n```"


def dataset() -> str:
    """The paper's statistics block and the coverage, as check_dataset.py found them."""
    result = load(RESULTS / "dataset.json")
    found = result["statistics"]
    lines = [
        "Dataset statistics:",
        f"Total pairs: {found['pairs']}",
        f"Avg chosen length: {found['mean_chosen']:.0f} chars",
        f"Avg rejected length: {found['mean_rejected']:.0f} chars",
        f"Length ratio (c/r): {found['ratio']:.2f}x",
        f"Near-duplicate prompts: {found['near_duplicates']} (verified with 12-word key deduplication)",
    ]
    block = "\n".join(lines)
    rows = []
    for field, counts in result["coverage"].items():
        rows.append([field.replace("_", " "), ", ".join(f"{value} {count}" for value, count in counts.items())])
    shares = result["naming"]
    return (
        f"```\n{block}\n```\n\n{table(['field', 'rows'], rows)}\n\nA tool, setting or standard from the checker's list is "
        f"named in {percent(shares['chosen'])} of the chosen and {percent(shares['rejected'])} of the rejected answers. "
        f"Always choosing the longer answer is right in {percent(result['longer_is_chosen'])} of the pairs."
    )


def review() -> str:
    """What the second readers changed before the import, and what the later fact check of 100 rows found."""
    changes = list(read_jsonl(RESULTS / "dataset_review.jsonl"))
    facts = list(read_jsonl(RESULTS / "dataset_fact_check.jsonl"))
    verdicts = Counter(found["verdict"] for found in facts)
    kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(found["kind"] for found in changes).most_common())
    return (
        f"The second readers changed {len({found['id'] for found in changes})} of the 985 rows ({kinds} changes). "
        f"Of {len(facts)} rows then drawn with random seed 985 and read against public documentation, "
        f"{verdicts['supported']} were supported, {verdicts['unverified']} could be neither confirmed nor refuted, and "
        f"{verdicts['wrong']} held an error, which was corrected."
    )


# --- figures ----------------------------------------------------------------------------------------------------------


def changes_in_words() -> str:
    report = load(REPORT)
    groups, drafts = report["paired"], tuned_drafts(report)
    found = []
    for name in DOMAINS:
        found += [f"{draft} on {name} prompts {span(groups[name]['changes'][draft])}" for draft in drafts]
    bounds = []
    for name in by_query_type():
        bounds += [groups[name]["changes"][draft]["interval"] for draft in drafts]
    return (
        f"Change of mean Σ min(p, q) against the base draft, with 95% intervals: {'; '.join(found)}. By domain and query "
        f"type, {sum(high < 0 for _, high in bounds)} of {len(bounds)} intervals lie below zero and "
        f"{sum(low > 0 for low, _ in bounds)} above."
    )


def draw_changes() -> Figure:
    report = load(REPORT)
    names, drafts = by_query_type(), tuned_drafts(report)
    figure, (panel,) = new_figure(8, 0.6 * len(names) + 1.2)
    for line, name in enumerate(names):
        for number, draft in enumerate(drafts):
            change = report["paired"][name]["changes"][draft]
            height = -line - 0.22 * (number - (len(drafts) - 1) / 2)
            panel.plot(change["interval"], [height] * 2, color="black", linewidth=1)
            panel.plot(change["mean"], height, **point(number + 1), linestyle="", label=draft if line == 0 else None)
    zero_line(panel, horizontal=False)
    panel.set_yticks([-line for line in range(len(names))], names)
    panel.set_xlabel("change of mean Σ min(p, q) against the base draft, 95% interval")
    figure.legend(loc="outside upper center", ncols=len(drafts))
    return figure


def changes_by_prompt() -> dict[str, list[float]]:
    """domain → the sorted changes of its prompts by DPO, the paper's own prompts left out."""
    dpo = draft_of(load(REPORT), "dpo")
    values: dict[str, dict[str, dict]] = {domain: {} for domain in DOMAINS}
    for found in read_jsonl(RESULTS / "paired.jsonl"):
        if "overlap" in found and found["source"] != "study0":
            values[found["domain"]].setdefault(found["prompt"], {}).update(found["overlap"])
    changes = {}
    for domain, prompts in values.items():
        changes[domain] = sorted(overlap[dpo] - overlap["base"] for overlap in prompts.values() if dpo in overlap)
    return changes


def prompts_in_words() -> str:
    said = []
    for domain, values in changes_by_prompt().items():
        fell = sum(value < 0 for value in values)
        bounds = f"median {statistics.median(values):+.4f}, from {values[0]:+.4f} to {values[-1]:+.4f}"
        said.append(f"{domain}: it fell on {fell} of {len(values)}, {bounds}")
    return f"Change of mean Σ min(p, q) by DPO, one dot a prompt. {'; '.join(said)}."


def draw_prompts() -> Figure:
    changes = changes_by_prompt()
    figure, panels = new_figure(8, 3.2, panels=len(changes))
    for panel, (domain, values) in zip(panels, changes.items(), strict=True):
        panel.plot(range(1, len(values) + 1), values, "o", color="black", markersize=3)
        zero_line(panel, horizontal=True)
        panel.set(title=f"{domain}, {len(values)} prompts", xlabel="prompts, in order of their change")
    panels[0].set_ylabel("dpo − base, Σ min(p, q)")
    return figure


def accepted_by_position() -> dict[str, list[dict]]:
    """draft → share accepted among the drafts tested at position 1, 2, … of a block: means over the paper's prompts."""
    blocks: dict[str, dict[str, list[Block]]] = {}
    for found in read_jsonl(LIVE):
        if "blocks" in found and found["source"] == "study0" and found["draft"] != "verifier":
            of_prompt = blocks.setdefault(found["draft"], {}).setdefault(found["prompt"], [])
            of_prompt += map(read_block, found["blocks"])
    result = {}
    for draft, prompts in blocks.items():
        shares = [acceptance_by_position(of_prompt) for of_prompt in prompts.values()]
        result[draft] = [mean_with_interval(list(of_position), seed=42) for of_position in zip(*shares, strict=False)]
    return result


def positions_in_words() -> str:
    said = []
    for draft, shares in accepted_by_position().items():
        said.append(f"{draft} {', '.join(span(share, 3).replace('+', '') for share in shares)}")
    return (
        "Share of tested drafts that the verifier accepts, live, by position 1, 2, … in the block: means over the paper's "
        f"prompts, with 95% intervals. {'; '.join(said)}."
    )


def draw_positions() -> Figure:
    found = accepted_by_position()
    figure, (panel,) = new_figure(6, 3.2)
    for number, (draft, shares) in enumerate(found.items()):
        at = [index + 0.08 * number for index in range(1, len(shares) + 1)]
        draw_means(panel, at, shares, number, draft)
    longest = max(map(len, found.values()))
    panel.set(xlabel="position in the block", ylabel="accepted / tested", ylim=(0, 1), xticks=range(1, longest + 1))
    panel.legend(title="draft")
    return figure


# --- where in the answer ----------------------------------------------------------------------------------------------

COMPARED = ("dpo", "sft")  # the two objectives, on AT prompts


def token_kinds() -> str:
    """Every kind of token: how common it is, how often the base draft proposes it, what either objective changes there."""
    result = load(POSITIONS)
    dpo, sft = (result["at"]["by_kind"][draft] for draft in COMPARED)
    rows = []
    for kind, found in sorted(dpo.items(), key=lambda item: -item[1]["share"]):
        cells = [percent(found["share"]), str(found["prompts"]), f"{found['base']:.3f}"]
        rows.append([kind, *cells, span(found["change"], 3), span(sft[kind]["change"], 3)])
    header = ["AT answers: tokens", "share", "prompts that have one", "base", "change by dpo", "change by sft"]
    return f"{table(header, rows)}\n\n{hardware(result['measured']['paired'])}"


def where() -> str:
    """What the kinds say of the paper's explanation."""
    dpo, sft = (load(POSITIONS)["at"]["by_kind"][draft] for draft in COMPARED)
    marker, name, stop, word = (
        dpo[kind]["change"]
        for kind in ("list or heading marker", "name of a tool or standard", "the stop token", "beginning of a word")
    )
    return (
        f"List markers, where a formatting mismatch would show, hardly move under DPO: {span(marker, 3)}. Names of tools and "
        f"standards, which the chosen answers are full of, are accepted more often: {span(name, 3)}. The stop token falls by "
        f"far the most, {span(stop, 3)}, and rises under sft, {span(sft['the stop token']['change'], 3)}. What carries the "
        f"whole is the plain words: {percent(dpo['beginning of a word']['share'])} of the tokens begin one, {span(word, 3)}."
    )


def by_position() -> dict[str, dict]:
    found = load(POSITIONS)["at"]["by_position"]
    return {draft: found[draft] for draft in COMPARED}


def where_in_words() -> str:
    said = own_family.by_position_in_words(by_position())
    return f"Change of acceptance on AT prompts by position in the answer, with 95% intervals. {said}."


def draw_where() -> Figure:
    return own_family.draw_by_position(by_position())


# --- pages ------------------------------------------------------------------------------------------------------------


def shown(name: str, words: Part, page: Path) -> Part:
    """The part of `page` that shows a figure."""
    return lambda: picture(FIGURES / f"{name}.png", page, words())


OUTPUTS = (
    "data_generation",
    "clean_dataset",
    "check_dataset",
    "check_vocab_compatibility",
    "preprocess_and_load_dataset",
    "train_dpo",
)

OWN_PARTS: dict[str, Part] = {
    "answer": answer,
    "budget": budget,
    "paired": paired,
    "figure changes": shown("changes", changes_in_words, OWN),
    "first run": first_run,
    "query types": query_types,
    "where": where,
    "own family, budget": own_family.budget,
    "own family in words": own_family.decision,
    "own family, whole": own_family.whole,
    "own family, live": own_family.live,
    "own family, texts": own_family.texts,
    "own family, kinds in words": own_family.kinds_in_words,
    "own family": own_family.results,
    "own family, by k": own_family.tokens_by_k,
    "own family, training": own_family.training_table,
    "figure own_family_training": shown("own_family_training", own_family.training_in_words, OWN),
    "own family, kinds": own_family.kinds,
    "figure own_family_where": shown("own_family_where", own_family.positions_in_words, OWN),
    "token kinds": token_kinds,
    "figure where": shown("where", where_in_words, OWN),
    "figure prompts": shown("prompts", prompts_in_words, OWN),
    "replayed": replayed,
    "by k": by_k,
    "live holds zero": live_holds_zero,
    "live": live,
    "agreement": agreement,
    "live speed": live_speed,
    "noise": noise,
    "figure positions": shown("positions", positions_in_words, OWN),
    "settings": settings,
    "adapters": adapters,
    **{f"output {name}": partial(output, name) for name in OUTPUTS},
}
FRONT_PARTS: dict[str, Part] = {
    "row preference": row,
    "figure changes": shown("changes", changes_in_words, FRONT),
    "study 0, at": partial(study0_prompts, "at"),
    "study 0, general": partial(study0_prompts, "general"),
    "study 0, conditions": study0_conditions,
}
PAGES: dict[Path, dict[str, Part]] = {
    FRONT: FRONT_PARTS,
    OWN: OWN_PARTS,
    CARD: {"dataset": dataset, "review": review},
    GPU: {"pairs": pairs},
}
DRAWN = {
    FIGURES / "changes.png": draw_changes,
    FIGURES / "prompts.png": draw_prompts,
    FIGURES / "where.png": draw_where,
    FIGURES / "positions.png": draw_positions,
    FIGURES / "own_family_training.png": own_family.draw_training,
    FIGURES / "own_family_where.png": own_family.draw_positions,
}


def main() -> int:
    return run_pages(__doc__, PAGES, DRAWN)


if __name__ == "__main__":
    run(main)
