"""Study 2's smaller tests: each is read by the rule that its page fixed."""

import json
from pathlib import Path

import pytest

from studies.distillation import small_tests

BASE = {"prompt a": 0.5, "prompt b": 0.6, "prompt c": 0.55}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """`results(overlaps, **settings)`: rows, report and trainings of drafts, each given as what it adds to every prompt."""
    monkeypatch.setattr(small_tests, "ROWS", tmp_path / "paired.jsonl")
    monkeypatch.setattr(small_tests, "REPORT", tmp_path / "acceptance.json")
    monkeypatch.setattr(small_tests, "TAKEN_BACK", tmp_path / "dpo_of_distilled")
    monkeypatch.setattr(small_tests, "OF_BASE", tmp_path / "of_base.json")

    def write(gains: dict[str, list[float]], held_out: dict[str, float] | None = None) -> None:
        rows = []
        gains = {"tvdpp_position": [0.05] * 3, "seed_43": [0.049] * 3, **gains}  # .001 between the two random seeds
        for number, (prompt, base) in enumerate(BASE.items()):
            found = {draft: base + gain[number] for draft, gain in gains.items()}
            rows.append(json.dumps({"prompt": prompt, "domain": "at", "overlap": {"base": base, **found}}))
        small_tests.ROWS.write_text("\n".join(rows) + "\n")
        drafts, changes = {}, {}
        for draft, gain in gains.items():
            folder = tmp_path / (draft if draft not in ("rank_16", "all_weights") else f"{draft}_1e-3")
            folder.mkdir(exist_ok=True)
            drafts[draft] = {"path": str(folder), "answers": 64}
            changes[draft] = {"mean": sum(gain) / 3, "interval": [min(gain) - 0.001, max(gain) + 0.001]}
            training(folder, (held_out or {}).get(draft, 0.6), 1e-3)
        group = {"prompts": 3, "changes": changes}
        small_tests.REPORT.write_text(json.dumps({"drafts": drafts, "paired": {"at": group}}))

    return write


def training(folder: Path, held_out: float, rate: float) -> None:
    folder.mkdir(exist_ok=True)
    metrics = {
        "settings": {"learning_rate": rate},
        "held_out_overlap": {"after": held_out},
        "seconds": 240,
        "environment": None,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))


def about(gain: float) -> list[float]:
    return [gain - 0.0001, gain, gain + 0.0002]


@pytest.mark.parametrize(
    "rank_16, rank_256, all_weights, said",
    [
        (0.01, 0.06, 0.05, "Capacity binds at this budget: rank 256; rank 16 is too small."),
        (0.05, 0.06, 0.07, "Capacity binds at this budget: rank 256 and all weights; rank 16 is not shown to be too small."),
        (0.0495, 0.0505, 0.05, "Capacity does not bind at this budget; rank 16 is not shown"),  # less than the random seed does
        (0.06, 0.04, 0.05, "Capacity does not bind at this budget; rank 16 is not shown to be too small."),
    ],
)
def test_capacity_follows_the_rule(results, rank_16, rank_256, all_weights, said):
    results({"rank_16": about(rank_16), "rank_256": about(rank_256), "all_weights": about(all_weights)})
    assert said in small_tests.capacity_in_words()


def test_every_rate_stands_in_the_table_and_what_was_measured_of_it(results, tmp_path):
    results({"rank_16": about(0.04), "rank_256": about(0.06), "all_weights": about(0.03)})
    training(tmp_path / "rank_16_3e-3", 0.59, 3e-3)
    lines = small_tests.capacity().splitlines()
    assert [line.split(" | ")[:2] for line in lines[2:7]] == [
        ["| rank 16", "1e-3"],
        ["| rank 16", "3e-3"],
        ["| rank 128", "1e-3"],
        ["| rank 256", "1e-3"],
        ["| all weights", "1e-3"],
    ]
    assert lines[3].endswith("| 0.5900 | – | – | – |") and "+0.0400" in lines[2]


@pytest.mark.parametrize("mixed, said", [(0.06, "is worth its time"), (0.02, "is not worth its time"), (0.05, "is not worth")])
def test_mixed_text_is_worth_its_time_only_above_the_verifiers_alone(results, mixed, said):
    results(
        {"tvdpp_position_32": about(0.05), "tvdpp_position_32_online": [0.01] * 3, "mixed_32": [mixed, mixed, mixed + 0.0002]}
    )
    assert said in small_tests.mixed_in_words()


def dpo_of_distilled(low: float, high: float) -> None:
    """The report of DPO of the distilled draft, with this interval, and that of the base draft."""
    change = {"mean": (low + high) / 2, "interval": [low, high]}
    group = {"prompts": 3, "changes": {"dpo": change}, "means": {"base": 0.6, "dpo": 0.6 + change["mean"]}}
    small_tests.TAKEN_BACK.mkdir()
    (small_tests.TAKEN_BACK / "acceptance.json").write_text(json.dumps({"paired": {"at": group}}))
    of_base = {"dpo": {"mean": -0.004, "interval": [-0.006, -0.002]}}
    small_tests.OF_BASE.write_text(json.dumps({"paired": {"at": {"changes": of_base}}}))


@pytest.mark.parametrize(
    "after, costs", [(0.01, "costs some"), (0.06, "was not shown to cost"), (0.0395, "was not shown to cost")]
)
@pytest.mark.parametrize("low, high, back", [(-0.02, -0.01, "takes some"), (-0.01, 0.01, "was not shown to take any")])
def test_both_orders(results, after, costs, low, high, back):
    results({"after_dpo": about(after), "rank_16_1e-3": [0.04] * 3, "dpo": about(-0.01)})
    dpo_of_distilled(low, high)
    found = small_tests.order_in_words()
    assert f"DPO {costs}" in found and f"DPO after distillation {back}" in found and "-0.0040 (-0.0060 to -0.0020)" in found
    assert f"{after + 0.01:+.4f}" in found, "against the adapter that it started from"


def test_another_random_seed(results):
    results({"seed_43": about(0.048)})
    found = small_tests.seed_in_words()
    assert "gives +0.0480" in found and "first, -0.0020 (" in found


def test_what_is_not_measured_is_missing(results):
    results({})
    with pytest.raises(FileNotFoundError):
        small_tests.mixed_in_words()
