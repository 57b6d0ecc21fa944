"""The words, tables and markers from which every page is made."""

import pytest

from specdec import report
from specdec.files import write_jsonl
from specdec.intervals import mean_with_interval
from specdec.terminal import Problem

MACHINE = {
    "packages": {"torch": "2.1", "transformers": "5.0"},
    "gpu": None,
    "cores": 2,
    "processor": "P",
    "commit": "a" * 40,
}


def test_table_and_interval():
    assert report.table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"
    change = {"mean": -0.5, "interval": [-0.75, 0.25]}
    assert report.span(change, 2) == "-0.50 (-0.75 to +0.25)"
    assert report.span(change, 2, sign="") == "-0.50 (-0.75 to 0.25)"
    assert report.interval(mean_with_interval([0.1], 0)) == "too few prompts"
    assert report.percent(None) == "–" and report.percent(0.615) == "61.5%"


def test_hardware_is_of_the_machines_that_measured():
    one = report.hardware([MACHINE, {**MACHINE, "commit": "b" * 40}, MACHINE])
    assert one == "Measured on 2 cores of an P processor, torch 2.1, transformers 5.0, commit aaaaaaaa, bbbbbbbb."
    assert "commit aaaaaaaa with uncommitted code." in report.hardware([{**MACHINE, "uncommitted_code": True}])
    other = {**MACHINE, "gpu": {"name": "G"}, "commit": None}
    several = report.hardware([MACHINE, other, None])
    assert several.startswith("Measured on 3 machines or sets of packages: 2 cores of an P processor")
    assert "; G, torch 2.1, transformers 5.0, commit unknown; a machine that was not recorded" in several


def test_a_training_again_has_the_same_fields_and_another_seed():
    drafts = {
        "base": None,
        "first": {"path": "x", "loss": "dpo", "balance": None, "seed": 1, "dataset_sha256": None},
        "other-seed2": {"path": "y", "loss": "dpo", "seed": 2, "dataset_sha256": "abc"},
        "balanced": {"path": "z", "loss": "dpo", "balance": "query_type", "seed": 1},
        "first-seed3": {"path": "w", "loss": "sft", "seed": 3},  # its name says otherwise: names are not read
    }
    found = report.first_trainings(drafts)
    assert found["other-seed2"] == "first" and found["first-seed3"] == "first-seed3" and found["balanced"] == "balanced"


def test_differences_are_paired_over_the_prompts_of_both(tmp_path):
    rows = [
        {"prompt": "a", "domain": "at", "overlap": {"base": 0.5, "one": 0.6}},
        {"prompt": "a", "domain": "at", "overlap": {"two": 0.9}},
        {"prompt": "b", "domain": "at", "overlap": {"one": 0.1}},
        {"prompt": "c", "domain": "general", "overlap": {"one": 0.1, "two": 0.1}},
    ]
    write_jsonl(tmp_path / "paired.jsonl", rows)
    found = report.overlaps_of(tmp_path / "paired.jsonl", "at")
    assert found == {"a": {"base": 0.5, "one": 0.6, "two": 0.9}, "b": {"one": 0.1}}
    assert report.difference(found, "two", "one")["mean"] == pytest.approx(0.3)


def test_markers_are_filled_in_lines_of_their_own_and_in_cells():
    page = "<!-- a -->\nold\n<!-- /a -->\n| <!-- b -->old<!-- /b --> |\n"
    parts = {"a": lambda: r"new \1", "b": lambda: "cell"}
    filled = report.fill(page, parts)
    assert filled == "<!-- a -->\nnew \\1\n<!-- /a -->\n| <!-- b -->cell<!-- /b --> |\n"
    assert report.fill(filled, parts) == filled and report.markers(page) == ["a", "b"]
    assert report.fill("<!-- a -->\n<!-- /a -->", {"a": lambda: "x"}) == "<!-- a -->\nx\n<!-- /a -->"
    with pytest.raises(Problem, match="no <!-- c -->"):
        report.fill(page, {"c": lambda: ""})


def test_what_is_not_measured_is_said():
    def missing() -> str:
        raise FileNotFoundError(2, "no", "r.json")

    assert "*Not measured yet: `r.json` is missing.*" in report.fill("<!-- a -->\n<!-- /a -->", {"a": missing})


def test_bad_json_is_one_line(tmp_path):
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(Problem, match="r.json is not JSON"):
        report.load(tmp_path / "r.json")


def test_drafts_differ_without_colour():
    drawn = [(report.point(number)["marker"], report.point(number)["markerfacecolor"]) for number in range(len(report.POINTS))]
    assert len(set(drawn)) == len(drawn) and {report.point(number)["color"] for number in range(9)} == {"black"}
