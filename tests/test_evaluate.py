"""The two ways to measure agree where they must, and the statistics are those of a textbook."""

import argparse
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from test_exactness import NEVER, Case, reference_probs, settings

import benchmark_decoding
import evaluate_acceptance
from evaluate_acceptance import compare_drafts
from specdec import models
from specdec.alignment import draft_probs, overlap_and_kept, verifier_probs
from specdec.engine import Engine
from specdec.files import read_jsonl, write_jsonl
from specdec.intervals import mean_with_interval
from specdec.sampling import Settings
from specdec.theory import expected_blocks
from speculative_decode import load_drafter, run_prompt

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("verifier", ["verifier", "overlapping"])
def test_live_and_paired_give_the_same_overlap(tiny, verifier):
    """At every position that live decoding tested, the paired estimator finds the same Σ min(p, q) on the same text."""
    engine = Engine(models.Pair("custom", models.Model(tiny.draft), models.Model(getattr(tiny, verifier))))
    drafter, _ = load_drafter(engine)
    settings = Settings(max_new_tokens=40)
    result = run_prompt(engine, "What screen reader?", "base", settings, 3, drafter)
    verifier_prompt, draft_prompt = engine.prompt_ids("What screen reader?", settings)
    answer = result.token_ids
    with torch.inference_mode():
        p = verifier_probs(engine.verifier, verifier_prompt, answer, settings)
        q = draft_probs(drafter.model, engine.shared, draft_prompt, answer, engine.rows, settings)
        paired = overlap_and_kept(p, q, answer)[0].tolist()
    place, compared = 0, 0
    for block in result.blocks:
        for offset, value in enumerate(block.overlap[: len(block.tokens)]):
            assert value == pytest.approx(paired[place + offset], abs=0.03)  # bf16 passes of other widths
            compared += 1
        place += len(block.tokens)
    assert compared >= 20 and len(paired) == len(answer)


# --- decoding replayed from a finished text, against decoding itself on the toy models of test_exactness --------------


def replay_errors(k: int, overlapping: bool, stop=NEVER, expected=expected_blocks) -> list[float]:
    """Decoded minus replayed verifier passes, drafted and accepted tokens, summed over texts, in standard errors.

    The chances of the replay come from the tables in plain Python, text by text.
    """
    case, drawn = Case(overlapping), settings(k)
    differences = []
    for blocks in case.run(drawn, stop, samples=1500):
        text = [token for block in blocks for token in block.tokens]
        kept = []
        for place, token in enumerate(text):
            history = case.prompt + text[:place]
            p = reference_probs(case.verifier_model.logits(history), drawn)
            q = reference_probs(case.draft.logits(case.shared.translate(history)), drawn, sorted(case.shared.draft_ids))
            in_draft = dict(zip(case.shared.verifier_ids, case.shared.draft_ids, strict=True))
            kept.append(min(1.0, q[in_draft[token]] / p[token]) if token in in_draft else 0.0)
        decoded = (len(blocks), sum(len(block.drafted) for block in blocks), sum(block.accepted for block in blocks))
        differences.append([a - b for a, b in zip(decoded, expected(kept, k, drawn.max_new_tokens), strict=True)])
    columns = torch.tensor(differences, dtype=torch.double)
    return (columns.mean(0) / (columns.std(0) / len(columns) ** 0.5).clamp(min=1e-9)).tolist()


@pytest.mark.parametrize("overlapping", [False, True], ids=["identical", "overlapping"])
@pytest.mark.parametrize("k", [1, 3])
def test_replay_agrees_with_decoding(k, overlapping):
    assert max(map(abs, replay_errors(k, overlapping))) < 4


def test_replay_of_texts_with_stop_tokens():
    """Passes and accepted tokens are exact; drafted is too high, by what rejected stop tokens kept from being drafted."""
    passes, drafted, accepted = replay_errors(3, False, frozenset({2}))
    assert abs(passes) < 4 and abs(accepted) < 4 and drafted < -4


def test_replay_without_the_free_token_is_caught():
    def no_free_token(kept, k, max_new_tokens):
        begins, passes, drafted, accepted = [1.0] + [0.0] * len(kept), 0.0, 0.0, 0.0
        for start in range(len(kept)):
            chance, length = begins[start], min(k, max_new_tokens - 1 - start)
            passes, drafted = passes + chance, drafted + chance * length
            for place in range(start, start + length):
                begins[place + 1] += chance * (1 - kept[place])
                chance *= kept[place]
                accepted += chance
            begins[start + max(length, 1)] += chance
        return passes, drafted, accepted

    assert max(map(abs, replay_errors(3, False, expected=no_free_token))) > 6


def test_replay_has_the_closed_form():
    """Independent positions: tokens per pass = (1 − α^(K+1)) / (1 − α) (Leviathan et al. 2023, equation 1)."""
    passes, drafted, accepted = expected_blocks([0.8] * 20_000, 4, 20_000)
    assert 20_000 / passes == pytest.approx((1 - 0.8**5) / 0.2, rel=1e-3)
    assert accepted / drafted == pytest.approx(0.59, abs=0.001), "the figure of the README, for α = 0.8"


def test_the_steps_resume_and_report(cli, tiny, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    write_jsonl(
        prompts,
        [
            {"prompt": f"question {number}?", "domain": "at", "query_type": "technical", "source": "written"}
            for number in range(4)
        ],
    )
    options = [
        "--prompts",
        prompts,
        "--draft",
        tiny.draft,
        "--verifier",
        tiny.overlapping,
        "--max-new-tokens",
        8,
        "--completions",
        tmp_path / "c.jsonl",
        "--paired",
        tmp_path / "p.jsonl",
        "--live",
        tmp_path / "l.jsonl",
        "--report",
        tmp_path / "a.json",
        "--drafts",
        "base",
        "--batch-size",
        3,
        "--seeds",
        2,
    ]
    assert cli(evaluate_acceptance, "complete", *options)[0] == 0
    rows = list(read_jsonl(tmp_path / "c.jsonl"))
    assert len(rows) == 4 and all(token < 330 for row in rows for token in row["token_ids"])
    write_jsonl(tmp_path / "c.jsonl", rows[:2])
    assert cli(evaluate_acceptance, "complete", *options)[0] == 0, "only the missing prompts are answered"
    assert list(read_jsonl(tmp_path / "c.jsonl"))[:2] == rows[:2]
    for step in ("paired", "live"):
        assert cli(evaluate_acceptance, step, *options)[0] == 0
        assert "already" in cli(evaluate_acceptance, step, *options)[2]
    assert len(list(read_jsonl(tmp_path / "l.jsonl"))) == 4 * (1 + 2), "the verifier once, base at two seeds"
    other = ["--live", tmp_path / "one.jsonl", "--per-type", 1, "--no-baseline"]
    assert cli(evaluate_acceptance, "live", *options, *other)[0] == 0
    assert [(row["mode"], row["seed"]) for row in read_jsonl(tmp_path / "one.jsonl")] == [("base", 42), ("base", 43)]
    assert cli(evaluate_acceptance, "report", *options)[0] == 0
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["paired"]["at"]["prompts"] == 4 and 0 < report["paired"]["at"]["means"]["base"] < 1
    assert report["live"]["acceptance_rate"]["at"]["prompts"] == 4
    assert report["agreement"]["base"]["prompts"] == 4
    rates = [report["replayed_by_k"][str(k)]["at"]["base"] for k in range(1, 9)]
    assert rates == sorted(rates) and 1 < rates[0] < 2, "more drafts, more tokens per verifier pass"


def test_missing_step_is_one_line(cli, tmp_path):
    status, _, err = cli(
        evaluate_acceptance, "report", "--paired", tmp_path / "none.jsonl", "--completions", tmp_path / "c.jsonl"
    )
    assert status == 1 and "Run the step that writes it first" in err


BAD_INPUT = [
    (["paired", "--temperature", "0"], "--temperature must be above 0"),
    (["live", "--seeds", "0"], "--seeds"),
    (["live", "--per-type", "0"], "--per-type"),
    (["live", "--k", "0"], "--k must be at least 1"),
    (["paired", "--drafts", "dpo=final_adapter"], "--drafts"),
    (["paired", "--drafts", "base", "dpo"], "--drafts"),
    (["live", "--drafts", "base", "verifier=final_adapter"], "--drafts"),
    (["paired", "--drafts", "base", "dpo=no/such/folder"], "no adapter at no/such/folder"),
]


@pytest.mark.parametrize("arguments, fragment", BAD_INPUT)
def test_bad_input_is_one_line(cli, tiny, tmp_path, arguments, fragment):
    files = ["--completions", tmp_path / "c.jsonl", "--paired", tmp_path / "p.jsonl", "--live", tmp_path / "l.jsonl"]
    status, out, err = cli(evaluate_acceptance, *arguments, *files, "--draft", tiny.draft, "--verifier", tiny.verifier)
    assert status == 1 and out == "" and fragment in err
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [err.splitlines()[-1]]


def test_other_conditions_are_not_mixed(cli, tiny, tmp_path):
    """Rows of another temperature, or of an adapter that was trained again, are neither resumed nor reported."""
    prompts = tmp_path / "prompts.jsonl"
    write_jsonl(prompts, [{"prompt": "question?", "domain": "at", "query_type": "technical", "source": "written"}])
    files = [
        "--live",
        tmp_path / "l.jsonl",
        "--paired",
        tmp_path / "p.jsonl",
        "--completions",
        tmp_path / "c.jsonl",
        "--report",
        tmp_path / "a.json",
    ]
    options = [
        "--prompts",
        prompts,
        "--draft",
        tiny.draft,
        "--verifier",
        tiny.verifier,
        "--max-new-tokens",
        4,
        "--drafts",
        "base",
        "--seeds",
        1,
        *files,
    ]
    assert cli(evaluate_acceptance, "live", *options)[0] == 0
    status, _, err = cli(evaluate_acceptance, "live", *options, "--temperature", 0.5)
    assert status == 1 and "other settings" in err
    for step in ("complete", "paired"):
        assert cli(evaluate_acceptance, step, *options)[0] == 0
    rows = list(read_jsonl(tmp_path / "p.jsonl"))
    write_jsonl(tmp_path / "p.jsonl", [{**rows[0], "adapters": {"base": "another"}}])
    status, _, err = cli(evaluate_acceptance, "report", *options)
    assert status == 1 and "other adapters" in err
    write_jsonl(tmp_path / "p.jsonl", [{key: value for key, value in rows[0].items() if key != "kept"}])
    status, _, err = cli(evaluate_acceptance, "report", *options)
    assert status == 1 and "lacks kept" in err


def test_few_prompts_get_students_t():
    assert mean_with_interval([0.1], 0)["interval"] is None
    low, high = mean_with_interval([0.0, 0.2], 0)["interval"]
    assert (low, high) == pytest.approx((0.1 - 12.706 * 0.1, 0.1 + 12.706 * 0.1), rel=1e-3), "t of one degree of freedom"


def test_interval_covers_the_mean_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for seed in range(60):
        values = (0.3 + torch.randn(60, generator=generator)).tolist()
        low, high = mean_with_interval(values, seed)["interval"]
        hits += low <= 0.3 <= high
    assert 51 <= hits <= 60, "95% of 60 is 57; fewer than 51 has a chance below 0.1%"


def test_groups_and_paired_changes():
    def row(kind, source="written"):
        return {"domain": "at", "query_type": kind, "source": source}

    groups = compare_drafts(
        [
            (row("technical"), {"base": 0.5, "dpo": 0.6}),
            (row("procedural"), {"base": 0.4, "dpo": 0.3}),
            (row("technical", "seed"), {"base": 0.9, "dpo": 0.9}),
        ],
        seed=0,
    )
    assert groups["at"]["changes"]["dpo"]["mean"] == pytest.approx(0.0)
    assert groups["at: technical"]["means"] == {"base": 0.5, "dpo": 0.6}
    assert groups["seed at"]["prompts"] == 1 and groups["at"]["changes"]["dpo"]["rose"] == 1


def test_noise_of_one_run():
    """Two rates 0.2 apart have a variance of 0.02, equal ones none; other sources and unfinished seeds do not count."""

    def row(prompt, mode, seed, rate, source="seed"):
        return {"prompt": prompt, "mode": mode, "seed": seed, "acceptance_rate": rate, "source": source, "domain": "at"}

    rows = [
        row("a", "base", 0, 0.4),
        row("a", "base", 1, 0.6),
        row("b", "base", 0, 0.5),
        row("b", "base", 1, 0.5),
        row("a", "dpo", 0, 0.5),
        row("a", "dpo", 1, 0.5),
        row("b", "dpo", 0, 0.4),
        row("b", "dpo", 1, 0.6),
    ]
    noise = evaluate_acceptance.noise_of_one_run
    found = noise([*rows, row("c", "base", 0, 0.0, "written"), row("a", "verifier", 0, None), row("a", "base", 2, 0.9)], -0.1)
    assert (found["prompts"], found["seeds"], found["run"]) == (2, 2, pytest.approx(0.1))
    assert found["difference"] == pytest.approx(0.02**0.5), "changes 0.1, −0.1 and −0.1, 0.1"
    assert found["by_seed"] == pytest.approx({0: 0.0, 1: 0.0})
    assert found["prompts_needed"] == 16, "(1.960 + 0.842)² · 0.02 / 0.01 = 15.7"
    assert noise([row for row in rows if row["seed"] == 0], -0.1) is None


def test_speed_is_compared_within_one_sitting():
    """A run without one of the plain verifier at its seed does not count, nor does a prompt of the large sets."""

    def row(prompt, mode, seed, speed, source="seed"):
        return {
            "prompt": prompt,
            "mode": mode,
            "seed": seed,
            "tokens_per_second": speed,
            "source": source,
            "tokens": 8,
            "seconds": 8 / speed,
            "block_efficiency": 2.0,
        }

    found = evaluate_acceptance.beside_the_verifier(
        [
            row("a", "verifier", 0, 4.0),
            row("a", "base", 0, 6.0),
            row("a", "base", 1, 60.0),
            row("b", "verifier", 0, 4.0),
            row("b", "base", 0, 10.0),
            row("c", "verifier", 0, 1.0, "written"),
            row("c", "base", 0, 9.0, "written"),
        ],
        seed=0,
    )
    assert found["base"]["runs"] == 2 and found["base"]["speedup"]["mean"] == pytest.approx(2.0)
    assert found["base"]["tokens_per_second"] == 8.0 and found["verifier"]["speedup"]["mean"] == 1


def test_agreement_is_of_levels_and_changes():
    live = [({"prompt": name}, {"base": 0.4, "dpo": 0.5}) for name in "ab"] + [({"prompt": "c"}, {"base": 1.0})]
    replayed = [({"prompt": name}, {"base": 0.3, "dpo": 0.3}) for name in "ab"]
    found = evaluate_acceptance.agreement(live, replayed, seed=0)
    assert {name: round(change["mean"], 9) for name, change in found.items()} == {"base": 0.1, "dpo": 0.2, "dpo − base": 0.1}
    assert found["base"]["prompts"] == 2, "c was not replayed"


def test_per_type_draws_from_every_group():
    """The same prompts at every call: a subset that changed between runs could not be resumed."""
    args = argparse.Namespace(prompts=[ROOT / "domains/at.jsonl", ROOT / "domains/general.jsonl"], per_type=6, seed=42)
    rows = evaluate_acceptance.chosen_prompts(args)
    assert rows == evaluate_acceptance.chosen_prompts(args) and len({row["prompt"] for row in rows}) == 48
    assert set(Counter((row["domain"], row["query_type"]) for row in rows).values()) == {6}


def test_predicted_speedup():
    """Leviathan et al. 2023, theorem 3.8: at c = 0 the speed-up is the block efficiency; a useless draft only costs."""
    assert benchmark_decoding.predicted_speedup(0.8, 4, 0) == pytest.approx((1 - 0.8**5) / 0.2)
    assert benchmark_decoding.predicted_speedup(0.0, 4, 0.25) == pytest.approx(0.5)
