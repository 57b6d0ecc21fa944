"""How far the int8 verifier is from the one that transformers computes, at the positions of stored answers.

One of the two is in memory at a time: the first one's p of every answer waits in a file of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from specdec.alignment import verifier_probs
from specdec.answers import prompt_ids
from specdec.intervals import mean_with_interval
from specdec.models import Pair
from specdec.sampling import Settings
from specdec.terminal import say

if TYPE_CHECKING:
    from torch import Tensor

BOTH = ("transformers", "int8")


def backends_apart(pair: Pair, answers: list[dict], prompted: dict, settings: Settings) -> list[dict]:
    """A row an answer: prompt, positions, overlap Σ min(p_int8, p) and same_likeliest as means over its positions, and nll, by
    backend the mean of −log p of the answer's own tokens, in nats.

    Args:
        answers: rows of an answers file, in which a position's p has 4 bytes a token of the vocabulary on the disk.
        prompted: how their prompts were written, as `specdec.answers.prompted_answers` returns it.
    """
    import torch

    usual, int8 = BOTH
    rows = []
    with TemporaryDirectory() as folder:
        files = [Path(folder) / str(number) for number in range(len(answers))]
        for file, p in zip(files, probs_of(replace(pair, backend=int8), answers, prompted, settings), strict=True):
            torch.save(p, file)
        found = probs_of(replace(pair, backend=usual), answers, prompted, settings)
        for row, file, p in zip(answers, files, found, strict=True):
            rows.append({"prompt": row["prompt"], **apart(torch.load(file, weights_only=True), p.cpu(), row["token_ids"])})
            file.unlink()
    return rows


def probs_of(pair: Pair, answers: list[dict], prompted: dict, settings: Settings) -> Iterator[Tensor]:
    """p [n, V] of one answer after the other; the model goes with the generator."""
    import torch

    from specdec.engine import Engine

    engine = Engine(pair)
    for number, row in enumerate(answers, start=1):
        say(f"{pair.backend}: answer {number} of {len(answers)}")
        prompt, _ = prompt_ids(engine, row, settings, **prompted)
        with torch.inference_mode():
            p = verifier_probs(engine.verifier, prompt, row["token_ids"], settings)
        yield p


def apart(int8: Tensor, usual: Tensor, answer: list[int]) -> dict:
    """One answer's row, without its prompt, from the two distributions [n, V] at its n positions."""
    import torch

    tokens = torch.tensor(answer)[:, None]
    nll = {}
    for name, p in zip(BOTH, (usual, int8), strict=True):
        nll[name] = -float(p.gather(1, tokens).double().clamp(min=1e-30).log().mean())
    same = int8.argmax(-1) == usual.argmax(-1)
    return {
        "positions": len(answer),
        "overlap": float(torch.minimum(int8, usual).sum(-1).double().mean()),
        "same_likeliest": float(same.double().mean()),
        "nll": nll,
    }


def summary(rows: list[dict], seed: int) -> dict:
    """Means over prompts with intervals; perplexity, by backend, is e to the mean nll, and perplexity_ratio that of int8 over
    the other's, prompt by prompt."""
    usual, int8 = BOTH
    found: dict = {"prompts": len(rows), "positions": sum(row["positions"] for row in rows)}
    for metric in ("overlap", "same_likeliest"):
        found[metric] = mean_with_interval([row[metric] for row in rows], seed)
    found["perplexity"] = {name: math.exp(sum(row["nll"][name] for row in rows) / len(rows)) for name in BOTH}
    change = mean_with_interval([row["nll"][int8] - row["nll"][usual] for row in rows], seed)
    interval = change["interval"] and [math.exp(bound) for bound in change["interval"]]
    found["perplexity_ratio"] = {"mean": math.exp(change["mean"]), "interval": interval}
    return found
