"""The benchmark on tiny models: whole, interrupted, and where the draft is the verifier itself."""

import json

import pytest

import benchmark_decoding
from specdec.theory import tokens_per_block


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "one"}\n{"prompt": "two"}\n{"prompt": "three"}\n')
    return file


def call(cli, tiny, prompts, *arguments, draft=None):
    pair = ["--draft", draft or tiny.draft, "--verifier", tiny.verifier]
    return cli(
        benchmark_decoding,
        *pair,
        *("--prompts", prompts, "--k", 1, 3, "--max-new-tokens", 6, "--skip-same-vocabulary"),
        *arguments,
    )


def test_benchmark_measures_every_contender(cli, tiny, prompts, tmp_path):
    status, out, err = call(cli, tiny, prompts, "--json", tmp_path / "out.json")
    result = json.loads((tmp_path / "out.json").read_text())
    assert status == 0 and "ours, K=3" in out, err
    assert len(result["rows"]) == 3 and result["interrupted"] is False
    assert [row["k"] for row in result["summary"]["by_k"]] == [1, 3]
    assert all(row["tokens_per_second"] > 0 for row in result["summary"]["by_k"])


def test_a_draft_that_is_the_verifier(cli, tiny, prompts):
    """α = 1: all drafts are accepted, and theory's tokens per block have their limit."""
    assert tokens_per_block(1.0, 4) == 5 and tokens_per_block(0.0, 4) == 1
    assert tokens_per_block(0.8, 4) == pytest.approx((1 - 0.8**5) / (1 - 0.8))
    status, out, err = call(cli, tiny, prompts, "--json", "-", draft=tiny.verifier)
    assert status == 0, err
    for row in json.loads(out)["summary"]["by_k"]:
        assert row["expected_acceptance"] == pytest.approx(1, abs=0.01)
        assert row["predicted_from_alpha"] > 0


def test_what_was_measured_before_a_stop_is_kept(cli, tiny, prompts, tmp_path, monkeypatch):
    """Ctrl-C and SIGTERM both arrive as KeyboardInterrupt."""
    measure = benchmark_decoding.measure

    def stopped(*arguments):
        rows = measure(*arguments)
        yield next(rows)
        yield next(rows)
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark_decoding, "measure", stopped)
    status, out, err = call(cli, tiny, prompts, "--json", tmp_path / "out.json")
    result = json.loads((tmp_path / "out.json").read_text())
    assert status == 130 and "2 of 3 prompts" in err and "ours, K=3" in out
    assert len(result["rows"]) == 2 and result["interrupted"] and result["summary"]["by_k"]


def test_a_reader_who_leaves_takes_no_result_along(cli, tiny, prompts, tmp_path, monkeypatch):
    def gone(summary):
        raise BrokenPipeError

    monkeypatch.setattr(benchmark_decoding, "print_summary", gone)
    status, _, _ = call(cli, tiny, prompts, "--json", tmp_path / "out.json")
    assert status == 0 and json.loads((tmp_path / "out.json").read_text())["interrupted"] is False


@pytest.mark.parametrize(
    "arguments, fragment",
    [
        (["--max-new-tokens", "1"], "at least 2"),
        (["--llama-cpp", "no-such.gguf"], "no GGUF file"),
        (["--json", "/dev/null/out.json"], "cannot write"),
    ],
)
def test_bad_input_is_found_before_the_work(cli, tiny, prompts, arguments, fragment):
    status, out, err = call(cli, tiny, prompts, *arguments)
    assert status == 1 and out == "" and fragment in err and len(err.splitlines()) == 1


def test_a_prompt_that_does_not_fit_is_found_before_the_first_is_measured(cli, tiny, prompts):
    with open(prompts, "a") as out:
        out.write(json.dumps({"prompt": "word " * 600}) + "\n")
    status, _, err = call(cli, tiny, prompts)
    assert status == 1 and "exceeds the context of 512" in err and "prompts:" not in err
