"""The filters of synthetic queries, held against prompts that people's queries are like, and against texts that are none."""

import pytest

from domains.leaks import HERE
from domains.synthetic import is_query, language_is_english, mix, select, text_error
from specdec.files import read_jsonl
from specdec.terminal import Problem

QUERY = "How do enzymes lower activation energy?"


def draw(text: str, ended: bool = True, special: bool = False) -> dict:
    return {"prompt": text, "ended": ended, "special": special}


@pytest.mark.parametrize(
    "text, ended, special, reason",
    [
        (QUERY, True, False, None),
        (QUERY, True, True, "leaked control tokens"),
        ("user: what is a cell?", True, False, "leaked control tokens"),
        ("What is a cell?<|im_sep|>", True, False, "leaked control tokens"),
        ("What is a cell? <tool_call>", True, False, "leaked control tokens"),
        ("", True, False, "too short"),
        ("Why?", True, False, "too short"),
        (QUERY, False, False, "too long"),
        (QUERY * 20, True, False, "too long"),
        ("¿Por qué las hojas de los árboles son verdes en el verano?", True, False, "wrong language"),
        ("为什么叶子是绿色的，而秋天变黄呢？请解释。", True, False, "wrong language"),
        ("Sure, here is what I know about enzymes?", True, False, "not a question or request"),
        ("Hello! How can I assist you today?", True, False, "not a question or request"),
        ("```python\nprint('why?')\n```", True, False, "not a question or request"),
        ("The leaf is green because it reflects green light, as most plants do.", True, False, "not a question or request"),
    ],
)
def test_every_filter(text, ended, special, reason):
    assert text_error(draw(text, ended, special)) == reason


def share(name: str, good) -> float:
    prompts = [row["prompt"] for row in read_jsonl(HERE / f"{name}.jsonl")]
    return sum(map(good, prompts)) / len(prompts)


@pytest.mark.parametrize(
    "name", ["at", "biology_test", "biology_users", "general", "general_train", "function_calling_curated"]
)
def test_queries_of_the_repository_pass(name):
    assert share(name, is_query) >= 0.95 and share(name, language_is_english) >= 0.97


def test_news_and_stories_and_chinese_mostly_do_not():
    assert share("natural_language", is_query) <= 0.3
    assert share("chinese_train", language_is_english) == 0


def test_of_two_near_queries_the_first_stays_and_evaluation_prompts_never():
    draws = [
        draw(QUERY),
        draw(QUERY.lower()),
        draw("What is a gene drive used for?"),
        draw("Hi"),
        draw("Describe a gene drive."),
    ]
    usable, dropped = select(draws, ["What is a gene drive used for these days?"])
    assert [row["prompt"] for row in usable] == [QUERY, "Describe a gene drive."]
    assert dropped == {"near another query": 1, "near an evaluation prompt": 1, "too short": 1}


def test_nothing_usable_names_the_filter_that_ate_it():
    with pytest.raises(Problem, match="none of 3 draws is usable, 2 of them for: too short"):
        select([draw("Hi"), draw("Ho"), draw(QUERY)], [QUERY])


def test_the_mix_of_what_came():
    found = mix([QUERY, "How do plants drink?", "Describe the activation of enzymes."])
    assert found["prompts"] == 3 and found["questions"] == 2
    assert found["characters"] == {"shortest": 20, "median": 35, "longest": 39}
    assert found["first two words"] == {"how do": 2, "describe the": 1}
    assert found["words of five letters or more, by prompts"]["enzymes"] == 2
