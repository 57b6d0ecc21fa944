"""Turns the raw preference pairs into the file that training reads. Nothing vanishes: every dropped row is kept with
its reason in a rejects file, which is written where a row was dropped.

    python clean_dataset.py                          dpo_raw.jsonl → dpo_clean.jsonl; without it, dpo_clean.jsonl again
    python clean_dataset.py --input a --output a     cleans a file in place

Cleaning a clean file changes nothing: the shipped dpo_clean.jsonl stays as it is, byte for byte.
"""

from __future__ import annotations

import argparse
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from domains.at import CATEGORIES, EVALUATION_PROMPTS
from specdec.files import BadLine, read_jsonl, write_jsonl
from specdec.terminal import Problem, check_outputs, console, run, say

FIELDS = ("id", "prompt", "chosen", "rejected", "disability", "user_type", "task_type", "query_type")
CHARACTERS = {"prompt": (10, 400), "chosen": (200, 1000), "rejected": (120, 600)}
RAW, CLEAN = Path("dpo_raw.jsonl"), Path("dpo_clean.jsonl")
SIMILAR = 90  # of 100, by rapidfuzz

BOILERPLATE = re.compile(
    r"\bas an ai\b|\bas a (large )?language model\b|\bi(?:'m| am) (?:sorry|unable)\b|\bi can(?:no|')t (?:help|assist|provide)\b"
    r"|^(?:certainly|sure|of course|absolutely|great question)[!,.:]|\bhere(?:'s| is) (?:a|the|your) (?:answer|response)\b"
    r"|\bi hope this helps\b|\blet me know if\b",
    re.IGNORECASE,
)
CHAT_TOKENS = re.compile(r"<\|[a-z_]+\|>|\[/?INST\]|</?s>|<<SYS>>|^(?:user|assistant|system):", re.IGNORECASE | re.MULTILINE)
STRAIGHT = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "\u00a0": " ", "\u202f": " ", "\u200b": "", "\ufeff": ""})


def normalize(text: str) -> str:
    """Unicode NFC, straight quotes, ordinary single spaces."""
    # NFC last: a zero-width character between a letter and its accent would keep them apart until it is gone.
    return unicodedata.normalize("NFC", re.sub(r"\s+", " ", text.translate(STRAIGHT))).strip()


def normalize_row(row: dict) -> dict:
    """The known fields in their order, then what else the row holds. The reason of an earlier rejection goes."""
    others = {key: value for key, value in row.items() if key not in (*FIELDS, "reason")}
    return {field: normalize(row[field]) if field in CHARACTERS else row[field] for field in FIELDS} | others


def study_key(prompt: str) -> str:
    """The study's key for near-duplicates: the first twelve words, lower case, without punctuation."""
    return " ".join(re.findall(r"[\w']+", prompt.lower())[:12])


def similar_pairs(prompts: list[str], others: list[str]) -> list[tuple[int, int]]:
    """Index pairs whose token-set similarity reaches SIMILAR, or whose study keys are equal."""
    from rapidfuzz import fuzz, process

    scores = process.cdist(prompts, others, scorer=fuzz.token_set_ratio, processor=str.lower, score_cutoff=SIMILAR)
    pairs = {(int(left), int(right)) for left, right in zip(*scores.nonzero(), strict=True)}
    positions: dict[str, list[int]] = {}
    for right, other in enumerate(others):
        positions.setdefault(study_key(other), []).append(right)
    for left, prompt in enumerate(prompts):
        pairs.update((left, right) for right in positions.get(study_key(prompt), ()))
    return sorted(pairs)


# --- one row at a time ------------------------------------------------------------------------------------------------


def schema_error(row: dict) -> str | None:
    for field in FIELDS:
        if not isinstance(row.get(field), str):
            return f"schema: '{field}' is not a text"
    if not row["id"]:
        return "schema: 'id' is empty"
    for field, values in CATEGORIES.items():
        if row[field] not in values:
            return f"schema: '{field}' is not in the rotation"
    return None


def text_error(row: dict) -> str | None:
    """Why the normalized row is not fit for training, or None."""
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
    if row["chosen"] == row["rejected"]:
        return "chosen equal to rejected"
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
        error = schema_error(row)
        if error is None:
            cleaned = normalize_row(row)
            # The raw file is append-only: a request that failed and was asked again stands there twice.
            error = text_error(cleaned) or ("id seen before" if row["id"] in ids else None)
        if error:
            rejected.append({**row, "reason": error})
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


def add_evaluation_prompts(parser: argparse.ArgumentParser) -> None:
    """The option that means the same in both scripts: what no training prompt may be near. It adds nothing to the rows."""
    parser.add_argument(
        "--evaluation-prompts",
        type=Path,
        nargs="+",
        action="extend",
        metavar="FILE",
        help="no row may be near a prompt of these (default: study 0's three files in domains/)",
    )


def read_evaluation_prompts(files: Iterable[Path]) -> list[str]:
    try:
        return [row["prompt"] for file in files for row in read_jsonl(file, required=("prompt",))]
    except FileNotFoundError as error:
        raise Problem(
            f"no evaluation prompts at {error.filename}, so leaks cannot be found. Name their files by --evaluation-prompts."
        ) from None
    except BadLine as error:
        raise Problem(f"{error}. Correct that line; nothing was checked or written.") from None


def write_rejects(file: Path, rejects: list[dict], in_place: bool) -> None:
    """In place, the file of rejects is the only copy of the rows that earlier runs dropped: they stay in it."""
    earlier = list(read_jsonl(file)) if in_place and file.is_file() else []
    if rejects or file.exists():  # without a reject no file is made, but one of another run is not left to mislead
        write_jsonl(file, earlier + rejects)


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
    parser.add_argument("--input", type=Path, help=f"(default {RAW} where there is one, else {CLEAN})")
    parser.add_argument("--output", type=Path, default=CLEAN, help="(default %(default)s)")
    parser.add_argument("--rejects", type=Path, default=Path("dpo_rejects.jsonl"), help="(default %(default)s)")
    add_evaluation_prompts(parser)
    args = parser.parse_args()
    prompts = args.evaluation_prompts or EVALUATION_PROMPTS
    source = args.input or (RAW if RAW.exists() else CLEAN)
    check_outputs(args.output, args.rejects, inputs=prompts)
    check_outputs(args.rejects, inputs=[source])  # the output may be the input: it is replaced whole
    try:
        raw = list(read_jsonl(source))
    except FileNotFoundError:
        raise Problem(f"no file {source}. Make it with data_generation.py, or name another by --input.") from None
    except BadLine as error:
        raise Problem(f"{error}. Correct or delete that line; nothing was written.") from None
    if not raw:
        raise Problem(f"{source} holds no rows; nothing was written. Make them with data_generation.py.")
    rows, rejects = clean(raw, read_evaluation_prompts(prompts))
    write_rejects(args.rejects, rejects, in_place=os.path.realpath(source) == os.path.realpath(args.output))
    print_counts(len(raw), rows, rejects)
    if not rows:
        raise Problem(f"no row of {source} is fit, so {args.output} is left as it was. The reasons stand in {args.rejects}.")
    write_jsonl(args.output, rows)
    say(f"wrote {args.output}" + (f" and {args.rejects}" if rejects else "; no row was dropped"))


if __name__ == "__main__":
    run(main)
