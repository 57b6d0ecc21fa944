"""Study 2's page: what stands on it when a part is measured, when it is not, and what its sentences are computed from."""

import copy
import json
import shutil
from pathlib import Path

import pytest

from specdec.files import write_jsonl
from specdec.losses import LOSSES
from specdec.terminal import Problem
from specdec.theory import speedup
from studies.distillation import tables

ROOT = Path(__file__).resolve().parents[1]
DRAFT = "distilled"


def benchmark_of(steps: dict, rows: list[dict], drafts: dict | None = None, backend: str = "int8") -> dict:
    """A benchmark as benchmark_decoding.py writes it: every backend in a process of its own."""
    environment = json.loads((ROOT / tables.REPORT).read_text())["environment"]
    conditions = {"drafts": drafts or {"base": None}}
    about = {backend: {"seconds_per_step": steps}, "llama.cpp": {"not_measured": "not installed"}}
    return {
        "pair": tables.PAIR,
        "conditions": conditions,
        "environment": environment,
        "about": about,
        "rows": rows,
        "summary": [],
    }


STEPS = {"draft": 0.04, "verifier": 0.1, "verifier_of_5": 0.2}


def run_of(prompt: int, draft: str | None, k: int, seconds: float) -> dict:
    """A run of 10 tokens."""
    return {"peer": "int8", "prompt": f"prompt {prompt}", "draft": draft, "k": k, "tokens": 10, "seconds": seconds}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """The study's files, to change, with the main report alone; of the engine a demo of one prompt and two short benchmarks."""
    weights = shutil.ignore_patterns("*.safetensors")  # of the arms, where they were trained here: large, and not read
    shutil.copytree(ROOT / "studies/distillation", tmp_path / "studies/distillation", ignore=weights)
    shutil.copy(ROOT / "README.md", tmp_path / "README.md")
    for name in ("adapters", "final_adapter"):
        (tmp_path / name).symlink_to(ROOT / name)
    for folder in (tmp_path / "studies/distillation/results").glob("*/"):
        shutil.rmtree(folder)
    monkeypatch.chdir(tmp_path)
    tables.ENGINE.mkdir(parents=True)
    for backend in ("transformers", "int8"):
        benchmark = {**benchmark_of({}, [run_of(0, None, 0, 1.0)]), "conditions": {"backend": backend}}
        (tables.ENGINE / f"{backend}.json").write_text(json.dumps({**benchmark, "summary": {"seconds_per_step": STEPS}}))
    runs = [run_of(0, name, 2, seconds) for name, seconds in (("verifier", 3.0), ("base", 2.5), (DRAFT, 2.0))]
    conditions = {"k": 2, "adapters": {"base": None, DRAFT: "adapters/distilled"}}
    demo = {"pair": {"name": tables.PAIR, "backend": "int8"}, "conditions": conditions, "runs": runs}
    (tables.ENGINE / "demo.json").write_text(json.dumps(demo))
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
        "on 24 translation prompts it lost: -0.0300 (-0.0400 to -0.0200)" in words and "code prompts it gained: +0.02" in words
    )
    assert tables.missing_domains() == [] and "prompts" not in tables.still_open().replace("one prompt", "")


def test_domains_without_rows_are_said_and_never_shown(tree):
    assert tables.missing_domains() == ["translation", "code"]
    assert "No report holds translation or code prompts." in tables.domain_table()
    assert "nothing is claimed" in tables.elsewhere() and "translation prompts, code prompts" in tables.still_open()


@pytest.mark.parametrize("conditions", [{"dtype": "bfloat16"}, {"verifier": "another"}, {"max_new_tokens": 100}])
def test_reports_of_other_conditions_are_left_out(tree, conditions):
    add_report(tree, "other", {"translation": 0.1}, **conditions)
    assert len(tables.reports()) == 1 and "translation" in tables.missing_domains()


def test_prompts_at_another_temperature_stand_in_no_table_of_domains(tree):
    add_report(tree, "temperature_1", {"translation": 0.1}, temperature=1.0)
    assert len(tables.reports()) == 2 and "translation" in tables.missing_domains()


def test_a_report_of_another_draft_length_is_of_the_same_rows(tree):
    add_report(tree, "other", {"translation": 0.1}, k=7)
    assert "translation" not in tables.missing_domains()


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
    assert "at 0 it gained on 24 AT prompts, +0.0500" in words and "at 1 it did not measurably change" in words
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


# --- speed by formula -------------------------------------------------------------------------------------------------


def test_the_formulas_are_those_of_the_papers(tree):
    report = json.loads((tree / tables.REPORT).read_text())
    timed = {"int8": {"steps": STEPS, "environment": {}}}
    found = tables.by_formula(report, timed, "at", DRAFT, 3)
    tau = report["tau"]["3"]["at"]["means"][DRAFT]
    assert found["tokens per pass"] == pytest.approx(tau)
    assert found["MBSU"] == pytest.approx(report["mbsu"]["3"]["at"]["means"][DRAFT])
    assert found["int8, c"] == pytest.approx(speedup(tau, 3, 0.4))
    assert found["int8, c and width"] == pytest.approx(tau / (1.2 + 1.75)), "four tokens: three quarters of the way to five"


def test_a_wider_pass_is_never_cheaper_than_a_narrow_one():
    assert tables.pass_cost({"steps": {**STEPS, "verifier_of_5": 0.05}}, 4) == 1.0
    assert tables.pass_cost({"steps": STEPS}, 4) == pytest.approx(2.0)
    assert tables.pass_cost({"steps": STEPS}, 8) == pytest.approx(3.0)


def test_the_benchmark_with_the_shipped_draft_is_taken_then_that_of_most_prompts(tree):
    for number, (file, prompts, drafts) in enumerate(
        [("few.json", 5, None), ("many.json", 90, None), ("shipped.json", 2, {DRAFT: "adapters/distilled"})]
    ):
        rows = [run_of(prompt, None, 0, 1.0) for prompt in range(prompts)]
        steps = {**STEPS, "draft": 0.01 * (number + 1)}
        (tree / tables.ENGINE / file).write_text(json.dumps(benchmark_of(steps, rows, drafts)))
    assert tables.cost_ratio(tables.benchmarks()["int8"]) == pytest.approx(0.3)
    (tree / tables.ENGINE / "shipped.json").unlink()
    assert tables.cost_ratio(tables.benchmarks()["int8"]) == pytest.approx(0.2)
    transformers = tables.benchmarks()["transformers"]
    assert tables.cost_ratio(transformers) == pytest.approx(0.4), "a backend that the others lack stays"


def test_another_pair_is_no_benchmark_of_ours(tree):
    other = benchmark_of({**STEPS, "draft": 1.0}, [run_of(prompt, None, 0, 1.0) for prompt in range(99)])
    (tree / tables.ENGINE / "other.json").write_text(json.dumps({**other, "pair": "qwen-coder"}))
    assert tables.cost_ratio(tables.benchmarks()["int8"]) < 1


# --- break-even -------------------------------------------------------------------------------------------------------


PAID = [
    ([0.01, 0.005, 0.02], "after 100,000 tokens (50,000 to 200,000)"),
    ([0.01, -0.005, 0.02], "was never shown"),
    ([-0.01, -0.02, -0.005], "never, it costs time"),
    ([0.01], "has no interval: never shown (taken at its word, after 100,000 tokens)"),
    ([-0.01], "nothing is saved"),
]


@pytest.mark.parametrize("values, words", PAID)
def test_what_is_said_of_a_saving_follows_its_interval(values, words):
    change = {"mean": values[0], "interval": values[1:] or None, "prompts": 9}
    assert words in tables.paid_after(change, 1000)


def test_every_draft_is_compared_at_its_own_fastest_length():
    runs = []
    for prompt in range(8):
        runs += [run_of(prompt, None, 0, 3.0), run_of(prompt, "base", 1, 2.0), run_of(prompt, "base", 2, 2.5)]
        runs += [run_of(prompt, DRAFT, 1, 1.9), run_of(prompt, DRAFT, 2, 1.5)]
    against, plain = tables.saved(runs, DRAFT, "base"), tables.saved(runs, DRAFT, None)
    assert against and plain
    assert (against["k"], against["rivals_k"], against["prompts"]) == (2, 1, 8) and against["mean"] == pytest.approx(0.05)
    assert plain["mean"] == pytest.approx(0.15)
    assert tables.saved(runs, DRAFT, "dpo") is None


def test_only_prompts_of_both_are_compared_and_random_seeds_are_averaged():
    runs = [run_of(0, "base", 2, 2.0), run_of(0, "base", 2, 4.0), run_of(0, DRAFT, 2, 2.0), run_of(1, DRAFT, 2, 9.0)]
    found = tables.saved(runs, DRAFT, "base")
    assert found and found["prompts"] == 1 and found["interval"] is None and found["mean"] == pytest.approx(0.1)


def test_a_benchmark_of_several_prompts_replaces_the_example_of_one(tree):
    assert "+50.0 ms a token on one prompt, which has no interval: never shown" in tables.break_even()
    assert "int8, K = 2, against the base draft at K = 2" in tables.break_even()
    assert "live speed on more than one prompt" in tables.still_open()
    rows = []
    for prompt in range(9):
        rows += [run_of(prompt, None, 0, 3.0), run_of(prompt, "base", 2, 2.0 + prompt / 100), run_of(prompt, DRAFT, 2, 1.5)]
    drafts = {"base": None, DRAFT: "adapters/distilled"}
    (tree / tables.ENGINE / "benchmark_new.json").write_text(json.dumps(benchmark_of(STEPS, rows, drafts)))
    words = tables.break_even()
    metrics = json.loads((ROOT / "adapters/distilled/metrics.json").read_text())
    cost = metrics["seconds"] + 27052 * 0.3
    assert f"against the base draft at K = 2, {cost:,.0f} s to earn back: +54.0 ms a token (+5" in words
    assert f"after {cost / 0.054:,.0f} tokens" in words and "one prompt" not in words
    assert "live speed" not in tables.still_open()


def test_runs_of_another_draft_of_that_name_are_none(tree):
    rows = [run_of(0, "base", 2, 2.0), run_of(0, DRAFT, 2, 1.5)]
    other = benchmark_of(STEPS, rows, {DRAFT: "adapters/kl"})
    (tree / tables.ENGINE / "demo.json").unlink()
    (tree / tables.ENGINE / "other.json").write_text(json.dumps(other))
    assert tables.live_runs() == {} and "|" not in tables.break_even() and "is open" in tables.break_even()


def test_live_rows_of_the_evaluation_count_too(tree):
    (tree / tables.ENGINE / "demo.json").unlink()
    header = {"run_id": "a", "command": "", "environment": {}}
    header["conditions"] = {"k": 3, "dtype": "float32", "drafts": {"base": None, DRAFT: "adapters/distilled"}}
    rows = [{"prompt": "a", "draft": name, "tokens": 10, "seconds": 2.0, "run_id": "a"} for name in ("verifier", "base", DRAFT)]
    write_jsonl(tree / tables.REPORT.parent / "live.jsonl", [header, *rows])
    assert [(row["draft"], row["k"]) for row in tables.live_runs()["transformers"]] == [(None, 0), ("base", 3), (DRAFT, 3)]


def test_answers_that_are_not_those_of_the_training_are_refused(tree):
    file = tree / "studies/distillation/answers/general.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(Problem, match="was trained on 160 answers, and its files hold 159"):
        tables.break_even()


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
    assert "| 0 | AT | 24 |" in page and "Not measured yet" not in page + bare


def test_every_loss_is_asked_for_and_what_lacks_is_said(tree, monkeypatch):
    assert set(tables.LOSS_NAMES) == set(LOSSES)
    asked = {loss for pair in tables.PREDICTIONS for loss in pair[:2]}
    assert asked == set(tables.LOSS_NAMES), "the page's theory says something of every loss"
    monkeypatch.setattr(tables, "by_gain", lambda: [loss for loss in tables.LOSS_NAMES if loss != "js"])
    assert "the loss `js`" in tables.still_open() and "the loss `kl`" not in tables.still_open()


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


@pytest.mark.parametrize("js, reason", [(0.66, True), (0.6, False)])
def test_a_reason_is_given_only_where_both_other_divergences_beat_kl(monkeypatch, js, reason):
    names = ["kl", "tvd", "reverse_kl", "js"]
    overlaps = {"kl": 0.6, "tvd": 0.65, "reverse_kl": 0.64, "js": js}
    monkeypatch.setattr(tables, "equal_budget", lambda: {name: name for name in names})
    monkeypatch.setattr(tables, "overlaps", lambda: {f"prompt {number}": overlaps for number in range(9)})
    monkeypatch.setattr(tables, "by_gain", lambda: names)
    assert f"`js` {js - 0.6:+.4f}" in tables.bounded() and ("need not be total variation" in tables.bounded()) == reason
    monkeypatch.setattr(tables, "by_gain", lambda: names[:-1])
    assert tables.bounded() == ""
