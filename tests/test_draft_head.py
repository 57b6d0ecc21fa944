"""A smaller output layer of the draft: which tokens it keeps, what the summary says, and the command on tiny models."""

import json
from types import SimpleNamespace

import pytest

from specdec.files import write_jsonl
from specdec.intervals import mean_with_interval
from specdec.provenance import start_rows
from studies.engine import draft_head as command
from studies.engine import tables

SHARED = SimpleNamespace(draft_ids=(10, 11, 12, 13, 14), verifier_ids=(100, 101, 102, 103, 104))


def test_the_stop_token_then_the_most_frequent_then_the_lowest_ids():
    engine = SimpleNamespace(shared=SHARED, stop=[104, 999])
    answers = [{"token_ids": [102, 102, 103, 500]}, {"token_ids": [103, 102]}]
    assert command.by_frequency(engine, answers) == [14, 12, 13, 10, 11]


def test_the_summary_is_paired_by_prompt_and_by_round():
    rows = [{"overlap": {5: 0.6, 2: 0.5}}, {"overlap": {5: 0.8, 2: 0.75}}]
    whole, smaller = command.summary(rows, {5: [0.020, 0.030, 0.022], 2: [0.015, 0.024, 0.016]}, seed=42)
    assert whole["tokens"] == 5 and whole["change"]["mean"] == 0 and whole["milliseconds"] == pytest.approx(24)
    assert smaller["overlap"] == pytest.approx(0.625)
    assert smaller["change"] == mean_with_interval([0.5 - 0.6, 0.75 - 0.8], 42)
    assert smaller["milliseconds"] == pytest.approx(55 / 3) and smaller["milliseconds_change"]["mean"] == pytest.approx(-17 / 3)


def test_what_both_make_of_the_speed(tmp_path, monkeypatch):
    """A block of 100 ms at K = 2: 10 ms saved a step, and 1 + α + α² tokens."""
    row = {
        "peer": "int8",
        "draft": "tuned",
        "k": 2,
        "tokens_per_second": 5.0,
        "seconds_per_block": {"draft": 0.04, "verify": 0.05, "other": 0.01},
    }
    others = [{**row, "k": 4, "tokens_per_second": 4.0}, {**row, "peer": "llama.cpp", "tokens_per_second": 9.0}]
    others.append({**row, "draft": "base", "tokens_per_second": 6.0})
    for name, result in (
        ("NO_VNNI", {"conditions": {"drafts": {"base": None, "tuned": "adapters/tuned"}}, "summary": [*others, row]}),
        ("HEAD", {"conditions": {"adapter": "adapters/tuned"}}),
    ):
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(result))
        monkeypatch.setattr(tables, name, file)
    whole = {"overlap": 0.5, "milliseconds_change": {"mean": 0.0}}
    smaller = {"overlap": 0.4, "milliseconds_change": {"mean": -10.0}}
    assert tables.faster(smaller, whole) == pytest.approx((1 + 0.4 + 0.16) / (1 + 0.5 + 0.25) * 100 / 80)
    assert tables.faster(whole, whole) == 1


@pytest.fixture
def files(tmp_path, tiny):
    """(answers, prompts, answers to other prompts) of the tiny verifier."""

    def answers(name: str, prompts: list[str]):
        file = tmp_path / name
        run_id = start_rows(file, {"verifier": tiny.verifier, "quantization": "none", "max_new_tokens": 200})
        with file.open("a") as out:
            for number, prompt in enumerate(prompts):
                row = {"prompt": prompt, "temperature": 0.7, "top_p": 1.0, "run_id": run_id}
                out.write(json.dumps({**row, "token_ids": list(range(40 + number, 52 + number))}) + "\n")
        return file

    prompts = [f"prompt {number}" for number in range(3)]
    asked = tmp_path / "prompts.jsonl"
    write_jsonl(asked, [{"prompt": p, "domain": "at", "query_type": "technical", "source": "written"} for p in prompts])
    return answers("answers.jsonl", prompts), asked, answers("others.jsonl", ["another"])


def call(cli, tiny, monkeypatch, answers, prompts, counts, *arguments):
    monkeypatch.setattr(command, "ROUNDS", 2)
    monkeypatch.setattr(command, "STEPS", 2)
    models = ("--draft", tiny.draft, "--verifier", tiny.verifier)
    return cli(command, *models, "--answers", answers, "--prompts", prompts, "--counts", counts, *arguments)


def test_tiny_models(cli, tiny, files, tmp_path, monkeypatch):
    out = tmp_path / "out.json"
    status, printed, err = call(cli, tiny, monkeypatch, *files, "--sizes", 20, 100, 100000, "--json", out)
    assert status == 0, err
    result = json.loads(out.read_text())
    sizes = [found["tokens"] for found in result["summary"]]
    assert sizes == [300, 100, 20], "the whole layer first; a size that is no smaller is left out"
    assert printed.count("\n") == 3 and len(result["rows"]) == 3 and len(result["seconds"]["20"]) == 2
    for row in result["rows"]:
        assert len(set(row["overlap"].values())) == 3 and all(0 < value < 1 for value in row["overlap"].values())


def test_answers_that_are_measured_are_not_counted(cli, tiny, files, monkeypatch):
    answers, prompts, _ = files
    status, _, err = call(cli, tiny, monkeypatch, answers, prompts, answers)
    assert status == 1 and "error: --counts holds answers to 3 of the 3 prompts" in err and "Traceback" not in err
