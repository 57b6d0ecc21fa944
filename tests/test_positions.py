"""Kinds of tokens and positions: what counts as what, and means that are paired by prompt."""

import pytest

from studies.preference.positions import STOP, bucket_of, compare, kinds_of


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
    assert kinds_of(pieces) == [
        "beginning of a word", "name of a tool or standard", "punctuation", "beginning of a word", "rest of a word",
        "rest of a word", "beginning of a word", "line break", "list or heading marker", "list or heading marker",
        "list or heading marker", "beginning of a word", "list or heading marker", "beginning of a word", "punctuation",
        "digits", STOP]  # fmt: skip


def test_a_number_inside_a_sentence_is_no_list_marker():
    assert kinds_of(["In", " ", "3", " steps", "."])[2] == "digits"


def test_buckets_count_from_one():
    assert [bucket_of(position) for position in (0, 4, 5, 199)] == ["1 to 5", "1 to 5", "6 to 10", "141 to 200"]


def test_means_are_over_prompts_not_over_tokens():
    """A long answer of many such tokens counts as much as a short one."""
    rows = [{"kept": {"base": [0.5] * 9, "dpo": [0.6] * 9}}] + [{"kept": {"base": [0.5], "dpo": [0.3]}} for _ in range(9)]
    groups = [["word"] * 9] + [["word"] for _ in range(9)]
    found = compare(rows, groups, "dpo", 0)["word"]
    assert found["prompts"] == 10 and found["share"] == 1.0
    assert found["change"]["mean"] == pytest.approx((0.1 - 9 * 0.2) / 10)
    assert compare(rows[:3], groups[:3], "dpo", 0) == {}, "too few prompts have one"
