"""Study 2's smaller tests: capacity, mixed text, order with DPO, another random seed.

tables.py writes these parts. Every draft here is measured on the same prompts as that of the losses' comparison which learnt by
the same loss from the same answers, here the reference; what differs is named. `report` is the JSON of evaluate_acceptance.py
report.
"""

from __future__ import annotations

from pathlib import Path

from specdec.report import difference, hardware, interval, load, overlaps_of, rate, span, table, verdict

RESULTS, ARMS = Path("studies/distillation/results"), Path("studies/distillation/drafts")
REPORT, ROWS = RESULTS / "acceptance.json", RESULTS / "paired.jsonl"
REFERENCE = "tvdpp_position"
CAPACITY = {"rank_16": "rank 16", "rank_256": "rank 256", "all_weights": "all weights"}  # as measured, as a page calls them
SMALLEST = "rank_16"
OFFLINE, ONLINE, MIXED = "tvdpp_position_32", "tvdpp_position_32_online", "mixed_32"  # the same prompts, as many steps
AFTER_DPO, FRESH, DPO = "after_dpo", "rank_16_1e-3", "dpo"  # the first two of one rank, scale and rate
SEED = "seed_43"
TAKEN_BACK = RESULTS / "dpo_of_distilled"  # DPO of the merged `distilled`, which is `base` there


def measured(*drafts: str) -> dict:
    """The report; FileNotFoundError if it lacks one of these drafts on AT prompts."""
    report = load(REPORT)
    if missing := set(drafts) - report["paired"]["at"]["changes"].keys():
        raise FileNotFoundError(2, f"{', '.join(sorted(missing))} not measured", str(ROWS))
    return report


def apart(draft: str, other: str) -> dict:
    """Σ min(p, q) of `draft` less that of `other`, on the same AT prompts."""
    return difference(overlaps_of(ROWS, "at"), draft, other)


def training(report: dict, draft: str) -> dict:
    return load(Path(report["drafts"][draft]["path"]) / "metrics.json")


# --- capacity ---------------------------------------------------------------------------------------------------------


def capacity() -> str:
    """Every size that was trained, at every rate: held out; and on the test prompts what was measured there."""
    report = measured(REFERENCE, *CAPACITY)
    changes = report["paired"]["at"]["changes"]
    names = {Path(report["drafts"][draft]["path"]): draft for draft in changes}
    rows, machines = [], []
    for draft, words in {SMALLEST: CAPACITY[SMALLEST], REFERENCE: "rank 128", **CAPACITY}.items():
        for folder in rivals(Path(report["drafts"][draft]["path"])):
            metrics = load(folder / "metrics.json")
            cells = [words, rate(metrics), f"{metrics['held_out_overlap']['after']:.4f}"]
            rows.append([*cells, *on_test_prompts(names.get(folder), changes)])
            machines.append(metrics["environment"])
    header = ["what is trained", "rate", "held-out Σ min(p, q)", "change on AT prompts", "95% interval", "against rank 128"]
    return f"{table(header, rows)}\n\n{hardware(machines)}"


def on_test_prompts(draft: str | None, changes: dict[str, dict]) -> list[str]:
    """Its change, the interval, and how far it is from the reference; None is a training that was not measured there."""
    if draft is None:
        return ["–", "–", "–"]
    behind = "–" if draft == REFERENCE else span(apart(draft, REFERENCE))
    return [f"{changes[draft]['mean']:+.4f}", interval(changes[draft]), behind]


def rivals(taken: Path) -> list[Path]:
    """The trainings of one size: `taken`, and those of another rate, as `rank_16_1e-3` and `rank_16_3e-3` are."""
    stem, _, last = taken.name.rpartition("_")
    if not last[:1].isdigit() or "e-" not in last:
        return [taken]
    return sorted(file.parent for file in taken.parent.glob(f"{stem}_*e-*/metrics.json"))


def capacity_in_words() -> str:
    """The page's test of capacity, by its rule."""
    report = measured(REFERENCE, *CAPACITY)
    found = {draft: apart(draft, REFERENCE) for draft in CAPACITY}
    binds = [words for draft, words in CAPACITY.items() if draft != SMALLEST and verdict(found[draft]) == "raised"]
    said = f"capacity binds at this budget: {' and '.join(binds)}" if binds else "capacity does not bind at this budget"
    small = "too small" if verdict(found[SMALLEST]) == "lowered" else "not shown to be too small"
    against = "; ".join(f"{words} {span(found[draft])}" for draft, words in CAPACITY.items())
    answers = report["drafts"][REFERENCE]["answers"]
    return f"**Capacity: {said}; rank 16 is {small}.** Against rank 128, from the same {answers} answers: {against}."


# --- whose text, in turn ----------------------------------------------------------------------------------------------


def mixed_in_words() -> str:
    report = measured(OFFLINE, ONLINE, MIXED)
    over, under = apart(MIXED, OFFLINE), apart(MIXED, ONLINE)
    worth = "worth its time" if verdict(over) == "raised" else "not worth its time"
    minutes = [f"{training(report, draft)['seconds'] / 60:.0f}" for draft in (OFFLINE, MIXED, ONLINE)]
    return (
        f"**Mixed text is {worth}:** the draft's own text and the verifier's in turn, against the verifier's alone, "
        f"{span(over)}; against the draft's own alone, {span(under)}; {minutes[1]} minutes against {minutes[0]} and "
        f"{minutes[2]}."
    )


# --- order ------------------------------------------------------------------------------------------------------------


def order_in_words() -> str:
    """Both orders, by the page's rule."""
    report = measured(AFTER_DPO, FRESH, DPO)
    cost = apart(AFTER_DPO, FRESH)
    costs = "costs what distillation gives" if verdict(cost) == "lowered" else "was not shown to cost what distillation gives"
    return (
        f"**Distillation after DPO: DPO {costs}.** From study 0's adapter {span(report['paired']['at']['changes'][AFTER_DPO])} "
        f"against the base draft, {span(apart(AFTER_DPO, DPO))} against that adapter, and {span(cost)} against a fresh one. "
        f"{taken_back()}"
    )


def taken_back() -> str:
    """DPO of the distilled draft, beside what distillation had given."""
    report = load(TAKEN_BACK / "acceptance.json")
    group = report["paired"]["at"]
    change = group["changes"]["dpo"]
    takes = "takes some of it back" if verdict(change) == "lowered" else "was not shown to take any of it back"
    return (
        f"**DPO after distillation {takes}:** `distilled`, merged, {group['means']['base']:.4f} → {group['means']['dpo']:.4f}, "
        f"{span(change)} on {group['prompts']} AT prompts."
    )


# --- another random seed ----------------------------------------------------------------------------------------------


def seed_in_words() -> str:
    report = measured(REFERENCE, SEED)
    change = report["paired"]["at"]["changes"][SEED]
    return (
        f"**Trained again with another random seed,** `{REFERENCE}` gives {span(change)}: {span(apart(SEED, REFERENCE))} from "
        "the first. No smaller difference between two arms is read as one."
    )
