"""The tables and the figure of the larger budgets, and their row on the front page.

    python -m studies.scale.tables            draws the figure and fills the pages
    python -m studies.scale.tables --check    exits 1 if a page and the results disagree

The functions below are named like the parts that they write.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from specdec.report import (
    Part,
    base_draft,
    count_passes,
    difference,
    draw_means,
    hardware,
    live_pairs,
    load,
    mean_of,
    new_figure,
    overlaps_of,
    picture,
    rate,
    run_pages,
    span,
    speed_verdict,
    step_of,
    table,
    verdict,
    zero_line,
)
from specdec.terminal import run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path("studies/scale")
FRONT, OWN = Path("README.md"), HERE / "README.md"
RESULTS, DRAFTS = HERE / "results", HERE / "drafts"
FAIR, RATES, TEXT = (RESULTS / name / "acceptance.json" for name in ("fair", "fair_rates", "text"))
FAIR_ROWS, RATE_ROWS, TEXT_ROWS = (RESULTS / name / "paired.jsonl" for name in ("fair", "fair_rates", "text"))
POSITIONS = RESULTS / "fair/positions.json"  # of the fair pair's whole trainings
RANK, RANK_ROWS = (Path("studies/preference/results/small/smollm2-qwen") / name for name in ("acceptance.json", "paired.jsonl"))
STUDY0 = Path("studies/preference/results/acceptance.json")
LIVE, STUDY2_LIVE = RESULTS / "live/live.jsonl", Path("studies/distillation/results/live/live.jsonl")
FIGURE, MARGINS = HERE / "figures/text.png", HERE / "figures/margins.png"
SMALL = ("dpo_1e-5", "dpo_5e-5", "dpo_3e-4")  # 14 steps, by rate
BY_TEXT = ("at_64", "at_125", "at_250", "at_all")  # one pass over more and more AT answers
MORE, MORE_LIVE = "long_42", "distilled_more"  # AT and general answers; the name under which it ships
RANKS = ("dpo", "dpo_r128")  # of SmolLM2's small DPO, the lower one first
SHIPPED = "shipped"  # adapters/distilled, measured again beside the others
DOMAINS = {"at": "AT", "general": "general"}
STUDY0_ROWS, SMALL_DRAFTS = STUDY0.with_name("paired.jsonl"), Path("studies/preference/drafts")
BY_DPO = (  # every training by DPO of either pair: its folder, the rows that it was measured in, its name there
    *((DRAFTS / f"half_{draft}", RATE_ROWS, draft) for draft in SMALL),
    (DRAFTS / "half_dpo", FAIR_ROWS, "dpo"),
    (SMALL_DRAFTS / "qwen-coder", RANK_ROWS.parents[1] / "qwen-coder/paired.jsonl", "dpo"),
    (Path("final_adapter"), STUDY0_ROWS, "dpo"),
    (Path("adapters/balanced"), STUDY0_ROWS, "balanced"),
    (Path("adapters/dpo-seed43"), STUDY0_ROWS, "dpo-seed43"),
    (SMALL_DRAFTS / "smollm2-qwen", RANK_ROWS, "dpo"),
    (SMALL_DRAFTS / "smollm2-qwen_r128", RANK_ROWS, "dpo_r128"),
)


def training(draft: str) -> dict:
    return load(DRAFTS / draft / "metrics.json")


def answers(report: dict, draft: str) -> int:
    return report["drafts"][draft]["answers"]


# --- the fair pair ----------------------------------------------------------------------------------------------------


def fair() -> str:
    """Whole trainings of the draft of the verifier's own family."""
    report = load(FAIR)
    rows = []
    for domain, words in DOMAINS.items():
        group, tokens = report["paired"][domain], report["replayed"]["block_efficiency"][domain]
        for draft, change in group["changes"].items():
            means = [f"{group['means'][name]:.4f}" for name in ("base", draft)]
            blocks = f"{tokens['means']['base']:.2f} → {tokens['means'][draft]:.2f}"
            rose = f"{change['rose']}/{group['prompts']}"
            rows.append([words, draft, str(group["prompts"]), *means, span(change), rose, blocks])
    header = ["prompts", "draft", "n", "base", "tuned", "change (95% interval)", "rose on", "tokens per pass, K = 4"]
    return f"{table(header, rows)}\n\n{hardware(report['measured']['paired'])}"


def fair_in_words() -> str:
    report = load(FAIR)
    group = report["paired"]["at"]
    said = []
    for draft, words in (("dpo", "DPO"), ("sft", "SFT on the chosen answers")):
        change = group["changes"][draft]
        said.append(f"{words} {verdict(change)} it, {span(change)}, rising on {change['rose']} prompts")
    name = report["conditions"]["draft"].rpartition("/")[2]
    return (
        f"**Whole, at study 0's settings, on {group['prompts']} AT prompts: mean Σ min(p, q) of {name} was "
        f"{group['means']['base']:.4f}; {'; '.join(said)}.**"
    )


def beside_study0() -> str:
    """The changes of study 0's own draft at the same settings, on the same prompts."""
    theirs, ours = load(STUDY0)["paired"]["at"], load(FAIR)["paired"]["at"]
    said = []
    for draft, words in (("dpo", "DPO"), ("sft", "SFT")):
        lost = [f"{span(of['changes'][draft])} of {of['means']['base']:.4f}" for of in (theirs, ours)]
        said.append(f"{words} {lost[0]} there, {lost[1]} here")
    return f"Beside study 0's draft, of another family behind two vocabularies, at the same settings: {'; '.join(said)}."


def on_the_few(rows: Path, draft: str) -> dict:
    """The change of a draft on the prompts of the small trainings, from rows that hold these prompts too."""
    few = overlaps_of(RATE_ROWS, "at")
    found = [drafts for prompt, drafts in overlaps_of(rows, "at").items() if prompt in few and draft in drafts]
    return mean_of([drafts[draft] - drafts["base"] for drafts in found])


def whole_on_the_few() -> dict:
    return on_the_few(FAIR_ROWS, "dpo")


def rates_in_words() -> str:
    """The second test, by its rule."""
    changes = load(RATES)["paired"]["at"]["changes"]
    apart = difference(overlaps_of(RATE_ROWS, "at"), "dpo_5e-5", "dpo_3e-4")
    low = [draft for draft in ("dpo_5e-5", "dpo_1e-5") if verdict(changes[draft]) == "lowered"]
    said = "none of it" if apart["interval"][0] <= 0 else "part of it" if low else "all of it"
    of_rates = "; ".join(f"at {draft.removeprefix('dpo_')} {span(changes[draft])}" for draft in SMALL)
    steps = training("half_dpo_5e-5")["steps"]
    return f"By the rule of the second test the rate did {said}: {steps} steps {of_rates}; between 5e-5 and 3e-4 {span(apart)}."


def steps_or_rate() -> str:
    """Beside the second test: the whole training at the low rate, on the prompts of the few steps."""
    small, whole = load(RATES)["paired"]["at"], whole_on_the_few()
    few, all_of_them = (training(draft)["steps"] for draft in ("half_dpo_5e-5", "half_dpo"))
    return (
        f"A high rate is one way to such a fall and more steps another: at 5e-5, {few} steps changed it by "
        f"{span(small['changes']['dpo_5e-5'])}, {all_of_them} steps by {span(whole)}, on the same {small['prompts']} prompts."
    )


def kinds() -> str:
    """Every kind of token of the AT answers, those first that carry most of DPO's fall."""
    found = load(POSITIONS)["at"]["by_kind"]
    rows = []
    for kind, dpo in sorted(found["dpo"].items(), key=lambda item: item[1]["share"] * item[1]["change"]["mean"]):
        cells = [str(dpo["prompts"]), f"{dpo['share']:.1%}", f"{dpo['base']:.3f}"]
        for of_kind in (dpo, found["sft"][kind]):
            cells += [span(of_kind["change"], 3), f"{of_kind['share'] * of_kind['change']['mean']:+.4f}"]
        rows.append([kind, *cells])
    header = ["AT answers: tokens", "answers that have one", "share", "base"]
    return table([*header, "change by dpo", "times its share", "change by sft", "times its share"], rows)


def kinds_in_words() -> str:
    found = load(POSITIONS)["at"]
    dpo = found["by_kind"]["dpo"]
    carried = {kind: one["share"] * one["change"]["mean"] for kind, one in dpo.items()}
    named = ("the stop token", "line break", "beginning of a word", "name of a tool or standard")
    said = ", ".join(f"{kind} {span(dpo[kind]['change'], 3)}" for kind in named)
    words, share = carried["beginning of a word"] / sum(carried.values()), dpo["beginning of a word"]["share"]
    first, last = (found["by_position"]["sft"][group]["change"] for group in ("1 to 5", "141 to 200"))
    return (
        f"Where DPO changes it, on AT answers: {said}. Plain words are {share:.0%} of the tokens and carry {words:.0%} of the "
        "change; line breaks, of which the pairs have none, and stop tokens carry more than their share. "
        f"By SFT, tokens 1 to 5 of an answer change by {span(first, 3)}, tokens 141 to 200 by {span(last, 3)}."
    )


# --- how far DPO drove a draft ----------------------------------------------------------------------------------------


def driven() -> list[tuple[dict, dict]]:
    """(metrics, change on the same 32 AT prompts) of every training by DPO of either pair, the smallest reward margin first."""
    found = [(load(folder / "metrics.json"), on_the_few(rows, draft)) for folder, rows, draft in BY_DPO]
    return sorted(found, key=lambda one: margin(one[0]))


def driven_by_draft() -> dict[str, list[tuple[dict, dict]]]:
    """What `driven` returns, apart by the draft that was trained."""
    found: dict[str, list[tuple[dict, dict]]] = {}
    for metrics, change in driven():
        found.setdefault(base_draft(metrics), []).append((metrics, change))
    return found


def margin(metrics: dict) -> float:
    """The mean reward margin of the held-out pairs behind the training."""
    return metrics["held_out"]["eval_rewards/margins"]


def margins() -> str:
    rows = []
    for metrics, change in driven():
        cells = [str(metrics["settings"]["lora_r"]), f"{metrics['steps']} of {step_of(metrics)}", rate(metrics)]
        cells.append(f"{margin(metrics):.2f} on {metrics['rows']['held_out']}")
        rows.append([base_draft(metrics), *cells, str(change["prompts"]), span(change)])
    header = ["draft", "rank", "steps of pairs", "rate", "reward margin of held-out pairs", "n"]
    machines = []
    for file in dict.fromkeys(rows for _, rows, _ in BY_DPO):
        machines += load(file.with_name("acceptance.json"))["measured"]["paired"]
    return f"{table([*header, 'change on AT prompts (95% interval)'], rows)}\n\n{hardware(machines)}"


def margins_in_words() -> str:
    """How closely the fall goes with the margin, over all and within each draft, and the two ends."""
    from scipy.stats import spearmanr

    found, said = driven(), []
    for draft, of_draft in {"all": found, **driven_by_draft()}.items():
        order = spearmanr([margin(metrics) for metrics, _ in of_draft], [change["mean"] for _, change in of_draft]).statistic
        said.append(f"{draft} {order:.2f} ({len(of_draft)})")
    ends = "; ".join(f"at {margin(metrics):.2f} {span(change)}" for metrics, change in (found[0], *found[-3:]))
    return (
        f"Exploratory: the change by the reward margin that DPO reached on held-out pairs, on the same "
        f"{found[0][1]['prompts']} prompts, whatever rate, steps and rank reached it. Rank correlation, with the number of "
        f"trainings: {', '.join(said)}. The smallest margin and the three largest: {ends}."
    )


def margins_figure() -> str:
    said = []
    for draft, found in driven_by_draft().items():
        said.append(f"{draft}: {', '.join(f'{margin(metrics):.1f} {span(change)}' for metrics, change in found)}")
    words = "; ".join(said)
    return picture(MARGINS, OWN, f"Change of mean Σ min(p, q) on AT prompts by the reward margin that DPO reached. {words}.")


def draw_margins() -> Figure:
    figure, (panel,) = new_figure(6.5, 3.5)
    for number, (draft, found) in enumerate(driven_by_draft().items()):
        draw_means(panel, [margin(metrics) for metrics, _ in found], [change for _, change in found], number, draft)
    zero_line(panel, horizontal=True)
    panel.set(xlabel="reward margin of held-out pairs after DPO", ylabel="change against the base draft")
    panel.legend()
    return figure


# --- rank -------------------------------------------------------------------------------------------------------------


def rank() -> str:
    """The ninth test, by its rule."""
    report = load(RANK)
    group = report["paired"]["at"]
    low, high = (group["changes"][draft] for draft in RANKS)
    apart = difference(overlaps_of(RANK_ROWS, "at"), *reversed(RANKS))
    hides = {"lowered": "hides part of the fall", "raised": "does not hide it: more rank loses less"}
    trained = [load(Path(report["drafts"][draft]["path"]) / "metrics.json") for draft in RANKS]
    said = hides.get(verdict(apart), "was not shown to hide any of the fall")
    reached = " and ".join(f"{margin(metrics):.2f}" for metrics in trained)
    return (
        f"**By the ninth test study 0's rank {said}, at the small budget and {rate(trained[0])}:** rank 16 {span(low)}, rank "
        f"128 {span(high)}, {span(apart)} between the two on {group['prompts']} AT prompts; reward margins of held-out pairs "
        f"{reached}. {hardware(report['measured']['paired'])}"
    )


def rank_in_short() -> str:
    """For the front page."""
    report = load(RANK)
    group = report["paired"]["at"]
    low, high = (span(group["changes"][draft]) for draft in RANKS)
    at = rate(load(Path(report["drafts"][RANKS[0]]["path"]) / "metrics.json"))
    return f"; a small one of SmolLM2 at {at} with rank 16 {low}, with rank 128 {high}, on {group['prompts']}"


# --- more text --------------------------------------------------------------------------------------------------------


def passes(report: dict, draft: str) -> str:
    return count_passes(report["drafts"][draft]["passes"])


def label(report: dict, draft: str) -> str:
    settings = report["drafts"][draft]
    what = " and ".join(DOMAINS[domain] for domain in settings["domain"])
    ships = {SHIPPED: "`distilled`: ", MORE: f"`{MORE_LIVE}`: "}.get(draft, "")
    return f"{ships}{settings['answers']:,} {what} answers, {passes(report, draft)}"


def text() -> str:
    report = load(TEXT)
    rows = []
    for draft in (*BY_TEXT, SHIPPED, MORE):
        cells = [label(report, draft), str(report["drafts"][draft]["steps"])]
        for domain in DOMAINS:
            group = report["paired"][domain]
            cells += [f"{group['means'][draft]:.4f}", span(group["changes"][draft])]
        tokens = report["replayed"]["block_efficiency"]["at"]["means"]
        rows.append([*cells, f"{tokens['base']:.2f} → {tokens[draft]:.2f}"])
    header = [
        "learnt from",
        "steps",
        "AT",
        "change (95% interval)",
        "general",
        "change (95% interval)",
        "AT tokens per pass, K = 4",
    ]
    counts = " and ".join(f"{report['paired'][domain]['prompts']} {words}" for domain, words in DOMAINS.items())
    return f"{table(header, rows)}\n\nOn {counts} prompts. {hardware(report['measured']['paired'])}"


def text_in_words() -> str:
    """What more answers added, and the shipped draft beside the new one."""
    report = load(TEXT)
    found = {domain: overlaps_of(TEXT_ROWS, domain) for domain in DOMAINS}
    counts = [answers(report, draft) for draft in BY_TEXT]
    said = []
    for count, draft in zip(counts[:-1], BY_TEXT[:-1], strict=True):
        said.append(f"against {count} {span(difference(found['at'], BY_TEXT[-1], draft))}")
    both = [f"{words} {span(difference(found[domain], MORE, SHIPPED))}" for domain, words in DOMAINS.items()]
    return (
        f"Exploratory: {counts[-1]} AT answers in one pass, on AT prompts, {', '.join(said)}. `{MORE_LIVE}` against "
        f"`distilled`: {'; '.join(both)}."
    )


def text_changes(domain: str) -> list[tuple[int, dict]]:
    report = load(TEXT)
    return [(answers(report, draft), report["paired"][domain]["changes"][draft]) for draft in BY_TEXT]


def figure_words() -> str:
    said = []
    for domain, words in DOMAINS.items():
        said.append(
            f"{words} prompts: {', '.join(f'{count} answers {span(change)}' for count, change in text_changes(domain))}"
        )
    return f"Change of mean Σ min(p, q) by the AT answers learnt in one pass. {'; '.join(said)}."


def draw_text() -> Figure:
    figure, (panel,) = new_figure(6.5, 3.5)
    for number, (domain, words) in enumerate(DOMAINS.items()):
        found = text_changes(domain)
        at = [count * (1 + 0.03 * number) for count, _ in found]
        draw_means(panel, at, [change for _, change in found], number, f"{words} prompts")
    zero_line(panel, horizontal=True)
    panel.set_xscale("log", base=2)
    panel.set_xticks([count for count, _ in found], [str(count) for count, _ in found])
    panel.set(xlabel="AT answers, one pass", ylabel="change against the base draft")
    panel.legend()
    return figure


def trainings() -> str:
    rows, machines = [], []
    for draft in (*BY_TEXT, MORE, "half_dpo", "half_sft"):
        metrics = training(draft)
        memory = metrics["peak_memory_bytes"]["gpu"] / 2**30
        cells = [str(metrics["rows"]["train"]), str(metrics["steps"]), f"{metrics['seconds']:.0f}", f"{memory:.1f}"]
        rows.append([f"`{draft}`", *cells])
        machines.append(metrics["environment"])
    header = ["draft", "rows", "steps", "seconds of steps, beside other trainings", "GPU memory, GiB"]
    return f"{table(header, rows)}\n\n{hardware(machines)}"


# --- live -------------------------------------------------------------------------------------------------------------


def ratios(pairs: dict[tuple[str, str], tuple[float, float]]) -> dict[str, float]:
    """prompt → tokens a second over those with the base draft."""
    return {prompt: base / tuned for (_, prompt), (base, tuned) in pairs.items()}


def live_change() -> tuple[list[dict], dict, dict]:
    """The headers of both runs, the mean ratio, and by how much it lies above study 2's, prompt by prompt."""
    headers, pairs = live_pairs(LIVE, MORE_LIVE)
    earlier_headers, earlier_pairs = live_pairs(STUDY2_LIVE, "distilled")
    own, earlier = ratios(pairs), ratios(earlier_pairs)
    both = [own[prompt] - earlier[prompt] for prompt in own if prompt in earlier]
    return headers + earlier_headers, mean_of(list(own.values())), mean_of(both)


def live() -> str:
    headers, found, more = live_change()
    worth = {"raised": "more text was worth it live too", "lowered": "it cost speed live"}
    k = headers[0]["conditions"]["k"]
    return (
        f"**By the eighth test the draft {speed_verdict(found)}: in int8 at K = {k}, {span(found, 3, sign='')} times the base "
        f"draft's tokens a second on {found['prompts']} prompts.** Against study 2's ratio for `distilled`, of other runs, on "
        f"{more['prompts']} of these prompts, {span(more, 3)}: "
        f"{worth.get(verdict(more), 'live, that more text was worth it is not shown')}. "
        f"{hardware([header['environment'] for header in headers])}"
    )


def live_in_short() -> str:
    """For the front page; nothing before it is measured."""
    if not LIVE.exists():
        return ""
    found = live_change()[1]
    return f", and live in int8 {span(found, 3, sign='')} times the base draft's tokens a second on {found['prompts']}"


# --- the pages --------------------------------------------------------------------------------------------------------


def answer() -> str:
    report = load(TEXT)
    group = report["paired"]["at"]
    change, before = group["changes"][MORE], group["changes"][SHIPPED]
    return (
        f"{fair_in_words()} {rates_in_words()} **With more of the verifier's text: {answers(report, MORE):,} answers in "
        f"{passes(report, MORE)} {verdict(change)} SmolLM2, {group['means']['base']:.4f} → {group['means'][MORE]:.4f} on "
        f"{group['prompts']} AT prompts, {span(change)}**, where {answers(report, SHIPPED)} in {passes(report, SHIPPED)} gave "
        f"{span(before)}; that is exploratory."
    )


def row() -> str:
    fair, text = load(FAIR)["paired"]["at"], load(TEXT)
    group = text["paired"]["at"]
    change = group["changes"][MORE]
    return (
        f"{answers(text, MORE):,} answers of the verifier {verdict(change)} SmolLM2's mean Σ min(p, q), {span(change)} on "
        f"{group['prompts']} AT prompts{live_in_short()}. A whole DPO of a draft of the verifier's own family: "
        f"{fair['means']['base']:.4f} → {fair['means']['dpo']:.4f} on {fair['prompts']}, {span(fair['changes']['dpo'])}"
        f"{rank_in_short()}"
    )


OWN_PARTS: dict[str, Part] = {
    "answer": answer,
    "fair": fair,
    "beside study 0": beside_study0,
    "steps or rate": steps_or_rate,
    "kinds in words": kinds_in_words,
    "kinds": kinds,
    "margins": margins,
    "margins in words": margins_in_words,
    "figure margins": margins_figure,
    "rank": rank,
    "text": text,
    "figure text": lambda: picture(FIGURE, OWN, figure_words()),
    "text in words": text_in_words,
    "live": live,
    "trainings": trainings,
}
PAGES: dict[Path, dict[str, Part]] = {OWN: OWN_PARTS, FRONT: {"row scale": row}}


def main() -> int:
    return run_pages(__doc__, PAGES, {FIGURE: draw_text, MARGINS: draw_margins})


if __name__ == "__main__":
    run(main)
