"""view_trace.py: the words of a block, which runs are shown, keys, page, picture, and a line for every kind of bad trace."""

import json
import os
import re
import select
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from traces import EVIL, block_row, run_row, write_trace

import view_trace
from specdec import replay
from specdec.files import BadLine
from specdec.trace import read_block, read_trace
from view_trace import Position

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def trace(tmp_path) -> Path:
    """A trace of the verifier alone, base and dpo on one prompt."""
    return write_trace(tmp_path / "trace.jsonl")


def lines_of(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


# --- words ------------------------------------------------------------------------------------------------------------


def test_a_block_in_words(cli, trace):
    status, out, err = cli(view_trace, trace, "--runs", "base")
    assert (status, err) == (0, "")
    assert (
        'base, block 1 of 3\nkept: " The", p 0.900, q 0.500\nrejected: " best", p <0.001, q 0.500\nnot tested: " thing"\n'
        'instead: " reader"\nso far: 1 of 3 drafted accepted, 33.3%; 2.00 tokens per pass\n'
    ) in out
    assert 'free: " NVDA"\nso far: 4 of 6 drafted accepted, 66.7%; 3.00 tokens per pass\n' in out
    assert 'not used, the text ended before: "x"' in out, "a kept stop token ends the text"
    assert out.endswith(
        "base: 3 blocks; 5 of 7 drafted accepted, 71.4%; 2.33 tokens per pass\ntext:  The reader is called NVDA<end>\n"
    )
    assert "temperature 0.7" in out and "command: python speculative_decode.py" in out


def test_the_verifier_alone_and_greedy_runs(cli, tmp_path):
    rows = [run_row(0, "verifier"), block_row(0, 0, [], 0, " a"), run_row(1, "base"), block_row(1, 0, [" a", " b"], 1, " c")]
    rows[-1] |= {"p": [], "q": [], "overlap": []}  # temperature 0
    _, out, _ = cli(view_trace, write_trace(tmp_path / "t.jsonl", rows), "--runs", "verifier", "base")
    assert 'verifier: " a"\nso far: nothing drafted; 1.00 tokens per pass' in out
    assert 'kept: " a"\nrejected: " b"\ninstead: " c"' in out


def test_older_traces_say_what_they_lack(cli, tmp_path):
    old = block_row(0, 0, [" a", " b"], 1, " c") | {"p": None, "q": None, "overlap": None, "drafted": [7, None]}
    del old["drafted_text"], old["next_text"]
    _, out, _ = cli(view_trace, write_trace(tmp_path / "t.jsonl", [run_row(0, "base"), old]))
    assert "kept: token 7, p not recorded, q not recorded\nrejected: not recorded, p not recorded, q not recorded\n" in out
    assert re.search(r"instead: token \d+\n", out)


def test_runs_beside_each_other_by_default_are_two_drafts_on_one_prompt(cli, trace):
    _, out, _ = cli(view_trace, trace)
    headings = re.findall(r"^(\w+), block (\d)", out, re.MULTILINE)
    assert headings == [("base", "1"), ("dpo", "1"), ("base", "2"), ("dpo", "2"), ("base", "3")]


def test_two_files_and_list(cli, trace, tmp_path):
    other = write_trace(tmp_path / "other.jsonl")
    _, out, _ = cli(view_trace, trace, other, "--list")
    assert [line.split(":")[0] for line in out.splitlines()][4] == "5  base (other.jsonl)"
    _, out, _ = cli(view_trace, trace, other)
    assert "base (trace.jsonl), block 1" in out and "base (other.jsonl), block 1" in out and "dpo" not in out
    _, out, _ = cli(view_trace, trace, other, "--runs", "3", "6")
    assert "dpo (trace.jsonl), block 1" in out and "dpo (other.jsonl), block 1" in out
    status, _, err = cli(view_trace, trace, other, "--runs", "base", "dpo")
    assert status == 1 and "4 runs are meant" in err


def test_different_prompts_are_pointed_out(cli, tmp_path):
    rows = [
        run_row(0, "base"),
        block_row(0, 0, ["a"], 1, "b"),
        run_row(1, "dpo", prompt="Another?"),
        block_row(1, 0, ["a"], 1, "b"),
    ]
    _, _, err = cli(view_trace, write_trace(tmp_path / "t.jsonl", rows), "--runs", "base", "dpo")
    assert err == "the two runs have different prompts; their metrics are of different texts.\n"


def test_beginning_at_a_block(cli, trace):
    _, out, _ = cli(view_trace, trace, "--block", "3")
    assert "block 3 of 3" in out and "block 2 of" not in out
    status, _, err = cli(view_trace, trace, "--block", "4")
    assert (status, err) == (1, "error: there is no block 4. The longest run has 3.\n")


def test_narrow_lines_and_no_control_character(cli, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "40")
    _, out, _ = cli(view_trace, write_trace(tmp_path / "evil.jsonl", EVIL))
    from rich.cells import cell_len

    assert max(cell_len(line) for line in out.splitlines()) <= 40
    assert all(letter.isprintable() for line in out.split("\n") for letter in line)
    assert r"\x1b[31mred\x07" in out and r"\u202e" in out and '"    " (4 spaces)' in out


def test_a_real_trace(cli, tiny, tmp_path):
    """What speculative_decode.py writes is read, and its blocks are those of the schema."""
    import speculative_decode

    file = tmp_path / "trace.jsonl"
    models = ("--draft", tiny.draft, "--verifier", tiny.verifier, "--max-new-tokens", 8)
    status, _, err = cli(speculative_decode, "--prompt", "Who?", "--trace", file, *models)
    assert status == 0, err
    (header, first, _), (_, second, blocks) = read_trace(file)
    assert header["conditions"] and (first["draft"], second["draft"]) == ("verifier", "base")
    assert sum(len(read_block(row).tokens) for row in blocks) <= 8
    status, out, err = cli(view_trace, file, "--html", tmp_path / "r.html", "--png", tmp_path / "r.png")
    assert status == 0, err
    assert f"base, block 1 of {len(blocks)}" in cli(view_trace, file)[1]


# --- bad traces -------------------------------------------------------------------------------------------------------


def change(**values):
    """A trace whose block 1 of base (line 8) holds these values."""

    def apply(lines: list[str]) -> list[str]:
        lines[7] = json.dumps(json.loads(lines[7]) | values)
        return lines

    return apply


@pytest.mark.parametrize(
    "spoil, line, what",
    [
        (lambda lines: [*lines[:-1], lines[-1][:40]], 12, "cut off, not JSON"),
        (lambda lines: [*lines[:7], lines[7][:40], *lines[8:]], 8, "not JSON"),
        (lambda lines: [line for line in lines if '"draft": "dpo"' not in line], 10, "a block of run 2, whose row"),
        (lambda lines: lines[:6] + [lines[7], lines[6]] + lines[8:], 7, "block 1 of run 1, where block 0 is expected"),
        (lambda lines: [*lines[:7], *lines[8:]], 8, "block 2 of run 1, where block 1"),
        (lambda lines: ['{"prompt": "x", "answer": "y"}'], 1, "neither a header, a run nor a block"),
        (lambda lines: ["[1]"], 1, "a JSON object is expected"),
        (change(accepted=9), 8, "'accepted' is no number from 0 to 3"),
        (change(p=[0.1]), 8, "'p' is no list of 3 numbers"),
        (change(q=[0.1, 2, 0.1]), 8, "'q' holds a number that is no probability"),
        (change(q=[0.1, True, 0.1]), 8, "'q' is no list"),
        (change(drafted="abc"), 8, "'drafted' is no list"),
        (change(tokens=[1, 2, 3, 4, 5]), 8, "'tokens' is no list of at most"),
        (change(next_token="x"), 8, "'next_token' is no token id"),
        (change(drafted_text=["a"]), 8, "'drafted_text' is no list"),
        (change(next_text=3), 8, "'next_text' is no text"),
        (lambda lines: [line.replace('"overlap"', '"over"') for line in lines], 3, "'overlap' is missing"),
        (lambda lines: [line.replace('"draft": "base"', '"draft": 3') for line in lines], 6, "'draft' is no text"),
        (
            lambda lines: [line.replace('"settings": {', '"settings": 3, "x": {') for line in lines],
            2,
            "'settings' is no object",
        ),
    ],
)
def test_a_bad_trace_is_one_line_with_its_number(cli, trace, spoil, line, what):
    trace.write_text("\n".join(spoil(lines_of(trace))), encoding="utf-8")
    status, out, err = cli(view_trace, trace)
    assert (status, out) == (1, "")
    assert err.startswith(f"error: {trace}, line {line}: {what}") and err.count("\n") == 1


def test_byte_order_mark_blank_lines_and_line_ends_of_windows(trace):
    before = read_trace(trace)
    original = trace.read_bytes()
    trace.write_bytes(b"\xef\xbb\xbf" + original)
    assert read_trace(trace) == before
    trace.write_bytes(b"\xef\xbb\xbf\r\n" + original.replace(b"\n", b"\r\n"))
    assert read_trace(trace) == before
    trace.write_bytes(trace.read_bytes() + b'{"run": 2}')
    with pytest.raises(BadLine, match="line 14"):  # the blank first line is counted
        read_trace(trace)


@pytest.mark.parametrize("text", ["", '{"run_id": "x", "command": "c", "conditions": {}, "environment": {}}\n'])
def test_a_trace_without_a_run(cli, tmp_path, text):
    (tmp_path / "t.jsonl").write_text(text)
    status, _, err = cli(view_trace, tmp_path / "t.jsonl")
    assert status == 1 and "holds no run" in err


def test_a_run_without_a_block(cli, tmp_path):
    status, _, err = cli(view_trace, write_trace(tmp_path / "t.jsonl", [run_row(0, "base")]), "--html", tmp_path / "x.html")
    assert status == 1 and "holds no block" in err and not (tmp_path / "x.html").exists()


def test_one_run_may_have_no_block(cli, tmp_path):
    rows = [run_row(0, "base"), block_row(0, 0, ["a"], 1, "b"), run_row(1, "dpo")]
    file = write_trace(tmp_path / "t.jsonl", rows)
    both = ("--runs", "base", "dpo")
    status, out, err = cli(view_trace, file, *both, "--html", tmp_path / "x.html", "--png", tmp_path / "x.png")
    assert (status, err) == (0, "") and "tokens per pass in 1 block. Block 1" in out and "dpo, no block in 0 blocks" in out
    assert "dpo: 0 blocks; no block\ntext:" in cli(view_trace, file, *both)[1]


def test_unknown_run_and_outputs_that_cannot_be(cli, trace, tmp_path):
    for arguments, what in [
        (("--runs", "sft"), "no run sft. There are: verifier, base, dpo."),
        (("--html", tmp_path), "a folder"),
        (("--html", trace), "it is the input"),
        (("--html", tmp_path / "x", "--png", tmp_path / "x"), "another output"),
        (("--png", "-"), "goes to a file"),
    ]:
        status, out, err = cli(view_trace, trace, *arguments)
        assert (status, out) == (1, "") and what in err and err.count("\n") == 1
    status, _, err = cli(view_trace, tmp_path / "none.jsonl")
    assert status == 1 and "no such file" in err


# --- the page ---------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags with their attributes, and the text outside of script and style."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] not in ("script", "style"):
            self.text += data


def page_of(cli, file: Path, tmp_path: Path) -> Page:
    status, out, err = cli(view_trace, file, "--html", tmp_path / "replay.html")
    assert (status, out, err) == (0, "", "")
    return Page((tmp_path / "replay.html").read_text(encoding="utf-8"))


def test_page_holds_every_block_and_loads_nothing(cli, trace, tmp_path):
    page = page_of(cli, trace, tmp_path)
    assert [tag for tag, attributes in page.tags if attributes.keys() & {"src", "href"}] == []
    assert "<!-- " not in page.text
    assert [attributes["id"] for tag, attributes in page.tags if tag == "h2"] == [
        "block-1",
        "block-2",
        "block-3",
        "end",
        "facts",
    ]
    assert ("html", {"lang": "en"}) in page.tags
    for words in ("rejected", "not tested", "<0.001", "So far: 5 of 7 drafted accepted, 71.4%", "Ended after 2 blocks."):
        assert words in page.text
    spoken = [attributes["data-spoken"] for tag, attributes in page.tags if "data-spoken" in attributes]
    assert (
        spoken[0]
        == 'Block 1 of 3. base: 1 of 3 kept: " The"; instead " reader". dpo: 3 of 3 kept: " The", " best", " one"; free " is".'
    )


def test_page_escapes_what_stands_in_a_trace(cli, trace, tmp_path):
    harmless = page_of(cli, trace, tmp_path)
    evil = page_of(cli, write_trace(tmp_path / "evil.jsonl", EVIL), tmp_path)
    kinds = {tag for tag, _ in harmless.tags}
    assert {tag for tag, _ in evil.tags} <= kinds, "no tag of the trace became one of the page"
    assert [tag for tag, _ in evil.tags].count("script") == 1
    assert not any(name.startswith("on") for _, attributes in evil.tags for name in attributes)
    assert "</script><script>alert(1)</script>" in evil.text and "<!-- steps -->" in evil.text
    assert "\x1b" not in evil.text and "\u202e" not in evil.text


def test_policy_allows_the_page_s_own_script_alone(cli, trace, tmp_path):
    import base64
    import hashlib

    html = view_and_read(cli, trace, tmp_path)
    (script,) = re.findall("<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search('Content-Security-Policy" content="([^"]*)"', html)
    assert policy and policy[1].startswith("default-src 'none'") and f"script-src 'sha256-{digest}'" in policy[1]
    assert "style=" not in html, "the policy would drop it"


def view_and_read(cli, file: Path, tmp_path: Path) -> str:
    page_of(cli, file, tmp_path)
    return (tmp_path / "replay.html").read_text(encoding="utf-8")


def test_page_begins_at_a_block(cli, trace, tmp_path):
    cli(view_trace, trace, "--html", tmp_path / "replay.html", "--block", "2")
    assert '<body data-start="1">' in (tmp_path / "replay.html").read_text(encoding="utf-8")


def luminance(color: str) -> float:
    digits = color if len(color) == 6 else "".join(digit * 2 for digit in color)
    parts = [int(digits[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_have_contrast_in_both_schemes():
    """WCAG 2.2, 1.4.3 and 1.4.11: 4.5 for text, 3 for lines and the focus."""
    frame = (ROOT / "specdec" / "replay.html").read_text(encoding="utf-8")
    schemes = [dict(re.findall(r"--(\w+): #(\w+)", line)) for line in frame.splitlines() if "--ink:" in line]
    assert len(schemes) == 2
    for scheme in schemes:
        light = {name: luminance(color) for name, color in scheme.items()}
        for front, back, least in [
            ("ink", "page", 4.5),
            ("quiet", "page", 4.5),
            ("ink", "mark", 4.5),
            ("line", "page", 3),
            ("focus", "page", 3),
        ]:
            high, low = max(light[front], light[back]), min(light[front], light[back])
            assert (high + 0.05) / (low + 0.05) >= least, (front, back)


# --- the picture ------------------------------------------------------------------------------------------------------


def test_picture_and_its_words(cli, trace, tmp_path, recwarn):
    status, out, err = cli(view_trace, trace, "--png", tmp_path / "new" / "still.png")
    assert (status, err) == (0, "")
    assert (tmp_path / "new" / "still.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert out.startswith('What a verifier kept of drafted tokens, prompt "Which reader?". base, 5 of 7 drafted accepted')
    assert 'Block 2: 3 of 3 kept: " is", " called", " the"' not in out
    assert 'Block 2: 3 of 3 kept: " is", " called", ""; free " NVDA".' in out


def test_picture_shows_the_verdicts_without_colour(trace):
    """Every look differs in filling, hatch or line, and every drafted token is drawn."""
    looks = [tuple(sorted((key, value) for key, value in look.items())) for look in replay.LOOKS.values()]
    assert len(set(looks)) == 4
    assert {look["facecolor"] for look in replay.LOOKS.values()} == {"black", "white"}


def test_picture_takes_any_text(cli, tmp_path, recwarn):
    """Dollar signs are no mathematics; a letter that the font lacks is no message."""
    status, _, err = cli(view_trace, write_trace(tmp_path / "evil.jsonl", EVIL), "--png", tmp_path / "evil.png")
    assert (status, err) == (0, "") and not [warning for warning in recwarn if "Glyph" in str(warning.message)]


# --- keys -------------------------------------------------------------------------------------------------------------


def pressed(*keys: bytes, last: int = 5, at: int = 0) -> Position:
    position = Position(last, at)
    for key in keys:
        position.press(key)
    return position


def test_keys():
    assert pressed(b" ", b"\x1b[C", b"\x1bOC").at == 3
    assert pressed(b"\x1b[D", at=2).at == 1
    assert pressed(b"\x1b[D").at == 0 and pressed(b" ", at=5).at == 5
    assert pressed(b"\x1b[F").at == 5 and pressed(b"\x1b[H", at=4).at == 0
    assert pressed(b"\x1b[B", b"\x1b[B", b"\x1b[A").top == 1 and pressed(b"\x1b[B", b" ").top == 0
    assert pressed(b"+").seconds == 0.5 and pressed(b"-").seconds == 2
    assert pressed(*[b"+"] * 20).seconds == 1 / 16 and pressed(*[b"-"] * 20).seconds == 8
    assert pressed(b"p").playing and not pressed(b"p", b"p").playing and not pressed(b"p", b" ").playing
    assert not pressed(b"p", at=5).playing, "there is nothing left to play"
    assert pressed(b"q").left and not pressed(b"\x1b").left


def test_playing_ends_with_the_last_block():
    position = pressed(b"p", last=2)
    position.go(1)
    assert position.playing
    position.go(1)
    assert position.at == 2 and not position.playing


def test_typed_bytes_become_keys():
    assert view_trace.KEY.findall(b" \x1b[C\x1bOD\x1b[1~q\xc3\xa9") == [b" ", b"\x1b[C", b"\x1bOD", b"\x1b[1~", b"q"]


@pytest.mark.skipif(os.name == "nt", reason="a pseudo-terminal")
def test_in_a_terminal(trace):
    """Space, back and q as typed; the cursor, the first screen and the terminal's modes are given back."""
    import pty
    import termios

    leader, follower = pty.openpty()
    before = termios.tcgetattr(follower)
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    command = [sys.executable, str(ROOT / "view_trace.py"), str(trace)]
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=environment)

    def read_until(words: str) -> str:
        seen, end = "", time.monotonic() + 60
        while words not in seen and time.monotonic() < end:
            if select.select([leader], [], [], 0.2)[0]:
                seen += os.read(leader, 65536).decode("utf-8", "replace")
        assert words in seen, seen
        return seen

    try:
        first = read_until("q quit")
        assert "\x1b[?1049h" in first and "block 1 of 3" in first and "dpo, block 1 of 2" in first
        os.write(leader, b" ")
        read_until("block 2 of 3")
        os.write(leader, b"\x1b[D")
        read_until("block 1 of 3")
        os.write(leader, b"q")
        last = read_until("NVDA<end>")
        assert "\x1b[?1049l" in last and "\x1b[?25h" in last
        assert process.wait(30) == 0
        assert termios.tcgetattr(follower) == before
    finally:
        process.kill()
        os.close(leader)
        os.close(follower)


def test_plain_where_there_is_no_terminal(trace):
    command = (sys.executable, "view_trace.py", str(trace))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    assert "base, block 1 of 3" in done.stdout and "\x1b" not in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="a pseudo-terminal")
def test_plain_where_no_key_can_come(trace):
    """A terminal to read in, but no keyboard: xargs, cron, `< /dev/null`."""
    import pty

    leader, follower = pty.openpty()
    command = (sys.executable, "view_trace.py", str(trace))
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=follower, stderr=subprocess.PIPE, timeout=60)
    os.close(follower)
    assert done.returncode == 0 and b"\x1b" not in os.read(leader, 65536)
    os.close(leader)


def test_works_without_torch_and_without_drawing(trace, tmp_path):
    code = (
        "import sys, view_trace; view_trace.main()\n"
        "print(*sorted({'torch', 'transformers', 'matplotlib'} & sys.modules.keys()), file=sys.stderr)"
    )
    command = (sys.executable, "-c", code, str(trace), "--html", str(tmp_path / "x.html"))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""
