"""The tables and figures of study 1, and its row on the front page, from results/study.json (studies/domains/analysis.py).

python -m studies.domains.tables            draws the figures and fills the pages
python -m studies.domains.tables --check    exits 1 if a page and the results disagree
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from specdec.report import Part, hardware, interval, load, new_figure, picture, point, run_pages, span, table, zero_line
from specdec.terminal import run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path("studies/domains")
FRONT, OWN = Path("README.md"), HERE / "README.md"
STUDY, QUERIES = HERE / "results/study.json", HERE / "results/queries_*.json"
SQUARE, SCALING = HERE / "figures/square.png", HERE / "figures/scaling.png"
TESTS = ("at", "biology", "function_calling", "chinese", "general")  # the columns of the square
USUAL_DRAFT = "HuggingFaceTB/SmolLM2-135M-Instruct"
THEIRS = {
    "offline over online": "1.11 to 1.25",
    "white-box over black-box": "1.02 to 1.10",
    "synthetic queries over users' queries": "0.80 to 0.93",
    "most data over least": "above 1",
}
WHOSE = {"I": "users'", "II": "curated", "III": "synthetic"}  # the paper's scenarios
NONE_YET = "not measured"


def spoken(domain: str) -> str:
    return {"at": "AT"}.get(domain, domain.replace("_", " ")).replace("at + ", "AT + ")


def label(arm: dict) -> str:
    """A draft by what it learnt from: the domain of its prompts, and whose they were (the scenario)."""
    model = "" if arm["base_model"] == USUAL_DRAFT else f", {arm['base_model'].rpartition('/')[2]}"
    return f"{spoken(arm['domain'])} {arm['scenario']}{model}"


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


def claims_by_domain() -> str:
    rows = []
    for claim, found in load(STUDY)["claims"].items():
        for domain, one in found["domains"].items():
            means = [f"{one['means'][side]:.4f}" for side in ("base", "below", "above")]
            answers = " / ".join(str(count) for count in dict.fromkeys(one["answers"]))
            rows.append(
                [claim, spoken(domain), answers, str(one["prompts"]), *means, ratio(one["levels"]), ratio(one["gains"])]
            )
    if not rows:
        return "No domain has the two arms of a claim so far."
    return table(["claim", "on", "answers", "n", "base", "below", "above", "ratio of levels", "ratio of gains"], rows)


def verdict(claim: str, together: dict) -> str:
    """What the interval of the ratio of levels says, by the test that was fixed in advance."""
    low, high = together["levels"]["interval"] or (0, 2)
    synthetic = claim.startswith("synthetic")
    if low > 1:
        return "synthetic queries did better" if synthetic else "holds"
    if high < 1:
        return "synthetic queries reach less, as they say" if synthetic else "is reversed"
    return "no difference seen"


def answer() -> str:
    study = load(STUDY)
    said, waiting = [], []
    for claim, found in study["claims"].items():
        together = found["together"]
        if together is None:
            waiting.append(claim)
            continue
        where = ", ".join(map(spoken, found["domains"]))
        said.append(f"{claim}, on {where}: {verdict(claim, together)}, ratio of levels {ratio(together['levels'])}")
    claimed = "; ".join(said)
    parts = [f"**{claimed[:1].upper()}{claimed[1:]}.**"] if said else []
    gains = [own_gain(arm) for arm in study["square"] if arm["domain"] in arm["on"]]
    if gains:
        parts.append(f"Change of mean Σ min(p, q) on a draft's own domain: {'; '.join(gains)}.")
    if waiting:
        parts.append(f"Claims that wait for one of their two arms: {'; '.join(waiting)}.")
    return " ".join(parts)


def own_gain(arm: dict) -> str:
    change = arm["on"][arm["domain"]]
    rest = f", and {span(arm['on']['general'])} on general ones" if "general" in arm["on"] else ""
    return f"{label(arm)}, {arm['answers']} answers, {span(change)} on {change['prompts']} prompts{rest}"


def row() -> str:
    """The cell in the front page's table of studies."""
    study = load(STUDY)
    said = []
    for claim, found in study["claims"].items():
        if together := found["together"]:
            where = ", ".join(map(spoken, found["domains"]))
            said.append(f"{claim}: mean Σ min(p, q) is {ratio(together['levels'])} times as high on {where} prompts")
    gains = []
    for arm in study["square"]:
        if arm["domain"] in arm["on"]:
            learnt = f"{spoken(arm['domain'])} from {WHOSE.get(arm['scenario'], arm['scenario'])} queries"
            gains.append(f"{learnt} {span(arm['on'][arm['domain']])}")
    waiting = [] if said else ["No claim has both of its drafts yet"]
    return "; ".join([*waiting, *said, f"change of drafts on their own domain: {', '.join(gains)}"])


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
    """The square's summary in words: own domain against the others, and what was forgotten."""
    drafts = load(STUDY)["square"]
    own, others, forgot = [], [], []
    for arm in drafts:
        for domain, change in arm["on"].items():
            if domain in arm["domain"].split(" + "):
                own.append(change["mean"])
                continue
            others.append(change["mean"])
            if change["interval"] and change["interval"][1] < 0:
                forgot.append(f"{label(arm)} on {spoken(domain)}")
    count = f"{len(drafts)} draft{'s' if len(drafts) != 1 else ''}"
    lost = (
        f"Clearly below the base draft: {', '.join(forgot)}." if forgot else "Nowhere is a draft clearly below the base draft."
    )
    return (
        f"The square has {count} so far. Mean change on the domains that a draft learnt: {average(own)}; on the others: "
        f"{average(others)}. {lost}"
    )


def average(values: list[float]) -> str:
    return f"{sum(values) / len(values):+.4f}" if values else NONE_YET


def arms() -> str:
    rows = []
    for arm in load(STUDY)["arms"]:
        for domain in TESTS:
            if domain not in arm["on"]:
                continue
            change = arm["on"][domain]
            learnt = [label(arm), arm["loss"], arm["data"], str(arm["answers"])]
            base, tuned = change["tokens_per_pass"]
            values = [f"{change['base']:.4f}", f"{change['mean']:+.4f}", interval(change), f"{base:.2f} → {tuned:.2f}"]
            rows.append([*learnt, spoken(domain), str(change["prompts"]), *values])
    header = ["draft", "loss", "data", "answers", "on", "n", "base", "change", "95% interval", "tokens per pass, K = 4"]
    return table(header, rows)


# --- more data --------------------------------------------------------------------------------------------------------


def draw_scaling() -> Figure:
    found = load(STUDY)["scaling"]
    if not found:
        raise FileNotFoundError(2, "no two sizes", str(HERE / "drafts"))
    figure, (panel,) = new_figure(6, 3.5)
    for number, (domain, points) in enumerate(found.items()):
        sizes = [one["answers"] for one in points]
        means = [one["mean"] for one in points]
        bounds = [one["interval"] or [one["mean"]] * 2 for one in points]
        bars = [
            [middle - low for middle, (low, _) in zip(means, bounds, strict=True)],
            [high - middle for middle, (_, high) in zip(means, bounds, strict=True)],
        ]
        panel.errorbar(sizes, means, yerr=bars, capsize=3, label=spoken(domain), **point(number))
    zero_line(panel, horizontal=True)
    panel.set(xlabel="answers trained on", ylabel="change of mean Σ min(p, q)", xscale="log")
    panel.legend()
    return figure


def scaling() -> str:
    found = load(STUDY)["scaling"]
    if not found:
        return "No domain has drafts of two sizes so far."
    lines = []
    for domain, points in found.items():
        lines.append(f"{spoken(domain)}: " + ", ".join(f"{one['answers']} answers {span(one)}" for one in points))
    return picture(
        SCALING, OWN, f"Change of mean Σ min(p, q) on a draft's own domain by the answers trained on. {'; '.join(lines)}."
    )


# --- the data, the ceiling, the speed ---------------------------------------------------------------------------------


def data() -> str:
    found = load(STUDY)["leaks"]
    rows = [[f"`{name}`", str(one["rows"]), str(one["near"])] for name, one in found.items()]
    return table(["training file", "rows", "near an evaluation prompt of any domain"], rows)


def queries() -> str:
    """What generate_queries.py drew for scenario III: the filters, and the mix of what came."""
    rows, mixes = [], []
    for file in sorted(QUERIES.parent.glob(QUERIES.name)):
        found = load(file)
        domain = spoken(found["conditions"]["domain"])
        dropped = ", ".join(f"{reason} {count}" for reason, count in found["dropped"].items()) or "none"
        lengths = found["mix"]["characters"]
        cells = [str(found["draws"]), str(found["usable"]), dropped, f"{lengths['median']:.0f}", str(found["mix"]["questions"])]
        rows.append([domain, *cells])
        for name in ("first two words", "words of five letters or more, by prompts"):
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


def ceilings() -> str:
    found = load(STUDY)["ceilings"]
    domains = [domain for domain in TESTS if any(domain in masses for masses in found.values())]
    rows = []
    for draft, masses in found.items():
        cells = [f"{masses[domain]:.3f}" if domain in masses else NONE_YET for domain in domains]
        rows.append([draft.rpartition("/")[2], *cells])
    return table(["draft", *map(spoken, domains)], rows)


def speed() -> str:
    found = load(STUDY)["live"]
    rows = []
    for domain, speeds in found.items():
        for name, value in speeds["means"].items():
            change = speeds["changes"].get(name)
            rows.append([spoken(domain), name, str(speeds["prompts"]), f"{value:.2f}", span(change, 2) if change else "–"])
    if not rows:
        return "No draft of this study was run live so far."
    return table(["on", "draft", "n", "tokens/s", "change"], rows)


OWN_PARTS: dict[str, Part] = {
    "answer": answer,
    "claims": claims,
    "figure square": square,
    "reading": reading,
    "claims by domain": claims_by_domain,
    "arms": arms,
    "figure scaling": scaling,
    "data": data,
    "queries": queries,
    "calls": calls,
    "ceilings": ceilings,
    "speed": speed,
}
PAGES: dict[Path, dict[str, Part]] = {OWN: OWN_PARTS, FRONT: {"row domains": row}}


def main() -> int:
    return run_pages(__doc__, PAGES, {SQUARE: draw_square, SCALING: draw_scaling})


if __name__ == "__main__":
    run(main)
