"""The pages agree with the results behind them, and have the form that readers and CONTRIBUTING.md count on."""

import importlib
import itertools
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from specdec.models import PAIRS
from specdec.report import markers

ROOT = Path(__file__).resolve().parents[1]
STUDIES = sorted(path.parent.name for path in ROOT.glob("studies/*/tables.py"))
FRONT_PAGES = ["README.md", "DATASET_CARD.md", "CONTRIBUTING.md", "GPU.md"]
PAGES = [*(ROOT / name for name in FRONT_PAGES), *ROOT.glob("studies/*/README.md")]


def tables_of(study: str):
    return importlib.import_module(f"studies.{study}.tables")


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A copy of the pages and the results, to change; what they only read is linked."""
    for name in ("README.md", "DATASET_CARD.md", "GPU.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "studies", tmp_path / "studies")
    for name in ("domains", "adapters", "final_adapter", "dpo_clean.jsonl"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def without_details(page: Path) -> str:
    return re.sub(r"<details>.*?</details>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def longest_table(text: str) -> int:
    """Rows of the longest Markdown table, its header left out."""
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    return max(table.count("\n") - 2 for table in tables)


# --- pages and results ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("study", STUDIES)
def test_pages_agree_with_the_results(cli, monkeypatch, study):
    monkeypatch.chdir(ROOT)
    status, _, err = cli(tables_of(study), "--check")
    assert status == 0, err


def open_parts(text: str) -> list[str]:
    """The marked parts of a page that say "not measured yet", in order; of text outside of them the line that does."""
    marked = re.compile(r"<!-- ([^/][^>]*?) -->(.*?)<!-- /\1 -->", re.DOTALL)
    inside = [name for name, body in marked.findall(text) if "not measured yet" in body.lower()]
    outside = [line for line in marked.sub("", text).splitlines() if "not measured yet" in line.lower()]
    return inside + outside


def test_nothing_waits_to_be_measured():
    found = {str(page.relative_to(ROOT)): open_parts(page.read_text(encoding="utf-8")) for page in PAGES}
    assert not {page: parts for page, parts in found.items() if parts}
    page = "<!-- a -->not Measured yet<!-- /a --> <!-- b -->0.5<!-- /b -->\nIt is Not measured yet."
    assert open_parts(page) == ["a", "It is Not measured yet."]


def test_every_marked_part_has_one_writer():
    for page in PAGES:
        parts = [name for study in STUDIES for name in tables_of(study).PAGES.get(page.relative_to(ROOT), {})]
        assert sorted(markers(page.read_text(encoding="utf-8"))) == sorted(parts), page


CHANGED = {
    "preference": [
        ("acceptance.json", ("paired", "at", "changes", "dpo", "mean"), "README.md"),
        ("acceptance.json", ("agreement", "base", "mean"), "studies/preference/README.md"),
        ("dataset.json", ("statistics", "pairs"), "DATASET_CARD.md"),
    ],
    "engine": [
        ("benchmark.json", ("summary", 0, "tokens_per_second"), "studies/engine/README.md"),
        ("exactness.json", ("results", "ours", "p_value"), "studies/engine/README.md"),
        ("benchmark.json", ("rows", 32, "tokens_per_second"), "README.md"),  # in int8, the fastest draft and K
    ],
}


@pytest.mark.parametrize("study", CHANGED)
def test_a_changed_number_is_noticed(cli, tree, study):
    for file, keys, _ in CHANGED[study]:
        path = tree / "studies" / study / "results" / file
        result = json.loads(path.read_text())
        inner = result
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] += 1
        path.write_text(json.dumps(result))
    status, _, err = cli(tables_of(study), "--check")
    assert status == 1
    for _, _, page in CHANGED[study]:
        assert f"{page} disagrees with the results. Run make results." in err.splitlines()
    assert cli(tables_of(study))[0] == 0 and cli(tables_of(study), "--check")[0] == 0


@pytest.mark.parametrize("study", STUDIES)
def test_figures_are_drawn_and_pages_stay(cli, tree, study):
    figures = sorted(tree.glob(f"studies/{study}/figures/*.png"))
    for figure in figures:
        figure.unlink()
    assert cli(tables_of(study), "--check")[0] == 1, "a missing figure is noticed"
    assert cli(tables_of(study))[0] == 0
    assert figures and all(figure.read_bytes().startswith(b"\x89PNG") for figure in figures)
    for page in tables_of(study).PAGES:
        assert page.read_text(encoding="utf-8") == (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("large_sets", [False, True])
def test_a_report_of_few_live_runs_is_said_too(cli, tree, large_sets):
    """No live run at all, and only runs of the large sets: the tables of the paper's prompts wait for theirs."""
    tables = tables_of("preference")
    report, study = json.loads(tables.REPORT.read_text()), json.loads(tables.STUDY.read_text())
    if not large_sets:
        del report["live"], report["agreement"]
    study.update(live_by_prompt=[], noise=None, live_speed={})
    tables.REPORT.write_text(json.dumps(report))
    tables.STUDY.write_text(json.dumps(study))
    assert cli(tables)[0] == 0
    waiting = []
    for page in tables.PAGES:
        waiting += re.findall(r"<!-- ([\w ,]+) -->\n\*Not measured yet: `\S*live.jsonl`", page.read_text())
    front = ["study 0, conditions", "study 0, at", "study 0, general"]
    assert waiting == [*front, *([] if large_sets else ["live", "agreement"]), "live speed", "noise"]


def test_missing_live_rows_leave_their_figure_undrawn(cli, tree):
    tables = tables_of("preference")
    tables.LIVE.unlink()
    (tables.FIGURES / "positions.png").unlink()
    status, _, err = cli(tables)
    assert status == 0 and "positions.png: not drawn" in err and "prompts.png" not in err


# --- form -------------------------------------------------------------------------------------------------------------


def test_the_front_page_is_short_and_complete():
    front = (ROOT / "README.md").read_text(encoding="utf-8")
    assert front.count("\n") <= 200
    for script in ROOT.glob("*.py"):
        assert f"`{script.name}`" in front, f"the map lacks {script.name}"
    for name in re.findall(r"^\| `(\w+\.py)` \|", front, flags=re.MULTILINE):
        assert (ROOT / name).exists(), f"the map names {name}"
    for study in STUDIES:
        assert f"| [{study}](studies/{study}/README.md) |" in front and f"<!-- row {study} -->" in front


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_has_its_page_commands_and_results(study):
    folder = ROOT / "studies" / study
    assert (folder / "run.sh").exists() and any((folder / "results").iterdir())
    page = without_details(folder / "README.md")
    headings = re.findall(r"^#+ (.*)$", page, flags=re.MULTILINE)
    assert headings[0].endswith("?")
    assert ["Commands", "The table", "How we read it", "What is not claimed", "The full tables"] == headings[1:6]
    assert longest_table(page) <= 10 and page.count("![") == 1
    assert longest_table("| a |\n| - |\n" + "| 1 |\n" * 11) == 11, "a table of eleven rows would be noticed"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    for link in links:
        assert (page.parent / link).exists(), f"{page.name} links to {link}"


LAUNCHERS = ("python", "torchrun", "accelerate", ".venv/bin/python")


def shell_texts() -> dict[Path, str]:
    """Every run.sh, and the shell blocks of every page."""
    texts = {script: script.read_text(encoding="utf-8") for script in ROOT.glob("studies/*/run.sh")}
    for page in PAGES:
        blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        texts[page] = "\n".join(blocks)
    return texts


def commands(text: str) -> list[tuple[str, list[str]]]:
    """(script, the words behind it) of every Python command of a shell text."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        scripts = [number for number, word in enumerate(words) if re.fullmatch(r"\w+\.py", word)]
        if words and words[0] in LAUNCHERS and scripts:
            found.append((words[scripts[0]], words[scripts[0] + 1 :]))
    return found


@pytest.fixture
def help_of(cli):
    """`help_of(script)` → what its --help prints."""
    texts: dict[str, str] = {}

    def call(script: str) -> str:
        if script not in texts:
            status, texts[script], _ = cli(importlib.import_module(script.removesuffix(".py")), "--help")
            assert status == 0
        return texts[script]

    return call


def test_commands_of_studies_and_pages_can_be_typed(help_of):
    """Every script exists and has the options it is given; every pair and every file of prompts is there."""
    counts = {}
    for file, text in shell_texts().items():
        counts[file.name] = counts.get(file.name, 0) + len(commands(text))
        for script, words in commands(text):
            for option in [word for word in words if word.startswith("--")]:
                assert re.search(rf"{option}\b(?!-)", help_of(script)), f"{file}: {script} has no {option}"
            named = [value for option, value in itertools.pairwise(words) if option == "--pair" and "$" not in value]
            assert set(named) <= PAIRS.keys(), f"{file}: no such pair"
            for word in words:
                if word.startswith("domains/") and "$" not in word:
                    assert (ROOT / word).is_file(), f"{file}: no {word}"
    assert counts["run.sh"] > 10 and counts["GPU.md"] > 20 and counts["README.md"] > 3
    assert not re.search(r"--per\b(?!-)", help_of("evaluate_acceptance.py")), "half an option is none"
    torchrun = "torchrun --nproc-per-node 2 evaluate_acceptance.py paired \\\n  --drafts base  # --half"
    assert commands(torchrun) == [("evaluate_acceptance.py", ["paired", "--drafts", "base"])]


@pytest.mark.parametrize(
    "low, high, words, short",
    [
        (
            -0.02,
            -0.01,
            "needs no difference of family",
            "lowered that of a draft of the verifier's own family by 0.0150 (0.0100 to 0.0200), on 120",
        ),
        (
            0.01,
            0.02,
            "makes the sign",
            "raised that of a draft of the verifier's own family by 0.0150 (0.0100 to 0.0200), on 120",
        ),
        (-0.01, 0.01, "hurt less", "own family, +0.0000 (-0.0100 to +0.0100), on 120"),
    ],
)
def test_the_fair_pair_is_read_as_its_interval_says(tree, low, high, words, short):
    """The page from the small training, the front page from the whole one."""
    tables = tables_of("preference")
    for file in ("preference/results/small/qwen-coder/acceptance.json", "scale/results/fair/acceptance.json"):
        report = json.loads((tree / "studies" / file).read_text())
        report["paired"]["at"]["changes"]["dpo"].update(mean=(low + high) / 2, interval=[low, high])
        (tree / "studies" / file).write_text(json.dumps(report))
    assert words in tables.own_family.decision() and short in tables.row()


def test_settings_of_the_fair_pair_are_those_of_its_training(tree):
    """Budget, memory and seconds come from metrics.json, not from the page's author."""
    tables, file = tables_of("preference"), tree / "studies/preference/drafts/qwen-coder/metrics.json"
    metrics = json.loads(file.read_text())
    assert "14 steps of 8, at 6 times the learning rate for 11.9% of the 118 steps" in tables.own_family.budget()
    metrics["settings"].update(gradient_accumulation=3, learning_rate=1e-3, epochs=2)
    metrics.update(steps=59, seconds=4321.0, peak_memory_bytes={"resident": 5 * 2**30, "gpu": None})
    file.write_text(json.dumps(metrics))
    assert tables.own_family.budget().endswith("twice, 59 steps of 3, at 20 times the learning rate for 50.0% of the 118 steps")
    table = tables.own_family.training_table()
    assert "| seconds | 4,321 |" in table and "| largest memory, GiB | 5.0 |" in table


@pytest.mark.parametrize(
    "kept, speed, said",
    [
        (-0.1, 0.8, "lowered accepted/drafted, and it makes decoding slower"),
        (0.1, 1.2, "raised accepted/drafted, and it makes"),
    ],
)
def test_live_runs_of_the_fair_pair_are_means_over_random_seeds(tmp_path, monkeypatch, kept, speed, said):
    own_family = tables_of("preference").own_family
    rows: list[dict] = [{"run_id": "r", "command": "", "conditions": {"k": 4}, "environment": None}]
    for prompt, seed in itertools.product(range(3), (42, 43)):
        run = {"prompt": str(prompt), "domain": "at", "seed": seed}
        rows.append({**run, "draft": "base", "acceptance_rate": 0.5 + 0.01 * seed, "tokens_per_second": 5.0})
        tuned = {"acceptance_rate": 0.5 + 0.01 * seed + kept + 0.001 * prompt, "tokens_per_second": 5.0 * speed + 0.01 * prompt}
        rows.append({**run, "draft": "dpo", **tuned})
    file = tmp_path / "live.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(own_family, "LIVE", file)
    shown = own_family.live()
    assert said in shown and "on 3 prompts at 2 random seeds" in shown and f"0.925 → {0.925 + kept + 0.001:.3f}" in shown
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))
    with pytest.raises(FileNotFoundError):
        own_family.live()  # a run in progress


def test_answers_are_quoted_as_they_stand(tmp_path, monkeypatch):
    own_family = tables_of("preference").own_family
    monkeypatch.setattr(own_family, "SMALL", tmp_path)
    texts = [{"prompt": "Which one?", "base": "- **This** one\n\n| a | b |", "tuned": "That one"}]
    (tmp_path / own_family.OWN).mkdir()
    result = {"texts": texts, "conditions": {"max_new_tokens": 7}, "environment": None}
    (tmp_path / own_family.OWN / "trained_model.json").write_text(json.dumps(result))
    shown = own_family.texts()
    assert ">     - **This** one\n>\n>     | a | b |" in shown and "Greedy, cut at 7 tokens" in shown
    assert shown.index("This") < shown.index("after DPO") < shown.index("That one")


# --- the page for a GPU machine ---------------------------------------------------------------------------------------


def test_results_of_another_pair_stand_beside_ours(cli, tree):
    """A folder that was sent in is found by itself; its machine is named; rows of ours stay."""
    report = json.loads((tree / "studies/preference/results/acceptance.json").read_text())
    report["conditions"].update(draft="microsoft/Phi-3-mini-4k-instruct", verifier="microsoft/Phi-3-medium-4k-instruct")
    report["measured"]["paired"] = [
        {"gpu": {"name": "a GPU"}, "packages": {"torch": "2", "transformers": "5"}, "commit": "abc"}
    ]
    del report["paired"]["general"]
    (tree / "studies/preference/results/phi3").mkdir()
    (tree / "studies/preference/results/phi3/acceptance.json").write_text(json.dumps(report))
    before = (tree / "GPU.md").read_text(encoding="utf-8")
    assert cli(tables_of("preference"))[0] == 0
    added = set((tree / "GPU.md").read_text(encoding="utf-8").splitlines()) - set(before.splitlines())
    rows = [line for line in added if line.startswith("| Phi-3-mini-4k-instruct → Phi-3-medium-4k-instruct | at | ")]
    assert len(rows) == len(added) - 1 > 1, "and the line of machines"
    assert "| at | dpo | 120 |" in before and "a GPU, torch 2" in "".join(added)


def phi3_on_meta(**shape):
    """A Phi-3 without weights (arXiv 2404.14219; the configuration's defaults are Mini's), and its bytes in NF4.

    NF4 with double quantisation: 4 bits a weight, 8 more for 64 of them, and 32 for 256 such. What is no linear layer of a
    block stays in bf16.
    """
    import torch
    from transformers import AutoModelForCausalLM, Phi3Config

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(Phi3Config(vocab_size=32064, **shape), dtype=torch.bfloat16)
    in_blocks = [weights for name, weights in model.named_parameters() if weights.ndim == 2 and ".layers." in name]
    small = sum(weights.numel() for weights in in_blocks)
    return model, small * (0.5 + (1 + 4 / 256) / 64) + 2 * (model.num_parameters() - small)


def cache_bytes(model, tokens: int) -> int:
    """Keys and values of all layers in bf16."""
    config = model.config
    width = config.hidden_size // config.num_attention_heads
    return tokens * config.num_hidden_layers * 2 * config.num_key_value_heads * width * 2


def test_the_memory_of_the_papers_pair_is_computed():
    from specdec.training import choose_targets, lora_parameters, memory_needed

    draft, draft_bytes = phi3_on_meta()
    shape = {"hidden_size": 5120, "intermediate_size": 17920, "num_hidden_layers": 40, "num_attention_heads": 40}
    verifier, verifier_bytes = phi3_on_meta(**shape, num_key_value_heads=10)
    step = memory_needed(draft, lora_parameters(draft, choose_targets(draft, None), 16), 4, 512, recomputed=True)
    computed = {
        "draft, NF4": draft_bytes,
        "verifier, the same": verifier_bytes,
        "decoding and `paired`": draft_bytes + verifier_bytes + cache_bytes(draft, 1000) + cache_bytes(verifier, 1000),
        "`generate_answers.py`": verifier_bytes + cache_bytes(verifier, 32 * 400),
        "`train_dpo.py`": draft_bytes + sum(size for name, size in step.items() if name != "weights"),
    }
    page = (ROOT / "GPU.md").read_text(encoding="utf-8")
    printed = dict(re.findall(r"^\| (.*?)(?:, with.*|:.*)? \| ([\d.]+) \|$", page, flags=re.MULTILINE))
    assert printed == {name: f"{size / 2**30:.1f}" for name, size in computed.items()}


def test_the_makefile_names_no_result():
    """Commands that measure stand in a run.sh, once."""
    assert "results/" not in re.sub(r"^#.*$", "", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
