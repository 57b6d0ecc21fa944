"""Training on tiny models: what a run leaves, that a broken run resumes to the same weights, and one line per mistake."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import PHI3
from safetensors.torch import load_file

import preprocess_and_load_dataset
import speculative_decode
import test_trained_model
import train_dpo
from preprocess_and_load_dataset import balanced, load_preference_dataset, split_rows
from specdec.files import read_jsonl, write_jsonl
from specdec.terminal import Problem

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A working folder with a dataset of twelve pairs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    write_jsonl(
        "dpo_clean.jsonl",
        [
            {"prompt": f"question {number}?", "chosen": f"NVDA reads line {number} aloud.", "rejected": "Some tools help."}
            for number in range(12)
        ],
    )
    return tmp_path


def options(tiny, *more):
    return [
        "--draft",
        tiny.draft,
        "--verifier",
        tiny.verifier,
        "--batch-size",
        1,
        "--gradient-accumulation",
        2,
        "--epochs",
        1,
        "--eval-fraction",
        0.2,
        "--save-steps",
        2,
        "--learning-rate",
        1e-3,
        *more,
    ]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_balance_draws_equally_many_of_every_value():
    rows = [{"prompt": str(number), "kind": "rare" if number % 4 == 0 else "common"} for number in range(40)]
    drawn = balanced(rows, "kind", 7)
    assert Counter(row["kind"] for row in drawn) == {"rare": 10, "common": 10}
    assert drawn == balanced(rows, "kind", 7) != balanced(rows, "kind", 8), "by the seed alone"


def test_balance_by_an_unknown_field_is_one_line(cli, tiny, home):
    status, _, err = cli(train_dpo, "--dry-run", *options(tiny, "--balance", "query_type"))
    assert status == 1 and "cannot balance by 'query_type'" in err and "Traceback" not in err


def test_the_control_trains_on_chosen_answers_alone(cli, tiny, home):
    """--loss sft never looks at the rejected answers: other ones leave the same weights."""
    found = []
    for rejected in ("Some tools help.", "Ask somebody else about this, please."):
        rows = list(read_jsonl("dpo_clean.jsonl"))
        write_jsonl("dpo_clean.jsonl", [{**row, "rejected": rejected} for row in rows])
        assert cli(train_dpo, "--loss", "sft", "--max-steps", 3, *options(tiny))[0] == 0
        found.append(weights(home / "final_adapter"))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    metrics = json.loads((home / "final_adapter" / "metrics.json").read_text())
    assert metrics["steps"] == 3 and metrics["held_out"]["eval_loss"] > 0


def test_dry_run_plans_and_writes_nothing(cli, tiny, home):
    before = sorted(home.iterdir())
    status, out, err = cli(train_dpo, "--dry-run", "--json", "-", *options(tiny))
    plan = json.loads(out[out.index("{\n") :])
    assert status == 0 and plan["steps"] == 5 and plan["rows"] == {"train": 10, "held_out": 2}
    assert "q_proj ×2" in err and "down_proj ×2" in err and "Nothing was written" in err
    rank, width, mlp, layers = 16, 32, 64, 2
    expected = layers * rank * (4 * (width + width) + 3 * (width + mlp))
    assert plan["trainable_parameters"] == expected
    assert [path for path in sorted(home.iterdir()) if path.name != "datasets"] == before


def test_a_run_leaves_a_whole_adapter_that_decodes(cli, tiny, home):
    status, _, err = cli(train_dpo, *options(tiny))
    folder = home / "final_adapter"
    assert status == 0, err
    assert {
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "README.md",
        "metrics.json",
        "metrics.jsonl",
        "training.png",
    } <= {path.name for path in folder.iterdir()}
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["steps"] == 5 and 0 <= metrics["held_out"]["eval_rewards/accuracies"] <= 1
    rows = [row for row in read_jsonl(folder / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert all(tensor.dtype == torch.bfloat16 for tensor in weights(folder).values())
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == tiny.draft

    status, out, err = cli(
        speculative_decode,
        "--mode",
        "compare",
        "--prompt",
        "question 3?",
        "--max-new-tokens",
        8,
        "--json",
        "-",
        "--draft",
        tiny.draft,
        "--verifier",
        tiny.verifier,
    )
    assert status == 0 and [run["draft"] for run in json.loads(out)["runs"]] == ["verifier", "base", "dpo"]

    status, out, err = cli(
        test_trained_model,
        "--eval-fraction",
        0.2,
        "--max-new-tokens",
        8,
        "--json",
        "-",
        "--draft",
        tiny.draft,
        "--verifier",
        tiny.verifier,
    )
    result = json.loads(out)
    assert status == 0 and result["held_out"]["rows"] == 2 and len(result["texts"]) == 2
    # The same figure by TRL's road and by ours, up to bf16.
    assert result["held_out"]["reward_margin"] == pytest.approx(metrics["held_out"]["eval_rewards/margins"], rel=0.05)


@pytest.mark.parametrize("how", ["killed", "Ctrl-C"])
def test_a_stopped_run_resumes_to_the_same_weights(cli, tiny, home, monkeypatch, how):
    assert cli(train_dpo, *options(tiny, "--output-dir", "unbroken"))[0] == 0
    real = train_dpo.row_writer

    def stopping(file):
        writer = real(file)
        log = writer.on_log

        def on_log(args, state, control, logs=None, **more):
            log(args, state, control, logs=logs, **more)
            if state.global_step == 3:
                if how == "killed":
                    raise RuntimeError("killed")
                os.kill(os.getpid(), signal.SIGINT)

        writer.on_log = on_log
        return writer

    monkeypatch.setattr(train_dpo, "row_writer", stopping)
    arguments = options(tiny, "--output-dir", "broken")
    if how == "killed":
        monkeypatch.setattr(sys, "argv", ["train_dpo.py", *map(str, arguments)])
        with pytest.raises(RuntimeError, match="killed"):
            train_dpo.main()
    else:
        status, _, err = cli(train_dpo, *arguments)
        assert status == 130 and "--resume" in err
    assert not Path("broken").exists(), "nothing half-written"
    monkeypatch.setattr(train_dpo, "row_writer", real)
    assert cli(train_dpo, *arguments, "--resume")[0] == 0
    unbroken, resumed = weights(home / "unbroken"), weights(home / "broken")
    assert unbroken.keys() == resumed.keys()
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)
    steps = [row["step"] for row in read_jsonl("broken/metrics.jsonl") if "loss" in row]
    assert steps == [1, 2, 3, 4, 5]


def test_resume_refuses_other_settings(cli, tiny, home):
    assert cli(train_dpo, *options(tiny))[0] == 0
    status, _, err = cli(train_dpo, *options(tiny, "--resume", "--beta", 0.5))
    assert status == 1 and "beta 0.1 → 0.5" in err


def test_another_models_adapter_is_not_overwritten(cli, tiny, home):
    Path("final_adapter").mkdir()
    Path("final_adapter/adapter_config.json").write_text('{"base_model_name_or_path": "some/model"}')
    status, _, err = cli(train_dpo, *options(tiny))
    assert status == 1 and "some/model" in err and "--overwrite" in err
    assert sorted(path.name for path in Path("final_adapter").iterdir()) == ["adapter_config.json"]


def test_unmatched_target_module_is_an_error(cli, tiny, home):
    status, _, err = cli(train_dpo, "--dry-run", *options(tiny, "--target-modules", "q_proj", "qkv_proj"))
    assert status == 1 and "qkv_proj matches no layer" in err and "gate_proj" in err


def write_bad(text):
    Path("dpo_clean.jsonl").write_text(text)


GOOD = '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'


@pytest.mark.parametrize(
    "prepare, more, fragment",
    [
        (lambda: Path("dpo_clean.jsonl").unlink(), (), "no dataset at dpo_clean.jsonl"),
        (lambda: write_bad(GOOD + "{oops\n"), (), "line 2: not JSON"),
        (
            lambda: write_bad(GOOD + '{"prompt": "a", "chosen": "", "rejected": "c"}\n'),
            (),
            "line 2: 'chosen' is missing or empty",
        ),
        (lambda: write_bad(""), (), "holds no rows"),
        (lambda: write_bad(GOOD), (), "too few to hold out"),
        (lambda: None, ("--max-length", 4), "Raise --max-length"),
        (lambda: None, ("--resume",), "no checkpoint"),
        (lambda: None, ("--eval-fraction", 1.5), "--eval-fraction"),
        (lambda: Path("file").write_text(""), ("--output-dir", "file/adapter"), "cannot be written"),
    ],
)
def test_bad_input_is_one_line(cli, tiny, home, prepare, more, fragment):
    prepare()
    status, _, err = cli(train_dpo, *options(tiny, *more))
    assert status == 1 and fragment in err.splitlines()[-1] and not Path("final_adapter").exists()


def test_phi3_needs_cuda(cli, home):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    status, _, err = cli(train_dpo, "--dry-run", "--pair", "phi3")
    assert status == 1 and "needs a CUDA device" in err


def test_out_of_memory_is_one_line(cli, tiny, home, monkeypatch):
    def full(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(train_dpo, "load_model", full)
    status, _, err = cli(train_dpo, *options(tiny))
    assert status == 1 and "out of memory" in err.splitlines()[-1]


def test_split_keeps_the_rows_of_a_prompt_together(home):
    rows = [{"prompt": f"p{number % 7}", "chosen": str(number), "rejected": "x"} for number in range(28)]
    train, held_out = split_rows(rows, 0.3, 1)
    assert len(train) + len(held_out) == 28 and not {row["prompt"] for row in train} & {row["prompt"] for row in held_out}
    assert split_rows(rows, 0.3, 1) == (train, held_out) != split_rows(rows, 0.3, 2)
    with pytest.raises(Problem):
        split_rows(rows[:1], 0.3, 1)
    first = load_preference_dataset("dpo_clean.jsonl", 0.2)[0][0]
    assert first["prompt"][0]["role"] == "user" and first["chosen"][0]["role"] == "assistant"


def test_preprocess_reports_lengths(cli, tiny, home):
    status, out, _ = cli(preprocess_and_load_dataset, "--draft", tiny.draft, "--verifier", tiny.verifier)
    assert status == 0 and "12 rows" in out and "<|im_start|>assistant\nNVDA reads line 0 aloud.<|im_end|>" in out


def test_accelerate_launch_two_processes(tiny, home):
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--multi_gpu",
            "--num_processes",
            "2",
            "--num_machines",
            "1",
            "--mixed_precision",
            "no",
            "--dynamo_backend",
            "no",
            str(ROOT / "train_dpo.py"),
            *map(str, options(tiny)),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    metrics = json.loads(Path("final_adapter/metrics.json").read_text())
    assert metrics["steps"] == 3, "two processes share ten rows: three steps of up to four"


# --- the paper's own path, on small random Phi-3 models with the real tokenizers and NF4 -------------------------------


@pytest.fixture(scope="module")
def phi3(tmp_path_factory):
    if not PHI3.is_dir():
        pytest.skip("the real Phi-3 tokenizers are not beside this checkout")
    from types import SimpleNamespace

    from transformers import AutoTokenizer, Phi3Config, Phi3ForCausalLM

    root, folders = tmp_path_factory.mktemp("phi3"), {}
    for seed, (role, size) in enumerate((("draft", "mini"), ("verifier", "medium"))):
        torch.manual_seed(seed)
        Phi3ForCausalLM(
            Phi3Config(
                vocab_size=32064,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                sliding_window=2047,
                eos_token_id=[32000, 32001, 32007],
                pad_token_id=32000,
                bos_token_id=1,
                max_position_embeddings=4096,
            )
        ).to(torch.bfloat16).save_pretrained(root / role)
        AutoTokenizer.from_pretrained(PHI3 / size).save_pretrained(root / role)
        folders[role] = str(root / role)
    return SimpleNamespace(**folders)


def test_phi3_in_nf4_trains_and_compares(cli, phi3, home):
    more = ("--quantization", "nf4")
    status, out, err = cli(train_dpo, "--dry-run", *options(phi3, *more))
    assert status == 0, err
    assert "qkv_proj ×2" in err and "gate_up_proj ×2" in err and "o_proj ×2" in err and "down_proj ×2" in err
    assert cli(train_dpo, *options(phi3, *more))[0] == 0
    status, out, err = cli(
        speculative_decode,
        "--mode",
        "compare",
        "--prompt",
        "question 3?",
        "--max-new-tokens",
        12,
        "--draft",
        phi3.draft,
        "--verifier",
        phi3.verifier,
        "--json",
        "-",
        *more,
    )
    result = json.loads(out)
    assert status == 0 and result["pair"]["vocabulary"] == "identical" and "does more work" in err
    assert [run["adapter"] for run in result["runs"]] == ["none", "none", "attached"]
    assert all(token < 32011 for run in result["runs"] for token in run["token_ids"]), "padding rows are masked"


def test_the_seeds_target_modules_are_refused_on_phi3(cli, phi3, home):
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    status, _, err = cli(train_dpo, "--dry-run", *options(phi3, "--target-modules", *names))
    assert status == 1 and "q_proj k_proj v_proj gate_proj up_proj matches no layer" in err
