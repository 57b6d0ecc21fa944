"""The fair test of study 0: DPO of a draft of the verifier's own family, beside the usual draft, at one small budget.

tables.py writes these parts. A pair has a folder in results/small (the rows, their report, positions.json) and its adapter's
metrics in drafts/.
"""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from specdec.files import read_jsonl
from specdec.intervals import mean_with_interval
from specdec.report import (
    base_draft,
    draw_means,
    hardware,
    live_rows,
    load,
    mean_of,
    new_figure,
    overlaps_of,
    percent,
    point,
    rate,
    span,
    speed_verdict,
    step_of,
    table,
    verdict,
    zero_line,
)
from specdec.trace import live_means

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALL = Path("studies/preference/results/small")
LIVE = SMALL / "live/live.jsonl"  # the own family's draft
OWN, USUAL = "qwen-coder", "smollm2-qwen"  # the pairs: of the verifier's own family, and the usual one
PAIRS = Path("dpo_clean.jsonl")
WHOLE = Path("final_adapter/metrics.json")  # of the training at the paper's settings
FAIR = Path("studies/scale/results/fair/acceptance.json")  # the own family's draft, trained at these settings too


def reports() -> dict[str, dict]:
    """pair → its report, the own family first.

    Raises:
        FileNotFoundError: one of them is not measured yet.
    """
    return {pair: load(SMALL / pair / "acceptance.json") for pair in (OWN, USUAL)}


def name_of(report: dict) -> str:
    return report["conditions"]["draft"].rpartition("/")[2]


def trainings() -> dict[str, dict]:
    """draft → metrics of its small training."""
    return {name_of(report): load(Path(report["drafts"]["dpo"]["path"]) / "metrics.json") for report in reports().values()}


def whole() -> str:
    """What the whole training did, which a GPU allowed later."""
    report = load(FAIR)
    group = report["paired"]["at"]
    dpo, sft = group["changes"]["dpo"], group["changes"]["sft"]
    return (
        f"**At the paper's settings, on {group['prompts']} AT prompts: DPO {span(dpo)}, SFT on the chosen answers {span(sft)}; "
        f"they rose on {dpo['rose']} and {sft['rose']} prompts.**"
    )


# --- in words ---------------------------------------------------------------------------------------------------------


def by(change: dict, what: str = "it") -> str:
    """`lowered it by 0.0178 (0.0150 to 0.0206)`; a change that is none keeps its signs."""
    if verdict(change) not in ("lowered", "raised"):
        return f"{verdict(change)} {what}, {span(change)}"
    low, high = sorted(abs(bound) for bound in change["interval"])
    return f"{verdict(change)} {what} by {abs(change['mean']):.4f} ({low:.4f} to {high:.4f})"


def steps(metrics: dict) -> str:
    return f"{metrics['steps']} steps of {step_of(metrics)}"


def in_short() -> str:
    """For the front page, of the whole training; nothing before it is measured."""
    if not FAIR.exists():
        return ""
    group = load(FAIR)["paired"]["at"]
    changed = by(group["changes"]["dpo"], "that of a draft of the verifier's own family")
    return f"; the same training {changed}, on {group['prompts']}"


def budget() -> str:
    """What was trained on, and how that is less than the training at the paper's settings."""
    small, whole = next(iter(trainings().values())), load(WHOLE)
    times = small["settings"]["learning_rate"] / whole["settings"]["learning_rate"]
    passes = {1: "once", 2: "twice"}[small["settings"]["epochs"]]
    return (
        f"{small['rows']['train']} of the pairs, {passes}, {steps(small)}, at {times:.0f} times the learning rate for "
        f"{percent(small['steps'] / whole['steps'])} of the {whole['steps']} steps"
    )


def decision() -> str:
    """The row that decides beside the other pair's, and what was said in advance of each outcome."""
    said, changes = [], []
    for report in reports().values():
        group = report["paired"]["at"]
        changes.append(group["changes"]["dpo"])
        means = f"{group['means']['base']:.4f} → {group['means']['dpo']:.4f}"
        said.append(f"of {name_of(report)} DPO {verdict(changes[-1])} it, {means}, {span(changes[-1])}")
    words = f"At the small budget, mean Σ min(p, q) on {group['prompts']} AT prompts: {'; '.join(said)}."
    return f"**{words}** {reading(changes[0])} The two changes differ, prompt by prompt, by {span(apart())}."


def reading(change: dict) -> str:
    """What the sign of the deciding interval says."""
    return {
        "lowered": "So DPO needs no difference of family or of vocabulary to lower acceptance.",
        "raised": "So family, vocabulary, or how close the draft already was makes the sign.",
        "did not measurably change": "So the closer draft is hurt less at this budget, if at all.",
    }[verdict(change)]


def apart() -> dict:
    """The difference of the two drafts' changes on the same prompts."""
    own, usual = (overlaps_of(SMALL / pair / "paired.jsonl", "at") for pair in (OWN, USUAL))
    both = sorted(own.keys() & usual.keys())
    changes = [[of[prompt]["dpo"] - of[prompt]["base"] for prompt in both] for of in (own, usual)]
    return mean_with_interval([one - other for one, other in zip(*changes, strict=True)], seed=42)


# --- live, and what it writes -----------------------------------------------------------------------------------------


def live() -> str:
    """The test of the live runs, by its rule; nothing before all of them are there."""
    headers, runs = live_rows(LIVE)
    seeds = {run["seed"] for run in runs}
    rates = [of for _, of in live_means(runs, itemgetter("acceptance_rate"))]
    speeds = [of for _, of in live_means(runs, itemgetter("tokens_per_second"))]
    if len(runs) < len(speeds) * len(seeds) * 2:
        raise FileNotFoundError(2, "not measured whole", str(LIVE))
    change = mean_of([of["dpo"] - of["base"] for of in rates])
    ratio = mean_of([of["dpo"] / of["base"] for of in speeds])
    base, dpo = (mean_of([of[draft] for of in rates])["mean"] for draft in ("base", "dpo"))
    return (
        f"**Live, DPO {verdict(change)} accepted/drafted, and it {speed_verdict(ratio)}:** in int8 at K = "
        f"{headers[0]['conditions']['k']}, {base:.3f} → {dpo:.3f}, {span(change, 3)}, and {span(ratio, 3, sign='')} times the "
        f"tokens a second, on {change['prompts']} prompts at {len(seeds)} random seeds. "
        f"{hardware(header['environment'] for header in headers)}"
    )


def texts() -> str:
    """The answers of base and tuned draft to held-out prompts, as a person would read them."""
    result = load(SMALL / OWN / "trained_model.json")
    parts = []
    for found in result["texts"]:
        parts.append(f"**{found['prompt']}**")
        parts += [f"{name}:\n\n{quoted(found[key])}" for name, key in (("base", "base"), ("after DPO", "tuned"))]
    tokens = result["conditions"]["max_new_tokens"]
    parts.append(f"Greedy, cut at {tokens} tokens. {hardware([result['environment']])}")
    return "\n\n".join(parts)


def quoted(text: str) -> str:
    """As a Markdown quotation, in which the text's own Markdown is shown, not carried out."""
    return "\n".join(f">     {line}".rstrip() for line in text.splitlines())


# --- tables -----------------------------------------------------------------------------------------------------------


def results() -> str:
    rows, machines = [], []
    for report in reports().values():
        group, tokens = report["paired"]["at"], report["replayed"]["block_efficiency"]["at"]
        means, change = group["means"], group["changes"]["dpo"]
        cells = [str(group["prompts"]), f"{means['base']:.4f}", f"{means['dpo']:.4f}", span(change)]
        cells += [f"{change['rose']}/{group['prompts']}", span(tokens["changes"]["dpo"], 2)]
        rows.append([name_of(report), *cells])
        machines += report["measured"]["paired"]
    header = ["draft", "n", "base", "tuned", "change (95% interval)", "rose on", "tokens per pass, K = 4: change"]
    return f"{table(header, rows)}\n\n{hardware(machines)}"


def tokens_by_k() -> str:
    """Tokens per pass at every K, replayed from the stored answers."""
    rows = []
    for report in reports().values():
        rows += k_rows(report, "at", name_of(report), ["dpo"])
    return table(["draft", *(f"K = {k}" for k in report["tau"])], rows)


def k_rows(report: dict, domain: str, label: str, drafts: list[str]) -> list[list[str]]:
    """By K: the base draft's mean, each tuned draft's mean and its change with its interval."""
    groups = [groups[domain] for groups in report["tau"].values()]
    rows = [[f"{label}, base", *(f"{group['means']['base']:.2f}" for group in groups)]]
    for draft in drafts:
        rows.append([f"{label}, {draft}", *(f"{group['means'][draft]:.2f}" for group in groups)])
        rows.append([f"{label}, {draft} − base", *(span(group["changes"][draft], 3) for group in groups)])
    return rows


def training_table() -> str:
    """The two small trainings beside the one at the paper's settings."""
    found = {f"{draft}, small": metrics for draft, metrics in trainings().items()}
    whole = load(WHOLE)
    found[f"{base_draft(whole)}, the paper's settings"] = whole
    memory = [(of["peak_memory_bytes"]["gpu"] or of["peak_memory_bytes"]["resident"]) / 2**30 for of in found.values()]
    rows = [
        ["pairs trained on / held out", *(f"{of['rows']['train']} / {of['rows']['held_out']}" for of in found.values())],
        ["passes over them", *(str(of["settings"]["epochs"]) for of in found.values())],
        ["optimizer steps", *(steps(of) for of in found.values())],
        ["pairs in one forward pass", *(str(of["settings"]["batch_size"]) for of in found.values())],
        ["learning rate", *map(rate, found.values())],
        ["trainable parameters", *(f"{of['trainable_parameters']:,}" for of in found.values())],
        ["seconds", *(f"{of['seconds']:,.0f}" for of in found.values())],
        ["largest memory, GiB", *(f"{size:.1f}" for size in memory)],
        ["held-out loss", *(f"{of['held_out']['eval_loss']:.4f}" for of in found.values())],
        ["held-out reward accuracy", *(f"{of['held_out']['eval_rewards/accuracies']:.3f}" for of in found.values())],
        ["held-out reward margin", *(f"{of['held_out']['eval_rewards/margins']:.2f}" for of in found.values())],
    ]
    return f"{table(['training', *found], rows)}\n\n{hardware(of['environment'] for of in found.values())}"


# --- where in the answer ----------------------------------------------------------------------------------------------


def positions() -> dict[str, dict]:
    """draft → what positions.py found on the AT answers."""
    return {name_of(report): load(SMALL / pair / "positions.json")["at"] for pair, report in reports().items()}


def kinds() -> str:
    """Every kind of token, those first that the draft of the own family lost most on."""
    own, usual = (found["by_kind"]["dpo"] for found in positions().values())
    rows = []
    for kind, found in sorted(own.items(), key=lambda item: item[1]["change"]["mean"]):
        cells = [percent(found["share"]), str(found["prompts"])]
        for of_draft in (found, usual[kind]):
            cells += [f"{of_draft['base']:.3f}", span(of_draft["change"], 3)]
        rows.append([kind, *cells])
    header = ["AT answers: tokens", "share", "prompts that have one"]
    for draft in positions():
        header += [f"{draft}: base", "change by dpo"]
    return table(header, rows)


def kinds_in_words() -> str:
    """What the draft of the own family loses most, and whether the other one could have lost it."""
    (_, found), (usual_name, usual) = positions().items()
    own = found["by_kind"]["dpo"]
    lost = [kind for kind, of_kind in own.items() if of_kind["change"]["interval"][1] < 0]
    lost.sort(key=lambda kind: own[kind]["change"]["mean"])
    most = ", ".join(f"{kind} {span(own[kind]['change'], 3)}" for kind in lost[:3])
    reach = usual["out_of_reach"]["line break"]
    pairs = list(read_jsonl(PAIRS))
    broken = sum("\n" in row["chosen"] or "\n" in row["rejected"] for row in pairs)
    return (
        f"By kind of token, the draft of the own family loses most on: {most}. Of the dataset's {len(pairs)} pairs, "
        f"{broken} hold a line break; of the verifier's {found['prompts']} answers, {own['line break']['prompts']} do. "
        f"{usual_name} could not lose them: its vocabulary has no token for {reach['without']} of the {reach['tokens']} line "
        f"breaks, and its change there is {span(usual['by_kind']['dpo']['line break']['change'], 3)}."
    )


def of_dpo() -> dict[str, dict]:
    """draft → its groups of tokens by position in the answer."""
    return {draft: found["by_position"]["dpo"] for draft, found in positions().items()}


def positions_in_words() -> str:
    return (
        "Change of acceptance on AT prompts by position in the answer, after the small training, with 95% intervals. "
        f"{by_position_in_words(of_dpo())}."
    )


def draw_positions() -> Figure:
    return draw_by_position(of_dpo())


def position_points(groups: dict[str, dict]) -> list[tuple[str, dict]]:
    """(tokens of the answer, the change there), from the first on."""
    points = [(name, group["change"]) for name, group in groups.items()]
    return sorted(points, key=lambda named: int(named[0].split()[0]))


def by_position_in_words(drafts: dict[str, dict]) -> str:
    said = []
    for draft, groups in drafts.items():
        said.append(f"{draft}: {', '.join(f'{name} {span(change, 3)}' for name, change in position_points(groups))}")
    return "; ".join(said)


def draw_by_position(drafts: dict[str, dict]) -> Figure:
    """The changes of several drafts, each given as its groups by position."""
    figure, (panel,) = new_figure(7, 3.5)
    for number, (draft, groups) in enumerate(drafts.items()):
        points = position_points(groups)
        at = [index + 0.15 * number for index in range(len(points))]
        draw_means(panel, at, [change for _, change in points], number, draft)
    zero_line(panel, horizontal=True)
    panel.set_xticks(range(len(points)), [name for name, _ in points])
    panel.set(xlabel="tokens of the answer", ylabel="change against the base draft")
    panel.legend()
    return figure


# --- training curves --------------------------------------------------------------------------------------------------


def margins() -> dict[str, list[float]]:
    """draft → the reward margin of every step of its small training."""
    found = {}
    for report in reports().values():
        rows = read_jsonl(Path(report["drafts"]["dpo"]["path"]) / "metrics.jsonl")
        found[name_of(report)] = [row["rewards/margins"] for row in rows if "rewards/margins" in row]
    return found


def training_in_words() -> str:
    said = [f"{draft} {', '.join(f'{margin:.1f}' for margin in of_draft)}" for draft, of_draft in margins().items()]
    return f"Reward margin of the pairs of each step of the small training: {'; '.join(said)}."


def draw_training() -> Figure:
    figure, (panel,) = new_figure(6, 3.2)
    for number, (draft, of_draft) in enumerate(margins().items()):
        line = "--" if number else "-"
        panel.plot(range(1, len(of_draft) + 1), of_draft, **point(number), linestyle=line, label=draft)
    panel.set(xlabel="optimizer step", ylabel="reward margin")
    panel.legend()
    return figure
