"""Study 2's smaller tests: capacity, mixed text, order with DPO, another random seed.

tables.py writes these parts. All drafts are measured on the same prompts. Those of 64 answers differ from the reference, the
draft of the losses' comparison that learnt by the same loss, in what their name says; the one of another random seed has other
answers too, for the seed draws which are held out.
"""

from __future__ import annotations

from pathlib import Path

from specdec.report import difference, hardware, interval, load, overlaps_of, rate, span, table, verdict

RESULTS = Path("studies/distillation/results")
REPORT, ROWS = RESULTS / "acceptance.json", RESULTS / "paired.jsonl"
REFERENCE = "tvdpp_position"
SMALLEST = "rank_16"
SIZES = {SMALLEST: "rank 16", REFERENCE: "rank 128", "rank_256": "rank 256", "all_weights": "all weights"}
OFFLINE, ONLINE, MIXED = "tvdpp_position_32", "tvdpp_position_32_online", "mixed_32"  # the same prompts, as many steps
AFTER_DPO, FRESH, DPO = "after_dpo", "rank_16_1e-3", "dpo"  # the first two of one rank, scale and rate
SEED = "seed_43"
OF_BASE = Path("studies/preference/results/small/smollm2-qwen/acceptance.json")  # the same DPO of the base draft
TAKEN_BACK = RESULTS / "dpo_of_distilled"  # DPO of the merged `distilled`, which is `base` there


def measured(*drafts: str) -> dict:
    """The report; FileNotFoundError if it lacks one of these drafts on AT prompts."""
    report = load(REPORT)
    if missing := set(drafts) - report["paired"]["at"]["changes"].keys():
        raise FileNotFoundError(2, f"{', '.join(sorted(missing))} not measured", str(ROWS))
    return report


def overlaps() -> dict[str, dict[str, float]]:
    return overlaps_of(ROWS, "at")


def said_of(found: dict[str, dict[str, float]], draft: str, other: str) -> str:
    """`verdict` of the difference of two drafts; none is read that is no larger than that of the two random seeds.

    `found` is what `overlaps` returns.
    """
    change, seeds = difference(found, draft, other), difference(found, SEED, REFERENCE)
    return verdict(change) if abs(change["mean"]) > abs(seeds["mean"]) else "did not measurably change"


def training(report: dict, draft: str) -> dict:
    return load(Path(report["drafts"][draft]["path"]) / "metrics.json")


# --- capacity ---------------------------------------------------------------------------------------------------------


def capacity() -> str:
    """Every size that was trained, at every rate: held out; and on the test prompts what was measured there."""
    report, found = measured(*SIZES), overlaps()
    changes = report["paired"]["at"]["changes"]
    names = {Path(report["drafts"][draft]["path"]): draft for draft in changes}
    rows, machines = [], []
    for draft, words in SIZES.items():
        for folder in rivals(Path(report["drafts"][draft]["path"])):
            metrics = load(folder / "metrics.json")
            cells = [words, rate(metrics), f"{metrics['held_out_overlap']['after']:.4f}"]
            rows.append([*cells, *on_test_prompts(names.get(folder), changes, found)])
            machines.append(metrics["environment"])
    header = ["what is trained", "rate", "held-out Σ min(p, q)", "change on AT prompts", "95% interval", "against rank 128"]
    return f"{table(header, rows)}\n\n{hardware(machines)}"


def on_test_prompts(draft: str | None, changes: dict[str, dict], found: dict[str, dict[str, float]]) -> list[str]:
    """Its change, the interval, and how far it is from the reference; None is a training that was not measured there."""
    if draft is None:
        return ["–", "–", "–"]
    behind = "–" if draft == REFERENCE else span(difference(found, draft, REFERENCE))
    return [f"{changes[draft]['mean']:+.4f}", interval(changes[draft]), behind]


def rivals(taken: Path) -> list[Path]:
    """The trainings of one size: `taken`, and those of another rate, as `rank_16_1e-3` and `rank_16_3e-3` are."""
    stem, _, last = taken.name.rpartition("_")
    if not last[:1].isdigit() or "e-" not in last:
        return [taken]
    return sorted(file.parent for file in taken.parent.glob(f"{stem}_*e-*/metrics.json"))


def capacity_in_words() -> str:
    """The page's test of capacity, by its rule."""
    report, found = measured(SEED, *SIZES), overlaps()
    others = [draft for draft in SIZES if draft != REFERENCE]
    binds = [SIZES[draft] for draft in others if draft != SMALLEST and said_of(found, draft, REFERENCE) == "raised"]
    said = f"Capacity binds at this budget: {' and '.join(binds)}" if binds else "Capacity does not bind at this budget"
    small = "too small" if said_of(found, SMALLEST, REFERENCE) == "lowered" else "not shown to be too small"
    against = "; ".join(f"{SIZES[draft]} {span(difference(found, draft, REFERENCE))}" for draft in others)
    answers = report["drafts"][REFERENCE]["answers"]
    return f"**{said}; rank 16 is {small}.** Against rank 128, from the same {answers} answers: {against}."


# --- whose text, in turn ----------------------------------------------------------------------------------------------


def mixed_in_words() -> str:
    report, found = measured(OFFLINE, ONLINE, MIXED, SEED), overlaps()
    over, under = difference(found, MIXED, OFFLINE), difference(found, MIXED, ONLINE)
    worth = "worth its time" if said_of(found, MIXED, OFFLINE) == "raised" else "not worth its time"
    minutes = [f"{training(report, draft)['seconds'] / 60:.0f}" for draft in (OFFLINE, MIXED, ONLINE)]
    return (
        f"**Mixed text is {worth}:** the draft's own text and the verifier's in turn, against the verifier's alone, "
        f"{span(over)}; against the draft's own alone, {span(under)}; {minutes[1]} minutes against {minutes[0]} and "
        f"{minutes[2]}."
    )


# --- order ------------------------------------------------------------------------------------------------------------


def order_in_words() -> str:
    """Both orders, by the page's rule."""
    report, found = measured(AFTER_DPO, FRESH, DPO, SEED), overlaps()
    lower = said_of(found, AFTER_DPO, FRESH) == "lowered"
    costs = "costs some of what distillation gives" if lower else "was not shown to cost any of what distillation gives"
    gain = report["paired"]["at"]["changes"][AFTER_DPO]
    against = [span(difference(found, AFTER_DPO, other)) for other in (DPO, FRESH)]
    return (
        f"**Distillation after DPO: DPO {costs}.** From study 0's adapter {span(gain)} against the base draft, {against[0]} "
        f"against that adapter, and {against[1]} against a fresh one. {taken_back()}"
    )


def taken_back() -> str:
    """DPO of the distilled draft, beside what distillation had given, and beside the same DPO of the base draft."""
    report = load(TAKEN_BACK / "acceptance.json")
    group, of_base = report["paired"]["at"], load(OF_BASE)["paired"]["at"]["changes"]["dpo"]
    change = group["changes"]["dpo"]
    takes = "takes some of it back" if verdict(change) == "lowered" else "was not shown to take any of it back"
    return (
        f"**DPO after distillation {takes}:** `distilled`, merged, {group['means']['base']:.4f} → {group['means']['dpo']:.4f}, "
        f"{span(change)} on {group['prompts']} AT prompts, where the same DPO changed the base draft by {span(of_base)}."
    )


# --- another random seed ----------------------------------------------------------------------------------------------


def seed_in_words() -> str:
    gain = measured(REFERENCE, SEED)["paired"]["at"]["changes"][SEED]
    return (
        f"**Trained again with another random seed,** which draws other held-out answers too, `{REFERENCE}` gives "
        f"{span(gain)}. Its difference from the first, {span(difference(overlaps(), SEED, REFERENCE))}, is one draw of what a "
        "training varies by: no difference between two arms that is no larger is read as one."
    )
