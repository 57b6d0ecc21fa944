"""Checks a file of preference pairs: size, lengths, coverage, repetition, leaks, and whether answers name real things.

    python check_dataset.py                   dpo_clean.jsonl against the thresholds below
    python check_dataset.py pairs.jsonl --rows 200

Exits 1 when a check fails, and names the check and the rows.
"""

from __future__ import annotations

import argparse
import itertools
import re
import statistics
import sys
from collections import Counter, defaultdict
from pathlib import Path

from clean_dataset import FIELDS, add_evaluation_prompts, read_evaluation_prompts, similar_pairs, study_key
from domains.at import CATEGORIES, DISABILITIES, EVALUATION_PROMPTS, QUERY_TYPES, TASKS, USERS, named, names
from specdec.files import BadLine, read_jsonl
from specdec.provenance import provenance
from specdec.terminal import Problem, check_outputs, positive_int, put_json, run, say

ROWS = 985
CHOSEN_MEAN = (525, 585)  # characters: 555 ± 30
REJECTED_MEAN = (261, 301)  # characters: 281 ± 20
RATIO = (1.87, 2.07)  # mean chosen / mean rejected: 1.97 ± 0.1
FRAME_SHARE = 0.02  # of the rows may begin with the same three words
RUN_WORDS, RUN_ROWS = 8, 5  # eight words in a row may stand in the chosen answers of five rows
CHOSEN_NAMING = 0.95  # at least this share of chosen answers names a tool or standard
REJECTED_NAMING = 0.05  # at most this share of rejected answers does


# --- the checks: each returns its errors, row ids where rows are to blame ---------------------------------------------


def words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower())


def mean_length(rows: list[dict], field: str) -> float:
    return statistics.mean(len(row[field]) for row in rows)


def outside(value: float, bounds: tuple[float, float]) -> list[str]:
    return [] if bounds[0] <= value <= bounds[1] else [f"{value:.2f} is not in {bounds[0]} to {bounds[1]}"]


def mean_errors(rows: list[dict], side: str, bounds: tuple[int, int]) -> list[str]:
    """The rows named are those that pull the mean away most."""
    mean = mean_length(rows, side)
    furthest = sorted(rows, key=lambda row: len(row[side]), reverse=mean > bounds[1])
    error = outside(mean, bounds)
    return error and error + [row["id"] for row in furthest[:9]]


def missing_cells(rows: list[dict]) -> list[str]:
    """Cells of the rotation, and query types, that no row covers."""
    covered = {(row["disability"], row["user_type"], row["task_type"]) for row in rows}
    kinds = {row["query_type"] for row in rows}
    return [" × ".join(cell) for cell in itertools.product(DISABILITIES, USERS, TASKS) if cell not in covered] + [
        f"query type {kind}" for kind in QUERY_TYPES if kind not in kinds
    ]


def commonest_opening(rows: list[dict], field: str) -> tuple[str, list[str]]:
    """The commonest sentence frame, which is the first three words in lower case, and the ids of its rows."""
    frames = defaultdict(list)
    for row in rows:
        frames[" ".join(words(row[field])[:3])].append(row["id"])
    return max(frames.items(), key=lambda item: len(item[1]))


def opening_errors(rows: list[dict], field: str) -> list[str]:
    """Twice is no pattern, however few the rows."""
    frame, ids = commonest_opening(rows, field)
    return [f"'{frame}'", *ids] if len(ids) > max(2, FRAME_SHARE * len(rows)) else []


def repeated_runs(rows: list[dict]) -> list[str]:
    """A run that contains the name of a tool or standard does not count: one cannot rephrase a name."""
    runs: dict[tuple, dict[str, str]] = defaultdict(dict)  # the run → {row id: the run as written there}
    for row in rows:
        found = list(re.finditer(r"[\w']+", row["chosen"]))
        for first, last in zip(found, found[RUN_WORDS - 1 :], strict=False):
            written = row["chosen"][first.start() : last.end()]
            runs[tuple(words(written))].setdefault(row["id"], written)
    return [
        f"'{' '.join(run)}' in {', '.join(spellings)}"
        for run, spellings in runs.items()
        if len(spellings) > RUN_ROWS and not any(map(named, spellings.values()))
    ]


def key_duplicates(rows: list[dict]) -> list[str]:
    """The ids of rows whose prompt has the study's 12-word key of an earlier one."""
    first: dict[str, str] = {}
    return [row["id"] for row in rows if first.setdefault(study_key(row["prompt"]), row["id"]) != row["id"]]


def near_duplicates(rows: list[dict]) -> list[str]:
    """By the study's key or by token-set similarity."""
    prompts = [row["prompt"] for row in rows]
    return [f"{rows[left]['id']} ~ {rows[right]['id']}" for left, right in similar_pairs(prompts, prompts) if left < right]


def leaks(rows: list[dict], evaluation_prompts: list[str]) -> list[str]:
    pairs = similar_pairs([row["prompt"] for row in rows], evaluation_prompts)
    return sorted({rows[left]["id"] for left, _ in pairs})


def unknown_categories(rows: list[dict]) -> list[str]:
    return [row["id"] for row in rows if any(row[field] not in values for field, values in CATEGORIES.items())]


def share_naming(found: list[list[str]]) -> float:
    """Of answers, of which `found` holds the tools and standards that each names: how many name one."""
    return sum(map(bool, found)) / len(found)


def mute_answers(rows: list[dict], found: list[list[str]]) -> list[str]:
    """The rows whose answer names nothing, where they are too many."""
    if share_naming(found) >= CHOSEN_NAMING:
        return []
    return [row["id"] for row, some in zip(rows, found, strict=True) if not some]


def specific_answers(rows: list[dict], found: list[list[str]]) -> list[str]:
    """The rows whose answer names something, where they are too many."""
    if share_naming(found) <= REJECTED_NAMING:
        return []
    return [row["id"] for row, some in zip(rows, found, strict=True) if some]


# --- the report -------------------------------------------------------------------------------------------------------


def check(rows: list[dict], evaluation_prompts: list[str], expected_rows: int = ROWS) -> dict:
    """The errors by check (none: it passed), then statistics, coverage, names and length bias."""
    found = {side: [named(row[side]) for row in rows] for side in ("chosen", "rejected")}
    checks = errors_by_check(rows, evaluation_prompts, expected_rows, found)
    counts = Counter(itertools.chain.from_iterable(found["chosen"]))
    coverage = {field: Counter(row[field] for row in rows) for field in CATEGORIES}
    return {
        "passed": not any(checks.values()),
        "checks": checks,
        "statistics": {
            "pairs": len(rows),
            "mean_chosen": mean_length(rows, "chosen"),
            "mean_rejected": mean_length(rows, "rejected"),
            "ratio": mean_length(rows, "chosen") / mean_length(rows, "rejected"),
            "near_duplicates": len(key_duplicates(rows)),
        },
        "prompt_lengths": prompt_lengths(rows),
        "longer_is_chosen": sum(len(row["chosen"]) > len(row["rejected"]) for row in rows) / len(rows),
        "naming": {side: share_naming(lists) for side, lists in found.items()},
        "coverage": {field: {value: coverage[field][value] for value in values} for field, values in CATEGORIES.items()},
        "tools": {name: count for name, count in counts.most_common() if name in names()["tools"]},
        "standards": {name: count for name, count in counts.most_common() if name in names()["standards"]},
    }


def errors_by_check(rows: list[dict], evaluation_prompts: list[str], expected_rows: int, found: dict) -> dict[str, list[str]]:
    """`found`: side → for every row the tools and standards that its answer names."""
    ids = Counter(row["id"] for row in rows)
    return {
        "number of rows": [] if len(rows) == expected_rows else [f"{len(rows)}, expected {expected_rows}"],
        "unique ids": [id for id, count in ids.items() if count > 1],
        "every category known": unknown_categories(rows),
        "every cell of the rotation": missing_cells(rows),
        "mean length of chosen": mean_errors(rows, "chosen", CHOSEN_MEAN),
        "mean length of rejected": mean_errors(rows, "rejected", REJECTED_MEAN),
        "length ratio": outside(mean_length(rows, "chosen") / mean_length(rows, "rejected"), RATIO),
        **{f"openings of {field}": opening_errors(rows, field) for field in ("prompt", "chosen", "rejected")},
        "repeated eight-word runs": repeated_runs(rows),
        "chosen differs from rejected": [row["id"] for row in rows if row["chosen"] == row["rejected"]],
        "near-duplicate prompts": near_duplicates(rows),
        "leaks from the evaluation prompts": leaks(rows, evaluation_prompts) if evaluation_prompts else [],
        "chosen names a tool or standard": mute_answers(rows, found["chosen"]),
        "rejected names none": specific_answers(rows, found["rejected"]),
    }


def prompt_lengths(rows: list[dict]) -> dict[str, float]:
    """In characters."""
    lengths = [len(row["prompt"]) for row in rows]
    return {
        "shortest": min(lengths),
        "longest": max(lengths),
        "mean": statistics.mean(lengths),
        "median": statistics.median(lengths),
        "deviation": statistics.pstdev(lengths),
    }


def print_report(report: dict, out) -> None:
    """The study's statistics block, then what else the report holds, as plain text."""
    metrics, prompts, naming = report["statistics"], report["prompt_lengths"], report["naming"]
    print(
        "Dataset statistics:",
        f"Total pairs: {metrics['pairs']}",
        f"Avg chosen length: {metrics['mean_chosen']:.0f} chars",
        f"Avg rejected length: {metrics['mean_rejected']:.0f} chars",
        f"Length ratio (c/r): {metrics['ratio']:.2f}x",
        f"Near-duplicate prompts: {metrics['near_duplicates']} (verified with 12-word key deduplication)",
        "",
        f"Prompt length: {prompts['shortest']} to {prompts['longest']} chars, mean {prompts['mean']:.0f}, "
        f"median {prompts['median']:.0f}, standard deviation {prompts['deviation']:.0f}",
        f"Length bias: choosing the longer answer agrees with {report['longer_is_chosen']:.1%} of the pairs",
        f"A tool or standard is named in {naming['chosen']:.2%} of chosen and {naming['rejected']:.2%} of rejected",
        sep="\n",
        file=out,
    )
    for field, counts in report["coverage"].items():
        print_counts(f"Rows per {field.replace('_', ' ')}", counts, out)
    for kind in ("tools", "standards"):
        top = dict(list(report[kind].items())[:20])
        print_counts(f"Chosen answers that name {kind} ({len(report[kind])} different; the commonest)", top, out)
    print("\nChecks", file=out)
    for name, errors in report["checks"].items():
        print(f"  {'FAIL' if errors else 'pass'}  {name}", file=out)


def print_counts(title: str, counts: dict[str, int], out) -> None:
    print(f"\n{title}", file=out)
    for name, count in counts.items():
        print(f"  {count:>4}  {name}", file=out)


def read_rows(file: Path) -> list[dict]:
    try:
        rows = list(read_jsonl(file, required=FIELDS))
    except FileNotFoundError:
        raise Problem(f"no file {file}. Make it with clean_dataset.py, or name another.") from None
    except BadLine as error:
        raise Problem(f"{error}. Correct that line; nothing was checked.") from None
    if not rows:
        raise Problem(f"{file} holds no rows. Make it with clean_dataset.py, or name another.")
    return rows


def print_failures(checks: dict[str, list[str]]) -> None:
    for name, errors in checks.items():
        if errors:
            more = f" and {len(errors) - 10} more" if len(errors) > 10 else ""
            say(f"failed: {name}: {', '.join(errors[:10])}{more}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=Path("dpo_clean.jsonl"), help="(default %(default)s)")
    parser.add_argument("--rows", type=positive_int, default=ROWS, help="rows expected (default %(default)s)")
    add_evaluation_prompts(parser)
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON to FILE, or - for stdout")
    args = parser.parse_args()
    prompts = args.evaluation_prompts or EVALUATION_PROMPTS
    check_outputs(args.json, inputs=(args.file, *prompts))
    report = check(read_rows(args.file), read_evaluation_prompts(prompts), args.rows)
    if args.json:
        conditions = {"file": args.file.name, "rows": args.rows, "prompts": [file.name for file in prompts]}
        put_json({**provenance(conditions), **report}, args.json)
    print_report(report, sys.stderr if args.json == "-" else sys.stdout)
    print_failures(report["checks"])
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    run(main)
