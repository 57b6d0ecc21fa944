"""Kinds of tokens and positions: what counts as what, and means that are paired by prompt."""

import re
from types import SimpleNamespace
from typing import Any

import pytest

from domains.at import names
from specdec.positions import STOP, analysed, bucket_of, compare, kinds_by_row, kinds_of, out_of_reach, where
from specdec.terminal import Problem
from studies.distillation.positions import lasting

NAMES = [pattern for kind in names().values() for pattern in kind.values()]
TOKENIZER: Any = SimpleNamespace(decode=lambda ids: {1: "word", 2: ".", 3: ""}[ids[0]])


def test_every_token_has_the_kind_that_a_reader_would_give_it():
    pieces = [
        "Use",
        " NVDA",
        ",",
        " un",
        "believ",
        "ably",
        " good",
        ":\n\n",
        "1",
        ".",
        " **",
        "Jaws",
        "**",
        " in",
        " ",
        "2024",
        "",
    ]
    assert kinds_of(pieces, NAMES) == [
        "beginning of a word", "name of a tool or standard", "punctuation", "beginning of a word", "rest of a word",
        "rest of a word", "beginning of a word", "line break", "list or heading marker", "list or heading marker",
        "list or heading marker", "beginning of a word", "list or heading marker", "beginning of a word", "punctuation",
        "digits", STOP]  # fmt: skip


def test_a_number_inside_a_sentence_is_no_list_marker():
    assert kinds_of(["In", " ", "3", " steps", "."], NAMES)[2] == "digits"


def test_buckets_count_from_one():
    assert [bucket_of(position) for position in (0, 4, 5, 199)] == ["1 to 5", "1 to 5", "6 to 10", "141 to 200"]
    with pytest.raises(Problem, match="more than 200 tokens"):
        bucket_of(200)


def test_means_are_over_prompts_not_over_tokens():
    """A long answer of many such tokens counts as much as a short one."""
    rows = [{"kept": {"base": [0.5] * 9, "dpo": [0.6] * 9}}] + [{"kept": {"base": [0.5], "dpo": [0.3]}} for _ in range(9)]
    groups = [["word"] * 9] + [["word"] for _ in range(9)]
    found = compare(rows, groups, "dpo", 0)["word"]
    assert found["prompts"] == 10 and found["share"] == 1.0
    assert found["change"]["mean"] == pytest.approx((0.1 - 9 * 0.2) / 10)
    assert compare(rows[:3], groups[:3], "dpo", 0) == {}, "too few prompts have one"


def test_a_name_is_a_kind_only_where_its_pattern_is_given():
    assert kinds_of(["Use", " NVDA"], [re.compile("NVDA")])[1] == "name of a tool or standard"
    assert kinds_of(["Use", " NVDA"], [])[1] == "beginning of a word"


def test_rows_are_read_with_the_texts_of_their_own_answers():
    """Eight prompts, whose answers differ: the kinds follow the answer, for every draft that is asked for."""
    rows, answers = [], {}
    for number in range(8):
        answers[f"prompt {number}"] = [1, 2, 3] if number % 2 else [1, 3]
        kept = [0.5] * len(answers[f"prompt {number}"])
        raised = [*kept[:-1], 0.9]
        rows.append({"prompt": f"prompt {number}", "kept": {"base": kept, "new": raised, "other": [0.4] * len(kept)}})
    found = where(rows, kinds_by_row(rows, answers, TOKENIZER, iter(NAMES)), ["new", "other"], seed=0)
    changes = {kind: round(one["change"]["mean"], 6) for kind, one in found["by_kind"]["new"].items()}
    assert changes == {"beginning of a word": 0.0, STOP: 0.4}, "punctuation, in four prompts, is left out"
    assert found["by_kind"]["new"][STOP]["share"] == 8 / 20 and found["prompts"] == 8
    assert found["by_position"]["other"]["1 to 5"]["change"]["mean"] == pytest.approx(-0.1)


def test_drafts_that_stay_are_neither_arms_nor_tables_of_ngrams():
    drafts = {"base": None, "dpo": "final_adapter", "kl": "adapters/kl", "tvd": "studies/distillation/drafts/tvd"}
    assert lasting({**drafts, "trigram": "studies/distillation/answers/at.jsonl"}) == ["dpo", "kl"]


def test_tokens_that_no_draft_has_are_counted_by_kind():
    """Zero for all of the drafts; a row without one of them counts by the others, and an n-gram table is not asked."""
    rows = [{"q": {"base": [0.2, 0.0], "new": [0.0, 0.0], "trigram": [0.0, 0.5]}}, {"q": {"new": [0.0, 1e-9]}}]
    kinds = [["beginning of a word", "line break"], ["line break", "line break"]]
    word, line_break = {"tokens": 1, "without": 0}, {"tokens": 3, "without": 2}
    assert out_of_reach(rows, kinds, ["base", "new"]) == {"beginning of a word": word, "line break": line_break}
    assert out_of_reach([{"q": {}}], kinds[:1], ["base", "new"]) == {}


def measured_rows(domains: tuple[str, ...], q: bool) -> Any:
    """Eight prompts of each domain, as a `Measured` holds them, and beside them rows that do not count."""
    rows = []
    for domain in domains:
        for number in range(10):
            row = {"prompt": f"{domain} {number}", "domain": domain, "source": "written", "overlap": {}}
            row["kept"] = {"base": [0.5, 0.5], "new": [0.6, 0.5]}
            row["q"] = {"base": [0.1, 0.0], "new": [0.1, 0.0]} if q else {}
            rows.append(row)
        rows[-1]["source"] = "study0"
        rows[-2]["kept"] = {"base": [0.5, 0.5]}  # its run of `new` was stopped
    return SimpleNamespace(rows=rows, conditions={"temperature": 0.7}, environments=lambda: ["machine"], file="paired.jsonl")


def answers_of(measured: Any) -> list[dict]:
    """Each prompt's at the temperature of the rows, and behind it a longer one at another."""
    found = []
    for row in measured.rows:
        found.append({"prompt": row["prompt"], "temperature": 0.7, "token_ids": [1, 3]})
        found.append({"prompt": row["prompt"], "temperature": 1.0, "token_ids": [1, 1, 2]})
    return found


@pytest.mark.parametrize("q", [True, False])
def test_an_analysis_takes_the_rows_of_all_drafts_and_their_answers(q):
    measured = measured_rows(("at", "general"), q)
    found = analysed(measured, answers_of(measured), ["new"], TOKENIZER, iter(NAMES))
    assert found["measured"] == {"paired": ["machine"]} and found["conditions"]["seed"] == 42
    for domain in ("at", "general"):
        assert found[domain]["prompts"] == 8
        assert found[domain]["by_kind"]["new"]["beginning of a word"]["change"]["mean"] == pytest.approx(0.1)
        lacking = {"beginning of a word": {"tokens": 8, "without": 0}, STOP: {"tokens": 8, "without": 8}}
        assert found[domain].get("out_of_reach") == (lacking if q else None)


def test_an_analysis_without_rows_of_a_domain_is_one_line():
    measured = measured_rows(("at",), q=True)
    with pytest.raises(Problem, match="no general rows of new in paired.jsonl. Run evaluate_acceptance.py paired"):
        analysed(measured, answers_of(measured), ["new"], TOKENIZER, NAMES)
