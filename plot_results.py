"""Draws the README's figures from the files in results/, and says in words what each of them shows.

  changes      change of mean Σ min(p, q) by query type and draft, with intervals     from results/acceptance.json
  prompts      the same change, one dot a prompt                                      from results/paired.jsonl
  positions    share of tested drafts accepted, by place in the block, live           from results/live.jsonl
  speed        speed-up by draft length K, measured and predicted                     from results/benchmark.json

Readable without colour: drafts differ by marker and line, not by hue. The words go to stdout, and fill_readme.py makes
them the pictures' alternative texts.

    python plot_results.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path

from evaluate_acceptance import joined, read_rows
from specdec.terminal import Problem, run, say
from speculative_decode import Block, acceptance_by_position

MARKERS = {"base": "o", "dpo": "s", "sft": "^", "balanced": "D"}
FILLS = {"base": "white", "dpo": "black", "sft": "white", "balanced": "0.6"}


def load(file: str) -> dict:
    """The JSON in `file`; FileNotFoundError where it was not measured yet."""
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as fault:
        raise Problem(f"{file} is not JSON ({fault}). Measure it again: make evaluate.") from None


def load_rows(file: str) -> list[dict]:
    Path(file).stat()  # FileNotFoundError, as above
    return read_rows([file])


# --- changes ----------------------------------------------------------------------------------------------------------


def by_query_type(groups: dict) -> dict:
    """The groups of a report that are a domain or one query type of it, the seed's own prompts left out."""
    return {name: group for name, group in groups.items() if not name.startswith("seed") and "/" not in name}


def first_training(draft: str) -> str:
    """`dpo` of `dpo-seed43`, which is it trained again with another seed, and of itself."""
    return draft.partition("-seed")[0]


def trained_again(draft: str) -> bool:
    """True of `dpo-seed43`: such drafts have a table of their own."""
    return draft != first_training(draft)


def interval(change: dict, digits: int = 4) -> str:
    return "one prompt" if change["interval"] is None else " to ".join(f"{bound:+.{digits}f}" for bound in change["interval"])


def span(change: dict, digits: int = 4) -> str:
    return f"{change['mean']:+.{digits}f} ({interval(change, digits)})"


def _changes() -> dict[str, dict[str, dict]]:
    """group → draft → change, for the two domains and their query types."""
    groups = by_query_type(load("results/acceptance.json")["paired"])
    return {
        name: {draft: change for draft, change in group["changes"].items() if not trained_again(draft)}
        for name, group in groups.items()
    }


def changes_in_words() -> str:
    groups = _changes()
    found = [
        f"{draft} on {name} prompts {span(change)}"
        for name in ("at", "general")
        for draft, change in groups.get(name, {}).items()
    ]
    bounds = [change["interval"] for changed in groups.values() for change in changed.values()]
    return (
        f"Change of mean Σ min(p, q) against the base draft, with 95% intervals: {'; '.join(found)}. By domain and query "
        f"type, {sum(high < 0 for _, high in bounds)} of {len(bounds)} intervals lie below zero and "
        f"{sum(low > 0 for low, _ in bounds)} above."
    )


def changes(pyplot):
    groups = _changes()
    drafts = list(dict.fromkeys(draft for changed in groups.values() for draft in changed))
    figure, axes = pyplot.subplots(figsize=(8, 0.6 * len(groups) + 1.2), layout="constrained")
    for place, changed in enumerate(groups.values()):
        for offset, draft in enumerate(draft for draft in drafts if draft in changed):
            change = changed[draft]
            height = -place - 0.22 * (offset - (len(drafts) - 1) / 2)
            axes.plot(change["interval"], [height] * 2, color="black", linewidth=1)
            axes.plot(
                change["mean"],
                height,
                MARKERS.get(draft, "x"),
                color="black",
                markerfacecolor=FILLS.get(draft, "white"),
                label=draft if place == 0 else None,
            )
    axes.axvline(0, color="black", linewidth=0.8, linestyle=":")
    axes.set_yticks([-place for place in range(len(groups))], groups)
    axes.set_xlabel("change of mean Σ min(p, q) against the base draft, 95% interval")
    figure.legend(loc="outside upper center", ncols=len(drafts))
    return figure


# --- prompts ----------------------------------------------------------------------------------------------------------


def _by_prompt(draft: str = "dpo") -> dict[str, list[float]]:
    """domain → the sorted changes of its prompts, the seed's own left out."""
    found: dict[str, list[float]] = {}
    for row in joined(load_rows("results/paired.jsonl")):
        if row["source"] != "seed" and draft in row["overlap"]:
            found.setdefault(row["domain"], []).append(row["overlap"][draft] - row["overlap"]["base"])
    return {domain: sorted(values) for domain, values in sorted(found.items())}


def prompts_in_words() -> str:
    parts = [
        f"{domain}: it fell on {sum(value < 0 for value in values)} of {len(values)}, median "
        f"{statistics.median(values):+.4f}, from {values[0]:+.4f} to {values[-1]:+.4f}"
        for domain, values in _by_prompt().items()
    ]
    return f"Change of mean Σ min(p, q) by DPO, one dot a prompt. {'; '.join(parts)}."


def prompts(pyplot):
    domains = _by_prompt()
    figure, axes = pyplot.subplots(1, len(domains), figsize=(8, 3.2), sharey=True, layout="constrained", squeeze=False)
    for panel, (domain, values) in zip(axes[0], domains.items(), strict=True):
        panel.plot(range(1, len(values) + 1), values, "o", color="black", markersize=3)
        panel.axhline(0, color="black", linewidth=0.8, linestyle=":")
        panel.set(title=f"{domain}, {len(values)} prompts", xlabel="prompts, in order of their change")
    axes[0, 0].set_ylabel("dpo − base, Σ min(p, q)")
    return figure


# --- positions --------------------------------------------------------------------------------------------------------


def _positions() -> dict[str, list[float]]:
    """draft → share accepted among the drafts tested at place 1, 2, … of a block, on the seed's prompts."""
    blocks: dict[str, list[Block]] = {}
    for row in load_rows("results/live.jsonl"):
        if row["source"] == "seed" and row["mode"] != "verifier":
            blocks.setdefault(row["mode"], []).extend(Block(drafted, accepted, []) for drafted, accepted, _ in row["trace"])
    return {mode: acceptance_by_position(found) for mode, found in blocks.items()}


def positions_in_words() -> str:
    parts = [f"{mode} {', '.join(f'{share:.1%}' for share in shares)}" for mode, shares in _positions().items()]
    return (
        "Share of tested drafts that the verifier accepts on the study's prompts, live, by place 1, 2, … in the block: "
        f"{'; '.join(parts)}."
    )


def positions(pyplot):
    figure, axes = pyplot.subplots(figsize=(6, 3.2), layout="constrained")
    found = _positions()
    for mode, shares in found.items():
        axes.plot(
            range(1, len(shares) + 1),
            shares,
            marker=MARKERS.get(mode, "x"),
            color="black",
            markerfacecolor=FILLS.get(mode, "white"),
            linestyle="-" if mode == "base" else "--",
            label=mode,
        )
    longest = max(map(len, found.values()))
    axes.set(xlabel="place in the block", ylabel="accepted / tested", ylim=(0, 1), xticks=range(1, longest + 1))
    axes.legend(title="draft")
    return figure


# --- speed ------------------------------------------------------------------------------------------------------------


def speed_in_words() -> str:
    rows = load("results/benchmark.json")["summary"]["by_k"]
    best = max(rows, key=lambda row: row["over_ours"])
    measured, from_blocks, from_alpha = (
        ", ".join(f"{row[key]:.2f}" for row in rows) for key in ("over_ours", "predicted_from_blocks", "predicted_from_alpha")
    )
    return (
        f"Speed-up over our loop without a draft, at K = {', '.join(str(row['k']) for row in rows)}. Measured: {measured}; "
        f"best at K = {best['k']}. Predicted from the measured tokens per block: {from_blocks}; from α as if positions "
        f"were independent: {from_alpha}."
    )


def speed(pyplot):
    rows = load("results/benchmark.json")["summary"]["by_k"]
    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    for key, style, label in (
        ("over_ours", "ko-", "measured"),
        ("predicted_from_blocks", "k^--", "predicted from blocks"),
        ("predicted_from_alpha", "ks:", "predicted from α, independent positions"),
    ):
        axes.plot([row["k"] for row in rows], [row[key] for row in rows], style, markerfacecolor="white", label=label)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(xlabel="draft length K", ylabel="× our loop without a draft", xticks=[row["k"] for row in rows])
    axes.legend()
    return figure


FIGURES = {
    "changes": (changes, changes_in_words),
    "prompts": (prompts, prompts_in_words),
    "positions": (positions, positions_in_words),
    "speed": (speed, speed_in_words),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("results/plots"), metavar="DIR", help="(default %(default)s)")
    args = parser.parse_args()

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    args.output_dir.mkdir(parents=True, exist_ok=True)
    for name, (draw, in_words) in FIGURES.items():
        try:
            figure = draw(pyplot)
        except FileNotFoundError as fault:
            say(f"{name}: not drawn, for {fault.filename} is not measured yet")
            continue
        unfinished = args.output_dir / f".{name}.png"
        figure.savefig(unfinished, dpi=120, format="png", metadata={"Software": None})
        os.replace(unfinished, args.output_dir / f"{name}.png")
        print(f"{name}: {in_words()}")


if __name__ == "__main__":
    run(main)
