"""The tables and the figure of study 2, and its row on the front page.

python -m studies.distillation.tables            draws the figure and fills the pages
python -m studies.distillation.tables --check    exits 1 if a page and the results disagree
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from specdec.files import read_jsonl
from specdec.intervals import mean_with_interval
from specdec.report import (
    Part,
    hardware,
    interval,
    load,
    new_figure,
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
from specdec.theory import speedup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path("studies/distillation")
FRONT, OWN = Path("README.md"), HERE / "README.md"
REPORT, ROWS, POSITIONS = (HERE / "results" / name for name in ("acceptance.json", "paired.jsonl", "positions.json"))
ENGINE = Path("studies/engine/results")  # live speeds, and what a step of either model takes
CURVES, LOSSES = HERE / "figures/curves.png", HERE / "figures/losses.png"
ADAPTERS, ARMS = Path("adapters"), HERE / "drafts"  # drafts that stay, and those of the comparisons
DECIDES = "kl"  # the draft of the test that was fixed in advance
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
LOSS_NAMES = ("kl", "reverse_kl", "js", "tvd", "tvdpp", "tvdpp_position", "tvdpp_sampled", "lk_alpha", "lk_lambda", "nll")
PAIR = "smollm2-qwen"  # as benchmark_decoding.py and speculative_decode.py name this pair
GOELS_K = (3, 5)  # the draft lengths of the paper's τ and MBSU
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


def shipped(report: dict) -> str | None:
    """The newest distilled draft that stays in the repository, but for the one that decides; None before it is measured."""
    found = [name for name in distilled(ADAPTERS) if name != DECIDES and name in report["drafts"]]
    return found[-1] if found else None


def shipped_in_words(report: dict) -> str:
    name = shipped(report)
    if name is None:
        return ""
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
    draft = shipped(report) or DECIDES
    change = group["changes"][draft]
    return (
        f"{report['drafts'][draft]['answers']} answers of the verifier {verdict(change)} it: mean Σ min(p, q) "
        f"{group['means']['base']:.4f} → {group['means'][draft]:.4f} on {group['prompts']} AT prompts, {span(change)}"
    )


# --- trainings --------------------------------------------------------------------------------------------------------


def distilled(folder: Path) -> dict[str, dict]:
    """name → metrics of every draft in `folder` that learnt from answers of the verifier."""
    found = {}
    for file in sorted(folder.glob("*/metrics.json")):
        metrics = load(file)
        if "answers_sha256" in metrics["settings"]:
            found[file.parent.name] = metrics
    if not found:
        raise FileNotFoundError(2, "not trained", str(folder))
    return found


def trainings() -> str:
    return training_table({**distilled(ADAPTERS), **distilled(ARMS)})


def training_table(drafts: dict[str, dict]) -> str:
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
        rows.append([name, settings["loss"], settings["data"], size, rate, *budget, minutes, *measured, written])
    header = ["draft", "loss", "data", "rank", "rate", "answers", "batch", "steps", "positions", "minutes"]
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
    """AT prompt → draft → its Σ min(p, q), of all runs together."""
    found: dict[str, dict[str, float]] = {}
    for measured in read_jsonl(ROWS):
        if measured.get("domain") == "at":
            found.setdefault(measured["prompt"], {}).update(measured["overlap"])
    return found


def difference(found: dict[str, dict[str, float]], draft: str, other: str) -> dict:
    """Mean over the AT prompts of both of draft − other in Σ min(p, q), paired, with its interval; `found` of `overlaps`."""
    both = [drafts for drafts in found.values() if draft in drafts and other in drafts]
    return mean_with_interval([drafts[draft] - drafts[other] for drafts in both], seed=42)


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
    """What the divergences that are neither TV nor forward KL say of the reason; nothing before both are measured."""
    measured, drafts, found = by_gain(), equal_budget(), overlaps()
    others = ("reverse_kl", "js")
    if not {"kl", "tvd", *others} <= set(measured):
        return ""
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


def shipped_draft() -> str:
    """The draft that ships; FileNotFoundError before it is measured."""
    name = shipped(load(REPORT))
    if name is None:
        raise FileNotFoundError(2, "not measured", str(ROWS))
    return name


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
    arm = equal_budget().get(report["drafts"][draft]["loss"])
    changes = report["paired"]["at"]["changes"]
    if arm not in changes:
        return ""
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
    missing = missing_domains()
    left_out = f"\n\nNo report holds {' or '.join(missing)} prompts." if missing else ""
    return f"{table(header, rows)}\n\nThe ceiling is the verifier's mass on shared tokens. {hardware(environments)}{left_out}"


def missing_domains() -> list[str]:
    known = by_domain()
    return [words for domain, words in DOMAINS.items() if domain not in known]


def elsewhere() -> str:
    """What the draft that ships does on prompts of a kind that it was not trained on."""
    draft, said = shipped_draft(), []
    for domain, (group, _, _) in by_domain().items():
        if domain not in LEARNT:
            change = group["changes"][draft]
            said.append(f"on {group['prompts']} {DOMAINS[domain]} prompts it {moved(change)}: {span(change)}")
    if not said:
        return (
            "Prompts of other domains: nothing is claimed. In the paper every fine-tuned draft fell below the base draft there "
            "(translation); no report here holds such prompts."
        )
    return (
        "Out of distribution the paper's fine-tuned drafts all fell below the base draft (translation). Ours, trained on "
        f"AT and general answers: {'; '.join(said)}."
    )


def moved(change: dict) -> str:
    """What the interval says of a change against the base draft."""
    low, high = change["interval"] or (-1.0, 1.0)
    return "gained" if low > 0 else "lost" if high < 0 else "did not measurably change"


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
    """In words: does the gain hold at temperatures that the draft did not learn at?"""
    draft, found = shipped_draft(), by_temperature()
    learnt_at = load(REPORT)["drafts"][draft]["temperature"]
    said = []
    for temperature, report in found.items():
        if temperature != learnt_at:
            group = report["paired"]["at"]
            change = group["changes"][draft]
            said.append(f"at {temperature:g} it {moved(change)} on {group['prompts']} AT prompts, {span(change)}")
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


# --- speed, by formula --------------------------------------------------------------------------------------------------


def benchmarks() -> dict[str, dict]:
    """backend → `steps` (seconds a step of draft, verifier, and verifier over five tokens) and `environment`.

    Of several benchmarks of this pair, the one that decoded with the draft that ships, else that of most prompts.
    """
    draft = shipped_draft()
    found: dict[str, tuple[tuple, dict]] = {}
    for file in sorted(ENGINE.glob("*.json")):
        result = load(file)
        if result.get("pair") != PAIR or "rows" not in result:
            continue
        prompts = len({row["prompt"] for row in result["rows"]})
        rank = (draft in result["conditions"].get("drafts", {}), prompts)
        for backend, steps in timed_steps(result).items():
            if backend not in found or rank > found[backend][0]:
                found[backend] = (rank, {"steps": steps, "environment": result["environment"]})
    return {backend: known for backend, (_, known) in found.items()}


def timed_steps(result: dict) -> dict[str, dict]:
    """backend → its seconds a step, from a benchmark of one backend (its summary) or of several (about each)."""
    if isinstance(result.get("summary"), dict):
        return {result["conditions"].get("backend", "transformers"): result["summary"]["seconds_per_step"]}
    about = result.get("about") or {}
    return {peer: known["seconds_per_step"] for peer, known in about.items() if "draft" in known.get("seconds_per_step", {})}


def cost_ratio(benchmark: dict) -> float:
    return benchmark["steps"]["draft"] / benchmark["steps"]["verifier"]


def wide_pass(benchmark: dict) -> float:
    """A verifier pass over five tokens, in passes over one."""
    return benchmark["steps"]["verifier_of_5"] / benchmark["steps"]["verifier"]


def pass_cost(benchmark: dict, k: int) -> float:
    """A verifier pass over K + 1 tokens in passes over one: a straight line through the two widths that were timed, 1 and 5.

    Never below 1: that a wider pass took less is run-to-run variation.
    """
    return max(1.0, 1 + (wide_pass(benchmark) - 1) * k / 4)


def by_formula(report: dict, timed: dict[str, dict], domain: str, draft: str, k: int) -> dict[str, float]:
    """The speed-up over the plain verifier, by name of the formula; τ is replayed from the stored texts.

    `timed` is that of `benchmarks`.
    """
    tau = report["replayed_by_k"][str(k)][domain][draft]
    counts = report["parameters"]
    found = {"MBSU": speedup(tau, k, counts["draft"] / counts["verifier"])}
    for backend, benchmark in timed.items():
        c = cost_ratio(benchmark)
        found[f"{backend}, c"] = speedup(tau, k, c)
        found[f"{backend}, c and width"] = tau / (c * k + pass_cost(benchmark, k))
    return {"tokens per pass": tau, **found}


def formula_table() -> str:
    report, timed, draft = load(REPORT), benchmarks(), shipped_draft()
    rows = []
    for domain in LEARNT:
        for k in sorted(int(length) for length in report["replayed_by_k"]):
            base, tuned = (by_formula(report, timed, domain, name, k) for name in ("base", draft))
            rows.append([DOMAINS[domain], str(k), *(f"{base[name]:.2f} → {tuned[name]:.2f}" for name in base)])
    header = ["prompts", "K", *by_formula(report, timed, LEARNT[0], draft, 1)]
    return f"{table(header, rows)}\n\nEach cell: base → {draft}. {costs_in_words(report, timed)}"


def costs_in_words(report: dict, timed: dict[str, dict]) -> str:
    counts = report["parameters"]
    said = [f"{counts['draft'] / counts['verifier']:.3f} by parameters (MBSU)"]
    environments = []
    for backend, benchmark in timed.items():
        c, wide = cost_ratio(benchmark), wide_pass(benchmark)
        said.append(f"{c:.3f} by measured time with {backend}, where a pass over five tokens took {wide:.2f} of one over one")
        environments.append(benchmark["environment"])
    measured = f" {hardware(environments)}" if environments else ""
    return (
        f"A draft step costs c verifier steps: {'; '.join(said)}. `c` takes a pass over K + 1 tokens to cost one over a single "
        f"token; `c and width` takes its time from a line through the two widths that were timed, never below that of one."
        f"{measured}"
    )


def formula_in_words() -> str:
    """The paper's τ and MBSU, and the best K by measured time."""
    report, timed, draft = load(REPORT), benchmarks(), shipped_draft()
    said = []
    for k in GOELS_K:
        tau, factor = (report[metric][str(k)]["at"] for metric in ("tau", "mbsu"))
        said.append(
            f"at γ = {k}, τ {tau['means']['base']:.2f} → {tau['means'][draft]:.2f}, {span(tau['changes'][draft], 2)}, and MBSU "
            f"{factor['means']['base']:.2f} → {factor['means'][draft]:.2f}"
        )
    best = [best_length(report, timed, draft, backend) for backend in timed]
    return f"By formula, AT prompts: {'; '.join(said)}. {' '.join(best)}".rstrip()


def best_length(report: dict, timed: dict[str, dict], draft: str, backend: str) -> str:
    lengths = sorted(int(length) for length in report["replayed_by_k"])
    words = []
    for name in ("base", draft):
        factors = {k: by_formula(report, timed, "at", name, k)[f"{backend}, c and width"] for k in lengths}
        best = max(lengths, key=lambda k: factors[k])
        words.append(f"`{name}` {factors[best]:.2f} at K = {best}")
    return f"With what a step and a wide pass took with {backend}, each draft at its best K: {', '.join(words)}."


# --- break-even ---------------------------------------------------------------------------------------------------------


def live_runs() -> dict[str, list[dict]]:
    """backend → the runs that decoded prompts of this pair with the draft that ships; of several results the most prompts.

    A run has `prompt`, `draft` (None: the verifier alone), `k`, `tokens` and `seconds`.
    """
    found: dict[str, list[dict]] = {}
    for backend, runs in [*benchmark_runs(), *decoded_runs(), *evaluated_runs()]:
        if shipped_draft() in {one["draft"] for one in runs}:
            prompts = len({one["prompt"] for one in runs})
            if backend not in found or prompts > len({one["prompt"] for one in found[backend]}):
                found[backend] = runs
    return found


def is_shipped(adapters: dict[str, str | None]) -> bool:
    """Is what `adapters` (name → path) calls by the shipped draft's name that draft?"""
    draft = shipped_draft()
    return adapters.get(draft) == load(REPORT)["drafts"][draft]["path"]


def benchmark_runs() -> Iterator[tuple[str, list[dict]]]:
    """Of benchmark_decoding.py: every backend that took the draft that ships."""
    for file in sorted(ENGINE.glob("*.json")):
        result = load(file)
        if result.get("pair") == PAIR and "rows" in result and is_shipped(result["conditions"].get("drafts", {})):
            for backend in dict.fromkeys(row["peer"] for row in result["rows"]):
                yield backend, [row for row in result["rows"] if row["peer"] == backend]


def decoded_runs() -> Iterator[tuple[str, list[dict]]]:
    """Of speculative_decode.py --mode compare."""
    for file in sorted(ENGINE.glob("*.json")):
        result = load(file)
        pair = result.get("pair")
        if "runs" not in result or not isinstance(pair, dict) or pair.get("name") != PAIR:
            continue
        if is_shipped(result["conditions"].get("adapters", {})):
            yield pair.get("backend", "transformers"), [named(one, result["conditions"]["k"]) for one in result["runs"]]


def evaluated_runs() -> Iterator[tuple[str, list[dict]]]:
    """Of evaluate_acceptance.py live."""
    file = REPORT.parent / "live.jsonl"
    if file.exists():
        rows = list(read_jsonl(file))
        conditions = rows[0]["conditions"]
        backend = "int8" if conditions["dtype"] == "int8" else "transformers"
        if is_shipped(conditions["drafts"]):
            yield backend, [named(row, conditions["k"]) for row in rows if "seconds" in row]


def named(decoded: dict, k: int) -> dict:
    """A run that calls the verifier alone a draft of that name, as the others write it."""
    return {**decoded, "draft": None, "k": 0} if decoded["draft"] == "verifier" else {**decoded, "k": k}


def seconds_a_token(runs: list[dict], draft: str | None) -> tuple[int, dict[str, float]]:
    """The draft length at which this draft was fastest, and there: prompt → seconds a token, a mean over random seeds."""
    spent: dict[int, dict[str, list[float]]] = {}
    for one in runs:
        if one["draft"] == draft and one["tokens"]:
            spent.setdefault(one["k"], {}).setdefault(one["prompt"], []).append(one["seconds"] / one["tokens"])
    means = {}
    for k, prompts in spent.items():
        means[k] = {prompt: sum(values) / len(values) for prompt, values in prompts.items()}
    if not means:
        return 0, {}
    best = min(means, key=lambda k: sum(means[k].values()) / len(means[k]))
    return best, means[best]


def saved(runs: list[dict], draft: str, rival: str | None) -> dict | None:
    """Seconds a token that `draft` saves against `rival`, each at its fastest K: mean over prompts, interval, both K.

    None where no prompt was decoded with both.
    """
    (k, tuned), (rivals_k, other) = seconds_a_token(runs, draft), seconds_a_token(runs, rival)
    values = [other[prompt] - tuned[prompt] for prompt in tuned if prompt in other]
    if not values:
        return None
    return {"prompts": len(values), "k": k, "rivals_k": rivals_k, **mean_with_interval(values, seed=42)}


def training_cost(runs: list[dict], draft: str) -> tuple[float, float, int, int]:
    """(seconds of training, seconds of writing the answers at most, answers, their tokens).

    generate_answers.py keeps no seconds. The bound is the time that the verifier alone takes for so many tokens in `runs`, one
    text at a time; it wrote them in batches, which is faster.
    """
    metrics = distilled(ADAPTERS)[draft]
    lengths = []
    for file in sorted((HERE / "answers").glob("*.jsonl")):
        if str(file) in metrics["command"]:
            lengths += [len(row["token_ids"]) for row in read_jsonl(file) if "token_ids" in row]
    wanted = sum(metrics["rows"].values())
    if len(lengths) != wanted:
        raise Problem(f"{draft} was trained on {wanted} answers, and its files hold {len(lengths)}. Train it again.")
    plain = list(seconds_a_token(runs, None)[1].values())
    writing = sum(lengths) * sum(plain) / len(plain) if plain else 0.0
    return metrics["seconds"], writing, len(lengths), sum(lengths)


def paid_after(change: dict, cost: float) -> str:
    """After how many generated tokens `cost` seconds are saved, if it was shown that any are."""
    seconds = f"{change['mean'] * 1000:+.1f} ms a token"
    if change["interval"] is None:
        if change["mean"] <= 0:
            return f"{seconds} on one prompt: nothing is saved there"
        word = f"after {cost / change['mean']:,.0f} tokens"
        return f"{seconds} on one prompt, which has no interval: never shown (taken at its word, {word})"
    low, high = change["interval"]
    spread = f"{seconds} ({low * 1000:+.1f} to {high * 1000:+.1f}) on {change['prompts']} prompts"
    if high < 0:
        return f"{spread}: never, it costs time"
    if low <= 0:
        return f"{spread}: the interval includes zero, so that it pays was never shown"
    return f"{spread}: after {cost / change['mean']:,.0f} tokens ({cost / high:,.0f} to {cost / low:,.0f})"


def break_even() -> str:
    found, draft = live_runs(), shipped_draft()
    if not found:
        return "When the training has paid for itself is open: no result holds a live run with the draft that ships."
    training, _, answers, tokens = training_cost(next(iter(found.values())), draft)
    said = [
        f"**After how many tokens has the training paid?** It took {training:,.0f} s. What writing its {answers} answers "
        f"({tokens:,} tokens) took was not recorded: at most what the verifier alone takes for so many tokens, one text at a "
        "time, in the runs that are compared. Saved by the draft that ships, live, every draft at the K of its fewest seconds "
        "a token:",
        "",
    ]
    for backend, runs in found.items():
        training, writing, *_ = training_cost(runs, draft)
        for rival in ("base", None):
            if change := saved(runs, draft, rival):
                other = f"the base draft at K = {change['rivals_k']}" if rival else "the verifier alone"
                paid = paid_after(change, training + writing)
                said.append(
                    f"- {backend}, K = {change['k']}, against {other}, {training + writing:,.0f} s to earn back: {paid}."
                )
    return "\n".join(said)


# --- what is open -------------------------------------------------------------------------------------------------------


def still_open() -> str:
    """What the study asked for and the results do not hold, in words."""
    metrics = [one["settings"] for one in {**distilled(ADAPTERS), **distilled(ARMS)}.values()]
    measured, found = by_gain(), by_temperature()
    parts = [f"the loss `{loss}`" for loss in LOSS_NAMES if loss not in measured]
    parts += [f"{words} prompts" for words in missing_domains()]
    parts += [f"temperature {temperature:g}" for temperature in TEMPERATURES if temperature not in found]
    if all(settings["data"] == "offline" for settings in metrics):
        parts.append("the draft's own text (online, mixed)")
    if not any(settings.get("from_adapter") for settings in metrics):
        parts.append("distillation after DPO, or before it")
    if len({settings["seed"] for settings in metrics}) == 1:
        parts.append("a second random seed")
    live = [saved(runs, shipped_draft(), "base") for runs in live_runs().values()]
    if not any(change and change["interval"] for change in live):
        parts.append("live speed on more than one prompt")
    return f"Without a measurement here: {', '.join(parts)}." if parts else "Every part that the study asked for is measured."


OWN_PARTS: dict[str, Part] = {
    "answer": answer,
    "paired": paired,
    "figure losses": losses_figure,
    "figure curves": curves,
    "losses": losses,
    "came": came,
    "reading": reading,
    "ceiling": ceiling,
    "where in words": where_in_words,
    "elsewhere": elsewhere,
    "temperatures": temperatures,
    "speed in words": formula_in_words,
    "break-even": break_even,
    "open": still_open,
    "domains": domain_table,
    "temperature table": temperature_table,
    "where": where,
    "speed by formula": formula_table,
    "trainings": trainings,
}
PAGES: dict[Path, dict[str, Part]] = {OWN: OWN_PARTS, FRONT: {"row distillation": row}}


def main() -> int:
    return run_pages(__doc__, PAGES, {CURVES: draw_curves, LOSSES: draw_losses})


if __name__ == "__main__":
    run(main)
