"""What study 2's gain is worth in time: the formulas, and what a saving says of the tokens after which training has paid."""

import json

import pytest

from specdec.terminal import Problem
from specdec.theory import speedup
from studies.distillation import speed

DRAFT = "distilled"
STEPS = {"draft": 0.04, "verifier": 0.1, "verifier_of_5": 0.2}
ENVIRONMENT = {"gpu": None, "cores": 2, "processor": "X", "packages": {"torch": "1", "transformers": "2"}, "commit": "abc"}
REPORT = {
    "drafts": {"base": None, DRAFT: {"path": "adapters/distilled"}},
    "parameters": {"draft": 1, "verifier": 10},
    "replayed_by_k": {str(k): {"at": {"base": 1.0 + k / 10, DRAFT: 1.0 + k / 5}} for k in (1, 2, 3)},
}


def run_of(prompt: int, draft: str | None, k: int, seconds: float) -> dict:
    """A run of 10 tokens."""
    return {"peer": "int8", "prompt": f"prompt {prompt}", "draft": draft, "k": k, "tokens": 10, "seconds": seconds}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the answers of a training, and `benchmark(rows)` of benchmark_decoding.py, in int8."""
    monkeypatch.chdir(tmp_path)
    speed.ANSWERS.mkdir(parents=True)
    for name, count in (("at", 3), ("general", 2)):
        rows = [{"run_id": "a"}, *({"prompt": "?", "token_ids": [1] * 100} for _ in range(count))]
        (speed.ANSWERS / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def benchmark_of(rows: list[dict], path: str = "adapters/distilled", fast: tuple = ()) -> dict:
    """As benchmark_decoding.py writes it; in its summary the decodings in `fast` make ten times the tokens of the others."""
    decodings = dict.fromkeys((row["peer"], row["draft"], row["k"]) for row in rows)
    summary = []
    for peer, draft, k in decodings:
        speed_of_it = 50.0 if (draft, k) in fast else 5.0
        summary.append({"peer": peer, "draft": draft, "k": k, "tokens_per_second": speed_of_it})
    return {
        "conditions": {"drafts": {"base": None, DRAFT: path}},
        "environment": ENVIRONMENT,
        "about": {"llama.cpp": {"not_measured": "not installed"}, "int8": {"seconds_per_step": STEPS}},
        "rows": rows,
        "summary": summary,
    }


def write_benchmark(benchmark: dict) -> None:
    speed.BENCHMARK.parent.mkdir(parents=True, exist_ok=True)
    speed.BENCHMARK.write_text(json.dumps(benchmark))


METRICS = {
    "seconds": 400,
    "rows": {"train": 4, "held_out": 1},
    "command": f"--answers {speed.ANSWERS}/at.jsonl {speed.ANSWERS}/general.jsonl",
}


# --- by formula -------------------------------------------------------------------------------------------------------


def test_the_formulas_are_those_of_the_papers():
    found = speed.by_formula(REPORT, {"int8": STEPS}, "at", DRAFT, 3)
    assert found["tokens per pass"] == 1.6
    assert found["MBSU"] == pytest.approx(1.6 / (0.1 * 3 + 1))
    assert found["int8, c"] == pytest.approx(speedup(1.6, 3, 0.4)) == pytest.approx(1.6 / 2.2)
    assert found["int8, c and width"] == pytest.approx(1.6 / (1.2 + 1.75)), "four tokens: three quarters of the way to five"


def test_a_wider_pass_is_never_cheaper_than_a_narrow_one():
    assert speed.pass_cost({**STEPS, "verifier_of_5": 0.05}, 4) == 1.0
    assert speed.pass_cost(STEPS, 4) == pytest.approx(2.0)
    assert speed.pass_cost(STEPS, 8) == pytest.approx(3.0)


def test_the_table_has_a_row_a_length_and_the_backends_that_were_timed(folder):
    write_benchmark(benchmark_of([]))
    header, _, *rows = speed.formula_table(REPORT, DRAFT, {"at": "AT"}).splitlines()
    assert header == "| prompts | K | tokens per pass | MBSU | int8, c | int8, c and width |"
    assert rows[0] == "| AT | 1 | 1.10 → 1.20 | 1.00 → 1.09 | 0.79 → 0.86 | 0.67 → 0.73 |"
    assert [row[:8] for row in rows[:3]] == ["| AT | 1", "| AT | 2", "| AT | 3"] and "0.400 by measured time with int8" in rows[
        -1
    ]


def test_the_best_length_is_each_drafts_own():
    report = {**REPORT, "replayed_by_k": {"1": {"at": {"base": 1.5, DRAFT: 1.5}}, "2": {"at": {"base": 1.6, DRAFT: 3.0}}}}
    words = speed.best_length(report, {"int8": STEPS}, DRAFT, "int8")
    assert f"`base` {1.5 / 1.65:.2f} at K = 1" in words and f"`{DRAFT}` {3 / 2.3:.2f} at K = 2" in words


# --- break-even -------------------------------------------------------------------------------------------------------


PAID = [
    ([0.01, 0.005, 0.02], "after 100,000 tokens (50,000 to 200,000)"),
    ([0.01, -0.005, 0.02], "was never shown"),
    ([-0.01, -0.02, -0.005], "never, it costs time"),
]


@pytest.mark.parametrize("values, words", PAID)
def test_what_is_said_of_a_saving_follows_its_interval(values, words):
    change = {"mean": values[0], "interval": values[1:], "prompts": 9}
    assert words in speed.paid_after(change, 1000)


def test_every_draft_is_compared_at_the_length_of_most_tokens_a_second():
    """The summary's: a median over prompts, as the engine's page takes it, whatever the mean of these runs says."""
    rows = []
    for prompt in range(8):
        rows += [run_of(prompt, None, 0, 3.0), run_of(prompt, "base", 1, 2.0), run_of(prompt, "base", 2, 2.5)]
        rows += [run_of(prompt, DRAFT, 1, 1.2), run_of(prompt, DRAFT, 2, 1.5)]
    other = [{**run_of(0, DRAFT, 7, 0.1), "peer": "transformers"}]
    benchmark = benchmark_of([*rows, *other], fast=((DRAFT, 2), ("base", 1), (DRAFT, 7)))
    assert [speed.fastest(benchmark, "int8", name) for name in (DRAFT, "base", None)] == [2, 1, 0]
    against, plain = (speed.saved(benchmark, "int8", DRAFT, rival) for rival in ("base", None))
    assert against["prompts"] == 8 and against["mean"] == pytest.approx(0.05) and plain["mean"] == pytest.approx(0.15)


def test_only_prompts_of_both_are_compared():
    rows = [run_of(0, "base", 2, 2.0), run_of(1, "base", 2, 3.0), run_of(0, DRAFT, 2, 1.0), run_of(1, DRAFT, 2, 1.0)]
    found = speed.saved(benchmark_of([*rows, run_of(2, DRAFT, 2, 9.0)]), "int8", DRAFT, "base")
    assert found["prompts"] == 2 and found["mean"] == pytest.approx(0.15)


def test_the_cost_is_the_training_and_the_answers_at_the_verifiers_own_speed(folder):
    rows = []
    for prompt in range(9):
        rows += [run_of(prompt, None, 0, 3.0), run_of(prompt, "base", 2, 2.0 + prompt / 100), run_of(prompt, DRAFT, 3, 1.5)]
    write_benchmark(benchmark_of(rows))
    words = speed.break_even(REPORT, DRAFT, METRICS)
    cost = 400 + 5 * 100 * 0.3
    assert "Its steps took 400 s;" in words and "What writing its 5 answers (500 tokens)" in words
    assert f"int8, K = 3, against the base draft at K = 2, {cost:,.0f} s to earn back: +54.0 ms a token (+5" in words
    assert f"after {cost / 0.054:,.0f} tokens" in words and f"after {cost / 0.15:,.0f} tokens" in words


def test_a_benchmark_of_another_draft_of_that_name_is_none(folder):
    write_benchmark(benchmark_of([run_of(0, DRAFT, 2, 1.5)], path="adapters/kl"))
    with pytest.raises(FileNotFoundError, match="not measured with distilled"):
        speed.break_even(REPORT, DRAFT, METRICS)


def test_answers_that_are_not_those_of_the_training_are_refused(folder):
    with pytest.raises(Problem, match="was trained on 160 answers, and its files hold 5"):
        speed.lengths_of_answers(DRAFT, {**METRICS, "rows": {"train": 144, "held_out": 16}})
    of_one = {**METRICS, "rows": {"train": 3, "held_out": 0}, "command": f"--answers {speed.ANSWERS}/at.jsonl"}
    assert speed.lengths_of_answers(DRAFT, of_one) == [100, 100, 100], "the header is no answer, the other file no part"


# --- live -------------------------------------------------------------------------------------------------------------


def write_live(seconds: dict[str, list[float]]) -> None:
    """Runs of 10 tokens: draft → seconds on prompts that are of AT and general in turn; one prompt more has no rival."""
    rows = [{"conditions": {"k": 2}, "environment": ENVIRONMENT}]
    for draft, times in seconds.items():
        for number, time in enumerate(times):
            domain = ("at", "general")[number % 2]
            rows.append({"prompt": f"{number}", "domain": domain, "draft": draft, "tokens": 10, "seconds": time})
    rows.append({"prompt": "alone", "domain": "at", "draft": "base", "tokens": 10, "seconds": 900.0})
    speed.LIVE.parent.mkdir(parents=True)
    speed.LIVE.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    "tuned, verdict, ratio",
    [
        ([1.0, 1.0, 1.1, 1.0], "makes decoding faster", "1.955"),
        ([4.0, 4.0, 4.1, 4.0], "makes decoding slower", "0.497"),
        ([1.0, 8.0, 1.0, 8.0], "was not shown to change the speed", "1.125"),
    ],
)
def test_live_speed_is_a_ratio_by_prompt(folder, tuned, verdict, ratio):
    assert speed.live_in_short(DRAFT) == ""
    write_live({"base": [2.0] * 4, DRAFT: tuned})
    words = speed.live_in_words(DRAFT, {"at": "AT", "general": "general"})
    assert f"the training {verdict}: live, in int8 at K = 2, {ratio} (" in words and "on 4 prompts" in words
    assert "on 2 AT prompts" in words and f"{ratio} (" in speed.live_in_short(DRAFT)


def test_what_live_runs_save_is_earned_back(folder):
    write_benchmark(
        benchmark_of([run_of(p, draft, k, 2.0) for p in range(9) for draft, k in ((None, 0), ("base", 2), (DRAFT, 2))])
    )
    assert "live runs" not in speed.break_even(REPORT, DRAFT, METRICS)
    write_live({"base": [2.0] * 4, DRAFT: [1.0] * 4})
    cost = 400 + 5 * 100 * 0.2
    assert f"by the live runs of the third test, {cost:,.0f} s to earn back: +100.0 ms a token" in speed.break_even(
        REPORT, DRAFT, METRICS
    )
    assert f"after {cost / 0.1:,.0f} tokens" in speed.break_even(REPORT, DRAFT, METRICS)
