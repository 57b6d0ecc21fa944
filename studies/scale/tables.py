"""The tables and the figure of the larger budgets, and their row on the front page.

    python -m studies.scale.tables            draws the figure and fills the pages
    python -m studies.scale.tables --check    exits 1 if a page and the results disagree

The functions below are named like the parts that they write.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from specdec.files import read_jsonl
from specdec.intervals import mean_with_interval
from specdec.report import (
    Part,
    difference,
    draw_means,
    hardware,
    load,
    new_figure,
    overlaps_of,
    picture,
    run_pages,
    span,
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
ROWS = RESULTS / "text/paired.jsonl"
STUDY0 = Path("studies/preference/results/acceptance.json")
POSITIONS = RESULTS / "fair/positions.json"  # of the fair pair's whole trainings
LIVE, STUDY2_LIVE = RESULTS / "live/live.jsonl", Path("studies/distillation/results/live/live.jsonl")
FIGURE = HERE / "figures/text.png"
BY_TEXT = ("at_64", "at_125", "at_250", "at_all")  # one pass over more and more AT answers
MORE, MORE_LIVE = "long_42", "distilled_more"  # AT and general answers; the name under which it ships
SHIPPED = "shipped"  # adapters/distilled, measured again beside the others
DOMAINS = {"at": "AT", "general": "general"}


def name_of(report: dict) -> str:
    return report["conditions"]["draft"].rpartition("/")[2]


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
            passes = f"{tokens['means']['base']:.2f} → {tokens['means'][draft]:.2f}"
            rose = f"{change['rose']}/{group['prompts']}"
            rows.append([words, draft, str(group["prompts"]), *means, span(change), rose, passes])
    header = ["prompts", "draft", "n", "base", "tuned", "change (95% interval)", "rose on", "tokens per pass, K = 4"]
    return f"{table(header, rows)}\n\n{hardware(report['measured']['paired'])}"


def fair_in_words() -> str:
    report = load(FAIR)
    group = report["paired"]["at"]
    said = []
    for draft, words in (("dpo", "DPO"), ("sft", "SFT on the chosen answers")):
        change = group["changes"][draft]
        said.append(f"{words} {verdict(change)} it, {span(change)}, rising on {change['rose']} prompts")
    return (
        f"**Whole, at study 0's settings, on {group['prompts']} AT prompts: mean Σ min(p, q) of {name_of(report)} was "
        f"{group['means']['base']:.4f}; {'; '.join(said)}.**"
    )


def beside_study0() -> str:
    """The changes of study 0's own draft at the same settings, on the same prompts."""
    theirs, ours = load(STUDY0)["paired"]["at"]["changes"], load(FAIR)["paired"]["at"]["changes"]
    said = []
    for draft, words in (("dpo", "DPO"), ("sft", "SFT")):
        times = ours[draft]["mean"] / theirs[draft]["mean"]
        said.append(f"{words} {span(theirs[draft])} there, {times:.1f} times as much here")
    return (
        f"Study 0's draft, of another family behind two vocabularies, changed by less at the same settings: {'; '.join(said)}."
    )


def rates() -> str:
    """The same few steps at three rates, and the whole training."""
    small, whole = load(RATES), load(FAIR)
    found = [(training(f"half_{draft}"), small, draft) for draft in small["paired"]["at"]["changes"]]
    found.sort(key=lambda one: one[0]["settings"]["learning_rate"])
    rows = []
    for metrics, report, draft in [*found, (training("half_dpo"), whole, "dpo")]:
        settings, group = metrics["settings"], report["paired"]["at"]
        step = settings["batch_size"] * settings["gradient_accumulation"]
        cells = [f"{metrics['steps']} of {step}", f"{settings['learning_rate']:.0e}".replace("e-0", "e-")]
        cells += [f"{metrics['held_out']['eval_rewards/margins']:.2f}", str(group["prompts"]), span(group["changes"][draft])]
        rows.append(cells)
    header = ["steps of pairs", "rate", "held-out reward margin", "n", "change on AT prompts (95% interval)"]
    return f"{table(header, rows)}\n\n{hardware(small['measured']['paired'])}"


def rates_in_words() -> str:
    """The second test, by its rule."""
    changes = load(RATES)["paired"]["at"]["changes"]
    rows = overlaps_of(RESULTS / "fair_rates/paired.jsonl", "at")
    apart = difference(rows, "dpo_5e-5", "dpo_3e-4")
    low = [draft for draft in ("dpo_5e-5", "dpo_1e-5") if verdict(changes[draft]) == "lowered"]
    said = "none of it" if apart["interval"][0] <= 0 else "part of it" if low else "all of it"
    return (
        f"By the rule of the second test the rate did {said}: the same steps at 5e-5 {span(changes['dpo_5e-5'])}, at 1e-5 "
        f"{span(changes['dpo_1e-5'])}, at 3e-4 {span(changes['dpo_3e-4'])}; between 5e-5 and 3e-4 {span(apart)}."
    )


def margins() -> str:
    """How far each training went, by its held-out reward margin, beside what it cost."""
    small, whole = load(RATES)["paired"]["at"]["changes"], load(FAIR)["paired"]["at"]["changes"]["dpo"]
    said = []
    for draft, change in (
        ("dpo_1e-5", small["dpo_1e-5"]),
        ("dpo_5e-5", small["dpo_5e-5"]),
        ("dpo_3e-4", small["dpo_3e-4"]),
        ("dpo", whole),
    ):
        metrics = training(f"half_{draft}")
        margin, rate = metrics["held_out"]["eval_rewards/margins"], metrics["settings"]["learning_rate"]
        said.append(f"{metrics['steps']} steps at {rate:.0e}, margin {margin:.1f}, {change['mean']:+.4f}".replace("e-0", "e-"))
    return (
        "It is not the rate by itself, but how far the training goes, by the reward margin of its held-out pairs: "
        f"{'; '.join(said)}. So the fall at study 0's small budget was no artefact of its high rate: the whole training at the "
        "paper's rate comes to as much."
    )


def kinds() -> str:
    """Every kind of token of the AT answers, those first that carry most of DPO's fall."""
    found = load(POSITIONS)["at"]["by_kind"]
    rows = []
    for kind, dpo in sorted(found["dpo"].items(), key=lambda item: item[1]["share"] * item[1]["change"]["mean"]):
        cells = [f"{dpo['share']:.1%}", f"{dpo['base']:.3f}"]
        for of_kind in (dpo, found["sft"][kind]):
            cells += [span(of_kind["change"], 3), f"{of_kind['share'] * of_kind['change']['mean']:+.4f}"]
        rows.append([kind, *cells])
    header = ["AT answers: tokens", "share", "base", "change by dpo", "times its share", "change by sft", "times its share"]
    return table(header, rows)


def kinds_in_words() -> str:
    found = load(POSITIONS)["at"]
    dpo = found["by_kind"]["dpo"]
    carried = {kind: one["share"] * one["change"]["mean"] for kind, one in dpo.items()}
    named = ["the stop token", "line break", "beginning of a word", "name of a tool or standard"]
    said = ", ".join(f"{kind} {span(dpo[kind]['change'], 3)}" for kind in named)
    words = carried["beginning of a word"] / sum(carried.values())
    first, last = (found["by_position"]["sft"][group]["change"] for group in ("1 to 5", "141 to 200"))
    return (
        f"Where DPO changes it, on AT answers: {said}. The stop token and line breaks, which the pairs' answers do not have as "
        f"the verifier's do, are the paper's formatting mismatch; but plain words carry {words:.0%} of the fall. SFT costs "
        f"most where an answer opens: tokens 1 to 5 {span(first, 3)}, tokens 141 to 200 {span(last, 3)}."
    )


# --- more text --------------------------------------------------------------------------------------------------------


def label(report: dict, draft: str) -> str:
    settings = report["drafts"][draft]
    what = " and ".join(DOMAINS[domain] for domain in settings["domain"])
    ships = {SHIPPED: "`distilled`: ", MORE: f"`{MORE_LIVE}`: "}.get(draft, "")
    passes = {1: "one pass", 2: "two passes"}[settings["passes"]]
    return f"{ships}{settings['answers']:,} {what} answers, {passes}"


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
    found = {domain: overlaps_of(ROWS, domain) for domain in DOMAINS}
    last, before = (difference(found["at"], BY_TEXT[-1], other) for other in (BY_TEXT[-2], BY_TEXT[0]))
    counts = [answers(report, draft) for draft in BY_TEXT]
    both = {words: difference(found[domain], MORE, SHIPPED) for domain, words in DOMAINS.items()}
    beside = "; ".join(f"{words} {span(change)}" for words, change in both.items())
    return (
        f"{counts[-1]} AT answers in one pass against {counts[0]}: {span(before)} on AT prompts; against {counts[-2]}, still "
        f"{span(last)}. Of the drafts on both kinds of answers, `{MORE_LIVE}` against `distilled`: {beside}."
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
    panel.set_xticks([count for count, _ in found], [str(count) for count, _ in found], minor=False)
    panel.set(xlabel="AT answers, one pass", ylabel="change against the base draft")
    panel.legend()
    return figure


def trainings() -> str:
    rows, machines = [], []
    for draft in (*BY_TEXT, MORE, "half_dpo", "half_sft"):
        metrics = training(draft)
        memory = metrics["peak_memory_bytes"]["gpu"] / 2**30
        rows.append(
            [f"`{draft}`", str(metrics["rows"]["train"]), str(metrics["steps"]), f"{metrics['seconds']:.0f}", f"{memory:.1f}"]
        )
        machines.append(metrics["environment"])
    header = ["draft", "rows", "steps", "seconds of steps, beside other trainings", "GPU memory, GiB"]
    return f"{table(header, rows)}\n\n{hardware(machines)}"


# --- live -------------------------------------------------------------------------------------------------------------


def live_ratios(file: Path, draft: str) -> tuple[list[dict], dict[str, float]]:
    """The headers; and prompt → tokens a second with `draft` over those with the base draft."""
    headers: list[dict] = []
    speeds: dict[str, dict[str, float]] = {}
    for row in read_jsonl(file):
        if "conditions" in row:
            headers.append(row)
        else:
            speeds.setdefault(row["prompt"], {})[row["draft"]] = row["tokens"] / row["seconds"]
    pairs = {prompt: found for prompt, found in speeds.items() if {"base", draft} <= found.keys()}
    return headers, {prompt: found[draft] / found["base"] for prompt, found in pairs.items()}


def live_change() -> tuple[list[dict], dict, dict]:
    """The headers, the mean ratio, and by how much it lies above study 2's, prompt by prompt."""
    headers, ratios = live_ratios(LIVE, MORE_LIVE)
    _, earlier = live_ratios(STUDY2_LIVE, "distilled")
    found = {"prompts": len(ratios), **mean_with_interval(list(ratios.values()), seed=42)}
    more = mean_with_interval([ratios[prompt] - earlier[prompt] for prompt in ratios if prompt in earlier], seed=42)
    return headers, found, more


def live() -> str:
    headers, found, more = live_change()
    low, high = found["interval"]
    said = "makes decoding faster" if low > 1 else "makes decoding slower" if high < 1 else "was not shown to change the speed"
    worth = {"raised": "it was worth it live too", "lowered": "it cost speed live"}.get(
        verdict(more), "live, that is not shown"
    )
    k = headers[0]["conditions"]["k"]
    return (
        f"**By the eighth test the draft {said}: in int8 at K = {k}, {span(found, 3, sign='')} times the base draft's tokens a "
        f"second on {found['prompts']} prompts.** Against study 2's ratio for `distilled`, prompt by prompt, {span(more, 3)}: "
        f"{worth}. {hardware([header['environment'] for header in headers])}"
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
    return (
        f"{fair_in_words()} {rates_in_words()} **More of the verifier's text still helps: {answers(report, MORE):,} answers in "
        f"one pass took SmolLM2 from {group['means']['base']:.4f} to {group['means'][MORE]:.4f} on {group['prompts']} AT "
        f"prompts, {span(group['changes'][MORE])}**, where {answers(report, SHIPPED)} in two passes gave "
        f"{span(group['changes'][SHIPPED])}."
    )


def row() -> str:
    fair, text = load(FAIR)["paired"]["at"], load(TEXT)
    group = text["paired"]["at"]
    change = group["changes"][MORE]
    return (
        f"{answers(text, MORE):,} answers of the verifier {verdict(change)} SmolLM2's mean Σ min(p, q), {span(change)} on "
        f"{group['prompts']} AT prompts{live_in_short()}. A whole DPO of a draft of the verifier's own family: "
        f"{fair['means']['base']:.4f} → {fair['means']['dpo']:.4f} on {fair['prompts']}, {span(fair['changes']['dpo'])}"
    )


OWN_PARTS: dict[str, Part] = {
    "answer": answer,
    "fair": fair,
    "beside study 0": beside_study0,
    "margins": margins,
    "kinds in words": kinds_in_words,
    "kinds": kinds,
    "rates": rates,
    "text": text,
    "figure text": lambda: picture(FIGURE, OWN, figure_words()),
    "text in words": text_in_words,
    "live": live,
    "trainings": trainings,
}
PAGES: dict[Path, dict[str, Part]] = {OWN: OWN_PARTS, FRONT: {"row scale": row}}


def main() -> int:
    return run_pages(__doc__, PAGES, {FIGURE: draw_text})


if __name__ == "__main__":
    run(main)
