"""OpenVINO GenAI on a GGUF file, without a draft, whose file it would not read (`pip install -r requirements-peers.txt`).

No torch here, as in `specdec.llama_cpp`.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from specdec.terminal import Problem


def is_installed() -> bool:
    return find_spec("openvino_genai") is not None


def installed_version() -> str:
    return version("openvino-genai")


def load(file: Path, threads: int):
    """OpenVINO's graph of the model in `file`, compiled for this CPU.

    Raises:
        Problem: it does not read this kind of file.
    """
    import openvino_genai

    try:
        return openvino_genai.LLMPipeline(str(file), "CPU", INFERENCE_NUM_THREADS=threads)
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[-1].strip()
        raise Problem(f"OpenVINO GenAI {installed_version()} does not read {file.name}: {reason}") from None


def complete(pipeline, ids: list[int], max_new_tokens: int, temperature: float, seed: int) -> dict:
    """Samples a text after the tokens `ids`, from the distribution that our loop samples from.

    Returns:
        What `llama_cpp.complete` returns.
    """
    import numpy
    import openvino
    import openvino_genai

    config = openvino_genai.GenerationConfig()
    config.max_new_tokens, config.do_sample, config.temperature, config.rng_seed = max_new_tokens, True, temperature, seed
    config.top_p, config.top_k = 1.0, 0  # all tokens
    started = time.perf_counter()
    found = pipeline.generate(openvino.Tensor(numpy.array([ids], dtype=numpy.int64)), config)
    seconds, count = time.perf_counter() - started, len(found.tokens[0])
    first = found.perf_metrics.get_ttft().mean / 1000
    return {
        "tokens": count,
        "seconds": seconds,
        "tokens_per_second": count / seconds,
        "first_token_seconds": first,
        "drafted": None,
        "accepted": None,
        "prompt_seconds": first,
        "token_seconds": found.perf_metrics.get_tpot().mean / 1000,
    }
