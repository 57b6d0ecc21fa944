"""A run of a trace in words, as a page for a browser, and as a picture.

`view_trace.py` shows the words in the terminal. The page is one file: words in HTML (specdec/replay.html is its frame), which
read without the script too. No torch here.
"""

from __future__ import annotations

import base64
import hashlib
import re
import warnings
from dataclasses import dataclass
from html import escape
from pathlib import Path

from specdec.report import new_figure, save

DRAWN = 12  # blocks in a picture
SHOWN = 300  # characters of the text before a block
LOOKS: dict[str, dict] = {  # in a picture; told apart without colour
    "kept": {"facecolor": "black"},
    "rejected": {"facecolor": "white", "hatch": "/////"},
    "not tested": {"facecolor": "white", "linestyle": ":"},
    "from the verifier": {"facecolor": "white", "linewidth": 2.2},
}


# --- in words ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Replay:
    """A run of a trace file and the name that it is shown under."""

    name: str
    file: str
    header: dict
    row: dict
    blocks: list[dict]


@dataclass(frozen=True)
class Draft:
    """One drafted token of a block, as text. p and q are "" where there are none: at temperature 0, or not tested."""

    verdict: str  # kept, rejected, not tested
    token: str
    p: str
    q: str


def visible(text: str) -> str:
    """The text with all that would not show, or would drive a terminal, as escapes: controls, line ends, marks of direction."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def readable(text: str) -> str:
    """Running text: as `visible`, and its lines stay lines."""
    return "\n".join(visible(line) for line in text.split("\n"))


def token(text: str | None, identity: int | None) -> str:
    if text is None:
        return "not recorded" if identity is None else f"token {identity}"
    spaces = f" ({len(text)} spaces)" if len(text) > 1 and not text.strip(" ") else ""
    return f'"{visible(text)}"{spaces}'


def probability(values: list[float] | None, position: int) -> str:
    if values is None:
        return "not recorded"
    if not values:
        return ""
    return f"{values[position]:.3f}" if values[position] >= 0.001 else "<0.001"


def drafts(row: dict) -> list[Draft]:
    """The drafts of a block in their order."""
    texts = row.get("drafted_text") or [None] * len(row["drafted"])
    found = []
    for position, (text, identity) in enumerate(zip(texts, row["drafted"], strict=True)):
        if position > row["accepted"]:
            found.append(Draft("not tested", token(text, identity), "", ""))
        else:
            verdict = "kept" if position < row["accepted"] else "rejected"
            p, q = (probability(row[key], position) for key in ("p", "q"))
            found.append(Draft(verdict, token(text, identity), p, q))
    return found


def following(row: dict) -> tuple[str, str]:
    """(what it is, the token) that the verifier put behind the kept drafts."""
    what = "instead" if row["accepted"] < len(row["drafted"]) else "free" if row["drafted"] else "verifier"
    if row["accepted"] >= len(row["tokens"]):
        what = "not used, the text ended before"
    return what, token(row.get("next_text"), row["next_token"])


def counted(blocks: list[dict]) -> str:
    return f"{len(blocks)} block{'' if len(blocks) == 1 else 's'}"


def so_far(blocks: list[dict]) -> str:
    """The metrics of the first blocks of a run."""
    if not blocks:
        return "no block"
    accepted = sum(row["accepted"] for row in blocks)
    drafted = sum(len(row["drafted"]) for row in blocks)
    gained = sum(len(row["tokens"]) for row in blocks)
    kept = f"{accepted} of {drafted} drafted accepted, {accepted / drafted:.1%}" if drafted else "nothing drafted"
    return f"{kept}; {gained / len(blocks):.2f} tokens per pass"


def text_of(blocks: list[dict]) -> str:
    """The text that the blocks gained. A token whose text is not recorded shows as its number, a part of a character as �."""
    parts = []
    for row in blocks:
        texts = [*(row.get("drafted_text") or [None] * len(row["drafted"])), row.get("next_text")][: row["accepted"]]
        texts += [row.get("next_text")]
        parts += [text if text is not None else f"[{identity}]" for text, identity in zip(texts, row["tokens"], strict=False)]
    return "".join(parts)


def description(replay: Replay) -> list[tuple[str, str]]:
    """(what, its value): the run's row and the command of its header, for a reader."""
    settings, models = replay.row.get("settings") or {}, replay.row.get("models") or {}
    facts = [("prompt", replay.row["prompt"]), ("file", Path(replay.file).name)]
    facts += [(name, f"{value}") for name, value in models.items()]
    facts.append(("settings", ", ".join(f"{name} {value}" for name, value in settings.items()) or "not recorded"))
    facts += [("command", f"{replay.header['command']}")] if "command" in replay.header else []
    return [(visible(name), readable(value)) for name, value in facts]


def block_lines(replay: Replay, number: int) -> list[tuple[str, str]]:
    """(style, line) of one block; no meaning is in the style alone."""
    name, blocks = visible(replay.name), replay.blocks
    if number >= len(blocks):
        return [("heading", f"{name}: ended after {counted(blocks)}"), ("", f"so far: {so_far(blocks)}")]
    lines = [("heading", f"{name}, block {number + 1} of {len(blocks)}")]
    for draft in drafts(blocks[number]):
        numbers = f", p {draft.p}, q {draft.q}" if draft.p else ""
        lines.append((draft.verdict, f"{draft.verdict}: {draft.token}{numbers}"))
    what, came = following(blocks[number])
    lines.append(("heading", f"{what}: {came}"))
    return [*lines, ("", f"so far: {so_far(blocks[: number + 1])}")]


def outcome(replay: Replay, number: int) -> str:
    """A block in one sentence."""
    if number >= len(replay.blocks):
        return "ended"
    row = replay.blocks[number]
    what, came = following(row)
    if not row["drafted"]:
        return f"{what} {came}"
    kept = ", ".join(draft.token for draft in drafts(row) if draft.verdict == "kept")
    return f"{row['accepted']} of {len(row['drafted'])} kept{': ' if kept else ''}{kept}; {what} {came}"


# --- as a page --------------------------------------------------------------------------------------------------------


def page(replays: list[Replay], start: int) -> str:
    """One HTML page that loads nothing. All text of the trace is escaped, and the page's policy runs no script but its own."""
    frame = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    frame = frame.replace("<!-- policy -->", f'<meta http-equiv="Content-Security-Policy" content="{policy(frame)}">')
    longest = max(len(replay.blocks) for replay in replays)
    parts = {
        "title": escape(" and ".join(visible(replay.name) for replay in replays)),
        "prompt": escape(readable(replays[0].row["prompt"])),
        "facts": "\n".join(facts_html(replay) for replay in replays),
        "steps": "\n".join(step_html(replays, number, longest) for number in range(longest)),
        "end": "\n".join(end_html(replay) for replay in replays),
    }
    frame = frame.replace('data-start="0"', f'data-start="{start}"')
    # In one pass, so that nothing is looked for in what was put in.
    return re.sub("<!-- (title|prompt|facts|steps|end) -->", lambda found: parts[found[1]], frame)


def policy(frame: str) -> str:
    """Nothing is loaded; the script and the style run that have these digests, and no other."""
    allowed = {}
    for kind in ("script", "style"):
        text = frame.split(f"<{kind}>")[1].split(f"</{kind}>")[0]
        allowed[kind] = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()
    return f"default-src 'none'; script-src 'sha256-{allowed['script']}'; style-src 'sha256-{allowed['style']}'"


def facts_html(replay: Replay) -> str:
    rows = "".join(f"<dt>{escape(what)}</dt><dd>{escape(value)}</dd>" for what, value in description(replay))
    return f'<div class="run"><h3>{escape(visible(replay.name))}</h3><dl>{rows}</dl></div>'


def step_html(replays: list[Replay], number: int, longest: int) -> str:
    spoken = ". ".join(f"{visible(replay.name)}: {outcome(replay, number)}" for replay in replays)
    runs = "".join(block_html(replay, number) for replay in replays)
    title = f"Block {number + 1} of {longest}"
    return (
        f'<section class="step" aria-labelledby="block-{number + 1}" data-spoken="{escape(f"{title}. {spoken}.")}">'
        f'<h2 id="block-{number + 1}">{title}</h2><div class="runs">{runs}</div></section>'
    )


def block_html(replay: Replay, number: int) -> str:
    name = escape(visible(replay.name))
    if number >= len(replay.blocks):
        said = escape(f"Ended after {counted(replay.blocks)}. {so_far(replay.blocks)}.")
        return f'<div class="run"><h3>{name}</h3><p>{said}</p></div>'
    block = replay.blocks[number]
    rows = []
    for draft in drafts(block):
        kind = draft.verdict.replace(" ", "-")
        cells = f"<td>{escape(draft.p) or 'none'}</td><td>{escape(draft.q) or 'none'}</td><td>{draft.verdict}</td>"
        rows.append(f'<tr class="{kind}"><th scope="row">{escape(draft.token)}</th>{cells}</tr>')
    what, came = following(block)
    table = (
        f'<table><caption>{name}: the draft\'s tokens</caption><thead><tr><th scope="col">token</th><th scope="col">p</th>'
        f'<th scope="col">q</th><th scope="col">result</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )
    before, gained = readable(text_of(replay.blocks[:number])), readable(text_of([block]))
    before = ("…" if len(before) > SHOWN else "") + before[-SHOWN:]
    return (
        f'<div class="run"><h3>{name}</h3>{table if rows else ""}'
        f'<p class="came">{escape(what)}: <strong>{escape(came)}</strong></p>'
        f"<p>So far: {so_far(replay.blocks[: number + 1])}.</p>"
        f'<p class="text">Text: {escape(before)}<mark>{escape(gained)}</mark></p></div>'
    )


def end_html(replay: Replay) -> str:
    name, said = escape(visible(replay.name)), so_far(replay.blocks)
    text = escape(readable(text_of(replay.blocks)))
    return f'<div class="run"><h3>{name}</h3><p>{counted(replay.blocks)}; {said}.</p><p class="text">{text}</p></div>'


# --- as a picture -----------------------------------------------------------------------------------------------------


def picture(replays: list[Replay], start: int, file: Path) -> None:
    """Draws DRAWN blocks of each run, a row a block: kept black, rejected hatched, not tested dotted, the verifier's bold."""
    from matplotlib.patches import Rectangle

    shown = [replay.blocks[start : start + DRAWN] for replay in replays]
    columns = 1 + max(len(row["drafted"]) for blocks in shown for row in blocks)
    rows = max(len(blocks) for blocks in shown)
    figure, panels = new_figure(max(4.0, 0.95 * columns * len(replays) + 0.6), 0.34 * rows + 1.3, len(replays))
    for panel, replay, blocks in zip(panels, replays, shown, strict=True):
        for number, row in enumerate(blocks):
            cells = [(draft.verdict, draft.token) for draft in drafts(row)]
            cells.insert(row["accepted"] + (row["accepted"] < len(row["drafted"])), ("from the verifier", following(row)[1]))
            for column, (look, words) in enumerate(cells):
                panel.add_patch(Rectangle((column + 0.04, number + 0.08), 0.92, 0.84, edgecolor="black", **LOOKS[look]))
                draw_token(panel, column + 0.5, number + 0.5, words, look)
        panel.set(xlim=(0, columns), ylim=(rows, 0), xticks=[], yticks=[number + 0.5 for number in range(rows)])
        panel.set_yticklabels([str(start + number + 1) for number in range(rows)])
        panel.set_title(f"{visible(replay.name)}: {so_far(replay.blocks)}", fontsize=8, parse_math=False)
        panel.tick_params(length=0, labelsize=8)
        panel.spines[:].set_visible(False)
    panels[0].set_ylabel("block", fontsize=8)
    legend = [Rectangle((0, 0), 1, 1, edgecolor="black", label=name, **look) for name, look in LOOKS.items()]
    figure.legend(handles=legend, loc="outside lower center", ncols=4 if columns * len(replays) > 5 else 2, fontsize=8)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # shown as a box; the words have it
        save(figure, file)


def draw_token(panel, x: float, y: float, words: str, look: str) -> None:
    short = words if len(words) <= 13 else words[:11] + '…"'
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8} if look == "rejected" else None
    color, weight = "white" if look == "kept" else "black", "bold" if look == "from the verifier" else "normal"
    panel.text(x, y, short, color=color, weight=weight, ha="center", va="center", fontsize=7, bbox=box, parse_math=False)


def picture_in_words(replays: list[Replay], start: int) -> str:
    """The picture's alternative text."""
    said = []
    for replay in replays:
        drawn = replay.blocks[start : start + DRAWN]
        blocks = " ".join(
            f"Block {number}: {outcome(replay, number - 1)}." for number in range(start + 1, start + 1 + len(drawn))
        )
        said.append(f"{visible(replay.name)}, {so_far(replay.blocks)} in {counted(replay.blocks)}. {blocks}")
    return f'What a verifier kept of drafted tokens, prompt "{visible(replays[0].row["prompt"])}". ' + " ".join(said)
