"""A run at the terminal: the text as its blocks arrive, and the report behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from specdec.trace import Block


class Printer:
    """Streams a run as its blocks arrive: accepted draft tokens green and underlined, the verifier's own bold."""

    def __init__(self, console, tokenizer):
        self.console, self.tokenizer = console, tokenizer
        self.ids: list[int] = []
        self.printed = 0

    def __call__(self, block: Block) -> None:
        from rich.text import Text

        for position, token in enumerate(block.tokens):
            self.ids.append(token)
            text = self.tokenizer.decode(self.ids, skip_special_tokens=True)
            if text.endswith("\ufffd"):  # half a character: its other bytes come with the next token
                continue
            style = "green underline" if position < block.accepted else "bold"
            self.console.print(Text(text[self.printed :], style=style), end="", soft_wrap=True)
            self.printed = len(text)


def print_report(console, runs: list[dict]) -> None:
    """One table for one prompt: a row a metric, a column a draft."""
    from rich.table import Table

    def percent(value):
        return "–" if value is None else f"{value:.1%}"

    rows = [
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
    ]
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for result in runs:
        table.add_column(result["draft"], justify="right")
    for name, show in rows:
        table.add_row(name, *(show(result) for result in runs))
    console.print(table)
    if any(result["adapter"] == "attached" for result in runs):
        console.print(
            "The adapter runs unmerged beside 4-bit weights, so the dpo draft does more work per token than "
            "the base draft: compare their acceptance, not their seconds."
        )
