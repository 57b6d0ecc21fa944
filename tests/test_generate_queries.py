"""Magpie: what opens the user's turn, draws that depend on their number alone, a stopped run, filters that are counted."""

import json

import pytest
import torch

import generate_queries
from domains import synthetic
from domains.function_calling import read_rows
from domains.leaks import HERE
from domains.synthetic import SYSTEM, TOOLS
from generate_queries import opening, tool_rows
from specdec.files import read_jsonl, write_jsonl
from specdec.models import load_tokenizer, named_model
from specdec.provenance import read_row_file
from specdec.terminal import Problem

GOOD = ["How do enzymes lower activation energy?", "Explain why leaves look green.", "What limits the size of a cell?"]
TOOLS_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% if loop.first %}{% for tool in tools or [] %}<tools>{{ tool | tojson }}</tools>{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
)


@pytest.fixture
def job(cli, tiny, tmp_path):
    """`job(*options)` → (exit status, stdout, stderr) of drawing biology queries from a tiny random verifier."""
    write_jsonl(tmp_path / "measured.jsonl", [{"prompt": "What is a gene drive, and who has built one?"}])

    def call(*options, domain="biology"):
        fixed = ["--domain", domain, "--output", tmp_path / "q.jsonl", "--evaluation-prompts", tmp_path / "measured.jsonl"]
        fixed += ["--draft", tiny.draft, "--verifier", tiny.overlapping, "--max-new-tokens", 8]
        return cli(generate_queries, *fixed, *options)

    return call


@pytest.fixture
def written(monkeypatch):
    """`written(texts)`: the verifier writes these, in turn, each up to the end of its turn."""

    def use(texts: list[str]):
        left = list(texts)

        def sample(engine, ids, seeds, settings, keep):
            end = next(iter(engine.stop))
            answers = [engine.tokenizer(left.pop(0), add_special_tokens=False)["input_ids"] + [end] for _ in ids]
            return answers, [None] * len(ids)

        monkeypatch.setattr(generate_queries, "sample_batch", sample)

    return use


def draws_of(tmp_path) -> list[dict]:
    return read_row_file(tmp_path / "q.drawn.jsonl")[1]


def texts(tmp_path) -> dict:
    return {row["draw"]: row["prompt"] for row in draws_of(tmp_path)}


def test_draws_depend_on_their_number_and_seed_alone(job, tmp_path):
    """Not on the batch, nor on where a stopped run resumed. A random verifier writes nothing usable, and that is said."""
    status, out, err = job("--draws", 5, "--batch-size", 2)
    assert status == 1 and out == "" and "error: none of 5 draws is usable" in err.splitlines()[-1]
    assert not (tmp_path / "q.jsonl").exists(), "nothing half-written"
    whole, header = texts(tmp_path), next(read_jsonl(tmp_path / "q.drawn.jsonl"))
    assert header["conditions"]["system"] == SYSTEM["biology"] and header["conditions"]["domain"] == "biology"
    assert len(set(whole.values())) == 5, "one opening, five generators"
    write_jsonl(tmp_path / "q.drawn.jsonl", [header, *draws_of(tmp_path)[:2]])
    assert job("--draws", 5, "--batch-size", 3)[0] == 1
    assert texts(tmp_path) == whole and len(read_row_file(tmp_path / "q.drawn.jsonl")[0]) == 2
    (tmp_path / "q.drawn.jsonl").unlink()
    assert job("--draws", 5, "--seed", 7)[0] == 1
    assert texts(tmp_path) != whole


def test_usable_draws_become_a_prompt_file_and_the_rest_is_counted(job, written, tmp_path):
    bad = ["Hi", "The leaf is green because it reflects green light, as most plants do.", "<|im_start|>assistant\nWhat?"]
    written([*GOOD, GOOD[0].upper(), "What is a gene drive, and who has built one? Please", *bad])
    status, out, _ = job("--draws", 8, "--json", tmp_path / "report.json", "--batch-size", 3)
    assert status == 0
    rows = list(read_jsonl(tmp_path / "q.jsonl", required=("id", "prompt", "domain", "query_type", "source")))
    assert [row["prompt"] for row in rows] == GOOD
    assert {(row["domain"], row["source"]) for row in rows} == {("biology", "magpie")}
    report = json.loads((tmp_path / "report.json").read_text())
    dropped = {
        "too short": 1,
        "not a question or request": 1,
        "leaked control tokens": 1,
        "near another query": 1,
        "near an evaluation prompt": 1,
    }
    assert report["dropped"] == dropped and report["usable"] == 3 and report["conditions"]["draws"] == 8
    assert "3 of 8 draws are usable" in out and "   1  dropped: too short" in out
    assert report["mix"]["first two words"] == {"how do": 1, "explain why": 1, "what limits": 1}


def test_a_second_run_filters_again_and_loads_no_model(job, written, tmp_path, monkeypatch):
    written(GOOD)
    assert job("--draws", 3)[0] == 0
    monkeypatch.setattr(generate_queries, "Engine", lambda pair: pytest.fail("nothing to draw"))
    monkeypatch.setattr(synthetic, "CHARACTERS", (35, 600))
    status, out, _ = job("--draws", 3, "--json", "-")
    assert status == 0 and json.loads(out)["dropped"] == {"too short": 2}
    assert [row["prompt"] for row in read_jsonl(tmp_path / "q.jsonl")] == GOOD[:1]


def test_a_prompt_file_of_the_users_is_not_replaced(job, written, tmp_path):
    """The page of study 1 calls both mine.jsonl: queries that were collected, and those that the verifier writes."""
    written(GOOD)
    write_jsonl(tmp_path / "q.jsonl", [{"prompt": "Why do bees dance?"}])
    status, _, err = job("--draws", 3)
    assert status == 1 and "is no output of this command. Name another file." in err.splitlines()[-1]
    assert [row["prompt"] for row in read_jsonl(tmp_path / "q.jsonl")] == ["Why do bees dance?"]


def test_files_named_by_a_second_option_are_read_too(job, written, tmp_path):
    """The first file, of the fixture, is still in force."""
    written(["What is a gene drive, and who has built one? Please", *GOOD])
    write_jsonl(tmp_path / "second.jsonl", [{"prompt": GOOD[0]}])
    assert job("--draws", 4, "--evaluation-prompts", tmp_path / "second.jsonl")[0] == 0
    assert [row["prompt"] for row in read_jsonl(tmp_path / "q.jsonl")] == GOOD[1:]


def test_draws_of_other_conditions_are_refused(job, written, tmp_path):
    written(GOOD)
    assert job("--draws", 3)[0] == 0
    for option, value, name in (
        ("--temperature", 0.5, "temperature"),
        ("--system", "Be brief.", "system"),
        ("--seed", 1, "seed"),
    ):
        status, _, err = job("--draws", 3, option, value)
        assert status == 1 and f"draws of another {name} (" in err.splitlines()[-1]
    with open(tmp_path / "q.drawn.jsonl", "a") as out:
        out.write('{"draw": 3, "prompt": "x"}\n')
    status, _, err = job("--draws", 3)
    assert status == 1 and "draw 4 has no ended" in err.splitlines()[-1]


def test_a_written_token_of_the_verifier_is_never_read_as_one(job, written, tmp_path):
    """The tokenizer would read this text, should it become a prompt, as the end of the user's turn."""
    written(["What is a cell?<|im_end|>", *GOOD[1:]])
    assert job("--draws", 3)[0] == 0
    assert [row["special"] for row in draws_of(tmp_path)] == [True, False, False]
    assert [row["prompt"] for row in read_jsonl(tmp_path / "q.jsonl")] == GOOD[1:]


def test_queries_of_function_calling_take_the_tools_of_training_rows(job, written, tmp_path, monkeypatch):
    read = []

    def remember(tokenizer, system, tools):
        read.append(tools)
        return "<|im_start|>user\n"

    monkeypatch.setattr(generate_queries, "opening", remember)
    written(GOOD)
    assert job("--draws", 3, domain="function_calling")[0] == 0
    lent = {row["id"]: row for row in read_rows(TOOLS["function_calling"])}
    rows = list(read_jsonl(tmp_path / "q.jsonl"))
    sources = [row["tools_of"] for row in draws_of(tmp_path)]
    assert [row["tools"] for row in rows] == read == [lent[source]["tools"] for source in sources]
    assert len(set(sources)) == 3 and not {row["prompt"] for row in rows} & {row["prompt"] for row in lent.values()}
    tests = {row["id"] for row in read_rows(HERE / "function_calling_test.jsonl")}
    assert not tests & {row["id"] for row in tool_rows("function_calling", 42)}


# --- the opening ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tokenizer(tiny):
    return load_tokenizer(named_model(tiny.overlapping))


def test_the_opening_ends_where_a_user_begins(tokenizer):
    text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    assert opening(tokenizer, "Be brief.", None) == text
    tokenizer.chat_template = TOOLS_TEMPLATE
    tool = {"type": "function", "function": {"name": "leaf", "parameters": {}}}
    assert '"name": "leaf"' in opening(tokenizer, "Be brief.", [tool])


@pytest.mark.parametrize(
    "template, tools, fragment",
    [
        ("{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}", None, "no system prompt"),
        ("{{ raise_exception('no system role') }}", None, "refuses a system prompt or the tools: no system role"),
        (None, None, "no chat template"),
        ("", [{"function": {"name": "leaf"}}], "leaves out a tool"),
    ],
)
def test_a_template_that_cannot_open_a_turn_is_one_line(tokenizer, template, tools, fragment):
    tokenizer.chat_template = template if template != "" else tokenizer.chat_template
    with pytest.raises(Problem, match=fragment):
        opening(tokenizer, "Be brief.", tools)


def test_a_system_prompt_with_a_special_token_is_refused(tokenizer):
    with pytest.raises(Problem, match="the system prompt holds a special token"):
        opening(tokenizer, "Be brief.<|im_end|>\n<|im_start|>user", None)


def test_the_verifier_reads_the_opening_and_goes_on(tiny, tokenizer):
    """The first token of a draw against p behind the opening, by the samples of 600 generators."""
    from argparse import Namespace

    from specdec.alignment import verifier_probs
    from specdec.engine import Engine
    from specdec.models import Model, Pair
    from specdec.sampling import Settings

    engine = Engine(Pair("custom", Model(tiny.draft), Model(tiny.overlapping)))
    args = Namespace(system="Be brief.", domain="biology", seed=1, temperature=0.3, top_p=1.0, max_new_tokens=1)
    ids = engine.tokenizer(opening(engine.tokenizer, "Be brief.", None), add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        rows = generate_queries.draw_batch(engine, list(range(600)), [], args)
        p = verifier_probs(engine.verifier, ids, [0], Settings(temperature=0.3))[0]
    likely = int(p.argmax())
    text = engine.tokenizer.decode([likely]).strip()
    drawn = sum(row["prompt"] == text for row in rows) / 600
    same = sum(float(p[token]) for token in range(330) if engine.tokenizer.decode([token]).strip() == text)
    assert abs(drawn - same) < 0.08 and same > 0.1


BAD_INPUT = [
    (["--draws", 3, "--temperature", 0], "greedy draws are all one"),
    (["--draws", 3, "--top-p", 2], "--top-p"),
    (["--draws", 3, "--evaluation-prompts", "none.jsonl"], "no prompts at none.jsonl"),
    (["--draws", 3, "--output", "/proc/no/q.jsonl"], "cannot write"),
    (["--draws", 3, "--max-new-tokens", 2000], "exceeds the context"),
]


@pytest.mark.parametrize("options, fragment", BAD_INPUT)
def test_bad_input_is_one_line(job, options, fragment):
    status, _, err = job(*options)
    assert status == 1 and fragment in err.splitlines()[-1] and err.splitlines()[-1].startswith("error: ")
