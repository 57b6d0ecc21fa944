"""The engine's page: what it says where a benchmark is small, and of which rule llama.cpp's drafts are."""

import copy
import json

import pytest

from specdec.report import load
from studies.engine import tables


@pytest.fixture
def changed(monkeypatch):
    """`changed(change)`: the page reads benchmark.json as `change` leaves it; all other results as they are."""

    def apply(change):
        result = copy.deepcopy(load(tables.SPEED))
        change(result)
        monkeypatch.setattr(tables, "load", lambda path: result if path == tables.SPEED else load(path))

    return apply


def one_prompt(result: dict) -> None:
    prompt = result["rows"][0]["prompt"]
    result["rows"] = [row for row in result["rows"] if row["prompt"] == prompt]
    for row in result["summary"]:
        row["prompts"] = 1
    result["conditions"]["prompts"] = 1


def test_a_benchmark_of_one_prompt_has_no_interval(changed):
    assert "95% interval" in tables.answer() and " to " in tables.row()
    changed(one_prompt)
    assert "was not shown to pay" in tables.answer() and "no draft (one AT prompt, texts of " in tables.answer()
    assert "95%" not in tables.answer() and "on one AT prompt" in tables.row()


def test_what_tuning_adds_is_told_beside_what_drafting_does(changed):
    assert "of the untuned draft, and" in tables.row() and "(ahead of it)" in tables.reading()

    def little_faster(result):
        for row in result["rows"]:
            row["tokens_per_second"] *= 0.85 if row["draft"] == "distilled_more" else 1

    changed(little_faster)
    assert "of the untuned draft, which so few prompts do not show to be faster" in tables.row()
    assert "(these prompts do not tell which is ahead)" in tables.reading()


def test_without_a_test_of_int8_the_page_claims_none(monkeypatch, tmp_path):
    assert "ours in int8" in tables.answer() and "| ours |" in tables.exactness_int8()
    monkeypatch.setattr(tables, "EXACTNESS_INT8", tmp_path / "none.json")
    assert "ours in int8" not in tables.answer() and tables.exactness_int8() == ""


@pytest.mark.parametrize("shift, verdict", [(-3, "costs time"), (3, "pays")])
def test_the_answer_follows_the_interval(changed, shift, verdict):
    def shifted(result):
        for row in result["rows"]:
            row["tokens_per_second"] *= 10**shift if row["draft"] else 1

    changed(shifted)
    assert f"the best draft {verdict}:" in tables.answer()


def test_the_page_knows_by_which_rule_llama_cpp_drafted(changed):
    changed(lambda result: result["about"].pop("llama.cpp, drafted", None))
    assert tables.llama_rule().startswith("By default, as here")
    changed(lambda result: result["about"].update({"llama.cpp, drafted": {"rule": "probabilistic"}}))
    assert "by the rule of our loop" in tables.llama_rule()


def test_the_agreement_in_int8_is_told_once_it_is_measured(tmp_path, monkeypatch):
    """Before, the page says that it is not part of the results, and shows no table."""
    file = tmp_path / "agreement.json"
    monkeypatch.setattr(tables, "AGREEMENT", file)
    assert tables.agreement() == "" and "is not part of these results" in tables.agreement_in_words()
    summary = {
        "prompts": 8,
        "positions": 1400,
        "overlap": {"mean": 0.98765, "interval": [0.98, 0.99]},
        "same_likeliest": {"mean": 0.975, "interval": None},
        "perplexity": {"transformers": 1.5, "int8": 1.51},
        "perplexity_ratio": {"mean": 1.0067, "interval": [1.0, 1.01]},
    }
    environment = load(tables.SPEED)["environment"]
    result = {"summary": summary, "conditions": {"dtype": "float32", "temperature": 0.7}, "environment": environment}
    file.write_text(json.dumps(result))
    assert "| 0.9877 | 0.9800 | 0.9900 |" in tables.agreement() and "| 0.9750 |  |  |" in tables.agreement()
    assert "Perplexity 1.510 in int8, 1.500 in float32." in tables.agreement()
    words = tables.agreement_in_words()
    assert "0.988 is that of its float32 self" in words and "interval 0.980 to 0.990, 8 stored" in words and "97.5%" in words
