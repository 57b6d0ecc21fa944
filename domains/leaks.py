"""No training prompt may be near a prompt that drafts are measured on, in any domain.

    python -m domains.leaks                every training file of the repository against every evaluation file
    python -m domains.leaks FILE …         other training files, such as those of generate_queries.py

A file beside this one holds training prompts where its name ends in _train, _users, _exam or _curated, else evaluation prompts.

Prints, a training file, its rows and those that are near an evaluation prompt; exits 1 where there is one. "Near" is
rapidfuzz's token_set_ratio of 90 or more in lower case, as check_dataset.py has it. That measure is 100 wherever the words of
one text all stand in the other, so texts under five words ("what is the time") are compared by `ratio`, of 90 or more, and
Chinese, which has no spaces between words, by a `ratio` of 85 or more. Code has a check of its own (code.py: the files of a
package are on one side).
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable
from pathlib import Path

from specdec.files import BadLine, read_jsonl
from specdec.terminal import Problem, run

HERE = Path(__file__).parent
LEARNT = ("_train", "_users", "_exam", "_curated")  # how the name of a file of training prompts ends
CODE = ("code_test", "code_train", "code_packages")
CHINESE = re.compile("[\u3400-\u9fff]")
FEW_WORDS = 5
KINDS = {"chinese": ("ratio", 85), "short": ("ratio", 90), "long": ("token_set_ratio", 90)}  # scorer, least score of 100


def sides(files: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """(training, evaluation): which side a file of prompts is on, by its name. What is not said to be learnt is measured."""
    training: list[Path] = []
    evaluation: list[Path] = []
    for file in sorted(files):
        if file.stem not in CODE:
            side = training if file.stem.endswith(LEARNT) else evaluation
            side.append(file)
    return training, evaluation


TRAINING, EVALUATION = sides(HERE.glob("*.jsonl"))
TRAINING.append(HERE.parent / "dpo_clean.jsonl")


def kind_of(text: str) -> str:
    if CHINESE.search(text):
        return "chinese"
    return "long" if len(text.split()) >= FEW_WORDS else "short"


def near_pairs(prompts: list[str], others: list[str]) -> list[tuple[int, int]]:
    """Index pairs (of `prompts`, of `others`) of near texts, in order. Texts of two kinds are never near."""
    from rapidfuzz import fuzz, process

    pairs = []
    for kind, (scorer, least) in KINDS.items():
        left = [number for number, text in enumerate(prompts) if kind_of(text) == kind]
        right = [number for number, text in enumerate(others) if kind_of(text) == kind]
        scores = process.cdist(
            [prompts[number].lower() for number in left],
            [others[number].lower() for number in right],
            scorer=getattr(fuzz, scorer),
            score_cutoff=least,
        )
        pairs += [(left[row], right[column]) for row, column in zip(*scores.nonzero(), strict=True)]
    return sorted(pairs)


def read_prompts(files: Iterable[Path]) -> list[tuple[Path, str]]:
    """(file, prompt) of every row.

    Raises:
        Problem: no such file, or with the line number of a row that is no JSON object with a prompt.
    """
    found = []
    for file in files:
        try:
            found += [(file, row["prompt"]) for row in read_jsonl(file, required=("prompt",))]
        except FileNotFoundError:
            raise Problem(f"no prompts at {file}. Name the file that has them.") from None
        except BadLine as error:
            raise Problem(f"{error}. Correct that line, then run again.") from None
    return found


def leaks(training: Iterable[Path] = TRAINING, evaluation: Iterable[Path] = EVALUATION) -> dict[str, dict]:
    """File name (a second file of that name: its path) → its rows, and its `near` prompts: each with the evaluation file and
    prompt that it is near."""
    measured = read_prompts(evaluation)
    report = {}
    for file in training:
        prompts = [prompt for _, prompt in read_prompts([file])]
        pairs = near_pairs(prompts, [prompt for _, prompt in measured])
        near = [
            {"prompt": prompts[left], "file": measured[right][0].name, "evaluation_prompt": measured[right][1]}
            for left, right in pairs
        ]
        name = str(file) if file.name in report else file.name  # two files of one name are two entries
        report[name] = {"rows": len(prompts), "near": near}
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE", help="of training prompts (default: the repository's)")
    args = parser.parse_args()
    report = leaks(args.files or TRAINING)
    print(json.dumps(report, indent=2, ensure_ascii=False))
    return 1 if any(found["near"] for found in report.values()) else 0


if __name__ == "__main__":
    run(main)
