"""Models of given shapes, timed: the same modules as a loaded model in NF4 has, and a result that says what it is of."""

import json

import pytest

import specdec.shapes
from specdec.shapes import LENGTHS, random_model
from studies.engine import shapes, tables

TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


def test_linear_layers_alone_are_packed():
    from bitsandbytes.nn import Linear4bit

    model = random_model(TINY, "nf4")
    packed = {name for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    assert len(packed) == 2 * 4 and all(".layers." in name for name in packed)
    assert type(model.get_output_embeddings()).__name__ == "Linear"
    sizes = [model.get_submodule(name).weight.numel() for name in packed]  # two weights share a byte
    assert sum(sizes) * 2 == 2 * (64 * 192 + 64 * 64 + 64 * 256 + 128 * 64)


def test_the_result_says_what_was_timed(cli, monkeypatch, tmp_path):
    tiny = {"draft": TINY, "verifier": {**TINY, "num_key_value_heads": 2}}
    monkeypatch.setattr(shapes, "SHAPES", tiny)
    monkeypatch.setattr(specdec.shapes, "SHAPES", tiny)
    file = tmp_path / "shapes.json"
    status, _, err = cli(shapes, "--repeats", "2", "--context", "80", "--json", str(file))
    assert status == 0, err
    found = json.loads(file.read_text())
    assert found["conditions"]["shapes"]["draft"] == TINY and found["models"].keys() == {"nf4", "none"}
    for pair in found["models"].values():
        for role in ("draft", "verifier"):
            passes = pair[role]["passes"]
            assert set(passes) == {str(length) for length in LENGTHS}
            assert all(0 < one["least"] <= one["median"] <= one["most"] for one in passes.values())


@pytest.mark.parametrize("arguments, words", [(("--context", "71", "--json", "-"), "72 or more"), ((), "--json")])
def test_bad_input(cli, arguments, words):
    status, _, err = cli(shapes, *arguments)
    assert status != 0 and words in err


def timed(**least: float) -> dict:
    return {"passes": {length.removeprefix("n"): {"least": seconds} for length, seconds in least.items()}}


def test_what_a_block_costs():
    """A longer pass that was faster says that the shorter one was disturbed."""
    pair = {"draft": timed(n1=2.0, n2=3.0, n5=3.0, n9=3.0), "verifier": timed(n1=6.0, n2=4.0, n5=5.0, n9=8.0)}
    assert tables.pass_seconds(pair["verifier"], 1) == 4.0 and tables.pass_seconds(pair["verifier"], 3) == 5.0
    assert tables.block_cost(pair, 1) == (2 + 4) / 4 and tables.block_cost(pair, 4) == (4 * 2 + 5) / 4
    assert tables.needed_rate(tables.block_cost(pair, 4), 4) == pytest.approx((13 / 4 - 1) / 4)
