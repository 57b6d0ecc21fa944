"""The larger budgets: their page says what their rows say."""

import json
from pathlib import Path

import pytest

from studies.scale import tables

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def at_the_top(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def changed(monkeypatch, tmp_path):
    """`changed(name, change)`: the report of that name, changed; the page reads it instead of the committed one."""

    def write(name: str, change) -> None:
        report = json.loads((ROOT / getattr(tables, name)).read_text())
        change(report)
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(report))
        monkeypatch.setattr(tables, name, file)

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


def test_the_whole_training_is_set_beside_few_steps_on_their_prompts():
    """120 prompts have the whole training, 32 of them the small ones."""
    few = tables.overlaps_of(tables.RATE_ROWS, "at")
    whole = tables.overlaps_of(tables.FAIR_ROWS, "at")
    changes = [whole[prompt]["dpo"] - whole[prompt]["base"] for prompt in few]
    assert len(few) == 32 < len(whole) and tables.whole_on_the_few()["mean"] == pytest.approx(sum(changes) / 32)


@pytest.mark.parametrize(
    "speeds, said, worth",
    [
        ([1.2, 1.3, 1.25, 1.22], "makes decoding faster", "more text was worth it live too"),
        ([0.8, 0.7, 0.75, 0.72], "makes decoding slower", "it cost speed live"),
        ([0.9, 1.3, 1.0, 1.1], "was not shown to change the speed", "that more text was worth it is not shown"),
    ],
)
def test_live_rows_are_compared_prompt_by_prompt(tmp_path, monkeypatch, speeds, said, worth):
    header = {"run_id": "r", "command": "", "conditions": {"k": 2}, "environment": None}

    def live(name: str, draft: str, speeds: list[float]) -> Path:
        rows: list[dict] = [header]
        for number, speed in enumerate(speeds):
            for who, tokens in (("base", 10), (draft, 10 * speed)):
                rows.append({"prompt": str(number), "domain": "at", "draft": who, "tokens": tokens, "seconds": 2.0})
        file = tmp_path / name
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return file

    earlier = [1.1, 1.2, 1.15, 1.12, 9.9]  # the last one's prompt has no rows of the other draft
    monkeypatch.setattr(tables, "LIVE", live("live.jsonl", "distilled_more", speeds))
    monkeypatch.setattr(tables, "STUDY2_LIVE", live("earlier.jsonl", "distilled", earlier))
    _, found, more = tables.live_change()
    assert found["mean"] == pytest.approx(sum(speeds) / 4) and found["prompts"] == more["prompts"] == 4
    assert more["mean"] == pytest.approx(sum(speeds) / 4 - sum(earlier[:4]) / 4)
    assert said in tables.live() and worth in tables.live()
    assert f"{sum(speeds) / 4:.3f}" in tables.live_in_short()


@pytest.mark.parametrize(
    "low, high, said",
    [(-0.02, -0.01, "hides part of the fall"), (0.01, 0.02, "does not hide it"), (-0.01, 0.01, "was not shown to hide any")],
)
def test_the_rank_is_read_as_the_interval_between_the_two_says(monkeypatch, low, high, said):
    monkeypatch.setattr(tables, "difference", lambda *_: {"mean": (low + high) / 2, "interval": [low, high]})
    assert f"study 0's rank {said}" in tables.rank()


def test_margins_stand_in_order_and_all_on_the_same_prompts():
    found = tables.driven()
    margins = [tables.margin(metrics) for metrics, _ in found]
    assert margins == sorted(margins) and {change["prompts"] for _, change in found} == {32}
    assert {tables.base_draft(metrics) for metrics, _ in found} == {"Qwen2.5-Coder-0.5B-Instruct", "SmolLM2-135M-Instruct"}
    assert len(tables.margins().splitlines()) == len(found) + 4 and len(found) > 5
