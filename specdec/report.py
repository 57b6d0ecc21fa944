"""From result files to pages: Markdown tables, the wording of intervals, the machines that measured, figures, markers.

A study's tables.py writes the text between `<!-- name -->` and `<!-- /name -->` of its pages with these functions and ends in
`run_pages`. This module knows no study, and no torch: pages can be filled and checked where no model runs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specdec.files import read_jsonl, write_whole
from specdec.intervals import mean_with_interval
from specdec.terminal import Problem, say
from specdec.trace import live_means

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Part = Callable[[], str]  # writes the text between two markers
NOT_THE_KIND = ("path", "digest", "seed", "dataset_sha256", "revision")  # fields in which two trainings of a kind may differ
POINTS = (("o", "white"), ("s", "black"), ("^", "white"), ("D", "0.6"), ("v", "black"), ("P", "white"))  # marker, filling


# --- reading ----------------------------------------------------------------------------------------------------------


def load(file: str | Path) -> dict[str, Any]:
    """The JSON object in `file`.

    Raises:
        FileNotFoundError: not measured yet.
        Problem: not JSON.
    """
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise Problem(f"{file} is not JSON ({error}). Measure it again, or take it from the repository.") from None


def overlaps_of(file: Path, domain: str) -> dict[str, dict[str, float]]:
    """Prompt of `domain` → draft → its mean Σ min(p, q), of all runs in the rows of evaluate_acceptance.py paired."""
    found: dict[str, dict[str, float]] = {}
    for row in read_jsonl(file):
        if row.get("domain") == domain:
            found.setdefault(row["prompt"], {}).update(row["overlap"])
    return found


def difference(found: dict[str, dict[str, float]], draft: str, other: str) -> dict:
    """Mean over the prompts of both of draft − other in Σ min(p, q), paired, as `mean_of`; `found` of `overlaps_of`."""
    both = [drafts for drafts in found.values() if draft in drafts and other in drafts]
    return mean_of([drafts[draft] - drafts[other] for drafts in both])


def mean_of(values: list[float]) -> dict:
    """Mean over prompts, its interval, and how many prompts."""
    return {"prompts": len(values), **mean_with_interval(values, seed=42)}


def live_rows(file: Path) -> tuple[list[dict], list[dict]]:
    """The header rows of `live`, and its runs.

    Raises:
        FileNotFoundError: not measured.
    """
    headers: list[dict] = []
    runs: list[dict] = []
    for row in read_jsonl(file):
        (headers if "conditions" in row else runs).append(row)
    return headers, runs


def live_pairs(file: Path, draft: str) -> tuple[list[dict], dict[tuple[str, str], tuple[float, float]]]:
    """The header rows; and (domain, prompt) → (seconds a token with the base draft, with `draft`), of rows of `live`.

    Raises:
        FileNotFoundError: not measured.
    """
    headers, runs = live_rows(file)
    pairs = {}
    for row, seconds in live_means(runs, lambda run: run["seconds"] / run["tokens"]):
        if {"base", draft} <= seconds.keys():
            pairs[row["domain"], row["prompt"]] = (seconds["base"], seconds[draft])
    return headers, pairs


def speed_ratio(pairs: Iterable[tuple[float, float]]) -> dict:
    """Tokens a second with a draft over those with the base draft, from the pairs of `live_pairs`, as `mean_of`."""
    return mean_of([base / tuned for base, tuned in pairs])


def live_ratios(file: Path) -> tuple[list[dict], list[tuple[str, str, dict]]]:
    """The header rows of `live`; and (draft, domain, `speed_ratio` of the prompts that it and the base draft decoded).

    Raises:
        FileNotFoundError: not measured.
    """
    headers, _ = live_rows(file)
    ratios = []
    for draft in dict.fromkeys(name for header in headers for name in header["conditions"]["drafts"] if name != "base"):
        _, pairs = live_pairs(file, draft)
        for domain in sorted({domain for domain, _ in pairs}):
            ratios.append((draft, domain, speed_ratio(pair for (where, _), pair in pairs.items() if where == domain)))
    return headers, ratios


def ratios_of_runs(files: Iterable[Path]) -> list[tuple[Path, list[dict], list[tuple[str, str, dict]]]]:
    """(file, its header rows, its ratios) by `live_ratios`, of the files that are there."""
    return [(file, *live_ratios(file)) for file in files if file.exists()]


def first_trainings(drafts: dict[str, dict | None]) -> dict[str, str]:
    """draft → the first one of its kind: a draft trained again has the same fields but another random seed.

    Args:
        drafts: name → the settings it was trained with, None for the base draft.
    """
    kinds: dict[str, str] = {}
    first = {}
    for name, settings in drafts.items():
        known = {key: value for key, value in (settings or {}).items() if value is not None and key not in NOT_THE_KIND}
        kind = json.dumps(known, sort_keys=True)
        first[name] = kinds.setdefault(kind, name)
    return first


# --- words ------------------------------------------------------------------------------------------------------------


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table: first column to the left, the others to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def rate(metrics: dict) -> str:
    """The learning rate of a training, as `5e-5`."""
    return f"{metrics['settings']['learning_rate']:.0e}".replace("e-0", "e-")


def step_of(metrics: dict) -> int:
    """Pairs in an optimizer step of a training by train_dpo.py."""
    return metrics["settings"]["batch_size"] * metrics["settings"]["gradient_accumulation"]


def base_draft(metrics: dict) -> str:
    """The draft that a training by train_dpo.py began with, without its owner's name."""
    return metrics["settings"]["base_model"].rpartition("/")[2]


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def interval(change: dict, digits: int = 4, sign: str = "+") -> str:
    """`-0.0206 to -0.0150`, from what `specdec.intervals.mean_with_interval` returns; `sign` "" is for what is no change."""
    if change["interval"] is None:
        return "too few prompts"
    return " to ".join(f"{bound:{sign}.{digits}f}" for bound in change["interval"])


def span(change: dict, digits: int = 4, sign: str = "+") -> str:
    """`-0.0178 (-0.0206 to -0.0150)`: the mean and its interval."""
    return f"{change['mean']:{sign}.{digits}f} ({interval(change, digits, sign)})"


def verdict(change: dict) -> str:
    """What the interval of a change says, as a verb: it lies above zero, below, or holds it; no interval says nothing."""
    low, high = change["interval"] or (-1.0, 1.0)
    return "raised" if low > 0 else "lowered" if high < 0 else "did not measurably change"


def speed_verdict(ratio: dict) -> str:
    """What the interval of a ratio of tokens a second says, as a verb: above one, below, or holding it; none says nothing."""
    low, high = ratio["interval"] or (0.0, 2.0)
    return "makes decoding faster" if low > 1 else "makes decoding slower" if high < 1 else "was not shown to change the speed"


def count_passes(number: float) -> str:
    return "one pass" if number == 1 else f"{number:g} passes"


def hardware(environments: Iterable[dict | None]) -> str:
    """The machines and the code that measured, in one line; where there were several, it says so.

    Args:
        environments: as `specdec.provenance.environment` writes them, one a run; None where a run did not keep it.
    """
    commits: dict[str, set[str]] = {}
    for environment in environments:
        commit = (environment or {}).get("commit") or "unknown"
        changed = " with uncommitted code" if (environment or {}).get("uncommitted_code") else ""
        commits.setdefault(_machine(environment), set()).add(commit[:8] + changed)
    described = [f"{machine}, commit {', '.join(sorted(found))}" for machine, found in commits.items()]
    if len(described) == 1:
        return f"Measured on {described[0]}."
    return f"Measured on {len(described)} machines or sets of packages: {'; '.join(described)}."


def _machine(environment: dict | None) -> str:
    if not environment or not environment.get("packages"):
        return "a machine that was not recorded"
    if environment["gpu"]:
        name = environment["gpu"]["name"]
    else:
        name = f"{environment['cores']} cores of an {environment['processor']} processor"
    packages = environment["packages"]
    return f"{name}, torch {packages['torch']}, transformers {packages['transformers']}"


def decoded(result: dict) -> str:
    """The table of one prompt decoded with several drafts, from the --json of speculative_decode.py."""
    rows = []
    for found in result["runs"]:
        cells = [str(found["tokens"]), f"{found['seconds']:.1f}", f"{found['tokens_per_second']:.2f}"]
        cells += [f"{found['speedup']:.2f}×", f"{found['block_efficiency']:.2f}"]
        cells += [percent(found["acceptance_rate"]), percent(found["expected_acceptance"])]
        rows.append([found["draft"], *cells])
    header = ["draft", "tokens", "seconds", "tokens/s", "speed-up", "tokens per pass", "accepted/drafted", "mean Σ min(p, q)"]
    return (
        f"{table(header, rows)}\n\nOne prompt, one random seed: an example, not a finding. {hardware([result['environment']])}"
    )


# --- figures ----------------------------------------------------------------------------------------------------------


def new_figure(width: float, height: float, panels: int = 1) -> tuple[Figure, list]:
    """A figure of `width` × `height` inches and its panels, side by side, of one vertical axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)
    return figure, list(axes[0])


def point(number: int) -> dict:
    """How the curve or draft of this number is drawn: black, told apart by marker and filling, never by colour."""
    marker, filling = POINTS[number % len(POINTS)]
    return {"marker": marker, "color": "black", "markerfacecolor": filling}


def draw_means(panel, at: list[float], found: list[dict], number: int, label: str) -> None:
    """Means with their intervals at these places along the x axis, as the `number`th kind of point."""
    for place, one in zip(at, found, strict=True):
        panel.plot([place] * 2, one["interval"], color="black", linewidth=1)
    panel.plot(at, [one["mean"] for one in found], **point(number), linestyle="none", label=label)


def zero_line(panel, horizontal: bool) -> None:
    (panel.axhline if horizontal else panel.axvline)(0, color="black", linewidth=0.8, linestyle=":")


def save(figure: Figure, file: Path) -> None:
    """Writes a PNG whole or not at all; the same numbers give the same bytes."""
    unfinished = file.with_name(f".{file.name}")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(unfinished, dpi=120, format="png", metadata={"Software": None})
    os.replace(unfinished, file)


def picture(file: Path, page: Path, words: str) -> str:
    """The Markdown that shows `file` on `page`, with what it says in words as its alternative text."""
    file.stat()  # FileNotFoundError where it was not drawn yet
    return f"![{words}]({Path(os.path.relpath(file, page.parent)).as_posix()})"


# --- pages ------------------------------------------------------------------------------------------------------------


def markers(text: str) -> list[str]:
    """The names of the marked parts of a page, in order."""
    return re.findall(r"<!-- ([^/][^>]*?) -->.*?<!-- /\1 -->", text, re.DOTALL)


def fill(text: str, parts: dict[str, Part]) -> str:
    """Returns `text` with its marked parts rewritten; a part whose files are missing says so.

    A part whose opening marker ends its line gets lines of its own; one inside a line (a table's cell) stays in it.

    Raises:
        Problem: the markers of a part are not in the text.
    """
    for name, write in parts.items():
        marked = re.compile(rf"(<!-- {re.escape(name)} -->)(\n?).*?(<!-- /{re.escape(name)} -->)", re.DOTALL)
        found = marked.search(text)
        if not found:
            raise Problem(f"no <!-- {name} --> … <!-- /{name} --> in the page. Put the markers back.")
        try:
            body = write()
        except FileNotFoundError as missing:
            lacks = "lacks it" if Path(missing.filename).exists() else "is missing"
            body = f"*Not measured yet: `{missing.filename}` {lacks}.*"
        opening, line_end, closing = found.groups()
        text = text[: found.start()] + opening + line_end + body + line_end + closing + text[found.end() :]
    return text


def run_pages(about: str, pages: dict[Path, dict[str, Part]], figures: dict[Path, Callable[[], Figure]]) -> int:
    """The command line of a tables.py: draws its figures and fills its pages, or with --check only compares.

    Returns:
        The exit status: 1 if --check found a page that disagrees with the results.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page would change")
    args = parser.parse_args()
    if not args.check:
        for file, draw in figures.items():
            try:
                save(draw(), file)
            except FileNotFoundError as missing:
                say(f"{file}: not drawn, for {missing.filename} is not measured yet")
    stale = 0
    for page, parts in pages.items():
        text = page.read_text(encoding="utf-8")
        try:
            filled = fill(text, parts)
        except Problem as problem:
            raise Problem(f"{page}: {problem}") from None
        if filled == text:
            continue
        if args.check:
            stale = 1
            say(f"{page} disagrees with the results. Run make results.")
        else:
            write_whole(page, filled)
    return stale
