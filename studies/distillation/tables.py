"""The tables and the figure of study 2, and its row on the front page.

python -m studies.distillation.tables            draws the figure and fills the pages
python -m studies.distillation.tables --check    exits 1 if a page and the results disagree
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from specdec.files import read_jsonl
from specdec.report import Part, hardware, interval, load, new_figure, picture, point, run_pages, span, table
from specdec.terminal import run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path("studies/distillation")
FRONT, OWN = Path("README.md"), HERE / "README.md"
REPORT, FIGURE, ADAPTERS = HERE / "results/acceptance.json", HERE / "figures/curves.png", Path("adapters")
DECIDES = "kl"  # the draft of the test that was fixed in advance
HEADER = ["prompts", "draft", "trained by", "n", "base", "tuned", "change", "95% interval", "rose on"]


# --- acceptance -------------------------------------------------------------------------------------------------------


def paired() -> str:
    report = load(REPORT)
    rows = []
    for domain in ("at", "general"):
        group = report["paired"][domain]
        for draft, change in group["changes"].items():
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
    efficiency = report["replayed"]["block_efficiency"]["at"]
    return (
        f"**On {group['prompts']} AT prompts, distillation by forward KL {verdict} the acceptance probability of the draft: "
        f"mean Σ min(p, q) {group['means']['base']:.4f} → {group['means'][DECIDES]:.4f}, a paired change of {span(change)}.** "
        f"On general prompts {span(general)}. Tokens per verifier pass at K = {report['conditions']['k']}, replayed: "
        f"{efficiency['means']['base']:.2f} → {efficiency['means'][DECIDES]:.2f}. The ceiling, the verifier's mass on "
        f"tokens that the draft shares, is {report['shared_mass']['at']:.3f}."
    )


def row() -> str:
    """The cell in the front page's table of studies."""
    group = load(REPORT)["paired"]["at"]
    change = group["changes"][DECIDES]
    low, high = change["interval"]
    verdict = "raised it" if low > 0 else "lowered it" if high < 0 else "did not measurably change it"
    return (
        f"A first small run {verdict}: mean Σ min(p, q) {group['means']['base']:.4f} → {group['means'][DECIDES]:.4f} on "
        f"{group['prompts']} AT prompts, {span(change)}"
    )


# --- trainings --------------------------------------------------------------------------------------------------------


def distilled() -> dict[str, dict]:
    """name → metrics of every adapter that learnt from answers of the verifier."""
    found = {}
    for file in sorted(ADAPTERS.glob("*/metrics.json")):
        metrics = load(file)
        if "answers_sha256" in metrics["settings"]:
            found[file.parent.name] = metrics
    if not found:
        raise FileNotFoundError(2, "not trained", str(ADAPTERS / DECIDES))
    return found


def trainings() -> str:
    rows = []
    for name, metrics in distilled().items():
        settings, overlap = metrics["settings"], metrics["held_out_overlap"]
        rate = f"{settings['learning_rate']:g}"
        measured = [f"{overlap[side]:.4f}" for side in ("before", "after")]
        size = [str(settings["lora_r"]), rate, str(settings["answers"]), str(metrics["steps"]), f"{metrics['positions']:,}"]
        rows.append([name, settings["loss"], settings["data"], *size, f"{metrics['seconds'] / 60:.0f}", *measured])
    header = ["draft", "loss", "data", "rank", "rate", "answers", "steps", "positions", "minutes"]
    header += ["held-out Σ min(p, q) before", "after"]
    return f"{table(header, rows)}\n\n{hardware([metrics['environment'] for metrics in distilled().values()])}"


def reading() -> str:
    curves = held_out_curves()
    ends = [
        f"{name} from {points[0][1]:.4f} to {points[-1][1]:.4f} in {points[-1][0]} steps" for name, points in curves.items()
    ]
    still = [name for name, points in curves.items() if len(points) > 2 and points[-1][1] > points[-2][1]]
    tail = f" Still rising at its end: {', '.join(still)}." if still else ""
    return f"Held-out Σ min(p, q) went, by draft: {'; '.join(ends)}.{tail} More text and more passes are the next runs."


def held_out_curves() -> dict[str, list[tuple[int, float]]]:
    curves = {}
    for name in distilled():
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
    return picture(FIGURE, OWN, f"Held-out Σ min(p, q) over the optimizer steps: {'; '.join(parts)}.")


OWN_PARTS: dict[str, Part] = {
    "answer": answer,
    "paired": paired,
    "figure curves": curves,
    "reading": reading,
    "trainings": trainings,
}
PAGES: dict[Path, dict[str, Part]] = {OWN: OWN_PARTS, FRONT: {"row distillation": row}}


def main() -> int:
    return run_pages(__doc__, PAGES, {FIGURE: draw_curves})


if __name__ == "__main__":
    run(main)
