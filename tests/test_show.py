"""What a person reads: texts as they are, control characters as escapes, and a list where a table does not fit."""

import io

import pytest
from rich.console import Console

from specdec.show import Printer, print_report, put, shown
from specdec.trace import Block


def terminal(width: int = 80, **options) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=width, highlight=False, **options)


def written(console: Console) -> str:
    return console.file.getvalue()


TEXT = "a\tb :smile: [bold]x[/bold] [red] naïve 漢字\n\tif x:"


def test_text_comes_out_as_it_is():
    console = terminal(width=20)
    put(console, TEXT)
    assert written(console) == TEXT


def test_control_characters_do_not_reach_the_terminal():
    dangerous = "\x1b]0;title\x07\x1b[2J\r\x08\x7f\x9b31m\x00"
    console = terminal()
    put(console, dangerous)
    assert written(console) == r"\x1b]0;title\x07\x1b[2J\x0d\x08\x7f\x9b31m\x00"
    assert shown("lines\n\tand tabs") == "lines\n\tand tabs"


def block(tokens: str, accepted: int) -> Block:
    ids = tuple(ord(letter) for letter in tokens)
    return Block(ids[:-1], (), (), (), accepted, ids[-1], ids, 0.0, 0.0, 0.0)


class Letters:
    @staticmethod
    def decode(ids, skip_special_tokens):
        return "".join(map(chr, ids))


def test_streamed_tokens_are_whole_and_styled():
    console = terminal()
    printer = Printer(console, Letters)
    printer(block("a\t:", 2))
    printer(block("\x1bx", 0))
    plain = Console(file=io.StringIO(), width=80)
    for letters in ("a\t:", "\x1bx"):
        Printer(plain, Letters)(block(letters, 1))
    assert written(plain) == "a\t:\\x1bx"
    assert "\x1b[4;32ma\x1b[0m" in written(console) and "\x1b[1m:\x1b[0m" in written(console)
    assert "\\x1b" in written(console)


def test_no_color_leaves_the_underline():
    console = terminal(no_color=True)
    Printer(console, Letters)(block("ab", 1))
    assert written(console) == "\x1b[4ma\x1b[0m\x1b[1mb\x1b[0m"


def run_row(draft: str) -> dict:
    seconds = {f"{part}_seconds": 1.25 for part in ("prefill", "draft", "verify", "other")}
    rates = {"acceptance_rate": 0.5, "expected_acceptance": None, "acceptance_by_position": [0.5, 0.25]}
    return {
        "draft": draft,
        "adapter": "none",
        "tokens": 24,
        "seconds": 5.0,
        "tokens_per_second": 4.8,
        "speedup": 1.5,
        "block_efficiency": 2.4,
        **seconds,
        **rates,
    }


RUNS = [run_row("verifier"), run_row("base"), run_row("[bold]mine")]


def test_a_wide_terminal_shows_a_table():
    console = Console(file=io.StringIO(), width=120)
    print_report(console, RUNS)
    lines = written(console).splitlines()
    assert len(lines) == 10 and "[bold]mine" in lines[0] and lines[1].split() == ["tokens", "24", "24", "24"]


@pytest.mark.parametrize("width", [20, 40])
def test_a_narrow_one_a_list_that_loses_no_value(width):
    console = Console(file=io.StringIO(), width=width)
    print_report(console, RUNS)
    lines = written(console).splitlines()
    assert lines[:4] == ["tokens", "  verifier: 24", "  base: 24", "  [bold]mine: 24"]
    assert len(lines) == 9 * 4 and "  base: 1.2 / 1.2 / 1.2 / 1.2" in lines and "…" not in written(console)
