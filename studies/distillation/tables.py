"""The tables and the figure of study 2, and its row on the front page.

python -m studies.distillation.tables            draws the figure and fills the pages
python -m studies.distillation.tables --check    exits 1 if a page and the results disagree
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import studies.distillation.small_tests as small_tests
import studies.distillation.speed as speed
from specdec.files import read_jsonl
from specdec.report import (
    Part,
    difference,
    hardware,
    interval,
    load,
    new_figure,
    overlaps_of,
    percent,
    picture,
    point,
    run_pages,
    span,
    table,
    verdict,
    zero_line,
)
from specdec.terminal import Problem, run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path("studies/distillation")
FRONT, OWN = Path("README.md"), HERE / "README.md"
REPORT, ROWS, POSITIONS = (HERE / "results" / name for name in ("acceptance.json", "paired.jsonl", "positions.json"))
CURVES, LOSSES = HERE / "figures/curves.png", HERE / "figures/losses.png"
ADAPTERS, ARMS = Path("adapters"), HERE / "drafts"  # drafts that stay, and those of the comparisons
DECIDES, SHIPS = "kl", "distilled"  # the draft of the test that was fixed in advance, and the one that ships
BUDGET = ("answers_sha256", "data", "steps", "batch_size", "all_weights", "lora_r", "learning_rate", "from_adapter", "seed")
PREDICTIONS = [  # two losses, and what the page's theory said of them before any was trained
    ("tvd", "kl", "Said: TV alone learns slowest from a draft that is far away."),
    ("tvdpp", "tvd", "Said: no difference that Adam sees."),
    ("tvdpp_position", "tvd", "Said: TV with weights by position; not which is better."),
    ("lk_alpha", "tvd", "Said: far positions count more; not whether that helps."),
    ("lk_lambda", "tvd", "Said: KL where the draft is far, TV where it is close."),
    ("nll", "kl", "Said: the same on average over texts, noisier."),
    ("tvdpp_sampled", "tvdpp", "Said: the same on average, with the noise of sampled tokens."),
    ("reverse_kl", "kl", "Said: more weight on tokens that q over-rates; not whether that helps."),
    ("js", "kl", "Said: more weight on tokens that q over-rates; not whether that helps."),
]
DOMAINS = {"at": "AT", "general": "general", "translation": "translation", "code_chat": "code"}  # as a page calls them
LEARNT = ("at", "general")  # the domains that the draft that ships was trained on
TEMPERATURES = (0.0, 0.7, 1.0)
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
    return (
        f"**On {group['prompts']} AT prompts, distillation by forward KL {verdict(change)} the acceptance probability of the "
        f"draft: mean Σ min(p, q) {group['means']['base']:.4f} → {group['means'][DECIDES]:.4f}, a paired change of "
        f"{span(change)}.** On general prompts {span(general)}. {shipped_in_words(report)} The ceiling, the verifier's mass "
        f"on tokens that the draft shares, is {report['shared_mass']['at']:.3f}."
    )


def shipped(report: dict) -> str:
    """The distilled draft that ships.

    Raises:
        FileNotFoundError: it is not measured yet.
    """
    if SHIPS not in report["drafts"]:
        raise FileNotFoundError(2, "not measured", str(ROWS))
    return SHIPS


def shipped_draft() -> str:
    return shipped(load(REPORT))


def shipped_in_words(report: dict) -> str:
    name = shipped(report)
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
    draft = shipped(report)
    change = group["changes"][draft]
    return (
        f"{report['drafts'][draft]['answers']} answers of the verifier {verdict(change)} it: mean Σ min(p, q) "
        f"{group['means']['base']:.4f} → {group['means'][draft]:.4f} on {group['prompts']} AT prompts, {span(change)}"
        f"{speed.live_in_short(draft)}"
    )


# --- trainings --------------------------------------------------------------------------------------------------------


def distilled(folder: Path) -> dict[str, dict]:
    """name → metrics of every draft in `folder` that learnt from this study's answers; others stand on another page."""
    found = {}
    for file in sorted(folder.glob("*/metrics.json")):
        metrics = load(file)
        if "answers_sha256" in metrics["settings"] and f"{HERE}/answers" in metrics["command"]:
            found[file.parent.name] = metrics
    if not found:
        raise FileNotFoundError(2, "not trained", str(folder))
    return found


def all_distilled() -> dict[str, dict]:
    """`distilled` of both folders.

    Raises:
        Problem: a name stands in both.
    """
    kept, arms = distilled(ADAPTERS), distilled(ARMS)
    if both := kept.keys() & arms.keys():
        raise Problem(f"{ADAPTERS} and {ARMS} both hold {', '.join(both)}. Rename one of the two.")
    return {**kept, **arms}


def writer(settings: dict) -> str:
    """Who wrote the texts that a draft learnt from."""
    stored = ", ".join(settings.get("text", ["verifier"]))  # older ones learnt from the verifier's alone
    return {"offline": stored, "online": "draft", "mixed": f"{stored}, draft"}[settings["data"]]


def trainings() -> str:
    drafts = all_distilled()
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
        rows.append([name, settings["loss"], writer(settings), size, rate, *budget, minutes, *measured, written])
    header = ["draft", "loss", "text of", "rank", "rate", "answers", "batch", "steps", "positions", "minutes"]
    header += ["held-out Σ min(p, q) before", "after", "as written"]
    return f"{table(header, rows)}\n\n{hardware([metrics['environment'] for metrics in drafts.values()])}"


# --- the losses at equal budget ---------------------------------------------------------------------------------------


def equal_budget() -> dict[str, str]:
    """loss → its draft, of the largest group of drafts that differ in their loss alone."""
    groups: dict[str, dict[str, str]] = {}
    for name, metrics in distilled(ARMS).items():
        budget = json.dumps([metrics["settings"].get(key) or None for key in BUDGET])  # older ones leave out what they lack
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
    changes, found = group["changes"], overlaps()
    rows = []
    for loss in by_gain():
        change = changes[drafts[loss]]
        behind = "–" if loss == best else span(difference(found, drafts[loss], drafts[best]))
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


def overlaps() -> dict[str, dict[str, float]]:
    return overlaps_of(ROWS, "at")


# --- whose text, and what of it is learnt -------------------------------------------------------------------------------

WRITERS = {"verifier": "the verifier's own", "chosen": "the answers that study 0 prefers", "draft": "the draft's own (online)"}
TARGETS = {"nll": "its likelihood", "tvdpp_position": "the verifier's probabilities on it"}


def by_text() -> dict[tuple[str, str], str]:
    """(who wrote the text, loss) → its draft, measured, of those that differ in these two alone from the losses' comparison."""
    metrics, measured = distilled(ARMS), load(REPORT)["paired"]["at"]["changes"]
    same = [key for key in (*BUDGET, "answers") if key not in ("answers_sha256", "data")]
    like = metrics[equal_budget()["tvdpp_position"]]["settings"]
    found = {}
    for name in measured.keys() & metrics.keys():
        settings = metrics[name]["settings"]
        if settings["loss"] in TARGETS and all((settings.get(key) or None) == (like.get(key) or None) for key in same):
            found[writer(settings), settings["loss"]] = name
    return {(who, loss): found[who, loss] for who in WRITERS for loss in TARGETS if (who, loss) in found}


def text_table() -> str:
    group, drafts, metrics = load(REPORT)["paired"]["at"], by_text(), distilled(ARMS)
    rows = []
    for (who, loss), name in drafts.items():
        change, trained = group["changes"][name], metrics[name]
        measured = [f"{change['mean']:+.4f}", interval(change), f"{change['rose']}/{group['prompts']}"]
        rows.append([WRITERS[who], TARGETS[loss], f"{trained['positions']:,}", f"{trained['seconds'] / 60:.0f}", *measured])
    header = ["text", "what of it is learnt", "positions", "minutes", "change on AT prompts", "95% interval", "rose on"]
    return f"{table(header, rows)}\n\n{hardware([metrics[name]['environment'] for name in drafts.values()])}"


def text_in_words() -> str:
    """The page's second test, by its rule."""
    drafts, found, changes = by_text(), overlaps(), load(REPORT)["paired"]["at"]["changes"]
    if not {("chosen", "nll"), ("chosen", "tvdpp_position")} <= drafts.keys():
        raise FileNotFoundError(2, "not measured", str(ROWS))
    likelihood, probabilities = drafts["chosen", "nll"], drafts["chosen", "tvdpp_position"]
    own = drafts["verifier", "tvdpp_position"]
    change, over = changes[probabilities], difference(found, probabilities, likelihood)
    behind = difference(found, probabilities, own)
    if change["interval"][0] > 0 and over["interval"][0] > 0:
        said = "it is the likelihood that does the harm, not the text"
    elif change["interval"][0] <= 0 and behind["interval"][1] < 0:
        said = "it is the text that does the harm"
    else:
        said = "neither is shown to do the harm"
    return (
        f"**By the rule above, {said}.** From the same texts of others, likelihood changed mean Σ min(p, q) by "
        f"{span(changes[likelihood])}, the verifier's probabilities on them by {span(change)}: {span(over)} between the two. "
        f"Against its probabilities on its own answers, {span(behind)}."
    )


def came() -> str:
    """What the theory predicted, beside what was measured at equal budget."""
    drafts, measured, found = equal_budget(), by_gain(), overlaps()
    said = []
    for one, other, words in PREDICTIONS:
        if one in measured and other in measured:
            said.append(f"- `{one}` − `{other}`: {span(difference(found, drafts[one], drafts[other]))}. {words}")
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
    best, worst = (f"`{loss}` {changes[drafts[loss]]['mean']:+.4f}" for loss in (order[0], order[-1]))
    return (
        f"The loss matters (the figure): one pass over the same {settings['answers']} answers, {settings['steps']} steps, one "
        f"rate, and on AT prompts it gave {best} or {worst}. Those whose gradient is the total variation's, up to a weight, "
        f"aim at Σ min(p, q) itself; KL and the text's likelihood fit all of p.{bounded()}{rival(report)}{rates()}"
    )


def bounded() -> str:
    """What the divergences that are neither TV nor forward KL say of the reason."""
    drafts, found = equal_budget(), overlaps()
    others = ("reverse_kl", "js")
    gains = {loss: difference(found, drafts[loss], drafts["kl"]) for loss in others}
    behind = {loss: difference(found, drafts[loss], drafts["tvd"]) for loss in others}
    words = [f"`{loss}` {span(gains[loss])} against `kl` and {span(behind[loss])} against `tvd`" for loss in others]
    said = f" Neither total variation nor forward KL: {'; '.join(words)}."
    if any(gains[loss]["interval"][0] <= 0 for loss in others):
        return said
    return (
        f"{said} So a loss need not be total variation. Forward KL and the likelihood punish most where q lacks what p has, "
        "and there a small draft can do least; the others punish it little. One training a loss cannot prove that this is the "
        "reason."
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


def chosen() -> str:
    """On which prompts the loss of the draft that ships was chosen, and what that makes of its numbers."""
    metrics, draft = all_distilled(), shipped_draft()
    arms = equal_budget()
    held_out = metrics[arms["kl"]]["rows"]["held_out"]
    before: list[str] = []
    later: list[str] = []
    for loss in sorted(arms, key=lambda loss: -metrics[arms[loss]]["held_out_overlap"]["after"]):
        arm = metrics[arms[loss]]
        then = arm["environment"]["commit"] == metrics[draft]["environment"]["commit"]
        (before if then else later).append(f"`{loss}` {arm['held_out_overlap']['after']:.4f}")
    rest = f" Those trained later reached {', '.join(later)}." if later else ""
    return (
        f"The loss of the draft that ships was chosen on held-out training prompts, not on those of the tables: Σ min(p, q) on "
        f"{held_out} answers, of the losses trained by then, was {', '.join(before)}.{rest} So few answers do not tell "
        f"neighbours apart. {first_measured(draft, set(arms.values()))}"
    )


def first_measured(draft: str, arms: set[str]) -> str:
    """Was the draft that ships there when an arm first met an evaluation prompt? By the runs in the paired rows, in order."""
    names: set[str] = set()
    for measured in read_jsonl(ROWS):
        if "conditions" in measured and not names & arms:
            names |= measured["conditions"]["drafts"].keys()
    if draft not in names:
        return "The arms met the evaluation prompts before that draft was there: its numbers on them may be optimistic."
    return (
        "No arm had met an evaluation prompt when that draft was trained, so its numbers there are no best of several. The "
        "first of the losses in the figure is one, and slightly optimistic for that."
    )


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


# --- how far the draft that ships has come ------------------------------------------------------------------------------


def reach(group: dict, draft: str, mass: float) -> tuple[float, float]:
    """(share of the reachable acceptance, share of the way from base to the ceiling): `mass` is the ceiling."""
    base, mean = group["means"]["base"], group["means"][draft]
    return mean / mass, (mean - base) / (mass - base)


def ceiling() -> str:
    """The learning curve and the ceiling, in words."""
    report, draft = load(REPORT), shipped_draft()
    said = []
    for domain in LEARNT:
        group, mass = report["paired"][domain], report["shared_mass"][domain]
        share, way = reach(group, draft, mass)
        said.append(
            f"on {DOMAINS[domain]} prompts {group['means'][draft]:.4f} of {mass:.4f}, {percent(share)} of what is reachable "
            f"and {percent(way)} of the way from the base draft"
        )
    return (
        f"How far is that? No draft of this vocabulary can pass the verifier's mass on shared tokens. `{draft}` stands "
        f"{'; '.join(said)}. {small_budget(report, draft)}{curve_in_words(draft)} This budget tried neither more text, nor a "
        "longer training, nor a larger draft."
    )


def small_budget(report: dict, draft: str) -> str:
    """What the arm of the same loss at the small budget had gained of it already."""
    arm = equal_budget()[report["drafts"][draft]["loss"]]
    changes = report["paired"]["at"]["changes"]
    small, large = (report["drafts"][name] for name in (arm, draft))
    share = changes[arm]["mean"] / changes[draft]["mean"]
    return (
        f"The first {small['answers']} answers and {small['steps']} steps gave {percent(share)} of the gain on AT prompts, "
        f"{large['answers']} answers and {large['steps']} steps all of it. "
    )


def curve_in_words(draft: str) -> str:
    points = held_out_curves()[draft]
    (first, start), (early, soon), (before, late), (last, end) = points[0], points[1], points[-2], points[-1]
    return (
        f"Held out, its curve rose by {soon - start:+.4f} from step {first} to {early} and by {end - late:+.4f} from step "
        f"{before} to {last}, where the rate had all but gone to zero, so the flat end is the schedule's too."
    )


# --- other prompts, other temperatures ----------------------------------------------------------------------------------


def reports() -> list[dict]:
    """The reports of this pair, sampling and precision, at any temperature, the main one first.

    Those of other prompts and temperatures stand in folders beside it.

    Raises:
        Problem: a report measured other weights under the name of the draft that ships.
    """
    main = load(REPORT)
    draft, found = shipped_draft(), [main]
    for file in sorted(REPORT.parent.glob("*/acceptance.json")):
        report = load(file)
        if measured_under(report) != measured_under(main):
            continue
        if report["adapters"].get(draft, main["adapters"][draft]) != main["adapters"][draft]:
            raise Problem(f"{file} measured another adapter under the name {draft}. Measure it again, or move it away.")
        found.append(report)
    return found


def measured_under(report: dict) -> dict:
    """What two reports must have in common to stand in one table; the temperature stands in it."""
    free = ("temperature", "k", "seed", "resamples")  # the last three are of the report, not of its rows
    return {name: value for name, value in report["conditions"].items() if name not in free}


def by_domain() -> dict[str, tuple[dict, float, dict]]:
    """domain → (its group, its ceiling, its report) at the main report's temperature, where the shipped draft is measured."""
    draft = shipped_draft()
    found: dict[str, tuple[dict, float, dict]] = {}
    temperature = load(REPORT)["conditions"]["temperature"]
    for report in reports():
        for domain in DOMAINS:
            group = report["paired"].get(domain)
            if group and draft in group["changes"] and report["conditions"]["temperature"] == temperature:
                found.setdefault(domain, (group, report["shared_mass"][domain], report))
    return found


def domain_table() -> str:
    """Base, DPO and the draft that ships on prompts like those of its training, and on others."""
    draft, rows, environments = shipped_draft(), [], []
    for domain, (group, mass, report) in by_domain().items():
        environments += [one for one in report["measured"]["paired"] if one not in environments]
        for name in ("base", "dpo", draft):
            if name not in group["means"]:
                continue
            share, _ = reach(group, name, mass)
            change = group["changes"].get(name)
            cells = [f"{change['mean']:+.4f}", interval(change)] if change else ["–", "–"]
            rows.append(
                [
                    DOMAINS[domain],
                    name,
                    str(group["prompts"]),
                    f"{group['means'][name]:.4f}",
                    *cells,
                    f"{mass:.4f}",
                    percent(share),
                ]
            )
    header = ["prompts", "draft", "n", "mean Σ min(p, q)", "change", "95% interval", "ceiling", "of what is reachable"]
    return f"{table(header, rows)}\n\nThe ceiling is the verifier's mass on shared tokens. {hardware(environments)}"


def elsewhere() -> str:
    """What the draft that ships does on prompts of a kind that it was not trained on."""
    draft, said = shipped_draft(), []
    for domain, (group, _, _) in by_domain().items():
        if domain not in LEARNT:
            change = group["changes"][draft]
            said.append(f"on {group['prompts']} {DOMAINS[domain]} prompts it {verdict(change)} acceptance, {span(change)}")
    return (
        "Out of distribution the paper's fine-tuned drafts all fell below the base draft (translation). Ours, trained on "
        f"AT and general answers: {'; '.join(said)}."
    )


def by_temperature() -> dict[float, dict]:
    """temperature → the report of AT and general prompts; one in a folder of its own comes before the main one."""
    draft, found = shipped_draft(), {}
    for report in reports():
        groups = report["paired"]
        if all(domain in groups and draft in groups[domain]["changes"] for domain in LEARNT):
            found[report["conditions"]["temperature"]] = report
    return dict(sorted(found.items()))


def temperature_table() -> str:
    draft, found = shipped_draft(), by_temperature()
    if len(found) < 2:
        only = ", ".join(f"{temperature:g}" for temperature in found)
        return f"The results hold temperature {only} alone, so there is nothing to set beside it."
    rows, environments = [], []
    for temperature, report in found.items():
        environments += [one for one in report["measured"]["paired"] if one not in environments]
        for domain in LEARNT:
            group, mass = report["paired"][domain], report["shared_mass"][domain]
            change = group["changes"][draft]
            means = [f"{group['means'][name]:.4f}" for name in ("base", draft)]
            of_reach = percent(reach(group, draft, mass)[0])
            cells = [str(group["prompts"]), *means, f"{change['mean']:+.4f}", interval(change), f"{mass:.4f}", of_reach]
            rows.append([f"{temperature:g}", DOMAINS[domain], *cells])
    header = ["temperature", "prompts", "n", "base", draft, "change", "95% interval", "ceiling", "of what is reachable"]
    greedy = "At temperature 0 the value is the share of positions where draft and verifier take the same token. "
    return f"{table(header, rows)}\n\n{greedy if 0.0 in found else ''}{hardware(environments)}"


def temperatures() -> str:
    """In words: does the gain hold, in each domain, at temperatures that the draft did not learn at?"""
    draft, found = shipped_draft(), by_temperature()
    learnt_at = load(REPORT)["drafts"][draft]["temperature"]
    said = []
    for temperature, report in found.items():
        if temperature == learnt_at:
            continue
        for domain in LEARNT:
            group = report["paired"][domain]
            change = group["changes"][draft]
            holds = {"raised": "the gain holds", "lowered": "it is a loss"}.get(verdict(change), "it is not shown to hold")
            said.append(f"at {temperature:g} {holds} on {group['prompts']} {DOMAINS[domain]} prompts, {span(change)}")
    if not said:
        return f"The draft learnt from answers at temperature {learnt_at:g}, and nothing is claimed of any other."
    return f"The draft learnt from answers at temperature {learnt_at:g}; {'; '.join(said)}."


# --- where in the answer ------------------------------------------------------------------------------------------------


def where() -> str:
    """Kinds of tokens and the first positions: how common, what the base draft reaches, what the shipped draft changes."""
    result, draft = load(POSITIONS), shipped_draft()
    rows = []
    for how in ("by_kind", "by_position"):
        at, general = (result[domain][how][draft] for domain in LEARNT)
        order = sorted(at.items(), key=lambda item: -item[1]["share"]) if how == "by_kind" else first_positions(at)
        for group, found in order:
            name = group if how == "by_kind" else f"tokens {group}"
            beside = span(general[group]["change"], 3) if group in general else "–"
            rows.append([name, percent(found["share"]), f"{found['base']:.3f}", span(found["change"], 3), beside])
    header = ["tokens", "share in AT answers", "base", f"change by {draft}, AT", "general"]
    prompts = " and ".join(f"{result[domain]['prompts']} {DOMAINS[domain]}" for domain in LEARNT)
    return f"{table(header, rows)}\n\n{prompts} prompts. {hardware(result['measured']['paired'])}"


def first_positions(groups: dict[str, dict]) -> list[tuple[str, dict]]:
    """The groups of positions in order, none that ends behind token 40."""
    found = [(int(name.split()[0]), name) for name in groups if int(name.split()[-1]) <= 40]
    return [(name, groups[name]) for _, name in sorted(found)]


def where_in_words() -> str:
    """Which kinds of tokens gained, which did not, and which the draft cannot propose."""
    result = load(POSITIONS)["at"]
    kinds = result["by_kind"][shipped_draft()]
    gained = [name for name, found in kinds.items() if found["change"]["interval"][0] > 0]
    same = [f"{name} {span(kinds[name]['change'], 3)}" for name in kinds if name not in gained]
    gained.sort(key=lambda name: -kinds[name]["change"]["mean"])
    said = [f"{name} {span(kinds[name]['change'], 3)}" for name in gained]
    rest = f" Without a clear gain: {', '.join(same)}." if same else ""
    return f"By kind of token, AT answers, those that gained, most first: {', '.join(said)}.{rest} {unnamed(result)}"


def unnamed(result: dict) -> str:
    """Whose tokens the draft's vocabulary lacks: why there is a ceiling."""
    counts = result["out_of_reach"]
    tokens, without = (sum(count[key] for count in counts.values()) for key in ("tokens", "without"))
    most = max(counts, key=lambda kind: counts[kind]["without"])
    of_kind = counts[most]
    return (
        f"For {percent(without / tokens)} of the tokens of these answers the draft's vocabulary has none: that is the ceiling. "
        f"{percent(of_kind['without'] / without)} of them are of the kind “{most}”, of which it lacks "
        f"{percent(of_kind['without'] / of_kind['tokens'])}."
    )


# --- speed --------------------------------------------------------------------------------------------------------------


def speed_by_formula() -> str:
    return speed.formula_table(load(REPORT), shipped_draft(), {domain: DOMAINS[domain] for domain in LEARNT})


def speed_in_words() -> str:
    return speed.formula_in_words(load(REPORT), shipped_draft())


def live() -> str:
    return speed.live_in_words(shipped_draft(), {domain: DOMAINS[domain] for domain in LEARNT})


def break_even() -> str:
    draft = shipped_draft()
    return speed.break_even(load(REPORT), draft, distilled(ADAPTERS)[draft])


# --- what is open -------------------------------------------------------------------------------------------------------


def still_open() -> str:
    """What the study asked for and the results do not hold, in words."""
    settings = [metrics["settings"] for metrics in all_distilled().values()]
    found = by_temperature()
    parts = [f"temperature {temperature:g}" for temperature in TEMPERATURES if temperature not in found]
    if all(one["data"] == "offline" for one in settings):
        parts.append("the draft's own text (online, mixed)")
    if not any(one.get("from_adapter") for one in settings):
        parts.append("distillation after DPO, or before it")
    if len({one["seed"] for one in settings}) == 1:
        parts.append("a second random seed")
    if not parts:
        return "Every part that the study asked for is measured, in the sizes of the tables."
    return f"Without a measurement here: {', '.join(parts)}."


OWN_PARTS: dict[str, Part] = {
    "answer": answer,
    "paired": paired,
    "figure losses": losses_figure,
    "figure curves": curves,
    "losses": losses,
    "text in words": text_in_words,
    "text": text_table,
    "came": came,
    "reading": reading,
    "chosen": chosen,
    "ceiling": ceiling,
    "where in words": where_in_words,
    "elsewhere": elsewhere,
    "temperatures": temperatures,
    "capacity in words": small_tests.capacity_in_words,
    "capacity": small_tests.capacity,
    "mixed in words": small_tests.mixed_in_words,
    "order in words": small_tests.order_in_words,
    "seed in words": small_tests.seed_in_words,
    "speed in words": speed_in_words,
    "live": live,
    "break-even": break_even,
    "open": still_open,
    "domains": domain_table,
    "temperature table": temperature_table,
    "where": where,
    "speed by formula": speed_by_formula,
    "trainings": trainings,
}
PAGES: dict[Path, dict[str, Part]] = {OWN: OWN_PARTS, FRONT: {"row distillation": row}}


def main() -> int:
    return run_pages(__doc__, PAGES, {CURVES: draw_curves, LOSSES: draw_losses})


if __name__ == "__main__":
    run(main)
