"""The way by an API against a real OpenAI-compatible server: llama.cpp's, on loopback, with SmolLM2's GGUF file.

Outside CI: runs where requirements-peers.txt is installed (llama.cpp in prebuilt wheels, with its server).
"""

import pytest

import data_generation
from specdec import models, weights
from specdec.files import read_jsonl

xllamacpp = pytest.importorskip("xllamacpp")


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(tmp_path / "cache"))
    params = xllamacpp.CommonParams()
    params.model.path = str(weights.fetch_gguf(models.SMOLLM2.gguf))
    params.n_ctx = 4096  # listens on a free port of 127.0.0.1
    params.n_parallel, params.cpuparams.n_threads = 1, 2
    running = xllamacpp.Server(params)
    yield running.listening_address
    del running


def test_pairs_from_a_real_server(cli, server, tmp_path):
    """A structured answer arrives, is written row by row, and a second run asks for what is missing alone."""
    raw = tmp_path / "raw.jsonl"
    options = ("--output", raw, "--base-url", f"{server}/v1", "--model", "smollm2", "--concurrency", 2)
    status, _, err = cli(data_generation, "--rows", 2, *options)
    while status == 1 and "no pair" in err:  # a small model may run out of tokens inside its JSON; the row stays open
        status, _, err = cli(data_generation, "--rows", 2, "--temperature", 0.3, *options)
    assert status == 0 and "completion tokens" in err
    rows = list(read_jsonl(raw, required=("prompt", "chosen", "rejected")))
    assert sorted(row["id"] for row in rows) == ["at-0001", "at-0002"]
    assert "asking smollm2 for 1" in cli(data_generation, "--rows", 3, *options)[2]
