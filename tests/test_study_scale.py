"""The larger budgets: their page says what their rows say."""

import json
from pathlib import Path

import pytest

from studies.engine.tables import needed_overlap
from studies.scale import tables

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def changed(monkeypatch, tmp_path):
    """`changed(name, change)`: the report of that name, changed; the page reads it in the place of the committed one."""

    def write(name: str, change) -> None:
        report = json.loads((ROOT / getattr(tables, name)).read_text())
        change(report)
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(report))
        monkeypatch.setattr(tables, name, file)

    monkeypatch.chdir(ROOT)
    return write


@pytest.mark.parametrize("low, high, verb", [(-0.02, -0.01, "lowered"), (0.01, 0.02, "raised"), (-0.1, 0.1, "did not")])
def test_the_whole_training_is_read_as_its_interval_says(changed, low, high, verb):
    def change(report):
        report["paired"]["at"]["changes"]["dpo"]["interval"] = [low, high]

    changed("FAIR", change)
    assert f"DPO {verb}" in tables.fair_in_words()


def test_what_the_rate_did_follows_the_rule(changed, monkeypatch):
    """`none` and `all` need other rows than ours, which say `part`."""
    assert "the rate did part of it" in tables.rates_in_words()

    def unhurt(report):
        report["paired"]["at"]["changes"]["dpo_5e-5"]["interval"] = [-0.001, 0.001]

    changed("RATES", unhurt)
    assert "the rate did all of it" in tables.rates_in_words()
    monkeypatch.setattr(tables, "difference", lambda *_: {"mean": 0.0, "interval": [-0.01, 0.01]})
    assert "the rate did none of it" in tables.rates_in_words()


def test_live_rows_are_compared_prompt_by_prompt(tmp_path, monkeypatch):
    header = {"run_id": "r", "command": "", "conditions": {"k": 2}, "environment": None}

    def live(name: str, draft: str, speeds: list[float]) -> Path:
        rows: list[dict] = [header]
        for number, speed in enumerate(speeds):
            for who, tokens in (("base", 10), (draft, 10 * speed)):
                rows.append({"prompt": str(number), "draft": who, "tokens": tokens, "seconds": 2.0})
        file = tmp_path / name
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return file

    monkeypatch.setattr(tables, "LIVE", live("live.jsonl", "distilled_more", [1.2, 1.3, 1.25, 1.22]))
    monkeypatch.setattr(tables, "STUDY2_LIVE", live("earlier.jsonl", "distilled", [1.1, 1.2, 1.15, 1.12]))
    _, found, more = tables.live_change()
    assert found["mean"] == pytest.approx(1.2425) and found["prompts"] == 4 and more["mean"] == pytest.approx(0.1)
    assert "makes decoding faster" in tables.live() and "it was worth it live too" in tables.live()
    assert "1.243" in tables.live_in_short() or "1.242" in tables.live_in_short()


@pytest.mark.parametrize("cost, k, overlap", [(1.5, 1, 0.5), (1.75, 2, 0.5), (3.0, 2, 1.0), (3.1, 2, None), (1.0, 4, 0.0)])
def test_the_overlap_from_which_a_block_pays(cost, k, overlap):
    found = needed_overlap(cost, k)
    assert found is None if overlap is None else found == pytest.approx(overlap, abs=1e-6)
