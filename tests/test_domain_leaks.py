"""Training prompts against evaluation prompts: what counts as near, and that the repository's own files are clean."""

import json
import shutil
from pathlib import Path

import pytest

from domains import leaks
from domains.leaks import EVALUATION, HERE, TRAINING, near_pairs
from evaluate_acceptance import PROMPT_FILES
from specdec.files import read_jsonl, write_jsonl

QUESTION = "Which screen reader works best for a blind student?"


@pytest.mark.parametrize(
    "prompt, other, near",
    [
        (QUESTION, QUESTION.upper(), True),
        (QUESTION, "For a blind student, which screen reader works best?", True),
        (QUESTION, "Which braille display works best on a train?", False),
        ("what is the time", "What does the time of determination tell you, and what is it called?", False),
        ("clear", "clear", True),
        ("clear", "Clear!", True),
        ("clear", "test", False),
        ("洗碗机值不值得买", "洗碗机到底值不值得买", True),
        ("洗碗机值不值得买", "洗衣机怎么清洗", False),
        ("洗碗机值不值得买", QUESTION, False),
    ],
)
def test_near_texts(prompt, other, near):
    assert near_pairs(["Why is the sky blue at noon?", prompt], [other]) == ([(1, 0)] if near else [])


def test_no_training_prompt_of_the_repository_is_near_an_evaluation_prompt(cli):
    status, out, _ = cli(leaks)
    assert status == 0
    assert {name: found["near"] for name, found in json.loads(out).items()} == {file.name: [] for file in TRAINING}


def test_a_files_name_says_its_side():
    names = ("at", "law_train", "law_test", "law_users", "law_exam", "law_curated", "train_law", "code_train", "code_chat")
    training, evaluation = leaks.sides(Path(f"{name}.jsonl") for name in names)
    assert [file.stem for file in training] == ["law_curated", "law_exam", "law_train", "law_users"]
    assert [file.stem for file in evaluation] == ["at", "code_chat", "law_test", "train_law"]


def test_every_file_of_prompts_is_on_the_side_that_it_is_used_on():
    """What rows say of themselves, what is measured by default, and what study 0 was trained with."""
    code = {"code_test.jsonl", "code_train.jsonl", "code_packages.jsonl"}  # domains/code.py keeps these apart
    assert {file.name for file in (*EVALUATION, *TRAINING)} == {file.name for file in HERE.glob("*.jsonl")} - code | {
        "dpo_clean.jsonl"
    }
    assert {HERE.parent / name for name in PROMPT_FILES} <= set(EVALUATION)
    for file in (*EVALUATION, *TRAINING):
        for row in read_jsonl(file, required=("prompt",)):
            expected = ("test", None) if file in EVALUATION else ("train", "users", "curated", None)
            assert row.get("split") in expected, f"{file.name}: {row['prompt'][:40]}"
            assert ("chosen" in row) == (file.name == "dpo_clean.jsonl")


def test_a_leak_is_named(cli, tmp_path):
    stolen = next(read_jsonl(HERE / "biology_test.jsonl"))["prompt"]
    write_jsonl(tmp_path / "mine.jsonl", [{"prompt": QUESTION}, {"prompt": stolen + " Please."}])
    status, out, _ = cli(leaks, tmp_path / "mine.jsonl")
    (near,) = json.loads(out)["mine.jsonl"]["near"]
    assert status == 1 and near["file"] == "biology_test.jsonl" and near["evaluation_prompt"] == stolen


def test_two_files_of_one_name_are_both_reported(cli, tmp_path):
    """The clean one comes last and hides nothing."""
    stolen = next(read_jsonl(HERE / "biology_test.jsonl"))["prompt"]
    write_jsonl(tmp_path / "one/mine.jsonl", [{"prompt": stolen}])
    write_jsonl(tmp_path / "two/mine.jsonl", [{"prompt": QUESTION}])
    status, out, _ = cli(leaks, tmp_path / "one/mine.jsonl", tmp_path / "two/mine.jsonl")
    assert status == 1 and [len(found["near"]) for found in json.loads(out).values()] == [1, 0]


def test_bad_files_are_one_line(cli, tmp_path):
    status, _, err = cli(leaks, tmp_path / "none.jsonl")
    assert status == 1 and err.splitlines()[-1] == f"error: no prompts at {tmp_path}/none.jsonl. Name the file that has them."
    shutil.copy(HERE / "general_train.jsonl", tmp_path / "mine.jsonl")
    with open(tmp_path / "mine.jsonl", "a") as out:
        out.write('{"prompt": ""}\n')
    status, _, err = cli(leaks, tmp_path / "mine.jsonl")
    assert status == 1 and "line 601: 'prompt' is missing" in err.splitlines()[-1]
