"""Study 3: its training text, and its analysis and tables from rows of the tiny pair, whole and in part."""

import json
import math
import random
import re
import shutil
import statistics
from pathlib import Path

import pytest
import torch
from test_evaluate import save_adapter

import evaluate_acceptance
import generate_answers
import train_distill
from domains import code
from specdec import models
from specdec.answers import read_answers
from specdec.comparison import PAIRED_KEYS, Measured
from specdec.engine import Engine
from specdec.files import read_jsonl, write_jsonl
from specdec.provenance import read_row_file
from specdec.sampling import Settings
from specdec.terminal import Problem
from specdec.theory import Bursts, expected_blocks
from specdec.trace import Block, Run, block_row, summarize
from speculative_decode import load_drafter, run_prompt
from studies.code import analysis, human, tables

ROOT = Path(__file__).resolve().parents[1]
HEADER = {
    "run_id": "one",
    "command": "c",
    "conditions": {"max_new_tokens": 128, "drafts": {"base": None}, "adapters": {"base": None}},
    "environment": {"commit": "abcdef0123", "packages": None},
    "parameters": {"draft": 1, "verifier": 4},
}


def row_of(domain: str, number: int, kept_by: dict[str, list[float]]) -> dict:
    """A row of `paired` whose verifier gives every token probability .5, so that q = kept / 2."""
    where = {"domain": "code", "language": domain, "group": code.GROUP[domain]} if domain in code.GROUP else {"domain": domain}
    return {
        "prompt": f"{domain} {number}",
        **where,
        "query_type": domain,
        "source": "pip",
        "positions": len(kept_by["base"]),
        "shared_mass": 1.0,
        "overlap": {name: sum(kept) / len(kept) for name, kept in kept_by.items()},
        "kept": kept_by,
        "p": [0.5] * len(kept_by["base"]),
        "q": {name: [value / 2 for value in kept] for name, kept in kept_by.items()},
        "run_id": "one",
    }


def measured(folder: Path, domains, drafts=("base",), prompts=3, gain=0.0, only=lambda draft, number: True) -> None:
    """Writes paired.jsonl: in every later domain tokens come from the draft less often.

    A tuned draft proposes as base does, but that what base seldom proposed is kept more often, by `gain`. `only` says on which
    prompts it was measured.
    """
    draw, rows = random.Random(0), []
    for rank, domain in enumerate(domains):
        for number in range(prompts):
            kept = [1.0 if draw.random() < 0.9 - 0.05 * rank else 0.2 for _ in range(40)]
            better = [value if value == 1 else 0.2 + gain for value in kept]
            mine = {name: better if name != "base" else kept for name in drafts if only(name, number)}
            rows.append(row_of(domain, number, mine))
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: None if name == "base" else "nowhere" for name in drafts}
    conditions = {**HEADER["conditions"], "drafts": paths, "adapters": dict.fromkeys(drafts)}
    write_jsonl(folder / "paired.jsonl", [{**HEADER, "conditions": conditions}, *rows])


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A copy of the study's page, and a front page with its row; results are written there."""
    folder = tmp_path / "studies/code"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "studies/code/README.md", folder)
    (tmp_path / "README.md").write_text("| code | question | <!-- row code -->old<!-- /row code --> |\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- training text ----------------------------------------------------------------------------------------------------


def test_a_snippet_is_cut_behind_a_line():
    for row in code.training_snippets():
        prompt, rest = human.cut(row["text"])
        assert prompt + rest == row["text"] and prompt.endswith("\n") and rest
    assert human.cut("a\nb") == ("a\n", "b")


def test_human_code_is_an_answers_file(cli, tiny, tmp_path):
    """Every snippet of the mix, in the verifier's tokens, and the prompts for the verifier to complete."""
    file, prompts = tmp_path / "human.jsonl", tmp_path / "prompts.jsonl"
    status, _, err = cli(human, "--draft", tiny.draft, "--verifier", tiny.verifier, "--output", file, "--prompts", prompts)
    assert status == 0, err
    rows = read_answers(file, verifier=tiny.verifier, raw=True)
    assert len(rows) == len(code.training_snippets()) and len({row["prompt"] for row in rows}) == len(rows)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.verifier)
    texts = {row["text"] for row in code.training_snippets()}
    assert all(row["prompt"] + tokenizer.decode(row["token_ids"]) in texts for row in rows[:20])
    (conditions,) = [header["conditions"] for header in read_row_file(file)[0].values()]
    assert (conditions["text"], conditions["mix"]) == ("human", "plan")
    assert cli(human, "--verifier", tiny.verifier, "--limit", 60, "--max-tokens", 9, "--output", tmp_path / "part")[0] == 0
    part = read_answers(tmp_path / "part")
    assert max(len(row["token_ids"]) for row in part) == 9
    assert len(part) == 60 and 6 <= sum(row["language"] == "python" for row in part) <= 18, "the plan's mix: 100 of 540"
    asked = list(read_jsonl(prompts))
    assert [row["prompt"] for row in asked] == [row["prompt"] for row in rows] and "token_ids" not in asked[0]


def test_no_token_of_the_tokenizers_own_stands_before_what_follows():
    """Llama's tokenizer puts one before every text; the human code goes on behind its prompt."""

    def tokenizer(text: str, add_special_tokens: bool = True) -> dict:
        return {"input_ids": [1] * add_special_tokens + list(text.encode())}

    (row,) = human.human_rows([{"text": "a\nb"}], tokenizer, 1)
    assert row["prompt"] == "a\n" and row["token_ids"] == [ord("b")]


def test_a_draft_learns_its_likelihood(cli, tiny, tmp_path):
    """Raw, and by nll alone: there are no probabilities for another loss."""
    file, pair = tmp_path / "human.jsonl", ("--draft", tiny.draft, "--verifier", tiny.verifier)
    assert cli(human, *pair, "--output", file)[0] == 0
    header, *rows = read_jsonl(file)
    write_jsonl(file, [header, *({**row, "token_ids": row["token_ids"][:40]} for row in rows[:12])])
    options = (*pair, "--answers", file, "--output-dir", tmp_path / "tuned", "--lora-r", 4, "--batch-size", 4)
    status, _, err = cli(train_distill, *options, "--loss", "kl")
    assert status == 1 and "no stored probabilities" in err
    status, _, err = cli(train_distill, *options, "--loss", "nll", "--max-steps", 6, "--learning-rate", 0.02)
    assert status == 0, err
    losses = [row["loss"] for row in read_jsonl(tmp_path / "tuned/metrics.jsonl") if "loss" in row]
    assert losses[-1] < losses[0]
    settings = json.loads((tmp_path / "tuned/metrics.json").read_text())["settings"]
    assert settings["temperature"] == 1.0 and settings["loss"] == "nll"


def test_repeated_languages(cli, tmp_path):
    rows = human.repeated([{"language": "zig"}, {"language": "lua"}], ["zig=3"])
    assert [row["language"] for row in rows] == ["zig"] * 3 + ["lua"]
    for wrong in ("cobol=2", "zig", "zig=0", "zig=x"):
        status, _, err = cli(human, "--output", tmp_path / "f", "--repeat", wrong)
        assert status == 1 and f"--repeat {wrong} is not of the form" in err and not (tmp_path / "f").exists()


# --- analysis ---------------------------------------------------------------------------------------------------------


def test_metrics_of_a_domain(tmp_path):
    measured(tmp_path / "pair", ["python", "natural_language"])
    found = analysis.of_pair(tmp_path / "pair")
    rows = [row for row in read_jsonl(tmp_path / "pair/paired.jsonl") if row.get("query_type") == "python"]
    rates = []
    for row in rows:
        passes, drafted, accepted = expected_blocks(row["kept"]["base"], 4, 128)
        rates.append((accepted / drafted, 40 / (passes + 0.25 * drafted)))
    base = found["domains"]["python"]["drafts"]["base"]
    assert base["acceptance_rate"]["mean"] == pytest.approx(sum(rate for rate, _ in rates) / 3)
    assert base["speedup"]["mean"] == pytest.approx(sum(speed for _, speed in rates) / 3)
    assert found["domains"]["code"] == found["domains"]["python"] == found["domains"]["high"]
    by_k = found["lengths"]["code"]["base"]["by_k"]
    assert by_k[4]["speedup"] == base["speedup"] and found["lengths"]["code"]["base"]["oracle"]["mean"] >= max(
        one["speedup"]["mean"] for one in by_k.values()
    )
    by_bound = found["lengths"]["code"]["base"]["by_bound"]
    assert list(by_bound) == list(analysis.AT_MOST) and list(by_bound[4]) == list(analysis.BOUNDS)
    for one in [*by_bound[4].values(), *by_bound[8].values()]:
        assert one["at_least"]["mean"] <= one["at_most"]["mean"] <= found["lengths"]["code"]["base"]["oracle"]["mean"]


def decoded_unsure(tiny, folder, settings: Settings, texts: int) -> list[tuple[list[float], list[float], list[Block]]]:
    """(kept, q, the blocks of the engine) of texts that were decoded with --stop-below, by a draft that agrees in part."""
    engine = Engine(models.Pair("custom", models.Model(tiny.draft), models.Model(tiny.draft)))
    drafter, _ = load_drafter(engine, save_adapter(tiny, folder, 0))
    found = []
    for seed in range(texts):
        decoded = run_prompt(engine, "Captions help", "base", settings, seed, drafter)
        row = {"prompt": "Captions help", "token_ids": decoded.token_ids}
        with torch.inference_mode():
            paired = evaluate_acceptance.measure(engine, {"base": drafter}, row, settings, {})
        found.append((paired["kept"]["base"], paired["q"]["base"], decoded.blocks))
    return found


def test_the_confidence_rule_is_replayed_as_it_decodes(tiny, tmp_path, monkeypatch):
    """Table 5 against runs of the engine: the passes agree, the drafted tokens lie between the two bounds."""
    monkeypatch.setattr(models, "compute_dtype", lambda: torch.float32)
    texts = decoded_unsure(tiny, tmp_path / "tuned", Settings(k=4, max_new_tokens=24, stop_below=0.3), 50)

    def replayed(bound: float) -> tuple[float, float, float]:
        """The passes, live − replayed, in standard errors; the least and the most tokens that were drafted."""
        gaps, least, most = [], 0.0, 0.0
        for kept, q, blocks in texts:
            found = analysis.unsure(kept, q, 4, bound, 24, c=1.0)  # a drafted token costs what a pass does
            passes = len(kept) / found["tokens_per_pass"]
            gaps.append(len(blocks) - passes)
            least += len(kept) / found["at_most"] - passes
            most += len(kept) / found["at_least"] - passes
        return statistics.mean(gaps) / (statistics.stdev(gaps) / len(gaps) ** 0.5), least, most

    gap, least, most = replayed(0.3)
    drafted = sum(len(block.drafted) for _, _, blocks in texts for block in blocks)
    assert abs(gap) < 4 and least <= drafted <= most < 4 * sum(len(blocks) for *_, blocks in texts)
    assert replayed(0.0)[0] > 4, "whole drafts need fewer passes: a rule that is left out would be noticed"


def test_disparity_by_four_definitions(tmp_path):
    """Every language is behind the one before it: by all definitions; p = .5 adds log 2 to the cross-entropy alone."""
    measured(tmp_path / "pair", analysis.TASKS, prompts=8)
    found = analysis.of_pair(tmp_path / "pair")["disparity"]["base"]
    rows = list(read_jsonl(tmp_path / "pair/paired.jsonl"))[1:]
    for name in ("cross-entropy", "divergence", "overlap", "speed-up"):
        by_language = {task: value["mean"] for task, value in found[name]["by_language"].items()}
        assert min(by_language.values()) == 0 and by_language["ocaml"] > by_language["python"]
        group = found[name]["by_group"]["low"]
        assert group["mean"] == pytest.approx(sum(by_language[task] for task in ("zig", "elixir", "ocaml")) / 3)
        assert group["interval"][0] < group["mean"] < group["interval"][1]
    assert analysis.cross_entropy(rows[0], "base") - analysis.divergence(rows[0], "base") == pytest.approx(math.log(2))
    kept = rows[0]["kept"]["base"]
    assert analysis.divergence(rows[0], "base") == pytest.approx(-sum(map(math.log, kept)) / len(kept))


def test_few_prompts_have_no_resampled_interval(tmp_path):
    """Eight prompts have one (the test above); of seven a percentile bootstrap would be far too short."""
    measured(tmp_path / "pair", ["python", "ocaml"], prompts=7)
    found = analysis.of_pair(tmp_path / "pair")
    for one in found["disparity"]["base"].values():
        assert one["by_language"]["ocaml"]["interval"] is None and one["spread"]["interval"] is None
    bursts = analysis.bursts_of([Bursts(2.0, 3.0, 0.5)] * 7)
    assert bursts["length"] == {"mean": 1.5, "interval": None} and bursts["longer"]["interval"] is None
    assert analysis.bursts_of([Bursts(2.0, 3.0, 0.5)] * 8)["length"]["interval"] == [1.5, 1.5]


def test_a_change_of_disparity_by_hand():
    """Base: U = 0 and .2. Tuned: .1 more in Python, .2 more in OCaml, so U = 0 and .1: the gap falls by .1."""
    spread = [0.1 * number for number in range(8)]
    base = {"python": [0.2 + value for value in spread], "ocaml": spread}
    tuned = {"python": [0.3 + value for value in spread], "ocaml": [0.2 + value for value in spread]}
    change = analysis.disparity_change(base, tuned, smaller_is_better=False)
    assert analysis.disparity_of(base, False)["by_group"]["low"]["mean"] == pytest.approx(0.2)
    assert change["by_language"]["python"]["mean"] == 0 and change["by_language"]["ocaml"]["mean"] == pytest.approx(-0.1)
    assert change["spread"]["mean"] == pytest.approx(-0.1)
    assert change["variance"]["mean"] == pytest.approx(0.05**2 - 0.1**2), "two languages: a quarter of the gap, squared"
    low, high = change["by_group"]["low"]["interval"]
    assert low < -0.1 < high, "where another language is best in a resample, the change is another"


def test_the_change_of_disparity_is_paired():
    """One language far ahead, whose prompts are all alike: U of the other is 1 − its mean, and the change always the same."""
    noisy = [0.05 * number for number in range(10)]
    base = {"python": [1.0] * 10, "ocaml": noisy}
    tuned = {"python": [1.0] * 10, "ocaml": [0.1 + value for value in noisy]}
    change = analysis.disparity_change(base, tuned, smaller_is_better=False)["by_group"]["low"]
    assert change["mean"] == pytest.approx(-0.1) and change["interval"] == pytest.approx([-0.1, -0.1])
    alone = analysis.disparity_of(base, False)["by_group"]["low"]["interval"]
    assert alone[1] - alone[0] > 0.1, "the level is far from certain"
    few = analysis.disparity_change({**base, "ocaml": noisy[:7]}, {**tuned, "ocaml": tuned["ocaml"][:7]}, False)
    assert few["by_group"]["low"]["mean"] == pytest.approx(-0.1) and few["by_group"]["high"]["interval"] is None
    assert analysis.disparity_change({**base, "ocaml": [math.inf] * 10}, tuned, True) is None


def test_a_draft_that_lacks_prompts_is_compared_on_the_others(tmp_path, capsys):
    """Base on all of them; the change on those that both have."""
    measured(
        tmp_path / "pair", ["python", "ocaml"], ("base", "human"), 4, 0.1, lambda draft, number: draft == "base" or number < 3
    )
    found = analysis.of_pair(tmp_path / "pair")
    assert "human lacks 2 of the 8 prompts" in capsys.readouterr().err
    code_metrics = found["domains"]["code"]
    assert [code_metrics["drafts"][draft]["prompts"] for draft in ("base", "human")] == [8, 6]
    rows = [row for row in read_jsonl(tmp_path / "pair/paired.jsonl") if "human" in row.get("kept", {})]
    changes = [row["overlap"]["human"] - row["overlap"]["base"] for row in rows]
    assert code_metrics["changes"]["human"]["overlap"]["mean"] == pytest.approx(sum(changes) / 6)
    assert min(changes) > 0


def test_a_token_that_the_draft_cannot_propose_has_no_cross_entropy(tmp_path):
    row = row_of("python", 0, {"base": [0.0, 1.0]})
    assert analysis.cross_entropy(row, "base") == math.inf
    values = {"python": [math.inf], "ocaml": [1.0]}
    assert analysis.disparity_of(values, True) is None


PLAIN = [Block((), (), (), (), 0, 1, (1,), 1.0, 0.0, 1.0) for _ in range(6)]
REJECTS = Block((1, 2), (0.1,), (0.9,), (0.1,), 0, 3, (3,), 2.0, 0.5, 1.5)
ACCEPTS = Block((1, 2), (0.9, 0.9), (0.9, 0.9), (0.9, 0.9), 2, 3, (1, 2, 3), 2.0, 0.5, 1.5)


def live_row(prompt: str, draft: str, blocks: list[Block]) -> dict:
    found = Run(prompt, draft, 42, "", 0.0, tuple(blocks))
    return {"prompt": prompt, "draft": draft, "seed": 42, **summarize(found), "blocks": [block_row(b) for b in blocks]}


def test_live_runs_stand_beside_the_plain_verifier(tmp_path):
    file = tmp_path / "live.jsonl"
    header = {**HEADER, "conditions": {**HEADER["conditions"], "k": 2}}
    rows = [live_row("a", "verifier", PLAIN), live_row("a", "base", [ACCEPTS, REJECTS, REJECTS])]
    rows.append(live_row("without the verifier", "base", [REJECTS]))
    write_jsonl(file, [header, *({**row, "run_id": "one"} for row in rows)])
    measured(tmp_path / "pair", ["python"])
    paired = Measured(tmp_path / "pair/paired.jsonl", PAIRED_KEYS)
    found = analysis.live(file, paired)
    base = found["drafts"]["base"]
    assert (found["k"], found["stop_below"], base["prompts"]) == (2, 0.0, 1)
    assert base["speedup"]["mean"] == pytest.approx((5 / 6) / 1.0)
    assert base["bursts"]["length"]["mean"] == 2 and base["c"] == pytest.approx(0.25)
    alpha = (0.9 + 0.9 + 0.1 + 0.1) / 4
    assert base["independent"] == pytest.approx((1 + alpha + alpha**2) / 1.5)
    for other in ({"max_new_tokens": 64}, {"temperature": 1.0}, {"adapters": {"base": "another"}}):
        conditions = {**header["conditions"], **other}
        write_jsonl(file, [{**header, "conditions": conditions}, *({**row, "run_id": "one"} for row in rows)])
        with pytest.raises(Problem, match="live.jsonl holds rows of other"):
            analysis.live(file, paired)


def test_a_draft_that_was_trained_again_is_not_described(tmp_path, monkeypatch, capsys):
    """Its rows are those of the draft before."""
    monkeypatch.chdir(tmp_path)
    measured(tmp_path / "pair", ["python"], drafts=("base", "human"))
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "nowhere/metrics.json").write_text('{"settings": {"loss": "nll"}}')
    assert analysis.of_pair(tmp_path / "pair")["drafts"]["human"] == {"path": "nowhere", "loss": "nll"}
    (tmp_path / "nowhere/adapter_model.safetensors").write_bytes(b"another")
    assert analysis.of_pair(tmp_path / "pair")["drafts"]["human"] == {"path": "nowhere"}
    assert "is another one than was measured" in capsys.readouterr().err


def test_rows_without_what_is_needed_are_refused(cli, tmp_path):
    status, _, err = cli(analysis, "--results-dir", tmp_path)
    assert status == 1 and "Run evaluate_acceptance.py paired first" in err
    measured(tmp_path / "pair", ["python"])
    header, *rows = read_jsonl(tmp_path / "pair/paired.jsonl")
    write_jsonl(tmp_path / "pair/paired.jsonl", [header, *({**row, "overlap": {}, "kept": {}} for row in rows)])
    status, _, err = cli(analysis, "--results-dir", tmp_path)
    assert status == 1 and "lacks the base draft" in err
    write_jsonl(tmp_path / "pair/paired.jsonl", [header, *({k: v for k, v in row.items() if k != "q"} for row in rows)])
    status, _, err = cli(analysis, "--results-dir", tmp_path)
    assert status == 1 and "lacks q" in err


# --- tables -----------------------------------------------------------------------------------------------------------


def filled(cli, tree, drafts=("base",), pairs=("qwen-coder", "smollm2-qwen"), domains=None, **more) -> str:
    for pair in pairs:
        measured(tree / "studies/code/results" / pair, domains or [*code.GROUP, "natural_language"], drafts, **more)
    assert cli(analysis)[0] == 0 and cli(tables)[0] == 0
    assert cli(tables, "--check")[0] == 0
    return (tree / "studies/code/README.md").read_text()


def test_the_base_drafts_alone(cli, tree):
    """What is tuned says that it is not measured yet, and gives no number; the rest is there."""
    page = filled(cli, tree)
    assert "The deciding test is not measured yet" in page and "Table 2, base against tuned: not measured yet." in page
    assert "Not measured yet: `" not in page and page.count("![") == 2
    assert all(f"| {words} (the plan's) | not measured here |" in page for words in tables.PLANS.values())
    front = (tree / "README.md").read_text()
    assert "Tuning is not measured yet. The untuned draft" in front


def test_one_pair_and_a_few_languages(cli, tree):
    page = filled(cli, tree, pairs=("qwen-coder",), domains=["python", "ocaml", "natural_language"])
    assert "| SmolLM2-135M → Qwen2.5-Coder-1.5B (two vocabularies) | not measured yet |" in page
    assert "| cross-entropy | Medium: Lua, Haskell, Ruby | not measured yet |" in page


def test_the_foreign_pair_alone(cli, tree):
    """Every other table waits; no figure is drawn."""
    page = filled(cli, tree, pairs=("smollm2-qwen",))
    assert "The same-family pair is not measured yet." in page
    assert not (tree / "studies/code/figures").exists()


def test_with_a_tuned_draft_and_live_runs(cli, tree, monkeypatch):
    monkeypatch.setattr(analysis, "describe_measured", lambda path, digest: path and {"loss": "nll", "answers": 486})
    rows = [live_row("a", "verifier", PLAIN), live_row("a", "human-all", [ACCEPTS, REJECTS, REJECTS])]
    header = {**HEADER, "conditions": {**HEADER["conditions"], "k": 2, "dtype": "int8"}}
    (tree / "studies/code/results/qwen-coder/live-k2").mkdir(parents=True)
    file = tree / "studies/code/results/qwen-coder/live-k2/live.jsonl"
    write_jsonl(file, [header, *({**row, "run_id": "one"} for row in rows)])
    page = filled(cli, tree, drafts=("base", "human-all"))
    assert "| `live-k2` | human-all | γ = 2 | 1 | 0.83 (too few prompts) | 1.17 | 0.250 |" in page, "5 tokens in 6 s, plain 6"
    assert "In int8; c is" in page and "Live, the" not in page, "one length has no peak"
    assert "fine-tuning on human code (486 texts) did not measurably change" in page, "the two drafts are equal here"
    assert "| human-all | likelihood on 486 texts | Code (Py) | 3 |" in page and "Draft: human-all." in page


@pytest.mark.parametrize("prompts", [1, 3, 8])
def test_two_tuned_drafts_on_few_prompts(cli, tree, monkeypatch, prompts):
    """One, three or eight prompts a language: every table has a column or row of both, with intervals where there can be."""
    settings = {"nowhere": {"loss": "nll", "answers": 100}}
    monkeypatch.setattr(analysis, "describe_measured", lambda path, digest: settings.get(path))
    page = filled(cli, tree, ("base", "distilled-all", "human-all"), ("qwen-coder",), prompts=prompts, gain=0.3)
    assert f"**On {13 * prompts} code prompts, fine-tuning on human code (100 texts) raised the acceptance probability" in page
    assert re.search(r"Taught by the verifier's probabilities on its own completions: \+0.\d{4} \(\+0.", page)
    assert f"| human-all | likelihood on 100 texts | Code (all) | {13 * prompts} |" in page
    assert f"| distilled-all | likelihood on 100 texts | NL | {prompts} |" in page
    assert "| human-all U(T) | Δ disparity, human-all | distilled-all U(T) | Δ disparity, distilled-all |" in page
    (spread,) = [line for line in page.splitlines() if line.startswith("| cross-entropy | spread over the languages |")]
    assert spread.count(" to ") == (5 if prompts == 8 else 0), "base, and of two drafts U(T) and its change"
    assert re.search(
        r"Fine-tuning narrows the gap between languages:\* the low group's mean U\(T\), on \d+ prompts, changed by -\d", page
    )
    assert ("by cross-entropy, narrower" in page) == (prompts == 8) != ("So few prompts a language judge nothing." in page)
    assert "; human-all: python" in page and "; distilled-all: python" in page, "the figure by language"
    assert "Draft: human-all." in page
    front = (tree / "README.md").read_text()
    assert (
        "Fine-tuning on human code (100 texts) raised acceptance: mean Σ min(p, q) +0." in front
        and f"on {13 * prompts} prompts" in front
    )


def test_the_distilled_draft_alone_does_not_decide(cli, tree):
    page = filled(cli, tree, ("base", "distilled-all"), ("qwen-coder",), gain=0.3)
    assert "The deciding test is not measured yet: other drafts alone were. Taught by the verifier's" in page
    assert "| distilled-all U(T) | Δ disparity, distilled-all |" in page and "Draft: base; the tuned one" in page
    assert "Tuning is not measured yet" not in (tree / "README.md").read_text()


@pytest.mark.parametrize("values, number", [([1, 2, 3, 2], 1), ([3, 2, 1], 1), ([1, 2, 3], 1), ([2, 1, 2], 2), ([1, 1], 1)])
def test_peaks_of_a_sequence(values, number):
    assert tables.peaks(values) == number


@pytest.mark.parametrize(
    "values, words",
    [
        ([1, 2, 3, 2], "one peak"),
        ([3, 2, 1], "no peak, for it only falls"),
        ([1, 2, 3], "no peak, for it only rises"),
        ([2, 1, 2], "2 peaks"),
    ],
)
def test_a_single_peak_has_two_sides(values, words):
    assert tables.shape(values) == words


# --- the commands, on the tiny pair -----------------------------------------------------------------------------------


def test_the_first_slice_from_end_to_end(cli, tiny, tree):
    """The commands of run.sh, in their order."""
    results = tree / "studies/code/results"
    rows = [row for row in code.rows_of("test", ["python", "ocaml"])][:4]
    language = list(read_jsonl(ROOT / "domains/natural_language.jsonl"))[:2]
    write_jsonl(results / "prompts.jsonl", [{**row, "prompt": row["prompt"][:60]} for row in rows] + language)
    pair = ("--draft", tiny.draft, "--verifier", tiny.verifier, "--max-new-tokens", 12)
    asked = ("--prompts", results / "prompts.jsonl")
    assert cli(generate_answers, "--raw", *pair, *asked, "--output", results / "answers.jsonl")[0] == 0
    folder = ("--answers", results / "answers.jsonl", "--results-dir", results / "qwen-coder")
    status, _, err = cli(evaluate_acceptance, "paired", *pair, *asked, *folder, "--drafts", "base")
    assert status == 0, err
    live = ("--raw", "--k", 2, "--seeds", 1, "--drafts", "base", "--results-dir", results / "qwen-coder/live-k2")
    status, _, err = cli(evaluate_acceptance, "live", *pair, *asked, *live)
    assert status == 0, err
    assert cli(analysis)[0] == 0 and cli(tables)[0] == 0
    study = json.loads((results / "study.json").read_text())["pairs"]["qwen-coder"]
    assert study["conditions"]["raw"] is True and study["domains"]["code"]["prompts"] == 4
    assert study["live"][0]["k"] == 2 and study["live"][0]["drafts"]["base"]["prompts"] == 6


def test_a_pair_of_the_plan_fills_its_row(cli, tree):
    page = filled(cli, tree, pairs=("pythia",))
    (line,) = [line for line in page.splitlines() if line.startswith("| Pythia (12B, 70M) (the plan's) |")]
    assert "×" in line and "not measured" not in line


def test_a_rate_that_harms_is_told_from_a_text_that_does(monkeypatch):
    def change(mean: float) -> dict:
        return {"overlap": {"mean": mean, "interval": [mean - 0.01, mean + 0.01]}}

    def settings(loss: str, rate: float) -> dict:
        return {"loss": loss, "answers": tables.RATE_TEXTS, "learning_rate": rate}

    high, low = tables.RATES
    human, taught = "nll", "tvdpp_position"
    drafts = {"base": None, "a": settings(human, high), "b": settings(human, low)}
    drafts |= {"c": settings(taught, high), "d": settings(taught, low), "more": {**settings(human, high), "answers": 64}}
    changes = {"a": change(-0.05), "b": change(0.0), "c": change(-0.03), "d": change(0.0), "more": change(0.9)}
    group = {"changes": changes, "drafts": {name: {"prompts": 36} for name in changes}}
    earlier = {"drafts": drafts, "domains": {"code": group}, "measured": [], "conditions": {"dtype": "float32"}}
    found = {tables.EARLIER: earlier, tables.FAMILY: {}}
    monkeypatch.setattr(tables, "pair", lambda name=tables.FAMILY: found[name])
    rows = {"one": {"b": 0.5, "d": 0.6}, "two": {"b": 0.5, "d": 0.61}}
    monkeypatch.setattr(tables, "overlaps_of", lambda file, domain: rows)
    words = tables.rates_in_words()
    assert "says nothing of the text; from 32 texts at the lower rate human code is not shown to do harm.**" in words
    assert "0.9" not in words and "| human code, its likelihood | 64 | 0.0003 | Code (all) | 36 | +0.9000" in tables.rates()
    changes["b"] = change(-0.05)
    assert "at the lower rate human code does harm.**" in tables.rates_in_words()
    changes["d"] = change(-0.03)
    assert "the rate by itself is not shown to do harm" in tables.rates_in_words()
    more = {"human-all": {"overlap": {"mean": -0.02, "interval": [-0.03, -0.01]}}, "distilled-all": change(0.02)}
    of_more = {"changes": more, "drafts": {"human-all": {"prompts": 96}}}
    found[tables.FAMILY] = {"drafts": {"human-all": {"answers": 486}}, "domains": {"code": of_more}}
    for row in rows.values():
        row |= {"human-all": row["b"], "distilled-all": row["d"]}
    assert ", from 486 longer ones, on 96 prompts, it does harm (-0.1" in tables.rates_in_words()
    more["human-all"] = change(0.0)
    assert "on 96 prompts, it is not shown to do harm" in tables.rates_in_words()
    del changes["d"]
    assert tables.rates_in_words().endswith("not measured yet.")
    found[tables.EARLIER] = {}
    assert tables.rates().endswith("not measured yet.") and tables.rates_in_words().endswith("not measured yet.")


def test_every_change_from_human_code_to_the_verifiers_probabilities_is_asked(monkeypatch):
    rows = {}
    for number in range(4):
        noise = 0.001 * number
        values = {"human": 0.5 + noise, "human-128": 0.5 + 2 * noise - 0.0015, "human-128-0.7": 0.4}
        rows[str(number)] = values | {"distilled-nll": 0.6 + noise, "distilled": 0.7 + 2 * noise}
    group = {"prompts": 4, "drafts": {name: {"prompts": 4} for name in rows["0"]}}
    monkeypatch.setattr(tables, "pair", lambda name=tables.FAMILY: {"domains": {"code": group}})
    monkeypatch.setattr(tables, "overlaps_of", lambda file, domain: rows)
    length, temperature, text, loss = tables.apart().splitlines()[2:]
    assert "| `human-128` − `human` | " in length and length.endswith("| makes no difference that is seen |")
    assert "| `human-128-0.7` − `human-128` | 4 | -0.1" in temperature and temperature.endswith("| does harm |")
    assert "| `distilled-nll` − `human-128-0.7` | 4 | +0.2" in text and text.endswith("| helps |")
    assert "| `distilled` − `distilled-nll` | 4 | +0.1" in loss and loss.endswith("| helps |")
    for number in "01":
        del rows[number]["distilled-nll"]
    assert "| `distilled` − `distilled-nll` | 2 | +0.1" in tables.apart(), "on the prompts of both"
    del group["drafts"]["distilled-nll"]
    assert len(tables.apart().splitlines()) == 4
    group["drafts"].clear()
    assert tables.apart() == "Text, loss, temperature and length: not measured yet."


def test_what_more_text_does(monkeypatch):
    rows = {}
    for number in range(4):
        noise = 0.001 * number
        values = {"human": 0.5 + noise, "human-all": 0.4, "distilled": 0.6 + noise, "distilled-all": 0.6 + 2 * noise - 0.0015}
        rows[str(number)] = values
    del rows["3"]["human"]
    group = {"prompts": 4, "drafts": {name: {"prompts": 4} for name in rows["0"]}}
    settings = {name: {"answers": 486 if name.endswith("-all") else 64} for name in rows["0"]}
    monkeypatch.setattr(tables, "pair", lambda name=tables.FAMILY: {"domains": {"code": group}, "drafts": settings})
    monkeypatch.setattr(tables, "overlaps_of", lambda file, domain: rows)
    human, taught = tables.more_in_words().split("; ")
    assert "486 texts of human code instead of 64, -0.1010 (" in human and human.endswith(" on 3 code prompts: worse")
    assert taught.startswith("486 texts of the verifier's completions instead of 64, ")
    assert taught.endswith(" on 4 code prompts: no difference that is seen.")
    del group["drafts"]["human"]
    assert tables.more_in_words().count("instead") == 1
    settings["distilled-all"] = {"path": "nowhere"}  # trained again since: not described
    assert tables.more_in_words() == "More text: not measured yet."
    group["drafts"].clear()
    assert tables.more_in_words() == "More text: not measured yet."


def test_what_more_training_does(monkeypatch):
    rows = {
        str(number): {"distilled": 0.5, "distilled-all": 0.6, "distilled-all-3": 0.7 + 0.001 * number} for number in range(4)
    }
    group = {"drafts": {name: {"prompts": 4} for name in rows["0"]}}
    settings = {"distilled": {"answers": 64}, "distilled-all": {"answers": 486}}
    monkeypatch.setattr(tables, "pair", lambda name=tables.FAMILY: {"domains": {"code": group}, "drafts": settings})
    monkeypatch.setattr(tables, "overlaps_of", lambda file, domain: rows)
    _, longer = tables.more_in_words().split(" More training of `distilled-all`: ")
    assert longer.startswith("three passes instead of one, +0.1015 (") and longer.endswith("on 4 code prompts: better.")
    del group["drafts"]["distilled-all-3"]
    assert "More training" not in tables.more_in_words()


def test_the_front_page_says_by_how_many_definitions_the_gap_widened(monkeypatch):
    bounds = {"overlap": [0.01, 0.02], "speed-up": [-0.02, -0.01], "divergence": [-0.01, 0.01]}
    changes = {name: {"by_group": {"low": {"mean": 0.0, "interval": interval}}} for name, interval in bounds.items()}
    found = {"disparity_changes": {tables.DECIDES: changes}}
    monkeypatch.setattr(tables, "pair", lambda name=tables.FAMILY: found)
    assert tables.gap_in_words().endswith("OCaml lie further behind the best language by 1 of 3 definitions, less far by 1")
    for change in changes.values():
        change["by_group"]["low"]["interval"] = None
    assert tables.gap_in_words() == "", "too few prompts a language"
    found.clear()
    assert tables.gap_in_words() == ""


def test_what_the_deciding_draft_did_to_each_group(monkeypatch):
    change = {"overlap": {"mean": -0.01, "interval": [-0.02, -0.005]}}
    domains = {"high": {"changes": {tables.DECIDES: change}}, "medium": {"changes": {}}, "low": {"changes": {"human": change}}}
    monkeypatch.setattr(tables, "pair", lambda name=tables.FAMILY: {"domains": domains})
    assert tables.by_group() == "Σ min(p, q) itself changed by -0.0100 (-0.0200 to -0.0050) in the high group. "
    domains.clear()
    assert tables.by_group() == ""


def test_the_gap_after_every_training(monkeypatch):
    bounds = {"human-all": [0.01, 0.02], "human": [0.01, 0.02], "distilled": [-0.02, -0.01], "other": [-0.01, 0.01]}
    changes = {
        name: {"overlap": {"by_group": {"low": {"mean": 0.0, "interval": interval}}}} for name, interval in bounds.items()
    }
    found = {"drafts": {"base": None, "new": {}, **dict.fromkeys(bounds, {})}, "disparity_changes": changes}
    found["domains"] = {"low": {"drafts": {name: {"prompts": 8} for name in bounds}}}
    monkeypatch.setattr(tables, "pair", lambda name=tables.FAMILY: found)
    said = "Of the other 3 trainings, by overlap, 1 widened it (`human`), 1 narrowed it (`distilled`) (Table 3b). "
    assert tables.other_gaps() == said
    assert "| human-all | 8 | +0.0000 (+0.0100 to +0.0200) | wider |" in tables.gaps().splitlines()[2]
    assert tables.gaps().count("\n") == 5, "not measured: new"
    changes.clear()
    assert tables.other_gaps() == "" and tables.gaps() == "Table 3b, the gap by training: not measured yet."


def test_a_draft_on_fewer_prompts_says_so(cli, tree, monkeypatch):
    monkeypatch.setattr(analysis, "describe_measured", lambda path, digest: path and {"loss": "nll", "answers": 100})
    drafts = ("base", "human-all", "human-balanced")
    page = filled(cli, tree, drafts, ("qwen-coder",), prompts=3, only=lambda draft, number: "balanced" not in draft or number)
    languages = len(code.GROUP)
    assert f"**On {3 * languages} code prompts, " in page
    assert "Other trainings: Table 2, which says on how many prompts." in page
    assert f"| human-balanced | likelihood on 100 texts | Code (all) | {2 * languages} |" in page
    assert "mean U(T), on 9 prompts, changed by" in page and "| human-balanced | 6 | " in page


def test_tuned_drafts_live_stand_beside_the_base_draft(tmp_path, monkeypatch):
    file = tmp_path / "live.jsonl"
    monkeypatch.setattr(tables, "LIVE_TUNED", [tmp_path / "none.jsonl", file])
    assert tables.live_tuned() == "Live runs of tuned drafts: not measured yet."
    header = {"run_id": "a", "conditions": {"drafts": {"base": None, "human": "x"}, "dtype": "int8", "k": 2}}
    rows = []
    for number in range(3):
        for draft, seconds in (("verifier", 9.0), ("base", 5.0), ("human", 5.5 + 0.1 * number)):
            rows.append({"prompt": f"p{number}", "domain": "code", "draft": draft, "seconds": seconds, "tokens": 10})
    write_jsonl(file, [header, *rows[:3]])
    assert tables.live_tuned().endswith("not measured yet.")  # one prompt has no interval
    write_jsonl(file, [header, *rows[:2]])
    assert tables.live_tuned().endswith("not measured yet.")  # stopped before a pair was whole
    write_jsonl(file, [header, *rows])
    said = tables.live_tuned()
    assert said.startswith(
        "Live in int8 at γ = 2, as times the base draft's tokens a second: `human` makes decoding slower, 0.89"
    )
    assert said.endswith(", on 3 prompts.")


def test_the_peak_of_live_runs(monkeypatch):
    """By draft, of the fixed lengths alone; two lengths have no shape."""
    speeds = {1: 1.1, 2: 1.3, 4: 1.2}
    drafts = {k: {"base": {"speedup": {"mean": mean}, "prompts": 12}} for k, mean in speeds.items()}
    live = [{"k": k, "stop_below": 0.0, "drafts": of_k} for k, of_k in drafts.items()]
    live.append({"k": 8, "stop_below": 0.4, "drafts": {"base": {"speedup": {"mean": 9.0}}}})
    assert tables.live_peak({"live": live}) == " Live, the base draft shows one peak: the best is γ = 2, 1.30×."
    assert tables.live_peak({"live": live[1:]}) == tables.live_peak({"live": []}) == ""
    drafts[2]["base"]["prompts"] = 24
    assert tables.live_peak({"live": live}).endswith("γ = 2, 1.30×. Prompts, by γ: 12 at 1, 24 at 2, 12 at 4.")
    again = {"k": 2, "stop_below": 0.0, "drafts": {"base": {"speedup": {"mean": 1.0}, "prompts": 9}}}
    assert tables.live_peak({"live": [*live, again]}) == tables.live_peak({"live": live}), "the first run of a length counts"
