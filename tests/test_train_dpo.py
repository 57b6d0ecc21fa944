"""Training on tiny models: what a run leaves, that a broken run resumes to the same weights, and one line per mistake."""

import errno
import json
import os
import shutil
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
from preprocess_and_load_dataset import balanced, load_preference_dataset, read_pairs, split_rows
from specdec import models
from specdec.files import read_jsonl, write_jsonl, write_whole
from specdec.models import chat_text
from specdec.provenance import is_header
from specdec.terminal import Problem
from specdec.training import checkpoint_folder

ROOT = Path(__file__).resolve().parents[1]


def write_dataset(folder: Path) -> None:
    """Twelve pairs."""
    rows = []
    for number in range(12):
        chosen = f"NVDA reads line {number} aloud."
        rows.append({"prompt": f"question {number}?", "chosen": chosen, "rejected": "Some tools help."})
    write_jsonl(folder / "dpo_clean.jsonl", rows)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A working folder with a dataset."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    write_dataset(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory) -> Path:
    """The adapter of one whole training, for all tests that need one."""
    from specdec import weights

    folder = tmp_path_factory.mktemp("trained")
    write_dataset(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(weights, "_hub_answers", False)
        patch.setattr(sys.modules["__main__"], "__spec__", None)  # `python -m pytest` is not the command of a result
        patch.setattr(sys, "argv", ["train_dpo.py", *map(str, options(tiny, "--json", "metrics.json"))])
        assert train_dpo.main() == 0
    return folder / "final_adapter"


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
        rows = list(read_jsonl("dpo_clean.jsonl"))[:12]
        rows.append({"prompt": "question? " * 60, "chosen": "NVDA."})
        write_jsonl("dpo_clean.jsonl", [{**row, "rejected": rejected} for row in rows])
        more = ("--loss", "sft", "--max-steps", 3, "--max-length", 100, "--lora-r", 128, "--overwrite")
        status, _, err = cli(train_dpo, *options(tiny, *more))
        assert status == 0 and "1 rows are left out: TRL drops a row" in err
        found.append(weights(home / "final_adapter"))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    metrics = json.loads((home / "final_adapter" / "metrics.json").read_text())
    assert metrics["steps"] == 3 and metrics["held_out"]["eval_loss"] > 0
    assert metrics["settings"]["loss"] == "sft" and metrics["settings"]["lora_r"] == 128
    assert sum(metrics["rows"].values()) == 12 and sum(metrics["dropped_by_max_length"].values()) == 1


def test_dry_run_plans_and_writes_nothing(cli, tiny, home, monkeypatch):
    """The dataset is read and each tokenizer loaded once."""
    reads, loads = [], []
    read, load = preprocess_and_load_dataset.read_jsonl, preprocess_and_load_dataset.load_tokenizer
    monkeypatch.setattr(preprocess_and_load_dataset, "read_jsonl", lambda path: reads.append(str(path)) or read(path))
    monkeypatch.setattr(preprocess_and_load_dataset, "load_tokenizer", lambda model: loads.append(model.id) or load(model))
    before = sorted(home.iterdir())
    status, out, err = cli(train_dpo, "--dry-run", "--json", "-", *options(tiny))
    plan = json.loads(out[out.index("{\n") :])
    assert status == 0 and plan["steps"] == 5 and plan["rows"] == {"train": 10, "held_out": 2}
    assert reads == ["dpo_clean.jsonl"] and loads == [tiny.draft, tiny.verifier]
    assert "q_proj ×2" in err and "down_proj ×2" in err and "Nothing was written" in err
    assert "memory: about" in err and "are free" in err and " s a step, about " in err
    assert plan["command"].startswith("python train_dpo.py") and plan["conditions"]["loss"] == "dpo"
    rank, width, mlp, layers = 16, 32, 64, 2
    expected = layers * rank * (4 * (width + width) + 3 * (width + mlp))
    assert plan["trainable_parameters"] == expected
    assert [path for path in sorted(home.iterdir()) if path.name != "datasets"] == before


def test_limit_takes_from_the_training_side_alone(cli, tiny, home):
    status, out, _ = cli(train_dpo, "--dry-run", "--limit", "4", "--json", "-", *options(tiny))
    plan = json.loads(out[out.index("{\n") :])
    assert status == 0 and plan["rows"] == {"train": 4, "held_out": 2} and plan["conditions"]["limit"] == 4


def test_a_run_leaves_a_whole_adapter_that_decodes(cli, tiny, home, trained):
    folder = home / "final_adapter"
    shutil.copytree(trained, folder)
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
    assert metrics == json.loads((trained.parent / "metrics.json").read_text()), "--json"
    assert metrics["settings"]["loss"] == "dpo" and metrics["command"].startswith("python train_dpo.py")
    assert metrics["rows"] == {"train": 10, "held_out": 2} and "python" in metrics["environment"]
    header, *rows = read_jsonl(folder / "metrics.jsonl")
    assert is_header(header) and header["conditions"] == metrics["settings"]
    assert all(row["run_id"] == header["run_id"] for row in rows)
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5]
    assert all(tensor.dtype == torch.bfloat16 for tensor in weights(folder).values())
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == tiny.draft
    assert not (trained.parent / "checkpoints").exists() or not list((trained.parent / "checkpoints").iterdir())

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


def greedy(folder: str, prompt: str, tokens: int) -> str:
    """The plain greedy answer, by hand."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=models.compute_dtype()).eval()
    ids = tokenizer(chat_text(tokenizer, prompt), return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    with torch.no_grad():
        while ids.shape[1] < start + tokens and ids[0, -1] != tokenizer.eos_token_id:
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    return tokenizer.decode(ids[0, start:], skip_special_tokens=True).strip()


def test_the_answers_are_of_the_models_plain_distribution(cli, tiny, home, trained, monkeypatch):
    """A repetition penalty that a model ships changes nothing; the reward margin is TRL's, up to bf16, in which the likeliest
    of a random model's tokens would often be two."""
    monkeypatch.setattr(models, "compute_dtype", lambda: torch.float32)
    draft, adapter = home / "draft", home / "adapter"
    shutil.copytree(tiny.draft, draft)
    write_whole(draft / "generation_config.json", json.dumps({"repetition_penalty": 100.0, "do_sample": True}))
    shutil.copytree(trained, adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    write_whole(adapter / "adapter_config.json", json.dumps({**config, "base_model_name_or_path": str(draft)}))
    more = ("--eval-fraction", 0.2, "--max-new-tokens", 24, "--json", "-", "--adapter-path", adapter)
    status, out, err = cli(test_trained_model, *more, "--draft", draft, "--verifier", tiny.verifier)
    result = json.loads(out)
    assert status == 0 and result["held_out"]["rows"] == 2 and len(result["texts"]) == 2
    assert all(row["base"] == greedy(tiny.draft, row["prompt"], 24) for row in result["texts"])
    metrics = json.loads((trained / "metrics.json").read_text())
    assert result["held_out"]["reward_margin"] == pytest.approx(metrics["held_out"]["eval_rewards/margins"], rel=0.05)
    assert result["conditions"]["temperature"] == 0 and result["command"].startswith("python test_trained_model.py")


@pytest.mark.parametrize(
    "option, value",
    [("--temperature", "1e-30"), ("--temperature", "nan"), ("--samples", 0), ("--beta", -1), ("--eval-fraction", "nan")],
)
def test_settings_that_cannot_answer_are_refused_at_once(cli, home, monkeypatch, option, value):
    monkeypatch.setattr(test_trained_model, "choose_pair", None)
    status, _, err = cli(test_trained_model, option, value)
    assert status in (1, 2) and option in err.splitlines()[-1] and "Traceback" not in err


def stop_at_step(monkeypatch, step: int, stop) -> None:
    """Calls `stop` when the trainer has logged this step."""
    real = train_dpo.row_writer

    def stopping(*arguments):
        writer = real(*arguments)
        log = writer.on_log

        def on_log(args, state, control, logs=None, **more):
            log(args, state, control, logs=logs, **more)
            if state.global_step == step:
                stop()

        writer.on_log = on_log
        return writer

    monkeypatch.setattr(train_dpo, "row_writer", stopping)


def killed():
    raise RuntimeError("killed")


@pytest.mark.parametrize("how", ["killed", "SIGTERM"])
def test_a_stopped_run_resumes_to_the_same_weights(cli, tiny, home, trained, monkeypatch, how):
    arguments = options(tiny, "--output-dir", "broken")
    with monkeypatch.context() as patch:
        if how == "killed":
            stop_at_step(patch, 3, killed)
            patch.setattr(sys, "argv", ["train_dpo.py", *map(str, arguments)])
            with pytest.raises(RuntimeError, match="killed"):
                train_dpo.main()
        else:
            number = signal.Signals[how]
            stop_at_step(patch, 3, lambda: os.kill(os.getpid(), number))
            status, _, err = cli(train_dpo, *arguments)
            assert status == 128 + number and "--resume" in err.splitlines()[-1]
            settings = json.loads((checkpoint_folder(Path("broken")) / "settings.json").read_text())
            assert settings["command"].startswith("python train_dpo.py") and "python" in settings["environment"]
    assert not Path("broken").exists(), "nothing half-written"
    assert cli(train_dpo, *arguments, "--resume")[0] == 0
    unbroken, resumed = weights(trained), weights(home / "broken")
    assert unbroken.keys() == resumed.keys()
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)
    rows = list(read_jsonl("broken/metrics.jsonl"))
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5]
    assert sum(map(is_header, rows)) == 2, "a header of each command"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_ends(number):
    before = signal.signal(number, signal.default_int_handler)
    try:
        watch = train_dpo.stop_on_signal()
        with watch.listening():
            os.kill(os.getpid(), number)
            assert watch.number == number
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
                signal.sigtimedwait([], 1)  # Python runs the handler at its next step
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


def stopped_run(settings: dict | None = None) -> Path:
    """Checkpoints as a stopped run of ./final_adapter leaves them, without weights."""
    folder = checkpoint_folder(Path("final_adapter"))
    write_whole(folder / "checkpoint-4" / "trainer_state.json", '{"global_step": 4}')
    write_whole(folder / "settings.json", json.dumps({"settings": settings or {}}))
    return folder / "checkpoint-4"


@pytest.mark.parametrize(
    "more, fragment",
    [
        ((), "holds a stopped run at step 4. Go on with it by --resume, or drop it by --restart"),
        (("--resume", "--restart"), "Give one of them"),
        (("--resume",), "has other settings"),
        (("--restart", "--target-modules", "nose"), "matches no layer"),
        (("--restart", "--max-length", "1"), "--max-length must be at least 2"),
        (("--restart", "--json", "."), "cannot write ."),
    ],
)
def test_a_refused_command_keeps_a_stopped_runs_checkpoints(cli, tiny, home, more, fragment):
    checkpoint = stopped_run({"beta": 0.7})
    status, _, err = cli(train_dpo, *options(tiny, *more))
    assert status == 1 and fragment in err.splitlines()[-1]
    assert (checkpoint / "trainer_state.json").exists() and (checkpoint.parent / "settings.json").exists()


def test_resume_says_which_settings_differ(cli, tiny, home):
    stopped_run({"beta": 0.7})
    status, _, err = cli(train_dpo, *options(tiny, "--resume"))
    assert status == 1 and "beta 0.7 → 0.1" in err


def test_a_broken_training_leaves_the_good_adapter(cli, tiny, home, trained):
    """Also: --restart drops a stopped run, the base may be spelled with a slash, an adapter may be replaced by --overwrite."""
    shutil.copytree(trained, "final_adapter")
    checkpoint = stopped_run()
    more = ("--learning-rate", 1e30, "--warmup", 0, "--draft", tiny.draft + "/", "--restart", "--overwrite")
    status, _, err = cli(train_dpo, *options(tiny, *more))
    last = err.splitlines()[-1]
    assert status == 1 and "is not finite at step" in last and "--learning-rate" in last
    assert "Traceback" not in err and not checkpoint.exists()
    good, kept = weights(trained), weights(Path("final_adapter"))
    assert all(torch.equal(good[name], kept[name]) for name in good)


def test_weights_that_break_at_the_last_step_are_not_written(cli, tiny, home):
    more = ("--learning-rate", 1e30, "--warmup", 0, "--max-steps", 1, "--eval-fraction", 0)
    status, _, err = cli(train_dpo, *options(tiny, *more))
    assert status == 1 and "logits are not finite" in err.splitlines()[-1] and not Path("final_adapter").exists()


@pytest.mark.parametrize("logs", [{"loss": float("nan")}, {"loss": float("inf")}, {"grad_norm": float("nan")}])
def test_a_loss_that_is_not_finite_names_the_step(logs):
    from types import SimpleNamespace

    watch = train_dpo.stop_at_nan()
    watch.on_log(None, SimpleNamespace(global_step=6), None, logs={"loss": 0.5, "eval_loss": 1.0})
    with pytest.raises(Problem, match=f"{next(iter(logs))} is not finite at step 7"):
        watch.on_log(None, SimpleNamespace(global_step=7), None, logs=logs)


def test_a_full_disk_keeps_the_last_checkpoint(cli, tiny, home, monkeypatch):
    from transformers import Trainer

    save = Trainer._save_optimizer_and_scheduler

    def full(self, folder):
        if folder.endswith("checkpoint-4"):
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, folder)

    monkeypatch.setattr(Trainer, "_save_optimizer_and_scheduler", full)
    status, _, err = cli(train_dpo, *options(tiny))
    assert status == 1 and "no space left" in err.splitlines()[-1] and "--resume" in err.splitlines()[-1]
    assert train_dpo.last_checkpoint(checkpoint_folder(Path("final_adapter"))).name == "checkpoint-2"
    assert not Path("final_adapter").exists()


@pytest.mark.parametrize("folder", ["mine", "."])
def test_a_users_folder_is_refused_before_the_work(cli, tiny, home, monkeypatch, folder):
    write_whole(Path("mine/thesis.txt"), "years")
    monkeypatch.setattr(train_dpo, "load_to_train", None)
    status, _, err = cli(train_dpo, *options(tiny, "--output-dir", folder, "--overwrite"))
    assert status == 1 and "--output-dir" in err.splitlines()[-1]
    assert Path("mine/thesis.txt").read_text() == "years" and Path("dpo_clean.jsonl").exists()


@pytest.mark.parametrize("more", [(), ("--restart",), ("--resume",)])
def test_an_adapter_is_not_replaced_without_being_asked(cli, tiny, home, trained, monkeypatch, more):
    """Of the same base model too, and before any model is loaded."""
    shutil.copytree(trained, "final_adapter")
    stopped_run()
    monkeypatch.setattr(train_dpo, "load_to_train", None)
    status, _, err = cli(train_dpo, *options(tiny, *more))
    last = err.splitlines()[-1]
    assert status == 1 and "error: final_adapter holds an adapter of" in last and "replace it by --overwrite" in last
    good, kept = weights(trained), weights(Path("final_adapter"))
    assert all(torch.equal(good[name], kept[name]) for name in good)


def test_too_little_memory_is_refused_with_the_number(cli, tiny, home, monkeypatch):
    monkeypatch.setattr(train_dpo, "free_memory", lambda: 10**6)
    status, _, err = cli(train_dpo, *options(tiny, "--batch-size", 4))
    last = err.splitlines()[-1]
    assert status == 1 and "GiB of memory" in last and "--batch-size 1 --gradient-accumulation 8" in last


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_computes_in_the_type_of_the_weights(home, monkeypatch, dtype):
    monkeypatch.setattr(sys, "argv", ["train_dpo.py"])
    monkeypatch.setattr(train_dpo, "compute_dtype", lambda: dtype)
    common = train_dpo.common_settings(train_dpo.parse_arguments(), Path("runs"), None)
    assert common["bf16"] == (dtype == torch.bfloat16) and not common["logging_nan_inf_filter"]


@pytest.mark.parametrize(
    "option, value",
    [
        ("--batch-size", 0),
        ("--gradient-accumulation", 0),
        ("--lora-r", 0),
        ("--lora-alpha", 0),
        ("--lora-dropout", 1),
        ("--lora-dropout", -0.1),
        ("--lora-dropout", "nan"),
        ("--beta", 0),
        ("--beta", -0.1),
        ("--beta", "inf"),
        ("--epochs", 0),
        ("--learning-rate", 0),
        ("--learning-rate", -1),
        ("--learning-rate", "nan"),
        ("--learning-rate", "inf"),
        ("--warmup", -1),
        ("--warmup", "nan"),
        ("--save-steps", 0),
        ("--max-steps", 0),
        ("--max-length", 1),
        ("--eval-fraction", "nan"),
        ("--eval-fraction", 1),
        ("--seed", -1),
        ("--seed", 2**32),
        ("--loss", "sigmoid"),
    ],
)
def test_settings_that_cannot_train_are_refused_at_once(cli, home, monkeypatch, option, value):
    monkeypatch.setattr(train_dpo, "read_pairs", None)
    status, _, err = cli(train_dpo, option, value)
    assert status in (1, 2) and option in err.splitlines()[-1] and "Traceback" not in err


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
            "row 2: 'chosen' is missing or empty",
        ),
        (lambda: write_bad(""), (), "holds no rows"),
        (lambda: write_bad(GOOD), (), "too few to hold out"),
        (lambda: None, ("--max-length", 4), "Raise --max-length"),
        (lambda: None, ("--resume",), "no checkpoint"),
        (lambda: Path("file").write_text(""), ("--output-dir", "file/adapter"), "cannot be written"),
        (lambda: None, ("--json", "dpo_clean.jsonl"), "it is the input"),
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

    monkeypatch.setattr(train_dpo, "load_to_train", full)
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


def pair_of(**columns) -> dict:
    return {"prompt": "a?", "chosen": "b", "rejected": "c", **columns}


def test_lists_of_one_message_are_read_as_texts(home):
    messages = {"prompt": [{"role": "user", "content": "a?"}], "chosen": [{"role": "assistant", "content": "b"}]}
    write_jsonl("messages.jsonl", [pair_of(**messages), pair_of(system="")])
    first, second = read_pairs(Path("messages.jsonl"))
    assert first == pair_of() and second == pair_of(system="")


@pytest.mark.parametrize(
    "columns, fragment",
    [
        ({"system": "Be brief."}, "row 2: a 'system' column is not supported"),
        (
            {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a?"}]},
            "row 2: 'prompt' must be a text or one message of the user, found system, user",
        ),
        ({"chosen": [{"role": "user", "content": "a?"}]}, "row 2: 'chosen' must be a text or one message of the assistant"),
        ({"chosen": []}, "found no message"),
        ({"rejected": [{"role": "assistant", "content": " "}]}, "row 2: 'rejected' is missing or empty"),
        ({"rejected": ["c"]}, "found None"),
        ({"prompt": 5}, "row 2: 'prompt' is missing or empty"),
    ],
)
def test_other_forms_of_pairs_are_named(home, columns, fragment):
    write_jsonl("pairs.jsonl", [pair_of(), pair_of(**columns)])
    with pytest.raises(Problem, match=fragment):
        read_pairs(Path("pairs.jsonl"))


def test_equal_answers_are_left_out_and_said(home, capsys):
    write_jsonl("pairs.jsonl", [pair_of(), pair_of(rejected="b\n"), pair_of(rejected="b")])
    assert read_pairs(Path("pairs.jsonl")) == [pair_of()]
    assert "2 of 3 rows are left out" in capsys.readouterr().err
    write_jsonl("pairs.jsonl", [pair_of(rejected="b")])
    with pytest.raises(Problem, match="equal"):
        read_pairs(Path("pairs.jsonl"))


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
    assert status == 0, err
    result = json.loads(out)
    assert status == 0 and result["pair"]["vocabulary"] == "identical" and "does more work" in err
    assert [run["adapter"] for run in result["runs"]] == ["none", "none", "attached"]
    assert all(token < 32011 for run in result["runs"] for token in run["token_ids"]), "padding rows are masked"


def test_the_papers_target_modules_are_refused_on_phi3(cli, phi3, home):
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    status, _, err = cli(train_dpo, "--dry-run", *options(phi3, "--target-modules", *names))
    assert status == 1 and "q_proj k_proj v_proj gate_proj up_proj matches no layer" in err
