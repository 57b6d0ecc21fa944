"""Cleaning and checking: every reason and every check has a row that triggers it; the shipped file passes."""

import json
from pathlib import Path

import pytest

import check_dataset
import clean_dataset
from check_dataset import check, named
from clean_dataset import clean, seed_key
from specdec.files import read_jsonl, write_jsonl

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "dpo_clean.jsonl"
WORDS = (
    "amber birch cedar delta ember fjord grove heron ivory jetty knoll larch maple nettle olive "
    "pearl quill raven slate thorn umber violet willow yarrow zephyr"
).split()


def row(number: int = 1, **changes) -> dict:
    """A row that passes; its words depend on `number`, so that no two rows are alike."""

    def text(count: int, offset: int) -> str:
        return " ".join(
            WORDS[(number * (place + 3) + offset * place + number // 5) % len(WORDS)] + str(number % 97)
            for place in range(count)
        )

    return {
        "id": f"at-{number:04d}",
        "prompt": f"{text(9, 1)}?",
        "chosen": f"{text(40, 2)} NVDA {text(30, 3)}.",
        "rejected": f"{text(36, 4)}.",
        "disability": "blindness",
        "user_type": "teacher",
        "task_type": "configuration",
        "query_type": "procedural",
        **changes,
    }


def reasons(rows, evaluation_prompts=()):
    kept, rejected = clean(rows, list(evaluation_prompts))
    assert len(kept) + len(rejected) == len(rows), "nothing vanishes"
    return [entry["reason"] for entry in rejected]


def test_good_rows_pass_unchanged():
    rows = [row(number) for number in range(1, 20)]
    assert clean(rows, ["an unrelated evaluation prompt"]) == (rows, [])


CHOSEN = row()["chosen"]


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"chosen": None}, "schema: 'chosen' is not a text"),
        ({"id": ""}, "schema: 'id' is empty"),
        ({"task_type": "dancing"}, "schema: 'task_type' is not in the rotation"),
        ({"rejected": "  "}, "empty rejected"),
        ({"chosen": CHOSEN.rstrip(".") + " and then you"}, "truncated chosen"),
        ({"chosen": CHOSEN[:100] + "."}, "chosen shorter than 200 or longer than 1000 characters"),
        ({"prompt": "x" * 500 + "?"}, "prompt shorter than 10 or longer than 400 characters"),
        ({"rejected": CHOSEN.replace("NVDA", "JAWS")}, "chosen and rejected nearly equal"),
        ({"chosen": "As an AI language model, I can say this. " + CHOSEN}, "refusal or boilerplate in chosen"),
        ({"rejected": "Certainly! " + row()["rejected"]}, "refusal or boilerplate in rejected"),
        ({"chosen": CHOSEN + "<|im_end|>."}, "chat-template token in chosen"),
        ({"prompt": "[INST] " + row()["prompt"]}, "chat-template token in prompt"),
    ],
)
def test_reason(changes, reason):
    assert reasons([row(2), row(**changes)]) == [reason]


def test_the_first_valid_row_of_an_id_wins():
    broken, redone, again = row(chosen=""), row(), row(prompt="Another question altogether, is it not?")
    kept, rejected = clean([broken, redone, again], [])
    assert kept == [redone] and [entry["reason"] for entry in rejected] == ["empty chosen", "id seen before"]


def test_near_duplicates_by_key_and_by_words():
    twelve = "one two three four five six seven eight nine ten eleven twelve"
    prompts = [
        f"{twelve} apples and pears and plums?",
        f"{twelve.upper()}, but otherwise unlike?",
        "Which braille display suits an iPad best?",
        "which iPad suits a braille display best",
    ]
    rows = [row(number, prompt=prompt) for number, prompt in enumerate(prompts, start=1)]
    assert reasons(rows) == ["near-duplicate prompt of at-0001", "near-duplicate prompt of at-0003"]
    assert seed_key(rows[0]["prompt"]) == seed_key(rows[1]["prompt"]) == twelve


def test_leaks_from_the_evaluation_prompts():
    assert reasons([row(1), row(2)], [row(2)["prompt"]]) == ["prompt leaks into the evaluation sets"]


def test_normalisation_and_idempotence(cli, tmp_path):
    raw = [
        row(1, prompt="  “What’s  best”\u00a0for me,\nplease? "),
        row(2, prompt="Is a cafe\u200b\u0301 loud for hearing aids?"),
    ]
    write_jsonl(tmp_path / "raw.jsonl", raw)
    arguments = ("--prompts", ROOT / "prompts", "--rejects", tmp_path / "rejects.jsonl")
    assert cli(clean_dataset, "--input", tmp_path / "raw.jsonl", "--output", tmp_path / "a.jsonl", *arguments)[0] == 0
    assert cli(clean_dataset, "--input", tmp_path / "a.jsonl", "--output", tmp_path / "b.jsonl", *arguments)[0] == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert next(read_jsonl(tmp_path / "a.jsonl"))["prompt"] == '"What\'s best" for me, please?'


def test_malformed_line_is_named_and_nothing_written(cli, tmp_path):
    (tmp_path / "raw.jsonl").write_text(json.dumps(row()) + "\n{broken\n")
    status, _, err = cli(
        clean_dataset, "--input", tmp_path / "raw.jsonl", "--output", tmp_path / "out.jsonl", "--prompts", ROOT / "prompts"
    )
    assert status == 1 and "line 2" in err and not (tmp_path / "out.jsonl").exists()


# --- check_dataset ----------------------------------------------------------------------------------------------------


def failed(rows, prompts=("nothing alike",), expected=None) -> set[str]:
    return {name for name, faults in check(rows, list(prompts), expected or len(rows))["checks"].items() if faults}


SMALL = [row(number) for number in range(1, 31)]
ALWAYS = failed(SMALL)  # thirty rows cannot cover the rotation, and are not of the seed's lengths


def test_small_sample_fails_only_where_it_must():
    assert {"every cell of the rotation", "mean length of chosen", "mean length of rejected", "length ratio"} >= ALWAYS


@pytest.mark.parametrize(
    "name, rows, prompts",
    [
        ("unique ids", [*SMALL[:-1], {**SMALL[-1], "id": "at-0001"}], ()),
        ("every category known", [*SMALL[:-1], {**SMALL[-1], "disability": "fatigue"}], ()),
        ("near-duplicate prompts", [*SMALL[:-1], {**SMALL[-1], "prompt": SMALL[0]["prompt"]}], ()),
        ("leaks from the evaluation prompts", SMALL, (SMALL[3]["prompt"],)),
        ("chosen names a tool or standard", [{**r, "chosen": r["chosen"].replace("NVDA", "it")} for r in SMALL], ()),
        ("rejected names none", [{**r, "rejected": "NVDA " + r["rejected"]} for r in SMALL], ()),
        (
            "repeated eight-word runs",
            [{**r, "chosen": f"{r['chosen'][:40]} ask them what they would like to use {r['chosen'][78:]}"} for r in SMALL],
            (),
        ),
        *(
            (f"openings of {field}", [{**r, field: "how do i " + r[field]} for r in SMALL], ())
            for field in ("prompt", "chosen", "rejected")
        ),
    ],
)
def test_check_fails_on_its_fault(name, rows, prompts):
    assert failed(rows, prompts or ("nothing alike",)) - ALWAYS == {name}


def test_number_of_rows():
    assert "number of rows" in failed(SMALL, expected=31)


def test_named_reads_whole_names():
    assert named("Press Ctrl+Alt+N for NVDA, then check SC 1.4.3 and EN 301 549.") == [
        "NVDA",
        "WCAG criterion by number",
        "EN 301 549",
    ]
    assert named("You could explore several programs and read aloud.") == []


def test_check_names_line_of_bad_row(cli, tmp_path):
    (tmp_path / "data.jsonl").write_text(json.dumps(row()) + "\n" + json.dumps({**row(2), "chosen": ""}) + "\n")
    status, _, err = cli(check_dataset, tmp_path / "data.jsonl", "--prompts", ROOT / "prompts")
    assert status == 1 and "line 2: 'chosen' is missing or empty" in err


def test_shipped_file_passes_and_comes_from_the_raw_one(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    status, out, err = cli(check_dataset)
    assert status == 0, out + err
    assert "Total pairs: 985" in out and "Near-duplicate prompts: 0" in out
    assert cli(clean_dataset, "--output", tmp_path / "clean.jsonl", "--rejects", tmp_path / "rejects.jsonl")[0] == 0
    assert (tmp_path / "clean.jsonl").read_bytes() == SHIPPED.read_bytes()
