"""Cleaning and checking: every reason and every check has a row that triggers it; the shipped file passes."""

import json
from pathlib import Path

import pytest

import check_dataset
import clean_dataset
from check_dataset import check
from clean_dataset import clean, study_key
from domains.at import EVALUATION_PROMPTS, named, names
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
            WORDS[(number * (position + 3) + offset * position + number // 5) % len(WORDS)] + str(number % 97)
            for position in range(count)
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
        ({"rejected": CHOSEN}, "chosen equal to rejected"),
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
    broken, redone, repeated = row(chosen=""), row(), row(prompt="Another question altogether, is it not?")
    kept, rejected = clean([broken, redone, repeated], [])
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
    assert study_key(rows[0]["prompt"]) == study_key(rows[1]["prompt"]) == twelve


def test_leaks_from_the_evaluation_prompts():
    assert reasons([row(1), row(2)], [row(2)["prompt"]]) == ["prompt leaks into the evaluation sets"]


def test_other_fields_are_kept():
    kept, rejected = clean([row(system="You are brief.", reason="of an earlier run")], [])
    assert kept == [row(system="You are brief.")] and not rejected


UNEVEN = [
    row(1, prompt="  “What’s  best”\u00a0for me,\nplease? "),
    row(2, prompt="Is a cafe\u200b\u0301 loud for hearing aids?"),
]


def test_normalization_and_idempotence(cli, tmp_path):
    write_jsonl(tmp_path / "raw.jsonl", UNEVEN)
    rejects = ("--rejects", tmp_path / "rejects.jsonl")
    assert cli(clean_dataset, "--input", tmp_path / "raw.jsonl", "--output", tmp_path / "a.jsonl", *rejects)[0] == 0
    assert cli(clean_dataset, "--input", tmp_path / "a.jsonl", "--output", tmp_path / "b.jsonl", *rejects)[0] == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert next(read_jsonl(tmp_path / "a.jsonl"))["prompt"] == '"What\'s best" for me, please?'
    assert not (tmp_path / "rejects.jsonl").exists(), "nothing was dropped"


def test_in_place_nothing_vanishes(cli, tmp_path, monkeypatch):
    """Without a raw file the clean one is cleaned; what one run drops the next one does not overwrite."""
    monkeypatch.chdir(tmp_path)
    write_jsonl("dpo_clean.jsonl", [*UNEVEN, row(3, chosen="")])
    status, _, err = cli(clean_dataset)
    assert status == 0 and "wrote dpo_clean.jsonl and dpo_rejects.jsonl" in err
    first = Path("dpo_clean.jsonl").read_bytes()
    assert [entry["reason"] for entry in read_jsonl("dpo_rejects.jsonl")] == ["empty chosen"]
    assert cli(clean_dataset)[0] == 0 and Path("dpo_clean.jsonl").read_bytes() == first
    assert [entry["id"] for entry in read_jsonl("dpo_rejects.jsonl")] == ["at-0003"]
    write_jsonl("dpo_raw.jsonl", [row(4)])
    assert cli(clean_dataset)[0] == 0
    assert list(read_jsonl("dpo_clean.jsonl")) == [row(4)] and not list(read_jsonl("dpo_rejects.jsonl"))


def test_no_file_is_overwritten_by_another(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl("raw.jsonl", UNEVEN)
    write_jsonl("prompts.jsonl", [{"prompt": "another question"}])
    Path("link.jsonl").symlink_to("raw.jsonl")
    before = Path("raw.jsonl").read_bytes(), Path("prompts.jsonl").read_bytes()
    for options in (
        ("--rejects", "raw.jsonl"),
        ("--rejects", "link.jsonl"),
        ("--rejects", tmp_path / "raw.jsonl", "--output", "raw.jsonl"),
        ("--rejects", "out.jsonl", "--output", "./out.jsonl"),
        ("--output", "prompts.jsonl"),
        ("--output", tmp_path),
        ("--rejects", "raw.jsonl/rejects.jsonl"),
    ):
        status, _, err = cli(clean_dataset, "--input", "raw.jsonl", "--evaluation-prompts", "prompts.jsonl", *options)
        assert status == 1 and err.startswith("error: cannot write") and err.count("\n") == 1
    assert (Path("raw.jsonl").read_bytes(), Path("prompts.jsonl").read_bytes()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.jsonl", "prompts.jsonl", "raw.jsonl"]


def test_evaluation_prompts_named_twice_are_all_read(cli, tmp_path, monkeypatch):
    """Each row is near the prompt of one file: both are dropped, and both fail the check."""
    monkeypatch.chdir(tmp_path)
    write_jsonl("raw.jsonl", [row(number) for number in range(1, 6)])
    for number in (1, 2):
        write_jsonl(f"{number}.jsonl", [{"prompt": row(number)["prompt"]}])
    twice = ("--evaluation-prompts", "1.jsonl", "--evaluation-prompts", "2.jsonl")
    assert cli(clean_dataset, "--input", "raw.jsonl", *twice)[0] == 0
    assert [entry["id"] for entry in read_jsonl("dpo_rejects.jsonl")] == ["at-0001", "at-0002"]
    status, _, err = cli(check_dataset, "raw.jsonl", *twice)
    assert status == 1 and "leaks from the evaluation prompts: at-0001, at-0002" in err


def test_a_file_without_a_fit_row_replaces_nothing(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl("dpo_clean.jsonl", [row(1)])
    write_jsonl("raw.jsonl", [{"question": "of another form"}])
    status, _, err = cli(clean_dataset, "--input", "raw.jsonl")
    assert status == 1 and "no row of raw.jsonl is fit" in err and list(read_jsonl("dpo_clean.jsonl")) == [row(1)]
    Path("raw.jsonl").write_text("")
    status, _, err = cli(clean_dataset, "--input", "raw.jsonl")
    assert status == 1 and "holds no rows" in err and list(read_jsonl("dpo_clean.jsonl")) == [row(1)]


@pytest.mark.parametrize("script", [clean_dataset, check_dataset])
def test_bad_input_gets_one_line_and_nothing_is_written(cli, tmp_path, monkeypatch, script):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("broken.jsonl").write_text(json.dumps(row()) + "\n{broken\n")
    write_jsonl("good.jsonl", [row()])
    option = ("--input",) if script is clean_dataset else ()
    for arguments, words in (
        ((*option, "missing.jsonl"), "missing.jsonl"),
        ((*option, "folder"), "folder"),
        ((*option, "broken.jsonl"), "line 2"),
        ((*option, "good.jsonl", "--evaluation-prompts", "missing.jsonl"), "no evaluation prompts"),
        ((*option, "good.jsonl", "--evaluation-prompts", "folder"), "folder"),
        ((*option, "good.jsonl", "--evaluation-prompts", "broken.jsonl"), "line 2"),
    ):
        status, out, err = cli(script, *arguments)
        assert status == 1 and words in err and err.startswith("error:") and err.count("\n") == 1 and not out
    assert len(list(tmp_path.iterdir())) == 3


# --- check_dataset ----------------------------------------------------------------------------------------------------


def failed(rows, prompts=("nothing alike",), expected=None) -> set[str]:
    return {name for name, errors in check(rows, list(prompts), expected or len(rows))["checks"].items() if errors}


SMALL = [row(number) for number in range(1, 31)]
ALWAYS = failed(SMALL)  # thirty rows cannot cover the rotation, and are not of the study's lengths


def test_small_sample_fails_only_where_it_must():
    assert {"every cell of the rotation", "mean length of chosen", "mean length of rejected", "length ratio"} >= ALWAYS


@pytest.mark.parametrize(
    "name, rows, prompts",
    [
        ("unique ids", [*SMALL[:-1], {**SMALL[-1], "id": "at-0001"}], ()),
        ("every category known", [*SMALL[:-1], {**SMALL[-1], "disability": "fatigue"}], ()),
        ("chosen differs from rejected", [*SMALL[:-1], {**SMALL[-1], "rejected": SMALL[-1]["chosen"]}], ()),
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
def test_check_fails_on_its_error(name, rows, prompts):
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


def test_names_are_read_whole():
    """Two lists, nothing in both, no heading or comment taken for a name, every pattern finds its own name or a form of it."""
    tools, standards = names()["tools"], names()["standards"]
    assert (len(tools), len(standards)) == (389, 55) and not tools.keys() & standards.keys()
    assert tools["Zoom"].search("open Zoom") and not tools["Zoom"].search("Zoom in")
    assert not [name for name in (tools | standards) if "[" in name or "#" in name or "=" in name]


def test_check_names_line_of_bad_row(cli, tmp_path):
    (tmp_path / "data.jsonl").write_text(json.dumps(row()) + "\n" + json.dumps({**row(2), "chosen": ""}) + "\n")
    status, _, err = cli(check_dataset, tmp_path / "data.jsonl")
    assert status == 1 and "line 2: 'chosen' is missing or empty" in err


def test_report_as_json(cli, tmp_path, monkeypatch):
    """Prose goes to stderr then; a report says how it was made, and never overwrites what it reports on."""
    write_jsonl(tmp_path / "data.jsonl", SMALL)
    status, out, err = cli(check_dataset, tmp_path / "data.jsonl", "--rows", 30, "--json", "-")
    report = json.loads(out)
    assert status == 1 and not report["passed"] and "Dataset statistics" in err and "failed: every cell" in err
    assert report["command"].startswith("python check_dataset.py data.jsonl") and report["environment"]["python"]
    assert report["conditions"] == {"file": "data.jsonl", "rows": 30, "prompts": [file.name for file in EVALUATION_PROMPTS]}
    status, out, err = cli(check_dataset, tmp_path / "data.jsonl", "--json", tmp_path / "data.jsonl")
    assert status == 1 and "it is the input" in err and list(read_jsonl(tmp_path / "data.jsonl")) == SMALL and not out


def test_shipped_file_passes_and_cleaning_changes_nothing(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("dpo_clean.jsonl").write_bytes(SHIPPED.read_bytes())
    status, out, err = cli(check_dataset)
    assert status == 0, out + err
    assert "Total pairs: 985" in out and "Near-duplicate prompts: 0" in out
    status, _, err = cli(clean_dataset)
    assert status == 0 and "no row was dropped" in err
    assert Path("dpo_clean.jsonl").read_bytes() == SHIPPED.read_bytes() and len(list(tmp_path.iterdir())) == 1
