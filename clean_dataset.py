"""Turns the raw preference pairs into the file that training reads. Nothing vanishes: every dropped row is kept with
its reason in a rejects file.

    python clean_dataset.py          dpo_raw.jsonl → dpo_clean.jsonl and dpo_rejects.jsonl

Cleaning a clean file changes nothing.
"""

from __future__ import annotations

import argparse
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from data_generation import DISABILITIES, QUERY_TYPES, TASKS, USERS
from specdec.files import BadLine, read_jsonl, write_jsonl
from specdec.terminal import Problem, console, run, say

FIELDS = ("id", "prompt", "chosen", "rejected", "disability", "user_type", "task_type", "query_type")
CATEGORIES = {"disability": DISABILITIES, "user_type": USERS, "task_type": TASKS, "query_type": QUERY_TYPES}
CHARACTERS = {"prompt": (10, 400), "chosen": (200, 1000), "rejected": (120, 600)}
EVALUATION_PROMPTS = tuple(Path("domains") / f"{name}.jsonl" for name in ("study0", "at", "general"))
SIMILAR = 90  # of 100, by rapidfuzz

BOILERPLATE = re.compile(
    r"\bas an ai\b|\bas a (large )?language model\b|\bi(?:'m| am) (?:sorry|unable)\b|\bi can(?:no|')t (?:help|assist|provide)\b"
    r"|^(?:certainly|sure|of course|absolutely|great question)[!,.:]|\bhere(?:'s| is) (?:a|the|your) (?:answer|response)\b"
    r"|\bi hope this helps\b|\blet me know if\b",
    re.IGNORECASE,
)
CHAT_TOKENS = re.compile(r"<\|[a-z_]+\|>|\[/?INST\]|</?s>|<<SYS>>|^(?:user|assistant|system):", re.IGNORECASE | re.MULTILINE)
STRAIGHT = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "\u00a0": " ", "\u202f": " ", "\u200b": "", "\ufeff": ""})


def normalise(text: str) -> str:
    """Unicode NFC, straight quotes, ordinary single spaces."""
    # NFC last: a zero-width character between a letter and its accent would keep them apart until it is gone.
    return unicodedata.normalize("NFC", re.sub(r"\s+", " ", text.translate(STRAIGHT))).strip()


def seed_key(prompt: str) -> str:
    """The seed's key for near-duplicates: the first twelve words, lower case, without punctuation."""
    return " ".join(re.findall(r"[\w']+", prompt.lower())[:12])


def similar_pairs(prompts: list[str], others: list[str]) -> list[tuple[int, int]]:
    """Index pairs whose token-set similarity reaches SIMILAR, or whose seed keys are equal."""
    from rapidfuzz import fuzz, process

    scores = process.cdist(prompts, others, scorer=fuzz.token_set_ratio, processor=str.lower, score_cutoff=SIMILAR)
    pairs = {(int(left), int(right)) for left, right in zip(*scores.nonzero(), strict=True)}
    places: dict[str, list[int]] = {}
    for right, other in enumerate(others):
        places.setdefault(seed_key(other), []).append(right)
    for left, prompt in enumerate(prompts):
        pairs.update((left, right) for right in places.get(seed_key(prompt), ()))
    return sorted(pairs)


# --- one row at a time ------------------------------------------------------------------------------------------------


def schema_fault(row: dict) -> str | None:
    for field in FIELDS:
        if not isinstance(row.get(field), str):
            return f"schema: '{field}' is not a text"
    if not row["id"]:
        return "schema: 'id' is empty"
    for field, values in CATEGORIES.items():
        if row[field] not in values:
            return f"schema: '{field}' is not in the rotation"
    return None


def text_fault(row: dict) -> str | None:
    """Why the normalised row is not fit for training, or None."""
    from rapidfuzz import fuzz

    for field, (shortest, longest) in CHARACTERS.items():
        text = row[field]
        if not text:
            return f"empty {field}"
        if CHAT_TOKENS.search(text):
            return f"chat-template token in {field}"
        if field != "prompt" and BOILERPLATE.search(text):  # a user may well be unable to do something
            return f"refusal or boilerplate in {field}"
        if not shortest <= len(text) <= longest:
            return f"{field} shorter than {shortest} or longer than {longest} characters"
        if field != "prompt" and not re.search(r"[.!?][\"')\]]*$", text):
            return f"truncated {field}"
    if fuzz.ratio(row["chosen"], row["rejected"]) >= SIMILAR:
        return "chosen and rejected nearly equal"
    return None


# --- the whole file ---------------------------------------------------------------------------------------------------


def clean(raw: Iterable[dict], evaluation_prompts: list[str]) -> tuple[list[dict], list[dict]]:
    """Returns (clean rows in id order, rejected rows as they came, each with its `reason`)."""
    kept: list[tuple[dict, dict]] = []  # (cleaned, raw)
    rejected: list[dict] = []
    ids: set[str] = set()
    for row in raw:
        fault = schema_fault(row)
        if fault is None:
            cleaned = {field: normalise(row[field]) if field in CHARACTERS else row[field] for field in FIELDS}
            # The raw file is append-only: a request that failed and was asked again stands there twice.
            fault = text_fault(cleaned) or ("id seen before" if row["id"] in ids else None)
        if fault:
            rejected.append({**row, "reason": fault})
        else:
            ids.add(row["id"])
            kept.append((cleaned, row))
    kept, repeated = drop_similar(kept, evaluation_prompts)
    kept.sort(key=lambda pair: pair[0]["id"])
    return [cleaned for cleaned, _ in kept], rejected + repeated


def drop_similar(kept: list[tuple[dict, dict]], evaluation_prompts: list[str]):
    """Drops prompts near an evaluation prompt, and of two near prompts the later one."""
    prompts = [cleaned["prompt"] for cleaned, _ in kept]
    reasons = {left: "prompt leaks into the evaluation sets" for left, _ in similar_pairs(prompts, evaluation_prompts)}
    for first, second in similar_pairs(prompts, prompts):
        if first < second and first not in reasons:
            reasons.setdefault(second, f"near-duplicate prompt of {kept[first][0]['id']}")
    return (
        [pair for number, pair in enumerate(kept) if number not in reasons],
        [{**kept[number][1], "reason": reason} for number, reason in sorted(reasons.items())],
    )


def read_evaluation_prompts(files: Iterable[Path]) -> list[str]:
    try:
        return [row["prompt"] for file in files for row in read_jsonl(file, required=("prompt",))]
    except FileNotFoundError as error:
        raise Problem(
            f"no evaluation prompts at {error.filename}, so leaks cannot be found. Name their files by --prompts."
        ) from None


def print_counts(total: int, rows: list[dict], rejects: list[dict]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("rows")
    table.add_column("", justify="right")
    table.add_row("in", str(total))
    for reason, count in Counter(re.sub(r" of at-\d+$", "", row["reason"]) for row in rejects).most_common():
        table.add_row(f"dropped: {reason}", str(count))
    table.add_row("out", str(len(rows)))
    console(stderr=True).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, default=Path("dpo_raw.jsonl"), help="(default %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("dpo_clean.jsonl"), help="(default %(default)s)")
    parser.add_argument("--rejects", type=Path, default=Path("dpo_rejects.jsonl"), help="(default %(default)s)")
    parser.add_argument(
        "--prompts",
        type=Path,
        nargs="+",
        default=EVALUATION_PROMPTS,
        metavar="FILE",
        help="evaluation prompts (default: study 0's three files in domains/)",
    )
    args = parser.parse_args()
    try:
        raw = list(read_jsonl(args.input))
        evaluation_prompts = read_evaluation_prompts(args.prompts)
    except FileNotFoundError:
        raise Problem(f"no file {args.input}. Make it with data_generation.py, or name another by --input.") from None
    except BadLine as fault:
        raise Problem(f"{fault}. Mend or delete that line; nothing was written.") from None
    rows, rejects = clean(raw, evaluation_prompts)
    write_jsonl(args.rejects, rejects)
    write_jsonl(args.output, rows)
    print_counts(len(raw), rows, rejects)
    say(f"wrote {args.output} and {args.rejects}")


if __name__ == "__main__":
    run(main)
