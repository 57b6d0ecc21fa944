"""A run for a reader: the text as its blocks arrive, the report behind it, and the trace file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from specdec.files import append_jsonl
from specdec.provenance import start_rows
from specdec.sampling import as_conditions
from specdec.trace import Block, block_row

if TYPE_CHECKING:
    from specdec.engine import Engine
    from specdec.sampling import Settings

# What would move the cursor, ring, or begin an escape sequence: C0 and C1 but for the tab and the end of a line.
CONTROLS = [code for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"]
AS_ESCAPES = {code: f"\\x{code:02x}" for code in CONTROLS}


def shown(text: str) -> str:
    """Text that was not written by us, with its control characters as escapes: it must not drive the terminal."""
    return text.translate(AS_ESCAPES)


def put(console, text: str, style: str = "", end: str = "") -> None:
    """Writes text as it is, tabs, `:smile:` and `[bold]` included; rich's own print would replace all three."""
    from rich.segment import Segment, Segments
    from rich.style import Style

    console.print(Segments([Segment(shown(text) + end, Style.parse(style))]), end="", soft_wrap=True)


class Printer:
    """Streams a run as its blocks arrive: accepted draft tokens green and underlined, the verifier's own bold."""

    def __init__(self, console, tokenizer):
        self.console, self.tokenizer = console, tokenizer
        self.ids: list[int] = []
        self.printed = 0

    def __call__(self, block: Block) -> None:
        for position, token in enumerate(block.tokens):
            self.ids.append(token)
            text = self.tokenizer.decode(self.ids, skip_special_tokens=True)
            if text.endswith("\ufffd"):  # half a character: its other bytes come with the next token
                continue
            put(self.console, text[self.printed :], "green underline" if position < block.accepted else "bold")
            self.printed = len(text)


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def metric_rows(runs: list[dict]) -> list[tuple[str, list[str]]]:
    """(metric, its value for every run) of one prompt."""
    metrics = (
        ("tokens", lambda run: str(run["tokens"])),
        ("seconds", lambda run: f"{run['seconds']:.1f}"),
        ("tokens per second", lambda run: f"{run['tokens_per_second'] or 0:.2f}"),
        ("speed-up over plain verifier", lambda run: "–" if run["speedup"] is None else f"{run['speedup']:.2f}×"),
        ("block efficiency (tokens per verifier pass)", lambda run: f"{run['block_efficiency'] or 0:.2f}"),
        ("acceptance rate (accepted / drafted)", lambda run: percent(run["acceptance_rate"])),
        ("expected acceptance (mean Σ min(p, q))", lambda run: percent(run["expected_acceptance"])),
        (
            "acceptance by position in the block",
            lambda run: " ".join(f"{share:.0%}" for share in run["acceptance_by_position"]) or "–",
        ),
        (
            "seconds in prefill / draft / verifier / rest",
            lambda run: " / ".join(f"{run[f'{part}_seconds']:.1f}" for part in ("prefill", "draft", "verify", "other")),
        ),
    )
    return [(name, [show(run) for run in runs]) for name, show in metrics]


def print_report(console, runs: list[dict]) -> None:
    """One table for one prompt: a row a metric, a column a draft. Where it does not fit, a list with a line a value."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for result in runs:
        table.add_column(Text(shown(result["draft"])), justify="right", no_wrap=True)
    rows = metric_rows(runs)
    for name, values in rows:
        table.add_row(name, *values)
    if console.measure(table, options=console.options.update(width=10_000)).maximum <= console.width:
        console.print(table)
    else:
        for name, values in rows:
            put(console, name, end="\n")
            for run, value in zip(runs, values, strict=True):
                put(console, f"  {run['draft']}: {value}", end="\n")
    if any(result["adapter"] == "attached" for result in runs):
        put(
            console,
            "The adapter runs unmerged beside 4-bit weights, so a draft with one does more work per token than the base "
            "draft: compare their acceptance, not their seconds.",
            end="\n",
        )


class TraceWriter:
    """Appends the runs of one command to a trace file, block by block, with the text of every token for a reader."""

    def __init__(self, file: Path, engine: Engine, settings: Settings, prompted: dict | None = None):
        self.file, self.engine, self.run = file, engine, -1
        models = {"draft": engine.pair.draft.id, "verifier": engine.pair.verifier.id}
        self.conditions = {"models": models, "settings": {**as_conditions(settings), **(prompted or {})}}
        self.run_id = start_rows(file, self.conditions)

    def start(self, prompt: str, draft: str, seed: int) -> None:
        self.run, self.block = self.run + 1, 0
        append_jsonl(
            self.file,
            {"run": self.run, "draft": draft, "prompt": prompt, "seed": seed, **self.conditions, "run_id": self.run_id},
        )

    def __call__(self, block: Block) -> None:
        text = self.engine.tokenizer.decode
        append_jsonl(
            self.file,
            {
                "run": self.run,
                "block": self.block,
                **block_row(block),
                "drafted_text": [text([token]) for token in block.drafted],
                "next_text": text([block.next_token]),
                "run_id": self.run_id,
            },
        )
        self.block += 1
