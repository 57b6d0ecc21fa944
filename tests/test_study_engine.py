"""The engine's page: what it says where a benchmark is small, and of which rule llama.cpp's drafts are."""

import copy

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
    assert "was not shown to pay" in tables.answer() and "no draft (one prompt, on which draft" in tables.answer()
    assert "95%" not in tables.answer() and "× plain decoding (one prompt)" in tables.row()


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
