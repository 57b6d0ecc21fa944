"""Distillation end to end on tiny models: aligned, learning, resumable, and one line for bad input."""

import hashlib
import json
import time
from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
from conftest import small_model
from peft import get_peft_model

import generate_answers
import train_distill
from specdec import distillation, models, training
from specdec.alignment import draft_probs, overlap_and_kept, verifier_probs
from specdec.answers import read_answers, read_probs
from specdec.distillation import answer_log_probs, at_listed, batches, collate, learning_rate
from specdec.engine import Engine
from specdec.files import read_jsonl, write_jsonl
from specdec.losses import LOSSES, Targets, overlap
from specdec.models import prompt_token_ids
from specdec.sampling import Settings
from specdec.terminal import Problem

TOKENS = 12
LOG = "metrics.jsonl"


@pytest.fixture(scope="module")
def answered(tiny, tmp_path_factory):
    """Answers of the tiny verifier whose vocabulary overlaps the draft's, with p of every token stored."""
    home = tmp_path_factory.mktemp("answered")
    prompts = [f"Which {thing} helps {person} read?" for thing in "abcd" for person in ("me", "you", "them", "us", "all")]
    write_jsonl(home / "prompts.jsonl", [{"prompt": prompt, "domain": "at"} for prompt in prompts])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPECULATIVE_CACHE", str(home / "cache"))
        patch.setattr("sys.argv", ["generate_answers.py", "--prompts", str(home / "prompts.jsonl"), "--output",
                                   str(home / "answers.jsonl"), "--draft", tiny.draft, "--verifier", tiny.overlapping,
                                   "--max-new-tokens", str(TOKENS), "--top-probs", "330"])  # fmt: skip
        generate_answers.main()
    return home


@pytest.fixture
def home(answered, monkeypatch, tmp_path):
    """A working folder of the test's own, with the answers and their probabilities at hand."""
    monkeypatch.setenv("SPECULATIVE_CACHE", str(answered / "cache"))
    monkeypatch.chdir(tmp_path)
    return answered


def options(home, tiny, *more):
    return ["--answers", home / "answers.jsonl", "--draft", tiny.draft, "--verifier", tiny.overlapping, "--lora-r", 4,
            "--batch-size", 4, "--eval-steps", 2, "--output-dir", "tuned", *more]  # fmt: skip


def tensors(folder) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


# --- alignment --------------------------------------------------------------------------------------------------------


def lesson_and_pair(tiny):
    pair = models.Pair("custom", models.Model(tiny.draft), models.Model(tiny.overlapping))
    return train_distill.Lesson(pair), pair


def test_every_position_is_read_behind_its_own_prefix(home, tiny):
    """Verifier tokens that the draft writes as several of its own shift all later positions."""
    lesson, _ = lesson_and_pair(tiny)
    several = 0
    for row in read_answers(home / "answers.jsonl"):
        example = lesson.example({**row, "prompted": {}}, True)
        prompt = prompt_token_ids(lesson.draft_tokenizer, row["prompt"], template=lesson.tokenizer)
        for position, last in enumerate(example.rows):
            read = lesson.shared.translate(row["token_ids"][:position])
            assert example.context[: last + 1] == prompt + read
            several += len(read) > position
    assert several, "some verifier token is several of the draft's"


def scored(home, tiny, shift: int = 0) -> float:
    """The largest difference between overlap as distillation sees it and as the evaluation measures it."""
    lesson, pair = lesson_and_pair(tiny)
    engine = Engine(pair)
    draft, _ = engine.load_draft()
    model = models.load_model(pair.draft, dtype=torch.float32)
    forward = answer_log_probs(lesson.shared, 0.7, model.config.vocab_size)(model)
    settings, worst = Settings(temperature=0.7, max_new_tokens=TOKENS), 0.0
    with torch.no_grad():
        for row in read_answers(home / "answers.jsonl")[:6]:
            ids, mask, rows, targets = collate([lesson.example({**row, "prompted": {}}, True)])
            found = overlap(forward(ids, mask, rows + shift), targets)
            verifier_prompt, draft_prompt = engine.prompt_ids(row["prompt"], settings)
            p = verifier_probs(engine.verifier, verifier_prompt, row["token_ids"], settings)
            q = draft_probs(draft, engine.shared, draft_prompt, row["token_ids"], engine.rows, settings)
            worst = max(worst, float((found - overlap_and_kept(p, q, row["token_ids"])[0]).abs().max()))
    return worst


def test_training_and_evaluation_see_the_same_overlap(home, tiny):
    assert scored(home, tiny) < 0.02  # the tiny weights are bf16, and so may the arithmetic of the evaluation be
    assert scored(home, tiny, shift=-1) > 0.1, "positions one off are caught"


def test_padding_does_not_reach_the_loss(home, tiny):
    """A batch of two gives each of its answers what it gives alone."""
    lesson, pair = lesson_and_pair(tiny)
    model = models.load_model(pair.draft, dtype=torch.float32)
    forward = answer_log_probs(lesson.shared, 0.7, model.config.vocab_size)(model)
    rows = read_answers(home / "answers.jsonl")
    examples = sorted((lesson.example({**row, "prompted": {}}, True) for row in rows), key=lambda example: len(example.context))
    shortest, longest = examples[0], examples[-1]
    assert len(shortest.context) < len(longest.context)
    with torch.no_grad():
        alone = torch.cat([forward(*collate([example])[:3]) for example in (shortest, longest)])
        together = forward(*collate([shortest, longest])[:3])
    assert torch.allclose(alone.exp(), together.exp(), atol=1e-5)


def test_log_q_of_few_positions_at_once_is_that_of_all(home, tiny, monkeypatch):
    """And so is the gradient, although its way through the output layer is computed twice."""
    lesson, pair = lesson_and_pair(tiny)
    batch = collate([lesson.example({**row, "prompted": {}}, True) for row in read_answers(home / "answers.jsonl")[:4]])
    found = []
    for at_once in (3, 1000):
        monkeypatch.setattr(distillation, "POSITIONS_AT_ONCE", at_once)
        model = models.load_model(pair.draft, dtype=torch.float32)
        log_q = answer_log_probs(lesson.shared, 0.7, model.config.vocab_size)(model)(*batch[:3])
        LOSSES["tvdpp_position"](log_q, batch[3]).backward()
        gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
        found.append((log_q.detach().exp(), torch.cat(gradients)))
    (few, few_gradient), (whole, whole_gradient) = found
    assert len(few) > 6 and torch.allclose(few, whole, atol=1e-6)
    assert torch.allclose(few_gradient, whole_gradient, atol=1e-6) and whole_gradient.abs().max() > 1e-4


def test_log_q_at_the_listed_tokens_alone_gives_every_loss_its_value_and_gradient(home, tiny, monkeypatch):
    """All but the one that samples from the whole of q."""
    monkeypatch.setattr(distillation, "POSITIONS_AT_ONCE", 5)
    lesson, pair = lesson_and_pair(tiny)
    examples = [lesson.example({**row, "prompted": {}}, True) for row in read_answers(home / "answers.jsonl")[:3]]
    ids, mask, rows, targets = collate(examples)
    model = models.load_model(pair.draft, dtype=torch.float32)
    forward = answer_log_probs(lesson.shared, 0.7, model.config.vocab_size)(model)
    columns, listed = at_listed(targets)
    assert (targets.tokens < 0).any(), "some token of the verifier is not the draft's"
    assert forward(ids, mask, rows, columns).shape == columns.shape
    for name in set(LOSSES) - set(train_distill.READS_ALL_OF_Q):
        whole, gradient = value_and_gradient(model, LOSSES[name], forward(ids, mask, rows), targets)
        narrow, narrow_gradient = value_and_gradient(model, LOSSES[name], forward(ids, mask, rows, columns), listed)
        assert narrow == pytest.approx(whole, abs=1e-6), name
        assert torch.allclose(narrow_gradient, gradient, atol=1e-6) and gradient.abs().max() > 1e-4, name


def value_and_gradient(model, loss_of, log_q, targets) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    loss = loss_of(log_q, targets)
    loss.backward()
    gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    return loss.item(), torch.cat(gradients)


# --- training ---------------------------------------------------------------------------------------------------------


def test_too_little_memory_is_refused_with_the_number(cli, home, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(train_distill, "free_memory", lambda: 10**6)
    status, _, err = cli(train_distill, *options(home, tiny, "--max-steps", 2))
    assert status == 1 and "GiB of memory" in err.splitlines()[-1] and "Lower --batch-size" in err
    assert not (tmp_path / "tuned").exists()


@pytest.mark.parametrize("loss", ["nll", "kl", "tvdpp_sampled"])
@pytest.mark.parametrize("shape", [{"vocab_size": 8000}, {"vocab_size": 64, "num_hidden_layers": 8}])
def test_the_estimate_of_memory_is_what_a_step_takes(loss, shape):
    """Where the vocabulary is most of it and where the layers are; holes of the heap aside, at most a fifth too much."""
    model = small_model("qwen2", intermediate_size=160, max_position_embeddings=256, **shape)
    model.set_attn_implementation("eager")
    model = get_peft_model(model, training.fresh_adapter(model, 8))
    width = model.config.vocab_size
    examples = [example_of(width, prompt=20, answer=200, listed=16) for _ in range(2)]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    taken = tensor_peak(lambda: one_step(model, loss, examples))
    count = sum(parameter.numel() for parameter in trainable)
    needed = train_distill.step_memory(Namespace(loss=loss, batch_size=2), model, count, examples)
    assert taken < sum(needed.values())
    in_use = needed["adapter"] + needed["activations"] + needed["output_layer"]
    assert 0.9 * taken < in_use < 1.2 * taken


def example_of(width: int, prompt: int, answer: int, listed: int) -> distillation.Example:
    """Random tokens, with p on the first `listed` of the vocabulary at each position."""
    p_ids = torch.arange(listed).repeat(answer, 1)
    targets = Targets(p_ids, torch.rand(answer, listed).softmax(-1), torch.randint(width, (answer,)), torch.zeros(answer))
    rows = list(range(prompt - 1, prompt - 1 + answer))
    return distillation.Example(torch.randint(width, (prompt + answer,)).tolist(), rows, targets)


def one_step(model, loss: str, examples: list) -> None:
    """Forward, backward and Adam's step, as the loop does them."""
    shared = SimpleNamespace(draft_ids=range(model.config.vocab_size))
    forward = answer_log_probs(shared, 0.7, model.config.vocab_size)(model)
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad])
    ids, mask, rows, targets = collate(examples)
    columns, targets = (None, targets) if loss in train_distill.READS_ALL_OF_Q else at_listed(targets)
    LOSSES[loss](forward(ids, mask, rows, columns), targets).backward()
    optimizer.step()


def tensor_peak(work) -> int:
    """Bytes of tensors that `work` has in memory at its peak, by torch's own count."""
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        work()
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_every_loss_trains(cli, home, tiny, tmp_path, loss):
    """In four steps, for all tokens that `tvdpp_sampled` draws in one may have the same reward."""
    status, _, err = cli(train_distill, *options(home, tiny, "--loss", loss, "--max-steps", 4))
    assert status == 0, err
    metrics = json.loads((tmp_path / "tuned" / "metrics.json").read_text())
    assert metrics["settings"]["loss"] == loss and metrics["steps"] == 4
    assert any(value.abs().sum() > 0 for name, value in tensors(tmp_path / "tuned").items() if "lora_B" in name)


@pytest.mark.parametrize("data", ["offline", "online", "mixed"])
def test_held_out_overlap_rises(cli, home, tiny, tmp_path, data):
    status, _, err = cli(train_distill, *options(home, tiny, "--data", data, "--passes", 10, "--learning-rate", "0.02",
                                                 "--lora-r", 16, "--eval-steps", 50, "--listed", 330))  # fmt: skip
    assert status == 0, err
    found = json.loads((tmp_path / "tuned" / "metrics.json").read_text())["held_out_overlap"]
    assert found["after"] > 1.5 * found["before"], "on prompts that the draft has not met"


def test_a_stopped_run_resumes_to_the_same_weights(cli, home, tiny, tmp_path, monkeypatch):
    whole = options(home, tiny, "--max-steps", 6)
    assert cli(train_distill, *whole)[0] == 0
    real = train_distill.save_checkpoint

    def stops_after_it(folder, step, *others):
        real(folder, step, *others)
        if step == 4:
            raise KeyboardInterrupt

    again = [*whole, "--output-dir", "stopped"]
    monkeypatch.setattr(train_distill, "save_checkpoint", stops_after_it)
    assert cli(train_distill, *again)[0] == 130
    assert not (tmp_path / "stopped").exists(), "nothing half-trained is left where an adapter belongs"
    monkeypatch.setattr(train_distill, "save_checkpoint", real)
    status, _, err = cli(train_distill, *again, "--seed", 5, "--resume")
    assert status == 1 and "other settings" in err and "seed" in err
    status, _, err = cli(train_distill, *again)
    assert status == 1 and "stopped run at step 4" in err and "--restart" in err, "a run without --resume does not cost it"
    assert cli(train_distill, *again, "--resume")[0] == 0
    one, two = tensors(tmp_path / "tuned"), tensors(tmp_path / "stopped")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    steps = [row["step"] for row in read_jsonl(tmp_path / "stopped" / "metrics.jsonl")]
    assert steps == list(range(7))


def test_the_whole_time_of_a_run_is_told_beside_that_of_its_steps(cli, home, tiny, tmp_path, monkeypatch):
    """Loading and held-out measurements count, and of a resumed run what its earlier parts took, up to the checkpoint."""
    load, save = train_distill.load_trainable, train_distill.save_checkpoint
    clock = {"ahead": 0.0}
    monkeypatch.setattr(train_distill, "time", SimpleNamespace(perf_counter=lambda: time.perf_counter() + clock["ahead"]))

    def loads_for_an_hour(*arguments):
        clock["ahead"] += 3600
        return load(*arguments)

    def stops_a_day_after_it(*arguments):
        save(*arguments)
        clock["ahead"] += 86400
        raise KeyboardInterrupt

    monkeypatch.setattr(train_distill, "load_trainable", loads_for_an_hour)
    monkeypatch.setattr(train_distill, "save_checkpoint", stops_a_day_after_it)
    assert cli(train_distill, *options(home, tiny, "--max-steps", 3))[0] == 130
    monkeypatch.setattr(train_distill, "save_checkpoint", save)
    assert cli(train_distill, *options(home, tiny, "--max-steps", 3, "--resume"))[0] == 0
    metrics = json.loads((tmp_path / "tuned" / "metrics.json").read_text())
    assert 7200 < metrics["wall_seconds"] < 7200 + 600, "two loadings of an hour; the day between the parts is nobody's"
    assert metrics["seconds"] < 600
    logged = [row["wall_seconds"] for row in read_jsonl(tmp_path / "tuned" / "metrics.jsonl")]
    assert logged == sorted(logged) and logged[0] > 3600 and logged[-1] < metrics["wall_seconds"]


def test_a_run_that_an_earlier_version_stopped_is_resumed(cli, home, tiny, tmp_path, monkeypatch):
    """Its rows do not say how long they took."""
    real = train_distill.save_checkpoint

    def forgets(folder, *arguments):
        rows = [{name: value for name, value in row.items() if name != "wall_seconds"} for row in read_jsonl(folder / LOG)]
        write_jsonl(folder / LOG, rows)
        real(folder, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(train_distill, "save_checkpoint", forgets)
    assert cli(train_distill, *options(home, tiny, "--max-steps", 3))[0] == 130
    monkeypatch.setattr(train_distill, "save_checkpoint", real)
    assert cli(train_distill, *options(home, tiny, "--max-steps", 3, "--resume"))[0] == 0
    assert json.loads((tmp_path / "tuned" / "metrics.json").read_text())["wall_seconds"] > 0


def test_dry_run_writes_nothing(cli, home, tiny, tmp_path):
    status, out, err = cli(train_distill, *options(home, tiny, "--dry-run", "--json", "-"))
    assert status == 0 and "Nothing was written" in err and list(tmp_path.iterdir()) == []
    assert json.loads(out)["steps"] == 5, "18 answers in batches of four"


def test_going_on_from_an_adapter(cli, home, tiny, tmp_path):
    assert cli(train_distill, *options(home, tiny, "--max-steps", 2))[0] == 0
    status, _, err = cli(
        train_distill, *options(home, tiny, "--max-steps", 1, "--adapter-path", "tuned", "--output-dir", "more", "--lora-r", 64)
    )
    assert status == 0, err
    settings = json.loads((tmp_path / "more" / "metrics.json").read_text())["settings"]
    assert settings["from_adapter"] == "tuned" and settings["lora_r"] == 4, "the rank is the adapter's own"
    one_line(cli(train_distill, *options(home, tiny, "--adapter-path", "tuned", "--keep-rank", 4)), "--keep-rank", "4")


def test_the_kept_rank_is_the_nearest_of_its_size(cli, home, tiny, tmp_path):
    """The file of rank 2 holds, layer by layer, what a full singular value decomposition of the update keeps."""
    steps = ["--max-steps", 3, "--learning-rate", "0.02"]
    assert cli(train_distill, *options(home, tiny, *steps))[0] == 0
    status, _, err = cli(train_distill, *options(home, tiny, *steps, "--keep-rank", 2, "--output-dir", "small"))
    assert status == 0, err
    large, small = tensors(tmp_path / "tuned"), tensors(tmp_path / "small")
    config = json.loads((tmp_path / "small" / "adapter_config.json").read_text())
    assert config["r"] == 2 and config["lora_alpha"] == 2, "the scale stays 1"
    worst = 0.0
    for name in (name for name in large if "lora_A" in name):
        other = name.replace("lora_A", "lora_B")
        update, kept = (found[other].float() @ found[name].float() for found in (large, small))
        u, values, v = torch.linalg.svd(update, full_matrices=False)
        nearest = u[:, :2] @ torch.diag(values[:2]) @ v[:2]
        worst = max(worst, float((kept - nearest).norm() / nearest.norm()))
        assert small[name].shape[0] == 2 == small[other].shape[1]
    assert 0 < worst < 0.02, "both files are rounded to bf16"
    metrics = json.loads((tmp_path / "small" / "metrics.json").read_text())
    found, trained = metrics["truncated"], metrics["held_out_overlap"]
    assert 0.5 < found["share_of_squared_norm"] < 1 and found["held_out_overlap"] > 0
    told, of_trained = (f"{trained['before']:.4f} → {value:.4f}" for value in (found["held_out_overlap"], trained["after"]))
    assert told != of_trained, "the cut costs something, or this test could not fail"
    assert told in err.splitlines()[-1] and f": {told}." in (tmp_path / "small" / "README.md").read_text()


def test_all_weights_ship_as_the_nearest_adapter(cli, home, tiny, tmp_path, monkeypatch):
    """At full rank the adapter on the base draft is the trained draft; at rank 1 it keeps less. In float32 on every CPU."""
    monkeypatch.setattr(models, "compute_dtype", lambda: torch.float32)
    steps = [*options(home, tiny, "--all-weights", "--max-steps", 3, "--learning-rate", "0.01")]
    whole, less = tmp_path / "tuned", tmp_path / "small"
    status, _, err = cli(train_distill, *steps, "--keep-rank", 64)
    assert status == 0, err
    assert cli(train_distill, *steps, "--keep-rank", 1, "--output-dir", "small")[0] == 0
    metrics, small = (json.loads((folder / "metrics.json").read_text()) for folder in (whole, less))
    assert metrics["settings"]["all_weights"] and metrics["settings"]["lora_r"] is None
    assert metrics["truncated"]["share_of_squared_norm"] == pytest.approx(1, abs=1e-4)
    assert metrics["truncated"]["held_out_overlap"] == pytest.approx(metrics["held_out_overlap"]["after"], abs=1e-5)
    assert small["truncated"]["share_of_squared_norm"] < 0.95
    assert all(value.shape[0] == 1 for name, value in tensors(less).items() if "lora_A" in name)
    assert metrics["held_out_overlap"]["after"] != metrics["held_out_overlap"]["before"]


def test_all_weights_go_without_lora(cli, home, tiny):
    for more in (["--adapter-path", "somewhere"], ["--lora-alpha", 4]):
        one_line(cli(train_distill, *options(home, tiny, "--all-weights", *more)), "--all-weights")


def test_raw_answers_are_read_without_the_chat_template(tmp_path, home, tiny):
    """The training reads a row as the evaluation does: here as the beginning of a text."""
    lesson, _ = lesson_and_pair(tiny)
    rows = list(read_jsonl(home / "answers.jsonl"))
    row = next(row for row in rows if "token_ids" in row)
    chat = lesson.example({**row, "prompted": {}}, with_probs=False)
    raw = lesson.example({**row, "prompted": {"raw": True}}, with_probs=False)
    prompt = lesson.draft_tokenizer(row["prompt"])["input_ids"]
    assert raw.context[: len(prompt)] == prompt and chat.context[: len(prompt)] != prompt
    assert len(raw.rows) == len(chat.rows) == len(row["token_ids"])


def test_order_and_rate_are_functions_of_the_step():
    order = batches(10, 4, seed=1)
    assert sorted(index for step in range(3) for index in order(step)) == list(range(10)), "a pass meets every answer once"
    assert order(0) == batches(10, 4, seed=1)(0) and [order(step) for step in range(3)] != [order(step) for step in range(3, 6)]
    rates = [learning_rate(1.0, step, 100, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0) == rates[9] and rates[99] < 0.001


# --- bad input --------------------------------------------------------------------------------------------------------


def one_line(result, *words) -> None:
    status, out, err = result
    assert status == 1 and out == ""
    assert "Traceback" not in err and err.splitlines()[-1].startswith("error: ")
    for word in words:
        assert word in err


def test_a_loss_that_is_not_finite_stops_and_names_the_step(cli, home, tiny, tmp_path):
    one_line(
        cli(train_distill, *options(home, tiny, "--learning-rate", "1e30", "--max-steps", 6)), "at step", "--learning-rate"
    )
    assert not (tmp_path / "tuned").exists()


def test_answers_of_another_verifier(cli, home, tiny):
    arguments = options(home, tiny)
    arguments[arguments.index(tiny.overlapping)] = tiny.verifier
    one_line(cli(train_distill, *arguments), "answers")


def changed_answers(home, tmp_path, change):
    header, *rows = read_jsonl(home / "answers.jsonl")
    write_jsonl(tmp_path / "changed.jsonl", [header, *map(change, rows)])
    return ["--answers", tmp_path / "changed.jsonl"]


def test_answers_without_probabilities(cli, home, tiny, tmp_path):
    without = changed_answers(home, tmp_path, lambda row: {**row, "probs": None})
    one_line(cli(train_distill, *options(home, tiny, *without)), "no stored probabilities", "--loss nll")
    status, _, err = cli(train_distill, *options(home, tiny, *without, "--loss", "nll", "--max-steps", 1))
    assert status == 0 and "not measured" in err


def test_several_temperatures(cli, home, tiny, tmp_path):
    mixed = changed_answers(home, tmp_path, lambda row: {**row, "temperature": 0.7 if "me" in row["prompt"] else 1.0})
    one_line(cli(train_distill, *options(home, tiny, *mixed)), "temperature")


def test_probabilities_that_are_cut_off(cli, home, tiny, tmp_path, monkeypatch):
    import shutil

    shutil.copytree(home / "cache", tmp_path / "cache")
    monkeypatch.setenv("SPECULATIVE_CACHE", str(tmp_path / "cache"))
    file = next((tmp_path / "cache").rglob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:100])
    one_line(cli(train_distill, *options(home, tiny)), "probabilities")


def test_a_folder_of_the_users_is_left_alone(cli, home, tiny, tmp_path):
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "thesis.txt").write_text("mine")
    one_line(cli(train_distill, *options(home, tiny, "--max-steps", 1)), "tuned")
    assert (tmp_path / "tuned" / "thesis.txt").read_text() == "mine"


def test_an_adapter_is_not_replaced_without_being_asked(cli, home, tiny, tmp_path, monkeypatch):
    """Of the same base model too, and before any model is loaded; --overwrite replaces it."""
    assert cli(train_distill, *options(home, tiny, "--max-steps", 1))[0] == 0
    before = (tmp_path / "tuned" / "adapter_model.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(train_distill, "load_trainable", None)
        for more in ((), ("--restart",), ("--adapter-path", "tuned")):
            one_line(cli(train_distill, *options(home, tiny, "--max-steps", 2, *more)), "tuned holds an adapter", "--overwrite")
    assert (tmp_path / "tuned" / "adapter_model.safetensors").read_bytes() == before
    assert cli(train_distill, *options(home, tiny, "--max-steps", 2, "--overwrite"))[0] == 0
    assert (tmp_path / "tuned" / "adapter_model.safetensors").read_bytes() != before


def test_an_adapter_of_another_draft_is_not_gone_on_from(cli, home, tiny, tmp_path):
    assert cli(train_distill, *options(home, tiny, "--max-steps", 1))[0] == 0
    file = tmp_path / "tuned" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": "some/other-model"}))
    more = ["--adapter-path", "tuned", "--output-dir", "more"]
    one_line(cli(train_distill, *options(home, tiny, *more)), "some/other-model")


def test_a_restarted_run_begins_at_the_beginning(cli, home, tiny, tmp_path, monkeypatch):
    def stops(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    real = train_distill.save_checkpoint
    monkeypatch.setattr(train_distill, "save_checkpoint", stops)
    assert cli(train_distill, *options(home, tiny, "--max-steps", 4))[0] == 130
    monkeypatch.setattr(train_distill, "save_checkpoint", real)
    assert cli(train_distill, *options(home, tiny, "--max-steps", 3, "--restart"))[0] == 0
    assert [row["step"] for row in read_jsonl(tmp_path / "tuned" / "metrics.jsonl")] == [0, 1, 2, 3]
    assert not list((tmp_path / "checkpoints").iterdir()), "a finished run leaves no checkpoint"


def settings_for(home, tiny, rows: list[dict], *more) -> dict:
    """The settings of a run on these rows, each with how its prompt is written."""
    args = parsed(home, tiny, *more)
    args.sampled_at, args.steps = {"temperature": 0.7, "top_p": 1.0, "max_new_tokens": TOKENS}, 1
    pair = models.Pair("custom", models.Model(tiny.draft), models.Model(tiny.overlapping))
    return train_distill.settings_of(args, pair, rows)


def parsed(home, tiny, *more) -> Namespace:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train_distill.py", *map(str, options(home, tiny, *more))])
        return train_distill.parse_arguments()


def test_a_run_is_continued_on_prompts_written_alike_alone(home, tiny, tmp_path):
    """Another system prompt, raw, other messages or tools make other texts of the same prompts and answers.

    The digest by which studies group drafts is what it was; a plain file has no other.
    """
    rows = [{**row, "prompted": {}} for row in read_answers(home / "answers.jsonl")]
    plain = settings_for(home, tiny, rows)
    known = json.dumps([[row["prompt"], row["token_ids"], row["temperature"], row["top_p"]] for row in rows])
    assert plain["answers_sha256"] == hashlib.sha256(known.encode()).hexdigest() and plain["written_sha256"] is None
    tool = {"type": "function", "function": {"name": "find"}}
    around = [
        {"prompted": {"raw": True}},
        {"prompted": {"system": "Be brief."}},
        {"prompted": {"system": "Be long."}},
        {"messages": [{"role": "user", "content": "Hi"}]},
        {"tools": [tool]},
    ]
    found = [plain, *(settings_for(home, tiny, [rows[0] | more, *rows[1:]]) for more in around)]
    assert {settings["answers_sha256"] for settings in found} == {plain["answers_sha256"]}
    for number, before in enumerate(found):
        (tmp_path / "settings.json").write_text(json.dumps({"settings": before}))
        training.check_checkpoint(tmp_path, 4, before, resume=True, restart=False)
        for other in found[:number] + found[number + 1 :]:
            with pytest.raises(Problem, match="other settings .written_sha256"):
                training.check_checkpoint(tmp_path, 4, other, resume=True, restart=False)


def test_listed_counts_where_the_draft_writes(home, tiny):
    rows = [{**row, "prompted": {}} for row in read_answers(home / "answers.jsonl")]
    for data, listed in (("offline", None), ("online", 8), ("mixed", 8)):
        assert settings_for(home, tiny, rows, "--data", data, "--listed", 8)["listed"] == listed


def test_a_run_is_resumed_or_dropped_not_both(cli, home, tiny, monkeypatch):
    monkeypatch.setattr(train_distill, "load_trainable", None)
    one_line(cli(train_distill, *options(home, tiny, "--resume", "--restart")), "Give one of them")


def test_nothing_to_resume(cli, home, tiny):
    one_line(cli(train_distill, *options(home, tiny, "--resume")), "no checkpoint")


def test_stored_probabilities_are_the_verifiers(home, tiny):
    row = read_answers(home / "answers.jsonl")[0]
    ids, probs = read_probs(row["probs"])
    assert ids.shape == probs.shape == (len(row["token_ids"]), 330)
    assert torch.allclose(probs.sum(-1), torch.ones(len(probs)), atol=1e-4)
