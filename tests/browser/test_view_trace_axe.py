"""The page of view_trace.py in a real browser: axe finds nothing, the keys work, nothing is loaded.

Outside CI: runs where there are node, a chromium (Debian: `apt-get install chromium`) and, once, in this folder

    npm install --no-package-lock        # axe-core and puppeteer-core, which brings no browser of its own

Then `python -m pytest tests/browser`. Screenshots at 1280 and 320 pixels, light and dark, are left in pytest's tmp_path.
"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from traces import COMPARED, EVIL, write_trace

import view_trace

HERE = Path(__file__).resolve().parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
READY = CHROMIUM and shutil.which("node") and (HERE / "node_modules" / "axe-core").is_dir()
pytestmark = pytest.mark.skipif(not READY, reason="needs node, chromium and `npm install` in tests/browser")


@pytest.fixture
def drive(cli, tmp_path):
    """`drive(rows)` → what drive.mjs saw on the page of a trace of these rows."""

    def call(rows: list[dict]) -> dict:
        page = tmp_path / "replay.html"
        status, _, err = cli(view_trace, write_trace(tmp_path / "trace.jsonl", rows), "--html", page)
        assert status == 0, err
        command = ("node", str(HERE / "drive.mjs"), str(CHROMIUM), str(page), str(tmp_path))
        done = subprocess.run(command, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return call


def assert_accessible(seen: dict) -> None:
    assert len(seen["checks"]) == 8
    for check in seen["checks"]:
        assert check["found"] == [] and check["unsure"] == [], check
        assert check["passed"] > 20, "axe looked at the page"
        assert check["wide"] <= check["width"], "nothing is cut off, or needs scrolling sideways"
    assert seen["messages"] == []
    assert {url.partition(":")[0] for url in seen["requests"]} == {"file"}


def test_accessible_and_operable_by_keys(drive):
    seen = drive(COMPARED)
    assert_accessible(seen)
    keys = seen["keys"]
    first, second, third = (f"Block {number} of 3" for number in (1, 2, 3))
    assert keys["start"] == [first]
    assert keys["space"][0] == [second] and keys["space"][1].startswith("Block 2 of 3. base: 3 of 3 kept")
    assert keys["right"] == keys["end"] == [third] and keys["left"] == [second]
    assert keys["order"] == ["first", "back", "next", "last", "play", "speed", "all", "keys", "BODY"], "and out again: no trap"
    assert keys["outline"] == "solid"
    assert keys["first"] == [[first], "first", "true"], "Space presses the button that has the focus, which keeps it"
    assert keys["enter"] == [second]
    assert keys["off"] == [second], "keys that are switched off do nothing"
    assert keys["faster"] == ["500", "2 blocks a second."]
    assert keys["playing"] == "Pause"
    assert keys["played"][0] == [third] and keys["played"][1].startswith("Block 3 of 3.") and keys["played"][2] == "Play"
    assert keys["moving"] == 0
    assert keys["withoutScript"] == [[first, second, third], "none"]


def test_text_that_attacks_the_page(drive):
    assert_accessible(drive(EVIL))
