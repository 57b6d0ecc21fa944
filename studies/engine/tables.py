"""The tables and the figures of the engine's page, and its row on the front page.

    python -m studies.engine.tables            draws the figures and fills the pages
    python -m studies.engine.tables --check    exits 1 if a page and the results disagree

The functions below are named like the parts that they write.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from specdec.files import read_jsonl
from specdec.intervals import mean_with_interval
from specdec.report import Part, decoded, hardware, interval, load, new_figure, percent, picture, point, run_pages, span, table
from specdec.terminal import run
from specdec.theory import tokens_per_block

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path("studies/engine")
FRONT, OWN, GPU = Path("README.md"), HERE / "README.md", Path("GPU.md")
SPEED, NO_VNNI = HERE / "results/benchmark.json", HERE / "results/benchmark_no_vnni.json"  # two machines
EXACTNESS, EXACTNESS_INT8 = HERE / "results/exactness.json", HERE / "results/exactness_int8.json"
SHAPES = HERE / "results/shapes.json"  # models of Phi-3's shapes with random weights
HEAD = HERE / "results/draft_head.json"  # the draft with fewer tokens to propose
AGREEMENT = HERE / "results/agreement.json"  # of the int8 verifier with itself in float32
BLOCKS, SPEED_FIGURE = HERE / "figures/blocks.png", HERE / "figures/speed.png"
FLOAT32, STILL = HERE / "results/demo_float32.json", HERE / "results/still.png"
STUDY0 = Path("domains/study0.jsonl")  # the benchmark's prompts
OURS = ("transformers", "int8")
PEERS = {  # as benchmark_decoding.py names them → as the page does, in the page's order
    "llama.cpp": "llama.cpp",
    "llama.cpp, drafted": "llama.cpp",
    "openvino": "OpenVINO GenAI",
    "generate": "transformers `generate`",
    "packed": "the same, linear layers packed",
    "transformers": "ours on transformers",
    "int8": "ours in int8",
}
LLAMA_CPP = {"peer": "llama.cpp", "draft": None, "k": 0}  # a decoding, for `ratio_of`
PARTS_OF_A_BLOCK = (
    ("draft", "draft", {"color": "white", "hatch": "///"}),
    ("verify", "verifier", {"color": "0.75"}),
    ("other", "rest", {"color": "black"}),
)


# --- exact ------------------------------------------------------------------------------------------------------------


def exactness() -> str:
    return openings_of(load(EXACTNESS))


def exactness_int8() -> str:
    """The same of the int8 backend; nothing as long as it is not tested."""
    if not EXACTNESS_INT8.exists():
        return ""
    return f"The int8 backend, on its own verifier:\n\n{openings_of(load(EXACTNESS_INT8))}"


def openings_of(result: dict) -> str:
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
    if "assisted" not in result["results"] and not result["assisted_error"]:
        return "“plain” is our loop without a draft."  # int8 knows no other sampler
    if result["assisted_error"]:
        return f"Assisted sampling raised {result['assisted_error']}."
    others = ", ".join(f"`{text!r}`" for text in result["results"]["assisted"]["others"][:4])
    return f"The first openings of assisted sampling that are none of these: {others}."


# --- fast -------------------------------------------------------------------------------------------------------------


def name_of(row: dict) -> str:
    """How a decoding is called on the page."""
    peer = PEERS[row["peer"]]
    if row["draft"]:
        draft = row["draft"].partition("-instruct")[0]  # of a GGUF file's name
        return f"{peer}, {draft}, K = {row['k']}"
    return f"{peer}, no draft" if row["peer"] in OURS else peer


def number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def best_rows(result: dict) -> list[dict]:
    """Of every peer the fastest row without a draft, with the base draft and with a tuned one; in the order of PEERS."""
    best: dict[tuple, dict] = {}
    for row in result["summary"]:
        kind = row["draft"] if row["draft"] in (None, "base") else "tuned"
        known = best.setdefault((row["peer"], kind), row)
        if row["tokens_per_second"] > known["tokens_per_second"]:
            best[row["peer"], kind] = row
    return sorted(best.values(), key=lambda row: list(PEERS).index(row["peer"]))


def peak(result: dict, peer: str) -> str:
    found = result["about"].get(peer, {}).get("memory")
    return f"{found[-1]['peak_bytes'] / 2**30:.1f}" if found else ""


def speed() -> str:
    """The page's one table."""
    return speeds_of(load(SPEED))


def no_vnni() -> str:
    """Another machine, whose processor has neither VNNI nor bf16 units."""
    result = load(NO_VNNI)
    costs = cost_ratios(result)["int8"]
    return f"{speeds_of(result)} Cost ratio c in int8: {costs:.3f}."


def speeds_of(result: dict) -> str:
    """Of every peer and draft the fastest row, and what the run was."""
    rows = []
    for row in best_rows(result):
        ratios = [number(row[key]) for key in ("over_llama_cpp", "over_generate", "over_no_draft")]
        more = [number(row.get("block_efficiency")), number(row["first_token_seconds"], 1), peak(result, row["peer"])]
        rows.append([name_of(row), number(row["tokens_per_second"]), *ratios, *more])
    for peer, about in result["about"].items():
        if "not_measured" in about:
            rows.append([PEERS.get(peer, peer), about["not_measured"], *[""] * 6])
    header = ["decoding", "tokens/s", "× llama.cpp", "× generate", "× itself without a draft", "tokens per pass"]
    header += ["first token, s", "peak memory, GiB"]
    shown = "Of the tuned drafts the fastest, and of every draft its fastest K."
    return f"{table(header, rows)}\n\n{medians(result)} {shown} {hardware([result['environment']])}"


def medians(result: dict, ratios: str = "of ratios means") -> str:
    conditions = result["conditions"]
    return (
        f"Medians over {conditions['prompts']} prompts, {ratios}; {conditions['max_new_tokens']} new tokens, "
        f"temperature {conditions['temperature']}. The time of a text begins with its prompt."
    )


def every_decoding(result: dict) -> list[list[str]]:
    rows = []
    for row in result["summary"]:
        keys = ["tokens_per_second", "over_generate", "over_no_draft", "block_efficiency"]
        keys += ["predicted_from_alpha", "predicted_from_blocks"]
        rows.append([name_of(row), *(number(row.get(key)) for key in keys), percent(row.get("acceptance_rate"))])
    return rows


EVERY = ["decoding", "tokens/s", "× generate", "× itself without a draft", "tokens per pass"]
EVERY += ["predicted from α", "predicted from blocks", "accepted/drafted"]


def speed_by_k() -> str:
    """Every decoding of the main table's run."""
    result = load(SPEED)
    overhead = max(row["overhead_share"] for row in result["summary"] if row["peer"] in OURS)
    costs = ", ".join(f"{PEERS[peer]} {found:.3f}" for peer, found in cost_ratios(result).items())
    return (
        f"{table(EVERY, every_decoding(result))}\n\nCost ratio c: {costs}. Time outside the two models' forwards: at most "
        f"{overhead:.1%}. {medians(result)}"
    )


def cost_ratios(result: dict) -> dict[str, float]:
    """Peer → seconds of a draft's step over those of a verifier's pass of one token."""
    ratios = {}
    for peer in OURS:
        costs = result["about"].get(peer, {}).get("seconds_per_step")
        if costs:
            ratios[peer] = costs["draft"] / costs["verifier"]
    return ratios


# --- what a block's time consists of ----------------------------------------------------------------------------------


def block_rows(result: dict) -> list[dict]:
    """The decodings of our loop in int8: without a draft, and with the last draft named at every K."""
    rows = [row for row in result["summary"] if row["peer"] == "int8"]
    drafts = [row["draft"] for row in rows if row["draft"]]
    return [row for row in rows if row["draft"] in (None, *drafts[-1:])]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f}"


def blocks() -> str:
    result = load(SPEED)
    rows = []
    for row in result["summary"]:
        if row["peer"] not in OURS:
            continue
        parts, least = row["seconds_per_block"], row["floor_per_block"]
        times = [parts["draft"], least["draft"], parts["verify"], least["verify"], parts["other"]]
        rows.append([name_of(row), *map(milliseconds, times), milliseconds(sum(parts.values()) / row["block_efficiency"])])
    header = ["decoding", "draft, ms", "at least", "verifier, ms", "at least", "rest, ms", "ms a token"]
    return f"{table(header, rows)}\n\n{floors(result)}"


def floors(result: dict) -> str:
    """What "at least" means, with the rates that were measured."""
    rates = result["about"]["machine"]
    products = ", ".join(f"{rate / 1e9:.0f} in {dtype}" for dtype, rate in rates["multiply_adds_per_second"].items())
    weights = result["about"]["int8"]["weights"]["verifier"]
    file = result["about"].get("llama.cpp", {}).get("file_bytes")
    size = f" llama.cpp reads {file / 1e9:.2f} GB." if file else ""
    return (
        "A block: K steps of the draft, a pass of the verifier, the rest. “At least”: its weights read once at the "
        f"{rates['bytes_per_second'] / 1e9:.1f} GB/s of this memory, or its multiply-adds at this processor's rate (10⁹ a "
        f"second: {products}), whichever takes longer. In int8 the verifier's weights are {weights['count'] / 1e9:.2f} GB, and "
        f"each is multiplied {weights['products']:.1f} times a token.{size}"
    )


def draw_blocks() -> Figure:
    """A bar a draft length: draft, verifier and rest of one block, and the least that they could take."""
    rows = block_rows(load(SPEED))
    figure, (panel,) = new_figure(6.5, 3.2)
    for height, row in enumerate(rows):
        left = 0.0
        for part, label, look in PARTS_OF_A_BLOCK:
            width = row["seconds_per_block"][part] * 1000
            panel.barh(height, width, left=left, edgecolor="black", label=label if height == 0 else None, **look)
            left += width
        floor = sum(row["floor_per_block"].values()) * 1000
        panel.plot([floor, floor], [height - 0.45, height + 0.45], color="black", linewidth=3, linestyle=(0, (1, 0.6)))
    panel.plot([], [], color="black", linewidth=3, linestyle=(0, (1, 0.6)), label="least on this machine")
    panel.set_title(f"our loop in int8, {rows[-1]['draft']} draft")
    panel.set(xlabel="milliseconds a block", yticks=range(len(rows)), yticklabels=[f"K = {row['k']}" for row in rows])
    panel.invert_yaxis()
    panel.legend(loc="upper right")
    return figure


def figure_blocks() -> str:
    said, rows = [], block_rows(load(SPEED))
    for row in rows:
        draft, verifier, rest = (milliseconds(row["seconds_per_block"][part]) for part, _, _ in PARTS_OF_A_BLOCK)
        least = milliseconds(sum(row["floor_per_block"].values()))
        said.append(f"K = {row['k']}: draft {draft}, verifier {verifier}, rest {rest}; at least {least}")
    return picture(BLOCKS, OWN, f"Milliseconds of one block of our loop in int8, {rows[-1]['draft']} draft. {'. '.join(said)}.")


def llama_rule() -> str:
    """Beside our loop's accepted/drafted: how llama.cpp proposes and keeps tokens in the run of the tables."""
    if load(SPEED)["about"].get("llama.cpp, drafted", {}).get("rule") == "probabilistic":
        return (
            "llama.cpp keeps a draft by the rule of our loop here, but samples it from the ten likeliest tokens of q alone, "
            "which changes its accepted/drafted, not its text"
        )
    return (
        "By default, as here, llama.cpp proposes the draft's likeliest tokens and keeps one where its own sample of p is the "
        "same token; our loop samples from q and keeps a token with probability min(1, p/q)"
    )


def llama_memory() -> str:
    """In the run of the tables every K may have had a server of its own, all of them at once."""
    found = load(SPEED)["about"].get("llama.cpp, drafted", {}).get("memory", [])
    servers = [step for step in found if step["when"] == "loaded"]
    return f"; of llama.cpp with a draft, that of {len(servers)} servers at once, one for each K" if len(servers) > 1 else ""


def long_texts() -> str:
    result = load(SPEED)
    rows = []
    for peer, about in result["about"].items():
        if found := about.get("long"):
            steps = dict(sorted(found["step_seconds"].items(), key=lambda item: int(item[0])))
            speed = found["prompt_tokens"] / found["prefill_seconds"]
            cells = [f"{found['prefill_seconds']:.1f}", f"{speed:.0f}", f"{found['added_peak_bytes'] / 2**30:.2f}"]
            rows.append([PEERS[peer], *cells, *map(milliseconds, steps.values())])
            header = [f"{found['prompt_tokens']} tokens read, s", "tokens/s", "GiB more at the peak"]
            header += [f"ms a token behind {length}" for length in steps]
    return table(["verifier alone", *header], rows)


def memory_in_words() -> str:
    found = load(SPEED)["about"]["int8"]["memory"]
    return "; ".join(f"{step['when']} {step['peak_bytes'] / 2**30:.2f} GiB" for step in found)


# --- a smaller output layer of the draft ------------------------------------------------------------------------------


def draft_head() -> str:
    """By size of the layer: acceptance, time of a step, and what both make of the speed at the benchmark's best K."""
    result = load(HEAD)
    whole, rows = result["summary"][0], []
    for found in result["summary"]:
        cells = [f"{found['tokens']:,}", f"{found['overlap']:.4f}", f"{found['milliseconds']:.1f}"]
        if found is not whole:
            cells += [span(found["change"]), span(found["milliseconds_change"], 1), f"{faster(found, whole):.3f}"]
        rows.append([*cells, *["–"] * (6 - len(cells))])
    header = ["tokens that it can propose", "mean Σ min(p, q)", "ms a step", "change of Σ min(p, q)", "change of ms"]
    k, prompts = best_row()["k"], whole["prompts"]
    return (
        f"{table([*header, f'× tokens/s at K = {k}, by formula'], rows)}\n\n{prompts} AT prompts. The first row holds all "
        f"tokens that both vocabularies name. {hardware([result['environment']])}"
    )


def best_row() -> dict:
    """The benchmark's row in int8 of the draft that was cut, at its fastest K; both were measured without VNNI."""
    adapter, benchmark = load(HEAD)["conditions"]["adapter"], load(NO_VNNI)
    drafts = [name for name, path in benchmark["conditions"]["drafts"].items() if path == adapter]
    rows = [row for row in benchmark["summary"] if row["peer"] == "int8" and row["draft"] in drafts]
    if not rows:
        raise FileNotFoundError(2, f"not measured with {adapter}", str(NO_VNNI))
    return max(rows, key=lambda row: row["tokens_per_second"])


def faster(found: dict, whole: dict) -> float:
    """The factor in tokens a second of a smaller layer: tokens per block at independent positions, in the benchmark's time of a
    block, from which K times the milliseconds saved are taken."""
    row = best_row()
    block = sum(row["seconds_per_block"].values())
    saved = -row["k"] * found["milliseconds_change"]["mean"] / 1000
    return tokens_per_block(found["overlap"], row["k"]) / tokens_per_block(whole["overlap"], row["k"]) * block / (block - saved)


# --- what int8 changes of p -------------------------------------------------------------------------------------------


def agreement() -> str:
    """The whole of it, with its sentence; nothing before it is measured."""
    if not AGREEMENT.exists():
        return ""
    result = load(AGREEMENT)
    found, conditions = result["summary"], result["conditions"]
    perplexity, dtype = found["perplexity"], conditions["dtype"]
    rows = []
    for label, key in (
        ("Σ min of the two p, mean over positions", "overlap"),
        ("positions where both hold the same token for the likeliest", "same_likeliest"),
        (f"perplexity of the answers, in int8 over in {dtype}", "perplexity_ratio"),
    ):
        low, high = found[key]["interval"] or (None, None)
        rows.append([label, *(number(value, 4) for value in (found[key]["mean"], low, high))])
    header = [f"the verifier in int8 beside itself in {dtype}", "mean over answers", "95% interval: from", "to"]
    return (
        f"{table(header, rows)}\n\n{found['prompts']} stored answers of {found['positions']} tokens, read by both at "
        f"temperature {conditions['temperature']}. Perplexity {perplexity['int8']:.3f} in int8, "
        f"{perplexity['transformers']:.3f} in {dtype}. {hardware([result['environment']])}"
    )


def agreement_in_words() -> str:
    if not AGREEMENT.exists():
        return "How far the int8 verifier is from its float32 self on many answers is not part of these results"
    result = load(AGREEMENT)
    found, dtype = result["summary"], result["conditions"]["dtype"]
    known = f"95% interval {interval(found['overlap'], 3, sign='')}, " if found["overlap"]["interval"] else ""
    return (
        f"Of the int8 verifier's p, {found['overlap']['mean']:.3f} is that of its {dtype} self (mean Σ min, {known}"
        f"{found['prompts']} stored answers), and the likeliest token is the same at "
        f"{percent(found['same_likeliest']['mean'])} of the positions"
    )


def draw_speed() -> Figure:
    """Of the draft whose blocks are drawn."""
    rows = block_rows(load(SPEED))[1:]
    lengths = [found["k"] for found in rows]
    figure, (panel,) = new_figure(6, 3.5)
    for number, (key, line, label) in enumerate(
        (
            ("over_no_draft", "-", "measured"),
            ("predicted_from_blocks", "--", "predicted from blocks"),
            ("predicted_from_alpha", ":", "predicted from α, independent positions"),
        )
    ):
        panel.plot(lengths, [found[key] for found in rows], **point(number), linestyle=line, label=label)
    panel.axhline(1, color="black", linewidth=0.8)
    panel.set(xlabel="draft length K", ylabel="× our loop without a draft", xticks=lengths)
    panel.legend()
    return figure


def figure_speed() -> str:
    rows = block_rows(load(SPEED))[1:]
    best = max(rows, key=lambda found: found["over_no_draft"])
    lengths = ", ".join(str(found["k"]) for found in rows)
    measured, from_blocks, from_alpha = (
        ", ".join(f"{found[key]:.2f}" for found in rows)
        for key in ("over_no_draft", "predicted_from_blocks", "predicted_from_alpha")
    )
    words = (
        f"Speed-up of the {best['draft']} draft in int8 over our loop without a draft, at K = {lengths}. Measured: {measured}; "
        f"best at K = {best['k']}. Predicted from the measured tokens per block: {from_blocks}; from α as if positions were "
        f"independent: {from_alpha}."
    )
    return picture(SPEED_FIGURE, OWN, words)


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


def answer() -> str:
    """Both halves of the page's question."""
    best = best_draft()
    speedup = ratio_of(best)
    low, high = speedup["interval"] or (0.0, math.inf)  # of one prompt there is none
    verdict = "pays" if low > 1 else "costs time" if high < 1 else "was not shown to pay"
    return (
        f"**The text: no deviation was found. {chi_squares()} The speed: in int8 on this CPU the best draft {verdict}: "
        f"`{best['draft']}` at K = {best['k']} makes {said(speedup)} times the tokens a second of no draft "
        f"({prompts_of(load(SPEED))}, on which draft and K were chosen too){over_base(best)}{over_llama_cpp(best)}.**"
    )


def chi_squares() -> str:
    """The p-values of every sampler that must pass."""
    found = load(EXACTNESS)["results"]
    known = [f"ours {found['ours']['p_value']:.2g}", f"transformers' own `generate` {found['generate']['p_value']:.2g}"]
    if EXACTNESS_INT8.exists():
        int8 = load(EXACTNESS_INT8)["results"]
        known += [f"ours in int8 {int8['ours']['p_value']:.2g}", f"that without a draft {int8['plain']['p_value']:.2g}"]
    return (
        f"Chi-square on {found['ours']['samples']} openings of one prompt, three tokens each, has these p-values: "
        f"{', '.join(known)}."
    )


def over_base(best: dict) -> str:
    """What tuning adds: the tokens a second of the best draft over those of the base draft at its own best K."""
    if best["draft"] == "base":
        return ", and no tuned draft makes more"
    base = max((row for row in int8_rows() if row["draft"] == "base"), key=lambda row: row["tokens_per_second"])
    ratio = ratio_of(best, base)
    shown = "" if (ratio["interval"] or [0.0])[0] > 1 else ", which so few prompts do not show to be faster"
    return f", {said(ratio)} times those of the untuned draft{shown}"


def over_llama_cpp(best: dict) -> str:
    if best["over_llama_cpp"] is None:
        return ""
    ratio = ratio_of(best, LLAMA_CPP)
    return f", and {said(ratio)} times those of llama.cpp without a draft, the reading of the prompt included"


def said(ratio: dict) -> str:
    """`1.17 (1.02 to 1.31)`, or without the interval that one prompt does not give."""
    known = f" (95% interval {interval(ratio, 2, sign='')})" if ratio["interval"] else ""
    return f"{ratio['mean']:.2f}{known}"


def reading() -> str:
    """The best row in int8 beside llama.cpp and the transformers backend, and what its block consists of."""
    result, best = load(SPEED), best_draft()
    llama = ratio_of(best, LLAMA_CPP)
    low, high = llama["interval"] or (0.0, math.inf)
    verdict = "ahead of it" if low > 1 else "behind it" if high < 1 else "these prompts do not tell which is ahead"
    others = [row for row in result["summary"] if row["peer"] == "transformers"]
    older = ratio_of(best, max(others, key=lambda row: row["tokens_per_second"]))
    parts, least = best["seconds_per_block"], sum(best["floor_per_block"].values())
    times = ", ".join(f"{label} {milliseconds(parts[part])}" for part, label, _ in PARTS_OF_A_BLOCK)
    return (
        f"- In int8 with the {best['draft']} draft at K = {best['k']} the loop makes {said(llama)} times the tokens a second "
        f"of llama.cpp without a draft ({verdict}); without the time that each takes to read the prompt, "
        f"{said(behind_the_prompt(best))} times. Beside its fastest run on transformers, whose weights are read in bf16, it "
        f"makes {said(older)} times. Of its block of {milliseconds(sum(parts.values()))} ms: {times}; at least "
        f"{milliseconds(least)} on this machine."
    )


def behind_the_prompt(best: dict) -> dict:
    """llama.cpp's seconds a new token, by its own clock, over those of our loop; the mean of the prompts' ratios."""
    result = load(SPEED)
    llama = {row["prompt"]: row["token_seconds"] for row in result["rows"] if row["peer"] == "llama.cpp"}
    ratios = []
    for row in result["rows"]:
        if (row["peer"], row["draft"], row["k"]) == (best["peer"], best["draft"], best["k"]) and row["prompt"] in llama:
            ours = (row["seconds"] - row["prefill_seconds"]) / row["tokens"]
            ratios.append(llama[row["prompt"]] / ours)
    return mean_with_interval(ratios, result["conditions"]["seed"])


def int8_rows() -> list[dict]:
    """The summary rows of our loop in int8 with a draft."""
    return [found for found in load(SPEED)["summary"] if found["peer"] == "int8" and found["draft"]]


def best_draft() -> dict:
    """That of them with the draft and K that make most tokens a second."""
    return max(int8_rows(), key=lambda found: found["tokens_per_second"])


def row() -> str:
    """The cell in the front page's table of studies."""
    best = best_draft()
    return (
        f"No deviation found. In int8 with the {best['draft']} draft at K = {best['k']}, {said(ratio_of(best))} times the "
        f"tokens a second of plain decoding{over_base(best)}{over_llama_cpp(best)}, on {prompts_of(load(SPEED))}"
    )


def prompts_of(result: dict) -> str:
    """`8 AT prompts, texts of 32 tokens`."""
    prompts = {found["prompt"] for found in result["rows"]}
    domains = {found["domain"] for found in read_jsonl(STUDY0) if found["prompt"] in prompts}
    kind = "AT " if domains == {"at"} else ""
    counted = f"{len(prompts)} {kind}prompts" if len(prompts) > 1 else f"one {kind}prompt"
    return f"{counted}, texts of {result['conditions']['max_new_tokens']} tokens"


def ratio_of(best: dict, other: dict | None = None) -> dict:
    """A decoding's tokens a second over another's, plain decoding by the same peer if none is named.

    Returns:
        The mean over prompts of their ratios, with its interval.
    """
    result = load(SPEED)
    speeds: dict[tuple, dict[str, float]] = {}
    for found in result["rows"]:
        speeds.setdefault((found["peer"], found["draft"], found["k"]), {})[found["prompt"]] = found["tokens_per_second"]
    other = other or {"peer": best["peer"], "draft": None, "k": 0}
    over, under = (speeds[row["peer"], row["draft"], row["k"]] for row in (best, other))
    ratios = [over[prompt] / under[prompt] for prompt in over if prompt in under]
    return mean_with_interval(ratios, result["conditions"]["seed"])


# --- the paper's pair, by its shapes ----------------------------------------------------------------------------------

PAPERS_RATE = (0.729, 0.748)  # accepted/drafted of study 0's paper at K = 4, base and DPO draft
QUANTIZED = {"nf4": "4 bits (NF4)", "none": "bf16"}
SHAPED = {"draft": "Phi-3 Mini", "verifier": "Phi-3 Medium"}


def pass_seconds(model: dict, tokens: int) -> float:
    """A pass over so many tokens: the shortest timed of as many or more, for what disturbs a pass only lengthens it."""
    return min(one["least"] for length, one in model["passes"].items() if int(length) >= tokens)


def block_cost(pair: dict, k: int) -> float:
    """K steps of the draft and the pass that verifies them, in verifier passes over one token."""
    seconds = k * pass_seconds(pair["draft"], 1) + pass_seconds(pair["verifier"], k + 1)
    return seconds / pass_seconds(pair["verifier"], 1)


def needed_rate(cost: float, k: int) -> float:
    """The accepted/drafted from which on a block of this cost pays: it makes 1 + K · accepted/drafted tokens."""
    return (cost - 1) / k


def shapes() -> str:
    result = load(SHAPES)
    rows = []
    for quantization, pair in result["models"].items():
        for role, words in SHAPED.items():
            passes = pair[role]["passes"]
            times = [f"{1000 * passes[n]['least']:.0f} ({1000 * passes[n]['median']:.0f})" for n in ("1", "2", "3", "5", "9")]
            rows.append([f"{words}, {QUANTIZED[quantization]}", f"{pair[role]['bytes'] / 2**30:.1f}", *times])
    header = ["shapes of", "weights, GiB", "ms, 1 token", *(f"ms, {n} tokens" for n in (2, 3, 5, 9))]
    repeats, behind = result["conditions"]["repeats"], result["models"]["nf4"]["draft"]["prompt_tokens"]
    return (
        f"{table(header, rows)}\n\nThe shortest of {repeats} passes, and their median, behind {behind} tokens. Other programs "
        f"shared the processor, which launches the kernels. {hardware([result['environment']])}"
    )


def shapes_pay() -> str:
    """From which accepted/drafted on a draft of these shapes pays, and what the paper's would give."""
    models = load(SHAPES)["models"]
    rows, speeds = [], []
    for quantization, pair in models.items():
        c = pass_seconds(pair["draft"], 1) / pass_seconds(pair["verifier"], 1)
        weights = pair["draft"]["bytes"] / pair["verifier"]["bytes"]
        for k in (1, 2, 4):
            cost = block_cost(pair, k)
            cells = [f"{weights:.2f}", f"{c:.2f}", str(k), f"{cost:.2f}", f"{needed_rate(cost, k):.2f}"]
            rows.append([QUANTIZED[quantization], *cells])
        factors = " and ".join(f"{(1 + 4 * rate) / block_cost(pair, 4):.2f}" for rate in PAPERS_RATE)
        speeds.append(f"{factors} in {QUANTIZED[quantization]}")
    header = ["weights", "draft's bytes / verifier's", "c", "K", "a block, in verifier passes", "pays from accepted/drafted"]
    return (
        f"{table(header, rows)}\n\nThe times are the shortest of as many tokens or more; c is known to about a tenth. At K = 4 "
        f"the paper's accepted/drafted, {PAPERS_RATE[0]} for its base draft and {PAPERS_RATE[1]} for its DPO draft, would make "
        f"{'; '.join(speeds)} times the plain verifier's tokens a second. Sampling is left out."
    )


def shapes_memory() -> str:
    """For GPU.md."""
    found = load(SHAPES)
    pair = found["models"]["nf4"]
    held = [f"{pair[role]['bytes'] / 2**30:.1f}" for role in SHAPED]
    decoding = [pair["decoding_bytes"][name] / 2**30 for name in ("allocated", "peak")]
    return (
        f"Measured since, with random weights of these shapes: {held[0]} and {held[1]} GiB for the two in NF4; "
        f"{decoding[0]:.1f} GiB with {found['conditions']['context']:,} tokens in both caches, {decoding[1]:.1f} at the peak. "
        f"{hardware([found['environment']])}"
    )


OWN_PARTS: dict[str, Part] = {
    "answer": answer,
    "speed": speed,
    "reading": reading,
    "figure blocks": figure_blocks,
    "blocks": blocks,
    "speed by k": speed_by_k,
    "long": long_texts,
    "llama rule": llama_rule,
    "llama memory": llama_memory,
    "draft head": draft_head,
    "agreement": agreement,
    "agreement in words": agreement_in_words,
    "memory": memory_in_words,
    "no vnni": no_vnni,
    "figure speed": figure_speed,
    "exactness": exactness,
    "exactness int8": exactness_int8,
    "float32": float32,
    "still": still,
    "shapes": shapes,
    "shapes pay": shapes_pay,
}
PAGES: dict[Path, dict[str, Part]] = {
    OWN: OWN_PARTS,
    GPU: {"shapes memory": shapes_memory},
    FRONT: {"row engine": row, "demo": demo},
}


def main() -> int:
    return run_pages(__doc__, PAGES, {BLOCKS: draw_blocks, SPEED_FIGURE: draw_speed})


if __name__ == "__main__":
    run(main)
