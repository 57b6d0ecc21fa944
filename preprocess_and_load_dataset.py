"""Loads preference pairs in the form TRL trains on, and shows what the model will see.

TRL applies a chat template to message lists alone, plain strings get none, so every pair becomes

    {"prompt": [{"role": "user", …}], "chosen": [{"role": "assistant", …}], "rejected": [{"role": "assistant", …}]}

As a script it reports, in the draft's tokens, how long the rows are and what a maximal length would cut.

    python preprocess_and_load_dataset.py [--dataset dpo_clean.jsonl]
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import TYPE_CHECKING

from specdec.files import BadLine, read_jsonl
from specdec.models import Pair, add_model_arguments, choose_pair, load_tokenizer
from specdec.terminal import Problem, check_outputs, positive_int, put_json, run, say

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

DEFAULT_DATASET = Path("dpo_clean.jsonl")
ROLES = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}


def read_pairs(path: Path) -> list[dict]:
    """The rows of a preference file, their prompt, chosen and rejected as texts (see `as_texts`).

    A row whose two answers are equal prefers nothing: it is left out, and how many there are is said.

    Raises:
        Problem: no such file, a row that lacks one of the three, or no row that prefers anything.
    """
    try:
        found = list(read_jsonl(path))
    except FileNotFoundError:
        raise Problem(
            f"no dataset at {path}. Name one by --dataset, or make it with data_generation.py and clean_dataset.py."
        ) from None
    except BadLine as error:
        raise Problem(f"{error}. Correct that line, or let clean_dataset.py sort it out.") from None
    rows = [as_texts(row, f"{path}, row {number}") for number, row in enumerate(found, start=1)]
    if not rows:
        raise Problem(f"{path} holds no rows. Name another file by --dataset.")
    unequal = [row for row in rows if row["chosen"].strip() != row["rejected"].strip()]
    if not unequal:
        raise Problem(f"in every row of {path} the chosen and the rejected answer are equal. Name another file by --dataset.")
    if len(unequal) < len(rows):
        say(f"{len(rows) - len(unequal)} of {len(rows)} rows are left out: their chosen and rejected answers are equal")
    return unequal


def as_texts(row: dict, where: str) -> dict:
    """The row with prompt, chosen and rejected as texts; each may come as a list of one message instead, as TRL has it.

    Raises:
        Problem: one of them is missing or empty, is a conversation of several turns, or there is a system prompt: a draft
            reads one user's turn at decoding, so it would learn what it never sees.
    """
    if row.get("system"):
        raise Problem(f"{where}: a 'system' column is not supported. Remove it, or put its text before the prompts.")
    texts = {}
    for key, role in ROLES.items():
        value = row.get(key)
        if isinstance(value, list):
            value = _only_message(value, role, f"{where}: '{key}'")
        if not isinstance(value, str) or not value.strip():
            raise Problem(f"{where}: '{key}' is missing or empty. Correct that row, or let clean_dataset.py sort it out.")
        texts[key] = value
    return {**row, **texts}


def _only_message(messages: list, role: str, where: str) -> object:
    """The content of a list of one message of `role`."""
    roles = [message.get("role") if isinstance(message, dict) else None for message in messages]
    if roles != [role]:
        found = ", ".join(map(str, roles)) or "no message"
        raise Problem(f"{where} must be a text or one message of the {role}, found {found}. Split conversations into pairs.")
    return messages[0].get("content")


def split_rows(rows: list[dict], eval_fraction: float, seed: int) -> tuple[list[dict], list[dict]]:
    """Splits into train and held-out rows; all rows of one prompt land on the same side.

    Raises:
        Problem: one of the two sides would be empty, or the fraction is none.
    """
    if not 0 <= eval_fraction < 1:
        raise Problem("--eval-fraction must lie in [0, 1).")
    prompts = sorted({row["prompt"] for row in rows})
    random.Random(seed).shuffle(prompts)
    held_out = set(prompts[: round(len(prompts) * eval_fraction)])
    sides = [row for row in rows if row["prompt"] not in held_out], [row for row in rows if row["prompt"] in held_out]
    if not sides[0] or (eval_fraction > 0 and not sides[1]):
        raise Problem(
            f"{len(prompts)} prompts are too few to hold out {eval_fraction:.0%} of them. Add rows, or pass --eval-fraction 0."
        )
    return sides


def balanced(rows: list[dict], field: str, seed: int) -> list[dict]:
    """As many rows of every value of `field` as its rarest value has, drawn by `seed` and kept in file order.

    Raises:
        Problem: a row lacks the field.
    """
    numbers: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        if not isinstance(row.get(field), str):
            raise Problem(
                f"cannot balance by '{field}': the row of '{row['prompt'][:40]}…' has no such text. It has {', '.join(row)}."
            )
        numbers.setdefault(row[field], []).append(number)
    smallest = min(map(len, numbers.values()))
    draw = random.Random(seed)
    drawn: list[int] = []
    for value in sorted(numbers):
        drawn += draw.sample(numbers[value], smallest)
    return [rows[number] for number in sorted(drawn)]


def as_messages(row: dict) -> dict:
    return {key: [{"role": role, "content": row[key]}] for key, role in ROLES.items()}


def training_rows(rows: list[dict], eval_fraction: float, seed: int, balance: str | None) -> tuple[list[dict], list[dict]]:
    """Returns (train, held-out) rows; held-out is empty for eval_fraction 0.

    `balance` names a field by which the training side alone is balanced, so that the held-out side stays the same.
    """
    train, held_out = split_rows(rows, eval_fraction, seed)
    return balanced(train, balance, seed) if balance else train, held_out


def as_dataset(rows: list[dict]) -> Dataset:
    """Rows in TRL's conversational form."""
    from datasets import Dataset

    return Dataset.from_list([as_messages(row) for row in rows])


def load_preference_dataset(
    path: str | Path = DEFAULT_DATASET, eval_fraction: float = 0.05, seed: int = 42, balance: str | None = None
) -> tuple[Dataset, Dataset]:
    """(train, held-out) of a file, ready for TRL; see `training_rows`."""
    train, held_out = training_rows(read_pairs(Path(path)), eval_fraction, seed, balance)
    return as_dataset(train), as_dataset(held_out)


def training_tokenizer(pair: Pair) -> PreTrainedTokenizerBase:
    """The draft's tokenizer with the verifier's chat template: at decoding the draft reads the verifier's text.

    (Phi-3 Mini's own template has a system role and Medium's has none; SmolLM2 and Qwen introduce themselves by
    different system prompts.)
    """
    tokenizer = load_tokenizer(pair.draft)
    tokenizer.chat_template = load_tokenizer(pair.verifier).chat_template or tokenizer.chat_template
    if not tokenizer.chat_template:
        raise Problem(
            f"neither {pair.draft.id} nor {pair.verifier.id} has a chat template, and preference pairs are "
            "chats. Choose instruction-tuned models."
        )
    return tokenizer


def token_lengths(rows: list[dict], tokenizer: PreTrainedTokenizerBase) -> list[dict[str, int]]:
    """Tokens of the rendered prompt, and of each answer behind it, for every row."""
    lengths = []
    for row in map(as_messages, rows):
        prompt = len(_rendered(tokenizer, row["prompt"], add_generation_prompt=True))
        length = {"prompt": prompt}
        for side in ("chosen", "rejected"):
            length[side] = len(_rendered(tokenizer, row["prompt"] + row[side])) - prompt
        lengths.append(length)
    return lengths


def _rendered(tokenizer, messages: list[dict], **options) -> list[int]:
    return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options)


def report(rows: list[dict], tokenizer, max_length: int) -> dict:
    lengths = token_lengths(rows, tokenizer)
    percentiles = {}
    for side in ("prompt", "chosen", "rejected"):
        ordered = sorted(row[side] for row in lengths)
        percentiles[side] = {
            f"p{share}": ordered[min(len(ordered) * share // 100, len(ordered) - 1)] for share in (0, 50, 90, 99, 100)
        }
    return {
        "rows": len(rows),
        "tokens": percentiles,
        "max_length": max_length,
        "cut_by_max_length": {
            side: sum(row["prompt"] + row[side] > max_length for row in lengths) for side in ("chosen", "rejected")
        },
        "prompts_that_fill_max_length": sum(row["prompt"] >= max_length for row in lengths),
        "example": tokenizer.apply_chat_template(
            as_messages(rows[0])["prompt"] + as_messages(rows[0])["chosen"], tokenize=False
        ),
    }


def add_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", type=Path, default=DEFAULT_DATASET, metavar="FILE", help="(default %(default)s)")
    parser.add_argument("--max-length", type=positive_int, default=512, help="tokens of prompt and answer (default 512)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_dataset_arguments(parser)
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON to FILE, or - for stdout")
    add_model_arguments(parser)
    args = parser.parse_args()
    check_outputs(args.json, inputs=[args.dataset])
    rows = read_pairs(args.dataset)
    result = report(rows, training_tokenizer(choose_pair(args)), args.max_length)
    if args.json:
        put_json(result, args.json)
    if args.json != "-":
        print(f"{result['rows']} rows; tokens in the draft's vocabulary (smallest, median, 90%, 99%, largest):")
        for side, values in result["tokens"].items():
            print(f"  {side:9s}" + "".join(f"{value:6d}" for value in values.values()))
        cut = result["cut_by_max_length"]
        print(f"max length {args.max_length} cuts {cut['chosen']} chosen and {cut['rejected']} rejected answers")
        print(f"\nthe first row as the model sees it:\n\n{result['example']}")


if __name__ == "__main__":
    run(main)
