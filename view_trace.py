"""Replays a trace of speculative_decode.py: what was drafted, what the verifier kept, and what came instead.

    python speculative_decode.py --mode compare --prompt "Who are you?" --trace trace.jsonl
    python view_trace.py trace.jsonl                     # block by block in the terminal; base beside dpo
    python view_trace.py trace.jsonl --no-input          # all of it as plain text, for a screen reader or a pipe
    python view_trace.py trace.jsonl --html replay.html --png replay.png

A block is one verifier pass. A draft is kept with probability min(1, p/q), p the verifier's probability and q the draft's;
those behind a rejected one are not tested.
Keys: space or → next, ← back, ↑ ↓ scroll, p play, + − speed, Home or g first, End or G last, q quit.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from specdec.files import write_whole
from specdec.replay import (
    Replay,
    block_lines,
    counted,
    description,
    page,
    picture,
    picture_in_words,
    readable,
    so_far,
    text_of,
    visible,
)
from specdec.terminal import Problem, check_outputs, console, positive_int, run, say
from specdec.trace import read_trace

STYLES = {"kept": "green", "rejected": "red", "not tested": "italic", "heading": "bold"}
KEY = re.compile(rb"\x1b\[[0-9;]*[A-Za-z~]|\x1bO[A-Z]|[ -~]")


# --- which runs -------------------------------------------------------------------------------------------------------


def read_runs(files: list[str]) -> list[Replay]:
    """All runs of the files; a draft's name is followed by its file where there are two."""
    runs = []
    for file in files:
        found = read_trace(file)
        if not found:
            raise Problem(f"{file} holds no run. Give a file that speculative_decode.py --trace wrote.")
        for header, row, blocks in found:
            name = row["draft"] if len(files) == 1 else f"{row['draft']} ({Path(file).name})"
            runs.append(Replay(name, file, header, row, blocks))
    return runs


def choose_runs(runs: list[Replay], wanted: list[str]) -> list[Replay]:
    """At most two runs: those named, or the first that drafts and one beside it.

    A name means the first run of that draft in each file; a number, the one of --list.
    """
    if not wanted:
        return default_runs(runs)
    chosen: list[Replay] = []
    for name in wanted:
        first_of_file = {replay.file: replay for replay in reversed(runs) if replay.row["draft"] == name}
        if not first_of_file and name.isdecimal() and 1 <= int(name) <= len(runs):
            first_of_file = {"": runs[int(name) - 1]}
        if not first_of_file:
            raise Problem(f"no run {visible(name)}. There are: {', '.join(visible(replay.row['draft']) for replay in runs)}.")
        chosen += [replay for replay in runs if any(replay is other for other in first_of_file.values())]
    if len(chosen) > 2:
        raise Problem(f"{len(chosen)} runs are meant, and two can be shown. Choose by their numbers in --list.")
    return chosen


def default_runs(runs: list[Replay]) -> list[Replay]:
    """The first run with a draft, and the next of another draft on its prompt, or the first with a draft in another file."""
    drafting = [replay for replay in runs if any(row["drafted"] for row in replay.blocks)] or runs
    first = drafting[0]
    other_file = [replay for replay in drafting if replay.file != first.file]
    same_prompt = [replay for replay in drafting if replay.row["prompt"] == first.row["prompt"] and replay.name != first.name]
    return [first, *(other_file or same_prompt)[:1]]


# --- in the terminal --------------------------------------------------------------------------------------------------


def print_all(runs: list[Replay], start: int, width: int) -> None:
    """Everything in lines of words, from block `start` on."""
    for replay in runs:
        put(f"Run {visible(replay.name)}", width)
        for what, value in description(replay):
            put(f"{what}: {value}", width)
        print()
    for number in range(start, max(len(replay.blocks) for replay in runs)):
        for replay in runs:
            if number < len(replay.blocks):
                for _, line in block_lines(replay, number):
                    put(line, width)
                print()
    print_end(runs, width)


def print_end(runs: list[Replay], width: int) -> None:
    for replay in runs:
        put(f"{visible(replay.name)}: {counted(replay.blocks)}; {so_far(replay.blocks)}", width)
        put(f"text: {readable(text_of(replay.blocks))}", width)


def put(text: str, width: int) -> None:
    """Prints the text in lines of at most `width` columns; what goes on in a next line is indented."""
    from rich.console import Console
    from rich.text import Text

    for line in text.split("\n"):
        parts = Text(line).wrap(Console(), max(width, 20) - 2) or [Text()]
        print("\n  ".join(part.plain for part in parts))


@dataclass
class Position:
    """Where the replay stands, and what a key does to it."""

    last: int
    at: int = 0
    top: int = 0  # the first line shown, where a block is taller than the terminal
    seconds: float = 1.0  # a block, when playing
    playing: bool = False
    left: bool = False

    def press(self, key: bytes) -> None:
        steps = {b" ": 1, b"\x1b[C": 1, b"\x1bOC": 1, b"\x1b[D": -1, b"\x1bOD": -1, b"g": -self.last, b"G": self.last}
        steps |= {b"\x1b[H": -self.last, b"\x1b[1~": -self.last, b"\x1b[F": self.last, b"\x1b[4~": self.last}
        scrolls = {b"\x1b[A": -1, b"\x1bOA": -1, b"\x1b[B": 1, b"\x1bOB": 1}
        if key in steps:
            self.playing = False
            self.go(steps[key])
        elif key in scrolls:
            self.top = max(0, self.top + scrolls[key])
        elif key in (b"+", b"="):
            self.seconds = max(1 / 16, self.seconds / 2)
        elif key == b"-":
            self.seconds = min(8, self.seconds * 2)
        elif key == b"p":
            self.playing = not self.playing and self.at < self.last
        elif key == b"q":
            self.left = True

    def go(self, blocks: int) -> None:
        self.at, self.top = min(max(self.at + blocks, 0), self.last), 0
        self.playing = self.playing and self.at < self.last


def replay(runs: list[Replay], start: int) -> None:
    """Shows block by block on the terminal's second screen, and leaves the last metrics on the first."""
    import select
    import termios
    import tty

    output, keyboard = console(), sys.stdin.fileno()
    position = Position(max(len(replay.blocks) for replay in runs) - 1, start)
    modes = termios.tcgetattr(keyboard)
    try:
        with output.screen():
            due = time.monotonic()
            while not position.left:
                tty.setcbreak(keyboard)  # again each time: a shell that stopped and continued us has set its own modes
                draw(output, runs, position)
                wait = max(0, due - time.monotonic()) if position.playing else 0.5  # a terminal of new size is drawn then
                if select.select([keyboard], [], [], wait)[0]:
                    typed = os.read(keyboard, 64)
                    position.left = not typed
                    for key in KEY.findall(typed):
                        position.press(key)
                    due = time.monotonic() + position.seconds
                elif position.playing:
                    position.go(1)
                    due = time.monotonic() + position.seconds
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, modes)
    print_end(runs, output.width)


def draw(output, runs: list[Replay], position: Position) -> None:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    columns = [Group(*(Text(line, STYLES.get(style, "")) for style, line in run_lines(one, position.at))) for one in runs]
    body: Group | Table = Group(*columns)
    if len(runs) == 2 and output.width >= 70:
        body = Table.grid(padding=(0, 2), expand=True)
        body.add_column(ratio=1, overflow="fold")
        body.add_column(ratio=1, overflow="fold")
        body.add_row(*columns)
    state = f"space next, ← back, p {'pause' if position.playing else 'play'}, + − {1 / position.seconds:g} a second, q quit"
    lines = output.render_lines(Group(Text("prompt: " + visible(runs[0].row["prompt"]), "italic"), Text(), body))
    below = output.render_lines(Text(state, "reverse"))
    room = max(1, output.height - len(below) - 1)
    position.top = min(position.top, max(0, len(lines) - room))
    more = "↑ ↓ scroll" if len(lines) > room else ""
    shown = lines[position.top : position.top + room]
    blank = output.render_lines(Text(" "))
    shown += blank * (room - len(shown)) + output.render_lines(Text(more or " ")) + below
    output.update_screen_lines(shown[: output.height])


def run_lines(replay: Replay, number: int) -> list[tuple[str, str]]:
    """A block with the end of the text that it leads to; a blank line parts it from what stands below."""
    text = readable(text_of(replay.blocks[: number + 1]))
    return [*block_lines(replay, number), ("", f"text: {'…' if len(text) > 240 else ''}{text[-240:]}"), ("", "")]


# --- at the command line ----------------------------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="trace files; the runs of two are shown side by side")
    parser.add_argument(
        "--runs", nargs="+", default=[], metavar="RUN", help="one or two: a draft's name, or a number of --list"
    )
    parser.add_argument("--list", action="store_true", help="list the runs and stop")
    parser.add_argument("--block", type=positive_int, default=1, metavar="N", help="begin at block N")
    parser.add_argument("--no-input", action="store_true", help="plain text, without keys; so too when this is no terminal")
    parser.add_argument("--html", metavar="FILE", help="write one page that needs nothing else, for a browser")
    parser.add_argument("--png", metavar="FILE", help="write a picture of twelve blocks, and print it in words")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    check_outputs(args.html, args.png, inputs=args.files)
    if "-" in (args.html, args.png):
        raise Problem("a page or a picture goes to a file. Name one instead of -.")
    runs = read_runs(args.files)
    if args.list:
        for number, one in enumerate(runs, start=1):
            print(f"{number}  {visible(one.name)}: {counted(one.blocks)}; {visible(one.row['prompt'])}")
        return
    runs = choose_runs(runs, args.runs)
    longest = max(len(one.blocks) for one in runs)
    if args.block > max(longest, 1):
        raise Problem(f"there is no block {args.block}. The longest run has {longest}.")
    if len(runs) == 2 and runs[0].row["prompt"] != runs[1].row["prompt"]:
        say("the two runs have different prompts; their metrics are of different texts.")
    if not longest:
        raise Problem("the trace holds no block: the run was stopped before its first. Decode again.")
    show(args, runs)


def show(args: argparse.Namespace, runs: list[Replay]) -> None:
    start = args.block - 1
    if args.html:
        write_whole(args.html, page(runs, start))
    if args.png:
        picture(runs, start, Path(args.png))
        print(picture_in_words(runs, start))
    if args.html or args.png:
        return
    output = console()
    if args.no_input or not sys.stdin.isatty() or not output.is_terminal or output.is_dumb_terminal or os.name == "nt":
        print_all(runs, start, output.width)
    else:
        replay(runs, start)


if __name__ == "__main__":
    run(main)
