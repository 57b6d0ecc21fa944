"""The tables and figures of study 1, and its row on the front page, from results/study.json (studies/domains/analysis.py).

python -m studies.domains.tables            draws the figures and fills the pages
python -m studies.domains.tables --check    exits 1 if a page and the results disagree
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from specdec.report import (
    Part,
    count_passes,
    hardware,
    interval,
    live_ratios,
    load,
    new_figure,
    picture,
    point,
    ratios_of_runs,
    run_pages,
    span,
    speed_verdict,
    table,
    verdict,
    zero_line,
)
from specdec.terminal import run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path("studies/domains")
FRONT, OWN = Path("README.md"), HERE / "README.md"
STUDY, QUERIES = HERE / "results/study.json", HERE / "results/queries_*.json"
MORE_QUERIES = HERE / "results/whole/queries_*.json"
LIVE, LIVE_CALLS = HERE / "results/live/live.jsonl", HERE / "results/live-calls/live.jsonl"
LIVE_SHIPPED, LIVE_PROSE = HERE / "results/live-shipped/live.jsonl", HERE / "results/live-prose/live.jsonl"
OWN_TEXT = HERE / "results/own_text.json"
SQUARE, SCALING = HERE / "figures/square.png", HERE / "figures/scaling.png"
TESTS = ("at", "biology", "function_calling", "chinese", "general")  # the columns of the square
USUAL_DRAFT = "HuggingFaceTB/SmolLM2-135M-Instruct"
THEIRS = {
    "offline over online": "1.11 to 1.25",
    "white-box over black-box, by KL": "1.02 to 1.10",
    "white-box over black-box, by TVD++": "1.02 to 1.10",
    "synthetic queries over queries as users ask": "0.80 to 0.93",
    "most data over least": "above 1",
}
WHITE_BOX = "white-box over black-box"  # how the claims begin that are one, asked of two losses
USERS = ("function_calling",)  # domains whose queries of scenario I are users' own; the others' are written as users ask
TO_USE = "with_everything"  # of the adapters
CHINESE = "chinese_users_250"  # the draft of the page's rule on Chinese
SINGLE = "biology_users_single"  # biology's draft in steps of one answer, as function calling's learn
WHOSE_TEXT = {  # of results/own_text.json
    "verifier": "of the verifier",
    "base": "of the base draft",
    "online": "of the draft taught on its own text",
    "offline": "of the draft taught on the verifier's",
}
OPENINGS = ("```json", "<tool_call>", "{")  # of a call
LITTLE = 0.01  # what the draft that ships may lose in mean Σ min(p, q) for learning calls
NONE_YET = "not measured"


def spoken(domain: str) -> str:
    names = {"at": "AT", "chinese": "Chinese"}
    return " + ".join(names.get(one, one.replace("_", " ")) for one in domain.split(" + "))


def label(arm: dict) -> str:
    """A draft by what it learnt from: the domain of its prompts, and whose they were (the scenario)."""
    model = "" if arm["base_model"] == USUAL_DRAFT else f", {arm['base_model'].rpartition('/')[2]}"
    before = f", from {arm['from_adapter']} on" if arm["from_adapter"] else ""
    return f"{spoken(arm['domain'])} {arm['scenario']}{model}{before}"


# --- the claims -------------------------------------------------------------------------------------------------------


def ratio(found: dict) -> str:
    """`1.043 (1.012 to 1.081)`; a ratio to a gain that is not clear of zero is none."""
    if found["ratio"] is None:
        return "no clear gain below the line"
    if found["interval"] is None:
        return f"{found['ratio']:.3f} (too few prompts)"
    low, high = found["interval"]
    return f"{found['ratio']:.3f} ({low:.3f} to {high:.3f})"


def claims() -> str:
    study = load(STUDY)
    rows = []
    for claim, theirs in THEIRS.items():
        found = study["claims"][claim]
        together = found["together"]
        if together is None:
            rows.append([claim, theirs, NONE_YET, "–", "–", "–"])
            continue
        domains = ", ".join(map(spoken, found["domains"]))
        rows.append([claim, theirs, domains, str(together["prompts"]), ratio(together["levels"]), ratio(together["gains"])])
    header = ["claim, as a ratio", "theirs", "ours on", "n", "ratio of levels", "ratio of gains"]
    machines = f"\n\n{hardware(study['measured'])}" if study["measured"] else ""
    return table(header, rows) + machines


def ratio_cells(domain: str, one: dict) -> list[str]:
    """Of one ratio on one domain: where, from how many answers, on how many prompts, the means, both ratios."""
    means = [f"{one['means'][side]:.4f}" for side in ("base", "below", "above")]
    answers = " / ".join(str(count) for count in dict.fromkeys(one["answers"]))
    return [spoken(domain), answers, str(one["prompts"]), *means, ratio(one["levels"]), ratio(one["gains"])]


def claims_by_domain() -> str:
    rows = []
    for claim, found in load(STUDY)["claims"].items():
        rows += [
            [claim, f"`{one['above']}` over `{one['below']}`", *ratio_cells(domain, one)]
            for domain, one in found["domains"].items()
        ]
    if not rows:
        return "No domain has the two arms of a claim so far."
    return table(["claim", "drafts", "on", "answers", "n", "base", "below", "above", "ratio of levels", "ratio of gains"], rows)


def by_loss() -> str:
    """Every white-box loss over black-box, by domain."""
    rows = []
    for domain, losses in load(STUDY)["losses"].items():
        rows += [[f"`{one['loss']}`", *ratio_cells(domain, one)] for one in losses]
    if not rows:
        return "No domain has a white-box draft and the black-box one so far."
    header = ["white-box loss", "on", "answers", "n", "base", "black-box", "white-box", "ratio of levels", "ratio of gains"]
    return table(header, rows)


def side_of_one(found: dict) -> int:
    """Where the interval of a ratio of levels lies: 1 above one, -1 below, 0 if it holds one or there is none."""
    low, high = found["levels"]["interval"] or (0, 2)
    return (low > 1) - (high < 1)


def claim_verdict(claim: str, together: dict) -> str:
    """What the interval of the ratio of levels says, by the test that was fixed in advance."""
    if claim.startswith("synthetic"):
        most = float(THEIRS[claim].rpartition(" ")[2])
        less = "less, but by less than theirs" if (together["levels"]["interval"] or [0])[0] > most else "less, as they say"
        return {1: "more", -1: less, 0: "no difference seen"}[side_of_one(together)]
    return {1: "holds", -1: "is reversed", 0: "no difference seen"}[side_of_one(together)]


def by_the_loss(claims: dict[str, dict]) -> str:
    """Where white-box over black-box hangs on the loss, one ratio above 1 and another below: over all domains, if each loss
    was asked of the same ones, else on the first domain of TESTS where it does; "" if it does not."""
    white_box = {claim: found for claim, found in claims.items() if claim.startswith(WHITE_BOX)}
    asked = [set(found["domains"]) for found in white_box.values()]
    if not asked:
        return ""
    if all(domains == asked[0] for domains in asked):
        sides = {claim: found["together"] for claim, found in white_box.items()}
        return both_losses(sides, listed(next(iter(white_box.values()))["domains"]))
    for domain in TESTS:
        if domain in set.intersection(*asked):
            sides = {claim: found["domains"][domain] for claim, found in white_box.items()}
            if said := both_losses(sides, spoken(domain)):
                return said
    return ""


def both_losses(sides: dict[str, dict], where: str) -> str:
    """`by KL 0.9, by TVD++ 1.0 on AT`, where one lies above 1 and another below; else ""."""
    if not {-1, 1} <= {side_of_one(one) for one in sides.values()}:
        return ""
    by_loss = [f"{claim.removeprefix(f'{WHITE_BOX}, ')} {ratio(one['levels'])}" for claim, one in sides.items()]
    return f"{', '.join(by_loss)} on {where}"


def listed(domains: Iterable[str]) -> str:
    """`AT, biology and function calling`."""
    *others, last = map(spoken, domains)
    return f"{', '.join(others)} and {last}" if others else last


def in_words(claims: dict[str, dict]) -> list[tuple[str, str]]:
    """(a claim and its verdict, its ratio) of those that are measured."""
    asked = {claim: found for claim, found in claims.items() if found["together"]}
    said = []
    if by_loss := by_the_loss(asked):
        said.append((f"{WHITE_BOX}: depends on the loss", by_loss))
        asked = {claim: found for claim, found in asked.items() if not claim.startswith(WHITE_BOX)}
    for claim, found in asked.items():
        said.append((f"{claim}: {claim_verdict(claim, found['together'])}", ratio_on(found)))
    return said


def ratio_on(found: dict) -> str:
    return f"{ratio(found['together']['levels'])} on {listed(found['domains'])}"


def losses_in_words(losses: dict[str, list[dict]]) -> list[str]:
    """Of the white-box losses of a domain, how many lie above black-box, and how many below."""
    said = []
    for domain, rows in losses.items():
        if len(rows) > 2:
            sides = [side_of_one(row) for row in rows]
            said.append(
                f"Of {len(rows)} white-box losses on {spoken(domain)}, of {rows[0]['answers'][0]} answers on "
                f"{rows[0]['prompts']} prompts, {sides.count(1)} lie above black-box and {sides.count(-1)} below."
            )
    return said


def answer() -> str:
    study = load(STUDY)
    lines = [f"- **{claim}**, {found}" for claim, found in in_words(study["claims"])]
    if missing := [claim for claim, found in study["claims"].items() if not found["together"]]:
        lines.append(f"- not measured: {'; '.join(missing)}")
    lines += [f"- {said}" for said in losses_in_words(study["losses"])]
    lines += [f"- {own_gain(arm)}" for arm in study["own"]]
    return "\n".join(["The claims, as ratios of mean Σ min(p, q), and what the draft of each domain gained:", "", *lines])


def own_gain(arm: dict) -> str:
    change = arm["on"][arm["domain"]]
    rest = f", and {span(arm['on']['general'])} on general ones" if "general" in arm["on"] else ""
    return f"{label(arm)}, {arm['answers']} answers: {span(change)} on {change['prompts']} prompts of its own domain{rest}"


def row() -> str:
    """The cell in the front page's table of studies: the claims, and what each domain gained from queries of scenario I."""
    study = load(STUDY)
    claimed = "; ".join(f"{claim}, {found.partition(' on ')[0]}" for claim, found in in_words(study["claims"]))
    parts = [f"Mean Σ min(p, q) as a ratio: {claimed}" if claimed else "No claim has both of its drafts yet"]
    gains: dict[str, list[str]] = {}
    for arm in study["own"]:
        gains.setdefault(queries_of(arm), []).append(f"{spoken(arm['domain'])} {span(arm['on'][arm['domain']])}")
    learnt = [f"from {whose}: {', '.join(changes)}" for whose, changes in gains.items()]
    return "; ".join(
        [*parts, *([f"change on a draft's own domain, learnt {'; '.join(learnt)}"] if learnt else []), *live_in_short()]
    )


def queries_of(arm: dict) -> str:
    """Whose queries a draft of scenario I learnt from, in words."""
    return "users' queries" if arm["domain"] in USERS else "queries written as users ask"


# --- the square -------------------------------------------------------------------------------------------------------


def columns(study: dict) -> list[str]:
    return [domain for domain in TESTS if any(domain in arm["on"] for arm in study["square"])]


def draw_square() -> Figure:
    """A draft a row, a test set a column: the change of Σ min(p, q) is written in each cell, its shade repeats it."""
    study = load(STUDY)
    domains, arms = columns(study), study["square"]
    if not arms:
        raise FileNotFoundError(2, "no draft measured", str(HERE / "results/paired.jsonl"))
    cells = [[arm["on"][domain]["mean"] if domain in arm["on"] else float("nan") for domain in domains] for arm in arms]
    figure, (panel,) = new_figure(2.2 + 1.25 * len(domains), 1.3 + 0.45 * len(arms))
    largest = max(abs(value) for line in cells for value in line if value == value)
    panel.imshow(cells, cmap="gray", vmin=-largest, vmax=largest, aspect="auto")
    for y, arm in enumerate(arms):
        for x, domain in enumerate(domains):
            words = f"{arm['on'][domain]['mean']:+.3f}" if domain in arm["on"] else NONE_YET
            dark = domain in arm["on"] and arm["on"][domain]["mean"] < 0
            panel.text(x, y, words, ha="center", va="center", color="white" if dark else "black", fontsize=9)
    panel.set_xticks(range(len(domains)), [spoken(domain) for domain in domains])
    panel.set_yticks(range(len(arms)), [label(arm) for arm in arms])
    panel.set(xlabel="measured on prompts of", ylabel="draft trained on")
    panel.set_title("change of mean Σ min(p, q) against the base draft", fontsize=9)
    return figure


def square() -> str:
    study = load(STUDY)
    lines = []
    for arm in study["square"]:
        cells = [f"on {spoken(domain)} {span(arm['on'][domain])}" for domain in columns(study) if domain in arm["on"]]
        lines.append(f"{label(arm)}: {', '.join(cells)}")
    return picture(SQUARE, OWN, f"Change of mean Σ min(p, q) against the base draft. {'; '.join(lines)}.")


def reading() -> str:
    """The square's summary in words: own domain against the others, and what was forgotten, by the page's rule."""
    drafts = load(STUDY)["square"]
    own: list[str] = []
    others: list[str] = []
    forgot: list[str] = []
    for arm in drafts:
        for domain, change in arm["on"].items():
            side = own if domain in arm["domain"].split(" + ") else others
            side.append(verdict(change))
            if domain == "general" and side is others and side[-1] == "lowered":
                forgot.append(label(arm))
    count = f"{len(drafts)} draft{'s' if len(drafts) != 1 else ''}"
    lost = f" Forgotten, on general prompts: by {', '.join(forgot)}." if forgot else ""
    return f"The square has {count}. On a domain that a draft learnt: {counted(own)}. On another: {counted(others)}.{lost}"


def counted(verdicts: list[str]) -> str:
    """`2 of 3 clearly above the base draft, 0 clearly below`."""
    if not verdicts:
        return NONE_YET
    above, below = verdicts.count("raised"), verdicts.count("lowered")
    return f"{above} of {len(verdicts)} changes clearly above zero, {below} clearly below"


def arms() -> str:
    rows = []
    for arm in load(STUDY)["arms"]:
        for domain in TESTS:
            if domain not in arm["on"]:
                continue
            change = arm["on"][domain]
            learnt = [label(arm), arm["loss"], arm["data"], str(arm["answers"]), f"{arm['passes']:g}"]
            base, tuned = change["tokens_per_pass"]
            values = [f"{change['base']:.4f}", f"{change['mean']:+.4f}", interval(change), f"{base:.2f} → {tuned:.2f}"]
            rows.append([*learnt, spoken(domain), str(change["prompts"]), *values])
    header = [
        "draft",
        "loss",
        "data",
        "answers",
        "passes",
        "on",
        "n",
        "base",
        "change",
        "95% interval",
        "tokens per pass, K = 4",
    ]
    return table(header, rows)


# --- one draft of all domains, and one answer a step ------------------------------------------------------------------


def beside() -> str:
    """Each draft of several domains beside the domains' own drafts."""
    rows = []
    for name, found in load(STUDY)["beside"].items():
        for one in found:
            learnt = [" / ".join(f"{one[field][side]:,}" for side in ("draft", "alone")) for field in ("answers", "steps")]
            cells = [str(one["draft"]["prompts"]), span(one["draft"]), span(one["alone"]), span(one["apart"])]
            rows.append([f"`{name}`", f"`{one['own']}`", spoken(one["on"]), *learnt, *cells])
    if not rows:
        return "One draft of several domains is not measured so far."
    header = ["draft", "a domain's own draft", "on", "answers of both", "steps of both", "n", "change of the draft"]
    return table([*header, "of the domain's own", "difference"], rows)


def mixing_in_words() -> str:
    """The page's two rules: what mixing saves and costs, and what steps of one answer do."""
    study = load(STUDY)
    found = {(one["domain"], one["on"]): one for one in study["beside"].get("mixed", [])}
    return " ".join([*saved(found), *cost(found), *single_in_words(study["arms"])]) or "Neither is measured so far."


def shipped_in_words() -> str:
    """What `distilled_more` gains in domains that it never saw, of what their own drafts gain."""
    said = []
    for one in load(STUDY)["beside"].get("distilled_more", []):
        if one["on"] == one["domain"] != "at":
            of_own = f"its own draft of {one['answers']['alone']} answers {span(one['alone'])}"
            said.append(f"on {spoken(one['on'])} `distilled_more` changes it by {span(one['draft'])}, {of_own}")
    return f"Mean Σ min(p, q) of domains that were not learnt: {'; '.join(said)}." if said else "Not asked so far."


def next_in_words() -> str:
    """Whether a draft that goes on from another should ship in its stead, by the page's rule, of each that was measured."""
    said = []
    for name, rows in reversed(load(STUDY)["next"].items()):  # the last one first: it is the one to use
        found = {one["on"]: one for one in rows}
        if {"at", "biology", "function_calling", "general"} <= found.keys():
            said.append(ships(name, found))
    return "\n\n".join(said) or "Not asked so far."


def saving_in_words() -> str:
    """What saves function calling's draft from forgetting, by the page's rule: fewer passes, more answers."""
    said = []
    for name, rows in load(STUDY)["saving"].items():
        found = {one["on"]: one for one in rows}
        if "general" in found:
            one = found["general"]
            rule = "saves it" if verdict(one["apart"]) == "raised" else "was not shown to save it"
            own = f", on its own {span(found['function_calling']['draft'])}" if "function_calling" in found else ""
            said.append(
                f"`{name}` {rule}: on general prompts {span(one['draft'])}, {span(one['apart'])} against `{one['own']}`{own}"
            )
    return f"What saves function calling's draft from forgetting: {'; '.join(said)}." if said else "Not asked so far."


def chinese_in_words() -> str:
    """Whether the same-family draft can learn Chinese from its verifier, by the page's rule."""
    change = change_of(load(STUDY)["arms"], CHINESE, "chinese")
    if change is None:
        return "Chinese from 250 answers is not measured so far."
    rule = "can" if verdict(change) == "raised" else "was not shown to be able to"
    return (
        f"**The same-family draft {rule} learn Chinese from its verifier**: `{CHINESE}` changes mean Σ min(p, q) by "
        f"{span(change)} on {change['prompts']} prompts."
    )


def ships(name: str, found: dict[str, dict]) -> str:
    """`found`: test set → the draft beside the one that it might replace."""
    before = found["general"]["own"]
    kept = all(one["apart"]["mean"] >= -LITTLE for test, one in found.items() if test != "function_calling")
    rule = kept and verdict(found["function_calling"]["apart"]) == "raised"
    parts = [
        f"on {one['draft']['prompts']} {spoken(test)} prompts {span(one['draft'])} over the base draft, "
        f"{span(one['apart'])} over `{before}`"
        for test, one in found.items()
    ]
    said = f"**`{name}` {'should' if rule else 'should not'} ship instead of `{before}`, by the rule above**"
    return f"{said}: {'; '.join(parts)}."


def saved(found: dict[tuple[str, str], dict]) -> list[str]:
    """(domain, test set) → `mixed` beside the domain's own draft; whether it saves what function calling's forgets."""
    one = found.get(("function_calling", "general"))
    if not one:
        return []
    rule = verdict(one["apart"]) == "raised" and verdict(one["draft"]) != "lowered"
    saves = "saves" if rule else "is not shown to save"
    return [
        f"**The draft of all three domains {saves} what function calling's own forgets**: on general prompts "
        f"{span(one['draft'])} against {span(one['alone'])}, {span(one['apart'])} apart."
    ]


def cost(found: dict[tuple[str, str], dict]) -> list[str]:
    """Of each domain, whether the draft of all three lies below its own draft there."""
    said = {"lowered": "costs it something", "raised": "is worth something to it"}
    by_domain = [
        f"{spoken(domain)} {said.get(verdict(one['apart']), 'makes no difference that is seen')} ({span(one['apart'])})"
        for (domain, test), one in found.items()
        if domain == test
    ]
    return [f"Against a domain's own draft, on its own prompts, mixing: on {'; on '.join(by_domain)}."] if by_domain else []


def change_of(arms: list[dict], name: str, test: str) -> dict | None:
    """A draft's change on a test set, None where it was not measured."""
    return next((arm["on"][test] for arm in arms if arm["name"] == name and test in arm["on"]), None)


def single_in_words(arms: list[dict]) -> list[str]:
    """The page's rule on steps of one answer, of the draft SINGLE; nothing before it is measured."""
    general = change_of(arms, SINGLE, "general")
    if general is None:
        return []
    rule = {
        "raised": "at answers of this length, steps of one answer are not enough to make a draft forget",
        "lowered": "steps of one answer may be what makes a draft forget",
    }
    said = rule.get(verdict(general), "what steps of one answer do is not clear")
    return [f"Biology's draft in steps of one answer: {span(general)} on general prompts, so {said}."]


# --- more data --------------------------------------------------------------------------------------------------------


def larger_drafts() -> list[dict]:
    """The drafts of one domain at 125 to 500 answers, of this study's loss."""
    study = load(STUDY)
    folder, loss = (study["conditions"][name] for name in ("larger", "loss"))
    found = [arm for arm in study["arms"] if (arm["folder"], arm["loss"]) == (folder, loss)]
    return [arm for arm in found if arm["domain"] in TESTS and not arm["from_adapter"]]


def larger() -> str:
    """Drafts of 125 to 500 answers on every test set that they met."""
    rows = []
    for arm in sorted(larger_drafts(), key=lambda arm: (label(arm), arm["answers"])):
        cells = [span(arm["on"][domain]) if domain in arm["on"] else NONE_YET for domain in TESTS if domain != "chinese"]
        rows.append([label(arm), str(arm["answers"]), *cells])
    if not rows:
        return "No draft of so many answers is measured so far."
    return table(["draft", "answers", *(spoken(domain) for domain in TESTS if domain != "chinese")], rows)


def larger_in_words() -> str:
    """What is forgotten at larger budgets, by the page's rule, and how far two domains of prose teach each other."""
    general = [arm for arm in larger_drafts() if "general" in arm["on"]]
    if not general:
        return "Nothing is measured at larger budgets so far."
    forgot = [named(arm) for arm in general if verdict(arm["on"]["general"]) == "lowered"]
    what = f"these TVD++ drafts forget: {', '.join(forgot)}" if forgot else "no TVD++ draft was seen to forget"
    calls = [f"{named(arm)} {span(arm['on']['general'])}" for arm in general if arm["domain"] == "function_calling"]
    prompts = general[0]["on"]["general"]["prompts"]
    said = [
        f"**At {min(arm['answers'] for arm in general)} answers and more, {what}**, on {prompts} general prompts"
        f"{': ' if calls else ''}{', '.join(calls)}."
    ]
    if crossed := [f"{span(one['apart'])} on {spoken(one['on'])}" for one in load(STUDY)["crossed"]]:
        said.append(f"Biology's draft of 250 answers less AT's of as many: {', '.join(crossed)}.")
    return " ".join(said)


def named(arm: dict) -> str:
    return f"{label(arm)} of {arm['answers']}"


def series(one: dict, found: list[dict]) -> str:
    """The name of a line in the figure: its domain, and its passes where the domain has several."""
    several = sum(other["domain"] == one["domain"] for other in found) > 1
    return f"{spoken(one['domain'])}, {count_passes(one['passes'])}" if several else spoken(one["domain"])


def draw_scaling() -> Figure:
    found = load(STUDY)["scaling"]
    if not found:
        raise FileNotFoundError(2, "no two sizes", str(HERE / "drafts"))
    figure, (panel,) = new_figure(6, 3.5)
    for number, one in enumerate(found):
        points = one["points"]
        sizes = [one["answers"] for one in points]
        means = [one["mean"] for one in points]
        bounds = [one["interval"] or [one["mean"]] * 2 for one in points]
        bars = [
            [middle - low for middle, (low, _) in zip(means, bounds, strict=True)],
            [high - middle for middle, (_, high) in zip(means, bounds, strict=True)],
        ]
        panel.errorbar(sizes, means, yerr=bars, capsize=3, label=series(one, found), **point(number))
    zero_line(panel, horizontal=True)
    panel.set(xlabel="answers trained on", ylabel="change of mean Σ min(p, q)", xscale="log")
    answers = sorted({size["answers"] for one in found for size in one["points"]})
    panel.set_xticks(answers, map(str, answers))
    panel.minorticks_off()  # those of a logarithm have labels of their own
    panel.legend()
    return figure


def scaling() -> str:
    found = load(STUDY)["scaling"]
    if not found:
        return "No domain has drafts of two sizes so far."
    lines = []
    for one in found:
        sizes = ", ".join(f"{size['answers']} answers {span(size)}" for size in one["points"])
        lines.append(f"{series(one, found)}: {sizes}")
    return picture(
        SCALING, OWN, f"Change of mean Σ min(p, q) on a draft's own domain by the answers trained on. {'; '.join(lines)}."
    )


def expected() -> str:
    """What so many answers did to a draft of their domain: the offline arms of this study's loss and scenario I."""
    study = load(STUDY)
    found = []
    for arm in study["arms"]:
        usual = (arm["loss"], arm["data"], arm["scenario"]) == (study["conditions"]["loss"], "offline", "I")
        if usual and arm["domain"] in arm["on"] and arm["base_model"] == USUAL_DRAFT:
            found.append((arm["answers"], arm["passes"], spoken(arm["domain"]), span(arm["on"][arm["domain"]])))
    if not found:
        return "No draft of one domain is measured so far."
    lines = [
        f"{answers} {domain} answers in {count_passes(passes)} {change}" for answers, passes, domain, change in sorted(found)
    ]
    return f"What answers of one domain did to mean Σ min(p, q) here: {'; '.join(lines)}."


# --- the data, the ceiling, the speed ---------------------------------------------------------------------------------


def data() -> str:
    found = load(STUDY)["leaks"]
    rows = [[f"`{name}`", str(one["rows"]), str(one["near"])] for name, one in found.items()]
    return table(["training file", "rows", "near an evaluation prompt of any domain"], rows)


def queries() -> str:
    """What generate_queries.py drew for scenario III: the filters, and the mix of what came."""
    rows, mixes = [], []
    few, more = (sorted(files.parent.glob(files.name)) for files in (QUERIES, MORE_QUERIES))
    for file in few + more:
        found = load(file)
        domain = spoken(found["conditions"]["domain"])
        dropped = ", ".join(f"{reason} {count}" for reason, count in found["dropped"].items()) or "none"
        lengths = found["mix"]["characters"]
        cells = [str(found["draws"]), str(found["usable"]), dropped, f"{lengths['median']:.0f}", str(found["mix"]["questions"])]
        rows.append([domain, *cells])
        for name in ("first two words", "words of five letters or more, by prompts") if file in (more or few) else ():
            commonest = ", ".join(f"{words} {count}" for words, count in found["mix"][name].items())
            mixes.append(f"- {domain}, commonest {name}: {commonest}")
    if not rows:
        return "The verifier has written no queries so far."
    header = ["synthetic queries", "draws", "usable", "dropped", "characters, median", "with a question mark"]
    return "\n".join([table(header, rows), "", *mixes])


def calls() -> str:
    found = load(STUDY)["calls"]
    if not found:
        return "No function-calling query is answered so far."
    rows = []
    for one in found:
        shares = [f"{one[kind]} ({one[kind] / one['answers']:.0%})" for kind in ("parse", "fitting")]
        rows.append([f"`{one['file']}`", one["query_type"].replace("_", " "), str(one["answers"]), *shares])
    return table(["answers", "queries", "n", "parse as calls", "name a given tool with what it requires"], rows)


def own_text() -> str:
    """How many of the texts that a draft writes by itself to function-calling prompts are calls."""
    if not OWN_TEXT.exists():
        return "What the drafts write by themselves was not asked."
    measured = load(OWN_TEXT)
    rows = []
    for name, one in measured["found"].items():
        opened = sum(text.lstrip().startswith(OPENINGS) for text in one["own"]) if "own" in one else "not kept"
        rows.append([WHOSE_TEXT[name], *(str(number) for number in (one["texts"], opened, one["parse"], one["fitting"]))])
    header = ["texts to function-calling training prompts", "n", "begin as a call", "parse as calls", "as a tool requires"]
    note = f"To {measured['conditions']['no_tool_fits']} of the prompts no tool fits. {hardware([measured['environment']])}"
    return f"{table(header, rows)}\n\n{note}"


def ceilings() -> str:
    found = load(STUDY)["ceilings"]
    domains = [domain for domain in TESTS if any(domain in masses for masses in found.values())]
    rows = []
    for draft, masses in found.items():
        cells = [
            f"{masses[domain]['overlap']:.3f} of {masses[domain]['mass']:.3f}" if domain in masses else NONE_YET
            for domain in domains
        ]
        rows.append([draft.rpartition("/")[2], *cells])
    return table(["base draft", *map(spoken, domains)], rows)


def live_in_short() -> list[str]:
    """For the front page; nothing before it is measured."""
    if not LIVE.exists():
        return []
    headers, ratios = live_ratios(LIVE)
    said = [f"{spoken(domain)} {span(ratio, 3, sign='')} on {ratio['prompts']} prompts" for _, domain, ratio in ratios]
    return [f"live in {headers[0]['conditions']['dtype']}, times the base draft's tokens a second: {', '.join(said)}"]


def speed() -> str:
    """Live, a row a draft and domain: tokens a second against the base draft's on the same prompts, of each run."""
    rows, found = [], []
    for file, headers, ratios in ratios_of_runs((LIVE, LIVE_CALLS, LIVE_SHIPPED, LIVE_PROSE)):
        found += headers
        for draft, domain, ratio in ratios:
            cells = [str(ratio["prompts"]), span(ratio, 3, sign=""), speed_verdict(ratio)]
            rows.append([f"`{file.parent.name}`", f"`{draft}`", spoken(domain), *cells])
    if not rows:
        return "No draft of this study was run live so far."
    conditions = found[0]["conditions"]
    note = f"In {conditions['dtype']} at K = {conditions['k']}, {conditions['max_new_tokens']} tokens."
    header = ["run", "draft", "on", "n", "tokens a second over the base draft's", "by the rule above"]
    return f"{table(header, rows)}\n\n{note} {hardware([header['environment'] for header in found])}"


def live_in_words() -> str:
    """The draft to use, live, by test set, from the run of most of its prompts."""
    most: dict[str, dict] = {}
    dtype = ""
    for _, headers, ratios in ratios_of_runs((LIVE_SHIPPED, LIVE_PROSE)):
        dtype = headers[0]["conditions"]["dtype"]
        for draft, domain, ratio in ratios:
            if draft == TO_USE and (domain not in most or ratio["prompts"] > most[domain]["prompts"]):
                most[domain] = ratio
    if not most:
        return "The draft to use was not run live so far."
    said = [
        f"{speed_verdict(ratio)} on {ratio['prompts']} {spoken(domain)} prompts, {span(ratio, 3, sign='')}"
        for domain, ratio in most.items()
    ]
    what = f"Live in {dtype}, in tokens a second over the base draft's, `{TO_USE}` {'; it '.join(said)}."
    return f"{what} Every run is [in a table](#the-full-tables)."


OWN_PARTS: dict[str, Part] = {
    "answer": answer,
    "claims": claims,
    "figure square": square,
    "reading": reading,
    "claims by domain": claims_by_domain,
    "by loss": by_loss,
    "arms": arms,
    "beside": beside,
    "mixing in words": mixing_in_words,
    "shipped in words": shipped_in_words,
    "next in words": next_in_words,
    "live in words": live_in_words,
    "figure scaling": scaling,
    "larger": larger,
    "larger in words": larger_in_words,
    "chinese in words": chinese_in_words,
    "saving in words": saving_in_words,
    "expected": expected,
    "data": data,
    "queries": queries,
    "calls": calls,
    "own text": own_text,
    "ceilings": ceilings,
    "speed": speed,
}
PAGES: dict[Path, dict[str, Part]] = {OWN: OWN_PARTS, FRONT: {"row domains": row}}


def main() -> int:
    return run_pages(__doc__, PAGES, {SQUARE: draw_square, SCALING: draw_scaling})


if __name__ == "__main__":
    run(main)
