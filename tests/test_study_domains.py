"""Study 1: which drafts a claim compares, its ratios, what stands on the page when a part, all or nothing is measured."""

import json
import random
import re
from pathlib import Path

import pytest

from specdec.files import write_jsonl
from specdec.terminal import Problem
from studies.domains import analysis, tables
from studies.domains.analysis import (
    CLAIMS,
    all_changes,
    claims,
    fields_of,
    measured,
    opponents,
    own_drafts,
    scaling,
    square,
    white_box_losses,
)

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {
    "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "domain": ["biology"],
    "source": ["written"],
    "loss": analysis.LOSS,
    "data": "offline",
    "answers": 40,
    "answers_sha256": "0" * 64,
    "passes": 2.0,
    "lora_r": 128,
    "seed": 42,
}
DRAWN = {
    "conditions": {"domain": "biology"},
    "draws": 96,
    "usable": 64,
    "dropped": {"too short": 20, "near another query": 12},
    "mix": {
        "characters": {"shortest": 12, "median": 41.0, "longest": 99},
        "questions": 60,
        "first two words": {"how do": 40, "what is": 20},
        "words of five letters or more, by prompts": {"cells": 9},
    },
}
GAINS = {"users": 0.03, "nll": 0.02, "kl": 0.015, "synthetic": 0.027, "online": 0.01, "more": 0.05}


def settings_of(name: str) -> dict:
    changed = {
        "users": {},
        "nll": {"loss": "nll"},
        "kl": {"loss": "kl"},
        "synthetic": {"source": ["magpie"]},
        "online": {"data": "online"},
        "more": {"answers": 120, "answers_sha256": "1"},
        "others": {"text": ["chosen"]},
        "rank 16": {"lora_r": 16},
        "seed 43": {"seed": 43},
        "mixed": {"domain": ["at", "biology"], "source": ["pairs", "written"]},
    }
    return {**SETTINGS, **changed[name]}


def write_results(folder: Path, domain: str, drafts: dict[str, dict], gains: dict[str, float]) -> Path:
    """A results folder in which `drafts` (name → settings) were measured on 20 prompts of `domain` and 20 general ones."""
    rng = random.Random(0)
    conditions = {"drafts": {"base": None, **{name: name for name in drafts}}, "adapters": {}}
    header = {"run_id": "a", "command": "python x", "conditions": conditions, "environment": {"commit": "c" * 40}}
    rows = []
    for number in range(40):
        asked, base = (domain, "general")[number % 2], rng.uniform(0.4, 0.7)
        gained = 1 if asked == domain else -0.5
        overlap = {name: base + gained * gains.get(name, 0.01) + rng.gauss(0, 0.001) for name in drafts}
        values = {"base": base, **overlap}
        row = {"prompt": f"{asked} {number}?", "domain": asked, "query_type": "technical", "source": "written"}
        rows.append({**row, "overlap": values, "kept": {name: [0.5] for name in values}, "run_id": "a"})
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "paired.jsonl", [header, *rows])
    means = {"base": 2.0, **dict.fromkeys(drafts, 2.5)}
    report = {
        "conditions": {"draft": SETTINGS["base_model"]},
        "drafts": {"base": None, "dpo": {"loss": "dpo", "path": "x"}, **drafts},
        "replayed": {"block_efficiency": {asked: {"prompts": 20, "means": means} for asked in (domain, "general")}},
        "measured": {"paired": []},
        "shared_mass": {domain: 0.95},
        "paired": {domain: {"means": {"base": 0.5}}},
    }
    (folder / "acceptance.json").write_text(json.dumps(report))
    return folder


@pytest.fixture
def folder(tmp_path):
    """`folder(names)` → a results folder in which these drafts were measured on 20 biology and 20 general prompts."""

    def write(names: list[str]) -> Path:
        return write_results(tmp_path, "biology", {name: settings_of(name) for name in names}, GAINS)

    return write


def test_drafts_are_described_by_their_fields(folder):
    arms = measured(folder(["users", "mixed", "others", "rank 16", "seed 43"]))
    assert [(arm["name"], arm["domain"], arm["scenario"], arm["answers"]) for arm in arms] == [
        ("users", "biology", "I", 40),
        ("mixed", "at + biology", "I", 40),
    ], "neither base, nor a draft that learnt from pairs, nor one from others' texts, nor study 2's own questions"
    assert {domain: len(prompts) for domain, prompts in arms[0]["overlap"].items()} == {"biology": 20, "general": 20}
    old = {name: value for name, value in SETTINGS.items() if name != "source"}
    assert fields_of({**old, "domain": ["at"]})["scenario"] == "I", "trained before sources were kept: study 0's prompts"
    assert fields_of(settings_of("synthetic"))["scenario"] == "III"
    assert measured(folder([]).parent / "nowhere") == []


def test_a_report_that_is_older_than_its_rows_is_refused(folder):
    """Its tokens per pass would be of other prompts than Σ min(p, q)."""
    results = folder(["users"])
    report = json.loads((results / "acceptance.json").read_text())
    del report["replayed"]["block_efficiency"]["general"]
    (results / "acceptance.json").write_text(json.dumps(report))
    with pytest.raises(Problem, match="acceptance.json is older than the rows of general"):
        measured(results)


def test_only_the_prompts_of_the_report_count(folder):
    """As in study 2: one draft was measured on prompts that the report leaves out, and has one change on both pages."""
    results = folder(["users", "nll"])
    lines = (results / "paired.jsonl").read_text().splitlines()
    other = json.loads(lines[-1])
    other["prompt"], other["overlap"] = "another general one?", {"base": 0.1, "users": 0.9}
    (results / "paired.jsonl").write_text("\n".join([*lines, json.dumps(other)]) + "\n")
    for arm in measured(results):
        assert len(arm["overlap"]["general"]) == 20 and other["prompt"] not in arm["overlap"]["general"]
    other["overlap"]["nll"] = 0.5
    (results / "paired.jsonl").write_text("\n".join([*lines, json.dumps(other)]) + "\n")
    with pytest.raises(Problem, match="acceptance.json is older than the rows of general, or of some"):
        measured(results)


def test_a_claim_compares_drafts_that_differ_in_its_field_alone(folder):
    arms = measured(folder(list(GAINS)))
    names = {claim: opponents(arms, contrast, "biology") for claim, contrast in CLAIMS.items()}
    assert {claim: (found[0]["name"], found[1]["name"]) for claim, found in names.items()} == {
        "offline over online": ("users", "online"),
        "white-box over black-box, by KL": ("kl", "nll"),
        "white-box over black-box, by TVD++": ("users", "nll"),
        "synthetic queries over queries as users ask": ("synthetic", "users"),
        "most data over least": ("more", "users"),
    }
    online, white_box = CLAIMS["offline over online"], CLAIMS["white-box over black-box, by TVD++"]
    synthetic, amount = CLAIMS["synthetic queries over queries as users ask"], CLAIMS["most data over least"]
    assert opponents(arms, online, "at") is None
    assert opponents([{**arm, "passes": arm["answers"]} for arm in arms], amount, "biology") is None
    for field, value in {"from_adapter": "dpo", "all_weights": True, "verifier": "another", "top_p": 0.9}.items():
        other = [{**arm, field: value} if arm["name"] == "nll" else arm for arm in arms]
        assert opponents(other, white_box, "biology") is None, field
    others = [{**arm, "answers_sha256": "1"} if arm["name"] in ("nll", "synthetic", "more") else arm for arm in arms]
    assert opponents(others, white_box, "biology") is None, "equally many answers, but not the same"
    assert opponents(others, synthetic, "biology") is not None
    assert opponents(others, amount, "biology") is not None
    apart = [{**arm, "folder": arm["name"]} for arm in arms]
    assert opponents(apart, online, "biology") is None, "the base draft was measured under other conditions"


def test_the_ratios_are_those_of_the_gains(folder):
    found = claims(measured(folder(["users", "synthetic"])), seed=0)
    assert found["offline over online"] == {"domains": {}, "together": None}
    one = found["synthetic queries over queries as users ask"]["domains"]["biology"]
    assert one["prompts"] == 20 and one["above"] == "synthetic" and one["below"] == "users"
    assert one["gains"]["ratio"] == pytest.approx(0.027 / 0.03, abs=0.03)
    assert one["levels"]["ratio"] == pytest.approx(one["means"]["above"] / one["means"]["below"])
    assert one["levels"]["interval"][1] < 1 and one["gains"]["interval"][0] > 0.8
    assert found["synthetic queries over queries as users ask"]["together"]["prompts"] == 20


def test_every_white_box_loss_is_asked_the_first_one_first(folder):
    arms = measured(folder([name for name in GAINS if name != "synthetic"]))
    better = [arm for arm in arms if arm["name"] == "users"][0]["overlap"]
    less = {domain: {prompt: (base, own - 0.002) for prompt, (base, own) in found.items()} for domain, found in better.items()}
    arms += [{**arm, "name": "tvd", "loss": "tvd", "overlap": less} for arm in arms if arm["name"] == "users"]
    found = white_box_losses(arms, seed=0)
    assert [row["loss"] for row in found["biology"]] == ["kl", "tvd", analysis.LOSS]
    first, best = found["biology"][0], found["biology"][-1]
    assert first["levels"]["interval"][1] < 1 < best["levels"]["interval"][0]
    assert first["gains"]["ratio"] == pytest.approx(0.015 / 0.02, abs=0.05)
    assert (first["above"], first["below"], first["answers"]) == ("kl", "nll", [40, 40])
    assert white_box_losses([arm for arm in arms if arm["loss"] != "nll"], seed=0) == {}


def test_the_square_shows_forgetting_and_scaling_needs_two_sizes(folder):
    changes = all_changes(measured(folder([*GAINS, "mixed"])), seed=0)
    rows = square(changes)
    assert [(row["domain"], row["scenario"], row["name"]) for row in rows] == [
        ("at + biology", "I", "mixed"),
        ("biology", "I", "more"),
        ("biology", "III", "synthetic"),
    ]
    assert rows[1]["on"]["biology"]["mean"] == pytest.approx(0.05, abs=0.002)
    assert rows[1]["on"]["general"]["interval"][1] < 0 < rows[1]["on"]["biology"]["interval"][0]
    assert sizes_of(changes) == {"biology": [40, 120]}
    assert scaling([row for row in changes if row["name"] != "more"]) == []
    assert [row["name"] for row in own_drafts(changes)] == ["more"], "as many prompts, more answers"


def sizes_of(changes: list[dict]) -> dict[str, list[int]]:
    return {one["domain"]: [point["answers"] for point in one["points"]] for one in scaling(changes)}


def test_larger_budgets_are_no_row_of_the_square_and_one_of_their_own(folder, monkeypatch):
    changes = all_changes(measured(folder(["users", "more"])), seed=0)
    users, more = sorted(changes, key=lambda row: row["answers"])
    large = {**more, "folder": str(analysis.LARGER), "name": "biology_users_120"}
    large["on"] = {name: {**change, "prompts": 120} for name, change in more["on"].items()}
    assert [row["name"] for row in square([users, large])] == ["users"]
    assert [row["name"] for row in own_drafts([users, more, large])] == ["biology_users_120"], "more prompts"
    crossed = [{"on": "at", "apart": {"mean": -0.01, "interval": [-0.02, -0.005]}}]
    conditions = {"loss": analysis.LOSS, "larger": str(analysis.LARGER)}
    study = {"arms": [users, large], "conditions": conditions, "crossed": crossed}
    monkeypatch.setattr(tables, "load", lambda file: study)
    assert tables.larger().count("| biology I |") == 1 and "| biology I | 120 | not measured | +0.0" in tables.larger()
    assert "these TVD++ drafts forget: biology I of 120**, on 120 general prompts. Biology's" in tables.larger_in_words()
    assert tables.larger_in_words().endswith("AT's of as many: -0.0100 (-0.0200 to -0.0050) on AT.")
    large["on"]["general"] = {**large["on"]["general"], "interval": [-0.1, 0.1]}
    assert "no TVD++ draft was seen to forget" in tables.larger_in_words()
    monkeypatch.setattr(tables, "load", lambda file: {"arms": [users], "conditions": conditions})
    assert tables.larger_in_words() == "Nothing is measured at larger budgets so far."
    assert tables.larger() == "No draft of so many answers is measured so far."


def test_what_hangs_on_the_loss_is_said_of_all_domains_where_both_losses_have_them():
    def asked(**ratios: float) -> dict:
        sides = {name: {"levels": {"ratio": at, "interval": [at - 0.01, at + 0.01]}} for name, at in ratios.items()}
        return {"domains": {name: one for name, one in sides.items() if name != "together"}, "together": sides["together"]}

    kl, tvdpp = (f"{tables.WHITE_BOX}, by {loss}" for loss in ("KL", "TVD++"))
    claims = {kl: asked(at=0.95, biology=0.9, together=0.92), tvdpp: asked(at=1.1, biology=1.05, together=1.08)}
    said = "by KL 0.920 (0.910 to 0.930), by TVD++ 1.080 (1.070 to 1.090) on AT and biology"
    assert tables.by_the_loss(claims) == said
    claims[kl] = asked(at=0.95, biology=1.2, together=1.1)
    assert tables.by_the_loss(claims) == "", "over all domains both lie above 1"
    claims[kl] = asked(biology=0.9, at=0.95, together=0.92)
    del claims[tvdpp]["domains"]["biology"]
    assert tables.by_the_loss(claims).endswith(" on AT"), "where both were asked"
    assert tables.by_the_loss({}) == ""


def test_losses_are_compared_within_one_folder(folder):
    arms = measured(folder(["kl", "nll", "users"]))
    two = [{**arm, "folder": "larger", "answers": 250} for arm in arms if arm["loss"] in ("kl", "nll")]
    (rows,) = white_box_losses(two + arms, seed=0).values()
    assert [row["loss"] for row in rows] == ["kl", analysis.LOSS] and {tuple(row["answers"]) for row in rows} == {(40, 40)}


def test_what_saves_function_calling(monkeypatch):
    def gains(gain: float) -> list[tuple[float, float]]:
        return [(0.5, 0.5 + gain + 0.001 * number * (-1) ** number) for number in range(4)]

    alone = arm_of("function_calling_users", function_calling=gains(0.17), general=gains(-0.02))
    more = arm_of("function_calling_60", function_calling=gains(0.18), general=gains(0.01))
    results = analysis.HERE / "results"
    rows = analysis.against([alone, more], more["name"], alone["name"], results, ("general", "function_calling"), seed=0)
    monkeypatch.setattr(tables, "load", lambda file: {"saving": {"function_calling_60": rows, "function_calling_once": []}})
    words = tables.saving_in_words()
    assert "`function_calling_60` saves it: on general prompts +0.0095 (" in words and "once" not in words
    assert " against `function_calling_users`, on its own +0.1795 (" in words
    rows[0]["apart"] = {"mean": 0.01, "interval": [-0.01, 0.03]}
    assert "`function_calling_60` was not shown to save it" in tables.saving_in_words()
    rows.clear()
    assert tables.saving_in_words() == "Not asked so far."


def test_the_rule_on_chinese(monkeypatch):
    arm = {"name": tables.CHINESE, "on": {"chinese": {"mean": 0.02, "interval": [0.01, 0.03], "prompts": 120}}}
    monkeypatch.setattr(tables, "load", lambda file: {"arms": [arm]})
    assert "draft can learn Chinese" in tables.chinese_in_words() and "+0.0200 (" in tables.chinese_in_words()
    arm["on"]["chinese"]["interval"] = [-0.01, 0.05]
    assert "was not shown to be able to learn Chinese" in tables.chinese_in_words()
    del arm["on"]["chinese"]
    assert tables.chinese_in_words() == "Chinese from 250 answers is not measured so far."


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ([0.94, 0.96], "less, but by less than theirs"),
        ([0.90, 0.96], "less, as they say"),
        ([0.98, 1.02], "no difference seen"),
        ([1.01, 1.02], "more"),
        (None, "no difference seen"),
    ],
)
def test_less_than_users_queries_and_as_much_less_as_theirs(interval, said):
    (claim,) = (name for name in tables.THEIRS if name.startswith("synthetic"))
    assert tables.claim_verdict(claim, {"levels": {"ratio": 1.0, "interval": interval}}) == said


def test_two_lines_of_one_domain_are_told_apart_by_their_passes():
    found = [{"domain": "at", "passes": 1}, {"domain": "biology", "passes": 2}, {"domain": "biology", "passes": 1}]
    assert [tables.series(one, found) for one in found] == ["AT", "biology, 2 passes", "biology, one pass"]


def test_the_square_prefers_the_draft_that_was_measured_more_widely(folder):
    changes = all_changes(measured(folder(["users", "more"])), seed=0)
    (more,) = [row for row in changes if row["name"] == "more"]
    del more["on"]["general"]
    assert [row["name"] for row in square(changes)] == ["users"]


def arm_of(name: str, **overlap: list[tuple[float, float]]) -> dict:
    """A measured arm of the study's folder: test set → base's and its own Σ min(p, q), a pair a prompt."""
    by_prompt = {test: {str(number): pair for number, pair in enumerate(pairs)} for test, pairs in overlap.items()}
    passes = dict.fromkeys(overlap, (2.0, 2.5))
    learnt = {"answers": 40, "steps": 20}
    return {"folder": str(analysis.HERE / "results"), "name": name, **learnt, "overlap": by_prompt, "passes_at_k": passes}


@pytest.mark.parametrize(
    ("general", "said"),
    [(0.02, "domains saves what function calling's own forgets**: on"), (-0.08, "is not shown to save")],
)
def test_the_mixed_draft_is_set_beside_each_domains_own(tmp_path, monkeypatch, general, said):
    def near(base: float, gain: float) -> list[tuple[float, float]]:
        return [(base, base + gain + 0.001 * number) for number in range(4)]

    alone = arm_of("function_calling_users", function_calling=near(0.5, 0.17), general=near(0.6, -0.02))
    mixed = arm_of("mixed", function_calling=near(0.5, 0.1), general=near(0.6, general))
    single = arm_of("biology_users_single", general=near(0.6, 0.03))
    elsewhere = {**mixed, "folder": "other", "overlap": {}}
    arms = [elsewhere, alone, mixed, single]
    found = analysis.beside(arms, "mixed", analysis.HERE / "results", seed=0)
    assert [(one["domain"], one["on"], one["own"]) for one in found] == [
        ("function_calling", "function_calling", "function_calling_users"),
        ("function_calling", "general", "function_calling_users"),
    ]
    assert found[0]["apart"]["mean"] == pytest.approx(-0.07) and found[0]["apart"]["interval"][1] < 0
    changes = [{"name": arm["name"], "on": {test: analysis.change(arm, test, 0) for test in arm["overlap"]}} for arm in arms]
    study = {"beside": {"mixed": found, "distilled_more": found, "other": found}, "arms": changes}
    monkeypatch.setattr(tables, "load", lambda file: study)
    words = tables.mixing_in_words()
    assert said in words and "on its own prompts, mixing: on function calling costs it something (-0.07" in words
    assert "steps of one answer are not enough to make a draft forget." in words
    assert (
        f"| `mixed` | `function_calling_users` | general | 40 / 40 | 20 / 20 | 4 | {general + 0.0015:+.4f}" in tables.beside()
    )
    words = tables.shipped_in_words()
    assert "not learnt: on function calling `distilled_more` changes it by +0.1015" in words and words.count("changes it") == 1


def test_own_texts_stand_on_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "OWN_TEXT", tmp_path / "own_text.json")
    assert tables.own_text() == "What the drafts write by themselves was not asked."
    found = {"verifier": {"texts": 2, "parse": 2, "fitting": 1}}
    found["online"] = {"texts": 2, "parse": 0, "fitting": 0, "own": ['\n```json\n{"name', "Leaves {"]}
    written = {"conditions": {"no_tool_fits": 1}, "environment": None, "found": found}
    tables.OWN_TEXT.write_text(json.dumps(written))
    page = tables.own_text()
    assert "| of the verifier | 2 | not kept | 2 | 1 |" in page and "To 1 of the prompts no tool fits." in page
    assert "| of the draft taught on its own text | 2 | 1 | 0 | 0 |" in page


@pytest.mark.parametrize(
    ("call", "at", "said"), [(0.1, -0.009, "should ship"), (0.1, -0.011, "should not"), (0.0, 0.0, "should not")]
)
def test_the_draft_with_calls_ships_where_it_costs_little(monkeypatch, call, at, said):
    def gains(gain: float) -> list[tuple[float, float]]:
        return [(0.5, 0.5 + gain + 0.001 * number * (-1) ** number) for number in range(4)]

    tests = {"at": 0.05, "biology": 0.05, "function_calling": 0.05, "general": 0.05}
    shipped = arm_of("distilled_more", **{test: gains(gain) for test, gain in tests.items()})
    more = {"function_calling": call, "at": at}
    calls = arm_of("with_calls", **{test: gains(gain + more.get(test, 0.0)) for test, gain in tests.items()})
    found = analysis.against([shipped, calls], "with_calls", "distilled_more", analysis.HERE / "results", tests, seed=0)
    assert [one["on"] for one in found] == list(tests) and found[2]["apart"]["mean"] == pytest.approx(call)
    monkeypatch.setattr(tables, "load", lambda file: {"next": {"with_calls": found, "other": []}})
    assert tables.next_in_words().startswith(f"**`with_calls` {said}")
    assert f"on 4 AT prompts {0.0495 + at:+.4f} (" in tables.next_in_words() and f", {at:+.4f} (" in tables.next_in_words()
    found.pop()
    assert tables.next_in_words() == "Not asked so far.", "a test set is missing"


def test_a_draft_that_goes_on_from_another_says_so(folder):
    arm = {**all_changes(measured(folder(["users"])), seed=0)[0], "from_adapter": "distilled_more"}
    assert tables.label(arm).endswith(", from distilled_more on") and square([arm]) == []


def test_nothing_is_said_of_a_mixed_draft_that_is_not_measured(monkeypatch):
    alone = arm_of("biology_users", biology=[(0.5, 0.6)] * 3)
    assert analysis.beside([alone], "mixed", analysis.HERE / "results", seed=0) == []
    single = {"name": "biology_users_single", "on": {"biology": {}}}
    monkeypatch.setattr(tables, "load", lambda file: {"beside": {"mixed": []}, "arms": [single]})
    assert tables.mixing_in_words() == "Neither is measured so far."
    assert tables.beside() == "One draft of several domains is not measured so far."
    assert tables.shipped_in_words() == "Not asked so far."


def test_the_drafts_of_the_first_parts_of_run_sh_fill_every_claim(tmp_path):
    """AT's are study 2's, beside those that this study adds to them: older trainings wrote fewer fields."""
    old = {
        **{name: value for name, value in SETTINGS.items() if name != "source"},
        "domain": ["at"],
        "answers": 64,
        "passes": 1,
    }
    new = {**old, "source": ["pairs"], "all_weights": False, "keep_rank": None}
    at = {
        "tvdpp_position": old,
        "nll": {**old, "loss": "nll"},
        "kl_1e-3": {**old, "loss": "kl"},
        "tvdpp_position_32_online": {**new, "data": "online", "answers": 32, "answers_sha256": "2"},
        "tvdpp_position_16": {**new, "answers": 16, "answers_sha256": "1"},
        "tvdpp_position_32": {**new, "answers": 32, "answers_sha256": "2"},
    }
    biology = {
        "biology_users": SETTINGS,
        "biology_users_nll": {**SETTINGS, "loss": "nll"},
        "biology_synthetic": {**SETTINGS, "source": ["magpie"], "answers_sha256": "3"},
    }
    commands = (ROOT / "studies/domains/run.sh").read_text()
    for name in [*list(at)[3:], *biology]:
        assert f" {name}=" in commands, f"run.sh does not measure {name}"
    arms = measured(write_results(tmp_path / "study2", "at", at, dict.fromkeys(at, 0.03)))
    arms += measured(write_results(tmp_path / "own", "biology", biology, dict.fromkeys(biology, 0.03)))
    found = claims(arms, seed=0)
    assert {claim: list(one["domains"]) for claim, one in found.items()} == {
        "offline over online": ["at"],
        "white-box over black-box, by KL": ["at"],
        "white-box over black-box, by TVD++": ["at", "biology"],
        "synthetic queries over queries as users ask": ["biology"],
        "most data over least": ["at"],
    }
    assert found["white-box over black-box, by TVD++"]["together"]["prompts"] == 40
    assert found["most data over least"]["domains"]["at"]["answers"] == [64, 16]
    changes = all_changes(arms, seed=0)
    assert sizes_of(changes)["at"] == [16, 32, 64]
    assert [row["name"] for row in square(changes)] == ["tvdpp_position", "biology_users", "biology_synthetic"]


def test_the_ceiling_is_that_of_most_prompts(tmp_path, monkeypatch):
    folders = [write_results(tmp_path / name, "at", {"users": SETTINGS}, {}) for name in ("few", "many")]
    for folder, prompts, mass in zip(folders, (8, 32), (0.5, 0.9), strict=True):
        report = json.loads((folder / "acceptance.json").read_text())
        report["replayed"]["block_efficiency"]["at"]["prompts"] = prompts
        report["shared_mass"] = {"at": mass}
        (folder / "acceptance.json").write_text(json.dumps(report))
    for order in (folders, folders[::-1]):
        monkeypatch.setattr(analysis, "FOLDERS", tuple(order))
        assert analysis.ceilings() == {SETTINGS["base_model"]: {"at": {"mass": 0.9, "overlap": 0.5}}}


def test_calls_are_counted(tmp_path, tiny, monkeypatch):
    from specdec.models import Model, load_tokenizer

    monkeypatch.setattr(analysis, "named_model", lambda name: Model(tiny.verifier))
    tokenizer = load_tokenizer(Model(tiny.verifier))
    tools = [{"type": "function", "function": {"name": "leaf", "parameters": {"required": ["color"]}}}]
    texts = ['{"name": "leaf", "arguments": {"color": "green"}}', '{"name": "leaf", "arguments": {}}', "Leaves are green."]
    header = {"run_id": "a", "command": "x", "conditions": {"verifier": "v"}, "environment": {}}
    rows = [header, {"prompt": "no tools", "token_ids": [5], "temperature": 0.7, "top_p": 1.0, "run_id": "a"}]
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        row = {"prompt": text, "tools": tools, "query_type": "live_simple", "token_ids": ids, "run_id": "a"}
        rows.append({**row, "temperature": 0.7, "top_p": 1.0})
    write_jsonl(tmp_path / "answers.jsonl", rows)
    counts = {"file": "answers.jsonl", "query_type": "live_simple", "answers": 3, "parse": 2, "fitting": 1}
    assert analysis.calls(tmp_path) == [counts]
    assert analysis.calls(tmp_path / "none") == []


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def page(tmp_path, folder, monkeypatch):
    """`page(names)` → the study's own page and the front page, filled where these drafts were measured."""

    def fill(cli, names: list[str]) -> tuple[str, str]:
        monkeypatch.setattr(analysis, "FOLDERS", (folder(names),) if names else ())
        monkeypatch.setattr(analysis, "leaks", lambda: {"biology_users.jsonl": {"rows": 600, "near": []}})
        monkeypatch.chdir(tmp_path)
        own = tmp_path / tables.OWN
        own.parent.mkdir(parents=True)
        for name in (tables.OWN, tables.FRONT):
            (tmp_path / name).write_text((ROOT / name).read_text())
        if names == list(GAINS):
            (own.parent / "results").mkdir()
            (own.parent / "results/queries_biology.json").write_text(json.dumps(DRAWN))
        assert cli(analysis)[0] == 0
        assert cli(tables)[0] == 0 and cli(tables, "--check")[0] == 0
        return own.read_text(), (tmp_path / tables.FRONT).read_text()

    return fill


def part(text: str, name: str) -> str:
    return re.search(rf"<!-- {name} -->(.*?)<!-- /{name} -->", text, re.DOTALL)[1]


def test_with_everything_measured_the_page_says_all(cli, page):
    own, front = page(cli, list(GAINS))
    table = part(own, "claims")
    assert table.count("| biology | 20 |") == 5 and "not measured" not in table
    said = part(own, "answer")
    assert "\n- **white-box over black-box: depends on the loss**, by KL 0.9" in said and ", by TVD++ 1.0" in said
    assert "\n- **offline over online: holds**, 1.0" in said and "as users ask: less, but by less than theirs**, 0.9" in said
    assert "not measured" not in said
    assert "Forgotten, on general prompts: by biology I" in part(own, "reading")
    assert "another: 0 of 2 changes clearly above zero, 2 clearly below" in part(own, "reading")
    assert "40 answers +0.0" in part(own, "figure scaling") and "](figures/scaling.png)" in part(own, "figure scaling")
    assert "| biology | 96 | 64 | too short 20, near another query 12 | 41 | 60 |" in part(own, "queries")
    assert "- biology, commonest first two words: how do 40, what is 20" in part(own, "queries")
    assert part(own, "arms").count("| biology I | nll | offline | 40 | 2 |") == 2
    assert part(own, "by loss").index("| `kl` | biology | 40 | 20 |") < part(own, "by loss").index(f"| `{analysis.LOSS}` |")
    assert "40 biology answers in 2 passes +0.0" in part(own, "expected") and "120 biology answers" in part(own, "expected")
    row = part(front, "row domains")
    assert row.startswith("Mean Σ min(p, q) as a ratio: white-box over black-box: depends on the loss, by KL 0.9")
    assert "change on a draft's own domain, learnt from queries written as users ask: biology +0.0" in row
    assert "synthetic queries: biology" not in row and "users' queries" not in row


def test_with_one_draft_a_part_says_what_is_missing_and_no_number(cli, page):
    own, front = page(cli, ["users"])
    assert part(own, "claims").count("| not measured | – | – | – |") == 5
    assert "- not measured: offline over online; white-box over black-box, by KL; white-box" in part(own, "answer")
    assert part(own, "figure scaling").strip() == "No domain has drafts of two sizes so far."
    assert "No claim has both of its drafts yet; change on a draft's own" in part(front, "row domains")
    assert part(own, "queries").strip() == "The verifier has written no queries so far."


def test_with_nothing_measured_no_number_is_made_up(cli, page):
    own, _ = page(cli, [])
    assert part(own, "claims").count("not measured") == 5
    assert (
        part(own, "reading").strip()
        == "The square has 0 drafts. On a domain that a draft learnt: not measured. On another: not measured."
    )
    assert "No draft of one domain" in part(own, "expected") and "No domain has a white-box draft" in part(own, "by loss")
    assert "Not measured yet" in part(own, "figure square")


def test_the_page_knows_every_claim_of_the_analysis():
    assert list(tables.THEIRS) == list(analysis.CLAIMS)


def test_live_runs_are_set_beside_the_base_draft(tmp_path, monkeypatch):
    """A row a draft and domain, of the prompts that both decoded; without runs no number."""
    monkeypatch.chdir(tmp_path)
    assert tables.speed() == "No draft of this study was run live so far." and tables.live_in_short() == []
    conditions = {"drafts": {"base": None, "mine": "x"}, "dtype": "int8", "k": 2, "max_new_tokens": 64}
    rows = []
    for number in range(3):
        for draft, seconds in (("base", 6.0), ("mine", 5.0)):
            rows.append({"prompt": f"p{number}", "domain": "biology", "draft": draft, "seconds": seconds, "tokens": 10})
    rows.append({"prompt": "alone", "domain": "biology", "draft": "mine", "seconds": 1.0, "tokens": 10})
    header = {"run_id": "a", "conditions": conditions, "environment": {"commit": "abcdef0123", "packages": None}}
    write_jsonl(tables.LIVE, [header, *rows])
    assert "| `mine` | biology | 3 | 1.200 (1.200 to 1.200) | makes decoding faster |" in tables.speed()
    calls = [{**row, "domain": "function_calling", "draft": row["draft"].replace("mine", "with_calls")} for row in rows]
    drafts = {"base": None, "with_calls": "x"}
    write_jsonl(tables.LIVE_CALLS, [{**header, "conditions": {**conditions, "drafts": drafts}}, *calls])
    assert "| `with_calls` | function calling | 3 | 1.200 (" in tables.speed() and "| `mine` |" in tables.speed()
    assert tables.live_in_words() == "The draft to use was not run live so far."
    used = [{**row, "draft": row["draft"].replace("mine", tables.TO_USE)} for row in rows]
    write_jsonl(
        tables.LIVE_SHIPPED, [{**header, "conditions": {**conditions, "drafts": {"base": None, tables.TO_USE: "x"}}}, *used]
    )
    said = f"`{tables.TO_USE}` makes decoding faster on 3 biology prompts, 1.200 (1.200 to 1.200). Every"
    assert said in tables.live_in_words()
    few = [{**row, "seconds": 6.0} for row in used if row["prompt"] == "p0"]
    write_jsonl(
        tables.LIVE_PROSE, [{**header, "conditions": {**conditions, "drafts": {"base": None, tables.TO_USE: "x"}}}, *few]
    )
    assert said in tables.live_in_words(), "the run of most prompts"
    (said,) = tables.live_in_short()
    assert said == "live in int8, times the base draft's tokens a second: biology 1.200 (1.200 to 1.200) on 3 prompts"
