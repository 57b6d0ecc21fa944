"""How far two backends of one verifier are apart: on distributions written out, and on tiny models through the command."""

import json
import math

import pytest
import torch

from specdec import agreement
from specdec.models import PAIRS
from specdec.provenance import start_rows
from studies.engine import agreement as command


def test_one_answer_by_hand():
    usual = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.2, 0.6]])
    int8 = torch.tensor([[0.25, 0.75, 0.0], [0.6, 0.2, 0.2]])
    row = agreement.apart(int8, usual, [1, 2])
    assert row["positions"] == 2 and row["overlap"] == pytest.approx((0.75 + 0.6) / 2)
    assert row["same_likeliest"] == 0, "of two equals the first one counts"
    assert row["nll"]["transformers"] == pytest.approx(-(math.log(0.5) + math.log(0.6)) / 2)
    assert row["nll"]["int8"] == pytest.approx(-(math.log(0.75) + math.log(0.2)) / 2)
    same = agreement.apart(usual, usual, [1, 2])
    assert same["overlap"] == pytest.approx(1) and same["same_likeliest"] == 1 and len(set(same["nll"].values())) == 1


def test_the_summary_is_over_prompts():
    def row(overlap, usual, int8, positions):
        return {"overlap": overlap, "same_likeliest": 1.0, "nll": {"transformers": usual, "int8": int8}, "positions": positions}

    found = agreement.summary([row(0.9, 1.0, 1.1, 10), row(0.7, 2.0, 2.3, 1000)], seed=0)
    assert found["overlap"]["mean"] == pytest.approx(0.8) and found["prompts"] == 2 and found["positions"] == 1010
    assert found["perplexity"] == pytest.approx({"transformers": math.exp(1.5), "int8": math.exp(1.7)})
    ratio = found["perplexity_ratio"]
    assert ratio["mean"] == pytest.approx(math.exp(0.2)) and ratio["interval"][0] < ratio["mean"] < ratio["interval"][1]
    assert agreement.summary([row(0.9, 1.0, 1.1, 10)], seed=0)["perplexity_ratio"]["interval"] is None


@pytest.fixture
def answers(tmp_path, tiny):
    file = tmp_path / "answers.jsonl"
    run_id = start_rows(file, {"verifier": tiny.verifier, "quantization": "none", "max_new_tokens": 20})
    with file.open("a") as out:
        for number in range(6):
            row = {"prompt": f"prompt {number}", "temperature": 0.7 if number < 5 else 1.0, "top_p": 1.0, "run_id": run_id}
            out.write(json.dumps({**row, "token_ids": list(range(40 + number, 50 + 2 * number))}) + "\n")
    return file


def call(cli, tiny, answers, *arguments):
    return cli(command, "--draft", tiny.draft, "--verifier", tiny.verifier, "--answers", answers, *arguments)


def test_a_tiny_verifier_in_int8(cli, tiny, answers, tmp_path):
    out = tmp_path / "out.json"
    status, printed, err = call(cli, tiny, answers, "--limit", 3, "--json", out)
    assert status == 0, err
    result = json.loads(out.read_text())
    assert [row["prompt"] for row in result["rows"]] == ["prompt 0", "prompt 1", "prompt 3"]
    assert [row["positions"] for row in result["rows"]] == [10, 11, 13]
    assert result["conditions"]["temperature"] == 0.7 and result["command"].startswith("python ")
    for row in result["rows"]:
        assert 0.9 < row["overlap"] < 1 and row["nll"]["int8"] != row["nll"]["transformers"]
    assert f"{result['summary']['overlap']['mean']:.4f}" in printed and "34 positions of 3 answers" in printed


def test_one_and_the_same_backend_agrees_with_itself(cli, tiny, answers, monkeypatch):
    """What differs above are the backends, not how an answer is read."""
    monkeypatch.setattr(agreement, "replace", lambda pair, backend: pair)
    status, printed, err = call(cli, tiny, answers, "--json", "-")
    assert status == 0, err
    result = json.loads(printed)
    assert len(result["rows"]) == 5, "one answer was sampled at another temperature"
    assert result["summary"]["overlap"]["mean"] == pytest.approx(1) and result["summary"]["perplexity_ratio"]["mean"] == 1


@pytest.mark.parametrize(
    "arguments, fragment",
    [
        (["--temperature", "0"], "above 0"),
        (["--temperature", "0.9"], "no answer at temperature 0.9"),
        (["--limit", "0"], "limit"),
        (["--json", "/dev/null/out.json"], "cannot write"),
        (["--verifier", PAIRS["gpt2"].verifier.id], "another verifier"),
    ],
)
def test_bad_input_is_found_before_a_model_is_read(cli, tiny, answers, monkeypatch, arguments, fragment):
    monkeypatch.setattr(command, "backends_apart", lambda *given: pytest.fail("a model is read"))
    status, printed, err = call(cli, tiny, answers, *arguments)
    assert status and printed == "" and fragment in err
