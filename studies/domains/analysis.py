"""Study 1's questions, asked of the rows that evaluate_acceptance.py wrote: its claims as ratios, the square, the scaling.

Reads acceptance.json and paired.jsonl of every folder in FOLDERS that has them, and the answers to function calls; writes
results/study.json. What is not measured yet is left out, and said. No torch.

A draft is what its metrics.json says it is: domain, whose prompts (the scenario), loss, whose text (offline, online), number of
answers. Two drafts are compared where they differ in one of these alone, on the prompts of their domain, paired. Whether
white-box beats black-box depends on the white-box loss, so that claim is asked of every one that was trained.

    python -m studies.domains.analysis
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from domains.function_calling import judged
from domains.leaks import leaks
from specdec.answers import read_answers
from specdec.comparison import PAIRED_KEYS, Measured, domain_of, joined
from specdec.intervals import mean_with_interval, ratio_with_interval
from specdec.models import load_tokenizer, named_model
from specdec.provenance import provenance, read_headers
from specdec.report import load
from specdec.terminal import Problem, put_json, run, say

HERE = Path("studies/domains")
LARGER = HERE / "results/whole"  # 125 to 500 answers, all test prompts
# Study 2's arms are trained on AT prompts: what they say of the claims is theirs to say here too.
FOLDERS = (HERE / "results", HERE / "results/same_family", LARGER, Path("studies/distillation/results"))
FIRST_LOSS = "kl"  # the white-box loss that was fixed first, before two drafts of a claim were measured; the paper's
LOSS = "tvdpp_position"  # that of this study's arms, since study 2's losses had been compared held out
BLACK_BOX = "nll"
SCENARIOS = {  # the source of a training prompt → the scenario of the paper
    "pairs": "I",
    "written": "I",
    "bfcl live": "I",
    "exam-style": "II",
    "bfcl curated": "II",
    "magpie": "III",
}
USUAL = (False, 128, None, 42)  # what this study's drafts have: not all weights, but this rank; no adapter before; random seed
ALONE = {"at": "at_pairs", "biology": "biology_users", "function_calling": "function_calling_users"}  # domain → its draft
MIXED, FIRST_SHIPPED = "mixed", "distilled_more"  # the draft of all three domains; that of AT and general prompts
ALL_TEXTS = "everything"  # of LARGER: that of all three domains and general prompts
SAVING = ("function_calling_once", "function_calling_60")  # fewer passes, more answers than its own draft has
NEXT = {  # a draft that goes on from another → the one that it might replace, and where both were measured
    "with_calls": (FIRST_SHIPPED, HERE / "results"),  # learnt what MIXED did
    "with_everything": ("with_calls", LARGER),
}
DOMAINS = ("at", "biology", "function_calling", "chinese")
# What two arms must have in common, but for the one field that a claim varies.
FIELDS = (
    "base_model",
    "verifier",
    "quantization",
    "domain",
    "scenario",
    "loss",
    "data",
    "answers",
    "passes",
    "temperature",
    "top_p",
    "max_new_tokens",
    "all_weights",
    "lora_r",
    "lora_alpha",
    "keep_rank",
    "from_adapter",
    "learning_rate",
    "warmup",
    "batch_size",
    "seed",
)
Contrast = tuple[str, str | None, str | None]  # a field, its value above the ratio's line, its value below
CLAIMS: dict[str, Contrast] = {  # None: the largest value and the smallest
    "offline over online": ("data", "offline", "online"),
    "white-box over black-box, by KL": ("loss", FIRST_LOSS, BLACK_BOX),
    "white-box over black-box, by TVD++": ("loss", LOSS, BLACK_BOX),
    "synthetic queries over queries as users ask": ("scenario", "III", "I"),
    "most data over least": ("answers", None, None),
}


# --- drafts -----------------------------------------------------------------------------------------------------------


def measured(folder: Path) -> list[dict]:
    """The distilled drafts that were measured in `folder`, none if nothing was.

    Each has FIELDS, `answers_sha256`, `folder` and `name`, `overlap` (test domain → prompt → base's and its own Σ min(p, q))
    and `passes_at_k` (test domain → base's and its own tokens per pass).

    Only prompts that the report is of: a draft has one change, here and on its own study's page.

    Raises:
        Problem: the report is not of these rows.
    """
    if not (folder / "acceptance.json").exists():
        return []
    report = load(folder / "acceptance.json")
    prompts = reported(folder, report)
    arms = []
    for name, settings in report["drafts"].items():
        if not settings or "answers_sha256" not in settings:  # the base draft, or one that did not learn from the verifier
            continue
        if settings.get("text", ["verifier"]) != ["verifier"]:  # study 2's: texts that the verifier only read are no scenario
            continue
        if study2_asks(settings) and name not in NEXT:
            continue
        overlap: dict[str, dict[str, tuple[float, float]]] = {}
        tokens: dict[str, tuple[float, float]] = {}
        for domain, rows in prompts.items():
            means = report["replayed"]["block_efficiency"][domain]["means"]
            if name in means:  # measured on all of the prompts
                overlap[domain] = {row["prompt"]: (row["overlap"]["base"], row["overlap"][name]) for row in rows}
                tokens[domain] = (means["base"], means[name])
        arm = {**fields_of(settings), "answers_sha256": settings["answers_sha256"], "folder": str(folder), "name": name}
        arm["steps"] = settings.get("steps")
        arms.append({**arm, "overlap": overlap, "passes_at_k": tokens})
    return arms


def study2_asks(settings: dict) -> bool:
    """Whether a draft is of study 2's questions alone: another size, another start, another random seed."""
    return (
        bool(settings.get("all_weights")),
        settings.get("lora_r"),
        settings.get("from_adapter"),
        settings.get("seed"),
    ) != USUAL


def reported(folder: Path, report: dict) -> dict[str, list[dict]]:
    """Domain → the rows of the prompts that `report` is of, those on which it has every one of its drafts.

    A folder may hold rows of other prompts too, which `evaluate_acceptance.py report --prompts … --per-type N` left out.

    Raises:
        Problem: they are not as many as the report counts.
    """
    rows = joined(Measured(folder / "paired.jsonl", PAIRED_KEYS).rows)
    groups = report["replayed"]["block_efficiency"]
    found: dict[str, list[dict]] = {}
    for domain in sorted({domain_of(row) for row in rows if row["source"] != "study0"}):
        drafts = groups.get(domain, {"means": {}})["means"].keys()
        found[domain] = [row for row in rows if domain_of(row) == domain and drafts <= row["overlap"].keys()]
        if domain not in groups or len(found[domain]) != groups[domain]["prompts"]:
            raise Problem(
                f"{folder}/acceptance.json is older than the rows of {domain}, or of some of them. "
                "Run evaluate_acceptance.py report with the options of its own command."
            )
    return found


def fields_of(settings: dict) -> dict:
    """FIELDS, from the settings in a metrics.json; several domains or scenarios are joined by a plus."""
    scenarios = {SCENARIOS.get(source, source) for source in settings.get("source", ["pairs"])}
    known = {"domain": " + ".join(settings["domain"]), "scenario": " + ".join(sorted(scenarios))}
    found = {field: known.get(field, settings.get(field)) for field in FIELDS}
    return {**found, "all_weights": bool(found["all_weights"])}  # older trainings leave it out


# --- the claims -------------------------------------------------------------------------------------------------------


def opponents(arms: list[dict], contrast: Contrast, domain: str) -> tuple[dict, dict] | None:
    """The two arms of `domain` that differ in the contrast's field alone, None where there are none.

    Losses, and whose text is learnt, are compared where both learnt from the same answers, not from equally many.
    Of several such pairs the one with most answers is taken, then that of scenario I, offline and of LOSS, then the first
    random seed. For the amount of data, the pair is the largest and the smallest.
    """
    field, above, below = contrast
    fixed = ["folder", *(name for name in FIELDS if name != field)]
    if field in ("loss", "data"):
        fixed.append("answers_sha256")
    pairs = []
    for top in arms:
        for bottom in arms:
            if top["domain"] != domain or any(top[name] != bottom[name] for name in fixed):
                continue
            wanted = (top[field], bottom[field]) == (above, below) if above else top["answers"] > bottom["answers"]
            if wanted:
                pairs.append((top, bottom))
    return min(pairs, key=preference, default=None)


def preference(pair: tuple[dict, dict]) -> tuple:
    top, bottom = pair
    usual = [top["scenario"] != "I", top["data"] != "offline", top["loss"] != LOSS]
    return (-top["answers"], bottom["answers"], *usual, top["seed"])


def claim_values(top: dict, bottom: dict, domain: str) -> list[tuple[float, float, float]]:
    """(base, below, above) of every prompt of `domain` that both were measured on."""
    values = []
    for prompt, (base, above) in top["overlap"].get(domain, {}).items():
        if prompt in bottom["overlap"].get(domain, {}):
            values.append((base, bottom["overlap"][domain][prompt][1], above))
    return values


def ratios(values: list[tuple[float, float, float]], seed: int) -> dict:
    """Ratio of levels and ratio of gains over the base draft, with their intervals over prompts, and the means."""
    base, below, above = (list(column) for column in zip(*values, strict=True))
    gains_above = [value - start for value, start in zip(above, base, strict=True)]
    gains_below = [value - start for value, start in zip(below, base, strict=True)]
    return {
        "prompts": len(values),
        "means": {"base": mean(base), "below": mean(below), "above": mean(above)},
        "levels": ratio_with_interval(above, below, seed),
        "gains": ratio_with_interval(gains_above, gains_below, seed),
    }


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def compared(arms: list[dict], contrast: Contrast, domain: str) -> tuple[dict, list[tuple[float, float, float]]] | None:
    """(the names and budgets of the two drafts of `contrast`, their values on `domain`), None where one is not measured."""
    found = opponents(arms, contrast, domain)
    values = claim_values(*found, domain) if found else []
    if not found or not values:
        return None
    top, bottom = found
    return {"above": top["name"], "below": bottom["name"], "answers": [top["answers"], bottom["answers"]]}, values


def claims(arms: list[dict], seed: int) -> dict[str, dict]:
    """Claim → its ratios in each domain that has the two arms, and over all of their prompts together."""
    result = {}
    for claim, contrast in CLAIMS.items():
        by_domain: dict[str, dict] = {}
        together: list[tuple[float, float, float]] = []
        for domain in DOMAINS:
            if found := compared(arms, contrast, domain):
                drafts, values = found
                by_domain[domain] = {**ratios(values, seed), **drafts}
                together += values
        result[claim] = {"domains": by_domain, "together": ratios(together, seed) if together else None}
    return result


def white_box_losses(arms: list[dict], seed: int) -> dict[str, list[dict]]:
    """Domain → the ratios over black-box of each white-box loss trained as `nll` was; FIRST_LOSS first, then rising.

    Of one folder, that of most losses: losses are compared at equal answers, on equal prompts.
    """
    result: dict[str, list[dict]] = {}
    for domain in DOMAINS:
        for folder in dict.fromkeys(arm["folder"] for arm in arms):
            rows = losses_over_black_box([arm for arm in arms if arm["folder"] == folder], domain, seed)
            if len(rows) > len(result.get(domain, [])):
                result[domain] = rows
    return result


def losses_over_black_box(arms: list[dict], domain: str, seed: int) -> list[dict]:
    rows = []
    for loss in sorted({arm["loss"] for arm in arms} - {BLACK_BOX}):
        if found := compared(arms, ("loss", loss, BLACK_BOX), domain):
            drafts, values = found
            rows.append({"loss": loss, **ratios(values, seed), **drafts})
    return sorted(rows, key=lambda row: (row["loss"] != FIRST_LOSS, row["levels"]["ratio"]))


# --- the square, and more data ----------------------------------------------------------------------------------------


def change(arm: dict, domain: str, seed: int) -> dict:
    """On one test domain: mean of base, change of the draft with its interval, tokens per pass of both."""
    pairs = arm["overlap"][domain].values()
    found = mean_with_interval([own - base for base, own in pairs], seed)
    base, own = arm["passes_at_k"][domain]
    return {"prompts": len(pairs), "base": mean([base for base, _ in pairs]), **found, "tokens_per_pass": [base, own]}


def described(arm: dict) -> dict:
    return {field: arm[field] for field in (*FIELDS, "folder", "name")}


def all_changes(arms: list[dict], seed: int) -> list[dict]:
    """Every arm, and its change on every domain that it was measured on."""
    return [{**described(arm), "on": {domain: change(arm, domain, seed) for domain in arm["overlap"]}} for arm in arms]


def square(changes: list[dict]) -> list[dict]:
    """The rows of the heat map: of each domain and scenario the offline arm of LOSS that was measured on most test sets; none
    that goes on from another draft, and none of LARGER: its rows are of about one budget, on the same prompts.

    Of equals the one with most answers.
    """
    arms = [arm for arm in changes if (arm["loss"], arm["data"]) == (LOSS, "offline")]
    rows = [arm for arm in arms if not arm["from_adapter"] and arm["folder"] != str(LARGER)]
    return largest(rows, ("base_model", "domain", "scenario"), lambda arm: len(arm["on"]))


def own_drafts(changes: list[dict]) -> list[dict]:
    """Of each domain alone and draft model, the `usual` arm that was measured on most prompts of the domain.

    Of equals the one with most answers.
    """
    return largest(filter(usual, changes), ("base_model", "domain"), lambda arm: arm["on"][arm["domain"]]["prompts"])


def largest(arms: Iterable[dict], fields: tuple[str, ...], size: Callable[[dict], int]) -> list[dict]:
    """Of arms equal in `fields` the one of the largest `size`, then with most answers; in the order of `fields`."""
    best: dict[tuple, dict] = {}
    for arm in sorted(arms, key=lambda arm: (size(arm), arm["answers"]), reverse=True):  # stable: of equals the first
        best.setdefault(tuple(arm[field] for field in fields), arm)
    return [best[key] for key in sorted(best)]


def usual(arm: dict) -> bool:
    """Of one domain, measured there, of scenario I, offline, by LOSS."""
    return (arm["loss"], arm["data"], arm["scenario"]) == (LOSS, "offline", "I") and arm["domain"] in arm["on"]


def scaling(changes: list[dict]) -> list[dict]:
    """The `usual` arms that differ in the number of answers alone, by domain; two sizes at least."""
    groups: dict[tuple, list[dict]] = {}
    for arm in filter(usual, changes):
        key = (arm["folder"], *(arm[field] for field in FIELDS if field != "answers"))
        groups.setdefault(key, []).append(arm)
    found = []
    for group in groups.values():
        domain = group[0]["domain"]
        if len(group) > 1:
            group.sort(key=lambda arm: arm["answers"])
            points = [{"answers": arm["answers"], **arm["on"][domain]} for arm in group]
            found.append({"domain": domain, "passes": group[0]["passes"], "points": points})
    return sorted(found, key=lambda one: (one["domain"], one["passes"]))


# --- one draft of several domains -------------------------------------------------------------------------------------


def named(arms: list[dict], name: str, folder: Path) -> dict | None:
    return next((arm for arm in arms if (arm["folder"], arm["name"]) == (str(folder), name)), None)


def against(arms: list[dict], name: str, other: str, folder: Path, tests: Iterable[str], seed: int) -> list[dict]:
    """A draft beside another on each test set of `folder` that both were measured on, paired: both changes, and how far apart
    they lie."""
    draft, own = named(arms, name, folder), named(arms, other, folder)
    rows = []
    for test in tests:
        if draft and own and test in draft["overlap"] and test in own["overlap"]:
            theirs = own["overlap"][test]
            gaps = [value - theirs[prompt][1] for prompt, (_, value) in draft["overlap"][test].items()]
            learnt = {field: {"alone": own[field], "draft": draft[field]} for field in ("answers", "steps")}
            changes = {"alone": change(own, test, seed), "draft": change(draft, test, seed)}
            rows.append({"on": test, "own": other, **learnt, **changes, "apart": mean_with_interval(gaps, seed)})
    return rows


def beside(arms: list[dict], name: str, folder: Path, seed: int, suffix: str = "") -> list[dict]:
    """A draft beside each domain's own (ALONE, with `suffix`), on that domain's prompts and on general ones."""
    found = []
    for domain, own in ALONE.items():
        rows = against(arms, name, f"{own}{suffix}", folder, (domain, "general"), seed)
        found += [{"domain": domain, **row} for row in rows]
    return found


# --- the data ---------------------------------------------------------------------------------------------------------


def calls(folder: Path) -> list[dict]:
    """Per file of answers and query type: how many of the answers to function calls parse as calls.

    `fitting` are those that name one of the row's tools with the arguments that it requires. Where no tool fits the query
    (live_irrelevance) an answer in prose is the right one.
    """
    found: dict[tuple[str, str], Counter[str]] = {}
    tokenizer = None
    for file in sorted([*folder.glob("*.jsonl"), *folder.glob("whole/*.jsonl")]):
        for row in read_answers(file):
            if not row.get("tools"):
                continue
            tokenizer = tokenizer or load_tokenizer(named_model(verifier_of(file)))
            text = tokenizer.decode(row["token_ids"], skip_special_tokens=True)
            counts = found.setdefault((str(file.relative_to(folder)), row["query_type"]), Counter())
            counts.update({"answers": 1, **judged(text, row["tools"])})
    return [{"file": file, "query_type": kind, **counts} for (file, kind), counts in sorted(found.items())]


def verifier_of(file: Path) -> str:
    return next(iter(read_headers(file).values()))["conditions"]["verifier"]


def ceilings() -> dict[str, dict[str, dict[str, float]]]:
    """Draft model → test domain → the verifier's mean mass on the tokens that the draft shares, and Σ min(p, q) of base.

    The second is at most the first.

    Of several reports, the one of most prompts of a domain counts.
    """
    reports = [load(folder / "acceptance.json") for folder in FOLDERS if (folder / "acceptance.json").exists()]
    found: dict[str, dict[str, dict[str, float]]] = {}
    most: Counter[tuple[str, str]] = Counter()
    for report in reports:
        draft = report["conditions"]["draft"]
        for group, mass in report["shared_mass"].items():
            prompts = report["replayed"]["block_efficiency"][group]["prompts"]
            if ":" not in group and not group.startswith("study0") and prompts > most[draft, group]:
                base = report["paired"][group]["means"]["base"]
                found.setdefault(draft, {})[group] = {"mass": mass, "overlap": base}
                most[draft, group] = prompts
    return found


def environments(folders: list[Path]) -> list[dict]:
    found: list[dict] = []
    for folder in folders:
        found += [one for one in load(folder / "acceptance.json")["measured"]["paired"] if one not in found]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=42, help="random seed of the bootstrap (default 42)")
    args = parser.parse_args()
    arms = [arm for folder in FOLDERS for arm in measured(folder)]
    changes = all_changes(arms, args.seed)
    used = sorted({Path(arm["folder"]) for arm in arms})
    settings = {"first_loss": FIRST_LOSS, "loss": LOSS, "seed": args.seed, "larger": str(LARGER)}
    result = {
        **provenance({**settings, "folders": [str(folder) for folder in used]}),
        "measured": environments(used),
        "claims": claims(arms, args.seed),
        "losses": white_box_losses(arms, args.seed),
        "arms": changes,
        "square": square(changes),
        "scaling": scaling(changes),
        "own": own_drafts(changes),
        "beside": {
            **{name: beside(arms, name, HERE / "results", args.seed) for name in (MIXED, FIRST_SHIPPED)},
            ALL_TEXTS: beside(arms, ALL_TEXTS, LARGER, args.seed, "_250"),
        },
        "saving": {
            name: against(arms, name, ALONE["function_calling"], HERE / "results", ("general", "function_calling"), args.seed)
            for name in SAVING
        },
        "crossed": against(arms, "biology_users_250", "at_pairs_250", LARGER, ("at", "biology"), args.seed),
        "next": {
            name: against(arms, name, other, folder, (*ALONE, "general"), args.seed) for name, (other, folder) in NEXT.items()
        },
        "ceilings": ceilings(),
        "leaks": {name: {"rows": found["rows"], "near": len(found["near"])} for name, found in leaks().items()},
        "calls": calls(HERE / "answers"),
    }
    put_json(result, str(HERE / "results/study.json"))
    open_claims = [claim for claim, found in result["claims"].items() if found["together"] is None]
    say(f"{len(arms)} drafts read; claims without two arms to compare: {', '.join(open_claims) or 'none'}")


if __name__ == "__main__":
    run(main)
