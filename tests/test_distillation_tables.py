"""Study 2's page: what stands on it, what its sentences are computed from, and that it fills itself when rows arrive."""

import copy
import json
import re
import shutil
from pathlib import Path

import pytest

from specdec.files import write_jsonl
from specdec.losses import LOSSES
from specdec.terminal import Problem
from studies.distillation import speed, tables

ROOT = Path(__file__).resolve().parents[1]
DRAFT = "distilled"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """The study's files, to change, with the main report alone, and a benchmark that did not decode with the draft."""
    weights = shutil.ignore_patterns("*.safetensors")  # of the arms, where they were trained here: large, and not read
    shutil.copytree(ROOT / "studies/distillation", tmp_path / "studies/distillation", ignore=weights)
    shutil.copy(ROOT / "README.md", tmp_path / "README.md")
    for name in ("adapters", "final_adapter"):
        (tmp_path / name).symlink_to(ROOT / name)
    for folder in (tmp_path / "studies/distillation/results").glob("*/"):
        shutil.rmtree(folder)
    monkeypatch.chdir(tmp_path)
    speed.BENCHMARK.parent.mkdir(parents=True)
    speed.BENCHMARK.write_text(json.dumps({"conditions": {"drafts": {"base": None}}}))
    return tmp_path


def changed_group(group: dict, change: float, prompts: int = 24) -> dict:
    """The group with this change by the shipped draft, and an interval of ±0.01 about it."""
    new = copy.deepcopy(group)
    new["prompts"] = prompts
    new["means"][DRAFT] = new["means"]["base"] + change
    new["changes"][DRAFT] = {"mean": change, "interval": [change - 0.01, change + 0.01], "rose": 3}
    return new


def add_report(tree: Path, folder: str, groups: dict[str, float], **conditions) -> dict:
    """A report in a folder of its own: domain → change by the shipped draft, under changed conditions."""
    report = json.loads((tree / tables.REPORT).read_text())
    one = report["paired"]["at"]
    report["paired"] = {domain: changed_group(one, change) for domain, change in groups.items()}
    report["shared_mass"] = dict.fromkeys(groups, 0.9)
    report["conditions"].update(conditions)
    file = tree / tables.REPORT.parent / folder / "acceptance.json"
    file.parent.mkdir()
    file.write_text(json.dumps(report))
    return report


# --- other prompts ----------------------------------------------------------------------------------------------------


def test_prompts_of_other_domains_stand_beside_those_of_the_training(tree):
    report = add_report(tree, "out_of_domain", {"translation": -0.03, "code_chat": 0.02})
    base = report["paired"]["translation"]["means"]["base"]
    mean = base - 0.03
    row = f"| translation | {DRAFT} | 24 | {mean:.4f} | -0.0300 | -0.0400 to -0.0200 | 0.9000 | {mean / 0.9:.1%} |"
    shown = tables.domain_table()
    assert row in shown.splitlines() and "| code | dpo |" in shown and "| AT | base | 32 |" in shown
    words = tables.elsewhere()
    assert (
        "on 24 translation prompts it lowered acceptance, -0.0300 (-0.0400 to -0.0200)" in words
        and "code prompts it raised acceptance, +0.02" in words
    )


@pytest.mark.parametrize("conditions", [{"dtype": "bfloat16"}, {"verifier": "another"}, {"max_new_tokens": 100}])
def test_reports_of_other_conditions_are_left_out(tree, conditions):
    add_report(tree, "other", {"translation": 0.1}, **conditions)
    assert len(tables.reports()) == 1 and "translation" not in tables.by_domain()


def test_prompts_at_another_temperature_stand_in_no_table_of_domains(tree):
    add_report(tree, "temperature_1", {"translation": 0.1}, temperature=1.0)
    assert len(tables.reports()) == 2 and "translation" not in tables.by_domain()


def test_a_report_of_another_draft_length_is_of_the_same_rows(tree):
    add_report(tree, "other", {"translation": 0.1}, k=7)
    assert "translation" in tables.by_domain()


def test_other_weights_under_the_name_are_refused(tree):
    add_report(tree, "other", {"translation": 0.1})
    file = tree / tables.REPORT.parent / "other/acceptance.json"
    report = json.loads(file.read_text())
    report["adapters"][DRAFT] = "0" * 12
    file.write_text(json.dumps(report))
    with pytest.raises(Problem, match="another adapter under the name distilled"):
        tables.reports()


# --- other temperatures -----------------------------------------------------------------------------------------------


def test_temperatures_stand_in_order_with_the_share_of_their_own_ceiling(tree):
    add_report(tree, "temperature_1", {"at": 0.005, "general": 0.02}, temperature=1.0)
    add_report(tree, "temperature_0", {"at": 0.05, "general": -0.02}, temperature=0.0)
    lines = tables.temperature_table().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:8]] == ["| 0", "| 0", "| 0.7", "| 0.7", "| 1", "| 1"]
    assert "take the same token" in lines[-1] and " | 0.9000 | " in lines[2]
    words = tables.temperatures()
    assert "at 0 the gain holds on 24 AT prompts, +0.0500" in words and "at 0 it is a loss on 24 general prompts" in words
    assert "at 1 it is not shown to hold on 24 AT prompts" in words
    assert "temperature" not in tables.still_open()


def test_the_same_prompts_at_the_usual_temperature_come_before_the_main_report(tree):
    add_report(tree, "temperature_0.7", {"at": 0.04, "general": 0.01})
    assert tables.by_temperature()[0.7]["paired"]["at"]["prompts"] == 24
    add_report(tree, "temperature_1", {"at": 0.04}, temperature=1.0)
    assert 1.0 not in tables.by_temperature(), "general prompts are missing"


def test_one_temperature_alone_is_a_sentence(tree):
    assert "|" not in tables.temperature_table() and "0.7 alone" in tables.temperature_table()
    assert "nothing is claimed of any other" in tables.temperatures()
    assert "temperature 0, temperature 1" in tables.still_open()


# --- the ceiling, and where the draft gains ---------------------------------------------------------------------------


def test_how_far_the_draft_has_come(tree):
    report = json.loads((tree / tables.REPORT).read_text())
    group = changed_group(report["paired"]["at"], 0.1)
    mass = group["means"]["base"] + 0.4
    share, way = tables.reach(group, DRAFT, mass)
    assert way == pytest.approx(0.25) and share == pytest.approx(1 - 0.3 / mass)
    words = tables.ceiling()
    assert f"0.6455 of {report['shared_mass']['at']:.4f}" in words and "from step 60 to 72" in words


def test_kinds_of_tokens_are_told_apart_by_their_intervals(tree):
    file = tree / tables.POSITIONS
    result = json.loads(file.read_text())
    kinds = result["at"]["by_kind"][DRAFT]
    kinds["digits"]["change"] = {"mean": 0.5, "interval": [0.4, 0.6], "rose": 9}
    kinds["punctuation"]["change"] = {"mean": 0.5, "interval": [-0.1, 0.6], "rose": 9}
    result["at"]["out_of_reach"] = {"digits": {"tokens": 10, "without": 3}, "line break": {"tokens": 10, "without": 1}}
    file.write_text(json.dumps(result))
    gained, _, rest = tables.where_in_words().partition("Without a clear gain")
    assert "most first: digits +0.500" in gained and "punctuation" not in gained and "punctuation +0.500" in rest
    assert "For 20.0% of the tokens" in rest and "75.0% of them are of the kind “digits”, of which it lacks 30.0%" in rest
    assert "| digits |" in tables.where() and "| tokens 1 to 5 |" in tables.where() and "41 to 80" not in tables.where()


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_fills_itself_when_rows_arrive(cli, tree):
    assert cli(tables)[0] == 0
    bare = (tree / tables.OWN).read_text()
    add_report(tree, "out_of_domain", {"translation": -0.03, "code_chat": 0.02})
    for temperature in (0.0, 1.0):
        add_report(tree, f"temperature_{temperature:g}", {"at": 0.03, "general": 0.02}, temperature=temperature)
    assert cli(tables, "--check")[0] == 1, "new reports are noticed"
    assert cli(tables)[0] == 0 and cli(tables, "--check")[0] == 0
    page = (tree / tables.OWN).read_text()
    assert "| translation | distilled |" in page and "| translation | distilled |" not in bare
    assert "| 0 | AT | 24 |" in page
    missing = [line for line in page.splitlines() if "Not measured yet" in line]
    elsewhere = [line for line in missing if re.search(r"benchmark_no_vnni\.json|live\.jsonl|dpo_of_distilled", line)]
    assert len(missing) == 5 and missing == elsewhere, "the speed, with this draft, and DPO of it, whose folders are not copied"


def test_the_theory_says_something_of_every_loss():
    asked = {loss for pair in tables.PREDICTIONS for loss in pair[:2]}
    assert asked == set(LOSSES)


def test_losses_measured_on_fewer_prompts_are_compared_where_both_are():
    found = {"a": {"kl": 0.5, "js": 0.6}, "b": {"kl": 0.4}, "c": {"kl": 0.5, "js": 0.7}}
    assert tables.difference(found, "js", "kl")["mean"] == pytest.approx(0.15)


def test_trainings_of_one_budget_are_one_group_whenever_they_were_trained(tree):
    """Older metrics leave out an option that newer ones write as False."""
    arms = tables.distilled(tables.ARMS)
    settings = {**arms["tvd"]["settings"], "loss": "new", "all_weights": False}
    for name, changes in (("new", {}), ("more_steps", {"steps": 17, "loss": "other"})):
        folder = tree / tables.ARMS / name
        folder.mkdir()
        (folder / "metrics.json").write_text(json.dumps({**arms["tvd"], "settings": {**settings, **changes}}))
    grouped = tables.equal_budget()
    assert grouped["new"] == "new" and grouped["tvd"] == "tvd" and "other" not in grouped


def test_the_loss_that_ships_was_chosen_of_those_trained_with_the_same_code(tree):
    """And by what was held out: the losses stand in its order, those of a later commit by themselves."""
    before, later = tables.chosen().split(" Those trained later ")
    assert "on 10 answers, of the losses trained by then, was `tvdpp_position` 0.6291, `lk_alpha` 0.6252" in before
    assert later.startswith("reached `reverse_kl` 0.6297, `js` 0.6275")
    file = tree / tables.ARMS / "lk_alpha/metrics.json"
    metrics = json.loads(file.read_text())
    metrics["environment"]["commit"] = "0" * 40
    metrics["held_out_overlap"]["after"] = 0.7
    file.write_text(json.dumps(metrics))
    before, later = tables.chosen().split(" Those trained later ")
    assert "lk_alpha" not in before and later.startswith("reached `lk_alpha` 0.7000, `reverse_kl`")


@pytest.mark.parametrize(
    "runs, words",
    [
        ([["base", "kl"], ["tvd", "distilled"]], "no best of several"),
        ([["base", "distilled"], ["tvd"]], "no best of several"),
        ([["base", "tvd"], ["distilled", "js"]], "may be optimistic"),
    ],
)
def test_numbers_on_prompts_that_chose_the_draft_are_called_optimistic(tree, runs, words):
    write_jsonl(tables.ROWS, [{"conditions": {"drafts": dict.fromkeys(names)}} for names in runs])
    assert words in tables.first_measured(DRAFT, {"tvd", "js"})


@pytest.mark.parametrize("js, reason", [(0.66, True), (0.6, False)])
def test_a_reason_is_given_only_where_both_other_divergences_beat_kl(monkeypatch, js, reason):
    names = ["kl", "tvd", "reverse_kl", "js"]
    overlaps = {"kl": 0.6, "tvd": 0.65, "reverse_kl": 0.64, "js": js}
    monkeypatch.setattr(tables, "equal_budget", lambda: {name: name for name in names})
    monkeypatch.setattr(tables, "overlaps", lambda: {f"prompt {number}": overlaps for number in range(9)})
    assert f"`js` {js - 0.6:+.4f}" in tables.bounded() and ("need not be total variation" in tables.bounded()) == reason
