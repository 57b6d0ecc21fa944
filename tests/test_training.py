"""What the trainings share: no file of a user's is lost, memory is what the estimate says, weights that are not finite stop."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from specdec import models, training
from specdec.files import write_whole
from specdec.terminal import Problem


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_adapter(folder: Path, note: str = "old") -> Path:
    """An adapter as our scripts leave it, its weights replaced by a note."""
    folder.mkdir(parents=True)
    write_whole(folder / "adapter_config.json", json.dumps({"base_model_name_or_path": "some/model"}))
    write_whole(folder / "metrics.json", json.dumps({"settings": {"loss": "dpo"}}))
    write_whole(folder / "adapter_model.safetensors", note)
    return folder


def fill(folder: Path) -> None:
    write_whole(folder / "adapter_model.safetensors", "new")
    write_whole(folder / "metrics.json", json.dumps({"settings": {"loss": "sft"}}))


def note(folder: Path) -> str:
    return (folder / "adapter_model.safetensors").read_text()


def hidden_files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


# --- a user's files ---------------------------------------------------------------------------------------------------


def test_new_and_empty_folders_may_be_written(home, capsys):
    Path("empty").mkdir()
    for name in ("new", "new/deep", "empty"):
        training.check_output_dir(Path(name), overwrite=False)
    assert [path.name for path in home.iterdir()] == ["empty"], "the check makes nothing"
    assert capsys.readouterr().err == ""


def test_metrics_without_weights_may_be_written_over_and_it_is_said(home, capsys):
    """What the repository keeps of most drafts; the command in the metrics makes their weights again."""
    write_adapter(Path("mine"))
    Path("mine/adapter_model.safetensors").unlink()
    training.check_output_dir(Path("mine"), overwrite=False)
    assert capsys.readouterr().err.splitlines() == [
        "mine holds the metrics of an adapter without its weights; this training replaces them"
    ]


def a_thesis():
    write_adapter(Path("mine"))
    Path("mine/thesis.txt").write_text("years")


def a_folder_in_it():
    write_adapter(Path("mine"))
    Path("mine/README.md").mkdir()


def a_readme_alone():
    Path("mine").mkdir()
    Path("mine/README.md").write_text("my own")


def an_adapter_of_another_tool():
    write_adapter(Path("mine"))
    Path("mine/metrics.json").unlink()


def a_link_to_a_thesis():
    Path("elsewhere").mkdir()
    Path("elsewhere/thesis.txt").write_text("years")
    Path("mine").symlink_to("elsewhere")


@pytest.mark.parametrize(
    "prepare, fragment",
    [
        (a_thesis, "holds thesis.txt, which no training here wrote"),
        (a_folder_in_it, "holds README.md"),
        (a_readme_alone, "no metrics.json"),
        (an_adapter_of_another_tool, "no metrics.json"),
        (a_link_to_a_thesis, "holds thesis.txt"),
        (lambda: Path("mine").write_text("x"), "is a file"),
        (lambda: Path("mine").symlink_to("."), "more than an adapter"),
        (lambda: write_adapter(Path("mine")), "mine holds an adapter of some/model. .* or replace it by --overwrite"),
    ],
)
def test_what_must_not_be_lost_is_refused(home, prepare, fragment):
    prepare()
    before = sorted(str(path) for path in home.rglob("*"))
    with pytest.raises(Problem, match=fragment):
        training.check_output_dir(Path("mine"), overwrite=False)
    assert sorted(str(path) for path in home.rglob("*")) == before


@pytest.mark.parametrize("name", [".", "..", "/", "checkpoints"])
def test_the_folder_we_work_in_is_no_output(home, name):
    with pytest.raises(Problem, match="more than an adapter"):
        training.check_output_dir(Path(name), overwrite=True)


def test_the_repository_is_no_output(home):
    for folder in (training.ROOT, training.ROOT.parent):
        with pytest.raises(Problem, match="more than an adapter"):
            training.check_output_dir(folder, overwrite=True)


def test_overwrite_replaces_an_adapter_but_nothing_else(home):
    write_adapter(Path("mine"))
    training.check_output_dir(Path("mine"), overwrite=True)
    Path("mine/thesis.txt").write_text("years")
    with pytest.raises(Problem, match="thesis"):
        training.check_output_dir(Path("mine"), overwrite=True)


def test_an_adapter_replaces_its_predecessor_whole(home):
    write_adapter(Path("mine"))
    assert training.write_adapter_folder(Path("mine"), fill) == home / "mine"
    assert note(Path("mine")) == "new" and not Path("mine/adapter_config.json").exists()
    assert hidden_files(home) == []


def test_a_link_stays_and_its_folder_is_replaced(home):
    write_adapter(Path("elsewhere"))
    Path("mine").symlink_to("elsewhere")
    training.write_adapter_folder(Path("mine"), fill)
    assert Path("mine").is_symlink() and note(Path("elsewhere")) == "new"


def test_the_mode_is_what_the_umask_leaves(home):
    former = os.umask(0o027)
    try:
        training.write_adapter_folder(Path("mine"), fill)
    finally:
        os.umask(former)
    assert Path("mine").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_a_failure_while_writing_leaves_the_old_adapter(home, error):
    def fail(folder):
        fill(folder)
        raise error

    write_adapter(Path("mine"))
    with pytest.raises(type(error)):
        training.write_adapter_folder(Path("mine"), fail)
    assert note(Path("mine")) == "old" and hidden_files(home) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"),
    ],
)
def test_a_full_disk_is_one_line(home, error):
    def fail(folder):
        raise error

    with pytest.raises(Problem, match="no space left to write mine"):
        training.write_adapter_folder(Path("mine"), fail)
    assert list(home.iterdir()) == []


def test_torch_says_a_full_disk_as_we_know_it():
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(RuntimeError) as found:
        torch.save(torch.zeros(100_000), "/dev/full")
    assert training.is_full(found.value)


def test_a_failed_exchange_puts_the_old_adapter_back_and_names_the_new(home, monkeypatch):
    rename = Path.rename

    def fail_once(self, target):
        if self.name.startswith(".mine.") and not self.name.endswith(".old"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    write_adapter(Path("mine"))
    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(Problem, match="could not be replaced") as found:
        training.write_adapter_folder(Path("mine"), fill)
    assert note(Path("mine")) == "old"
    kept = Path(str(found.value).rsplit(" ", 1)[1].rstrip("."))
    assert note(kept) == "new", "hours of work are not lost for a rename"


def test_a_file_that_appears_during_the_training_is_kept(home, capsys):
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years")
    where = training.write_adapter_folder(Path("mine"), fill)
    assert Path("mine/thesis.txt").read_text() == "years"
    assert note(where) == "new" and where.name in capsys.readouterr().err and not where.name.startswith(".")


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_runs_of_one_last_name_have_checkpoints_of_their_own(home):
    assert training.checkpoint_folder(Path("run1/adapter")) != training.checkpoint_folder(Path("run2/adapter"))
    Path("run1").mkdir()
    Path("link").symlink_to("run1")
    assert training.checkpoint_folder(Path("link/adapter")) == training.checkpoint_folder(home / "run1" / "adapter")


def test_a_half_written_checkpoint_is_not_the_last(home):
    for step, text in ((9, "{}"), (10, '{"step": 10}'), (20, '{"step"'), (30, "")):
        write_whole(Path(f"runs/checkpoint-{step}/trainer_state.json"), text)
    Path("runs/checkpoint-40").mkdir()
    assert training.last_checkpoint(Path("runs")) == Path("runs/checkpoint-10")


def test_only_what_a_training_wrote_is_removed(home):
    write_whole(Path("runs/checkpoint-9/trainer_state.json"), "{}")
    write_whole(Path("runs/settings.json"), "{}")
    write_whole(Path("runs/notes.txt"), "mine")
    training.remove_checkpoints(Path("runs"))
    assert [path.name for path in Path("runs").iterdir()] == ["notes.txt"]
    Path("runs/notes.txt").unlink()
    training.remove_checkpoints(Path("runs"))
    assert not Path("runs").exists()


def test_a_run_is_resumed_or_dropped_not_both(home):
    with pytest.raises(Problem, match="--resume goes on with a stopped run and --restart drops it. Give one of them."):
        training.check_checkpoint(Path("runs"), 4, {}, resume=True, restart=True)


# --- weights and memory -----------------------------------------------------------------------------------------------


def lora_model(rank: int = 8, layers: int = 2):
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=50,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=128,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("eager")
    targets = training.choose_targets(model, None)
    added = training.lora_parameters(model, targets, rank)
    return get_peft_model(model, LoraConfig(r=rank, target_modules=targets, task_type="CAUSAL_LM")), added


def kept_for_backward(layers: int) -> int:
    """Bytes that autograd really keeps, the weights aside."""
    model, _ = lora_model(layers=layers)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, or its address would be used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model.base_model.model.model(torch.randint(0, 50, (2, 100)), use_cache=False).last_hidden_state
    assert hidden.requires_grad
    return sum(size for size, _ in found.values())


def test_the_estimate_of_activations_is_what_autograd_keeps():
    model, added = lora_model(layers=3)
    counted = kept_for_backward(3) - kept_for_backward(2)
    estimate = training.memory_needed(model, added, sequences=2, length=100)["activations"] / 3
    assert estimate == pytest.approx(counted, rel=0.1)


def test_the_estimate_counts_adapter_vocabulary_and_recomputation():
    model, added = lora_model(rank=128)
    assert added == training.trainable_parameters(model)[0], "as PEFT counts"
    needed = training.memory_needed(model, added, sequences=4, length=10)
    assert needed["adapter"] == 16 * added
    assert needed["output_layer"] == 10 * 40 * 50 * 4
    model.config.vocab_size = 151_936
    assert training.memory_needed(model, added, 4, 10)["output_layer"] == 10 * 40 * 32_768 * 4
    assert training.memory_needed(model, added, 4, 10, recomputed=True)["activations"] < needed["activations"]


def test_trl_still_works_through_the_vocabulary_in_these_parts():
    from trl.trainer import utils

    assert utils._CHUNKED_LOGPROB_CHUNK_SIZE == training.HEAD_COLUMNS


def test_too_little_memory_is_said_with_the_number(capsys):
    needed = {"weights": 2**31, "activations": 2**30}
    training.check_memory(needed, 2**32, "")
    assert "about 3.0 GiB" in capsys.readouterr().err
    with pytest.raises(Problem, match="about 3.0 GiB of memory .* and 1.0 are free. Close programs."):
        training.check_memory(needed, 2**30, "Close programs.")
    assert models.free_memory() > 2**20


def test_weights_and_logits_that_are_not_finite_are_found():
    model, _ = lora_model()
    assert training.not_finite(model) is None and training.answers_finite(model)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for parameter in trained.values():
        parameter.data.fill_(1e30)
    assert training.not_finite(model) is None and not training.answers_finite(model)
    name, last = list(trained.items())[-1]
    last.data[0, 0] = float("nan")
    assert training.not_finite(model) == name
    with pytest.raises(Problem, match="not finite"):
        training.as_bf16(model)


def test_the_overlap_that_is_told_is_that_of_the_written_weights():
    whole, kept = {"before": 0.5, "after": 0.625}, {"rank": 2, "held_out_overlap": 0.6}
    assert training.overlap_of_written({"held_out_overlap": whole, "truncated": kept}) == {"before": 0.5, "after": 0.6}
    assert training.overlap_of_written({"held_out_overlap": whole, "truncated": None}) == whole
    assert training.overlap_of_written({"held_out_overlap": whole}) == whole, "metrics of earlier versions"
    unmeasured = {"rank": 2, "held_out_overlap": None}
    assert training.overlap_of_written({"held_out_overlap": None, "truncated": unmeasured}) is None
    assert training.overlap_of_written({}) is None, "those of train_dpo.py"


def test_curves_skip_headers_and_need_points(home):
    rows = [{"run_id": "a", "command": "c"}, {"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    training.plot_curves(rows, Path("some.png"), {"loss": "loss", "other": "other"})
    training.plot_curves(rows[:1], Path("none.png"), {"loss": "loss"})
    assert Path("some.png").stat().st_size > 1000 and not Path("none.png").exists()
