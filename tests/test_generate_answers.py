"""The verifier's answers: whose they are, under which conditions, and that a stopped or shared job gives the same ones."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import PHI3, tiny_tokenizer

import generate_answers
from specdec import answers, models
from specdec.alignment import verifier_probs
from specdec.answers import digest_of, probs_file, read_answers, read_probs
from specdec.engine import Engine
from specdec.files import read_jsonl, write_jsonl
from specdec.models import load_tokenizer, plain_token_ids
from specdec.provenance import read_row_file
from specdec.sampling import Settings
from specdec.terminal import Problem

ROOT = Path(__file__).resolve().parents[1]
TOOLS_TEMPLATE = (
    "{% for tool in tools or [] %}<tools>{{ tool | tojson }}</tools>{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOL = {"type": "function", "function": {"name": "find_captions", "description": "Finds captions.", "parameters": {}}}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """Probabilities go to a cache folder of the test's own."""
    monkeypatch.setattr(answers, "cache_folder", lambda: tmp_path / "cache")


@pytest.fixture
def job(cli, tiny, tmp_path):
    """`job(*options)` → (exit status, stderr) of answering four prompts by the verifier `tiny.overlapping`."""
    prompts = tmp_path / "prompts.jsonl"
    write_jsonl(
        prompts, [{"prompt": f"question {number}?", "domain": "at", "topic": "screens", "chosen": "no"} for number in range(4)]
    )

    def call(*options, verifier=tiny.overlapping):
        fixed = ["--prompts", prompts, "--output", tmp_path / "answers.jsonl", "--draft", tiny.draft, "--verifier", verifier]
        status, out, err = cli(generate_answers, *fixed, "--max-new-tokens", 6, "--batch-size", 3, *options)
        assert out == ""
        return status, err

    return call


def rows_of(tmp_path) -> list[dict]:
    return read_row_file(tmp_path / "answers.jsonl")[1]


def texts(rows: list[dict]) -> dict:
    return {(row["prompt"], row["temperature"], row["top_p"]): row["token_ids"] for row in rows}


def test_a_row_is_the_prompt_row_and_its_answer(job, tmp_path, tiny):
    assert job("--temperature", 0.7, 1, "--top-p", 0.9, 1)[0] == 0
    headers, rows = read_row_file(tmp_path / "answers.jsonl")
    (header,) = headers.values()
    assert header["conditions"] == {"verifier": tiny.overlapping, "quantization": "none", "max_new_tokens": 6}
    assert " --prompts prompts.jsonl --output answers.jsonl " in header["command"] and header["dtype"]
    assert len(rows) == len(texts(rows)) == 4 * 2 * 2
    for row in rows:
        assert (row["domain"], row["topic"], row["probs"], row["seed"]) == ("at", "screens", None, 42)
        assert "chosen" not in row, "an answer of someone else"
        assert row["run_id"] == header["run_id"] and 1 <= len(row["token_ids"]) <= 6
        assert all(token < 330 for token in row["token_ids"]), "rows of the logits that name no token are never drawn"


def test_an_answer_is_drawn_by_its_prompt_and_seed_alone(job, tmp_path):
    """Not by the batch, nor by where a stopped run resumed; another random seed gives others.

    Answers so short meet no near-tie that the rounding of another batch would turn.
    """
    assert job()[0] == 0
    whole = rows_of(tmp_path)
    header = next(read_jsonl(tmp_path / "answers.jsonl"))
    write_jsonl(tmp_path / "answers.jsonl", [header, *whole[:1]])
    assert job("--batch-size", 1)[0] == 0
    assert texts(rows_of(tmp_path)) == texts(whole)
    assert len(read_row_file(tmp_path / "answers.jsonl")[0]) == 2, "the resumed run has a header of its own"
    assert "all 4 answers" in job()[1]
    (tmp_path / "answers.jsonl").unlink()
    assert job("--seed", 7)[0] == 0
    assert texts(rows_of(tmp_path)) != texts(whole)


def test_the_rows_tell_what_all_of_them_took(job, tmp_path, monkeypatch):
    """Over batches of unequal size and a run that was resumed: the sum of batch_seconds / batch_rows is the time of all."""
    ticks = iter(range(0, 10**6, 8))  # each look at the clock is eight seconds later
    monkeypatch.setattr(generate_answers, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    assert job("--limit", 1)[0] == 0
    assert job()[0] == 0
    rows = rows_of(tmp_path)
    assert [row["batch_rows"] for row in rows] == [1, 3, 3, 3]
    assert sum(row["batch_seconds"] / row["batch_rows"] for row in rows) == pytest.approx(16), "two batches"


def test_answers_follow_the_verifiers_distribution(tiny):
    """First tokens of many batches against p at that position: total variation within what 4,000 samples leave."""
    engine = Engine(models.Pair("custom", models.Model(tiny.draft), models.Model(tiny.overlapping)))
    settings = Settings(max_new_tokens=2, temperature=0.5)
    prompts = [engine.prompt_ids(text, settings)[0] for text in ("question?", "What screen reader works best?")]
    with torch.inference_mode():
        counts = torch.zeros(2, engine.rows)
        for seed in range(40):
            drawn, _ = generate_answers.sample_batch(
                engine, prompts * 50, list(range(seed * 100, seed * 100 + 100)), settings, 0
            )
            for number, answer in enumerate(drawn):
                counts[number % 2, answer[0]] += 1
        expected = torch.stack([verifier_probs(engine.verifier, ids, [0], settings)[0] for ids in prompts])
    distance = (counts / 2000 - expected).abs().sum(-1) / 2
    assert distance.max() < 0.1
    assert (counts.flip(0) / 2000 - expected).abs().sum(-1).min() / 2 > 0.2, "each prompt has a distribution of its own"


def test_stored_probabilities_are_those_of_the_positions(job, tmp_path, tiny):
    assert job("--top-probs", 5)[0] == 0
    engine = Engine(models.Pair("custom", models.Model(tiny.draft), models.Model(tiny.overlapping)))
    settings = Settings(max_new_tokens=6)
    for row in read_answers(tmp_path / "answers.jsonl", verifier=tiny.overlapping):
        ids, probs = read_probs(row["probs"])
        with torch.inference_mode():
            p = verifier_probs(engine.verifier, engine.prompt_ids(row["prompt"], settings)[0], row["token_ids"], settings)
        assert ids.shape == probs.shape == (len(row["token_ids"]), 5)
        assert torch.allclose(p.gather(1, ids), probs, atol=0.02), "bf16 passes of other widths"
        assert torch.allclose(p.topk(5).values, probs, atol=0.02)


def test_a_text_of_others_is_read_and_stored_with_the_verifiers_probabilities(job, tmp_path, tiny):
    assert job("--text", "chosen", "--top-probs", 5)[0] == 0
    engine = Engine(models.Pair("custom", models.Model(tiny.draft), models.Model(tiny.overlapping)))
    written = plain_token_ids(engine.tokenizer, "no") + [engine.tokenizer.eos_token_id]
    settings = Settings(max_new_tokens=6)
    for row in rows_of(tmp_path):
        ids, probs = read_probs(row["probs"])
        prompt = engine.prompt_ids(row["prompt"], settings)[0]
        with torch.inference_mode():
            p = verifier_probs(engine.verifier, prompt, written, settings)
        assert row["token_ids"] == written and row["text"] == "chosen" and "chosen" not in row
        assert ids.shape == (len(written), 5) and torch.allclose(p.gather(1, ids), probs, atol=1e-4)


def test_a_text_of_others_ends_at_the_longest_answer_and_raw_text_ends_no_turn(job, tmp_path, tiny):
    assert job("--text", "prompt", "--max-new-tokens", 3)[0] == 0
    assert {len(row["token_ids"]) for row in rows_of(tmp_path)} == {3}
    (tmp_path / "answers.jsonl").unlink()
    assert job("--text", "chosen", "--raw")[0] == 0
    tokenizer = load_tokenizer(models.Model(tiny.overlapping))
    assert {tuple(row["token_ids"]) for row in rows_of(tmp_path)} == {tuple(plain_token_ids(tokenizer, "no"))}


def ends_with(tokenizer, stop: set[str]) -> str:
    """The token that ends a text of others, where these tokens stop an answer."""
    engine = SimpleNamespace(tokenizer=tokenizer, stop=set(tokenizer.convert_tokens_to_ids(sorted(stop))))
    return tokenizer.convert_ids_to_tokens(generate_answers.end_of_turn(engine))


def test_a_text_of_others_ends_as_the_chat_template_ends_a_turn():
    tokenizer = tiny_tokenizer(300)
    tokenizer.eos_token = "<|endoftext|>"
    assert ends_with(tokenizer, {"<|im_end|>", "<|endoftext|>"}) == "<|im_end|>"
    with pytest.raises(Problem, match="no stop token behind an answer"):
        ends_with(tokenizer, {"<|endoftext|>"})
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(Problem, match="no stop token behind an answer"):
        ends_with(tokenizer, {"<|im_end|>"})
    tokenizer.chat_template = None
    assert ends_with(tokenizer, {"<|endoftext|>"}) == "<|endoftext|>", "a base model knows no turns"


@pytest.mark.skipif(not PHI3.is_dir(), reason="the real Phi-3 tokenizers are not beside this checkout")
@pytest.mark.parametrize("size", ["mini", "medium"])
def test_a_text_of_others_ends_a_turn_of_phi3(size):
    tokenizer = load_tokenizer(models.Model(str(PHI3 / size)))
    assert tokenizer.eos_token == "<|endoftext|>", "which the verifier never writes behind an answer"
    assert ends_with(tokenizer, {"<|endoftext|>", "<|assistant|>", "<|end|>"}) == "<|end|>"


def test_no_draft_is_measured_on_texts_of_others(job, tmp_path, tiny):
    assert job("--text", "chosen")[0] == 0
    pair = models.Pair("custom", models.Model(tiny.draft), models.Model(tiny.overlapping))
    with pytest.raises(Problem, match="another text"):
        answers.answers_to({"question 0?"}, tmp_path / "answers.jsonl", pair, Settings(max_new_tokens=6))


def test_a_file_of_answers_takes_no_texts_of_others(job):
    assert job()[0] == 0
    status, err = job("--text", "chosen")
    assert status == 1 and "another text" in err


def test_a_row_without_the_text_is_named(job):
    status, err = job("--text", "rejected")
    assert status == 1 and "rejected" in err and "line 1" in err


def test_prompts_are_drawn_per_type(cli, tiny, tmp_path):
    rows = [
        {"prompt": f"{kind} {number}?", "domain": "at", "query_type": kind, "source": "ours"}
        for kind in ("technical", "procedural")
        for number in range(5)
    ]
    write_jsonl(tmp_path / "prompts.jsonl", rows)
    fixed = ["--prompts", tmp_path / "prompts.jsonl", "--draft", tiny.draft, "--verifier", tiny.overlapping]
    options = ["--per-type", 2, "--max-new-tokens", 2, "--output", tmp_path / "answers.jsonl"]
    assert cli(generate_answers, *fixed, *options)[0] == 0
    kinds = [row["query_type"] for row in rows_of(tmp_path)]
    assert sorted(kinds) == ["procedural"] * 2 + ["technical"] * 2


def test_damaged_probabilities_are_one_line(job, tmp_path):
    assert job("--top-probs", 5)[0] == 0
    digests = [row["probs"] for row in rows_of(tmp_path)]
    file = probs_file(digests[0])
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(Problem, match="not whole"):
        read_probs(digests[0])
    file.write_bytes(b"")
    with pytest.raises(Problem, match="not whole"):
        read_probs(digests[0])
    probs_file(digests[1]).unlink()
    with pytest.raises(Problem, match="are not in"):
        read_probs(digests[1])


def test_probabilities_of_another_answer_are_refused(job, tmp_path):
    assert job("--top-probs", 5)[0] == 0
    header, first, second, *_ = read_jsonl(tmp_path / "answers.jsonl")
    for changed in ({**first, "probs": second["probs"]}, {**first, "temperature": 0.5}, {**first, "token_ids": [1, 2]}):
        write_jsonl(tmp_path / "answers.jsonl", [header, changed])
        with pytest.raises(Problem, match="of another answer"):
            read_answers(tmp_path / "answers.jsonl")


def test_a_full_disk_is_one_line_and_whole_rows_stay(job, tmp_path, monkeypatch):
    """The probabilities of a batch come before its rows, so no row ever names a file that is not there."""
    stored: list[Path] = []

    def full_after_three(self, data):
        if len(stored) == 3:
            raise OSError(28, "No space left on device", str(self))
        stored.append(self)
        with open(self, "wb") as out:
            return out.write(data)

    monkeypatch.setattr(Path, "write_bytes", full_after_three)
    status, err = job("--top-probs", 5)
    assert status == 1 and err.splitlines()[-1].startswith("error: ") and "Traceback" not in err
    monkeypatch.undo()
    monkeypatch.setattr(answers, "cache_folder", lambda: tmp_path / "cache")
    assert len(rows_of(tmp_path)) == 3, "the first batch"
    assert all(probs_file(row["probs"]).exists() for row in rows_of(tmp_path))
    assert not list((tmp_path / "cache").rglob("*.unfinished"))
    assert job("--top-probs", 5)[0] == 0 and len(rows_of(tmp_path)) == 4


OTHER_CONDITIONS = [
    (["--max-new-tokens", 5], "another max_new_tokens (6, not 5)"),
    (["--system", "Be brief."], "another system (None, not Be brief.)"),
    (["--raw"], "another raw (False, not True)"),
]


@pytest.mark.parametrize("options, fragment", OTHER_CONDITIONS)
def test_answers_of_other_conditions_are_refused(job, tmp_path, options, fragment):
    assert job()[0] == 0
    before = (tmp_path / "answers.jsonl").read_bytes()
    status, err = job(*options)
    assert status == 1 and fragment in err.splitlines()[-1]
    assert (tmp_path / "answers.jsonl").read_bytes() == before


def test_answers_of_another_verifier_are_refused(job, tiny):
    assert job()[0] == 0
    status, err = job(verifier=tiny.verifier)
    assert status == 1 and "answers of another verifier" in err


@pytest.mark.parametrize(
    "row, fragment",
    [
        ({"prompt": "a", "temperature": 1.0, "top_p": 1.0}, "has no token_ids"),
        ({"prompt": "a", "token_ids": [1], "top_p": 1.0}, "has no temperature"),
        ({"prompt": " ", "token_ids": [1]}, "'prompt' is missing or empty"),
    ],
)
def test_a_row_that_is_no_answer_is_named(job, tmp_path, row, fragment):
    assert job("--limit", 1)[0] == 0
    with open(tmp_path / "answers.jsonl", "a") as out:
        out.write(json.dumps(row) + "\n")
    status, err = job()
    assert status == 1 and fragment in err.splitlines()[-1]


def test_a_file_without_a_header_is_refused(job, tmp_path):
    write_jsonl(tmp_path / "answers.jsonl", [{"prompt": "a", "token_ids": [1]}])
    status, err = job()
    assert status == 1 and "does not say of which verifier" in err


BAD_INPUT = [
    (["--top-p", 0], "--top-p"),
    (["--top-p", 1.5], "--top-p"),
    (["--top-probs", -1], "--top-probs"),
    (["--top-probs", 5000], "more than the verifier's"),
    (["--top-probs", 5, "--temperature", 0], "temperature above 0"),
    (["--raw", "--system", "Be brief."], "--raw"),
    (["--output", "/proc/no/answers.jsonl"], "cannot write"),
]


@pytest.mark.parametrize("options, fragment", BAD_INPUT)
def test_bad_input_is_one_line(job, options, fragment):
    status, err = job(*options)
    assert status == 1 and fragment in err.splitlines()[-1] and err.splitlines()[-1].startswith("error: ")


def test_a_prompt_that_comes_twice_is_answered_once(cli, tiny, tmp_path):
    write_jsonl(tmp_path / "p.jsonl", [{"prompt": "question?"}, {"prompt": "question?"}])
    options = ["--prompts", tmp_path / "p.jsonl", "--output", tmp_path / "answers.jsonl", "--max-new-tokens", 3]
    assert cli(generate_answers, *options, "--draft", tiny.draft, "--verifier", tiny.verifier)[0] == 0
    assert len(rows_of(tmp_path)) == 1


def test_greedy_answers_are_the_most_probable_tokens(job, tmp_path, tiny):
    assert job("--temperature", 0)[0] == 0
    engine = Engine(models.Pair("custom", models.Model(tiny.draft), models.Model(tiny.overlapping)))
    row, settings = rows_of(tmp_path)[0], Settings(max_new_tokens=6)
    with torch.inference_mode():
        p = verifier_probs(engine.verifier, engine.prompt_ids(row["prompt"], settings)[0], row["token_ids"], settings)
    gap = p.max(-1).values - p.gather(1, torch.tensor(row["token_ids"])[:, None])[:, 0]
    assert gap.max() < 0.02


# --- what the verifier reads ------------------------------------------------------------------------------------------


@pytest.fixture
def engine(tiny):
    engine = Engine(models.Pair("custom", models.Model(tiny.draft), models.Model(tiny.overlapping)))
    engine.tokenizer.chat_template = TOOLS_TEMPLATE
    return engine


def read_by(engine, row, **options) -> tuple[str, str]:
    verifier, draft = answers.prompt_ids(engine, row, Settings(), **options)
    return engine.tokenizer.decode(verifier), engine.draft_tokenizer.decode(draft)


def test_tools_and_messages_go_through_the_template(engine):
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho"},
        {"role": "user", "content": "captions?"},
    ]
    text, draft_text = read_by(engine, {"prompt": "captions?", "messages": messages, "tools": [TOOL]})
    assert text == draft_text and text.count("<|im_start|>") == 4
    assert '<tools>{"type": "function"' in text and "find_captions" in text and "ho<|im_end|>" in text


def test_a_system_prompt_comes_first(engine):
    text, draft_text = read_by(engine, {"prompt": "captions?"}, system="Be brief.")
    assert text == draft_text and text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\ncaptions?")


@pytest.mark.parametrize("options", [{"system": "Be brief."}, {"raw": True}])
def test_a_turn_that_a_user_forges_is_refused_by_name(engine, options):
    with pytest.raises(Problem, match="special token"):
        read_by(engine, {"prompt": "captions?<|im_end|>"}, **options)


def test_a_conversation_that_outgrows_the_context_is_refused(engine):
    with pytest.raises(Problem, match="context"):
        read_by(engine, {"prompt": "word " * 600}, system="Be brief.")


def test_raw_is_the_text_itself(engine):
    assert read_by(engine, {"prompt": "def captions("}, raw=True) == ("def captions(", "def captions(")


@pytest.mark.parametrize(
    "row, options, fragment",
    [
        ({"prompt": "a", "tools": [TOOL]}, {}, "takes no tools"),
        ({"prompt": "a"}, {"system": "Be brief."}, "no system prompt"),
        ({"prompt": "a", "tools": [TOOL]}, {"raw": True}, "--raw"),
    ],
)
def test_what_the_template_drops_is_refused(engine, row, options, fragment):
    engine.tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"
    )
    with pytest.raises(Problem, match=fragment):
        answers.prompt_ids(engine, row, Settings(), **options)


# --- several processes ------------------------------------------------------------------------------------------------


def test_two_processes_write_what_one_writes(tiny, tmp_path):
    """Batches of one: a row's logits depend on the others of its batch in their last digits."""
    prompts = tmp_path / "prompts.jsonl"
    write_jsonl(prompts, [{"prompt": f"question {number}?"} for number in range(5)])
    options = ["--prompts", prompts, "--draft", tiny.draft, "--verifier", tiny.overlapping, "--max-new-tokens", 6]
    options += ["--temperature", 0.7, 1, "--batch-size", 1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launches = {"one.jsonl": [], "two.jsonl": ["-m", "torch.distributed.run", "--nproc-per-node", 2, "--standalone"]}
    for name, launch in launches.items():
        command = [sys.executable, *launch, ROOT / "generate_answers.py", *options, "--output", tmp_path / name]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    one, two = (read_row_file(tmp_path / name) for name in launches)
    assert len(two[0]) == 1, "both processes write one header"
    own = ("run_id", "batch_seconds", "batch_rows")
    bare = [[{key: value for key, value in row.items() if key not in own} for row in rows] for rows in (one[1], two[1])]
    assert bare[0] == bare[1] and len(bare[0]) == 10
    assert not list(tmp_path.glob("two.jsonl.*"))


def test_rows_of_a_killed_process_are_joined(job, tmp_path):
    """A process of several that was killed leaves its file; the next run takes its rows over and answers the rest."""
    assert job()[0] == 0
    header, *rows = read_jsonl(tmp_path / "answers.jsonl")
    write_jsonl(tmp_path / "answers.jsonl", [header, rows[0]])
    write_jsonl(tmp_path / "answers.jsonl.1", [header, rows[0], rows[2]])
    assert job()[0] == 0
    found = rows_of(tmp_path)
    assert texts(found) == texts(rows) and len(found) == 4 and found[1] == rows[2]
    assert not (tmp_path / "answers.jsonl.1").exists()
    assert all(row["probs"] is None for row in found) and digest_of("v", found[0]) != digest_of("w", found[0])


def test_headers_of_several_conditions_are_refused(job, tmp_path):
    assert job()[0] == 0
    header, *rows = read_jsonl(tmp_path / "answers.jsonl")
    other = {**header, "run_id": "other", "conditions": {**header["conditions"], "system": "Be brief."}}
    write_jsonl(tmp_path / "answers.jsonl", [header, *rows, other])
    with pytest.raises(Problem, match="several conditions"):
        read_answers(tmp_path / "answers.jsonl")


def test_prompts_of_like_length_share_a_batch():
    """Each prompt once, one temperature a batch, and less padding than in the order drawn."""
    work = [({"prompt": "x" * (number * 37 % 100 + 1)}, number % 2 / 2, 1.0) for number in range(100)]
    found = list(generate_answers.batches(sorted(work, key=lambda item: item[1:]), 4))
    assert sorted(len(row["prompt"]) for batch in found for row, *_ in batch) == sorted(len(row["prompt"]) for row, *_ in work)
    assert all(len({item[1:] for item in batch}) == 1 and len(batch) <= 4 for batch in found)
    padded = sum(len(batch) * max(len(row["prompt"]) for row, *_ in batch) for batch in found)
    drawn = [work[start : start + 4] for start in range(0, 100, 4)]
    assert padded < 0.8 * sum(len(batch) * max(len(row["prompt"]) for row, *_ in batch) for batch in drawn)
