"""The tables and the figure of the engine's page, and its row on the front page.

    python -m studies.engine.tables            draws the figure and fills the pages
    python -m studies.engine.tables --check    exits 1 if a page and the results disagree

The functions below are named like the parts that they write.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from specdec.intervals import mean_with_interval
from specdec.report import Part, decoded, hardware, load, new_figure, picture, point, run_pages, table
from specdec.terminal import run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path("studies/engine")
FRONT, OWN = Path("README.md"), HERE / "README.md"
SPEED, EXACTNESS, FIGURE = HERE / "results/benchmark.json", HERE / "results/exactness.json", HERE / "figures/speed.png"
FLOAT32, STILL = HERE / "results/demo_float32.json", HERE / "results/still.png"
INT8, BESIDE = HERE / "results/benchmark_int8.json", HERE / "results/benchmark_beside.json"
SHORT = (1, 2, 3, 4, 5, 6, 8)  # of K, in the page's one table
K = 4  # the default of speculative_decode.py, and study 0's
HEADER = ["decoding", "tokens/s", "× generate", "× ours without a draft", "tokens per pass"]
HEADER += ["predicted from α", "predicted from blocks"]


# --- exact ------------------------------------------------------------------------------------------------------------


def exactness() -> str:
    result = load(EXACTNESS)
    samplers = result["results"]
    openings = []
    for number, opening in enumerate(samplers["ours"]["openings"]):
        text = "any other" if opening["text"] is None else f"`{opening['text']!r}`"
        found = [str(of["openings"][number]["found"]) for of in samplers.values()]
        openings.append([text, f"{opening['expected']:.1f}", *found])
    if len(openings) > 8:
        openings = [*openings[:6], openings[-1]]
    metrics = []
    for label, key in (
        ("p-value of chi-square", "p_value"),
        ("total variation from the exact distribution", "total_variation"),
    ):
        metrics.append([label, "", *(f"{of[key]:.2g}" for of in samplers.values())])
    ours = samplers["ours"]
    return (
        f"{table(['opening', 'expected', *samplers], openings + metrics)}\n\n{ours['samples']} texts each, {ours['bins']} "
        f"bins, the likeliest shown. {assisted(result)} {hardware([result['environment']])}"
    )


def assisted(result: dict) -> str:
    if result["assisted_error"]:
        return f"Assisted sampling raised {result['assisted_error']}."
    others = ", ".join(f"`{text!r}`" for text in result["results"]["assisted"]["others"][:4])
    return f"The first openings of assisted sampling that are none of these: {others}."


# --- fast -------------------------------------------------------------------------------------------------------------


def speed_rows(result: dict, lengths: tuple[int, ...] | None = None) -> list[list[str]]:
    """Plain decodings first, then ours at every K, or at these lengths alone."""
    summary = result["summary"]
    plain, packed, ours = summary["generate"], summary["generate_packed"], summary["ours"]
    rows = [
        ["transformers `generate`", f"{plain:.2f}", "1.00", "", "", "", ""],
        ["the same, linear layers packed", f"{packed:.2f}", f"{packed / plain:.2f}", "", "", "", ""],
        ["ours, no draft", f"{ours:.2f}", f"{summary['ours_over_generate']:.2f}", "1.00", "1.00", "", ""],
    ]
    for found in summary["by_k"]:
        if lengths is None or found["k"] in lengths:
            keys = ["tokens_per_second", "over_generate", "over_ours", "block_efficiency"]
            keys += ["predicted_from_alpha", "predicted_from_blocks"]
            rows.append([f"ours, K = {found['k']}", *(f"{found[key]:.2f}" for key in keys)])
    if cpp := result["llama_cpp"]:
        rows.append(["llama.cpp, the same file in Q4_K_M", f"{cpp:.2f}", f"{cpp / plain:.2f}", f"{cpp / ours:.2f}", "", "", ""])
    return rows


def speed() -> str:
    """The page's one table."""
    result = load(SPEED)
    conditions = result["conditions"]
    medians = f"Medians over {conditions['prompts']} prompts, {conditions['max_new_tokens']} new tokens"
    return (
        f"{table(HEADER, speed_rows(result, SHORT))}\n\n{medians}, temperature {conditions['temperature']}. "
        f"{hardware([result['environment']])}"
    )


def speed_by_k() -> str:
    """Every row, and what else the run measured."""
    result = load(SPEED)
    summary, same = result["summary"], result["same_vocabulary"]
    overhead = max(found["overhead_share"] for found in summary["by_k"])
    return (
        f"{table(HEADER, speed_rows(result))}\n\nCost ratio c = {summary['c']:.3f}; time outside the two models' forwards at "
        f"most {overhead:.1%}; peak memory {result['peak_memory_bytes']['resident'] / 2**30:.1f} GiB. Where one model drafts "
        f"for itself (SmolLM2, K = {same['k']}), our loop makes {same['ours']:.1f} tokens/s and transformers' assisted "
        f"generation {same['assisted_generation']:.1f}."
    )


def backends() -> str:
    """Both backends in one sitting: every decoding, and what one of its blocks takes."""
    rows, prompts = [], {}
    for name, file in (("transformers, float32", BESIDE), ("int8", INT8)):
        result = load(file)
        summary, prompts[name] = result["summary"], len(result["rows"])
        step = summary["seconds_per_step"]["verifier"] * 1000
        rows.append([name, "no draft", f"{summary['ours']:.2f}", "1.00", "", f"{step:.0f}", ""])
        for found in summary["by_k"]:
            parts = [f"{found['seconds_per_block'][part] * 1000:.0f}" for part in ("draft", "verify", "other")]
            speeds = [f"{found['tokens_per_second']:.2f}", f"{found['block_efficiency']:.2f}"]
            rows.append([name, f"K = {found['k']}", *speeds, *parts])
    header = [
        "backend",
        "decoding",
        "tokens/s",
        "tokens per pass",
        "draft, ms a block",
        "verify, ms a block",
        "rest, ms a block",
    ]
    result = load(INT8)
    measured = ", ".join(f"{count} with {name}" for name, count in prompts.items())
    memory = " and ".join(f"{load(file)['peak_memory_bytes']['resident'] / 2**30:.1f} GiB" for file in (BESIDE, INT8))
    return (
        f"{table(header, rows)}\n\nPrompts measured: {measured}; {result['conditions']['max_new_tokens']} new tokens each. "
        f"Peak memory {memory}. {hardware([result['environment']])}"
    )


def speed_in_words() -> str:
    rows = load(SPEED)["summary"]["by_k"]
    best = max(rows, key=lambda found: found["over_ours"])
    lengths = ", ".join(str(found["k"]) for found in rows)
    measured, from_blocks, from_alpha = (
        ", ".join(f"{found[key]:.2f}" for found in rows)
        for key in ("over_ours", "predicted_from_blocks", "predicted_from_alpha")
    )
    return (
        f"Speed-up over our loop without a draft, at K = {lengths}. Measured: {measured}; best at K = {best['k']}. Predicted "
        f"from the measured tokens per block: {from_blocks}; from α as if positions were independent: {from_alpha}."
    )


def draw_speed() -> Figure:
    rows = load(SPEED)["summary"]["by_k"]
    lengths = [found["k"] for found in rows]
    figure, (panel,) = new_figure(6, 3.5)
    for number, (key, line, label) in enumerate(
        (
            ("over_ours", "-", "measured"),
            ("predicted_from_blocks", "--", "predicted from blocks"),
            ("predicted_from_alpha", ":", "predicted from α, independent positions"),
        )
    ):
        panel.plot(lengths, [found[key] for found in rows], **point(number), linestyle=line, label=label)
    panel.axhline(1, color="black", linewidth=0.8)
    panel.set(xlabel="draft length K", ylabel="× our loop without a draft", xticks=lengths)
    panel.legend()
    return figure


# --- one prompt, looked at --------------------------------------------------------------------------------------------


def demo() -> str:
    """The front page's example."""
    return decoded(load(HERE / "results/demo_int8.json"))


def float32() -> str:
    return decoded(load(FLOAT32))


def still() -> str:
    """The viewer's picture of the same runs; it is drawn by view_trace.py, which run.sh calls."""
    runs = [run for run in load(FLOAT32)["runs"] if run["draft"] != "verifier"]
    kept = ", ".join(f"{run['draft']} {run['accepted']} of {run['drafted']}" for run in runs)
    return picture(
        STILL, OWN, f"The first twelve blocks, token by token: kept, rejected, not tested, from the verifier. Kept: {kept}."
    )


# --- pages ------------------------------------------------------------------------------------------------------------


def row() -> str:
    """The cell in the front page's table of studies."""
    result = load(EXACTNESS)
    ours, plain = result["results"]["ours"], result["results"]["generate"]
    speedup = speedup_at(K)
    bounds = " to ".join(f"{bound:.2f}" for bound in speedup["interval"])
    return (
        f"No deviation found: chi-square on {ours['samples']} texts has p = {ours['p_value']:.2g} (`generate`: "
        f"{plain['p_value']:.2g}). At K = {K}, {speedup['mean']:.2f} × plain decoding ({bounds})"
    )


def speedup_at(k: int) -> dict:
    """Our loop at draft length k over our loop without a draft: the mean over prompts of their ratios, with its interval."""
    result = load(SPEED)
    ratios = [found[f"K={k}"]["tokens_per_second"] / found["ours"]["tokens_per_second"] for found in result["rows"]]
    return mean_with_interval(ratios, result["conditions"]["seed"])


def figure() -> str:
    return picture(FIGURE, OWN, speed_in_words())


OWN_PARTS: dict[str, Part] = {
    "speed": speed,
    "figure speed": figure,
    "exactness": exactness,
    "speed by k": speed_by_k,
    "backends": backends,
    "float32": float32,
    "still": still,
}
PAGES: dict[Path, dict[str, Part]] = {OWN: OWN_PARTS, FRONT: {"row engine": row, "demo": demo}}


def main() -> int:
    return run_pages(__doc__, PAGES, {FIGURE: draw_speed})


if __name__ == "__main__":
    run(main)
