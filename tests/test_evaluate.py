"""The two ways to measure agree where they must, and the statistics are those of a textbook."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from test_exactness import NEVER, Case, reference_probs, settings

import evaluate_acceptance
import generate_answers
from specdec import models
from specdec.adapters import adapter_digest, discover_adapters
from specdec.alignment import draft_probs, overlap_and_kept, verifier_probs
from specdec.comparison import PAIRED_KEYS, Measured, agreement, compare_drafts, joined, replayed
from specdec.engine import Engine
from specdec.files import read_jsonl, write_jsonl
from specdec.intervals import mean_with_interval
from specdec.provenance import Share, read_row_file
from specdec.sampling import Settings
from specdec.terminal import Problem
from specdec.theory import expected_blocks, speedup, tokens_per_block
from specdec.trace import acceptance_by_position, read_block
from speculative_decode import load_drafter, run_prompt
from studies.preference import analysis

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
    position, compared = 0, 0
    for block in result.blocks:
        for offset, value in enumerate((block.overlap or ())[: len(block.tokens)]):
            assert value == pytest.approx(paired[position + offset], abs=0.03)  # bf16 passes of other widths
            compared += 1
        position += len(block.tokens)
    assert compared >= 20 and len(paired) == len(answer)


# --- decoding replayed from a finished text, against decoding itself on the toy models of test_exactness --------------


def replay_errors(k: int, overlapping: bool, stop=NEVER, expected=expected_blocks) -> list[float]:
    """Decoded minus replayed verifier passes, drafted and accepted tokens, summed over texts, in standard errors.

    The probabilities of the replay come from the tables in plain Python, text by text.
    """
    case, drawn = Case(overlapping), settings(k)
    differences = []
    for blocks in case.run(drawn, stop, samples=1500):
        text = [token for block in blocks for token in block.tokens]
        kept = []
        for position, token in enumerate(text):
            history = case.prompt + text[:position]
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
            reached, length = begins[start], min(k, max_new_tokens - 1 - start)
            passes, drafted = passes + reached, drafted + reached * length
            for position in range(start, start + length):
                begins[position + 1] += reached * (1 - kept[position])
                reached *= kept[position]
                accepted += reached
            begins[start + max(length, 1)] += reached
        return passes, drafted, accepted

    assert max(map(abs, replay_errors(3, False, expected=no_free_token))) > 6


def test_replay_has_the_closed_form():
    """Independent positions: tokens per pass = (1 − α^(K+1)) / (1 − α) (Leviathan et al. 2023, equation 1)."""
    passes, drafted, accepted = expected_blocks([0.8] * 20_000, 4, 20_000)
    assert 20_000 / passes == pytest.approx((1 - 0.8**5) / 0.2, rel=1e-3)
    assert accepted / drafted == pytest.approx(0.59, abs=0.001), "the figure of the README, for α = 0.8"


def test_greedy_replay_is_greedy_decoding(tiny, tmp_path, monkeypatch):
    """At temperature 0 nothing is random: the replay of a text has the very blocks that decoding had.

    The verifier is the draft without its adapter, so that they agree in part; float32, so that no near-tie flips.
    """
    monkeypatch.setattr(models, "compute_dtype", lambda: torch.float32)
    engine = Engine(models.Pair("custom", models.Model(tiny.draft), models.Model(tiny.draft)))
    drafter, _ = load_drafter(engine, save_adapter(tiny, tmp_path / "tuned", 0))
    settings = Settings(temperature=0, max_new_tokens=30, k=3)
    drafted = accepted = 0
    for prompt in ("What screen reader?", "Captions help", "Blind users?"):
        result = run_prompt(engine, prompt, "base", settings, 0, drafter)
        row = {"prompt": prompt, "token_ids": result.token_ids}
        with torch.inference_mode():
            found = evaluate_acceptance.measure(engine, {"base": drafter}, row, settings, {})
        assert set(found["overlap_by_position"]["base"]) <= {0.0, 1.0}
        of_prompt = sum(block.accepted for block in result.blocks)
        assert expected_blocks(found["kept"]["base"], 3, 30)[::2] == (len(result.blocks), of_prompt)
        drafted, accepted = drafted + sum(len(block.drafted) for block in result.blocks), accepted + of_prompt
    assert 0 < accepted < drafted, "all or none accepted: the test would say little"


# --- the steps --------------------------------------------------------------------------------------------------------


@pytest.fixture
def steps(cli, tiny, tmp_path):
    """`steps(step, *options)` → (exit status, stdout, stderr) of a step on four prompts, all files in `tmp_path`."""
    rows = [{"prompt": f"question {n}?", "domain": "at", "query_type": "technical", "source": "written"} for n in range(4)]
    prompts = tmp_path / "prompts.jsonl"
    write_jsonl(prompts, rows)

    def call(step, *options, verifier=tiny.overlapping, drafts=("base",)):
        models_used = ["--draft", tiny.draft, "--verifier", verifier]
        if step == "answers":
            fixed = ["--prompts", prompts, "--output", tmp_path / "answers.jsonl", "--max-new-tokens", 8]
            return cli(generate_answers, *fixed, *models_used, *options)
        if step == "report":
            return cli(evaluate_acceptance, step, "--results-dir", tmp_path, *options)
        fixed = ["--prompts", prompts, "--results-dir", tmp_path, "--drafts", *drafts, "--seeds", 2, "--max-new-tokens", 8]
        return cli(evaluate_acceptance, step, *fixed, *models_used, *options)

    return call


def last_line(answer: tuple[int, str, str]) -> str:
    """Of a command that was refused: its one line, which must be the only error."""
    status, out, err = answer
    assert status == 1 and out == ""
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [err.splitlines()[-1]]
    return err.splitlines()[-1]


def save_adapter(tiny, folder: Path, weights: int, **settings) -> str:
    """A random LoRA adapter of `tiny.draft`, other weights for each `weights`, with the metrics.json of a training."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(weights)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny.draft), config).save_pretrained(folder)
    (folder / "metrics.json").write_text(json.dumps({"settings": {"base_model": tiny.draft, **settings}}))
    return str(folder)


def test_the_steps_resume_and_report(steps, tiny, tmp_path):
    tuned = save_adapter(tiny, tmp_path / "tuned", 0, loss="kl", seed=7)
    drafts = ("base", f"kl={tuned}")
    assert steps("answers")[0] == 0
    for step in ("paired", "live"):
        assert steps(step, drafts=("base",))[0] == 0
        assert steps(step, drafts=drafts)[0] == 0, "the draft that is missing is added"
        before = (tmp_path / f"{step}.jsonl").read_bytes()
        assert "already" in steps(step, drafts=drafts)[2]
        assert (tmp_path / f"{step}.jsonl").read_bytes() == before
    headers, rows = read_row_file(tmp_path / "live.jsonl")
    assert len(rows) == 4 * (1 + 2 + 2), "the verifier once, both drafts at two seeds"
    assert [header["conditions"]["drafts"] for header in headers.values()] == [{"base": None}, {"base": None, "kl": "tuned"}]
    assert steps("report")[0] == 0
    report = json.loads((tmp_path / "acceptance.json").read_text())
    assert " report --results-dir " in report["command"] and report["conditions"]["k"] == 4
    assert report["drafts"]["base"] is None
    assert report["paired"]["at"]["prompts"] == 4 and 0 < report["paired"]["at"]["means"]["base"] < 1
    assert report["paired"]["at"]["changes"].keys() == {"kl"}
    assert report["live"]["acceptance_rate"]["at"]["prompts"] == 4
    assert report["agreement"]["base"]["prompts"] == 4
    rates = [report["replayed_by_k"][str(k)]["at"]["base"] for k in range(1, 9)]
    assert rates == sorted(rates) and 1 < rates[0] < 2, "more drafts, more tokens per verifier pass"
    assert [report["tau"][str(k)]["at"]["means"]["base"] for k in range(1, 9)] == rates
    c = report["parameters"]["draft"] / report["parameters"]["verifier"]
    assert report["mbsu"]["5"]["at"]["means"]["base"] == pytest.approx(speedup(rates[4], 5, c))
    assert [len(report["measured"][step]) for step in ("paired", "live")] == [1, 1], "one machine, one commit"


def test_the_report_describes_its_drafts(steps, tiny, tmp_path, monkeypatch):
    """By the settings of their trainings, from a path that is relative to the current directory."""
    monkeypatch.setattr("specdec.provenance.ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    save_adapter(tiny, tmp_path / "adapters" / "odd name", 0, loss="kl", lora_r=2, seed=7)
    assert steps("answers")[0] == 0 and steps("paired", drafts=("all",))[0] == 0
    assert steps("report")[0] == 0
    described = json.loads((tmp_path / "acceptance.json").read_text())["drafts"]
    assert described == {
        "base": None,
        "odd name": {"path": "adapters/odd name", "base_model": tiny.draft, "loss": "kl", "lora_r": 2, "seed": 7},
    }


def test_an_adapter_that_was_replaced_is_not_described(steps, tiny, tmp_path, monkeypatch):
    """Its folder tells of another training than the one that was measured."""
    monkeypatch.chdir(tmp_path)
    save_adapter(tiny, tmp_path / "tuned", 0, loss="kl")
    assert steps("answers")[0] == 0 and steps("paired", drafts=("base", "kl=tuned"))[0] == 0
    save_adapter(tiny, tmp_path / "tuned", 1, loss="js")
    status, _, err = steps("report")
    assert status == 0 and "another one than was measured" in err
    assert json.loads((tmp_path / "acceptance.json").read_text())["drafts"]["kl"] == {"path": "tuned"}


def test_paired_rows_hold_what_figures_need(steps, tmp_path):
    assert steps("answers")[0] == 0 and steps("paired")[0] == 0
    answers = {row["prompt"]: row for row in read_row_file(tmp_path / "answers.jsonl")[1]}
    for row in read_row_file(tmp_path / "paired.jsonl")[1]:
        by_position, kept = row["overlap_by_position"]["base"], row["kept"]["base"]
        assert len(by_position) == len(kept) == row["positions"] == len(answers[row["prompt"]]["token_ids"])
        assert sum(by_position) / len(by_position) == pytest.approx(row["overlap"]["base"], abs=1e-4)
        assert max(by_position) <= 1 and row["overlap"]["base"] <= row["shared_mass"] < 1
        for p, q, of_draft in zip(row["p"], row["q"]["base"], kept, strict=True):
            assert min(1, q / p) == pytest.approx(of_draft, abs=1e-3), "p and q are those of the answer's own tokens"
        assert not {"token_ids", "tools", "commit", "conditions"} & row.keys(), "they stand in the answers and in the header"


def test_shared_mass_of_one_vocabulary_is_all(steps, tiny, tmp_path):
    assert steps("answers", verifier=tiny.verifier)[0] == 0 and steps("paired", verifier=tiny.verifier)[0] == 0
    assert all(row["shared_mass"] == pytest.approx(1) for row in read_row_file(tmp_path / "paired.jsonl")[1])


def test_live_rows_hold_their_blocks(steps, tmp_path):
    """In the one schema of specdec.trace, with p and q of every tested draft."""
    assert steps("live")[0] == 0
    for row in read_row_file(tmp_path / "live.jsonl")[1]:
        blocks = [read_block(block) for block in row["blocks"]]
        assert sum(len(block.tokens) for block in blocks) == row["tokens"]
        assert acceptance_by_position(blocks) == row["acceptance_by_position"]
        for block in blocks:
            assert block.p is not None and block.q is not None
            assert len(block.p) == len(block.q) == min(block.accepted + 1, len(block.drafted))


def test_a_subset_is_drawn_per_type(steps, tmp_path):
    assert steps("live", "--per-type", 1, "--no-baseline")[0] == 0
    rows = read_row_file(tmp_path / "live.jsonl")[1]
    assert [(row["draft"], row["seed"]) for row in rows] == [("base", 42), ("base", 43)]


# --- without a chat template ------------------------------------------------------------------------------------------


def test_raw_runs_go_on_where_the_prompt_ends(steps, tiny, tmp_path, monkeypatch):
    """Both models read the prompt's own tokens; the header says so, and other rows are refused beside them."""
    read = []

    def noted(engine, prompt, *rest, ids):
        read.append(engine.tokenizer.decode(ids[0]))
        return run_prompt(engine, prompt, *rest, ids=ids)

    monkeypatch.setattr(evaluate_acceptance, "run_prompt", noted)
    assert steps("live", "--raw", "--no-baseline")[0] == 0
    assert set(read) == {f"question {number}?" for number in range(4)}
    (header,) = read_row_file(tmp_path / "live.jsonl")[0].values()
    assert header["conditions"]["raw"] is True
    assert "other settings" in last_line(steps("live", "--no-baseline"))
    assert steps("answers", "--raw")[0] == 0 and steps("paired")[0] == 0
    assert steps("report")[0] == 0, "live and paired rows, both without a template"


def test_templated_runs_are_not_reported_beside_raw_answers(steps, tmp_path):
    assert steps("answers", "--raw")[0] == 0 and steps("paired", "--raw")[0] == 0 and steps("live")[0] == 0
    assert "other settings" in last_line(steps("report"))


def test_raw_needs_raw_answers(steps):
    assert steps("answers")[0] == 0
    assert "written with a chat template" in last_line(steps("paired", "--raw"))


def test_a_special_token_in_a_raw_prompt_is_refused_before_the_first_run(steps, tmp_path):
    rows = list(read_jsonl(tmp_path / "prompts.jsonl"))
    write_jsonl(tmp_path / "prompts.jsonl", [*rows, {**rows[0], "prompt": "def f():<|im_end|>"}])
    assert "special token" in last_line(steps("live", "--raw"))
    assert not (tmp_path / "live.jsonl").exists()


# --- several processes ------------------------------------------------------------------------------------------------


@pytest.fixture
def launch(tiny, tmp_path):
    """`launch()` → `paired` begun in two processes, on the answers in `tmp_path`; its rows go to the folder two."""

    def call() -> subprocess.Popen:
        options = ["--results-dir", tmp_path / "two", "--answers", tmp_path / "answers.jsonl", "--max-new-tokens", 8]
        options += ["--prompts", tmp_path / "prompts.jsonl", "--draft", tiny.draft, "--verifier", tiny.overlapping]
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", 2, "--standalone"]
        command = [sys.executable, *launcher, ROOT / "evaluate_acceptance.py", "paired", "--drafts", "base", *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        with open(tmp_path / "launch.log", "w") as log:
            return subprocess.Popen(list(map(str, command)), stderr=log, env=environment, cwd=tmp_path)

    return call


def bare_rows(folder: Path) -> list[dict]:
    rows = read_row_file(folder / "paired.jsonl")[1]
    return [{key: value for key, value in row.items() if key != "run_id"} for row in rows]


def test_two_processes_measure_what_one_measures(steps, launch, tmp_path):
    """The same rows in the same order, one header, nothing left beside the file."""
    assert steps("answers")[0] == 0 and steps("paired")[0] == 0
    assert launch().wait(timeout=300) == 0, (tmp_path / "launch.log").read_text()
    assert bare_rows(tmp_path / "two") == bare_rows(tmp_path) and len(bare_rows(tmp_path)) == 4
    assert len(read_row_file(tmp_path / "two" / "paired.jsonl")[0]) == 1
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["paired.jsonl"]


def test_a_killed_process_loses_no_finished_row(steps, launch, tmp_path):
    """One of two is killed behind its first row, which ends the other; the next command keeps their rows and adds the rest."""
    prompts = [f"question {number}?" for number in range(60)]
    rows = [{"prompt": text, "domain": "at", "query_type": "technical", "source": "written"} for text in prompts]
    write_jsonl(tmp_path / "prompts.jsonl", rows)
    assert steps("answers")[0] == 0
    process = launch()
    part = tmp_path / "two" / "paired.jsonl.1"
    while process.poll() is None and not (part.exists() and part.read_bytes().count(b"\n") > 1):
        time.sleep(0.005)
    children = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True)
    os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
    assert process.wait(timeout=300) != 0
    finished = []
    for file in (tmp_path / "two").glob("paired.jsonl.*"):
        finished += read_row_file(file)[1]
    assert 1 <= len(finished) == len({row["prompt"] for row in finished}) < 60, "no prompt is measured by both"
    assert steps("paired", "--results-dir", tmp_path / "two", "--answers", tmp_path / "answers.jsonl")[0] == 0
    found = read_row_file(tmp_path / "two" / "paired.jsonl")[1]
    assert sorted(row["prompt"] for row in found) == sorted(prompts)
    assert all(row in found for row in finished), "measured once, kept"
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["paired.jsonl"]


def test_half_a_row_of_a_killed_process_is_left_out(steps, tmp_path):
    """The row that it was writing, and no other; the command measures that prompt again."""
    assert steps("answers")[0] == 0 and steps("paired")[0] == 0
    whole = (tmp_path / "paired.jsonl").read_bytes()
    header, first, second, *_ = whole.splitlines(keepends=True)
    (tmp_path / "paired.jsonl").unlink()
    (tmp_path / "paired.jsonl.1").write_bytes(header + first + second[:-20])
    (tmp_path / "paired.jsonl.2").write_bytes(header[:50])
    copies = [tmp_path / f"paired.jsonl.{name}" for name in ("2026-11-26", "1.bak", "bak.1~")]
    for copy in copies:
        copy.write_bytes(whole[:-20])
    assert steps("paired")[0] == 0
    for copy in copies:
        assert copy.read_bytes() == whole[:-20], "a copy that the user made is no part"
        copy.unlink()
    rows = read_row_file(tmp_path / "paired.jsonl")[1]
    assert rows[0] == json.loads(first) and len(rows) == len({row["prompt"] for row in rows}) == 4
    assert not list(tmp_path.glob("paired.jsonl.*"))


def test_what_takes_times_refuses_a_launcher(steps, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for step in ("live", "report"):
        assert "runs in one process" in last_line(steps(step))
    assert Share(Path("rows.jsonl")).of(list("abcde")) == ["b", "d"]


def test_a_draft_that_ends_when_unsure_is_for_live_alone(steps):
    """`paired` would leave the option out without a word, and `report` compare such runs with drafts of K tokens."""
    for step in ("paired", "report"):
        assert "--stop-below is for live" in last_line(steps(step, "--stop-below", 0.4))


def test_runs_that_ended_when_unsure_are_not_reported(steps, tmp_path):
    """The line names them and says where they belong; report has no such option, so "the same options again" would not help."""
    assert steps("answers")[0] == 0 and steps("paired")[0] == 0
    assert steps("live", "--stop-below", 0.4, "--no-baseline")[0] == 0
    line = last_line(steps("report"))
    assert "live.jsonl holds runs with --stop-below 0.4" in line and "Move it to a folder of its own" in line
    (tmp_path / "unsure").mkdir()
    (tmp_path / "live.jsonl").rename(tmp_path / "unsure/live.jsonl")
    assert steps("report")[0] == 0


# --- never numbers of other conditions --------------------------------------------------------------------------------


OTHER_ANSWERS = [
    (["--temperature", 0.5], "none at temperature 0.5"),
    (["--top-p", 0.9], "top-p 0.9"),
    (["--max-new-tokens", 6], "another max_new_tokens (8, not 6)"),
    (["--top-k", 5], "--top-k"),
]


@pytest.mark.parametrize("options, fragment", OTHER_ANSWERS)
def test_answers_of_other_conditions_are_refused(steps, tmp_path, options, fragment):
    assert steps("answers")[0] == 0
    assert fragment in last_line(steps("paired", *options))
    assert not (tmp_path / "paired.jsonl").exists()


def test_answers_of_another_verifier_are_refused(steps, tiny):
    assert steps("answers", verifier=tiny.verifier)[0] == 0
    assert "another verifier" in last_line(steps("paired"))


def test_each_temperature_has_its_own_answers(steps, tmp_path):
    """One file of answers at two temperatures; `paired` takes those of its own."""
    assert steps("answers", "--temperature", 0.7, 1)[0] == 0
    assert steps("paired", "--temperature", 1)[0] == 0
    stored = read_row_file(tmp_path / "answers.jsonl")[1]
    lengths = {row["prompt"]: len(row["token_ids"]) for row in stored if row["temperature"] == 1}
    rows = read_row_file(tmp_path / "paired.jsonl")[1]
    assert {row["prompt"]: row["positions"] for row in rows} == lengths


def test_prompts_without_answers_are_counted(steps, tmp_path):
    assert "no answers at" in last_line(steps("paired"))
    assert steps("answers", "--limit", 3)[0] == 0
    status, _, err = steps("paired")
    assert status == 0 and "1 of 4 prompts have no answer" in err
    other = {"prompt": "another?", "domain": "at", "query_type": "technical", "source": "written"}
    write_jsonl(tmp_path / "prompts.jsonl", [other])
    assert "none of the 1 prompts has an answer" in last_line(steps("paired"))


def test_the_report_is_restricted_to_its_prompts(steps, tmp_path):
    assert steps("answers")[0] == 0 and steps("paired")[0] == 0 and steps("live")[0] == 0
    some = tmp_path / "some.jsonl"
    write_jsonl(some, list(read_jsonl(tmp_path / "prompts.jsonl"))[:3])
    assert steps("report", "--prompts", some)[0] == 0
    report = json.loads((tmp_path / "acceptance.json").read_text())
    assert report["paired"]["at"]["prompts"] == report["live"]["acceptance_rate"]["at"]["prompts"] == 3
    write_jsonl(some, [{"prompt": "another?", "domain": "at", "query_type": "technical", "source": "written"}])
    assert "no rows in" in last_line(steps("report", "--prompts", some))


def test_rows_of_other_settings_are_neither_resumed_nor_reported(steps, tmp_path):
    assert steps("answers")[0] == 0 and steps("paired")[0] == 0 and steps("live")[0] == 0
    assert "other settings" in last_line(steps("live", "--temperature", 0.5))
    assert "other settings" in last_line(steps("live", "--k", 3))
    assert "other settings" in last_line(steps("report", "--k", 3)), "the live rows are of K = 4"
    header, *rows = read_jsonl(tmp_path / "paired.jsonl")
    for other in ({"temperature": 1.0}, {"dtype": "float16"}):  # a CPU without bf16 units measures in float32
        changed = {**header, "run_id": "other", "conditions": {**header["conditions"], **other}}
        write_jsonl(tmp_path / "paired.jsonl", [header, *rows, changed])
        assert "other settings" in last_line(steps("report"))


def test_an_adapter_that_was_trained_again_is_refused(steps, tiny, tmp_path):
    tuned = save_adapter(tiny, tmp_path / "tuned", 0)
    assert steps("answers")[0] == 0 and steps("paired", drafts=("base", f"kl={tuned}"))[0] == 0
    save_adapter(tiny, tmp_path / "tuned", 1)
    assert "other adapters" in last_line(steps("paired", drafts=("base", f"kl={tuned}")))
    assert "other adapters" in last_line(steps("paired", drafts=("base", f"kl={save_adapter(tiny, tmp_path / 'more', 2)}")))


def test_answers_that_were_written_again_are_refused(steps, tmp_path):
    assert steps("answers")[0] == 0 and steps("paired")[0] == 0
    (tmp_path / "answers.jsonl").unlink()
    assert steps("answers", "--seed", 7)[0] == 0
    assert "rows of another answer" in last_line(steps("paired"))


def test_a_row_that_lacks_something_is_named(steps, tmp_path):
    assert steps("answers")[0] == 0 and steps("paired")[0] == 0
    header, *rows = read_jsonl(tmp_path / "paired.jsonl")
    write_jsonl(tmp_path / "paired.jsonl", [header, {key: value for key, value in rows[0].items() if key != "kept"}])
    assert "lacks kept" in last_line(steps("report"))
    write_jsonl(tmp_path / "paired.jsonl", rows)
    assert "has no header" in last_line(steps("report"))


NOT_OF_A_REPORT = [
    (["--drafts", "base"], "--drafts"),
    (["--answers", "answers.jsonl"], "--answers"),
    (["--temperature", 0.7], "--temperature"),
    (["--no-baseline", "--raw"], "--raw, --no-baseline"),
    (["--verifier", "some/model"], "--verifier"),
    (["--per-type", 2], "--per-type draws from --prompts"),
]


@pytest.mark.parametrize("options, fragment", NOT_OF_A_REPORT)
def test_a_report_refuses_what_it_would_ignore(steps, tmp_path, options, fragment):
    """A default that is given too: who names a temperature believes that the report is of it."""
    line = last_line(steps("report", *options))
    assert fragment in line and "eave it out" in line
    assert not (tmp_path / "acceptance.json").exists()


def test_missing_step_is_one_line(steps):
    assert "Run evaluate_acceptance.py paired first" in last_line(steps("report"))


BAD_INPUT = [
    (["live", "--temperature", "0"], ["base"], "--temperature must be above 0"),
    (["live", "--k", "0"], ["base"], "--k must be at least 1"),
    (["paired"], ["dpo=final_adapter"], "lacks base"),
    (["paired"], ["base", "dpo"], "--drafts"),
    (["live"], ["base", "verifier=final_adapter"], "--drafts"),
    (["paired"], ["base", "dpo=no/such/folder"], "no adapter at no/such/folder"),
    (["live"], ["base", "dpo=no/such/folder"], "no adapter at no/such/folder"),
    (["paired", "--results-dir", "/proc/none"], ["base"], "cannot write"),
    (["live", "--prompts", "none.jsonl"], ["base"], "none.jsonl"),
]


@pytest.mark.parametrize("arguments, drafts, fragment", BAD_INPUT)
def test_bad_input_is_one_line(steps, arguments, drafts, fragment):
    assert steps("answers")[0] == 0
    assert fragment in last_line(steps(*arguments, drafts=drafts))


@pytest.mark.parametrize("arguments", [["live", "--seeds", "0"], ["live", "--per-type", "0"]])
def test_numbers_out_of_range_are_refused(steps, arguments):
    status, _, err = steps(*arguments)
    assert status == 2 and arguments[1] in err


# --- drafts by discovery ----------------------------------------------------------------------------------------------


def described(folder: Path, base_model: str) -> None:
    """An adapter as discovery sees it."""
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"settings": {"base_model": base_model, "loss": "kl"}}))
    (folder / "adapter_model.safetensors").write_text("weights")


def test_adapters_of_this_draft_are_discovered(tmp_path):
    described(tmp_path / "final_adapter", "ours")
    described(tmp_path / "adapters" / "b", "ours")
    described(tmp_path / "adapters" / "a", "ours")
    described(tmp_path / "adapters" / "of-another-draft", "theirs")
    (tmp_path / "adapters" / "no-metrics").mkdir()
    found = discover_adapters("ours", tmp_path)
    assert list(found.items()) == [(name, str(tmp_path / path)) for name, path in NAMES]
    assert list(discover_adapters("theirs", tmp_path)) == ["of-another-draft"]


def test_metrics_without_weights_are_left_out_and_named(tmp_path, capsys):
    """The repository keeps those of some drafts; `--drafts all` measures the others."""
    described(tmp_path / "final_adapter", "ours")
    for name in ("kl", "base"):
        described(tmp_path / "adapters" / name, "ours")
        (tmp_path / "adapters" / name / "adapter_model.safetensors").unlink()
    assert list(discover_adapters("ours", tmp_path)) == ["dpo"], "nor does such a folder's name matter"
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "adapters/kl") in line and str(tmp_path / "adapters/base") in line and "final_adapter" not in line


def test_every_discovered_draft_of_the_repository_has_weights(monkeypatch):
    monkeypatch.chdir(ROOT)
    drafts = evaluate_acceptance.chosen_drafts(["all"], models.PAIRS["smollm2-qwen"])
    assert all(adapter_digest(path) for name, path in drafts.items() if name != "base") and "distilled" in drafts


NAMES = (("dpo", "final_adapter"), ("a", "adapters/a"), ("b", "adapters/b"))


@pytest.mark.parametrize("name", ["dpo", "base", "verifier"])
def test_a_folder_with_anothers_name_is_refused(tmp_path, name):
    described(tmp_path / "final_adapter", "ours")
    described(tmp_path / "adapters" / name, "ours")
    with pytest.raises(Problem, match="name of another draft"):
        discover_adapters("ours", tmp_path)


def test_metrics_that_cannot_be_read_are_named(tmp_path):
    described(tmp_path / "adapters" / "a", "ours")
    (tmp_path / "adapters" / "a" / "metrics.json").write_text("{")
    with pytest.raises(Problem, match="metrics.json cannot be read"):
        discover_adapters("ours", tmp_path)


def test_the_repositorys_drafts_are_those_of_its_report(monkeypatch):
    monkeypatch.chdir(ROOT)
    report = json.loads((ROOT / "studies/preference/results/acceptance.json").read_text())
    found = discover_adapters(report["conditions"]["draft"])
    for name, description in report["drafts"].items():
        assert description is None or found[name] == description["path"]


# --- statistics -------------------------------------------------------------------------------------------------------


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
    assert 51 <= hits <= 60, "95% of 60 is 57; fewer than 51 has a probability below 0.1%"


def test_groups_and_paired_changes():
    def row(kind, source="written"):
        return {"domain": "at", "query_type": kind, "source": source}

    values = [
        (row("technical"), {"base": 0.5, "dpo": 0.6}),
        (row("procedural"), {"base": 0.4, "dpo": 0.3}),
        (row("technical", "study0"), {"base": 0.9, "dpo": 0.9}),
    ]
    groups = compare_drafts(values, seed=0)
    assert groups["at"]["changes"]["dpo"]["mean"] == pytest.approx(0.0)
    assert groups["at: technical"]["means"] == {"base": 0.5, "dpo": 0.6}
    assert groups["study0 at"]["prompts"] == 1 and groups["at"]["changes"]["dpo"]["rose"] == 1
    papers = compare_drafts(values, 0, analysis.papers_conditions)
    assert {name: group["prompts"] for name, group in papers.items()} == {
        "at: procedural/technical": 2,
        "study0 at: procedural/technical": 1,
    }


def test_a_draft_that_lacks_prompts_is_left_out(capsys):
    rows = [
        ({"domain": "at", "query_type": "technical", "source": "written"}, drafts)
        for drafts in ({"base": 1.0, "kl": 1.0}, {"base": 0.0})
    ]
    assert compare_drafts(rows, seed=0)["at"]["means"] == {"base": 0.5}
    assert "kl lacks some of the 2 prompts" in capsys.readouterr().err


def test_the_report_is_what_the_rows_say():
    """The repository's own rows give the numbers of its report."""
    results = ROOT / "studies/preference/results"
    report = json.loads((results / "acceptance.json").read_text())
    found = Measured(results / "paired.jsonl", PAIRED_KEYS)
    rows = [row for row in joined(found.rows) if (row["domain"], row["source"]) == ("at", "written")]
    assert found.adapters == report["adapters"] and len(rows) == 120
    again = compare_drafts([(row, row["overlap"]) for row in rows], report["conditions"]["seed"], lambda row: ["at"])
    assert again["at"] == report["paired"]["at"]
    rates = [drafts["dpo"]["block_efficiency"] for _, drafts in replayed(rows, 2, 200)]
    assert sum(rates) / 120 == pytest.approx(report["replayed_by_k"]["2"]["at"]["dpo"])


# --- study 0's own analyses -------------------------------------------------------------------------------------------


def test_noise_of_one_run():
    """Two rates 0.2 apart have a variance of 0.02, equal ones none; other sources and unfinished seeds do not count."""

    def row(prompt, draft, seed, rate, source="study0"):
        return {"prompt": prompt, "draft": draft, "seed": seed, "acceptance_rate": rate, "source": source, "domain": "at"}

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
    noise = analysis.noise_of_one_run
    found = noise([*rows, row("c", "base", 0, 0.0, "written"), row("a", "verifier", 0, None), row("a", "base", 2, 0.9)], -0.1)
    assert found is not None
    assert (found["prompts"], found["seeds"], found["run"]) == (2, 2, pytest.approx(0.1))
    assert found["difference"] == pytest.approx(0.02**0.5), "changes 0.1, −0.1 and −0.1, 0.1"
    assert found["by_seed"] == pytest.approx({0: 0.0, 1: 0.0})
    assert found["prompts_needed"] == 16, "(1.960 + 0.842)² · 0.02 / 0.01 = 15.7"
    assert noise([row for row in rows if row["seed"] == 0], -0.1) is None


def test_speed_is_compared_within_one_sitting():
    """A run without one of the plain verifier at its seed does not count, nor does a prompt of the large sets."""

    def row(prompt, draft, seed, speed, source="study0"):
        return {
            "prompt": prompt,
            "draft": draft,
            "seed": seed,
            "tokens_per_second": speed,
            "source": source,
            "tokens": 8,
            "seconds": 8 / speed,
            "block_efficiency": 2.0,
        }

    found = analysis.beside_the_verifier(
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


def test_the_analysis_is_what_the_rows_say(cli, tmp_path, monkeypatch):
    """study.json of the repository, made again from its rows; and one line where the report is missing."""
    results = ROOT / "studies/preference/results"
    for name in ("paired.jsonl", "live.jsonl", "acceptance.json"):
        shutil.copy(results / name, tmp_path / name)
    assert cli(analysis, "--results-dir", tmp_path)[0] == 0
    found, stored = (json.loads((folder / "study.json").read_text()) for folder in (tmp_path, results))
    for key in ("live_by_prompt", "noise", "live_speed", "by_condition", "measured"):
        assert found[key] == stored[key]
    (tmp_path / "acceptance.json").unlink()
    assert "Run evaluate_acceptance.py report first" in last_line(cli(analysis, "--results-dir", tmp_path))


def test_agreement_is_of_levels_and_changes():
    live = [({"prompt": name}, {"base": 0.4, "dpo": 0.5}) for name in "ab"] + [({"prompt": "c"}, {"base": 1.0})]
    expected = [({"prompt": name}, {"base": 0.3, "dpo": 0.3}) for name in "ab"]
    found = agreement(live, expected, seed=0)
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
    assert speedup(tokens_per_block(0.8, 4), 4, 0) == pytest.approx((1 - 0.8**5) / 0.2)
    assert speedup(tokens_per_block(0.0, 4), 4, 0.25) == pytest.approx(0.5)
    assert speedup(2.3, 3, 0.0164) == pytest.approx(2.19, abs=0.005), "Goel et al. 2024 at γ = 3"
