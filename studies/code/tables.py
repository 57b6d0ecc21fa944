"""The tables and figures of study 3, and its row on the front page. What is not measured yet says so.

python -m studies.code.tables            draws the figures and fills the pages
python -m studies.code.tables --check    exits 1 if a page and the results disagree
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from specdec.report import Part, hardware, load, new_figure, percent, picture, point, run_pages, span, table
from specdec.terminal import run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path("studies/code")
FRONT, OWN = Path("README.md"), HERE / "README.md"
STUDY, FIGURES = HERE / "results/study.json", HERE / "figures"
LENGTHS_FIGURE, DISPARITY_FIGURE = FIGURES / "lengths.png", FIGURES / "disparity.png"

FAMILY = "qwen-coder"  # the pair of tables 2 to 5
DECIDES = "human"  # the draft of the test that was fixed in advance
OURS = {
    "smollm2-qwen": "SmolLM2-135M → Qwen2.5-Coder-1.5B (two vocabularies)",
    "qwen-coder": "Qwen2.5-Coder-0.5B → 1.5B (one family)",
}
PLANS = {"gpt2": "GPT2-Large, distilgpt2", "qwen2.5": "Qwen2.5 (7B, 0.5B)", "pythia": "Pythia (12B, 70M)"}  # its first table
COMPLETIONS = {"natural_language": "NL", "python": "Code (Py)", "c": "Code (C)", "go": "Code (go)", "rust": "Code (rust)"}
NAMES = {**COMPLETIONS, "code": "Code (all)"}
GROUPS = {"high": "Python, C++, Java", "medium": "Lua, Haskell, Ruby", "low": "Zig, Elixir, OCaml"}
DEFINITIONS = {
    "cross-entropy": "D_T − min D, D = −mean log q of the verifier's tokens: our reading of Sandler et al.",
    "divergence": "the same of KL(p ‖ q), which leaves out the verifier's own entropy: ours",
    "overlap": "max α − α_T, α = mean Σ min(p, q): ours",
    "speed-up": "the largest replayed speed-up − that of T: ours",
}
NOT_HERE, NOT_YET = "not measured here", "not measured yet"


# --- what there is ----------------------------------------------------------------------------------------------------


def pair(name: str = FAMILY) -> dict[str, Any]:
    """The results of a pair, {} where it is not measured yet.

    Raises:
        FileNotFoundError: nothing is.
    """
    return load(STUDY)["pairs"].get(name, {})


def metrics(found: dict, domain: str, draft: str = "base") -> dict | None:
    """The metrics of a draft on the prompts of a domain, None where they are not measured yet."""
    return found.get("domains", {}).get(domain, {}).get("drafts", {}).get(draft)


def tuned(found: dict) -> list[str]:
    return [name for name in found.get("drafts", {}) if name != "base"]


def machines(*names: str) -> str:
    found = [environment for name in names for environment in pair(name).get("measured", [])]
    distinct = [one for number, one in enumerate(found) if one not in found[:number]]
    return hardware(distinct) if distinct else ""


def plain(change: dict, digits: int = 3) -> str:
    """`0.873 (0.841 to 0.902)`: a mean that is no change, with its interval where there are prompts enough for one."""
    if change["interval"] is None:
        return f"{change['mean']:.{digits}f} (too few prompts)"
    low, high = change["interval"]
    return f"{change['mean']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def verdict(change: dict) -> str:
    low, high = change["interval"]
    return "raised" if low > 0 else "lowered" if high < 0 else "did not measurably change"


# --- the answer -------------------------------------------------------------------------------------------------------


def answer() -> str:
    found = pair()
    code, natural = metrics(found, "code"), metrics(found, "natural_language")
    if code is None or natural is None:
        return f"The same-family pair is {NOT_YET}."
    change = found["domains"]["code"]["changes"].get(DECIDES)
    first = f"The deciding test is {NOT_YET}: no draft is tuned so far."
    if change:
        overlap = change["overlap"]
        first = (
            f"**On {found['domains']['code']['prompts']} code prompts, fine-tuning on human code {verdict(overlap)} the "
            f"acceptance probability of the draft: a paired change of {span(overlap)} in mean Σ min(p, q).**"
        )
    base = (
        f"The base draft of the same family: mean Σ min(p, q) {plain(code['overlap'])} on "
        f"{found['domains']['code']['prompts']} code prompts, {plain(natural['overlap'])} on "
        f"{found['domains']['natural_language']['prompts']} of natural language."
    )
    return f"{first} {base}{foreign()}"


def foreign() -> str:
    """What a vocabulary costs on code, in a sentence."""
    other = pair("smollm2-qwen").get("domains", {}).get("code")
    if not other:
        return ""
    overlap = other["drafts"]["base"]["overlap"]
    return (
        f" The foreign draft, SmolLM2: {plain(overlap)}, where the verifier's mass on tokens that both vocabularies have is "
        f"{other['shared_mass']:.3f}."
    )


def row() -> str:
    """The cell in the front page's table of studies."""
    found = pair()
    change = found.get("domains", {}).get("code", {}).get("changes", {}).get(DECIDES)
    if change:
        overlap = change["overlap"]
        return f"Fine-tuning on human code {verdict(overlap)} acceptance: mean Σ min(p, q) {span(overlap)}"
    code = metrics(found, "code")
    if code is None:
        return NOT_YET
    prompts = found["domains"]["code"]["prompts"]
    return (
        f"Tuning is {NOT_YET}. The untuned draft: mean Σ min(p, q) {plain(code['overlap'])} on {prompts} code prompts, "
        f"{percent(code['acceptance_rate']['mean'])} accepted/drafted at K = 4"
    )


# --- table 1: pairs and domains ---------------------------------------------------------------------------------------


def pairs() -> str:
    """The plan's first table, a row a pair."""
    rows = []
    for name, words in [*OURS.items(), *PLANS.items()]:
        cells = []
        for domain in COMPLETIONS:
            found = metrics(pair(name), domain)
            rates = found and (found["acceptance_rate"]["mean"], found["speedup"]["mean"])
            cells.append(f"{percent(rates[0])}, {rates[1]:.2f}×" if rates else missing(name))
        rows.append([f"{words} (the plan's)" if name in PLANS else words, *cells])
    costs = [f"c = {pair(name)['c']:.3f} for {name}" for name in (*OURS, *PLANS) if pair(name)]
    note = f"Accepted/drafted at K = 4, and the speed-up that it would give where memory is the limit ({', '.join(costs)})."
    return f"{table(['draft → verifier', *COMPLETIONS.values()], rows)}\n\n{note} {machines(*OURS, *PLANS)}"


def missing(name: str) -> str:
    return NOT_HERE if name in PLANS else NOT_YET


def domains() -> str:
    """The same in the plan's own shape, with n and intervals, and what each vocabulary can propose at most."""
    rows = []
    for name, model in [*((name, name) for name in OURS), *PLANS.items()]:
        for domain, words in (NAMES if name in OURS else COMPLETIONS).items():
            found = metrics(pair(name), domain)
            if found is None:
                rows.append([model, words, "–", missing(name), missing(name), "", "", ""])
                continue
            group = pair(name)["domains"][domain]
            cells = [plain(found["acceptance_rate"]), plain(found["speedup"], 2), plain(found["overlap"])]
            rows.append([model, words, str(group["prompts"]), *cells, plain(found["tokens_per_pass"], 2)])
            rows[-1].append(f"{group['shared_mass']:.3f}")
    header = ["model", "completion", "n", "acce. rate", "speed-up", "Σ min(p, q)", "tokens per pass", "shared mass of p"]
    return table(header, rows)


# --- table 2: base and tuned ------------------------------------------------------------------------------------------


def tuning() -> str:
    found = pair()
    if not tuned(found):
        return f"Table 2, base against tuned: {NOT_YET}."
    rows = []
    for domain in ("python", "code", "natural_language"):
        group = found["domains"].get(domain)
        for draft in found["drafts"] if group else ():
            one, change = group["drafts"][draft], group["changes"].get(draft)
            cells = [percent(one["acceptance_rate"]["mean"]), f"{one['speedup']['mean']:.2f}×", plain(one["overlap"], 4)]
            cells.append(span(change["overlap"]) if change else "")
            rows.append([draft, trained(found["drafts"][draft]), NAMES[domain], str(group["prompts"]), *cells])
    header = ["draft", "trained by", "domain", "n", "accept rate", "speed-up", "Σ min(p, q)", "change of it"]
    return f"{table(header, rows)}\n\n{machines(FAMILY)}"


def trained(settings: dict | None) -> str:
    if settings is None:
        return "–"
    words = {"nll": "likelihood", "kl": "forward KL"}
    loss = settings.get("loss", "unknown")
    texts = f" on {settings['answers']} texts" if "answers" in settings else ""
    return f"{words.get(loss, loss)}{texts}"


# --- table 3: who is left behind --------------------------------------------------------------------------------------


def disparity() -> str:
    """The plan's third table, once a definition."""
    found = pair()
    base = found.get("disparity", {}).get("base")
    if not base:
        return f"Table 3, disparity: {NOT_YET}."
    after = found["disparity"].get(DECIDES)
    rows = []
    for name in DEFINITIONS:
        for group, languages in GROUPS.items():
            before = (base.get(name) or {}).get("by_group", {}).get(group)
            then = ((after or {}).get(name) or {}).get("by_group", {}).get(group)
            change = f"{then['mean'] - before['mean']:+.3f}" if before and then else NOT_YET
            cells = [plain(before) if before else NOT_YET, plain(then) if then else NOT_YET, change]
            rows.append([name, f"{group.title()}: {languages}", *cells])
        spread = (base.get(name) or {}).get("spread")
        rows.append([name, "spread over the languages", plain(spread) if spread else NOT_YET, "", ""])
    prompts = [found["domains"][group]["prompts"] for group in GROUPS if group in found["domains"]]
    note = f"Prompts: {', '.join(map(str, prompts))}. U(T) is never negative, so with few prompts noise alone raises all of it."
    return f"{table(['definition', 'group', 'base U(T)', 'tuned U(T)', 'Δ disparity'], rows)}\n\n{note} {machines(FAMILY)}"


def whose() -> str:
    return table(["definition", "U(T) of a language T"], [[name, words] for name, words in DEFINITIONS.items()])


def most_disadvantaged() -> str:
    """Does the definition decide the answer? The languages of the largest U(T), by definition."""
    base = pair().get("disparity", {}).get("base")
    if not base:
        return f"{NOT_YET}."
    parts = []
    for name in DEFINITIONS:
        if base.get(name):
            values = base[name]["by_language"]
            worst = sorted(values, key=lambda language: -values[language]["mean"])[:3]
            parts.append(f"by {name} {', '.join(worst)}")
    return f"furthest behind are {'; '.join(parts)}"


# --- tables 4 and 5: draft length -------------------------------------------------------------------------------------


def subject(found: dict) -> str:
    """The draft of tables 4 and 5: the tuned one, as in the plan, or base as long as there is none."""
    return DECIDES if DECIDES in found.get("drafts", {}) else "base"


def live_at(found: dict, draft: str, k: int, bound: float = 0.0) -> dict | None:
    for one in found.get("live", []):
        if (one["k"], one["stop_below"]) == (k, bound):
            return one["drafts"].get(draft)
    return None


def lengths() -> str:
    """The plan's fourth table, code first, then natural language."""
    found = pair()
    draft = subject(found)
    rows = []
    for domain, of_domain in found.get("lengths", {}).items():
        for k, one in of_domain[draft]["by_k"].items():
            bursts, independent = one["bursts"], one["independent"]
            measured = live_at(found, draft, int(k)) if domain == "code" else None
            cells = ["none", "none", "none"]
            if bursts["length"]:
                cells = [plain(bursts["length"], 2), f"{bursts['longer']['mean']:.2g}", f"{bursts['geometric']:.2g}"]
            cells += [plain(one["tokens_per_pass"], 2), plain(one["speedup"], 2), f"{independent['speedup']:.2f}"]
            cells.append(f"{plain(measured['speedup'], 2)}; {measured['independent']:.2f}" if measured else NOT_YET)
            cells += [percent(one["acceptance_rate"]["mean"]), percent(independent["acceptance_rate"])]
            rows.append([NAMES[domain], k, *cells])
    if not rows:
        return f"Table 4, draft length: {NOT_YET}."
    header = ["domain", "γ", "avg. burst len.", "P(burst > 10)", "geometric", "tokens per pass", "speed-up, replayed"]
    header += ["independent positions", "live; independent at the measured c", "accept rate", "independent positions"]
    note = f"Draft: {draft}{'' if draft == DECIDES else f'; the tuned one, which the plan has here, is {NOT_YET}'}."
    return f"{table(header, rows)}\n\n{note} {machines(FAMILY)}"


def confidence() -> str:
    """Beyond the plan: a draft that ends when unsure, beside the best fixed length and the oracle."""
    found = pair()
    draft = subject(found)
    rows = []
    for domain, of_domain in found.get("lengths", {}).items():
        one = of_domain[draft]
        k, best = max(one["by_k"].items(), key=lambda item: item[1]["speedup"]["mean"])
        name = NAMES[domain]
        rows.append(
            [name, f"fixed, the best of the plan's: γ = {k}", plain(best["tokens_per_pass"], 2), plain(best["speedup"], 2)]
        )
        for bound, unsure in one["by_bound"].items():
            speeds = f"{unsure['at_least']['mean']:.2f} to {unsure['at_most']['mean']:.2f}"
            rows.append([name, f"at most 8, ends behind q < {bound}", plain(unsure["tokens_per_pass"], 2), speeds])
        rows.append([name, "oracle", "", plain(one["oracle"], 2)])
    if not rows:
        return f"Table 5, draft length by confidence: {NOT_YET}."
    note = (
        f"Draft: {draft}. Replayed; how many tokens such a draft spends behind a rejected one is not in the text, so its "
        "speed-up is given as the least and the most that it can be. The best fixed length is chosen on the same prompts."
    )
    return f"{table(['domain', 'draft length', 'tokens per pass', 'speed-up'], rows)}\n\n{note}"


# --- the plan's expected outcomes -------------------------------------------------------------------------------------


def outcomes() -> str:
    return "\n".join([f"1. {first_outcome()}", f"2. {second_outcome()}", f"3. {third_outcome()}"])


def first_outcome() -> str:
    expected = "*Fine-tuning raises acceptance on code and keeps natural language as it was:*"
    found = pair()
    code = found.get("domains", {}).get("code", {}).get("changes", {}).get(DECIDES)
    natural = found.get("domains", {}).get("natural_language", {}).get("changes", {}).get(DECIDES)
    if not code or not natural:
        return f"{expected} {NOT_YET}."
    return f"{expected} Σ min(p, q) changed by {span(code['overlap'])} on code, {span(natural['overlap'])} on natural language."


def second_outcome() -> str:
    expected = "*Fine-tuning narrows the gap between languages:*"
    found = pair()
    after = found.get("disparity", {}).get(DECIDES)
    changes = []
    for name in DEFINITIONS if after else ():
        before, then = (found["disparity"][draft].get(name) for draft in ("base", DECIDES))
        if before and then:
            changes.append(f"by {name} {then['by_group']['low']['mean'] - before['by_group']['low']['mean']:+.3f}")
    judged = f"U(T) of the low group changed {', '.join(changes)}." if changes else f"{NOT_YET}."
    return f"{expected} {judged} Before any tuning, {most_disadvantaged()}."


def third_outcome() -> str:
    expected = "*The speed-up has a single peak at a moderate γ, beyond which rejections cascade:*"
    found = pair()
    draft = subject(found)
    parts = []
    for domain, of_domain in found.get("lengths", {}).items():
        speeds = {int(k): one["speedup"]["mean"] for k, one in of_domain[draft]["by_k"].items()}
        lengths = [(one["bursts"]["length"] or {"mean": 0.0})["mean"] for one in of_domain[draft]["by_k"].values()]
        best = max(speeds, key=lambda k: speeds[k])
        parts.append(
            f"on {NAMES[domain]} {shape(list(speeds.values()))} (the best is γ = {best}, {speeds[best]:.2f}×), while the mean "
            f"burst goes from {lengths[0]:.2f} at γ = 1 to {lengths[-1]:.2f} at γ = 32"
        )
    if not parts:
        return f"{expected} {NOT_YET}."
    reason = (
        "Behind a rejection nothing is tested: a long draft wastes draft steps there, and at independent positions bursts "
        "would not depend on γ at all."
    )
    return f"{expected} with the {draft} draft, replayed, {'; '.join(parts)}. {reason}"


def shape(values: list[float]) -> str:
    """A single peak, as it was fixed: the values rise to one maximum and fall behind it."""
    if values in (sorted(values), sorted(values, reverse=True)):
        return "no peak, for it only rises" if values[-1] > values[0] else "no peak, for it only falls"
    number = peaks(values)
    return "one peak" if number == 1 else f"{number} peaks"


def peaks(values: list[float]) -> int:
    """How often a sequence stops rising: 1 also where it only rises or only falls."""
    bounded = [float("-inf"), *values, float("-inf")]
    inner = range(1, len(bounded) - 1)
    return sum(bounded[number - 1] < bounded[number] >= bounded[number + 1] for number in inner)


# --- figures ----------------------------------------------------------------------------------------------------------


def need(found: Any) -> Any:
    """What a figure draws.

    Raises:
        FileNotFoundError: there is nothing to draw.
    """
    if not found:
        raise FileNotFoundError(2, "not measured", str(STUDY))
    return found


def draw_lengths() -> Figure:
    found = need(pair().get("lengths"))
    draft = subject(pair())
    figure, panels = new_figure(8, 3.4, len(found))
    for panel, (domain, of_domain) in zip(panels, found.items(), strict=True):
        by_k = of_domain[draft]["by_k"]
        ks = [int(k) for k in by_k]
        replayed = [one["speedup"]["mean"] for one in by_k.values()]
        panel.plot(ks, replayed, **point(1), linestyle="-", label="replayed")
        independent = [one["independent"]["speedup"] for one in by_k.values()]
        panel.plot(ks, independent, **point(0), linestyle="--", label="independent positions")
        panel.axhline(of_domain[draft]["oracle"]["mean"], color="black", linewidth=0.8, linestyle=":", label="oracle")
        panel.set_xscale("log", base=2)
        panel.set(xticks=ks, xlabel="draft length γ", title=f"{NAMES[domain]}, {draft} draft")
        panel.set_xticklabels([str(k) for k in ks])
    panels[0].set_ylabel("speed-up, memory-bound")
    panels[0].legend(fontsize=8)
    return figure


def lengths_figure() -> str:
    found = pair()
    draft = subject(found)
    parts = []
    for domain, of_domain in found.get("lengths", {}).items():
        values = [
            f"γ {k} {one['speedup']['mean']:.2f} (independent {one['independent']['speedup']:.2f})"
            for k, one in of_domain[draft]["by_k"].items()
        ]
        parts.append(f"{NAMES[domain]}: {', '.join(values)}, oracle {of_domain[draft]['oracle']['mean']:.2f}")
    return picture(LENGTHS_FIGURE, OWN, f"Replayed speed-up by draft length, {draft} draft. {'; '.join(parts)}.")


def by_language(draft: str) -> dict[str, dict]:
    """language → Σ min(p, q) of a draft, the plan's groups in order."""
    found = pair()
    languages = ((found.get("disparity", {}).get("base") or {}).get("overlap") or {}).get("by_language", {})
    values = {language: metrics(found, language, draft) for language in languages}
    return {language: one["overlap"] for language, one in values.items() if one}


def draw_disparity() -> Figure:
    figure, (panel,) = new_figure(6.4, 3.4)
    languages = list(need(by_language("base")))
    drafts = ["base", *([DECIDES] if by_language(DECIDES) else [])]
    for number, draft in enumerate(drafts):
        for line, language in enumerate(languages):
            one = by_language(draft)[language]
            low, high = one["interval"] or (one["mean"], one["mean"])
            height = line + 0.2 * number
            panel.plot([low, high], [height, height], color="black", linewidth=0.9)
            panel.plot(one["mean"], height, **point(number), linestyle="", label=draft if line == 0 else None)
    panel.set(yticks=range(len(languages)), xlabel="mean Σ min(p, q), 95% interval over prompts")
    panel.set_yticklabels(languages)
    panel.invert_yaxis()
    panel.legend(fontsize=8)
    return figure


def disparity_figure() -> str:
    parts = []
    for draft in ("base", DECIDES):
        values = [f"{language} {plain(one)}" for language, one in by_language(draft).items()]
        parts += [f"{draft}: {', '.join(values)}"] if values else []
    return picture(DISPARITY_FIGURE, OWN, f"Mean Σ min(p, q) by language; {'; '.join(parts)}.")


OWN_PARTS: dict[str, Part] = {
    "answer": answer,
    "pairs": pairs,
    "figure lengths": lengths_figure,
    "outcomes": outcomes,
    "domains": domains,
    "tuning": tuning,
    "disparity": disparity,
    "whose": whose,
    "figure disparity": disparity_figure,
    "lengths": lengths,
    "confidence": confidence,
}
PAGES: dict[Path, dict[str, Part]] = {OWN: OWN_PARTS, FRONT: {"row code": row}}


def main() -> int:
    return run_pages(__doc__, PAGES, {LENGTHS_FIGURE: draw_lengths, DISPARITY_FIGURE: draw_disparity})


if __name__ == "__main__":
    run(main)
