"""Trace files for tests, written by hand: tokens whose fate is known, and one whose texts attack what shows them."""

import json
from pathlib import Path

HEADER = {"run_id": "x", "command": "python speculative_decode.py --mode compare", "conditions": {}, "environment": {}}


def run_row(number: int, draft: str, prompt: str = "Which reader?") -> dict:
    models = {"draft": "a small model", "verifier": "a large model"}
    return {"run": number, "draft": draft, "prompt": prompt, "seed": 42, "models": models, "settings": {"temperature": 0.7}}


def block_row(run: int, number: int, drafted: list[str], accepted: int, following: str, ended: bool = False) -> dict:
    """p of a kept draft is 0.9, of a rejected one near 0; where the text `ended` in a kept draft, `following` is not used."""
    tested = min(accepted + 1, len(drafted))
    p = [0.9] * accepted + [1e-5] * (tested - accepted)
    ids = [sum(text.encode()) for text in (*drafted, following)]
    return {
        "run": run,
        "block": number,
        "drafted": ids[:-1],
        "p": p,
        "q": [0.5] * tested,
        "overlap": [0.6] * tested,
        "accepted": accepted,
        "next_token": ids[-1],
        "tokens": ids[:accepted] + ([] if ended else ids[-1:]),
        "seconds": 0.3,
        "draft_seconds": 0.1,
        "verify_seconds": 0.2,
        "drafted_text": drafted,
        "next_text": following,
    }


COMPARED = [
    run_row(0, "verifier"),
    *(block_row(0, number, [], 0, text) for number, text in enumerate((" The", " reader", "."))),
    run_row(1, "base"),
    block_row(1, 0, [" The", " best", " thing"], 1, " reader"),
    block_row(1, 1, [" is", " called", ""], 3, " NVDA"),
    block_row(1, 2, ["<end>"], 1, "x", ended=True),
    run_row(2, "dpo"),
    block_row(2, 0, [" The", " best", " one"], 3, " is"),
    block_row(2, 1, [" NVDA", ".", "\n"], 2, "<end>"),
]

ATTACKS = [
    "</script><script>alert(1)</script>",
    "\x1b[31mred\x07",
    "\u202eabc",
    "<img src=x onerror=alert(1)>",
    "<!-- steps -->",
]
EVIL = [
    run_row(0, "ba\x1b[1mse", prompt="</title><script>alert(1)</script>\n<!-- end --> \x1b[2J"),
    block_row(0, 0, ATTACKS, 3, "'&<b>$\\x$"),  # no mathematics, and not correct as such
    block_row(0, 1, ["    ", "\n\t", "日本語テキスト", "\x9b31m", "]]>"], 5, "a" * 70),
    run_row(1, '<i title="x">dpo</i>', prompt="</title><script>alert(1)</script>\n<!-- end --> \x1b[2J"),
    block_row(1, 0, ATTACKS, 5, "--><x>"),
]


def write_trace(file: Path, rows: list[dict] | None = None) -> Path:
    rows = [HEADER, *(COMPARED if rows is None else rows)]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file
