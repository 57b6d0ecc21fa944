"""The tables and figures of study 3, and its row on the front page. What is not measured yet says so.

python -m studies.code.tables            draws the figures and fills the pages
python -m studies.code.tables --check    exits 1 if a page and the results disagree
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from specdec.report import (
    Part,
    difference,
    hardware,
    load,
    new_figure,
    overlaps_of,
    percent,
    picture,
    point,
    ratios_of_runs,
    run_pages,
    span,
    speed_verdict,
    table,
    verdict,
)
from specdec.terminal import run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path("studies/code")
FRONT, OWN = Path("README.md"), HERE / "README.md"
STUDY, FIGURES = HERE / "results/study.json", HERE / "figures"
LENGTHS_FIGURE, DISPARITY_FIGURE = FIGURES / "lengths.png", FIGURES / "disparity.png"

FAMILY = "qwen-coder"  # the pair of tables 2 to 5
EARLIER = "rates"  # the same pair, in float32 on fewer prompts: Table 2b
DECIDES = "human-all"  # the draft of the test that was fixed in advance: human code, the plan's whole mix
TAUGHT = "distilled-all"  # what stands beside it: the verifier's completions of the same prompts
OURS = {
    "smollm2-qwen": "SmolLM2-135M → Qwen2.5-Coder-1.5B (two vocabularies)",
    "qwen-coder": "Qwen2.5-Coder-0.5B → 1.5B (one family)",
}
PLANS = {"gpt2": "GPT2-Large, distilgpt2", "qwen2.5": "Qwen2.5 (7B, 0.5B)", "pythia": "Pythia (12B, 70M)"}  # its first table
COMPLETIONS = {"natural_language": "NL", "python": "Code (Py)", "c": "Code (C)", "go": "Code (go)", "rust": "Code (rust)"}
NAMES = {**COMPLETIONS, "code": "Code (all)"}
GROUPS = {"high": "Python, C++, Java", "medium": "Lua, Haskell, Ruby", "low": "Zig, Elixir, OCaml"}
DEFINITIONS = {
    "cross-entropy": "D_T − min D, D = −mean log q of the verifier's tokens: D is Sandler et al.'s, the distance ours",
    "divergence": "the same of KL(p ‖ q), which leaves out the verifier's own entropy: ours",
    "overlap": "max α − α_T, α = mean Σ min(p, q): ours",
    "speed-up": "the largest replayed speed-up − that of T: ours",
}
LOSSES = {"nll": "likelihood", "kl": "forward KL", "tvdpp_position": "TVD++ by position", "counts": "counts"}  # of Table 2
TEXTS = {"nll": "human code, its likelihood", "tvdpp_position": "the verifier's completions, its probabilities"}  # of Table 2b
RATE_TEXTS, RATES = 32, (3e-4, 3e-5)  # of the drafts that its rule is about
APART = {  # from human code to the verifier's probabilities, one change at a time → the draft behind it, the one before it
    "at most 128 tokens a text, not 256": ("human-128", "human"),
    "the likelihood at temperature 0.7, not 1": ("human-128-0.7", "human-128"),
    "the verifier's text, not human code": ("distilled-nll", "human-128-0.7"),
    "the verifier's probabilities, not its text's likelihood": ("distilled", "distilled-nll"),
}
MORE = {"human code": (DECIDES, "human"), "the verifier's completions": (TAUGHT, "distilled")}  # all texts, 64 of them
LONGER = {"three passes instead of one": "distilled-all-3", "a rate of 1e-4 instead of 3e-5": "distilled-all-1e-4"}  # of TAUGHT
GAPS = (DECIDES, TAUGHT)  # the tuned drafts of Table 3 and of the figure by language
LIVE_TUNED = [HERE / "results" / FAMILY / folder / "live.jsonl" for folder in ("live-k2", "live-k2-all")]
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
    """The tuned drafts, the one that decides first."""
    return sorted((name for name in found.get("drafts", {}) if name != "base"), key=lambda name: name != DECIDES)


def machines(*names: str) -> str:
    return measured_on([pair(name) for name in names])


def measured_on(results: list[dict]) -> str:
    """The machines of several results that have `measured`, in a line; "" where there is none."""
    found = [environment for one in results for environment in one.get("measured", [])]
    return hardware(found) if found else ""


def plain(change: dict, digits: int = 3) -> str:
    """`0.873 (0.841 to 0.902)`: a mean that is no change, with its interval where there are prompts enough for one."""
    return span(change, digits, sign="")


def said_of(change: dict) -> str:
    return verdict(change) if change["interval"] else "was measured on one prompt, which says nothing of"


# --- the answer -------------------------------------------------------------------------------------------------------


def answer() -> str:
    found = pair()
    code, natural = metrics(found, "code"), metrics(found, "natural_language")
    if code is None or natural is None:
        return f"The same-family pair is {NOT_YET}."
    changes = found["domains"]["code"]["changes"]
    first = f"The deciding test is {NOT_YET}: {'other drafts alone were' if changes else 'no tuned draft was'}."
    if DECIDES in changes:
        overlap = changes[DECIDES]["overlap"]
        first = (
            f"**On {code_prompts(found, DECIDES)} code prompts, fine-tuning on {human_code(found)} {said_of(overlap)} the "
            f"acceptance probability of the draft: a paired change of {span(overlap, 4)} in mean Σ min(p, q).**"
        )
    others = [name for name in tuned(found) if name in changes and name != DECIDES]
    if TAUGHT in others:
        first += f" Taught by the verifier's probabilities on its own completions: {span(changes[TAUGHT]['overlap'], 4)}"
        first += f"{on_fewer(found, TAUGHT)}."
    if set(others) - {TAUGHT}:
        fewer = any(on_fewer(found, name) for name in others)
        first += f" Other trainings: Table 2{', which says on how many prompts' if fewer else ''}."
    base = (
        f"The base draft of the same family: mean Σ min(p, q) {plain(code['overlap'])} on "
        f"{found['domains']['code']['prompts']} code prompts, {plain(natural['overlap'])} on "
        f"{found['domains']['natural_language']['prompts']} of natural language."
    )
    return f"{first} {base}{foreign()}"


def human_code(found: dict) -> str:
    """What the draft that decides learnt from, and how much of it."""
    settings = found["drafts"][DECIDES] or {}
    return f"human code ({settings['answers']} texts)" if "answers" in settings else "human code"


def code_prompts(found: dict, draft: str) -> int:
    return found["domains"]["code"]["drafts"][draft]["prompts"]


def on_fewer(found: dict, draft: str) -> str:
    """On how many code prompts a draft was measured, where it was not on all."""
    number = code_prompts(found, draft)
    return f" on {number}" if number < found["domains"]["code"]["prompts"] else ""


def foreign() -> str:
    """What a vocabulary costs on code, in a sentence."""
    other = pair("smollm2-qwen").get("domains", {}).get("code")
    if not other:
        return ""
    overlap = other["drafts"]["base"]["overlap"]
    return (
        f" The foreign draft, SmolLM2, on {other['prompts']}: {plain(overlap)}, where the verifier's mass on tokens that both "
        f"vocabularies have is {other['shared_mass']:.3f}."
    )


def row() -> str:
    """The cell in the front page's table of studies."""
    found = pair()
    changes = found.get("domains", {}).get("code", {}).get("changes", {})
    draft = next((name for name in (DECIDES, TAUGHT, *tuned(found)) if name in changes), None)
    if draft:
        overlap = changes[draft]["overlap"]
        training = f"Fine-tuning on {human_code(found)}" if draft == DECIDES else f"The deciding draft is {NOT_YET}; `{draft}`"
        measured = f"mean Σ min(p, q) {span(overlap, 4)} on {code_prompts(found, draft)} prompts"
        beside = taught_in_words(changes) + gap_in_words() if draft == DECIDES else ""
        return f"{training} {said_of(overlap)} acceptance: {measured}{beside}"
    code = metrics(found, "code")
    if code is None:
        return NOT_YET
    prompts = found["domains"]["code"]["prompts"]
    return (
        f"Tuning is {NOT_YET}. The untuned draft: mean Σ min(p, q) {plain(code['overlap'])} on {prompts} code prompts, "
        f"{plain(code['acceptance_rate'])} accepted/drafted at K = 4"
    )


def taught_in_words(changes: dict) -> str:
    """What the verifier's teaching did beside it, "" before it is measured."""
    if TAUGHT not in changes:
        return ""
    taught = changes[TAUGHT]["overlap"]
    return f"; the verifier's probabilities on its own completions changed it by {span(taught, 4)}"


def gap_in_words() -> str:
    """By how many of the definitions the deciding draft widened and narrowed the low group's gap; "" before it is judged."""
    verdicts = [verdict(change) for change in low_gaps().values() if change["interval"]]
    if not verdicts:
        return ""
    wider, narrower = verdicts.count("raised"), verdicts.count("lowered")
    return (
        f"; after human code {GROUPS['low']} lie further behind the best language by {wider} of {len(verdicts)} definitions, "
        f"less far by {narrower}"
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
    counts = [f"{words} {pair()['domains'][name]['prompts']}" for name, words in COMPLETIONS.items() if metrics(pair(), name)]
    note += f" Prompts: {', '.join(counts)}. Intervals: Table 1 below."
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
        group = found["domains"].get(domain, {"drafts": {}, "changes": {}})
        for draft in ("base", *tuned(found)):
            if draft not in group["drafts"]:
                continue
            one, change = group["drafts"][draft], group["changes"].get(draft)
            cells = [percent(one["acceptance_rate"]["mean"]), f"{one['speedup']['mean']:.2f}×", plain(one["overlap"], 4)]
            cells.append(span(change["overlap"], 4) if change else "")
            rows.append([draft, trained(found["drafts"][draft]), NAMES[domain], str(one["prompts"]), *cells])
    header = ["draft", "trained by", "domain", "n", "accept rate", "speed-up", "Σ min(p, q)", "change of it"]
    note = "Where n is smaller than the base draft's, compare the change alone: it is against base on the same prompts."
    return f"{table(header, rows)}\n\n{note} {machines(FAMILY)}"


def trained(settings: dict | None) -> str:
    if settings is None:
        return "–"
    loss = settings.get("loss", "unknown")
    how = LOSSES.get(loss, loss) + (f" at temperature {settings['temperature']:g}" if "temperature" in settings else "")
    words = [f"{how} on {settings['answers']} texts" if "answers" in settings else how]
    if "steps" in settings:
        words.append(f"of at most {settings['max_new_tokens']} tokens")
        words.append(f"{settings['steps']} steps of {settings['batch_size']} at {settings['learning_rate']:g}")
    return ", ".join(words)


# --- table 2b: the text or the rate -----------------------------------------------------------------------------------


def rate_arms(found: dict) -> dict[tuple[str, float], str]:
    """(loss, rate) → its draft, of those that learnt RATE_TEXTS texts; the higher rate first."""
    drafts = {name: one for name, one in found.get("drafts", {}).items() if one and one.get("answers") == RATE_TEXTS}
    arms = {(one["loss"], one["learning_rate"]): name for name, one in drafts.items()}
    return dict(sorted(arms.items(), key=lambda item: (item[0][0], -item[0][1])))


def rates() -> str:
    """Every draft of the earlier folder, those of the rule first."""
    found = pair(EARLIER)
    arms = [found["drafts"][name] | {"name": name} for name in tuned(found) if "answers" in (found["drafts"][name] or {})]
    rows = []
    for one in sorted(arms, key=lambda one: (one["answers"], one["loss"], -one["learning_rate"])):
        for domain in ("code", "natural_language"):
            group = found["domains"].get(domain, {"changes": {}})
            if one["name"] in group["changes"]:
                change = group["changes"][one["name"]]["overlap"]
                cells = [NAMES[domain], str(group["drafts"][one["name"]]["prompts"]), span(change)]
                rows.append([TEXTS.get(one["loss"], one["loss"]), str(one["answers"]), f"{one['learning_rate']:g}", *cells])
    if not rows:
        return f"The drafts at two rates: {NOT_YET}."
    header = ["text, and what of it", "texts", "rate", "prompts", "n", "change of Σ min(p, q)"]
    return f"{table(header, rows)}\n\nIn {found['conditions'].get('dtype')}. {machines(EARLIER)}"


def rates_in_words() -> str:
    """The page's second test, by its rule; and the half of it on human code asked of Table 2's drafts too."""
    found = pair(EARLIER)
    arms, changes = rate_arms(found), found.get("domains", {}).get("code", {}).get("changes", {})
    by_rate = [(loss, rate) for loss in TEXTS for rate in RATES]
    if any(arms.get(arm) not in changes for arm in by_rate):
        return f"The drafts at two rates: {NOT_YET}."
    human_high, human_low, taught_high, taught_low = (changes[arms[arm]]["overlap"] for arm in by_rate)
    apart = apart_on_code(EARLIER, arms["nll", RATES[1]], arms["tvdpp_position", RATES[1]])
    rate = said_of(taught_high) == "lowered" and said_of(taught_low) != "lowered"
    said = "the fall at the higher rate says nothing of the text" if rate else "the rate by itself is not shown to do harm"
    return (
        f"**By the rule above, {said}; from {RATE_TEXTS} texts at the lower rate human code {harm(human_low, apart)}"
        f"{harm_of_more()}.** On code, at {RATES[0]:g} and at {RATES[1]:g}: taught by the verifier {span(taught_high)} and "
        f"{span(taught_low)}, by human code {span(human_high)} and {span(human_low)}; at {RATES[1]:g} human code against the "
        f"verifier's {span(apart)}."
    )


def apart_on_code(folder: str, draft: str, other: str) -> dict:
    return difference(overlaps_of(HERE / "results" / folder / "paired.jsonl", "code"), draft, other)


def harm(change: dict, apart: dict) -> str:
    """The rule: below the base draft, and below the draft that the verifier taught."""
    lowered = said_of(change) == said_of(apart) == "lowered"
    return "does harm" if lowered else "is not shown to do harm"


def harm_of_more() -> str:
    """The same of Table 2's drafts, which learnt more at the lower rate and met more prompts."""
    found = pair()
    changes = found.get("domains", {}).get("code", {}).get("changes", {})
    if not {DECIDES, TAUGHT} <= changes.keys() or "answers" not in (found["drafts"][DECIDES] or {}):
        return ""
    apart = apart_on_code(FAMILY, DECIDES, TAUGHT)
    return (
        f", from {found['drafts'][DECIDES]['answers']} longer ones, on {code_prompts(found, DECIDES)} prompts, it "
        f"{harm(changes[DECIDES]['overlap'], apart)} ({span(apart)} against the verifier's; what of it does harm is asked "
        "below, of 64 texts)"
    )


def apart() -> str:
    """From human code by likelihood to the verifier's probabilities: every change, asked of the two drafts around it."""
    drafts = pair().get("domains", {}).get("code", {"drafts": {}})["drafts"]
    rows = []
    for what, (draft, before) in APART.items():
        if draft in drafts and before in drafts:
            found = apart_on_code(FAMILY, draft, before)
            rows.append([what, f"`{draft}` − `{before}`", str(found["prompts"]), span(found), effect(found)])
    if not rows:
        return f"Text, loss, temperature and length: {NOT_YET}."
    return table(["what changes", "drafts", "n, code", "difference in Σ min(p, q)", "by the rule above"], rows)


def more_in_words() -> str:
    """What all the text does that 64 texts did not, by whose text it is."""
    found = pair()
    measured = found.get("domains", {}).get("code", {"drafts": {}})["drafts"]
    learnt = {name: one["answers"] for name, one in found.get("drafts", {}).items() if one and "answers" in one}
    said = []
    for text, (draft, before) in MORE.items():
        if {draft, before} <= learnt.keys() & measured.keys():
            more, less = learnt[draft], learnt[before]
            change = apart_on_code(FAMILY, draft, before)
            said.append(f"{more} texts of {text} instead of {less}, {worth(change)}")
    if not said:
        return f"More text: {NOT_YET}."
    longer = [
        f"{what}, {worth(apart_on_code(FAMILY, draft, TAUGHT))}"
        for what, draft in LONGER.items()
        if {draft, TAUGHT} <= measured.keys()
    ]
    training = f" More training of `{TAUGHT}`: {'; '.join(longer)}." if longer else ""
    return f"More text, by the rule above: {'; '.join(said)}.{training}"


def worth(change: dict) -> str:
    """The difference between two drafts, and what it says by the page's rule."""
    side = {"raised": "better", "lowered": "worse"}.get(said_of(change), "no difference that is seen")
    return f"{span(change)} on {change['prompts']} code prompts: {side}"


def effect(change: dict) -> str:
    return {"raised": "helps", "lowered": "does harm"}.get(said_of(change), "makes no difference that is seen")


# --- table 3: who is left behind --------------------------------------------------------------------------------------


def disparity() -> str:
    """The plan's third table, once a definition; of the tuned drafts in GAPS their U(T) and the paired change."""
    found = pair()
    if not found.get("disparity", {}).get("base"):
        return f"Table 3, disparity: {NOT_YET}."
    drafts = [name for name in GAPS if found["disparity"].get(name)]
    rows = []
    for name in DEFINITIONS:
        for group, languages in GROUPS.items():
            rows.append([name, f"{group.title()}: {languages}", *disparity_cells(found, drafts, name, "by_group", group)])
        rows.append([name, "spread over the languages", *disparity_cells(found, drafts, name, "spread")])
        rows.append([name, "variance over the languages", *disparity_cells(found, drafts, name, "variance")])
    header = ["definition", "group", "base U(T)"]
    for draft in drafts:
        header += [f"{draft} U(T)", f"Δ disparity, {draft}"]
    header += [] if drafts else ["tuned U(T)", "Δ disparity"]
    prompts = [found["domains"][group]["prompts"] for group in GROUPS if group in found["domains"]]
    note = (
        f"Prompts: {', '.join(map(str, prompts))}. U(T) is never negative, so with few prompts noise alone raises all of it. "
        "Δ is paired: base and tuned draft meet the same prompts, and the same resamples of them. Where a language has fewer "
        "than eight prompts there is no interval."
    )
    return f"{table(header, rows)}\n\n{note} {machines(FAMILY)}"


def disparity_cells(found: dict, drafts: list[str], definition: str, *keys: str) -> list[str]:
    """Of one statistic of U(T): base, and of every tuned draft the same and its change."""
    digits = 4 if keys == ("variance",) else 3

    def cell(results: dict, sign: str = "") -> str:
        one = results.get(definition) or {}
        for key in keys:
            one = one.get(key) or {}
        return span(one, digits, sign) if one else NOT_YET

    cells = [cell(found["disparity"]["base"])]
    for draft in drafts:
        cells += [cell(found["disparity"][draft]), cell(found["disparity_changes"][draft], "+")]
    return cells + ([] if drafts else [NOT_YET, NOT_YET])


def whose() -> str:
    return table(["definition", "U(T) of a language T"], [[name, words] for name, words in DEFINITIONS.items()])


def most_disadvantaged() -> str:
    """Does the definition decide the answer? The languages of the largest U(T), by definition."""
    base = pair().get("disparity", {}).get("base")
    if not base:
        return f"{NOT_YET}."
    worst: dict[str, list[str]] = {}  # languages → the definitions by which they are the worst three
    for name in DEFINITIONS:
        if base.get(name):
            values = base[name]["by_language"]
            if any(one["interval"] is None for one in values.values()):
                return "so few prompts a language rank none"
            languages = sorted(values, key=lambda language: -values[language]["mean"])[:3]
            worst.setdefault(", ".join(languages), []).append(name)
    if len(worst) == 1:
        return f"furthest behind, by every definition, are {next(iter(worst))}"
    parts = [f"by {' and '.join(names)} {languages}" for languages, names in worst.items()]
    return f"furthest behind are {'; '.join(parts)}"


# --- tables 4 and 5: draft length -------------------------------------------------------------------------------------


def subject(found: dict) -> str:
    """The draft of tables 4 and 5: the tuned one, as in the plan, or base as long as there is none."""
    return DECIDES if DECIDES in found.get("drafts", {}) else "base"


def of_lengths(found: dict, draft: str) -> list[tuple[str, dict]]:
    """(domain, the results of `draft` by length) of the domains on which it was measured."""
    return [(domain, by_draft[draft]) for domain, by_draft in found.get("lengths", {}).items() if draft in by_draft]


def lengths() -> str:
    """The plan's fourth table, code first, then natural language."""
    found = pair()
    draft = subject(found)
    rows = []
    for domain, of_draft in of_lengths(found, draft):
        for k, one in of_draft["by_k"].items():
            bursts, independent = one["bursts"], one["independent"]
            cells = ["none", "none", "none"]
            if bursts["length"]:
                cells = [plain(bursts["length"], 2), f"{bursts['longer']['mean']:.2g}", f"{bursts['geometric']:.2g}"]
            cells += [plain(one["tokens_per_pass"], 2), plain(one["speedup"], 2), f"{independent['speedup']:.2f}"]
            cells += [percent(one["acceptance_rate"]["mean"]), percent(independent["acceptance_rate"])]
            rows.append([NAMES[domain], k, *cells])
    if not rows:
        return f"Table 4, draft length: {NOT_YET}."
    header = ["domain", "γ", "avg. burst len.", "P(burst > 10)", "geometric", "tokens per pass", "speed-up, replayed"]
    header += ["independent positions", "accept rate", "independent positions"]
    note = f"Draft: {draft}{'' if draft == DECIDES else f'; the tuned one, which the plan has here, is {NOT_YET}'}."
    return f"{table(header, rows)}\n\n{note} {machines(FAMILY)}"


def live_runs(found: dict) -> list[tuple[str, str, str, dict]]:
    """(run, draft, its length, what was measured) of every draft length that was run live, the fixed ones first, rising."""
    runs = []
    for one in sorted(found.get("live", []), key=lambda one: (one["stop_below"], one["k"])):
        bound = one["stop_below"]
        length = f"at most {one['k']}, ends behind q < {bound}" if bound else f"γ = {one['k']}"
        runs += [(one["run"], draft, length, of_draft) for draft, of_draft in one["drafts"].items()]
    return runs


def live_lengths() -> str:
    """Table 4 as a user meets it: tokens a second against the plain verifier of the same sitting."""
    found = pair()
    rows = []
    for name, draft, length, one in live_runs(found):
        cells = [plain(one["speedup"], 2), f"{one['independent']:.2f}", f"{one['c']:.3f}", plain(one["tokens_per_pass"], 2)]
        burst = plain(one["bursts"]["length"], 2) if one["bursts"]["length"] else "none"
        rows.append([f"`{name}`", draft, length, str(one["prompts"]), *cells, percent(one["acceptance_rate"]["mean"]), burst])
    if not rows:
        return f"Live runs by draft length: {NOT_YET}."
    header = ["run", "draft", "draft length", "n", "speed-up", "independent positions at this c", "c", "tokens per pass"]
    header += ["accept rate", "avg. burst len."]
    types = sorted({one["dtype"] or "an unknown data type" for one in found["live"]})
    note = f"In {', '.join(types)}; c is the measured time of a draft's step over that of a pass of the plain verifier."
    return f"{table(header, rows)}\n\n{note} {measured_on(found['live'])}"


def live_tuned() -> str:
    """The tuned drafts at the γ at which the base draft is fastest live, each against base in the same run."""
    sentences = []
    for _, headers, ratios in ratios_of_runs(LIVE_TUNED):
        said = [
            f"`{draft}` {speed_verdict(ratio)}, {span(ratio, 3, sign='')}, on {ratio['prompts']} prompts"
            for draft, _, ratio in ratios
            if ratio["interval"]
        ]
        if said:
            conditions = headers[0]["conditions"]
            where = f"Live in {conditions['dtype']} at γ = {conditions['k']}, as times the base draft's tokens a second"
            sentences.append(f"{where}: {'; '.join(said)}.")
    return "\n".join(sentences) or f"Live runs of tuned drafts: {NOT_YET}."


def confidence() -> str:
    """Beyond the plan: a draft that ends when unsure, beside the best fixed length and the oracle."""
    found = pair()
    draft = subject(found)
    rows = []
    for domain, one in of_lengths(found, draft):
        k, best = max(one["by_k"].items(), key=lambda item: item[1]["speedup"]["mean"])
        name = NAMES[domain]
        rows.append(
            [name, f"fixed, the best of the plan's: γ = {k}", plain(best["tokens_per_pass"], 2), plain(best["speedup"], 2)]
        )
        for at_most, by_bound in one["by_bound"].items():
            for bound, unsure in by_bound.items():
                speeds = f"{unsure['at_least']['mean']:.2f} to {unsure['at_most']['mean']:.2f}"
                words = f"at most {at_most}, ends behind q < {bound}"
                rows.append([name, words, plain(unsure["tokens_per_pass"], 2), speeds])
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
    low = low_gaps()
    parts = [", ".join(filter(None, (f"{span(change, 3)} by {name}", gap(change)))) for name, change in low.items()]
    judged = f"{NOT_YET}."
    if parts:
        prompts = pair()["domains"]["low"]["drafts"][DECIDES]["prompts"]
        judged = f"the low group's mean U(T), on {prompts} prompts, changed by {'; '.join(parts)}."
    if parts and any(change["interval"] is None for change in low.values()):
        judged += " So few prompts a language judge nothing."
    return f"{expected} {judged} {by_group()}{other_gaps()}Before any tuning, {most_disadvantaged()}."


def by_group() -> str:
    """What the deciding draft did to Σ min(p, q) in each of the plan's groups; "" where it met none."""
    domains = pair().get("domains", {})
    found = [(name, domains.get(name, {}).get("changes", {}).get(DECIDES)) for name in GROUPS]
    said = [f"{span(change['overlap'])} in the {name} group" for name, change in found if change]
    return f"Σ min(p, q) itself changed by {', '.join(said)}. " if said else ""


def low_gaps() -> dict[str, dict]:
    """Definition → the deciding draft's change of the low group's U(T)."""
    changes = pair().get("disparity_changes", {}).get(DECIDES, {})
    return {name: change["by_group"]["low"] for name, change in changes.items() if change and "low" in change["by_group"]}


def gaps_by_training() -> dict[str, dict]:
    """Tuned draft → its change of the low group's U(T) by overlap, the one that decides first."""
    changes = pair().get("disparity_changes", {})
    found = {name: (changes.get(name) or {}).get("overlap") for name in tuned(pair())}
    return {name: change["by_group"]["low"] for name, change in found.items() if change and "low" in change["by_group"]}


def other_gaps() -> str:
    """By overlap, how many of the other trainings widened or narrowed the low group's gap; "" where none was measured."""
    others = {name: gap(change) for name, change in gaps_by_training().items() if name != DECIDES}
    if not others:
        return ""
    wider, narrower = ([f"`{name}`" for name, said in others.items() if said == side] for side in ("wider", "narrower"))
    said = f"{len(wider)} widened it{named_in(wider)}, {len(narrower)} narrowed it{named_in(narrower)} (Table 3b)"
    return f"Of the other {len(others)} trainings, by overlap, {said}. "


def named_in(drafts: list[str]) -> str:
    return f" ({', '.join(drafts)})" if drafts else ""


def gaps() -> str:
    """Table 3b: every training's change of the low group's U(T) by overlap, and the prompts that it was measured on."""
    prompts = pair().get("domains", {}).get("low", {}).get("drafts", {})
    rows = []
    for name, change in gaps_by_training().items():
        rows.append([name, str(prompts[name]["prompts"]), span(change, 4), gap(change) or "too few prompts"])
    if not rows:
        return f"Table 3b, the gap by training: {NOT_YET}."
    return table(["draft", "n, low group", "change of U(T)", "the gap, by the rule above"], rows)


def gap(change: dict) -> str:
    """What a change of U(T) says of the gap, as it was fixed; "" where there is no interval."""
    said = {"raised": "wider", "lowered": "narrower"}.get(verdict(change), "no measurable change")
    return said if change["interval"] else ""


def third_outcome() -> str:
    expected = "*The speed-up has a single peak at a moderate γ, beyond which rejections cascade:*"
    found = pair()
    draft = subject(found)
    parts = []
    for domain, of_draft in of_lengths(found, draft):
        speeds = {int(k): one["speedup"]["mean"] for k, one in of_draft["by_k"].items()}
        lengths = [(one["bursts"]["length"] or {"mean": 0.0})["mean"] for one in of_draft["by_k"].values()]
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
    return f"{expected} with the {draft} draft, replayed, {'; '.join(parts)}. {reason}{live_peak(found)}"


def live_peak(found: dict) -> str:
    """What the live runs of fixed lengths say of the peak, a sentence a draft."""
    speeds: dict[str, dict[int, float]] = {}
    prompts: dict[str, dict[int, int]] = {}
    for one in sorted(found["live"], key=lambda one: one["k"]):
        for draft, of_draft in one["drafts"].items() if not one["stop_below"] else ():
            speeds.setdefault(draft, {}).setdefault(one["k"], of_draft["speedup"]["mean"])  # of two runs the first
            prompts.setdefault(draft, {}).setdefault(one["k"], of_draft["prompts"])
    said = ""
    for draft, by_k in speeds.items():
        best = max(by_k, key=lambda k: by_k[k])
        if len(by_k) > 2:
            said += f" Live, the {draft} draft shows {shape(list(by_k.values()))}: the best is γ = {best}, {by_k[best]:.2f}×."
            if len(set(prompts[draft].values())) > 1:
                said += f" Prompts, by γ: {', '.join(f'{number} at {k}' for k, number in prompts[draft].items())}."
    return said


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
    draft = subject(pair())
    found = need(of_lengths(pair(), draft))
    figure, panels = new_figure(8, 3.4, len(found))
    for panel, (domain, of_draft) in zip(panels, found, strict=True):
        by_k = of_draft["by_k"]
        ks = [int(k) for k in by_k]
        replayed = [one["speedup"]["mean"] for one in by_k.values()]
        panel.plot(ks, replayed, **point(1), linestyle="-", label="replayed")
        independent = [one["independent"]["speedup"] for one in by_k.values()]
        panel.plot(ks, independent, **point(0), linestyle="--", label="independent positions")
        panel.axhline(of_draft["oracle"]["mean"], color="black", linewidth=0.8, linestyle=":", label="oracle")
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
    for domain, of_draft in of_lengths(found, draft):
        values = [
            f"γ {k} {one['speedup']['mean']:.2f} (independent {one['independent']['speedup']:.2f})"
            for k, one in of_draft["by_k"].items()
        ]
        parts.append(f"{NAMES[domain]}: {', '.join(values)}, oracle {of_draft['oracle']['mean']:.2f}")
    return picture(LENGTHS_FIGURE, OWN, f"Replayed speed-up by draft length, {draft} draft. {'; '.join(parts)}.")


def by_language(draft: str) -> dict[str, dict]:
    """language → Σ min(p, q) of a draft, the plan's groups in order."""
    found = pair()
    languages = ((found.get("disparity", {}).get("base") or {}).get("overlap") or {}).get("by_language", {})
    values = {language: metrics(found, language, draft) for language in languages}
    return {language: one["overlap"] for language, one in values.items() if one}


def drawn() -> list[str]:
    """The drafts of the figure by language."""
    return [draft for draft in ("base", *GAPS) if by_language(draft)]


def draw_disparity() -> Figure:
    figure, (panel,) = new_figure(6.4, 3.4)
    languages = list(need(by_language("base")))
    for number, draft in enumerate(drawn()):
        values = by_language(draft)
        for language, one in values.items():
            low, high = one["interval"] or (one["mean"], one["mean"])
            height = languages.index(language) + 0.2 * number
            panel.plot([low, high], [height, height], color="black", linewidth=0.9)
            first = language == next(iter(values))
            panel.plot(one["mean"], height, **point(number), linestyle="", label=draft if first else None)
    panel.set(yticks=range(len(languages)), xlabel="mean Σ min(p, q), 95% interval over prompts")
    panel.set_yticklabels(languages)
    panel.invert_yaxis()
    panel.legend(fontsize=8)
    return figure


def disparity_figure() -> str:
    parts = []
    for draft in drawn():
        values = [f"{language} {plain(one)}" for language, one in by_language(draft).items()]
        parts.append(f"{draft}: {', '.join(values)}")
    return picture(DISPARITY_FIGURE, OWN, f"Mean Σ min(p, q) by language; {'; '.join(parts)}.")


OWN_PARTS: dict[str, Part] = {
    "answer": answer,
    "pairs": pairs,
    "figure lengths": lengths_figure,
    "outcomes": outcomes,
    "domains": domains,
    "tuning": tuning,
    "rates": rates,
    "rates in words": rates_in_words,
    "apart": apart,
    "more in words": more_in_words,
    "disparity": disparity,
    "gaps": gaps,
    "whose": whose,
    "figure disparity": disparity_figure,
    "lengths": lengths,
    "live lengths": live_lengths,
    "live tuned": live_tuned,
    "confidence": confidence,
}
PAGES: dict[Path, dict[str, Part]] = {OWN: OWN_PARTS, FRONT: {"row code": row}}


def main() -> int:
    return run_pages(__doc__, PAGES, {LENGTHS_FIGURE: draw_lengths, DISPARITY_FIGURE: draw_disparity})


if __name__ == "__main__":
    run(main)
