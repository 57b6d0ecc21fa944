"""The tables and the figure of study 2, and its row on the front page.

python -m studies.distillation.tables            draws the figure and fills the pages
python -m studies.distillation.tables --check    exits 1 if a page and the results disagree
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from specdec.files import read_jsonl
from specdec.intervals import mean_with_interval
from specdec.report import Part, hardware, interval, load, new_figure, picture, point, run_pages, span, table, zero_line
from specdec.terminal import run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path("studies/distillation")
FRONT, OWN = Path("README.md"), HERE / "README.md"
REPORT, ROWS = HERE / "results/acceptance.json", HERE / "results/paired.jsonl"
CURVES, LOSSES = HERE / "figures/curves.png", HERE / "figures/losses.png"
ADAPTERS, ARMS = Path("adapters"), HERE / "drafts"  # drafts that stay, and those of the comparisons
DECIDES = "kl"  # the draft of the test that was fixed in advance
BUDGET = ("answers_sha256", "data", "steps", "batch_size", "all_weights", "lora_r", "learning_rate", "from_adapter", "seed")
PREDICTIONS = [  # two losses, and what the page's theory said of them before any was trained
    ("tvd", "kl", "Said: TV alone learns slowest from a draft that is far away."),
    ("tvdpp", "tvd", "Said: no difference that Adam sees."),
    ("tvdpp_position", "tvd", "Said: TV with weights by position; not which is better."),
    ("lk_alpha", "tvd", "Said: far positions count more; not whether that helps."),
    ("lk_lambda", "tvd", "Said: KL where the draft is far, TV where it is close."),
    ("nll", "kl", "Said: the same on average over texts, noisier."),
]
HEADER = ["prompts", "draft", "trained by", "n", "base", "tuned", "change", "95% interval", "rose on"]


# --- acceptance -------------------------------------------------------------------------------------------------------


def paired() -> str:
    report = load(REPORT)
    rows = []
    for domain in ("at", "general"):
        group = report["paired"][domain]
        for draft, change in group["changes"].items():
            if Path(report["drafts"][draft]["path"]).is_relative_to(ARMS):
                continue
            means = [f"{group['means'][name]:.4f}" for name in ("base", draft)]
            changed = [f"{change['mean']:+.4f}", interval(change), f"{change['rose']}/{group['prompts']}"]
            rows.append([domain, draft, report["drafts"][draft]["loss"], str(group["prompts"]), *means, *changed])
    return f"{table(HEADER, rows)}\n\n{hardware(report['measured']['paired'])}"


def answer() -> str:
    report = load(REPORT)
    group = report["paired"]["at"]
    change, general = group["changes"][DECIDES], report["paired"]["general"]["changes"][DECIDES]
    low, high = change["interval"]
    verdict = "raised" if low > 0 else "lowered" if high < 0 else "did not measurably change"
    return (
        f"**On {group['prompts']} AT prompts, distillation by forward KL {verdict} the acceptance probability of the draft: "
        f"mean Σ min(p, q) {group['means']['base']:.4f} → {group['means'][DECIDES]:.4f}, a paired change of {span(change)}.** "
        f"On general prompts {span(general)}. {shipped_in_words(report)} The ceiling, the verifier's mass on tokens that the "
        f"draft shares, is {report['shared_mass']['at']:.3f}."
    )


def shipped(report: dict) -> str | None:
    """The newest distilled draft that stays in the repository, but for the one that decides; None before it is measured."""
    found = [name for name in distilled(ADAPTERS) if name != DECIDES and name in report["drafts"]]
    return found[-1] if found else None


def shipped_in_words(report: dict) -> str:
    name = shipped(report)
    if name is None:
        return ""
    settings, efficiency = report["drafts"][name], report["replayed"]["block_efficiency"]["at"]["means"]
    at, general = (report["paired"][domain] for domain in ("at", "general"))
    return (
        f"**The draft that ships, `{name}`, learnt by `{settings['loss']}` from {settings['answers']} answers in "
        f"{settings['steps']} steps: {at['means'][name]:.4f} on AT prompts, {span(at['changes'][name])}, and "
        f"{general['means'][name]:.4f} on general ones, {span(general['changes'][name])}.** Tokens per verifier pass at "
        f"K = {report['conditions']['k']}, replayed on AT prompts: {efficiency['base']:.2f} → {efficiency[name]:.2f}."
    )


def row() -> str:
    """The cell in the front page's table of studies."""
    report = load(REPORT)
    group = report["paired"]["at"]
    draft = shipped(report) or DECIDES
    change = group["changes"][draft]
    low, high = change["interval"]
    verdict = "raised it" if low > 0 else "lowered it" if high < 0 else "did not measurably change it"
    return (
        f"{report['drafts'][draft]['answers']} answers of the verifier {verdict}: mean Σ min(p, q) "
        f"{group['means']['base']:.4f} → {group['means'][draft]:.4f} on {group['prompts']} AT prompts, {span(change)}"
    )


# --- trainings --------------------------------------------------------------------------------------------------------


def distilled(folder: Path) -> dict[str, dict]:
    """name → metrics of every draft in `folder` that learnt from answers of the verifier."""
    found = {}
    for file in sorted(folder.glob("*/metrics.json")):
        metrics = load(file)
        if "answers_sha256" in metrics["settings"]:
            found[file.parent.name] = metrics
    if not found:
        raise FileNotFoundError(2, "not trained", str(folder))
    return found


def trainings() -> str:
    return training_table({**distilled(ADAPTERS), **distilled(ARMS)})


def training_table(drafts: dict[str, dict]) -> str:
    rows = []
    for name, metrics in drafts.items():
        settings, overlap = metrics["settings"], metrics["held_out_overlap"]
        size = "all weights" if settings.get("all_weights") else str(settings["lora_r"])
        budget = [str(settings["answers"]), str(settings["batch_size"]), str(metrics["steps"]), f"{metrics['positions']:,}"]
        measured = [f"{overlap[side]:.4f}" for side in ("before", "after")]
        kept = metrics.get("truncated") or {}
        written = f"rank {kept['rank']}: {kept['held_out_overlap']:.4f}" if kept else "whole"
        rate = f"{settings['learning_rate']:g}"
        minutes = f"{metrics['seconds'] / 60:.0f}"
        rows.append([name, settings["loss"], settings["data"], size, rate, *budget, minutes, *measured, written])
    header = ["draft", "loss", "data", "rank", "rate", "answers", "batch", "steps", "positions", "minutes"]
    header += ["held-out Σ min(p, q) before", "after", "as written"]
    return f"{table(header, rows)}\n\n{hardware([metrics['environment'] for metrics in drafts.values()])}"


# --- the losses at equal budget ---------------------------------------------------------------------------------------


def equal_budget() -> dict[str, str]:
    """loss → its draft, of the largest group of drafts that differ in their loss alone."""
    groups: dict[str, dict[str, str]] = {}
    for name, metrics in distilled(ARMS).items():
        budget = json.dumps([metrics["settings"].get(key) for key in BUDGET])
        groups.setdefault(budget, {})[metrics["settings"]["loss"]] = name
    return max(groups.values(), key=len)


def by_gain() -> list[str]:
    """The losses of equal budget that were measured, the largest gain on AT prompts first."""
    changes = load(REPORT)["paired"]["at"]["changes"]
    drafts = equal_budget()
    measured = [loss for loss in drafts if drafts[loss] in changes]
    if not measured:
        raise FileNotFoundError(2, "not measured", str(ARMS))
    return sorted(measured, key=lambda loss: -changes[drafts[loss]]["mean"])


def losses() -> str:
    report, drafts, metrics = load(REPORT), equal_budget(), distilled(ARMS)
    group, best = report["paired"]["at"], by_gain()[0]
    changes = group["changes"]
    rows = []
    for loss in by_gain():
        change = changes[drafts[loss]]
        behind = "–" if loss == best else span(difference(drafts[loss], drafts[best]))
        held_out = metrics[drafts[loss]]["held_out_overlap"]["after"]
        rows.append(
            [
                loss,
                f"{change['mean']:+.4f}",
                interval(change),
                f"{change['rose']}/{group['prompts']}",
                behind,
                f"{held_out:.4f}",
            ]
        )
    header = ["loss", "change on AT prompts", "95% interval", "rose on", f"against `{best}`", "held-out Σ min(p, q)"]
    return table(header, rows)


def difference(draft: str, other: str) -> dict:
    """Mean over AT prompts of draft − other in Σ min(p, q), paired, with its interval."""
    overlaps: dict[str, dict[str, float]] = {}
    for measured in read_jsonl(ROWS):
        if measured.get("domain") == "at":
            overlaps.setdefault(measured["prompt"], {}).update(measured["overlap"])
    return mean_with_interval([found[draft] - found[other] for found in overlaps.values()], seed=42)


def came() -> str:
    """What the theory predicted, beside what was measured at equal budget."""
    drafts, measured = equal_budget(), by_gain()
    said = []
    for one, other, words in PREDICTIONS:
        if one in measured and other in measured:
            said.append(f"- `{one}` − `{other}`: {span(difference(drafts[one], drafts[other]))}. {words}")
    return "\n".join(said)


def draw_losses() -> Figure:
    changes, drafts, order = load(REPORT)["paired"]["at"]["changes"], equal_budget(), by_gain()
    figure, (panel,) = new_figure(6, 3.5)
    for height, loss in enumerate(reversed(order)):
        change = changes[drafts[loss]]
        low, high = change["interval"]
        panel.plot([low, high], [height, height], color="black")
        panel.plot(change["mean"], height, **point(0))
    panel.set_yticks(range(len(order)), list(reversed(order)))
    zero_line(panel, horizontal=False)
    panel.set_xlabel("change in Σ min(p, q) against the base draft")
    return figure


def losses_figure() -> str:
    changes, drafts = load(REPORT)["paired"]["at"]["changes"], equal_budget()
    parts = [f"{loss} {span(changes[drafts[loss]])}" for loss in by_gain()]
    return picture(LOSSES, OWN, f"Change in Σ min(p, q) on AT prompts by loss, at equal budget: {'; '.join(parts)}.")


def reading() -> str:
    report, drafts, order = load(REPORT), equal_budget(), by_gain()
    changes = report["paired"]["at"]["changes"]
    settings = distilled(ARMS)[drafts[order[0]]]["settings"]
    ranked = ", ".join(f"`{loss}` {changes[drafts[loss]]['mean']:+.4f}" for loss in order)
    return (
        f"What the loss asks for decides. One pass over the same {settings['answers']} answers, {settings['steps']} steps, one "
        f"rate, change on AT prompts: {ranked}. Those whose gradient is the total variation's, up to a weight, aim at "
        f"Σ min(p, q) itself; KL and the text's likelihood fit all of p.{rival(report)}{rates()}"
    )


def rival(report: dict) -> str:
    """The tables of n-grams counted in the same answers."""
    tokens = report["replayed"]["block_efficiency"]["at"]["means"]
    said = []
    for name, settings in report["drafts"].items():
        if settings and settings["loss"] == "counts":
            overlap = report["paired"]["at"]["means"][name]
            said.append(f"`{name}` {overlap:.4f} and {tokens[name]:.2f} tokens per pass at K = {report['conditions']['k']}")
    return f" The cheap rival, a table counted in the same AT answers, reaches {'; '.join(said)}." if said else ""


def rates() -> str:
    """Held-out overlap of the loss that was trained at several rates, which chose the rate of all."""
    found = []
    for metrics in distilled(ARMS).values():
        settings, after = metrics["settings"], metrics["held_out_overlap"]["after"]
        if settings["loss"] == "kl":
            found.append((settings["learning_rate"], settings["batch_size"], f"{after:.4f}"))
    words = ", ".join(f"{after} at {rate:g} in batches of {batch}" for rate, batch, after in sorted(found))
    return f" The rate was chosen with `kl`, held out: {words}."


def held_out_curves() -> dict[str, list[tuple[int, float]]]:
    curves = {}
    for name in distilled(ADAPTERS):
        rows = read_jsonl(ADAPTERS / name / "metrics.jsonl")
        curves[name] = [(logged["step"], logged["held_out_overlap"]) for logged in rows if "held_out_overlap" in logged]
    return curves


def draw_curves() -> Figure:
    figure, (panel,) = new_figure(6, 3.5)
    for number, (name, points) in enumerate(held_out_curves().items()):
        panel.plot(*zip(*points, strict=True), **point(number), linestyle="-", label=name)
    panel.set(xlabel="optimizer step", ylabel="held-out Σ min(p, q)")
    panel.legend()
    return figure


def curves() -> str:
    parts = [f"{name} {', '.join(f'{value:.4f}' for _, value in points)}" for name, points in held_out_curves().items()]
    return picture(CURVES, OWN, f"Held-out Σ min(p, q) over the optimizer steps: {'; '.join(parts)}.")


OWN_PARTS: dict[str, Part] = {
    "answer": answer,
    "paired": paired,
    "figure losses": losses_figure,
    "figure curves": curves,
    "losses": losses,
    "came": came,
    "reading": reading,
    "trainings": trainings,
}
PAGES: dict[Path, dict[str, Part]] = {OWN: OWN_PARTS, FRONT: {"row distillation": row}}


def main() -> int:
    return run_pages(__doc__, PAGES, {CURVES: draw_curves, LOSSES: draw_losses})


if __name__ == "__main__":
    run(main)
